"""Putting a report together: one HTML file with its style, its scripts and its data."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TypedDict

from robustmarl._checks import check_path, check_text, writing
from robustmarl.evaluation.findings import WorstCase
from robustmarl.evaluation.html import tables
from robustmarl.evaluation.html.tables import Command, TableData
from robustmarl.evaluation.tables import CrossTable

__all__ = ["report"]

_SCRIPTS = ("dom.js", "heatmap.js", "page.js")  # in the order in which they run


class ReportData(TypedDict):
    """All that the page shows."""

    title: str
    about: list[str]
    command: str
    tables: list[TableData]


def report(
    findings: CrossTable | WorstCase | Sequence[CrossTable | WorstCase],
    path: str | Path,
    *,
    title: str = "",
    command: Command = "",
) -> Path:
    path = check_path("report.path", path)
    given = [findings] if isinstance(findings, CrossTable | WorstCase) else list(findings)
    data: ReportData = {
        "title": check_text("report.title", title) or "Report",
        "about": [],
        "command": command if isinstance(command, str) else "",
        "tables": [tables.tell(one, command) for one in given],
    }
    with writing("report.path", path):
        path.write_text(_page(data), "utf-8")
    return path


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
