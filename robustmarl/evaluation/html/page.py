"""Putting a report together: one HTML file with its style, its scripts and its data."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from types import UnionType
from typing import Any, TypeAlias, TypedDict

from robustmarl import __version__
from robustmarl._checks import check, check_function, check_kind, check_path, check_text, writing
from robustmarl.evaluation.certified import Certificates
from robustmarl.evaluation.findings import WorstCase
from robustmarl.evaluation.html import charts, films, tables
from robustmarl.evaluation.html.charts import Curves, GroupData
from robustmarl.evaluation.html.films import FilmData
from robustmarl.evaluation.html.tables import Command, TableData
from robustmarl.evaluation.recordings import Recording
from robustmarl.evaluation.sweep import Sweep
from robustmarl.evaluation.tables import CrossTable

__all__ = ["Findings", "report"]

Findings: TypeAlias = CrossTable | WorstCase

# in the order in which they run
_SCRIPTS = ("dom.js", "heatmap.js", "chart.js", "field.js", "player.js", "page.js")


class ReportData(TypedDict):
    """All that the page shows."""

    title: str
    command: str
    made: str
    tables: list[TableData]
    groups: list[GroupData]
    films: list[FilmData]


def report(
    findings: Findings | Sequence[Findings],
    path: str | Path,
    *,
    curves: Curves | None = None,
    sweeps: Sweep | Certificates | Sequence[Sweep | Certificates] = (),
    recordings: Recording | Sequence[Recording] = (),
    title: str = "",
    command: Command = "",
) -> Path:
    """Write one HTML file that shows what was found, and return its path.

    It holds all that it needs, asks for nothing from any network, and opens from a folder. Tables
    are heat maps that tell of each figure its interval, its seeds and episodes, and the command;
    curves tell of each of their places; recordings are played side by side and in step. All of it
    works by keyboard, on a phone, on light and on dark.

    Args:
        findings: tables of :func:`crossplay`, or what :func:`worst_case` found; may be empty.
        path: of the file, ends in ``.html``.
        curves: label to :class:`~robustmarl.training.History`, one or one per training seed, or
            to (x, y) pairs as of :func:`learning_curves`.
        sweeps: what :func:`sweep` and :func:`certified` found.
        recordings: what :func:`record` kept, of the same episodes.
        title: of the report; empty takes that of the first table, or of the first curves.
        command: what to type to get it again; or a function from victim and attack to what to
            type to get that cell.

    Raises:
        TypeError: for what is none of these.
        ValueError: for another file type, or nothing to show.
        OSError: if the file cannot be written.

    Example:
        >>> from robustmarl.evaluation import Cell, CrossTable
        >>> cells = {"QMIX": {"none": Cell({0: [1.0, 1.0]}), "PGD": Cell({0: [0.0, 1.0]})}}
        >>> report(CrossTable(metric="success", cells=cells), "found.html").stat().st_size > 10_000
        True
    """
    path = check_path("report.path", path)
    check(path.suffix == ".html", "report.path", "a file name that ends in .html", str(path))
    told: list[Findings] = _several(
        "report.findings", findings, CrossTable | WorstCase, "tables or worst cases"
    )
    groups = [] if curves is None else [charts.learning(curves)]
    sizes: list[Sweep | Certificates] = _several(
        "report.sweeps", sweeps, Sweep | Certificates, "sweeps or certificates"
    )
    groups += charts.sizes(sizes)
    kept: list[Recording] = _several("report.recordings", recordings, Recording, "recordings")
    check(bool(told or groups or kept), "report.findings", "something to show", findings)
    rule = "a text, or a function of victim and attack"
    if not isinstance(command, str):
        check_function("report.command", command, rule)
    shown = [tables.tell(one, command) for one in told]
    data: ReportData = {
        "title": check_text("report.title", title) or _first_title(shown, groups),
        "command": command if isinstance(command, str) else "",
        "made": f"Made by robustmarl {__version__}.",
        "tables": shown,
        "groups": groups,
        "films": [films.tell(one) for one in kept],
    }
    with writing("report.path", path):
        path.write_text(_page(data), "utf-8")
    return path


def _first_title(shown: Sequence[TableData], groups: Sequence[GroupData]) -> str:
    """Return the title of the first table, else that of the first curves."""
    titles = [*(table["title"] for table in shown), *(group["title"] for group in groups)]
    return (*titles, "Report")[0]


def _several(where: str, given: object, kind: type | UnionType, rule: str) -> list[Any]:
    """Return one or several as a list, all of them of ``kind``."""
    several = [given] if isinstance(given, kind) else given
    if not isinstance(several, Sequence):
        raise TypeError(f"{where} must be {rule}, got {given!r}.")
    for one in several:
        check_kind(where, one, kind, rule)
    return list(several)


def _page(data: ReportData) -> str:
    """Return the whole file."""
    folder = files("robustmarl.evaluation.html")
    scripts = [folder.joinpath(name).read_text("utf-8") for name in _SCRIPTS]
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return Template(folder.joinpath("page.html").read_text("utf-8")).substitute(
        title=html.escape(data["title"]),
        style=folder.joinpath("style.css").read_text("utf-8"),
        script="\n".join(scripts),
        data=text.replace("<", "\\u003c"),  # so that no text of the data ends the script
    )
