"""``grid`` and ``report``: whole studies."""

import argparse
import sys
from pathlib import Path

from robustmarl import evaluation

__all__ = ["grid", "report"]


def grid(args: argparse.Namespace) -> int:
    """Run the missing cells of a study, and report."""
    study = evaluation.Grid.from_yaml(args.study)
    folder = args.out or Path("runs") / args.study.stem
    code = 0
    try:
        study.run(folder, jobs=args.jobs, executor=args.executor, progress=not args.quiet)
    except evaluation.CellsError as error:
        sys.stderr.write(f"{error}\n")
        code = 1
    if code == 0 or any((folder / "scores").rglob("*.json")):
        _write(folder, args.metric)
    return code


def report(args: argparse.Namespace) -> int:
    """Report what is in a study's folder."""
    _write(args.folder, args.metric)
    return 0


def _write(folder: Path, metric: str | None) -> None:
    tables = evaluation.read_tables(folder, metric)
    evaluation.report_tables(tables, folder / "report", evaluation.read_warnings(folder))
    path = folder / "report" / "report.html"
    page = evaluation.report(list(tables.values()), path, title=folder.name)
    text = "\n\n".join(map(str, tables.values()))
    sys.stdout.write(
        f"{text}\n\nTables, heat maps and raw scores are in {folder / 'report'}/,\n"
        f"to look at: {page}\n"
    )
