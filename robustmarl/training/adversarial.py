"""A team and adversaries that learn against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from tianshou.algorithm.algorithm_base import Algorithm, TrainingStats
from tianshou.utils.torch_utils import torch_train_mode
from torch import Tensor

from robustmarl._checks import check, check_int
from robustmarl.adversaries import ObsAdversaryPPO
from robustmarl.joint import JointBatch, TeamSpec
from robustmarl.learning import TeamAlgorithm, TeamTrainingStats
from robustmarl.learning.optim import own_state_dict
from robustmarl.perturbers.base import Perturber
from robustmarl.perturbers.learned import LearnedObsPerturber

__all__ = ["AdversarialTraining", "adversary_view"]


def adversary_view(batch: JointBatch) -> JointBatch:
    """Return the same episodes as the adversary lives them.

    Returns:
        The batch with clean observations, ``act`` and ``logp`` of the adversary's own, and the
        team's reward with its sign turned.

    Raises:
        ValueError: if no adversary played in these episodes.
    """
    played = batch.record("adversary")
    remedy = "Collect with AdversarialTraining.perturbers()."
    check(bool(played), "adversary_view.batch", "collected with an adversary", "none", remedy)
    return batch.replace(
        obs=batch.obs.replace(seen=batch.obs.obs),
        act=played["act"],
        logp=played["logp"],
        rew=-batch.rew,
    )


class AdversarialTraining(Algorithm[Any, Any]):
    """A team and learned adversaries as one Tianshou algorithm.

    In every round the team learns from what it saw, and the adversary from the newest episodes
    as it lived them. All weights and optimizers are in one ``state_dict``.

    Args:
        team: the victim that learns to withstand, on- or off-policy.
        adversary: the learner of the attack.
        agents: names of the attacked agents; None is all.
        team_every: the team learns in every so many rounds, >= 1.
        adversary_every: the adversary learns in every so many rounds, >= 1.
    """

    rounds: Tensor
    episodes_learned: Tensor

    def __init__(
        self,
        team: TeamAlgorithm,
        adversary: ObsAdversaryPPO,
        *,
        agents: Sequence[str] | None = None,
        team_every: int = 1,
        adversary_every: int = 1,
    ) -> None:
        if not isinstance(team, TeamAlgorithm):
            raise TypeError(
                f"AdversarialTraining.team must be a robustmarl algorithm, got {team!r}."
            )
        if not isinstance(adversary, ObsAdversaryPPO):
            raise TypeError(
                f"AdversarialTraining.adversary must be an adversary's learner, got {adversary!r}."
            )
        super().__init__(policy=team.policy)
        self.team: TeamAlgorithm = team
        self.adversary: ObsAdversaryPPO = adversary
        self.team_every = check_int("AdversarialTraining.team_every", team_every, 1)
        self.adversary_every = check_int("AdversarialTraining.adversary_every", adversary_every, 1)
        self._attack = LearnedObsPerturber(adversary.adversary, agents=agents)
        self._optimizers = [*team._optimizers, cast(Any, adversary.optim)]
        self.lr_schedulers = [*team.lr_schedulers, *adversary.lr_schedulers]
        for name in ("rounds", "episodes_learned"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))

    def perturbers(self) -> list[Perturber]:
        """Return what ``training.run`` adds to the perturbations: the sampling adversary."""
        return [self._attack]

    def victim(self) -> Any:
        """Return the team's live view."""
        return self.team.victim()

    @property
    def spec(self) -> TeamSpec:
        """The team's."""
        return self.team.spec

    @property
    def off_policy(self) -> bool:
        """Whether the team learns from a replay buffer, or from the newest episodes only."""
        return self.team.off_policy

    @property
    def seed(self) -> int:
        """Of the team's minibatches; a resumed run sets it."""
        return self.team.seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self.team.seed = seed

    def update(self, buffer: Any, **kwargs: Any) -> TrainingStats:
        """Let team and adversary learn, each in its rounds; arguments as of the team's."""
        stats: TrainingStats = TeamTrainingStats(metrics={})
        if int(self.rounds) % self.team_every == 0:
            stats = cast(Any, self.team).update(buffer=buffer, **kwargs)
        new = self.policy.counted("episodes") - int(self.episodes_learned)
        if new > 0 and int(self.rounds) % self.adversary_every == 0:
            batch = adversary_view(buffer.latest(new))
            with torch_train_mode(self.adversary):
                own = self.adversary.update(batch)
            figures = own.get_loss_stats_dict()
            if isinstance(stats, TeamTrainingStats):
                stats.metrics.update({f"adversary/{key}": v for key, v in figures.items()})
            self.episodes_learned.fill_(self.policy.counted("episodes"))
        self.rounds += 1
        return stats

    def create_trainer(self, params: Any) -> Any:
        """Return the team's kind of trainer, for this algorithm."""
        return type(self.team.create_trainer(params))(self, params)

    def state_dict(  # type: ignore[override]
        self, *args: Any, prefix: str = "", **kwargs: Any
    ) -> dict[str, Any]:
        """Return all weights, and all optimizers once."""
        state: dict[str, Any] = super().state_dict(*args, prefix=prefix, **kwargs)
        own = prefix + self._STATE_DICT_KEY_OPTIMIZERS
        for key in [k for k in state if k.endswith("." + self._STATE_DICT_KEY_OPTIMIZERS)]:
            if key != own:
                del state[key]
        return state

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load all weights and optimizers; the caller's dictionary is left as it is."""
        own = own_state_dict(state_dict)
        return super().load_state_dict(own, strict=strict, assign=assign)
