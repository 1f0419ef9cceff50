"""What adversaries with a director share: what it names, its lagged networks, its copy at work."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from robustmarl._checks import check, check_choice, check_int, check_number, speaking_for
from robustmarl.adversaries.base import Adversary, Sample
from robustmarl.attacks.gradient import GradientAttack
from robustmarl.joint import JointBatch, TeamSpec
from robustmarl.learning.base import build_network
from robustmarl.learning.returns import masked_mean
from robustmarl.learning.settings import NetworkSettings, take
from robustmarl.networks import Agents
from robustmarl.perturbers.director import DirectedObsPerturber
from robustmarl.policies import TeamPolicy
from robustmarl.schedules import Schedule

__all__ = ["Directing", "LaggedDirecting", "director_network"]


class Directing(Adversary):
    """A director names actions of the victim, and a generator pushes the victim towards them.

    It learns from the very episodes that the team drew for itself, by one update per update of the
    team: a subclass implements :meth:`update`.

    Args:
        director: who names actions; its schedules go by the episodes and steps that it played.
        generator: pushes victims towards the actions named.
        agents: names of the attacked agents; None is all.
        episodes: share of the episodes in which it attacks while it learns, in [0, 1].
        epsilon: the generator's radius >= 0 over the training of the team, a schedule; None is the
            generator's own, as of attacks of what is :meth:`deployed`. The director's own schedules
            go by what it played, attacked or not.
    """

    needs = frozenset({"drawn"})
    director: TeamPolicy

    def __init__(
        self,
        director: TeamPolicy,
        generator: GradientAttack,
        *,
        agents: Collection[str] | None,
        episodes: float,
        epsilon: float | Schedule | None,
    ) -> None:
        super().__init__()
        rule = "another than 'kl', by which it does not matter what a director draws"
        loss = getattr(generator, "loss", None)
        check(loss != "kl", f"{type(self).__name__}.generator.loss", rule, loss)
        self.director = director
        self._generator = generator
        with speaking_for(self, DirectedObsPerturber):
            self._perturber = DirectedObsPerturber(
                director,
                generator,
                explore=True,
                agents=agents,
                episodes=episodes,
                epsilon=epsilon,
            )
        self.epsilon = self._perturber.epsilon

    @abstractmethod
    def update(self, batch: JointBatch, target: Tensor, played: Tensor) -> dict[str, float]:
        """Take an update's steps, and return figures by name.

        Args:
            batch: the episodes.
            target: the actions that the director named, int64 (B, T, N) or float (B, T, N, A).
            played: the steps of episodes in which it attacked, bool (B, T).
        """

    def perturber(self) -> DirectedObsPerturber:
        """Return what plays while it learns: the director, which explores."""
        return self._perturber

    def deployed(self, greedy: bool | None = None) -> DirectedObsPerturber:
        """Return a copy of the director at work, which explores no more."""
        copied = copy.deepcopy(self.director).requires_grad_(False).eval()
        return DirectedObsPerturber(copied, self._generator, agents=self._perturber.agents)

    def can_learn(self, sample: Sample) -> bool:
        """Return whether there are any episodes: new ones are counted even if none was drawn."""
        return sample.fresh is not None or sample.drawn is not None

    def learn(self, sample: Sample) -> Mapping[str, float]:
        """Learn from the episodes that the team drew; see the class."""
        if sample.fresh is not None:
            self.director.count("episodes", len(sample.fresh))
            self.director.count("env_steps", int(sample.fresh.valid.sum()))
        batch = sample.drawn
        if batch is None:
            return {}
        record = self.recorded(batch)
        where, remedy = f"{type(self).__name__}.learn.sample", "Collect with its perturber()."
        check("target" in record, where, "of episodes that it played in", "others", remedy)
        target, attacked = record["target"], record["attacked"].flatten(1).any(dim=1)
        played = batch.valid & attacked.unsqueeze(-1)
        figures = self.update(batch, target, played)
        self.updated()
        self.step_schedulers()
        return figures | _reached(batch, target, played)

    def updated(self) -> None:
        """Take note of an update's end: nothing here."""


class LaggedDirecting(Directing):
    """A director whose targets are those of networks that follow its own.

    Args:
        director: as of :class:`Directing`.
        generator: likewise.
        online: networks that learn, of which a lagged copy gives targets.
        agents: as of :class:`Directing`.
        episodes: likewise.
        epsilon: likewise.
        gamma: discount in [0, 1].
        td_lambda: in [0, 1]; 0 for one-step targets.
        target_update: copy online to lagged networks every so many units, >= 1.
        target_unit: ``"episodes"`` that it played, or ``"updates"``.
    """

    last_target_update: Tensor

    def __init__(
        self,
        director: TeamPolicy,
        generator: GradientAttack,
        online: nn.Module,
        *,
        agents: Collection[str] | None,
        episodes: float,
        epsilon: float | Schedule | None,
        gamma: float,
        td_lambda: float,
        target_update: int,
        target_unit: Literal["episodes", "updates"],
    ) -> None:
        super().__init__(director, generator, agents=agents, episodes=episodes, epsilon=epsilon)
        name = type(self).__name__
        self.gamma = check_number(f"{name}.gamma", gamma, 0.0, 1.0)
        self.td_lambda = check_number(f"{name}.td_lambda", td_lambda, 0.0, 1.0)
        self.target_update = check_int(f"{name}.target_update", target_update, 1)
        check_choice(f"{name}.target_unit", target_unit, ("episodes", "updates"))
        self.target_unit = target_unit
        self._online = (online,)  # in a tuple, which torch does not look into: saved elsewhere
        self._lagged = copy.deepcopy(online).requires_grad_(False)
        self.register_buffer("last_target_update", torch.zeros((), dtype=torch.int64))

    def updated(self) -> None:
        """Count the update, and let the lagged networks follow if it is time."""
        self.director.count("updates", 1)
        now = self.director.counted(self.target_unit)
        if now - int(self.last_target_update) >= self.target_update:
            self._lagged.load_state_dict(self._online[0].state_dict())
            self.last_target_update.fill_(now)


def director_network(where: str, spec: TeamSpec, settings: dict[str, Any]) -> Agents:
    """Return a network over a team's actions, recurrent and shown its own last targets.

    Args:
        where: who asks, for error messages.
        spec: the team's; discrete actions.
        settings: keywords of networks are taken out of it.
    """
    rule = "discrete: a director names one of the victim's actions"
    remedy = "Take adversaries.ContinuousATSA or TeamPAAD."
    check(not spec.continuous, f"{where}.for_env.env", rule, "a Box of actions", remedy)
    # The victim's own kind of network, a GRU of 64 as in PyMARL, fed with targets for last actions.
    default = NetworkSettings(hidden=(64,), recurrent=True, last_action=True)
    return build_network(spec, default | take(settings, NetworkSettings))


def _reached(batch: JointBatch, target: Tensor, played: Tensor) -> dict[str, float]:
    """Return how near living agents came to what was named for them, exploration included.

    That is ``realised``, the share of actions that were the one named; of vectors ``missed``, the
    mean distance of their coordinates, of at most 2.
    """
    act = batch.act if batch.act_exec is None else batch.act_exec
    rows = batch.living & played.unsqueeze(-1)
    if not act.is_floating_point():
        return {"realised": float(masked_mean((act == target).float(), rows))}
    missed = (act.clamp(-1.0, 1.0) - target).abs().mean(dim=-1)
    return {"missed": float(masked_mean(missed, rows))}
