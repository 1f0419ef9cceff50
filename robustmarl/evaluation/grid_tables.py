"""What a grid's folder holds, as tables: one per environment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustmarl._checks import check, check_kind, check_path, check_text, writing
from robustmarl.evaluation.cells import Cell
from robustmarl.evaluation.executors import Kept
from robustmarl.evaluation.jobs import MANIFEST
from robustmarl.evaluation.statistics import Limits, check_limits, limits_of
from robustmarl.evaluation.tables import CrossTable

__all__ = ["RANDOM", "UNTRAINED", "GridKey", "read_tables", "read_warnings", "report_tables"]

RANDOM, UNTRAINED = "random", "untrained"

UNDEFENDED = "none"
"""The defence that a row's name does not mention."""


@dataclass(frozen=True)
class GridKey:
    """Which cell of a grid: a test, or where there is no attack the training of a team.

    Attributes:
        environment: its name.
        victim: its name, or ``random`` or ``untrained``, which have no defence.
        defence: its name, or empty.
        attack: its name, or empty.
        seed: of the training.
    """

    environment: str
    victim: str
    defence: str = ""
    attack: str = ""
    seed: int = 0

    @property
    def name(self) -> str:
        """The path of its files in the study's folder."""
        parts = (self.environment, self.victim, self.defence, self.attack, str(self.seed))
        return "/".join(["scores" if self.attack else "teams", *filter(None, parts)])

    @property
    def row(self) -> str:
        """Its row of the table."""
        named = self.defence not in ("", UNDEFENDED)
        return f"{self.victim}, {self.defence}" if named else self.victim

    def __str__(self) -> str:
        """Return what a progress bar is called."""
        return " ".join(filter(None, (self.environment, self.row, self.attack, str(self.seed))))


def read_tables(
    folder: str | Path, metric: str | None = None, limits: Limits | None = None
) -> dict[str, CrossTable]:
    """Return a table per environment of all cells that a grid's folder holds.

    Args:
        folder: that :meth:`Grid.run <robustmarl.evaluation.Grid.run>` was given, finished or not.
        metric: ``"return"`` or one of the environments' metrics; None takes an environment's first
            metric, or the return if it has none.
        limits: the range of the metric, to which intervals are cut; see
            :func:`~robustmarl.evaluation.interval`.

    Raises:
        ValueError: for a folder without a study or without results, an unknown metric, or scores
            outside ``limits``.

    Example:
        >>> from robustmarl import algorithms, envs, evaluation
        >>> study = evaluation.Grid(
        ...     victims={"VDN": evaluation.Recipe(algorithm=algorithms.VDN, env_steps=40)},
        ...     attacks={"none": None},
        ...     environments={"climbing": envs.climbing},
        ...     episodes=5,
        ... )
        >>> _ = study.run("study", executor="serial", progress=False)
        >>> list(read_tables("study"))
        ['climbing']
    """
    folder = check_path("read_tables.folder", folder)
    if metric is not None:
        metric = check_text("read_tables.metric", metric)
    limits = check_limits("read_tables.limits", limits)
    path = folder / MANIFEST
    check(path.is_file(), "read_tables.folder", f"one with a {MANIFEST}", str(folder))
    order = list(json.loads(path.read_text("utf-8")))
    by_environment: dict[str, list[Kept]] = {}
    for result in _results(folder):
        by_environment.setdefault(result["environment"], []).append(result)
    check(len(by_environment) > 0, "read_tables.folder", "one with results", str(folder))
    return {
        name: _table(name, by_environment[name], order, metric, limits)
        for name in _sorted(by_environment, order, "environments")
    }


def read_warnings(folder: str | Path) -> list[str]:
    """Return what the tests in a grid's folder warned of, each with its cell."""
    folder = check_path("read_warnings.folder", folder)
    keys = ("environment", "victim", "defence", "attack", "seed")
    return [
        f"{GridKey(*(result[key] for key in keys))}: {text}"
        for result in _results(folder)
        for text in result["warnings"]
    ]


def _results(folder: Path) -> Iterator[Kept]:
    # seeds are numbers; what trainings of attacks leave in their folders has other names
    for file in sorted((folder / "scores").rglob("[0-9]*.json")):
        yield json.loads(file.read_text("utf-8"))


def _sorted(names: Iterable[str], order: Sequence[str], part: str) -> list[str]:
    """Return the names in the order in which they were declared, baselines first."""
    places = {key: number for number, key in enumerate(order)}
    return sorted(dict.fromkeys(names), key=lambda name: places.get(f"{part}.{name}", -1))


def _table(
    environment: str,
    results: list[Kept],
    order: Sequence[str],
    metric: str | None,
    limits: Limits | None,
) -> CrossTable:
    known = [name for name in results[0]["scores"] if name != "return"]
    figure = metric or (*known, "return")[0]
    choices = ["return", *known]
    check(figure in choices, "read_tables.metric", f"one of {choices} of {environment!r}", metric)
    limits = limits_of(figure, limits)
    scores: dict[str, dict[str, dict[int, list[float]]]] = {}
    for victim in _sorted((one["victim"] for one in results), order, "victims"):
        of_victim = [one for one in results if one["victim"] == victim]
        for defence in _sorted((one["defence"] for one in of_victim), order, "defences"):
            of_team = [one for one in of_victim if one["defence"] == defence]
            row = GridKey(environment, victim, defence).row
            for attack in _sorted((one["attack"] for one in of_team), order, "attacks"):
                seeds = [one for one in of_team if one["attack"] == attack]
                scores.setdefault(row, {})[attack] = {
                    one["seed"]: one["scores"][figure]
                    for one in sorted(seeds, key=lambda one: int(one["seed"]))
                }
    cells = {
        row: {attack: Cell(seeds, limits=limits) for attack, seeds in attacks.items()}
        for row, attacks in scores.items()
    }
    flagged = [row for row in cells if row in (RANDOM, UNTRAINED)]
    return CrossTable(cells=cells, metric=figure, baselines=flagged, title=environment)


def report_tables(
    tables: Mapping[str, CrossTable], folder: str | Path, notes: Sequence[str] = ()
) -> str:
    """Write ``report.md``, and per table a heat map and raw scores; return the text.

    Args:
        tables: by their names.
        folder: where to write.
        notes: printed beneath the tables.

    Example:
        >>> from robustmarl.evaluation import Cell, CrossTable
        >>> table = CrossTable(metric="success", cells={"QMIX": {"none": Cell({0: [1.0, 1.0]})}})
        >>> text = report_tables({"3m": table}, "tables")
        >>> text.splitlines()[0]
        '## 3m'
    """
    where, folder = "report_tables.folder", check_path("report_tables.folder", folder)
    rule = "a mapping from names to CrossTables"
    check_kind("report_tables.tables", tables, Mapping, rule)
    for table in tables.values():
        check_kind("report_tables.tables", table, CrossTable, rule)
    with writing(where, folder):
        folder.mkdir(parents=True, exist_ok=True)
    text = []
    for name, table in tables.items():
        table.plot(folder / f"{name}.png")
        table.to_json(folder / f"{name}.json")
        text.append(f"## {name}\n\n{table.to_markdown()}\n![{name}](<{name}.png>)\n")
    if notes:
        text.append("\n".join(["## Warnings\n", *(f"- {note}" for note in notes)]) + "\n")
    whole = "\n".join(text)
    (folder / "report.md").write_text(whole, "utf-8")
    return whole
