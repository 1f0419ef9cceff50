"""What a worst case found: figures, what was chosen, what it cost, and what to doubt."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from robustmarl.evaluation.meter import Reading
from robustmarl.evaluation.tables import CrossTable
from robustmarl.perturbers import ObsPerturber

__all__ = ["ZEROED", "Check", "Finding", "Measured", "WorstCase"]

ZEROED = "zeroed"
"""Under this name stands what happens to decisions where all observations are zeros."""

Check: TypeAlias = Literal[
    "no flips",
    "no gradient",
    "black box",
    "noise",
    "steps",
    "ignores",
    "helps",
    "unlearned",
    "blind",
]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Why a figure may not mean what it seems to.

    ==============  =====================================================================
    check           says that
    ==============  =====================================================================
    no flips        no attack changed one action in a hundred
    no gradient     gradients are zero in most steps, or the victim has none
    black box       an attack without gradients did better than all that follow one
    noise           noise hurts, and no gradient does better than noise
    steps           more steps or restarts did better: those of the others are too few
    ignores         the action hardly ever changes when observations are zeroed
    helps           an attack leaves more than there is without one
    unlearned       without attack it has no more than a random team
    blind           it withstands attacks, and without eyes the team, or one trained blind,
                    has most of what it gains over a random one, and over an untrained one
                    unless that has nearly all of it
    ==============  =====================================================================

    Attributes:
        victim: the team's name.
        check: which one.
        text: what was measured, and what to do.
    """

    victim: str
    check: Check
    text: str

    def __str__(self) -> str:
        """Return it as one line."""
        return f"{self.victim}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What an attack did to decisions, means over training seeds, and what it cost.

    Attributes:
        changed: share of agent-steps in which another observation was shown; see
            :class:`~robustmarl.evaluation.Reading`. None where the team cannot be asked.
        flipped: share in which the action was another (:class:`~robustmarl.evaluation.Reading`).
        vanished: share without gradient; of the line without attack only.
        seconds: CPU time of training, choosing and playing it, all training seeds together.
    """

    changed: float | None = None
    flipped: float | None = None
    vanished: float | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, readings: Mapping[int, Reading], seconds: float | None) -> Measured:
        """Return the means over training seeds."""

        def mean(name: Literal["changed", "flipped", "vanished"]) -> float | None:
            values = [getattr(one, name) for one in readings.values()]
            return float(np.mean(values)) if values and None not in values else None

        return cls(
            changed=mean("changed"),
            flipped=mean("flipped"),
            vanished=mean("vanished"),
            seconds=seconds,
        )


@dataclass(frozen=True, kw_only=True)
class WorstCase:
    """What :func:`~robustmarl.evaluation.worst_case` found.

    Attributes:
        suite: name and version.
        threat: what attacks could change, in words.
        table: teams and baselines against ``none``, every attack, and ``worst``.
        choices: the same attacks on the episodes on which the worst one was chosen.
        chosen: team to training seed to the name of its worst attack.
        families: attack to what it is.
        measured: team to attack to what it did to decisions, and its cost; beside attacks under
            ``none`` and ``zeroed``.
        longer: attacks that show whether others had enough steps.
        attacked: team to training seed to the names of the attacked agents.
        findings: what to doubt; each was a warning, too.
        attacks: team to training seed to its worst attack itself, as deployed, to be given to
            :func:`~robustmarl.evaluation.record` or ``rollout``. Kept in memory alone: what is read
            from JSON has none, and equal results need not share them.
    """

    suite: str
    threat: str
    table: CrossTable
    choices: CrossTable
    chosen: Mapping[str, Mapping[int, str]]
    families: Mapping[str, str]
    measured: Mapping[str, Mapping[str, Measured]]
    longer: tuple[str, ...] = ()
    attacked: Mapping[str, Mapping[int, tuple[str, ...]]] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    attacks: Mapping[str, Mapping[int, ObsPerturber]] = field(
        default_factory=dict, compare=False, repr=False
    )

    @property
    def teams(self) -> tuple[str, ...]:
        """The teams attacked."""
        return tuple(self.chosen)

    @property
    def seconds(self) -> float:
        """CPU seconds of all attacks together."""
        every = (one.seconds for row in self.measured.values() for one in row.values())
        return sum(seconds for seconds in every if seconds is not None)

    def summary(self) -> CrossTable:
        """Return the table of ``none``, noise and ``worst`` only."""
        noise = [name for name, family in self.families.items() if family == "noise"]
        kept = ("none", *noise, "worst")
        cells = {
            row: {name: cell for name, cell in cells.items() if name in kept}
            for row, cells in self.table.cells.items()
        }
        table = self.table
        return CrossTable(
            cells=cells, metric=table.metric, baselines=table.baselines, title=table.title
        )

    def __str__(self) -> str:
        """Return the summary, a line per attack on each team, and the findings."""
        parts = [str(self.summary()), *(self._block(team) for team in self.teams)]
        if self.findings:
            parts.append("\n".join(f"! {finding}" for finding in self.findings))
        head = f"{self.suite}, {self.threat}; {self.seconds:.0f} CPU seconds"
        return "\n\n".join([*parts, head])

    def to_markdown(self) -> str:
        """Return the same in Markdown."""
        parts = [self.summary().to_markdown()]
        for team in self.teams:
            head, *rows = self._lines(team)
            lines = [head, ["---"] * len(head), *rows]
            parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n")
        if self.findings:
            parts.append("\n".join(f"- {finding}" for finding in self.findings) + "\n")
        parts.append(f"{self.suite}, {self.threat}; {self.seconds:.0f} CPU seconds\n")
        return "\n".join(parts)

    def to_json(self, path: str | Path | None = None) -> str:
        """Return everything, raw scores included, as JSON; written to ``path`` if given."""
        content = {
            "suite": self.suite,
            "threat": self.threat,
            "table": json.loads(self.table.to_json()),
            "choices": json.loads(self.choices.to_json()),
            "chosen": self.chosen,
            "families": self.families,
            "measured": {
                team: {name: asdict(one) for name, one in row.items()}
                for team, row in self.measured.items()
            },
            "longer": self.longer,
            "attacked": self.attacked,
            "findings": [asdict(finding) for finding in self.findings],
        }
        text = json.dumps(content, allow_nan=False)
        if path is not None:
            Path(path).write_text(text, "utf-8")
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> WorstCase:
        """Return what :meth:`to_json` wrote.

        Args:
            source: a path, or the JSON text itself (a string that begins with a brace).
        """
        inline = isinstance(source, str) and source.lstrip().startswith("{")
        content = json.loads(str(source) if inline else Path(source).read_text("utf-8"))
        return cls(
            suite=content["suite"],
            threat=content["threat"],
            table=CrossTable.from_json(json.dumps(content["table"])),
            choices=CrossTable.from_json(json.dumps(content["choices"])),
            chosen={
                team: {int(seed): name for seed, name in row.items()}
                for team, row in content["chosen"].items()
            },
            families=content["families"],
            measured={
                team: {name: Measured(**one) for name, one in row.items()}
                for team, row in content["measured"].items()
            },
            longer=tuple(content["longer"]),
            attacked={
                team: {int(seed): tuple(names) for seed, names in row.items()}
                for team, row in content["attacked"].items()
            },
            findings=tuple(Finding(**one) for one in content["findings"]),
        )

    def _block(self, team: str) -> str:
        lines = self._lines(team)
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        head, *rows = (
            "  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )
        return "\n".join([head, "-" * (sum(widths) + 2 * (len(widths) - 1)), *rows])

    def _lines(self, team: str) -> list[list[str]]:
        """Return a line per attack on a team, worst last, with a head."""
        row, measured = self.table.cells[team], self.measured[team]
        times = Counter(self.chosen[team].values())
        lines = [[team, "family", self.table.metric, "flips", "CPU s"]]
        for name, cell in row.items():
            one = measured.get(name, Measured())
            family = self.families.get(name, "")
            if name == "worst":
                family = ", ".join(
                    chosen if count == len(self.chosen[team]) else f"{chosen} ({count})"
                    for chosen, count in times.most_common()
                )
            flips = "" if one.flipped is None else f"{one.flipped:.3f}"
            seconds = "" if one.seconds is None else f"{one.seconds:.1f}"
            lines.append([name, family, str(cell.estimate), flips, seconds])
        return lines
