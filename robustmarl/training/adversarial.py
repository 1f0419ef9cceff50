"""A team and adversaries that learn against each other, or against a team that stands still."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from tianshou.algorithm.algorithm_base import Algorithm, TrainingStats
from tianshou.trainer import OffPolicyTrainer, OnPolicyTrainer
from tianshou.utils.torch_utils import torch_train_mode
from torch import Tensor

from robustmarl._checks import check, check_int
from robustmarl.adversaries import Adversary, Sample
from robustmarl.adversaries.base import check_adversaries
from robustmarl.adversaries.population import PopulationPerturber
from robustmarl.algorithms.ppo_based import PPOBased
from robustmarl.data import EpisodeBuffer
from robustmarl.joint import JointBatch, TeamSpec
from robustmarl.learning import TeamAlgorithm, TeamTrainingStats
from robustmarl.learning.optim import own_state_dict
from robustmarl.perturbers.base import Perturber
from robustmarl.perturbers.obs import ObsPerturber
from robustmarl.policies import FrozenPolicy, TeamPolicy
from robustmarl.schedules import Schedule
from robustmarl.victims import NetworkVictim

__all__ = ["AdversarialTraining"]


class AdversarialTraining(Algorithm[Any, Any]):
    """A team and adversaries as one algorithm, which ``training.run`` trains.

    In every round the team learns from what it saw, and each adversary from what it played
    itself: the newest episodes, or the very ones that the team drew, as it needs them. Several
    adversaries all play at once; in a :class:`~robustmarl.adversaries.Population` exactly one
    does in an episode. With ``team_every=None`` the team stands still: a copy of its policy acts
    as in evaluation and never learns, the team itself is left as it is, and any team of ours can
    so be attacked by any adversary.

    All weights and optimizers are in one ``state_dict``. Figures of adversaries have their
    perturber's name in front: ``adversary/loss``.

    Args:
        team: who is to withstand, on- or off-policy; a policy is enough where it stands still.
        adversaries: one, or several, all different objects.
        team_every: the team learns in every so many rounds, >= 1; None never.
        adversary_every: the adversaries learn in every so many rounds, >= 1.

    Raises:
        TypeError: for a team or adversaries of another kind.
        ValueError: for adversaries that need advantages of a team that has none.

    Example:
        >>> from robustmarl import adversaries, algorithms, budgets, envs, training
        >>> team = algorithms.MAPPO.for_env(envs.ToyGame(horizon=5), seed=0)
        >>> ball = budgets.LinfBall(epsilon=0.5)
        >>> adversary = adversaries.ObsAdversaryPPO.for_env(envs.ToyGame(horizon=5), ball, seed=1)
        >>> both = AdversarialTraining(team, adversary)
        >>> quiet = training.Log(progress=False)
        >>> training.run(both, lambda: envs.ToyGame(horizon=5), env_steps=100, log=quiet).episodes
        20
    """

    rounds: Tensor
    episodes_learned: Tensor
    policy: TeamPolicy
    team: TeamAlgorithm | None

    def __init__(
        self,
        team: TeamAlgorithm | TeamPolicy,
        adversaries: Adversary | Sequence[Adversary],
        *,
        team_every: int | None = 1,
        adversary_every: int = 1,
    ) -> None:
        name = type(self).__name__
        known = isinstance(team, TeamAlgorithm | TeamPolicy)
        if not known or (team_every is not None and isinstance(team, TeamPolicy)):
            kind = type(team).__name__
            raise TypeError(f"{name}.team must be a robustmarl algorithm, got {kind}.")
        several = [adversaries] if isinstance(adversaries, Adversary) else adversaries
        several = check_adversaries(f"{name}.adversaries", several)
        if team_every is not None:
            team_every = check_int(f"{name}.team_every", team_every, 1)
        victim = team.policy if isinstance(team, TeamAlgorithm) else team
        super().__init__(policy=FrozenPolicy(victim) if team_every is None else victim)
        moving = isinstance(team, TeamAlgorithm) and team_every is not None
        self.team = cast(TeamAlgorithm, team) if moving else None
        self._adversaries = torch.nn.ModuleList(several)
        self.team_every = team_every
        self.adversary_every = check_int(f"{name}.adversary_every", adversary_every, 1)
        self._seed = team.seed if isinstance(team, TeamAlgorithm) else 0
        if "advantage" in self._needs:
            rule = "MAPPO or another that has advantages, which an adversary needs"
            check(isinstance(self.team, PPOBased), f"{name}.team", rule, type(team).__name__)
        self.lr_schedulers = [
            scheduler
            for part in self._adversaries.modules()  # a population's members, too
            if isinstance(part, Adversary)
            for scheduler in part.lr_schedulers
        ]
        if self.team is not None:
            self._optimizers = list(self.team._optimizers)
            self.lr_schedulers = [*self.team.lr_schedulers, *self.lr_schedulers]
        for counter in ("rounds", "episodes_learned"):
            self.register_buffer(counter, torch.zeros((), dtype=torch.int64))

    @property
    def adversaries(self) -> list[Adversary]:
        """What learns against the team."""
        return cast("list[Adversary]", list(self._adversaries))

    @property
    def _needs(self) -> set[str]:
        return {need for adversary in self.adversaries for need in adversary.needs}

    @property
    def spec(self) -> TeamSpec:
        """The team's."""
        return self.policy.spec

    @property
    def off_policy(self) -> bool:
        """Whether it learns from a replay buffer, or from the newest episodes only.

        As the team does; around a team that stands still, as its adversaries need it.
        """
        return "drawn" in self._needs if self.team is None else self.team.off_policy

    @property
    def takes_segments(self) -> bool:
        """Whether it learns from pieces of episodes: if the team and all adversaries do."""
        learners = [*self.adversaries, *([] if self.team is None else [self.team])]
        return all(learner.takes_segments for learner in learners)

    @property
    def seed(self) -> int:
        """Of the team's minibatches; a resumed run sets it."""
        return self._seed if self.team is None else self.team.seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self._seed = seed
        if self.team is not None:
            self.team.seed = seed

    def victim(self) -> NetworkVictim:
        """Return the team's live view."""
        return self.policy.victim()

    def perturbers(self) -> list[Perturber]:
        """Return what ``training.run`` adds to the perturbations: the team's own, and these.

        Raises:
            ValueError: for a radius that is zero as long as the team stands still.
        """
        of_team = [] if self.team is None else self.team.perturbers()
        found = [adversary.perturber() for adversary in self.adversaries]
        if isinstance(self.policy, FrozenPolicy):
            for schedule in _radii(found):
                radius = schedule(self.policy.copied.counted(schedule.unit))
                where = f"{type(self).__name__}.adversaries.epsilon"
                rule = "> 0 against a team that stands still, which counts no further"
                check(radius > 0.0, where, rule, radius, "Leave epsilon out.")
        return [*of_team, *found]

    def update(self, buffer: EpisodeBuffer, **how: Any) -> TrainingStats:
        """Let the team and its adversaries learn, each in its rounds.

        Args:
            buffer: the episodes.
            how: as of a team's ``update``: ``sample_size`` off-policy, ``batch_size`` and
                ``repeat`` on-policy.
        """
        number = int(self.rounds)
        team_learns = self.team_every is not None and number % self.team_every == 0
        adversaries_learn = number % self.adversary_every == 0
        new = len(buffer)  # on-policy: all that it holds, which pieces of episodes may be
        if self.off_policy:
            new = self.policy.counted("episodes") - int(self.episodes_learned)
        fresh = buffer.latest(new) if adversaries_learn and new > 0 else None
        drawn = None
        if team_learns or (adversaries_learn and "drawn" in self._needs):
            drawn = _Drawn(*buffer.sample(how.get("sample_size", 0)), buffer)
        sample = Sample(
            fresh=fresh,
            drawn=None if drawn is None else drawn.batch,
            advantage=None if fresh is None else self._advantage(fresh),
            epochs=how.get("repeat", 1),
        )
        stats: TrainingStats = TeamTrainingStats(metrics={})
        if team_learns and self.team is not None:
            stats = cast(Any, self.team).update(buffer=drawn, **how)
        if adversaries_learn:
            figures = self._learn(sample)
            if isinstance(stats, TeamTrainingStats):
                stats.metrics.update(figures)
        if fresh is not None:
            self.episodes_learned.fill_(self.policy.counted("episodes"))
        self.rounds += 1
        return stats

    def _learn(self, sample: Sample) -> dict[str, float]:
        figures: dict[str, float] = {}
        for adversary in self.adversaries:
            if not adversary.can_learn(sample):
                continue
            with torch_train_mode(adversary):
                found = adversary.learn(sample)
            name = adversary.perturber().place.name
            figures |= {f"{name}/{key}": value for key, value in found.items()}
        return figures

    @torch.no_grad()
    def _advantage(self, batch: JointBatch) -> Tensor | None:
        """Return the team's advantages, standardised over what it learns from, (B, T, N)."""
        if "advantage" not in self._needs or not isinstance(self.team, PPOBased):
            return None
        return self.team.standardized(batch, self.team.advantages(batch)[0])

    def create_trainer(self, params: Any) -> Any:
        """Return Tianshou's trainer of its kind."""
        kind: Any = OffPolicyTrainer if self.off_policy else OnPolicyTrainer
        return kind(self, params)

    def state_dict(  # type: ignore[override]
        self, *args: Any, prefix: str = "", **kwargs: Any
    ) -> dict[str, object]:
        """Return all weights, and all optimizers once."""
        state: dict[str, object] = super().state_dict(*args, prefix=prefix, **kwargs)
        kept = prefix + self._STATE_DICT_KEY_OPTIMIZERS
        for key in list(state):
            if key.endswith("." + self._STATE_DICT_KEY_OPTIMIZERS) and key != kept:
                del state[key]  # the team's, which are among these
        return state

    def load_state_dict(
        self, state_dict: Mapping[str, object], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load all weights and optimizers; the caller's dictionary is left as it is."""
        copied = own_state_dict(state_dict)
        return super().load_state_dict(copied, strict=strict, assign=assign)


@dataclass(frozen=True)
class _Drawn:
    """Stands for the buffer in the team's update, and samples what was drawn from it.

    Attributes:
        batch: the episodes.
        slots: where they are in the buffer, (B,).
        buffer: what they were drawn from, for teams that learn from the newest episodes, too.
    """

    batch: JointBatch
    slots: NDArray[np.int64]
    buffer: EpisodeBuffer

    def sample(self, batch_size: int | None) -> tuple[JointBatch, NDArray[np.int64]]:
        """Return what was drawn, whatever is asked for."""
        return self.batch, self.slots

    def latest(self, episodes: int) -> JointBatch:
        """Return the newest episodes of the buffer, as DOP asks for."""
        return self.buffer.latest(episodes)


def _radii(perturbers: Sequence[Perturber]) -> Iterator[Schedule]:
    """Yield the radii over time that perturbers have, those of populations, too."""
    for one in perturbers:
        if isinstance(one, PopulationPerturber):
            yield from _radii(one.members)
        elif isinstance(one, ObsPerturber) and one.epsilon is not None:
            yield one.epsilon
