"""Run a study that a YAML file declares, and report on what is there.

python -m robustmarl grid study.yaml --jobs 2
python -m robustmarl report runs/study
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code.

    Args:
        arguments: of the command line; None takes the process's own.
    """
    parser = argparse.ArgumentParser(
        prog="python -m robustmarl", description=(__doc__ or "").partition("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    grid = commands.add_parser("grid", help="run the cells that are missing, then report")
    grid.add_argument("study", type=Path, help="YAML that declares it: see Grid.from_yaml")
    grid.add_argument("--out", type=Path, help="folder (default: runs/NAME of NAME.yaml)")
    grid.add_argument("--jobs", type=int, default=1, help="cells at a time (default: 1)")
    grid.add_argument("--executor", choices=("processes", "ray", "serial"), default="processes")
    grid.add_argument("--quiet", action="store_true", help="show no progress")
    report = commands.add_parser("report", help="tables of a folder, finished or not")
    report.add_argument("folder", type=Path)
    for command in (grid, report):
        command.add_argument("--metric", help="return, or one of the environments' own")
    args = parser.parse_args(arguments)
    try:
        return _grid(args) if args.command == "grid" else _report(args.folder, args.metric)
    except (ImportError, OSError, TypeError, ValueError) as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 2


def _grid(args: argparse.Namespace) -> int:
    from robustmarl.evaluation import CellsError, Grid

    study = Grid.from_yaml(args.study)
    folder = args.out or Path("runs") / args.study.stem
    code = 0
    try:
        study.run(folder, jobs=args.jobs, executor=args.executor, progress=not args.quiet)
    except CellsError as error:
        sys.stderr.write(f"{error}\n")
        code = 1
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; the same command goes on.\n")
        return 130
    if code == 0 or any((folder / "scores").rglob("*.json")):
        _report(folder, args.metric)
    return code


def _report(folder: Path, metric: str | None) -> int:
    from robustmarl.evaluation import read_tables, read_warnings, report_tables

    tables = read_tables(folder, metric)
    report_tables(tables, folder / "report", read_warnings(folder))
    text = "\n\n".join(map(str, tables.values()))
    sys.stdout.write(f"{text}\n\nTables, heat maps and raw scores are in {folder / 'report'}/\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
