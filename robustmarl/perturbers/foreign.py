"""Policies from elsewhere play a team, and are poisoned while they learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from robustmarl._checks import check, check_has, check_kind
from robustmarl._seeding import Draws, inverse
from robustmarl.joint import StepContext, TeamSpec
from robustmarl.perturbers._fit import Fit
from robustmarl.victims import (
    MembersVictim,
    PolicyVictim,
    Rows,
    Victim,
    VictimLike,
    VictimView,
    as_victim,
)

__all__ = ["ForeignLearner", "PolicyController"]


class PolicyController:
    """A victim plays the team that it is attacked in, by its most likely actions or its means.

    Tianshou's policies with a distribution over discrete actions and ``deterministic_eval=False``
    draw from it, as they do in Tianshou's own evaluation. Memory begins anew in each episode.

    Args:
        victim: what answers with logits or means.
        spec: the team it plays.
        where: what errors call it.

    Raises:
        ValueError: if it is not for such a team.

    Example:
        >>> from robustmarl import envs, evaluation, joint, victims
        >>> argmax = victims.FunctionVictim(lambda obs: obs[:, :2])
        >>> player = PolicyController(argmax, joint.spec_of(envs.ToyGame()), "player")
        >>> evaluation.rollout(player, envs.ToyGame, episodes=1).returns
        array([0.])
    """

    def __init__(
        self, victim: Victim, spec: TeamSpec, where: str = "PolicyController.victim"
    ) -> None:
        check_has(where, victim, ("at", "side"), "a Victim, as victims.as_victim returns")
        check_kind("PolicyController.spec", spec, TeamSpec, "a TeamSpec", "Write spec_of(env).")
        self.spec, self._victim, self._where = spec, victim, where
        kinds = ("discrete", "continuous")
        rule = f"a policy for {kinds[spec.continuous]} actions"
        fits = victim.continuous == spec.continuous
        check(fits, where, rule, f"a {kinds[victim.continuous]} one")
        rule = "a policy that acts without the memory of another"
        check(not victim.acting_only, where, rule, victim)
        self._fit = Fit.of(victim, spec, spec.agents, where).to(victim.device)
        members = victim.members if isinstance(victim, MembersVictim) else [victim]
        flags = [isinstance(member, PolicyVictim) and member.stochastic for member in members]
        stochastic = torch.tensor(flags, device=victim.device)  # one per member
        everybody = torch.arange(spec.num_agents, device=victim.device)
        several = len(members) > 1
        self._stochastic = stochastic[self._fit.ids_of(everybody)] if several else stochastic
        self._draws, self._has_answered = any(flags), False

    @property
    def hidden_size(self) -> int:
        """H, 0 without memory."""
        return self._victim.hidden_size

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self._victim.device

    @torch.no_grad()
    def infer(self, context: StepContext) -> tuple[Tensor, Tensor | None]:
        """Return logits or means (E, N, A) for ``context.seen`` and the next hidden state."""
        fit, shape = self._fit, context.alive.shape  # (E, N)
        agents = torch.arange(shape[1], device=self.device).expand(shape).flatten()
        state, last_act = context.state, context.last_act.flatten(0, 1)
        if state.dim() == 2:
            state = state.unsqueeze(1).expand(*shape, -1)
        side = self._victim.side(context)
        rows = Rows(
            obs_mask=fit.real_rows(agents),
            hidden=None if context.hidden is None else context.hidden.flatten(0, 1),
            last_act=fit.cut_actions(last_act),
            agents=fit.ids_of(agents),
            state=state.flatten(0, 1),
            side={name: part.flatten(0, 1) for name, part in side.items()},
        )
        view, seen = self._victim.at(rows), fit.cut(context.seen.flatten(0, 1))
        output = self._asked(view, seen)
        size = output.shape[-1]
        rule = f"a policy with outputs of shape ({len(seen)}, {fit.num_actions})"
        fits = output.dim() == 2 and size == fit.num_actions
        check(fits, self._where, rule, f"outputs of shape {tuple(output.shape)}")
        output = pad(output, (0, self.spec.num_actions - size)).view(*shape, -1)
        hidden = view.advance(seen)
        return output, None if hidden is None else hidden.view(*shape, -1)

    def _asked(self, view: VictimView, seen: Tensor) -> Tensor:
        """Return its outputs; what fails at the first step is told with the size it was shown."""
        if self._has_answered:
            return view.output(seen)
        try:
            output = view.output(seen)
        except RuntimeError as error:
            raise ValueError(
                f"{self._where} must be a policy for observations of shape {tuple(seen.shape)}, "
                f"got one that fails there: {error}."
            ) from error
        self._has_answered = True
        return output

    def select(
        self, output: Tensor, mask: Tensor, draws: Draws, training: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return actions (E, N) or (E, N, A), and no log-probabilities."""
        if self.spec.continuous:
            return output.clamp(-1.0, 1.0), None
        act = output.argmax(dim=-1)
        if self._draws:
            drawn = inverse(torch.softmax(output, dim=-1), draws.uniform(output.shape[1]))
            act = torch.where(self._stochastic, drawn, act)
        return act, None

    def record(self) -> Mapping[str, Tensor]:
        """Return nothing: it acts on nothing else."""
        return {}

    def victim(self) -> Victim | None:
        """Return the victim that plays."""
        return self._victim

    def check_spec(self, spec: TeamSpec) -> None:
        """Raise ``ValueError`` unless it was made for this team."""
        if difference := self.spec.describe_difference(spec):
            raise ValueError(f"PolicyController.spec must be the team's, got {difference}.")


class ForeignLearner:
    """A learner from elsewhere as one that can be poisoned: its policy, and when it trains.

    Args:
        where: what errors call it.
        learner: a policy or algorithm of Tianshou, for discrete actions.
        spec: the team it plays.

    Attributes:
        policy: who plays; knows its probabilities if it has a distribution.

    Raises:
        TypeError: if it is something else.
        ValueError: if it does not fit the team.

    Example:
        >>> from gymnasium.spaces import Discrete
        >>> from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
        >>> from tianshou.utils.net.common import Net
        >>> from robustmarl import envs, joint
        >>> network = Net(state_shape=5, action_shape=2)
        >>> policy = DiscreteQLearningPolicy(model=network, action_space=Discrete(2))
        >>> learner = ForeignLearner("learner", policy, joint.spec_of(envs.ToyGame()))
        >>> learner.policy.is_within_training_step
        False
    """

    def __init__(self, where: str, learner: VictimLike, spec: TeamSpec) -> None:
        trained: Any = getattr(learner, "policy", learner)
        if not hasattr(trained, "is_within_training_step"):
            raise TypeError(
                f"{where} must be a robustmarl algorithm, or an algorithm or policy of Tianshou, "
                f"got {type(learner).__name__}."
            )
        victim = as_victim(where, learner)
        members = victim.members if isinstance(victim, MembersVictim) else [victim]
        rated = all(isinstance(one, PolicyVictim) and one.has_distribution for one in members)
        kind = _RatedPlayer if rated else _Player
        self.spec, self.policy = spec, kind(victim, spec, where, trained=trained)


class _Training(Protocol):
    """A policy of Tianshou's."""

    is_within_training_step: bool


class _Player(PolicyController):
    """What the poisoner asks of a policy beside its outputs."""

    def __init__(self, victim: Victim, spec: TeamSpec, where: str, *, trained: _Training) -> None:
        super().__init__(victim, spec, where)
        self._trained = trained

    @property
    def is_within_training_step(self) -> bool:
        """Whether its trainer is within a training step."""
        return self._trained.is_within_training_step

    def acted_on(self, context: StepContext) -> dict[str, Tensor]:
        """Return nothing: it acts on observations alone."""
        return {}


class _RatedPlayer(_Player):
    """One whose logits are those of a distribution."""

    def log_prob(self, output: Tensor, act: Tensor) -> Tensor:
        """Return log-probabilities (...,) of actions, given logits (..., A)."""
        return output.log_softmax(dim=-1).gather(-1, act.unsqueeze(-1)).squeeze(-1)
