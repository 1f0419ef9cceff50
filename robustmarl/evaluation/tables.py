"""The cross table: how every victim does under every attack."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from robustmarl._checks import (
    check,
    check_choice,
    check_kind,
    check_names,
    check_path,
    check_text,
)
from robustmarl.evaluation.cells import Cell
from robustmarl.evaluation.comparisons import signed_rank
from robustmarl.evaluation.exports import latex, marl_eval, written
from robustmarl.evaluation.plots import heatmap

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

__all__ = ["UNSEEING", "Average", "CrossTable"]

UNSEEING = {
    "zeroed": "the same team, shown zeros",
    "another's": "shown what it saw in another episode",
}
"""What ends the names of teams that do not see the episode, and what it means."""

_CSV = ("victim", "attack", "baseline", "metric", "mean", "low", "high", "seeds", "episodes")


@dataclass(frozen=True, kw_only=True)
class Average:
    """A row's figures in one, as papers print it: over attacks, not over seeds.

    Attributes:
        mean: of the means under each attack.
        deviation: of these means, the population's: how far apart attacks are.
        star: whether the reference is better, and significantly so.

    Example:
        >>> print(Average(mean=0.207, deviation=0.36, star=True))
        0.21 ± 0.36*
    """

    mean: float
    deviation: float
    star: bool

    def __str__(self) -> str:
        """Return ``mean ± deviation`` with the star, if any."""
        return f"{self.mean:.2f} ± {self.deviation:.2f}{'*' if self.star else ''}"


@dataclass(kw_only=True)
class CrossTable:
    """Victims (rows) against attacks (columns), with raw scores.

    Args:
        cells: victim to attack to cell; the order given is the order shown. A cell may be
            missing, where an attack has nothing to attack.
        metric: what the scores are, e.g. ``"return"`` or ``"success"``.
        baselines: victims that were never trained, such as ``random`` and ``untrained``.
        title: printed above the table; empty for none.
        averaged: attacks over which a column AVG is printed; none prints none. See
            :meth:`with_average`.
        reference: the row that stars compare with; None prints no stars.

    Raises:
        ValueError: if there is no cell at all, or ``baselines``, ``averaged`` or ``reference`` name
            an unknown victim or attack.

    Example:
        >>> table = CrossTable(metric="success", cells={"QMIX": {"none": Cell({0: [1.0, 1.0]})}})
        >>> table.mean("QMIX", "none")
        1.0
    """

    cells: Mapping[str, Mapping[str, Cell]]
    metric: str = "return"
    baselines: Sequence[str] = ()
    title: str = ""
    averaged: Sequence[str] = ()
    reference: str | None = None
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
        self.averaged = check_names("CrossTable.averaged", self.averaged, self.attacks)
        if self.reference is not None:
            check_choice("CrossTable.reference", self.reference, self.victims)
            complete = set(self.averaged) <= set(self.cells[self.reference])
            rule = "a row with all averaged attacks"
            check(complete, "CrossTable.reference", rule, self.reference)

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

    def with_average(
        self, attacks: Sequence[str] | None = None, reference: str | None = None
    ) -> CrossTable:
        """Return the same table with a column AVG, and stars where the reference is better.

        AVG is the mean and the population deviation of a row's means under these attacks, as in
        the tables of Zhou et al. (2025). A star says that by Wilcoxon's two-sided signed-rank
        test over the same attacks, exact with ties, the reference is better with p < .05: of
        fewer than six attacks it cannot be. Attacks are no sample of anything; the star is there
        to compare with papers that print it.

        Args:
            attacks: over which to average; None is all.
            reference: the row to compare with, None for no stars.
        """
        chosen = self.attacks if attacks is None else attacks
        return replace(self, averaged=chosen, reference=reference)

    def average(self, victim: str) -> Average | None:
        """Return a row's AVG; None where it lacks a cell, or nothing is averaged."""
        check_choice("CrossTable.average.victim", victim, self.victims)
        row = self.cells[victim]
        if not self.averaged or not set(self.averaged) <= set(row):
            return None
        means = np.array([row[attack].estimate.mean for attack in self.averaged])
        star = False
        if self.reference is not None:
            theirs = [self.mean(self.reference, attack) for attack in self.averaged]
            star = signed_rank(theirs, means).star()
        return Average(mean=float(means.mean()), deviation=float(means.std()), star=star)

    def with_all(self, attacks: Sequence[str] | None = None, name: str = "all") -> CrossTable:
        """Return the same table with a column of what is left under all attacks at once.

        Its score of an episode is the lowest under any of these attacks: of lost and won, the
        share of episode seeds that are won under every one. All attacks have to have played the
        same episodes, as :func:`~robustmarl.evaluation.crossplay` lets them. It is lower than
        under the worst single attack, as another may be the worst of each episode.

        Args:
            attacks: which; None is all. Rows that lack one get no such cell.
            name: of the column.

        Raises:
            ValueError: for an unknown attack, a name that is taken, or cells with other seeds or
                numbers of episodes.
        """
        given = self.attacks if attacks is None else attacks
        chosen = check_names("CrossTable.with_all.attacks", given, self.attacks)
        check(len(chosen) > 0, "CrossTable.with_all.attacks", "at least one", given)
        check(name not in self.attacks, "CrossTable.with_all.name", "a new one", name)
        cells = {victim: dict(row) for victim, row in self.cells.items()}
        for victim, row in cells.items():
            if set(chosen) <= set(row):
                row[name] = _lowest(victim, [row[attack] for attack in chosen])
        return replace(self, cells=cells)

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
        text = f"{self.metric}: {seeds} x {episodes}, {levels} % intervals by {methods}"
        blind = [
            f"{ending}: {meaning}"
            for ending, meaning in UNSEEING.items()
            if any(name.endswith(f", {ending}") for name in self.baselines)
        ]
        text += f". {'; '.join(blind)}" if blind else ""
        if self.averaged:
            over = _count([len(self.averaged)], "attack")
            text += f". AVG: mean ± population deviation over {over}"
        if self.averaged and self.reference is not None:
            text += f"; *: {self.reference} is better (signed-rank test over them, exact, p < .05)"
        return text

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
            if self.begins_block(index):
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

    def to_latex(
        self, path: str | Path | None = None, *, caption: str = "", label: str = ""
    ) -> str:
        r"""Return a LaTeX table for the package ``booktabs``; written to ``path`` if given.

        The best trained team of each column is bold, baselines are in italics. With a caption it
        is a floating table, whose caption goes on with :attr:`footer`; without one a bare
        ``tabular`` with the footer as a comment.

        Args:
            path: where to write it.
            caption: LaTeX, taken as it is.
            label: of the table, for ``\ref``; needs a caption.
        """
        return written(latex(self, caption, label), path)

    def to_marl_eval(self, environment: str, task: str, path: str | Path | None = None) -> str:
        """Return raw scores in the JSON layout of marl-eval; see :func:`marl_eval`.

        Args:
            environment: its name.
            task: its name; every attack is a task of its own, ``task, attack``.
            path: where to write it.
        """
        return written(marl_eval(environment, {task: self}), path)

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
        return written(text.getvalue(), path)

    def to_json(self, path: str | Path | None = None) -> str:
        """Return everything, raw scores included, as JSON; written to ``path`` if given."""
        average = {"averaged": list(self.averaged), "reference": self.reference}
        content = {
            "metric": self.metric,
            "title": self.title,
            "baselines": list(self.baselines),
            **(average if self.averaged else {}),
            "cells": {
                victim: {attack: cell.plain() for attack, cell in row.items()}
                for victim, row in self.cells.items()
            },
        }
        return written(json.dumps(content, allow_nan=False), path)

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
                victim: {attack: Cell.of_plain(one) for attack, one in row.items()}
                for victim, row in content["cells"].items()
            }
            return cls(
                cells=cells,
                metric=content["metric"],
                baselines=content["baselines"],
                title=content["title"],
                averaged=content.get("averaged", ()),
                reference=content.get("reference"),
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
        if self.averaged:
            for row in rows:
                row.append(str(self.average(row[0]) or "-"))
        return [["victim", *self.attacks, *(["AVG"] if self.averaged else [])], *rows]

    def _records(self) -> list[tuple[str, str, bool, str, float, float, float, int, int]]:
        """Return one line per cell, of the columns of :meth:`to_csv`."""
        cells = [(victim, a, cell) for victim, row in self.cells.items() for a, cell in row.items()]
        return [
            (v, a, self.is_baseline(v), self.metric, e.mean, e.low, e.high, e.n_seeds, e.n_episodes)
            for v, a, e in ((v, a, cell.estimate) for v, a, cell in cells)
        ]

    def begins_block(self, index: int) -> bool:
        """Return whether row ``index`` is a baseline and the one above is none, or the reverse."""
        if index == 0:
            return False
        before, here = self.victims[index - 1 : index + 1]
        return self.is_baseline(before) != self.is_baseline(here)


def _lowest(victim: str, cells: list[Cell]) -> Cell:
    """Return the lowest score of each episode."""
    sizes = [{seed: len(values) for seed, values in cell.scores.items()} for cell in cells]
    same = all(one == sizes[0] for one in sizes)
    check(same, f"CrossTable.with_all, row {victim!r},", "cells of the same episodes", sizes)
    scores = {seed: np.min([cell.scores[seed] for cell in cells], axis=0) for seed in sizes[0]}
    return Cell(scores, level=cells[0].level, limits=cells[0].limits)


def _count(numbers: list[int], noun: str) -> str:
    low, high = min(numbers), max(numbers)
    shown = f"{low}" if low == high else f"{low}-{high}"
    return f"{shown} {noun}{'' if high == 1 else 's'}"


def _escape(text: str) -> str:
    return text.replace("|", r"\|")
