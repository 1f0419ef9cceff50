"""What a report tells of learning curves, sweeps over the size of an attack, and certificates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustmarl._checks import check, check_kind
from robustmarl.evaluation.certified import Certificates
from robustmarl.evaluation.curves import Curve
from robustmarl.evaluation.plots import on_common_steps
from robustmarl.evaluation.statistics import t_band
from robustmarl.evaluation.sweep import Sweep
from robustmarl.training import History

__all__ = ["ChartData", "Curves", "GroupData", "LineData", "learning", "sizes"]

Seed: TypeAlias = History | tuple[ArrayLike, ArrayLike]

Curves: TypeAlias = Mapping[str, History | Sequence[Seed]]
"""Label to one history per training seed, or to one (x, y) of arrays (P,)."""

_MOST_POINTS = 400  # of a line: more cannot be told apart


class LineData(TypedDict):
    """A curve, with its interval where it has one."""

    label: str
    x: list[float]
    mean: list[float]
    low: list[float | None]
    high: list[float | None]
    seeds: list[list[float]]
    count: str
    colour: int | None
    dashed: bool
    dotted: int | None
    marked: bool


class ChartData(TypedDict):
    """Curves on common axes."""

    title: str
    xlabel: str
    share: bool
    lines: list[LineData]


class GroupData(TypedDict):
    """Charts with one legend."""

    title: str
    notes: list[str]
    charts: list[ChartData]


def learning(curves: Curves) -> GroupData:
    """Return a chart for every figure that is known of all labels' seeds."""
    rule = "a mapping from labels to a History, or one per training seed"
    check_kind("report.curves", curves, Mapping, rule)
    check(len(curves) > 0, "report.curves", "non-empty", curves)
    by_label = {label: _by_seed(label, seeds) for label, seeds in curves.items()}
    charts = []
    for name in _figures(by_label):
        lines = [
            _learning_line(label, number, name, seeds)
            for number, (label, seeds) in enumerate(by_label.items())
        ]
        is_return = name.rpartition("/")[2] == "return"  # also a test's, "none/return"
        share = not is_return and all(_within(line["mean"], *line["seeds"]) for line in lines)
        if share:
            lines = [_cut(line) for line in lines]
        charts.append(ChartData(title=name, xlabel="environment steps", share=share, lines=lines))
    note = "Bands are Student's 95 % intervals over training seeds, point by point."
    several = any(len(seeds) > 1 for seeds in by_label.values())
    return {"title": "Learning curves", "notes": [note] if several else [], "charts": charts}


def sizes(found: Sequence[Sweep | Certificates]) -> list[GroupData]:
    """Return a group of charts per sweep over sizes."""
    return [_swept(one) if isinstance(one, Sweep) else _certified(one) for one in found]


def _by_seed(label: str, given: History | Sequence[Seed]) -> list[Seed]:
    """Return one per training seed."""
    where = f"report.curves[{label!r}]"
    seeds = [given] if isinstance(given, History) else given
    check_kind(where, seeds, Sequence, "a History, or a sequence of one per training seed")
    check(len(seeds) > 0, where, "at least one training seed", seeds)
    return list(seeds)


def _figures(by_label: Mapping[str, Sequence[Seed]]) -> list[str]:
    """Return the figures that all histories have; arrays do not tell what they are of."""
    names: list[list[str]] = []
    for seeds in by_label.values():
        names += [_known(seed) if isinstance(seed, History) else ["score"] for seed in seeds]
    common = [name for name in names[0] if all(name in others for others in names)]
    check(len(common) > 0, "report.curves", "histories with a figure in common", names)
    return common


def _known(history: History) -> list[str]:
    """Return the figures of which a history knows anything."""
    return [name for name in (*history.train, *history.tests) if len(history.curve(name)[0])]


def _learning_line(label: str, number: int, name: str, seeds: Sequence[Seed]) -> LineData:
    pairs = [seed.curve(name) if isinstance(seed, History) else seed for seed in seeds]
    x, y = on_common_steps(f"report.curves[{label!r}]", pairs)
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), _MOST_POINTS)).round().astype(int))
    x, y = x[kept], y[:, kept]
    band = t_band(y) if len(y) > 1 else np.full((2, len(x)), np.nan)
    return {
        "label": label,
        "x": x.tolist(),
        "mean": y.mean(axis=0).tolist(),
        "low": _finite(band[0]),
        "high": _finite(band[1]),
        "seeds": y.tolist() if len(y) > 1 else [],
        "count": f"{len(y)} training seed{'s' if len(y) > 1 else ''}",
        "colour": number,
        "dashed": False,
        "dotted": None,
        "marked": False,
    }


def _within(*curves: Sequence[float]) -> bool:
    """Return whether all values of curves are in [0, 1]."""
    return all(0.0 <= y <= 1.0 for curve in curves for y in curve)


def _cut(line: LineData) -> LineData:
    """Return a line of shares with its band within [0, 1]."""
    low, high = (
        [None if end is None else min(max(end, 0.0), 1.0) for end in line[which]]
        for which in ("low", "high")
    )
    return {**line, "low": low, "high": high}


def _swept(sweep: Sweep) -> GroupData:
    return {
        "title": sweep.scores.title or "Over the size of the attack",
        "notes": [sweep.scores.footer],
        "charts": [_chart(name, curves) for name, curves in sweep.panels().items()],
    }


def _certified(certificates: Certificates) -> GroupData:
    footer = certificates.proven.footer
    title = certificates.proven.title
    return {
        "title": f"{title}: what is proven" if title else "What is proven",
        "notes": ["No attack gets below what is proven.", footer],
        "charts": [_chart(name, curves) for name, curves in certificates.panels().items()],
    }


def _chart(name: str, curves: Mapping[str, Curve]) -> ChartData:
    lines: list[LineData] = []
    colours: dict[str, int | None] = {}
    baselines = [label for label, curve in curves.items() if curve.baseline]
    for label, curve in curves.items():
        if curve.baseline:
            colours[label] = None
        elif curve.like is not None and curve.like in colours:
            colours[label] = colours[curve.like]
        else:
            colours[label] = len({colour for colour in colours.values() if colour is not None})
        seeds = {estimate.n_seeds for estimate in curve.estimates}
        episodes = {estimate.n_episodes for estimate in curve.estimates}
        lines.append(
            {
                "label": label,
                "x": [float(x) for x in curve.x],
                "mean": [estimate.mean for estimate in curve.estimates],
                "low": _finite([estimate.low for estimate in curve.estimates]),
                "high": _finite([estimate.high for estimate in curve.estimates]),
                "seeds": [],
                "count": f"training seeds: {_range(seeds)}, episodes: {_range(episodes)}",
                "colour": colours[label],
                "dashed": curve.dashed,
                "dotted": baselines.index(label) if curve.baseline else None,
                "marked": not curve.baseline,
            }
        )
    share = all(_within(line["mean"]) for line in lines)
    return {"title": name, "xlabel": "epsilon", "share": share, "lines": lines}


def _range(numbers: set[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"


def _finite(values: Sequence[float] | NDArray[np.float64]) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values]
