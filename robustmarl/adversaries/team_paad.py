"""PA-AD with a team's own learner for a director: of whatever class the victim is."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Self

from torch import Tensor, nn

from robustmarl._checks import check, check_kind
from robustmarl.adversaries.directing import Directing
from robustmarl.attacks.gradient import GradientAttack
from robustmarl.joint import JointBatch, TeamSpec
from robustmarl.learning import OffPolicyTeam
from robustmarl.learning.making import remembered
from robustmarl.perturbers.director import DirectedObsPerturber
from robustmarl.policies import ActorPolicy
from robustmarl.schedules import Schedule
from robustmarl.typing import Env

__all__ = ["TeamPAAD"]


_RULE = "a class of off-policy teams, such as algorithms.MADDPG"


class TeamPAAD(Directing):
    r"""PA-AD [Sun2022]_ with a learner of the victim's own class for director, on -r.

    Against MADDPG's continuous teams it is MADDPG: a deterministic actor
    :math:`\hat a^i = \mu^i(o^i)` over the victim's actions, with a critic and target networks of
    its own, that sees clean observations and earns :math:`-r`. It learns by one update of the
    learner per update of the team, from the very episodes that the team drew for itself, with what
    it named for actions. Against VDN and QMIX :class:`PAAD` is the same idea with the arguments of
    the papers.

    A learner that asks for the newest episodes, as DOP does, takes those drawn for them.

    Agents of a learner with ``last_action``, which :meth:`for_env` gives it, see their own last
    target.

    Args:
        learner: off-policy, made for the team that is attacked; it is the adversary's from then
            on. Its exploration is the director's.
        generator: pushes victims towards the actions named: ``perturbers.stor(ball)``.
        agents: names of the attacked agents; None is all.
        episodes: share of the episodes in which it attacks while it learns, in [0, 1].
        epsilon: the generator's radius >= 0 over the training of the team; None is its own.

    Raises:
        TypeError: for a learner that is on-policy, or none.

    Example:
        >>> from functools import partial
        >>> from robustmarl import algorithms, budgets, envs, evaluation, perturbers
        >>> make = partial(envs.spread, agents=2, continuous_actions=True)
        >>> generator = perturbers.stor(budgets.LinfBall(epsilon=0.1), continuous=True)
        >>> adversary = TeamPAAD.for_env(make(), generator, kind=algorithms.MADDPG, seed=1)
        >>> team = algorithms.MADDPG.for_env(make(), seed=0)
        >>> evaluation.rollout(team, make, episodes=2, perturb=adversary.deployed()).counters
        {'0/attacked': 100.0, '0/unchanged': 0.0}
    """

    def __init__(
        self,
        learner: OffPolicyTeam,
        generator: GradientAttack,
        *,
        agents: Collection[str] | None = None,
        episodes: float = 1.0,
        epsilon: float | Schedule | None = None,
    ) -> None:
        name = type(self).__name__
        rule = "an off-policy team of this package, such as MADDPG.for_env(env)"
        check_kind(f"{name}.learner", learner, OffPolicyTeam, rule)
        super().__init__(
            learner.policy, generator, agents=agents, episodes=episodes, epsilon=epsilon
        )
        # Of Tianshou's algorithms the state dict has optimizers among the weights, which torch
        # would look for here: its parts are taken over one by one, its optimizers with ours.
        self._learner = (learner,)
        parts = {part: module for part, module in learner.named_children() if part != "policy"}
        self._parts = nn.ModuleDict(parts)
        self.optimizers.extend(learner._optimizers)
        self.lr_schedulers.extend(learner.lr_schedulers)

    @classmethod
    @remembered
    def for_env(
        cls,
        env: Env | TeamSpec,
        generator: GradientAttack,
        *,
        kind: type[OffPolicyTeam],
        agents: Collection[str] | None = None,
        episodes: float = 1.0,
        epsilon: float | Schedule | None = None,
        **settings: Any,
    ) -> Self:
        """Return the adversary with a learner of the right sizes for ``env``'s team.

        Args:
            env: an environment, or a spec.
            generator: pushes victims towards the actions named: ``perturbers.stor(ball)``.
            kind: the learner's class, the victim's own as a rule: ``algorithms.MADDPG``.
            agents: as of the class.
            episodes: likewise.
            epsilon: likewise.
            settings: of ``kind.for_env``, ``team``, ``device`` and ``seed`` among them;
                ``last_action`` is True unless given.
        """
        if not (isinstance(kind, type) and issubclass(kind, OffPolicyTeam)):
            raise TypeError(f"{cls.__name__}.kind must be {_RULE}, got {kind!r}.")
        learner = kind.for_env(env, **({"last_action": True} | settings))
        return cls(learner, generator, agents=agents, episodes=episodes, epsilon=epsilon)

    @property
    def learner(self) -> OffPolicyTeam:
        """Who learns for the director."""
        return self._learner[0]

    def deployed(self, greedy: bool | None = None) -> DirectedObsPerturber:
        """Return a copy of the director at work: greedy, unless asked to draw and able to."""
        made = super().deployed(greedy)
        if isinstance(made.director, ActorPolicy):
            made.director.deterministic_eval = greedy is not False
            return made
        rule = "None or True: its director is deterministic"
        check(greedy is not False, f"{type(self).__name__}.deployed.greedy", rule, greedy)
        return made

    def update(self, batch: JointBatch, target: Tensor, played: Tensor) -> dict[str, float]:
        """Let the learner take its update on what the director lived through."""
        episodes = played.any(dim=1)
        if not bool(episodes.any()):
            return {}
        lived = batch.replace(
            obs=batch.obs.replace(seen=batch.obs.obs),
            act=target,
            rew=-batch.rew,
            rew_agents=-batch.rew_agents,
            logp=None,
            act_intended=None,
            act_exec=None,
            records={},
        )
        # as an update does it, so that mixed-in loss terms are told of, too
        return dict(self.learner._update_with_batch(lived.select(episodes)).metrics)
