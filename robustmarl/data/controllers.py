"""Who plays a team: a policy, a random team, a script."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, Protocol, TypeGuard, cast, get_args, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from robustmarl._checks import (
    check_choice,
    check_flag,
    check_function,
    check_has,
    check_kind,
    check_number,
    check_tensor,
    check_usable,
)
from robustmarl._seeding import Draws, inverse
from robustmarl.joint import MASKED, StepContext, TeamSpec, at_actions
from robustmarl.typing import Unit
from robustmarl.victims import Victim

__all__ = [
    "Controller",
    "Counting",
    "RandomController",
    "ScriptedController",
    "SlowCopy",
    "categorical",
    "found_controller",
]


Follows = Literal["always", "ahead"]


class Controller(Protocol):
    """Plays one team's N agents in E environments at once."""

    @property
    def hidden_size(self) -> int:
        """H, 0 without memory."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def infer(self, context: StepContext) -> tuple[Tensor, Tensor | None]:
        """Return logits or means (E, N, A) for ``context.seen`` and the next hidden state."""

    def select(
        self, output: Tensor, mask: Tensor, draws: Draws, training: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return actions (E, N) or (E, N, A), and their log-probabilities (E, N) or None."""

    def record(self) -> Mapping[str, Tensor]:
        """Return what it acted on in this step beside observations, by name, (E, ...) each."""

    def victim(self) -> Victim | None:
        """Return the view of it that attacks may query; None if there is none."""

    def check_spec(self, spec: TeamSpec) -> None:
        """Raise ``ValueError`` unless it can play this team."""


@runtime_checkable
class Counting(Protocol):
    """A controller that counts what it was trained on."""

    def count(self, unit: Unit, number: int) -> None:
        """Add to the number of ``episodes`` or ``env_steps``."""


def found_controller(policy: object) -> Controller | None:
    """Return a controller, or the policy, which is one, of an algorithm; None if there is none."""
    if _is_controller(policy):
        return policy
    inner: object = getattr(policy, "policy", policy)
    return inner if _is_controller(inner) else None


_METHODS = ("infer", "select", "record", "victim", "check_spec")


def _is_controller(policy: object) -> TypeGuard[Controller]:
    """Return whether ``policy`` has a controller's methods, by which it is told from others."""
    return all(hasattr(policy, name) for name in _METHODS)


class SlowCopy(nn.Module):
    r"""A copy of a learner's policy that follows it slowly: the opponent of self-play.

    .. math:: \bar\theta \leftarrow (1 - \tau)\,\bar\theta + \tau\,\theta

    ``training.run`` lets it follow once per round and keeps it in the checkpoint. With
    ``tau=0`` it is a frozen opponent. RoMFAC's self-play, :math:`\bar\theta \leftarrow
    .99\,\theta + .01\,\bar\theta` after rounds that the learner has won by its rewards, is
    ``SlowCopy(learner, tau=0.99, when="ahead")``.

    Args:
        learner: an algorithm or policy whose team has the same spaces as the one it plays.
        tau: share of the learner's weights taken over per round, in [0, 1].
        when: after which rounds: ``"always"``, or ``"ahead"``, those in which the learner's team
            earned more than the copy's, over all agents, steps and episodes of the round.

    Example:
        >>> from robustmarl import algorithms, envs
        >>> team = algorithms.QMIX.for_env(envs.ToyGame(), seed=0)
        >>> opponent = SlowCopy(team, tau=0.5)
        >>> for weight in team.policy.parameters():
        ...     _ = weight.data.zero_()
        >>> before = next(opponent.policy.parameters()).clone()
        >>> opponent.follow()
        >>> bool((next(opponent.policy.parameters()) == before / 2).all())
        True
    """

    def __init__(self, learner: Any, tau: float = 0.01, when: Follows = "always") -> None:
        super().__init__()
        self.tau = check_number("SlowCopy.tau", tau, 0.0, 1.0)
        check_choice("SlowCopy.when", when, get_args(Follows))
        self.when: Follows = when
        policy = getattr(learner, "policy", learner)
        rule = "an algorithm or policy of a team"
        check_has("SlowCopy.learner", policy, (*_METHODS, "parameters"), rule)
        self._learner = [policy]  # a list: not a submodule
        self.policy = copy.deepcopy(self._learner[0]).requires_grad_(False).eval()

    @torch.no_grad()
    def follow(self, ahead: bool = True) -> None:
        """Move towards the learner by one round; counters and other buffers are copied.

        Args:
            ahead: whether the learner's team earned more in it than the copy's.
        """
        ahead = check_flag("SlowCopy.follow.ahead", ahead)
        if self.when == "ahead" and not ahead:
            return
        learner = self._learner[0]
        for slow, live in zip(self.policy.parameters(), learner.parameters(), strict=True):
            slow.lerp_(live, self.tau)
        for slow, live in zip(self.policy.buffers(), learner.buffers(), strict=True):
            slow.copy_(live)

    @property
    def hidden_size(self) -> int:
        """H, 0 without memory."""
        return int(self.policy.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the copy computes."""
        return cast(torch.device, self.policy.device)

    def infer(self, context: StepContext) -> tuple[Tensor, Tensor | None]:
        """Return the copy's outputs (E, N, A) and its next hidden state."""
        return cast("tuple[Tensor, Tensor | None]", self.policy.infer(context))

    def select(
        self, output: Tensor, mask: Tensor, draws: Draws, training: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the copy's actions, (E, N) or (E, N, A), and their log-probabilities."""
        chosen = self.policy.select(output, mask, draws, training)
        return cast("tuple[Tensor, Tensor | None]", chosen)

    def record(self) -> Mapping[str, Tensor]:
        """Return what the copy acted on beside observations, (E, ...) each."""
        return cast("Mapping[str, Tensor]", self.policy.record())

    def victim(self) -> Victim | None:
        """Return the copy's view."""
        return cast(Victim, self.policy.victim())

    def check_spec(self, spec: TeamSpec) -> None:
        """Raise ``ValueError`` unless sizes are the learner's; names may differ."""
        learned = self.policy.spec
        renamed = replace(spec, agents=learned.agents, teams=learned.teams)
        if difference := learned.describe_difference(renamed):
            raise ValueError(f"SlowCopy.learner must have this team's spaces, got {difference}.")


def categorical(logits: Tensor, draws: Draws) -> Tensor:
    """Return indices (E, N) drawn from softmax(logits), (E, N, A), by inverse distribution."""
    check_tensor("categorical.logits", logits)
    check_kind("categorical.draws", draws, Draws, "Draws")
    return inverse(torch.softmax(logits, dim=-1), draws.uniform(logits.shape[1]))


class RandomController:
    """Uniform over available actions, or over the box: the random baseline.

    Args:
        spec: the team it plays.
        device: where it computes.

    Example:
        >>> from robustmarl import envs, evaluation, joint
        >>> controller = RandomController(joint.spec_of(envs.climbing()))
        >>> sorted({*evaluation.rollout(controller, envs.climbing, episodes=200).returns.tolist()})
        [-30.0, 0.0, 5.0, 6.0, 7.0, 11.0]
    """

    hidden_size = 0

    def __init__(self, spec: TeamSpec, device: torch.device | str = "cpu") -> None:
        name = type(self).__name__
        check_kind(f"{name}.spec", spec, TeamSpec, "a TeamSpec", "Write spec_of(env).")
        self.spec, self.device = spec, check_usable(f"{name}.device", device)

    def infer(self, context: StepContext) -> tuple[Tensor, Tensor | None]:
        """Return flat logits (E, N, A)."""
        return torch.zeros_like(context.mask, dtype=torch.float32), None

    def select(
        self, output: Tensor, mask: Tensor, draws: Draws, training: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return uniform actions, (E, N) or (E, N, A)."""
        if self.spec.continuous:
            unit = draws.uniform(output.shape[1] * output.shape[2]).view(output.shape)
            return unit * 2.0 - 1.0, None
        return categorical(output.masked_fill(~mask, MASKED), draws), None

    def record(self) -> Mapping[str, Tensor]:
        """Return nothing: it acts on nothing else."""
        return {}

    def victim(self) -> Victim | None:
        """Return None: there is nothing to query."""
        return None

    def check_spec(self, spec: TeamSpec) -> None:
        """Accept any team of the same size."""
        if difference := self.spec.describe_difference(spec):
            raise ValueError(
                f"RandomController.spec must be the team's, got {difference}. Was the team made "
                "for another environment?"
            )


class ScriptedController(RandomController):
    """A script: any function of what the team sees.

    Args:
        spec: the team it plays.
        script: maps a :class:`~robustmarl.joint.StepContext` to actions of all E environments, of
            which there may be another number in each collection: integers (E, N), available where
            ``context.acting``, or floats (E, N, A).
        device: where it computes.

    Raises:
        TypeError: in a step, if actions are of another kind.
        ValueError: if they are of another shape, or one that an agent takes is not available.

    Example:
        >>> from robustmarl import envs, evaluation, joint
        >>> def best(context):  # the first agent plays the state, the second 0
        ...     return context.seen[..., 0].long() * torch.tensor([1, 0])
        >>> controller = ScriptedController(joint.spec_of(envs.ToyGame()), best)
        >>> evaluation.rollout(controller, envs.ToyGame, episodes=1).returns
        array([100.])
    """

    def __init__(
        self,
        spec: TeamSpec,
        script: Callable[[StepContext], Tensor],
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(spec, device)
        check_function("ScriptedController.script", script, "a function of a StepContext")
        self.script = script

    def infer(self, context: StepContext) -> tuple[Tensor, Tensor | None]:
        """Return the script's actions as logits with all mass on one, or as means, (E, N, A)."""
        act = self._checked(self.script(context), context)
        if self.spec.continuous:
            return act, None
        logits = torch.full(context.mask.shape, MASKED, device=act.device)
        return logits.scatter_(-1, act.unsqueeze(-1), 0.0), None

    def _checked(self, found: object, context: StepContext) -> Tensor:
        """Return actions, int64 (E, N) or float32 (E, N, A); where nobody acts they are indices."""
        where = "ScriptedController.script"
        rule = "a function of a step that returns a tensor"
        check_kind(where, found, Tensor | np.ndarray, rule)
        act = torch.as_tensor(found, device=context.mask.device)
        mask, kind, of_kind = context.mask, "integers", not act.dtype.is_floating_point
        of_kind = of_kind and act.dtype != torch.bool
        if self.spec.continuous:
            kind, of_kind = "floats", act.dtype.is_floating_point
        shape = mask.shape if self.spec.continuous else mask.shape[:2]
        if not of_kind:
            raise TypeError(f"{where} must return {kind}, got {act.dtype}.")
        if act.shape != shape:
            raise ValueError(
                f"{where} must return actions of shape {tuple(shape)}, got {tuple(act.shape)}. "
                "Make them like context.last_act, of all environments."
            )
        if self.spec.continuous:
            return act.float()
        act = act.long()
        named = act.clamp(0, mask.shape[-1] - 1)
        bad = (~at_actions(mask, named) | (named != act)) & context.acting
        if bool(bad.any()):
            env, agent = bad.nonzero()[0].tolist()
            raise ValueError(
                f"{where} must return available actions, got {int(act[env, agent])} of agent "
                f"{self.spec.agents[agent]!r} in environment {env}, step {int(context.step[env])}, "
                f"of {mask[env, agent].nonzero()[:, 0].tolist()}. Look at context.mask."
            )
        return named

    def select(
        self, output: Tensor, mask: Tensor, draws: Draws, training: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the scripted actions, (E, N) or (E, N, A)."""
        return (output if self.spec.continuous else output.argmax(dim=-1)), None
