"""The cross table: how every victim does under every attack."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustmarl._checks import (
    check,
    check_choice,
    check_index,
    check_kind,
    check_names,
    check_number,
    check_path,
    check_text,
    speaking_for,
)
from robustmarl.evaluation.plots import heatmap
from robustmarl.evaluation.statistics import Estimate, bootstrap

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

__all__ = ["Cell", "CrossTable"]

_CSV = ("victim", "attack", "baseline", "metric", "mean", "low", "high", "seeds", "episodes")


class Cell:
    """Scores of one victim under one attack.

    Args:
        scores: per training seed the episodes' scores, (M,).
        level: nominal coverage of the interval, in (0, 1).

    Raises:
        ValueError: if there is no seed, a seed without episodes, or a score that is not finite.
    """

    def __init__(self, scores: Mapping[int, ArrayLike], *, level: float = 0.95) -> None:
        rule = "a mapping from training seeds to scores"
        check_kind("Cell.scores", scores, Mapping, rule)
        self.level = check_number("Cell.level", level, 0.0, 1.0)
        with speaking_for("Cell", bootstrap):
            bootstrap(list(scores.values()), level=self.level, resamples=1)  # refuses bad ones
        self.scores: dict[int, NDArray[np.float64]] = {
            check_index("Cell.scores", seed): np.array(values, dtype=np.float64)
            for seed, values in scores.items()
        }

    @cached_property
    def estimate(self) -> Estimate:
        """The mean over seeds with its bootstrap interval."""
        return bootstrap(self.scores, level=self.level)

    def __repr__(self) -> str:
        sizes = {seed: len(values) for seed, values in self.scores.items()}
        return f"Cell({self.estimate}, episodes={sizes})"

    def __eq__(self, other: object) -> bool:
        """Return whether raw scores and level are the same."""
        if not isinstance(other, Cell):
            return NotImplemented
        same_seeds = self.scores.keys() == other.scores.keys() and self.level == other.level
        return same_seeds and all(
            np.array_equal(values, other.scores[seed]) for seed, values in self.scores.items()
        )

    __hash__ = None  # type: ignore[assignment]  # holds arrays


@dataclass(kw_only=True)
class CrossTable:
    """Victims (rows) against attacks (columns), with raw scores.

    Args:
        cells: victim to attack to cell; the order given is the order shown. A cell may be
            missing, where an attack has nothing to attack.
        metric: what the scores are, e.g. ``"return"`` or ``"success"``.
        baselines: victims that were never trained, such as ``random`` and ``untrained``.
        title: printed above the table; empty for none.

    Raises:
        ValueError: if there is no cell at all, or ``baselines`` names an unknown victim.

    Example:
        >>> table = CrossTable(metric="success", cells={"QMIX": {"none": Cell({0: [1.0, 1.0]})}})
        >>> table.mean("QMIX", "none")
        1.0
    """

    cells: Mapping[str, Mapping[str, Cell]]
    metric: str = "return"
    baselines: Sequence[str] = ()
    title: str = ""
    victims: tuple[str, ...] = field(init=False)
    attacks: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        rule = "a mapping from victims to mappings from attacks to Cells"
        check_kind("CrossTable.cells", self.cells, Mapping, rule)
        for row in self.cells.values():
            check_kind("CrossTable.cells", row, Mapping, rule)
            for cell in row.values():
                check_kind("CrossTable.cells", cell, Cell, rule)
        self.metric = check_text("CrossTable.metric", self.metric)
        self.title = check_text("CrossTable.title", self.title)
        self.cells = {victim: dict(row) for victim, row in self.cells.items()}
        self.victims = tuple(self.cells)
        self.attacks = tuple(dict.fromkeys(a for row in self.cells.values() for a in row))
        some = len(self.attacks) > 0
        check(some, "CrossTable.cells", "given at least one cell", self.cells)
        self.baselines = check_names("CrossTable.baselines", self.baselines, self.victims)

    def cell(self, victim: str, attack: str) -> Cell:
        """Return one cell.

        Raises:
            ValueError: if the table has no such victim, attack, or cell.
        """
        check_choice("CrossTable.cell.victim", victim, self.victims)
        check_choice("CrossTable.cell.attack", attack, self.attacks)
        check_choice(f"CrossTable.cell.attack of {victim!r}", attack, tuple(self.cells[victim]))
        return self.cells[victim][attack]

    def mean(self, victim: str, attack: str) -> float:
        """Return the mean of one cell, seeds weighing the same."""
        return self.cell(victim, attack).estimate.mean

    def is_baseline(self, victim: str) -> bool:
        """Return whether a row was never trained."""
        return victim in self.baselines

    @property
    def footer(self) -> str:
        """How much stands behind the figures, in one line."""
        estimates = [cell.estimate for row in self.cells.values() for cell in row.values()]
        per_seed = [
            len(values)
            for row in self.cells.values()
            for cell in row.values()
            for values in cell.scores.values()
        ]
        seeds = _count([e.n_seeds for e in estimates], "seed")
        episodes = _count(per_seed, "episode")
        levels = " / ".join(f"{100 * level:g}" for level in sorted({e.level for e in estimates}))
        methods = "; ".join(dict.fromkeys(e.method for e in estimates))
        return f"{self.metric}: {seeds} x {episodes}, {levels} % intervals by {methods}"

    def __str__(self) -> str:
        """Return an aligned text table; a rule separates baselines from trained teams."""
        head, *rows = self._text()
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

        def line(row: list[str]) -> str:
            first, *rest = (text.ljust(w) for text, w in zip(row, widths, strict=True))
            return "  ".join([first, *rest]).rstrip()

        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        lines = [line(head), rule]
        for index, row in enumerate(rows):
            if self._begins_block(index):
                lines.append(rule)
            lines.append(line(row))
        title = [self.title] if self.title else []
        return "\n".join([*title, *lines, rule, self.footer])

    def to_markdown(self) -> str:
        """Return a Markdown table; baselines are in italics."""
        head, *rows = self._text()
        shown = [[f"*{row[0]}*" if self.is_baseline(row[0]) else row[0], *row[1:]] for row in rows]
        lines = [head, ["---"] * len(head), *shown]
        table = "\n".join("| " + " | ".join(_escape(t) for t in row) + " |" for row in lines)
        return f"{table}\n\n{_escape(self.footer)}\n"

    def _repr_html_(self) -> str:
        """Return the table as notebooks show it; baselines are in italics."""
        head, *rows = ([html.escape(text) for text in row] for row in self._text())
        lines = ["".join(f"<th>{text}</th>" for text in head)]
        for victim, (first, *rest) in zip(self.victims, rows, strict=True):
            name = f"<em>{first}</em>" if self.is_baseline(victim) else first
            lines.append(f"<th>{name}</th>" + "".join(f"<td>{text}</td>" for text in rest))
        title = f"<caption>{html.escape(self.title)}</caption>" if self.title else ""
        body = "\n".join(f"<tr>{line}</tr>" for line in lines)
        return f"<table>{title}\n{body}\n</table>\n<p>{html.escape(self.footer)}</p>"

    def to_frame(self) -> pandas.DataFrame:
        """Return the lines of :meth:`to_csv` as a data frame of pandas.

        Raises:
            ImportError: if pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                "CrossTable.to_frame must find pandas, which is not installed. "
                "pip install pandas, or use to_csv."
            ) from error
        return pandas.DataFrame(self._records(), columns=list(_CSV))

    def to_csv(self, path: str | Path | None = None) -> str:
        """Return one line per cell, with full precision; written to ``path`` if given."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_CSV)
        for *names, baseline, metric, mean, low, high, seeds, episodes in self._records():
            writer.writerow([*names, int(baseline), metric, mean, low, high, seeds, episodes])
        return _written(text.getvalue(), path)

    def to_json(self, path: str | Path | None = None) -> str:
        """Return everything, raw scores included, as JSON; written to ``path`` if given."""
        content = {
            "metric": self.metric,
            "title": self.title,
            "baselines": list(self.baselines),
            "cells": {
                victim: {attack: _plain(cell) for attack, cell in row.items()}
                for victim, row in self.cells.items()
            },
        }
        return _written(json.dumps(content, allow_nan=False), path)

    @classmethod
    def from_json(cls, source: str | Path) -> CrossTable:
        """Return the table that :meth:`to_json` wrote.

        Args:
            source: a path, or the JSON text itself (a string that begins with a brace).
        """
        where = "CrossTable.from_json.source"
        check_path(where, source)
        inline = isinstance(source, str) and source.lstrip().startswith("{")
        try:
            content = json.loads(str(source) if inline else Path(source).read_text("utf-8"))
            cells = {
                victim: {
                    attack: Cell({int(s): v for s, v in one["scores"].items()}, level=one["level"])
                    for attack, one in row.items()
                }
                for victim, row in content["cells"].items()
            }
            return cls(
                cells=cells,
                metric=content["metric"],
                baselines=content["baselines"],
                title=content["title"],
            )
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            rule = "what to_json wrote, or the path of such a file"
            reason = f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(".")
            raise ValueError(f"{where} must be {rule}, got {str(source)!r}. {reason}.") from error

    def plot(self, path: str | Path | None = None) -> Figure:
        """Return :func:`robustmarl.evaluation.heatmap` of it, written to ``path`` if given."""
        return heatmap(self, path)

    def _text(self) -> list[list[str]]:
        rows = [
            [victim, *(str(row[a].estimate) if a in row else "-" for a in self.attacks)]
            for victim, row in self.cells.items()
        ]
        return [["victim", *self.attacks], *rows]

    def _records(self) -> list[tuple[str, str, bool, str, float, float, float, int, int]]:
        """Return one line per cell, of the columns of :meth:`to_csv`."""
        cells = [(victim, a, cell) for victim, row in self.cells.items() for a, cell in row.items()]
        return [
            (v, a, self.is_baseline(v), self.metric, e.mean, e.low, e.high, e.n_seeds, e.n_episodes)
            for v, a, e in ((v, a, cell.estimate) for v, a, cell in cells)
        ]

    def _begins_block(self, index: int) -> bool:
        if index == 0:
            return False
        before, here = self.victims[index - 1 : index + 1]
        return self.is_baseline(before) != self.is_baseline(here)


def _plain(cell: Cell) -> dict[str, object]:
    scores = {str(seed): values.tolist() for seed, values in cell.scores.items()}
    return {"level": cell.level, "scores": scores}


def _count(numbers: list[int], noun: str) -> str:
    low, high = min(numbers), max(numbers)
    shown = f"{low}" if low == high else f"{low}-{high}"
    return f"{shown} {noun}{'' if high == 1 else 's'}"


def _escape(text: str) -> str:
    return text.replace("|", r"\|")


def _written(text: str, path: str | Path | None) -> str:
    if path is not None:
        Path(path).write_text(text, "utf-8")
    return text
