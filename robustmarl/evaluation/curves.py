"""Figures over the size of an attack, and over the coordinates that it moves."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from robustmarl._checks import check
from robustmarl.evaluation.plots import COLOURS, DPI, INK, label_axes, saved
from robustmarl.evaluation.statistics import Estimate

__all__ = ["Curve", "feature_bars", "size_curves"]

_GREY, _DOTS = "#777777", (":", "-.", (0, (1, 4)))  # of baselines


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Estimates along sizes.

    Attributes:
        x: sizes, (P,).
        estimates: one per size.
        baseline: whether it is of a team that was never trained: drawn in grey.
        dashed: whether it is drawn dashed.
        like: the label of another curve whose colour it takes; None is one of its own.

    Example:
        >>> from robustmarl.evaluation import interval
        >>> clean, attacked = {0: [1, 1, 1, 0], 1: [1, 1, 1, 1]}, {0: [0, 0, 1, 0], 1: [0, 1, 0, 0]}
        >>> curve = Curve(x=[0.0, 0.1], estimates=[interval(clean), interval(attacked)])
        >>> [estimate.mean for estimate in curve.estimates]
        [0.875, 0.25]
    """

    x: Sequence[float]
    estimates: Sequence[Estimate]
    baseline: bool = False
    dashed: bool = False
    like: str | None = None


def size_curves(
    panels: Mapping[str, Mapping[str, Curve]],
    path: str | Path | None = None,
    *,
    xlabel: str = "epsilon",
    ylabel: str | None = None,
    bars: bool = False,
    title: str = "",
) -> Figure:
    """Return curves with their intervals, a panel per figure, and one legend.

    Intervals without end are left out, and those of baselines.

    Args:
        panels: what y is, to label and curve. A label has one colour in all panels.
        path: where to write it; the ending chooses the format (png, pdf, svg).
        xlabel: what x is.
        ylabel: what y is, where names of panels are titles; None: they are what y is.
        bars: draw intervals as bars side by side, where bands would cover each other.
        title: above all.

    Raises:
        ValueError: if there is no panel, or one without a curve.

    Example:
        >>> from robustmarl.evaluation import interval
        >>> clean, attacked = {0: [1, 1, 1, 0], 1: [1, 1, 1, 1]}, {0: [0, 0, 1, 0], 1: [0, 1, 0, 0]}
        >>> curve = Curve(x=[0.0, 0.1], estimates=[interval(clean), interval(attacked)])
        >>> size_curves({"success": {"QMIX": curve}}, "sizes.png").axes[0].get_xlabel()
        'epsilon'
    """
    check(len(panels) > 0, "size_curves.panels", "non-empty", panels)
    figure = Figure(figsize=(3.9 * len(panels) + 0.5, 3.6), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    labels = tuple(dict.fromkeys(label for curves in panels.values() for label in curves))
    colours = _colours(panels)
    baselines = [label for label in labels if colours[label] == _GREY]
    handles: dict[str, Artist] = {}
    for number, (name, curves) in enumerate(panels.items()):
        check(len(curves) > 0, f"size_curves.panels[{name!r}]", "non-empty", curves)
        axes = figure.add_subplot(1, len(panels), number + 1)
        widest = max(max(curve.x) - min(curve.x) for curve in curves.values())
        several = [label for label, curve in curves.items() if not curve.baseline]
        for label, curve in curves.items():
            x = np.asarray(curve.x, dtype=np.float64)
            y, low, high = (
                np.array([getattr(estimate, end) for estimate in curve.estimates])
                for end in ("mean", "low", "high")
            )
            colour = colours[label]
            where = np.isfinite(low) & np.isfinite(high) & (not curve.baseline)
            if bars and label in several:
                x = x + 0.012 * widest * (several.index(label) - (len(several) - 1) / 2)
                axes.vlines(x[where], low[where], high[where], color=colour, linewidth=1.2)
            elif where.any():
                axes.fill_between(x, low, high, where=where, color=colour, alpha=0.16, linewidth=0)
            style: str | tuple[int, tuple[int, int]] = "--" if curve.dashed else "-"
            if curve.baseline:
                style = _DOTS[baselines.index(label) % len(_DOTS)]
            marker = "" if curve.baseline else "o"
            (line,) = axes.plot(x, y, ls=style, color=colour, marker=marker, markersize=4)
            handles.setdefault(label, line)
        named = (name, ylabel) if ylabel is not None else ("", name)
        label_axes(axes, named[0], xlabel, textwrap.fill(named[1], 30))
        shares = [e for curve in curves.values() for e in curve.estimates]
        if all(0.0 <= e.mean <= 1.0 for e in shares):
            axes.set_ylim(-0.03, 1.03)
    longest = max(len(label) for label in labels)
    figure.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside lower center",
        ncols=max(1, min(len(labels), int(13 * figure.get_figwidth() / (longest + 7)))),
        frameon=False,
        fontsize=9,
    )
    if title:
        wrapped = textwrap.fill(title, int(11 * figure.get_figwidth()))
        figure.suptitle(wrapped, fontsize=12, color=INK)
    return saved("size_curves.path", figure, path)


def feature_bars(
    shares: Mapping[str, NDArray[np.float64]],
    path: str | Path | None = None,
    *,
    names: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Return bars of how far each coordinate is moved, a panel per victim.

    Args:
        shares: victim to mean change as a share of epsilon, (D,).
        path: where to write it; the ending chooses the format (png, pdf, svg).
        names: of the coordinates, (D,); None numbers them.
        title: above all.

    Raises:
        ValueError: if there is no victim, or another number of names than of coordinates.

    Example:
        >>> shares = {"QMIX": np.array([0.1, 0.9])}  # of epsilon, per coordinate
        >>> figure = feature_bars(shares, names=["own health", "enemy's distance"])
        >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
        ['own health', "enemy's distance"]
    """
    check(len(shares) > 0, "feature_bars.shares", "non-empty", shares)
    size = len(next(iter(shares.values())))
    texts = [str(index) for index in range(size)] if names is None else list(names)
    check(len(texts) == size, "feature_bars.names", f"{size} names", f"{len(texts)}")
    figsize = (1.6 + 2.4 * len(shares), 1.1 + 0.2 * size)
    figure = Figure(figsize=figsize, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    places = np.arange(size)
    for number, (victim, values) in enumerate(shares.items()):
        axes = figure.add_subplot(1, len(shares), number + 1)
        axes.barh(places, values, height=0.75, color=COLOURS[number % len(COLOURS)])
        label_axes(axes, victim, "mean change / epsilon", "")
        axes.set(xlim=(0.0, 1.0), ylim=(size - 0.4, -0.6))
        axes.set_yticks(places, texts if number == 0 else [""] * size, fontsize=7)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
    if title:
        wrapped = textwrap.fill(title, int(11 * figure.get_figwidth()))
        figure.suptitle(wrapped, fontsize=12, color=INK)
    return saved("feature_bars.path", figure, path)


def _colours(panels: Mapping[str, Mapping[str, Curve]]) -> dict[str, str]:
    found: dict[str, str] = {}
    own = 0
    for curves in panels.values():
        for label, curve in curves.items():
            if label in found:
                continue
            if curve.baseline:
                found[label] = _GREY
            elif curve.like in found and curve.like is not None:
                found[label] = found[curve.like]
            else:
                found[label], own = COLOURS[own % len(COLOURS)], own + 1
    return found
