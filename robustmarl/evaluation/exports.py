"""Cross tables for other tools: LaTeX, and the JSON layout of marl-eval."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from robustmarl._checks import check, check_int, check_kind, check_text

if TYPE_CHECKING:
    from robustmarl.evaluation.tables import CrossTable

__all__ = ["latex", "marl_eval", "written"]

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        **{sign: f"${sign}$" for sign in "<>"},
    }
)


def latex(table: CrossTable, caption: str = "", label: str = "") -> str:
    """Return a LaTeX table; see :meth:`CrossTable.to_latex`."""
    check(bool(caption) or not label, "CrossTable.to_latex.label", "given with a caption", label)
    best = {attack: _best(table, attack) for attack in table.attacks}
    averages = ["AVG"] if table.averaged else []
    lines = [_row([_escaped(text) for text in ("victim", *table.attacks, *averages)]), r"\midrule"]
    for index, (victim, row) in enumerate(table.cells.items()):
        if table.begins_block(index):
            lines.append(r"\midrule")
        name = _escaped(victim)
        shown = [rf"\textit{{{name}}}" if table.is_baseline(victim) else name]
        for attack in table.attacks:
            if attack not in row:
                shown.append("--")
                continue
            mean, ends = str(row[attack].estimate).split(" ", 1)
            mean = rf"\textbf{{{mean}}}" if victim in best[attack] else mean
            shown.append(rf"{mean} {{\scriptsize {ends}}}")
        if averages:
            shown.append(_escaped(str(table.average(victim) or "--")))
        lines.append(_row(shown))
    columns = "l" * (1 + len(table.attacks) + len(averages))
    body = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        *lines,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    footer = _escaped(table.footer)
    if not caption:
        return "\n".join([f"% {footer}", *body, ""])
    marked = [rf"\label{{{label}}}"] if label else []
    head = [r"\begin{table}", r"\centering", rf"\caption{{{caption} {footer}.}}", *marked]
    return "\n".join([*head, *body, r"\end{table}", ""])


def marl_eval(environment: str, tables: Mapping[str, CrossTable], *, env_steps: int = 0) -> str:
    """Return raw scores of several tasks in the JSON layout of marl-eval.

    Environment, task, algorithm, run, step: victims are its algorithms, training seeds its runs,
    and each task under each attack is a task, ``3m, PGD``, so that its figures over tasks are over
    attacks, too. There is one step, the trained team, and it is the absolute metric as well. The
    tool wants every algorithm on every task with as many runs.

    Args:
        environment: name of the environment.
        tables: task to table, all with the same victims.
        env_steps: the training steps to state.

    Raises:
        ValueError: for no table, other victims, missing cells, or unequal numbers of seeds.

    Example:
        >>> from robustmarl.evaluation import Cell, CrossTable
        >>> table = CrossTable(metric="success", cells={"QMIX": {"PGD": Cell({0: [1.0, 0.0]})}})
        >>> list(json.loads(marl_eval("skirmish", {"3m": table}))["skirmish"])
        ['3m, PGD']
    """
    environment = check_text("marl_eval.environment", environment)
    env_steps = check_int("marl_eval.env_steps", env_steps, 0)
    where = "marl_eval.tables"
    check_kind(where, tables, Mapping, "a mapping from tasks to tables")
    for task, table in tables.items():
        known = hasattr(table, "cells") and hasattr(table, "victims")
        if not known:
            raise TypeError(f"{where}[{task!r}] must be a CrossTable, got {table!r}.")
    check(len(tables) > 0, where, "non-empty", tables)
    victims = [set(table.victims) for table in tables.values()]
    check(all(one == victims[0] for one in victims), where, "of the same victims", victims)
    counts = set()
    tasks: dict[str, dict[str, object]] = {}
    for task, table in tables.items():
        for attack in table.attacks:
            name = f"{task}, {attack}"
            tasks[name] = {}
            for victim, row in table.cells.items():
                check(attack in row, where, f"given a cell of {victim!r} under {attack!r}", task)
                scores = row[attack].scores
                counts.add(len(scores))
                tasks[name][victim] = {
                    f"seed_{seed}": {
                        "step_1": {"step_count": env_steps, table.metric: values.tolist()},
                        "absolute_metrics": {table.metric: values.tolist()},
                    }
                    for seed, values in scores.items()
                }
    check(len(counts) == 1, where, "of as many seeds everywhere", sorted(counts))
    return json.dumps({environment: tasks}, allow_nan=False)


def written(text: str, path: str | Path | None) -> str:
    """Return ``text``, written to ``path`` if there is one."""
    if path is not None:
        Path(path).write_text(text, "utf-8")
    return text


def _best(table: CrossTable, attack: str) -> set[str]:
    """Return the trained teams with the highest figure, as printed."""
    shown = {
        victim: str(row[attack].estimate).split(" ", 1)[0]
        for victim, row in table.cells.items()
        if attack in row and not table.is_baseline(victim)
    }
    most = max((float(text) for text in shown.values()), default=None)
    return {victim for victim, text in shown.items() if float(text) == most}


def _escaped(text: str) -> str:
    return text.translate(_LATEX)


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"
