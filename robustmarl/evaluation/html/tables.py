"""What a report tells of a cross table, and of a worst case."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TypeAlias, TypedDict

from matplotlib import colormaps
from matplotlib.colors import Normalize, to_hex

from robustmarl.evaluation.cells import Cell
from robustmarl.evaluation.findings import Measured, WorstCase
from robustmarl.evaluation.plots import ink_on
from robustmarl.evaluation.statistics import Estimate
from robustmarl.evaluation.tables import CrossTable

__all__ = ["CellData", "Command", "EstimateData", "RowData", "TableData", "estimate_data", "tell"]

Command: TypeAlias = str | Callable[[str, str], str]
"""What to type to get a figure again: the same for all, or a function of victim and attack."""

_APART = ("worst", "all")
"""Columns that sum others up: of :func:`worst_case`, and of :meth:`CrossTable.with_all`."""

_STOPS = 9  # of a colour scale in its legend


class EstimateData(TypedDict):
    """A figure with its interval; an end that is not finite is null."""

    mean: float
    low: float | None
    high: float | None
    text: str
    about: str


class CellData(EstimateData):
    """A cell: its colours, and what is told of it on demand."""

    colour: str
    ink: str
    seeds: list[str]
    notes: list[str]
    command: str


class RowData(TypedDict):
    """A victim's row; a cell that is missing is null."""

    name: str
    baseline: bool
    average: str | None
    cells: list[CellData | None]


class ColumnData(TypedDict):
    """An attack."""

    name: str
    apart: bool


class ScaleData(TypedDict):
    """The colours of a table, from the lowest figure to the highest."""

    low: str
    high: str
    stops: list[str]


class TableData(TypedDict):
    """A heat map."""

    title: str
    metric: str
    about: list[str]
    columns: list[ColumnData]
    rows: list[RowData]
    averaged: bool
    scale: ScaleData
    footer: str
    findings: list[str]


def tell(found: CrossTable | WorstCase, command: Command) -> TableData:
    """Return what is shown of a table or worst case."""
    if isinstance(found, CrossTable):
        return _table(found, command)
    data = _table(found.table, command, found)
    data["about"] = [found.suite, found.threat, f"{found.seconds:.0f} CPU seconds of attacks"]
    data["findings"] = [str(finding) for finding in found.findings]
    return data


def estimate_data(estimate: Estimate) -> EstimateData:
    """Return a figure as JSON can hold it."""
    seeds = _count(estimate.n_seeds, "training seed")
    episodes = _count(estimate.n_episodes, "episode")
    level = f"{100 * estimate.level:g} % interval"
    return {
        "mean": estimate.mean,
        "low": _finite(estimate.low),
        "high": _finite(estimate.high),
        "text": str(estimate),
        "about": f"{level}{f' by {estimate.method}' * bool(estimate.method)}; "
        f"{seeds}, {episodes} in all",
    }


def _table(table: CrossTable, command: Command, worst: WorstCase | None = None) -> TableData:
    means = [cell.estimate.mean for row in table.cells.values() for cell in row.values()]
    unit = min(means) >= 0.0 and max(means) <= 1.0
    low, high = (0.0, 1.0) if unit else (min(means), max(means))
    norm = Normalize(low, high if high > low else low + 1.0)
    colours = colormaps["cividis"]

    def cell_data(victim: str, attack: str, cell: Cell) -> CellData:
        colour = colours(norm(cell.estimate.mean))
        return {
            **estimate_data(cell.estimate),
            "colour": to_hex(colour),
            "ink": ink_on(colour),
            "seeds": [
                f"seed {seed}: {scores.mean():.3g} ({_count(len(scores), 'episode')})"
                for seed, scores in cell.scores.items()
            ],
            "notes": [] if worst is None else _notes(worst, victim, attack),
            "command": command if isinstance(command, str) else command(victim, attack),
        }

    def row_data(victim: str, row: Mapping[str, Cell]) -> RowData:
        average = table.average(victim)
        return {
            "name": victim,
            "baseline": table.is_baseline(victim),
            "average": None if average is None else str(average),
            "cells": [
                cell_data(victim, attack, row[attack]) if attack in row else None
                for attack in table.attacks
            ],
        }

    return {
        "title": table.title or "Victims against attacks",
        "metric": table.metric,
        "about": [],
        "columns": [{"name": name, "apart": name in _APART} for name in table.attacks],
        "rows": [row_data(victim, row) for victim, row in table.cells.items()],
        "averaged": bool(table.averaged),
        "scale": {
            "low": f"{low:.3g}",
            "high": f"{high:.3g}",
            "stops": [to_hex(colours(i / (_STOPS - 1))) for i in range(_STOPS)],
        },
        "footer": table.footer,
        "findings": [],
    }


def _notes(worst: WorstCase, victim: str, attack: str) -> list[str]:
    """Return what a worst case knows of a cell beyond its figure."""
    notes = []
    if attack == "worst" and victim in worst.chosen:
        times = Counter(worst.chosen[victim].values()).most_common()
        notes.append("worst of all: " + ", ".join(f"{name} ({n})" for name, n in times))
    if family := worst.families.get(attack):
        notes.append(family)
    one = worst.measured.get(victim, {}).get(attack, Measured())
    if one.flipped is not None:
        notes.append(f"{100 * one.flipped:.3g} % of actions changed")
    if one.seconds is not None:
        notes.append(f"{one.seconds:.3g} CPU seconds")
    return notes


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
