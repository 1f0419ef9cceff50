"""Many cells of a study, run side by side into one folder of results that can be gone on with."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar, get_args

import numpy as np

from robustmarl._checks import (
    check,
    check_choice,
    check_function,
    check_int,
    check_kind,
    check_path,
    check_text,
)
from robustmarl.evaluation.executors import (
    Executor,
    Failed,
    Kept,
    Order,
    Pool,
    Told,
    Workplace,
    pool_of,
)
from robustmarl.training.files import locked, whole
from robustmarl.training.progress import progress_bar

__all__ = ["CellsError", "Failure", "Job", "read_cells", "run_cells"]

_Key = TypeVar("_Key", bound=Hashable)

MANIFEST = "manifest.json"
"""What the study in a folder was declared as."""

ERROR = ".error.txt"
"""Ending of the file that holds why a cell failed."""

BEFORE = "_before"
"""Where a result's file keeps the settings of the cells that came before it, by their names."""


@dataclass(frozen=True, kw_only=True)
class Job(Generic[_Key]):
    """One cell of a study: what computes its raw scores, and which cell that is.

    Args:
        key: what its results are asked for by: a tuple, a frozen dataclass of your own.
        name: of its files, ``name.json`` and the folder ``name``; ``/`` makes subfolders.
        work: returns the raw scores, which JSON must be able to hold. Other processes must be able
            to import it: a function of a module or script, or a ``partial`` of one.
        settings: what the scores depend on, as JSON can hold it. It is kept beside them in the
            file; where a file says otherwise, the cell is run again.
        after: keys of the cells that must be done before, and come before it. What it came after
            is kept in the file, too: where one of them had other settings, it is run again. One
            whose result merely is gone is run again alone.

    Raises:
        ValueError: for a name that is no path inside the folder.
        TypeError: for arguments of a wrong kind.

    Example:
        >>> def work(place):  # has a folder of its own: place.folder
        ...     return {"scores": [1, 2, 3]}
        >>> job = Job(key="first", name="first", work=work)
        >>> run_cells([job], "study", executor="serial", progress=False)
        {'first': {'scores': [1, 2, 3]}}
    """

    key: _Key
    name: str
    work: Callable[[Workplace], Told]
    settings: Told = field(default_factory=dict)
    after: Collection[_Key] = ()

    def __post_init__(self) -> None:
        name = PurePosixPath(check_text("Job.name", self.name))
        inside = bool(name.parts) and not name.is_absolute() and ".." not in name.parts
        check(inside and str(name) == self.name, "Job.name", "a path inside the folder", self.name)
        check_function("Job.work", self.work, "a function of a Workplace")
        check_kind("Job.settings", self.settings, Mapping, "a mapping from names")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a cell has no result.

    Attributes:
        error: the exception in a line, or how the worker died.
        traceback: in full, also in the cell's ``.error.txt``.
        tries: how often the cell was begun.
    """

    error: str
    traceback: str
    tries: int


class CellsError(RuntimeError):
    """Cells of a study failed; all others are done.

    Attributes:
        failures: by the cells' keys.
        results: raw scores of all others, by their keys.
    """

    def __init__(
        self,
        failures: Mapping[Any, Failure],
        results: Mapping[Any, Told],
        text: str,
    ) -> None:
        super().__init__(text)
        self.failures, self.results = failures, results


def run_cells(
    cells: Iterable[Job[_Key]],
    folder: str | Path,
    *,
    jobs: int = 1,
    executor: Executor = "processes",
    retries: int = 2,
    settings: Told | None = None,
    progress: bool | str = True,
) -> dict[_Key, Kept]:
    """Run the cells that ``folder`` has no results of, and return all raw scores.

    Every cell's scores are a JSON file of their own, whole or not there. A run that is interrupted
    or killed is gone on with by the same call: cells that are done are read, and trainings that
    keep checkpoints in their :class:`Workplace` go on from them. A cell that raises is reported at
    the end, after all others are done. One whose worker dies (memory, ``kill -9``) is begun again.

    Args:
        cells: what is to be done, in this order.
        folder: of the results; one run at a time writes to it.
        jobs: cells at a time, >= 1.
        executor: ``"processes"`` of this machine, one thread each; ``"ray"``, the cluster that Ray
            finds or one of ``jobs`` CPUs that it starts here (``pip install robustmarl[ray]``);
            ``"serial"``, this process, one after the other.
        retries: how often a cell is begun again after its worker died, >= 0.
        settings: of the whole study, as JSON can hold them. The folder keeps them; a setting that
            it knows otherwise is refused, one that it does not know is added.
        progress: show a bar over the cells, and beneath it those of their trainings; a text names
            it.

    Returns:
        The cells' results by their keys: their settings and what ``work`` returned.

    Raises:
        CellsError: if cells failed, with all results there are.
        ValueError: for a folder of another study, or one that another run writes to, and for two
            cells of one key or name.
        TypeError: for what other processes cannot import.
        ImportError: for ``executor="ray"`` without Ray.

    Example:
        >>> def work(place):
        ...     return {"seed": place.folder.name}
        >>> jobs = [Job(key=seed, name=f"cell-{seed}", work=work) for seed in (0, 1)]
        >>> run_cells(jobs, "study", executor="serial", progress=False)
        {0: {'seed': 'cell-0'}, 1: {'seed': 'cell-1'}}
    """
    cells, folder = _checked("run_cells.cells", cells), check_path("run_cells.folder", folder)
    jobs = check_int("run_cells.jobs", jobs, 1)
    check_choice("run_cells.executor", executor, get_args(Executor))
    retries = check_int("run_cells.retries", retries, 0)
    check_kind("run_cells.progress", progress, bool | np.bool_ | str, "a bool, or the bar's name")
    if executor == "processes":
        for cell in cells:
            _check_picklable(cell)
    with locked("run_cells.folder", folder):
        _declare(folder, {} if settings is None else settings)
        results = _done(cells, folder)
        missing = [cell for cell in cells if cell.key not in results]
        for cell in missing:
            _sweep(cell, folder)
        failures: dict[_Key, Failure] = {}
        with progress_bar(
            total=len(cells),
            initial=len(results),
            desc=progress if isinstance(progress, str) else folder.name,
            unit="cell",
            position=0,
            disable=not progress,
        ) as bar:

            def told(cell: Job[_Key]) -> None:
                bar.set_postfix_str(cell.name, refresh=False)
                bar.update()

            if missing:
                with pool_of(executor, min(jobs, len(missing)), bars=bool(progress)) as pool:
                    failures = _run(pool, cells, missing, folder, retries, results, told)
    ordered = {cell.key: results[cell.key] for cell in cells if cell.key in results}
    if failures:
        raise CellsError(failures, ordered, _report(cells, failures, folder))
    return ordered


def read_cells(cells: Iterable[Job[_Key]], folder: str | Path) -> dict[_Key, Kept]:
    """Return the raw scores of those cells that are done, by their keys; run nothing.

    Example:
        >>> def work(place):
        ...     return {"scores": [1.0, 0.5]}
        >>> done, other = Job(key="a", name="a", work=work), Job(key="b", name="b", work=work)
        >>> _ = run_cells([done], "study", executor="serial", progress=False)
        >>> read_cells([done, other], "study")
        {'a': {'scores': [1.0, 0.5]}}
    """
    cells, folder = _checked("read_cells.cells", cells), check_path("read_cells.folder", folder)
    return _done(cells, folder)


def _checked(where: str, cells: Iterable[Job[_Key]]) -> Sequence[Job[_Key]]:
    found = list(cells)
    keys: dict[_Key, None] = {}
    names: dict[str, None] = {}
    for cell in found:
        check_kind(where, cell, Job, "Jobs")
        check(cell.key not in keys, where, "cells of different keys", cell.key)
        check(cell.name not in names, where, "cells of different names", cell.name)
        late = [key for key in cell.after if key not in keys]
        rule = f"in an order in which {cell.name!r} is behind all of its after"
        check(not late, where, rule, late)
        keys[cell.key], names[cell.name] = None, None
    return found


def _check_picklable(cell: Job[_Key]) -> None:
    try:
        pickle.dumps(cell.work)
    except Exception as error:  # what pickle raises depends on what it meets
        raise TypeError(
            f"Job.work must be something that other processes can import, got {cell.work!r} in "
            f"{cell.name!r} ({error}). Write a function of a module, or executor='serial'."
        ) from error


def _plain(where: str, settings: object) -> Kept:
    """Return settings as they are read back: tuples as lists, keys as texts."""
    rule = "a mapping from names to what JSON can hold"
    check_kind(where, settings, Mapping, rule)
    try:
        plain: Kept = json.loads(json.dumps(settings, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where} must be {rule}, got {settings!r} ({error}).") from error
    return plain


def _file(folder: Path, name: str, ending: str) -> Path:
    return folder / f"{name}{ending}"  # not with_suffix: names may have dots


def _done(cells: Sequence[Job[_Key]], folder: Path) -> dict[_Key, Kept]:
    """Return the results of these settings, that came after cells of these settings."""
    before = _settings_before(cells)
    results: dict[_Key, Kept] = {}
    changed: set[str] = set()
    for cell in cells:
        try:
            found: Kept = json.loads(_file(folder, cell.name, ".json").read_text("utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            continue
        told: Kept = found.pop(BEFORE, {})
        # Files of earlier versions do not tell; then those before it are asked what they are of.
        stale = any(
            not _agrees(told[name], settings) if name in told else name in changed
            for name, settings in before[cell.key].items()
        )
        if not _agrees(found, _plain("Job.settings", cell.settings)):
            changed.add(cell.name)
        elif not stale:
            results[cell.key] = found
    return results


def _settings_before(cells: Sequence[Job[_Key]]) -> dict[_Key, dict[str, Kept]]:
    """Return per cell the settings of all that come before it, also before those, by name."""
    found: dict[_Key, dict[str, Kept]] = {}
    own = {cell.key: {cell.name: _plain("Job.settings", cell.settings)} for cell in cells}
    for cell in cells:
        found[cell.key] = {}
        for key in cell.after:
            found[cell.key] |= found[key] | own[key]
    return found


def _agrees(kept: Kept, settings: Kept) -> bool:
    """Return whether what is kept is of these settings; it may have others beside."""
    return all(kept.get(key) == value for key, value in settings.items())


def _declare(folder: Path, settings: Told) -> None:
    """Keep the study's settings in its folder, which must be of no other study."""
    path, plain = folder / MANIFEST, _plain("run_cells.settings", settings)
    known: Kept = json.loads(path.read_text("utf-8")) if path.exists() else {}
    other = [name for name, value in plain.items() if name in known and known[name] != value]
    if other:
        shown = ", ".join(f"{name}={plain[name]!r} (was {known[name]!r})" for name in other)
        raise ValueError(
            f"run_cells.folder must be of a study with these settings, got {str(folder)!r}, of one "
            f"with others: {shown}. Give it the former ones, or another folder."
        )
    if plain.keys() - known.keys():
        with whole(path) as part:
            part.write_text(json.dumps(known | plain, indent=1) + "\n", "utf-8")


def _run(
    pool: Pool,
    cells: Sequence[Job[_Key]],
    missing: Sequence[Job[_Key]],
    folder: Path,
    retries: int,
    results: dict[_Key, Kept],
    told: Callable[[Job[_Key]], None],
) -> dict[_Key, Failure]:
    """Run those that are missing until each has a result, added to ``results``, or a failure."""
    waiting = {cell.key: cell for cell in missing}
    before = _settings_before(cells)
    under_way: dict[str, Job[_Key]] = {}
    tries = dict.fromkeys(waiting, 0)
    failures: dict[_Key, Failure] = {}

    def failed(cell: Job[_Key], error: str, text: str) -> None:
        failures[cell.key] = Failure(error=error, traceback=text, tries=tries[cell.key])
        with whole(_file(folder, cell.name, ERROR)) as part:
            part.write_text(f"{text.rstrip()}\n", "utf-8")
        told(cell)

    while waiting or pool.is_busy:
        for cell in [one for one in waiting.values() if not failures.keys().isdisjoint(one.after)]:
            del waiting[cell.key]
            without = [key for key in cell.after if key in failures]
            failed(cell, text := f"not begun, as cells before it failed: {without}", text)
        for cell in [one for one in waiting.values() if results.keys() >= {*one.after}]:
            if not pool.has_room:
                break
            del waiting[cell.key]
            under_way[cell.name] = cell
            tries[cell.key] += 1
            pool.start(Order(name=cell.name, work=cell.work, study=folder.resolve()))
        for name, outcome in pool.wait() if pool.is_busy else ():
            cell = under_way.pop(name)
            if isinstance(outcome, str):
                scores = json.loads(outcome)
                results[cell.key] = _keep(cell, scores, before[cell.key], folder)
                told(cell)
            elif isinstance(outcome, Failed):
                failed(cell, outcome.error, outcome.traceback)
            elif tries[cell.key] <= retries:
                waiting[cell.key] = cell  # behind the others: it may be what takes all the memory
            else:
                died = f"its worker died {tries[cell.key]} times, the last time {outcome.reason}"
                failed(cell, died, died)
    return failures


def _keep(cell: Job[_Key], scores: Kept, before: Kept, folder: Path) -> Kept:
    """Write a cell's result, which is returned, and the settings of what came before it."""
    result = scores | _plain("Job.settings", cell.settings)
    told = result | {BEFORE: before} if before else result
    with whole(_file(folder, cell.name, ".json")) as part:
        part.write_text(json.dumps(told, allow_nan=False), "utf-8")
    with suppress(FileNotFoundError):
        _file(folder, cell.name, ERROR).unlink()
    return result


def _sweep(cell: Job[_Key], folder: Path) -> None:
    """Remove what a run that was killed left of files that it was writing."""
    path = _file(folder, cell.name, "")
    for ending in (".json", ERROR):
        for part in path.parent.glob(f"{escape(path.name)}{ending}.*.part"):
            part.unlink(missing_ok=True)


def _report(cells: Sequence[Job[_Key]], failures: Mapping[_Key, Failure], folder: Path) -> str:
    names = {cell.key: cell.name for cell in cells}
    lines = [
        f"{names[key]}: {failure.error} ({_file(folder, names[key], ERROR)})"
        for key, failure in failures.items()
    ]
    count = f"{len(failures)} of {len(cells)} cells failed"
    return "\n  ".join([f"{count}; the others are done:", *lines])
