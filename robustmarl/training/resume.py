"""What a checkpoint of a run keeps, so that a resumed run is the uninterrupted one bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypedDict, cast

import torch
from torch import Tensor

from robustmarl._checks import check
from robustmarl.data import EpisodeBuffer, JointCollector, SlowCopy
from robustmarl.training.checkpoints import check_finite, load_checkpoint, save_checkpoint
from robustmarl.training.fingerprint import Fingerprint, check_same_settings
from robustmarl.training.history import Figures, History
from robustmarl.training.saved import how_made
from robustmarl.training.settings import Log
from robustmarl.training.trainers import EpisodeTrainer, Trainable, TrainerCounters

__all__ = ["CHECKPOINT", "HISTORY", "Checkpoint", "RunState", "checkpoint_of"]

CHECKPOINT = "checkpoint.pt"
"""The name of the checkpoint in a run's folder."""

HISTORY = "history.json"
"""The name of the figures beside it, for people to read."""

State: TypeAlias = dict[str, object]
"""What some part's ``state_dict`` returned."""

# Written as a call since "class" is a word of Python's.
Checkpoint = TypedDict(
    "Checkpoint",
    {
        "class": str,
        "spec": str,
        "settings": Fingerprint,
        "algorithm": State,
        "gradients": dict[str, Tensor],
        "schedulers": list[State],
        "buffer": State,
        "collector": dict[str, int],
        "trainer": TrainerCounters,
        "seed": int,
        "opponents": dict[str, State],
        "history": Figures,
        "torch_rng": Tensor,
    },
)
"""Everything that decides how a run goes on. Environments are seeded per episode and have none."""


def checkpoint_of(log: Log) -> Checkpoint | None:
    """Return the checkpoint from which a run goes on, None if it begins.

    Raises:
        ValueError: if there is one and the run was not told to resume, or if it is another
            version's.
    """
    if log.folder is None or not (path := log.folder / CHECKPOINT).exists():
        return None
    rule = "without a checkpoint of an earlier run"
    remedy = "Pass resume=True to continue it, or another logdir."
    check(log.resume, "Log.logdir", rule, str(log.logdir), remedy)
    saved = load_checkpoint(path)
    missing = sorted(Checkpoint.__required_keys__ - set(saved))
    rule = "with a checkpoint of a run of this version"
    check(not missing, "Log.logdir", rule, f"one without {missing}")
    return cast(Checkpoint, saved)


@dataclass(frozen=True)
class RunState:
    """The parts of a run that a checkpoint keeps.

    Attributes:
        algorithm: what is trained.
        collector: of its episodes; its counter decides which episodes come next.
        buffer: where they are.
        trainer: counts steps, rounds and episodes.
        followers: the opponents that follow the learner, by team.
        history: what was seen so far.
        settings: of the run, as plain data.
    """

    algorithm: Trainable
    collector: JointCollector
    buffer: EpisodeBuffer
    trainer: EpisodeTrainer
    followers: Mapping[str, SlowCopy]
    history: History
    settings: Fingerprint

    def save(self, folder: Path) -> None:
        """Write the checkpoint, and the history beside it.

        Raises:
            ValueError: for weights that are not finite; the last checkpoint stays.
        """
        algorithm, path = self.algorithm, folder / CHECKPOINT
        step = self.trainer.counters()["env_step"]
        kept = f" The last good checkpoint stays in {str(path)!r}." if path.exists() else ""
        remedy = f" Training has diverged by step {step}: lower the learning rate.{kept}"
        check_finite("run.algorithm", algorithm, remedy)
        content: Checkpoint = {
            "class": type(algorithm).__name__,
            "spec": repr(self.collector.spec),
            "settings": self.settings,
            "algorithm": algorithm.state_dict(),
            "gradients": self._gradients(),
            "schedulers": [scheduler.state_dict() for scheduler in algorithm.lr_schedulers],
            "buffer": self.buffer.state_dict(),
            "collector": self.collector.state_dict(),
            "trainer": self.trainer.counters(),
            "seed": algorithm.seed,
            "opponents": {team: copy.state_dict() for team, copy in self.followers.items()},
            "history": self.history.figures(),
            "torch_rng": torch.get_rng_state(),
        }
        save_checkpoint(path, {**content, **how_made(algorithm)})
        self.write_history(folder)

    def write_history(self, folder: Path) -> None:
        """Write the figures, which a kill may have left behind the checkpoint."""
        self.history.write(folder / HISTORY)

    def restore(self, saved: Checkpoint) -> None:
        """Give all parts the state that :meth:`save` wrote.

        Raises:
            ValueError: if the checkpoint is of another algorithm, environment, opponents or
                settings.
        """
        self._check_same(saved)
        algorithm = self.algorithm
        try:
            algorithm.load_state_dict(saved["algorithm"])
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"run.algorithm must have the settings of the run to resume: {error}"
            ) from error
        gradients = saved["gradients"]
        for name, parameter in algorithm.policy.named_parameters():
            known = name in gradients
            parameter.grad = gradients[name].to(parameter) if known else None
        for scheduler, state in zip(algorithm.lr_schedulers, saved["schedulers"], strict=True):
            scheduler.load_state_dict(state)
        self.buffer.load_state_dict(saved["buffer"])
        self.collector.load_state_dict(saved["collector"])
        self.trainer.restore(saved["trainer"])
        for team, copy in self.followers.items():
            copy.load_state_dict(saved["opponents"][team])
        algorithm.seed = saved["seed"]
        self.history.restore(saved["history"])
        torch.set_rng_state(saved["torch_rng"].cpu())

    def _check_same(self, saved: Checkpoint) -> None:
        kind, spec = type(self.algorithm).__name__, repr(self.collector.spec)
        check(
            saved["class"] == kind, "run.algorithm", f"a {saved['class']} to resume this run", kind
        )
        check(saved["spec"] == spec, "run.make_env", "the environment of the run to resume", spec)
        before, now = sorted(saved["opponents"]), sorted(self.followers)
        check(before == now, "run.opponents", f"SlowCopy for {before} to resume this run", now)
        check_same_settings(saved["settings"], self.settings)

    def _gradients(self) -> dict[str, Tensor]:
        """Return the policy's last gradients, which a poisoner may look at (``JAttack``)."""
        named = self.algorithm.policy.named_parameters()
        return {
            name: weight.grad.detach().clone() for name, weight in named if weight.grad is not None
        }
