"""Byzantine teammates: some agents' actions are chosen by an adversary, for whole episodes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias, cast, get_args, runtime_checkable

import torch
from torch import Tensor

from robustmarl._checks import check, check_choice, check_int, check_names, check_number
from robustmarl._seeding import Draws, stream_id
from robustmarl.attacks.base import StepContext
from robustmarl.attacks.gradient import PGD
from robustmarl.attacks.perturbers import ObsPerturber, Perturber
from robustmarl.perturbation import LinfBall
from robustmarl.spec import TeamSpec
from robustmarl.victims import MASKED, Victim, VictimView

__all__ = [
    "AdversaryOutputs",
    "BeliefSource",
    "ByzantineAdversary",
    "ByzantinePerturber",
    "ByzantinePlay",
    "Choice",
    "Slots",
    "TypeDistribution",
    "WorstOfPopulation",
    "byzantine_attacks",
    "toward_adversary",
]

Choice = Literal["uniform", "fixed", "adaptive"]
Slots = Literal["none", "zeros", "truth", "belief"]


class TypeDistribution:
    r"""Who is Byzantine: nobody with probability 1 - p, else 1 to k agents.

    The number is uniform in 1..k. Which agents, is drawn without replacement: uniformly, or by

    .. math:: p(j) \propto \exp(-R_j / c)

    with :math:`R_j` the last known return of the team while j was Byzantine, so that agents that
    hurt more are drawn more often. ``"fixed"`` takes all of ``agents`` at once.

    Args:
        p: probability that an episode has Byzantine agents, in [0, 1].
        choice: ``"uniform"``, ``"fixed"`` or ``"adaptive"``.
        agents: names among which is drawn; None is all.
        k: the most Byzantine agents in an episode, >= 1; ``"fixed"`` ignores it.
        scale: c > 0, in units of returns; small values come close to the arg-min.

    Raises:
        ValueError: for numbers out of range; when drawing, for unknown agents or k > N.
    """

    def __init__(
        self,
        p: float = 0.5,
        *,
        choice: Choice = "uniform",
        agents: Collection[str] | None = None,
        k: int = 1,
        scale: float = 1.0,
    ) -> None:
        name = type(self).__name__
        self.p = check_number(f"{name}.p", p, 0.0, 1.0)
        check_choice(f"{name}.choice", choice, get_args(Choice))
        self.k = check_int(f"{name}.k", k, 1)
        self.scale = check_number(f"{name}.scale", scale, 0.0, open_low=True, unit="returns")
        if agents is not None:
            agents = check_names(f"{name}.agents", agents, agents)
            check(len(agents) > 0, f"{name}.agents", "at least one name, or None for all", agents)
        given = choice != "fixed" or agents is not None
        check(given, f"{name}.agents", "given for a fixed choice", agents)
        self.choice, self.agents = choice, agents
        self.returns: Tensor | None = None

    def check_spec(self, spec: TeamSpec) -> tuple[int, ...]:
        """Return the indices among which is drawn.

        Raises:
            ValueError: if agents are unknown, or fewer than k.
        """
        name = type(self).__name__
        names = spec.agents if self.agents is None else self.agents
        names = check_names(f"{name}.agents", names, spec.agents)
        rule = f"at most {len(names)}, the agents to draw from"
        check(self.choice == "fixed" or self.k <= len(names), f"{name}.k", rule, self.k)
        return tuple(spec.agents.index(agent) for agent in names)

    def update(self, returns: Tensor) -> None:
        """Take the returns (N,) under an attack by each agent; NaN keeps what was known.

        Raises:
            ValueError: unless there is one per agent, or as many as before.
        """
        returns = torch.as_tensor(returns, dtype=torch.float32)
        old = torch.zeros_like(returns) if self.returns is None else self.returns
        good = returns.dim() == 1 and returns.shape == old.shape
        where = f"{type(self).__name__}.update.returns"
        check(good, where, "one number per agent, (N,)", tuple(returns.shape))
        self.returns = torch.where(returns.isnan(), old, returns)

    def weights(self, spec: TeamSpec) -> Tensor:
        """Return the probability that each agent is drawn first, (N,)."""
        rows = list(self.check_spec(spec))
        logits = torch.full((spec.num_agents,), -torch.inf)
        logits[rows] = 0.0
        if self.choice == "adaptive" and self.returns is not None:
            size, where = len(self.returns), f"{type(self).__name__}.returns"
            check(size == len(logits), where, f"{len(logits)} numbers, one per agent", size)
            logits[rows] = -self.returns.cpu().to(logits)[rows] / self.scale
        return torch.softmax(logits, dim=0)

    def sample(self, spec: TeamSpec, draws: Draws) -> Tensor:
        """Return types, bool (E, N), one row per key of ``draws``."""
        weights = self.weights(spec).to(draws.keys.device)
        chance, number, order = draws.uniform(2 + spec.num_agents).split(
            [1, 1, spec.num_agents], dim=1
        )
        most = int((weights > 0).sum()) if self.choice == "fixed" else self.k
        count = torch.full_like(number, most) if self.choice == "fixed" else 1 + number * most
        # The largest of log w - log(-log u) are a draw without replacement (Gumbel).
        score = weights.log() - (-order.clamp(min=2.0**-24).log()).log()
        rank = score.argsort(dim=1, descending=True).argsort(dim=1)
        return (rank < count.floor()) & (chance < self.p) & (weights > 0)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(p={self.p}, choice={self.choice!r}, agents={self.agents}, "
            f"k={self.k})"
        )


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
    """Chooses what Byzantine agents do."""

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


AdversaryLike: TypeAlias = (
    "ByzantineAdversary | Callable[[StepContext, Tensor], Tensor] | Literal['random'] | Any"
)


class _Uniform:
    """Uniform over available actions, or over the box."""

    hidden_size = 0

    def play(self, context: StepContext, act: Tensor, draws: Draws) -> ByzantinePlay:
        if act.is_floating_point():
            unit = draws.uniform(act.shape[1] * act.shape[2]).view(act.shape)
            return ByzantinePlay(act=unit * 2.0 - 1.0)
        order = context.mask.cumsum(dim=-1)
        nth = (draws.uniform(act.shape[1]) * order[..., -1]).long() + 1
        drawn = ((order == nth.unsqueeze(-1)) & context.mask).int().argmax(dim=-1)
        return ByzantinePlay(act=drawn)

    def check_spec(self, spec: TeamSpec) -> None:
        """Accept any team."""


class _Script(_Uniform):
    """A user's function."""

    def __init__(self, script: Callable[[StepContext, Tensor], Tensor]) -> None:
        self.script = script

    def play(self, context: StepContext, act: Tensor, draws: Draws) -> ByzantinePlay:
        return ByzantinePlay(act=self.script(context, act))


class _Policy:
    """A team's policy that plays for its Byzantine members."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    @property
    def hidden_size(self) -> int:
        return int(self.policy.hidden_size)

    def play(self, context: StepContext, act: Tensor, draws: Draws) -> ByzantinePlay:
        told = (act,) if getattr(self.policy, "sees_actions", False) else ()
        output, hidden = self.policy.infer(context, *told)
        if not act.is_floating_point():
            output = output.masked_fill(~context.mask, MASKED)
        chosen, logp = self.policy.select(output, context.mask, draws, False)
        return ByzantinePlay(act=chosen, logp=logp, hidden=hidden)

    def check_spec(self, spec: TeamSpec) -> None:
        self.policy.check_spec(spec)


class WorstOfPopulation:
    """Plays the one of several adversaries under which the team's return was the lowest.

    Args:
        adversaries: at least one, of any kind that :class:`ByzantinePerturber` takes.
        returns: measured mean return of the team under each; set the attribute anew between
            episodes whenever they are measured again.

    Raises:
        ValueError: unless there is one finite return per adversary.
    """

    def __init__(self, adversaries: Sequence[AdversaryLike], returns: Sequence[float]) -> None:
        name = type(self).__name__
        if isinstance(adversaries, str) or not isinstance(adversaries, Sequence):
            raise TypeError(f"{name}.adversaries must be a sequence, got {adversaries!r}.")
        check(len(adversaries) > 0, f"{name}.adversaries", "at least one", adversaries)
        self._all = [as_adversary(f"{name}.adversaries", one) for one in adversaries]
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
        good = len(values) == len(self._all) and bool(values.isfinite().all())
        rule = f"{len(self._all)} finite numbers, one per adversary"
        check(good, where, rule, returns)
        self._returns = tuple(values.tolist())
        self._worst = self._all[int(values.argmin())]

    @property
    def hidden_size(self) -> int:
        """H of the worst."""
        return self._worst.hidden_size

    def play(self, context: StepContext, act: Tensor, draws: Draws) -> ByzantinePlay:
        """Return what the worst of them plays."""
        return self._worst.play(context, act, draws)

    def check_spec(self, spec: TeamSpec) -> None:
        """Raise ``ValueError`` unless all of them can play for this team."""
        for one in self._all:
            one.check_spec(spec)


def as_adversary(where: str, adversary: AdversaryLike) -> ByzantineAdversary:
    """Return ``adversary`` as a :class:`ByzantineAdversary`.

    Raises:
        TypeError: if it is nothing that plays.
    """
    if isinstance(adversary, str):
        check_choice(where, adversary, ("random",))
        return _Uniform()
    kind = type(adversary).__name__
    if isinstance(adversary, type):  # its methods are not bound
        kind, adversary = f"the class {adversary.__name__}", None
    policy = adversary if hasattr(adversary, "infer") else getattr(adversary, "policy", None)
    if hasattr(adversary, "play") and hasattr(adversary, "check_spec"):
        return cast(ByzantineAdversary, adversary)
    if hasattr(policy, "infer") and hasattr(policy, "select"):
        return _Policy(policy)
    if callable(adversary) and not isinstance(adversary, torch.nn.Module):
        return _Script(adversary)
    raise TypeError(
        f"{where} must be 'random', a policy or algorithm, a ByzantineAdversary, or a function of "
        f"(context, actions), got {kind}."
    )


class BeliefSource(Protocol):
    """A belief about types from observations, with memory; see ``networks.BeliefNetwork``."""

    @property
    def hidden_size(self) -> int:
        """H."""

    def step(self, obs: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return beliefs (E, N, N) and the next memory (E, N, H) of observations (E, N, D)."""

    def check_spec(self, spec: TeamSpec) -> None:
        """Raise ``ValueError`` unless it was made for this team."""


def belief_source(where: str, slots: Slots, belief: Any) -> BeliefSource | None:
    """Return the source of belief slots, None for other slots.

    Raises:
        ValueError: if a belief is asked of a team without a belief network, or none is given.
    """
    check_choice(f"{where}.slots", slots, get_args(Slots))
    kind = None if belief is None else type(belief).__name__
    if slots != "belief":
        rule = "left out unless slots='belief'"
        check(belief is None, f"{where}.belief", rule, kind)
        return None
    source = belief if hasattr(belief, "step") else getattr(belief, "policy", belief)
    source = source if hasattr(source, "step") else getattr(source, "belief", None)
    rule = "a belief network, or a team that has one, for slots='belief'"
    remedy = "Give a trained EIRMAPPO, or choose other slots."
    check(source is not None, f"{where}.belief", rule, kind, remedy)
    return cast(BeliefSource, source)


class ByzantinePerturber(Perturber):
    r"""Execute an adversary's actions in place of those of Byzantine agents.

    The attack process of EIR-MAPPO [Li2024]_,

    .. math:: P(\bar a \mid a, \hat\pi, \theta) = \prod_i
              [\theta^i \hat\pi^i(\bar a^i \mid H^i, \theta) + (1-\theta^i) 1[\bar a^i = a^i]]

    that is ``where(types, adversary, intended)``. Types are drawn per environment at the start
    of an episode and kept to its end. The learner is told the intended actions.

    Records ``types`` bool (E, N); ``adversary_id`` int64 (E,), the first Byzantine agent or -1;
    for adversaries with probabilities ``byzantine_act``, of shape as the actions, and
    ``byzantine_logp`` (E, N), zero where no Byzantine agent lived; and ``slots`` (E, N, N) if
    asked for. Defenders see none of it: only ``slots="truth"``, an oracle's, tells types.

    Args:
        adversary: ``"random"`` (uniform over available actions), a policy or algorithm of a team
            with the same spaces, a :class:`ByzantineAdversary`, or a function of (context,
            intended actions) that returns actions of all agents.
        types: who is Byzantine, and how often.
        slots: what is recorded as ``slots``: nothing, zeros, the types, or a belief.
        belief: whose belief, a belief network or a team that has one.

    Raises:
        TypeError: for an adversary or types of another kind.
        ValueError: at ``bind`` if the adversary or the types do not fit the team; in a step if
            the adversary plays an unavailable action or one that is not finite.
    """

    act_told = "intended"

    def __init__(
        self,
        adversary: AdversaryLike,
        *,
        types: TypeDistribution | None = None,
        slots: Slots = "none",
        belief: Any = None,
    ) -> None:
        name = type(self).__name__
        self.adversary = as_adversary(f"{name}.adversary", adversary)
        types = TypeDistribution() if types is None else types
        if not isinstance(types, TypeDistribution):
            raise TypeError(f"{name}.types must be a TypeDistribution, got {types!r}.")
        self.type_distribution = types
        self._belief = belief_source(name, slots, belief)
        self.slot_kind: Slots = slots
        self.slots: Tensor | None = None

    def bind(self, spec: TeamSpec, policy: Victim | None, depth: int) -> None:
        """Check that adversary, types and belief fit the team; see :class:`Perturber`."""
        self.type_distribution.check_spec(spec)
        self.adversary.check_spec(spec)
        if self._belief is not None:
            self._belief.check_spec(spec)
        self.spec = spec
        self._type_stream = stream_id(f"types/{depth}")
        self._act_stream = stream_id(f"byzantine/{depth}")
        self.types = torch.zeros(0, spec.num_agents, dtype=torch.bool)
        self._hidden: Tensor | None = None
        self._last: Tensor | None = None
        self._memory: Tensor | None = None
        self._play: ByzantinePlay | None = None
        self._totals = [0.0, 0.0, 0.0, 0.0]

    @torch.no_grad()
    def on_obs(self, context: StepContext) -> Tensor:
        """Draw the types of episodes that begin; observations stay as they are."""
        begun = context.live & (context.step == 0)
        if len(self.types) != len(begun):
            self.types = torch.zeros_like(context.alive)
        if bool(begun.any()):
            draws = Draws(context.keys).at(torch.zeros_like(context.step), self._type_stream)
            drawn = self.type_distribution.sample(self.spec, draws)
            self.types = torch.where(begun[:, None], drawn, self.types)
            self._totals[0] += float(begun.sum())
            self._totals[1] += float((begun & drawn.any(dim=1)).sum())
        context.types = self.types
        return context.seen

    @torch.no_grad()
    def shown(self, context: StepContext) -> None:
        """Fill the slots, beliefs from what was shown."""
        e, n = context.alive.shape
        if self.slot_kind == "zeros":
            self.slots = context.seen.new_zeros(e, n, n)
        elif self.slot_kind == "truth":
            self.slots = self.types.to(context.seen.dtype).unsqueeze(1).repeat(1, n, 1)
        elif self._belief is not None:
            begun = (context.step == 0)[:, None, None]
            if self._memory is not None:
                self._memory = torch.where(begun, 0.0, self._memory)
            self.slots, self._memory = self._belief.step(context.seen, self._memory)

    @torch.no_grad()
    def on_act(self, context: StepContext, act: Tensor) -> Tensor:
        """Return ``where(types, adversary's, act)``; the dead keep their no-op."""
        living = context.alive & (context.live & ~context.terminal)[:, None]
        rows = self.types & living
        replaced = int(rows.count_nonzero())
        self._totals[2] += int(living.count_nonzero())
        self._totals[3] += replaced
        self._play = None
        executed = act
        if replaced:
            play = self._play = self.adversary.play(self._own(context, act), act, self._of(context))
            self._check(play.act, act, rows, context.mask)
            self._hidden = play.hidden
            wide = rows.unsqueeze(-1) if act.dim() == 3 else rows
            executed = torch.where(wide, play.act.to(act.dtype), act)
        self._rows, self._intended, self._last = rows, act, executed
        return executed

    def byzantine(self, context: StepContext) -> Tensor:
        """Return the rows whose actions are replaced, bool (E, N): alive and Byzantine."""
        playing = context.live & ~context.terminal
        return self.types & context.alive & playing[:, None]

    def record(self) -> dict[str, Tensor]:
        """Return ``types``, ``adversary_id``, and what else the class names."""
        first = self.types.int().argmax(dim=1)
        kept = {
            "types": self.types,
            "adversary_id": torch.where(self.types.any(dim=1), first, -1),
        }
        if self.slots is not None:
            kept["slots"] = self.slots
        if self.with_probabilities:
            act, logp = torch.zeros_like(self._intended), torch.zeros(self._rows.shape)
            if self._play is not None and self._play.logp is not None:
                wide = self._rows.unsqueeze(-1) if act.dim() == 3 else self._rows
                act = torch.where(wide, self._play.act.to(act.dtype), act)
                logp = torch.where(self._rows, self._play.logp, 0.0)
            kept |= {"byzantine_act": act, "byzantine_logp": logp}
        return kept

    @property
    def with_probabilities(self) -> bool:
        """Whether the adversary is a policy, whose log-probabilities are recorded."""
        return isinstance(self.adversary, _Policy)

    def counters(self) -> dict[str, float]:
        """Return episodes and agent-steps since ``bind``, and how many of each were Byzantine."""
        names = ("episodes", "byzantine_episodes", "steps", "replaced")
        return dict(zip(names, self._totals, strict=True))

    def _of(self, context: StepContext) -> Draws:
        return Draws(context.keys).at(context.step, self._act_stream)

    def _own(self, context: StepContext, act: Tensor) -> StepContext:
        """Return the step as the adversary lives it."""
        begun = context.step == 0
        none = torch.zeros_like(act) if act.is_floating_point() else torch.full_like(act, -1)
        last = none if self._last is None or self._last.shape != act.shape else self._last
        wide = begun.view(-1, *(1,) * (act.dim() - 1))
        last = torch.where(wide, none, last)
        hidden = self._hidden
        width = self.adversary.hidden_size
        shape = (*context.alive.shape, width)
        if width and (hidden is None or hidden.shape != shape):
            hidden = context.obs.new_zeros(shape)
        if hidden is not None:
            hidden = torch.where(begun[:, None, None], 0.0, hidden)
        return replace(context, seen=context.obs, last_act=last, hidden=hidden if width else None)

    def _check(self, found: Any, act: Tensor, rows: Tensor, mask: Tensor) -> None:
        where = f"{type(self).__name__}.adversary"
        if not isinstance(found, Tensor) or found.shape != act.shape:
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"{where} must return actions of shape {tuple(act.shape)}, got {got}.")
        if act.is_floating_point():
            chosen = found[rows]
            good = bool(chosen.isfinite().all())
            check(good, where, "finite in its actions", chosen)
            return
        index = found.long()
        near = index.clamp(0, mask.shape[-1] - 1)
        bad = rows & ~(mask.gather(-1, near.unsqueeze(-1)).squeeze(-1) & (near == index))
        if bool(bad.any()):
            e, i = bad.nonzero()[0].tolist()
            name, value = self.spec.agents[i], int(found[e, i])
            rule = f"available to {name!r} in environment {e}"
            check(False, f"{where}'s action", rule, value, "Choose where context.mask is true.")


@dataclass(frozen=True, eq=False)
class AdversaryOutputs:
    """A target for gradient attacks: what an adversary would do on the clean observation.

    Args:
        adversary: with ``outputs(obs, agents, act)``, like ``algorithms.ByzantinePolicy``.
    """

    adversary: Any

    def __post_init__(self) -> None:
        kind = type(self.adversary).__name__
        if not callable(getattr(self.adversary, "outputs", None)):
            raise TypeError(
                f"{type(self).__name__}.adversary must be a ByzantinePolicy, got {kind}. Take the "
                "`adversary` of a trained ByzantineAttack."
            )

    @torch.no_grad()
    def __call__(self, view: VictimView, obs: Tensor) -> Tensor:
        """Return the adversary's logits or means (M, A) for observations (M, D)."""
        agents = view.agents
        check(agents is not None, f"{type(self).__name__}.view", "told its rows' agents", agents)
        outputs: Tensor = self.adversary.outputs(obs, agents, None)
        return outputs


def toward_adversary(adversary: Any, ball: LinfBall | float, *, steps: int = 5) -> PGD:
    r"""Return the observation attack that makes a victim act like a trained adversary [Li2024]_.

    .. math:: \hat o_{u+1} = \Pi_{B_\epsilon(o)}\bigl(\hat o_u - \tfrac{\epsilon}{3}\,
              \mathrm{sgn} \nabla \lVert \pi(\hat o_u) - \hat\pi(o) \rVert^2\bigr)

    on logits of available actions, or on means. The victim keeps its own policy; use it on one
    agent by ``ObsPerturber(attack, agents=[name])``. Type slots that are no part of the
    observation stay; where they are, a ball with epsilon 0 for their coordinates keeps them.

    Args:
        adversary: a ``ByzantinePolicy``, trained against this team as a rule.
        ball: what may change, or its radius, in observation units.
        steps: gradient steps of a third of the radius, >= 1.
    """
    ball = LinfBall(epsilon=ball) if isinstance(ball, int | float) else ball
    if not isinstance(ball, LinfBall):
        raise TypeError(f"toward_adversary.ball must be a LinfBall or a radius, got {ball!r}.")
    radius = ball.epsilon
    third = tuple(r / 3 or 1.0 for r in radius) if isinstance(radius, tuple) else radius / 3 or 1.0
    target = AdversaryOutputs(adversary)
    return PGD(ball=ball, steps=steps, step_size=third, loss="mse", target=target)


def byzantine_attacks(
    target: str,
    adversaries: Mapping[str, Mapping[str, Any]],
    agent: str,
    *,
    epsilons: Sequence[float] = (0.2, 0.5, 1.0),
) -> dict[str, Perturber]:
    """Return the attacks of EIR-MAPPO's evaluation [Li2024]_ on one agent of one team, by name.

    ``non-oblivious`` (the adversary trained against this team), ``random ally``, ``observation e``
    for every epsilon, and ``from m`` for every other team m whose adversary is transferred: eleven
    for seven teams and three epsilons. An adversary fits any team with the same agents and
    actions; type slots that its observations have more or fewer are cut or filled with zeros.

    Args:
        target: the attacked team's name.
        adversaries: team name to agent name to the ``ByzantinePolicy`` trained against it while
            that agent was Byzantine.
        agent: who is Byzantine in every episode, or whose observations are attacked.
        epsilons: radii of the observation attacks, observation units.

    Raises:
        TypeError: for arguments of a wrong kind.
        ValueError: if an adversary is missing, for a negative radius, or for radii whose names
            would be the same.
    """
    where = "byzantine_attacks"
    _check_mapping(f"{where}.adversaries", adversaries)
    for name, own in adversaries.items():
        _check_mapping(f"{where}.adversaries[{name!r}]", own)
    check_choice(f"{where}.target", target, list(adversaries))
    for name, own in adversaries.items():
        check(agent in own, f"{where}.adversaries[{name!r}]", f"with {agent!r}", [*own])
    if isinstance(epsilons, str) or not isinstance(epsilons, Sequence):
        raise TypeError(f"{where}.epsilons must be a sequence of numbers, got {epsilons!r}.")
    for epsilon in epsilons:
        check_number(f"{where}.epsilons", epsilon, 0.0, unit="observation units")
    names = {f"{epsilon:g}" for epsilon in epsilons}
    rule = "different numbers, in six digits"
    check(len(names) == len(epsilons), f"{where}.epsilons", rule, epsilons)

    def played(adversary: AdversaryLike) -> Perturber:
        types = TypeDistribution(1.0, choice="fixed", agents=[agent])
        return ByzantinePerturber(adversary, types=types)

    own = adversaries[target][agent]
    attacks = {"non-oblivious": played(own), "random ally": played("random")}
    for epsilon in epsilons:
        moved = ObsPerturber(toward_adversary(own, epsilon), agents=[agent])
        attacks[f"observation {epsilon:g}"] = moved
    others = {name: theirs[agent] for name, theirs in adversaries.items() if name != target}
    return attacks | {f"from {name}": played(theirs) for name, theirs in others.items()}


def _check_mapping(where: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{where} must be a mapping from names, got {type(value).__name__}.")
