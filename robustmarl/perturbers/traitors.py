"""Who plays for Byzantine agents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, cast, runtime_checkable

import torch
from torch import Tensor

from robustmarl._checks import all_finite, check, check_choice
from robustmarl._seeding import Draws, inverse
from robustmarl.joint import MASKED, StepContext, TeamSpec
from robustmarl.perturbers.foreign import PolicyController
from robustmarl.policies import ByzantinePolicy, TeamPolicy
from robustmarl.victims import Rated, VictimLike, as_victim

__all__ = [
    "AdversaryLike",
    "ByzantineAdversary",
    "ByzantinePlay",
    "HasPolicy",
    "WorstOfPopulation",
    "as_adversary",
    "has_probabilities",
]


@dataclass(frozen=True, kw_only=True)
class ByzantinePlay:
    """What an adversary would have all agents do in one step.

    Attributes:
        act: (E, N) int64 or (E, N, A) float; only the rows of Byzantine agents are executed.
        logp: their log-probabilities (E, N), or None.
        hidden: the adversary's next memory (E, N, H), or None.
    """

    act: Tensor
    logp: Tensor | None = None
    hidden: Tensor | None = None


@runtime_checkable
class ByzantineAdversary(Protocol):
    """Chooses what Byzantine agents do.

    One whose plays tell ``logp`` says so by an attribute ``has_probabilities = True``; what it
    plays is then recorded with its probabilities.
    """

    @property
    def hidden_size(self) -> int:
        """H, 0 without memory."""

    def play(self, context: StepContext, act: Tensor, draws: Draws) -> ByzantinePlay:
        """Return its actions for all agents.

        Args:
            context: with clean observations as ``seen``, the executed actions as ``last_act``,
                its own memory as ``hidden``, and the types.
            act: what the agents would do, (E, N) or (E, N, A).
            draws: E rows of random numbers.
        """

    def check_spec(self, spec: TeamSpec) -> None:
        """Raise ``ValueError`` unless it can play for this team."""


def has_probabilities(adversary: ByzantineAdversary) -> bool:
    """Return whether plays of ``adversary`` tell their log-probabilities: only if it says so."""
    return bool(getattr(adversary, "has_probabilities", False))


class HasPolicy(Protocol):
    """An algorithm: what plays is its policy."""

    @property
    def policy(self) -> TeamPolicy:
        """Who plays."""


Script: TypeAlias = Callable[[StepContext, Tensor], Tensor]
"""Maps a step and the intended actions to actions of all agents, of the same shape."""

AdversaryLike: TypeAlias = (
    ByzantineAdversary | TeamPolicy | HasPolicy | VictimLike | Script | Literal["random"]
)
"""Who may play for Byzantine agents: see :func:`as_adversary`."""


class _Uniform:
    """Uniform over available actions, or over the box."""

    hidden_size = 0

    def play(self, context: StepContext, act: Tensor, draws: Draws) -> ByzantinePlay:
        if act.is_floating_point():
            unit = draws.uniform(act.shape[1] * act.shape[2]).view(act.shape)
            return ByzantinePlay(act=unit * 2.0 - 1.0)
        drawn = inverse(context.mask.float(), draws.uniform(act.shape[1]))
        return ByzantinePlay(act=drawn.clamp(max=context.mask.shape[-1] - 1))

    def check_spec(self, spec: TeamSpec) -> None:
        """Accept any team."""


class _Script(_Uniform):
    """A user's function."""

    def __init__(self, script: Script) -> None:
        self.script = script

    def play(self, context: StepContext, act: Tensor, draws: Draws) -> ByzantinePlay:
        return ByzantinePlay(act=self.script(context, act))


class _Policy:
    """A team's policy that plays for its Byzantine members."""

    def __init__(self, policy: TeamPolicy) -> None:
        self.policy = policy
        self.has_probabilities = isinstance(policy, Rated)

    @property
    def hidden_size(self) -> int:
        return int(self.policy.hidden_size)

    def play(self, context: StepContext, act: Tensor, draws: Draws) -> ByzantinePlay:
        if isinstance(self.policy, ByzantinePolicy) and self.policy.sees_actions:
            output, hidden = self.policy.infer(context, act)
        else:
            output, hidden = self.policy.infer(context)
        if not act.is_floating_point():
            output = output.masked_fill(~context.mask, MASKED)
        chosen, logp = self.policy.select(output, context.mask, draws, False)
        return ByzantinePlay(act=chosen, logp=logp, hidden=hidden)

    def check_spec(self, spec: TeamSpec) -> None:
        self.policy.check_spec(spec)


class _Foreign:
    """A policy from elsewhere, fitted to the team when that is known."""

    def __init__(self, where: str, given: VictimLike) -> None:
        self._where, self.given = where, given
        self.hidden_size = as_victim(where, given).hidden_size

    def play(self, context: StepContext, act: Tensor, draws: Draws) -> ByzantinePlay:
        output, hidden = self.policy.infer(context)
        if not act.is_floating_point():
            output = output.masked_fill(~context.mask, MASKED)
        chosen, _ = self.policy.select(output, context.mask, draws, False)
        return ByzantinePlay(act=chosen, hidden=hidden)

    def check_spec(self, spec: TeamSpec) -> None:
        victim = as_victim(self._where, self.given, continuous=spec.continuous)
        self.policy = PolicyController(victim, spec, self._where)


def plays_by_rule(adversary: ByzantineAdversary) -> bool:
    """Return whether it is random, or a user's function."""
    return isinstance(adversary, _Uniform)


class WorstOfPopulation:
    """Plays the one of several adversaries under which the team's return was the lowest.

    Args:
        adversaries: at least one, of any kind that :class:`ByzantinePerturber` takes.
        returns: measured mean return of the team under each; set the attribute anew between
            episodes whenever they are measured again.

    Raises:
        ValueError: unless there is one finite return per adversary.

    Example:
        >>> from robustmarl import envs, perturbers, wrappers
        >>> zeros, ones = (lambda context, act: 0 * act), (lambda context, act: 0 * act + 1)
        >>> worst = WorstOfPopulation([zeros, ones], returns=[7.0, 3.0])
        >>> traitor = perturbers.TypeDistribution(1.0, choice="fixed", agents=["agent_0"])
        >>> env = wrappers.BayesianTypeWrapper(envs.ToyGame(), worst, types=traitor)
        >>> _ = env.reset(seed=0)
        >>> env.step({"agent_0": 0, "agent_1": 0})[-1]["agent_0"]["executed_action"]
        1
    """

    def __init__(self, adversaries: Sequence[AdversaryLike], returns: Sequence[float]) -> None:
        name = type(self).__name__
        if isinstance(adversaries, str) or not isinstance(adversaries, Sequence):
            raise TypeError(f"{name}.adversaries must be a sequence, got {adversaries!r}.")
        check(len(adversaries) > 0, f"{name}.adversaries", "at least one", adversaries)
        self.adversaries = [as_adversary(f"{name}.adversaries", one) for one in adversaries]
        self.returns = returns

    @property
    def returns(self) -> tuple[float, ...]:
        """The team's mean return under each adversary."""
        return self._returns

    @returns.setter
    def returns(self, returns: Sequence[float]) -> None:
        where = f"{type(self).__name__}.returns"
        try:
            values = torch.tensor(list(returns), dtype=torch.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{where} must be a sequence of numbers, got {returns!r}.") from error
        good = len(values) == len(self.adversaries) and all_finite(values)
        rule = f"{len(self.adversaries)} finite numbers, one per adversary"
        check(good, where, rule, returns)
        self._returns = tuple(values.tolist())
        self._worst = self.adversaries[int(values.argmin())]

    @property
    def has_probabilities(self) -> bool:
        """Whether the plays of all of them tell ``logp``."""
        return all(has_probabilities(one) for one in self.adversaries)

    @property
    def hidden_size(self) -> int:
        """H of the worst."""
        return self._worst.hidden_size

    def play(self, context: StepContext, act: Tensor, draws: Draws) -> ByzantinePlay:
        """Return what the worst of them plays."""
        return self._worst.play(context, act, draws)

    def check_spec(self, spec: TeamSpec) -> None:
        """Raise ``ValueError`` unless all of them can play for this team."""
        for one in self.adversaries:
            one.check_spec(spec)


def as_adversary(where: str, adversary: AdversaryLike) -> ByzantineAdversary:
    """Return ``adversary`` as a :class:`ByzantineAdversary`.

    Raises:
        TypeError: if it is nothing that plays.
    """
    if isinstance(adversary, str):
        check_choice(where, adversary, ("random",))
        return _Uniform()
    if isinstance(adversary, type):  # its methods are not bound
        kind = f"the class {adversary.__name__}"
    else:
        kind = type(adversary).__name__
        policy = adversary if hasattr(adversary, "infer") else getattr(adversary, "policy", None)
        if isinstance(adversary, ByzantineAdversary):
            return adversary
        if hasattr(policy, "infer") and hasattr(policy, "select"):
            return _Policy(cast(TeamPolicy, policy))
        if isinstance(adversary, torch.nn.Module) or hasattr(adversary, "predict"):
            return _Foreign(where, cast(VictimLike, adversary))
        if callable(adversary):
            return _Script(cast(Script, adversary))
    raise TypeError(
        f"{where} must be 'random', a policy or algorithm of robustmarl, Tianshou or "
        "Stable-Baselines3, a module of observations, a ByzantineAdversary, or a function of "
        f"(context, actions), got {kind}."
    )
