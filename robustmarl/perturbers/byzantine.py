"""Byzantine teammates: some agents' actions are chosen by an adversary, for whole episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from robustmarl._checks import all_finite, check, check_choice
from robustmarl._seeding import Draws, stream_id
from robustmarl.joint import StepContext, TeamSpec
from robustmarl.perturbers.base import Perturber, Place
from robustmarl.perturbers.traitors import (
    AdversaryLike,
    ByzantinePlay,
    as_adversary,
    has_probabilities,
    plays_by_rule,
)
from robustmarl.perturbers.types import TypeDistribution
from robustmarl.victims import Victim

__all__ = ["BeliefSource", "ByzantinePerturber", "Slots"]

Slots = Literal["none", "zeros", "truth", "belief"]


@runtime_checkable
class BeliefSource(Protocol):
    """A belief about types from observations, with memory; see ``networks.BeliefNetwork``."""

    @property
    def hidden_size(self) -> int:
        """H."""

    def step(self, obs: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return beliefs (E, N, N) and the next memory (E, N, H) of observations (E, N, D)."""

    def check_spec(self, spec: TeamSpec) -> None:
        """Raise ``ValueError`` unless it was made for this team."""


def belief_source(where: str, slots: Slots, belief: object) -> BeliefSource | None:
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
    of_team = getattr(getattr(belief, "policy", belief), "belief", None)
    found = [one for one in (belief, of_team) if isinstance(one, BeliefSource)]
    rule = "a belief network, or a team that has one, for slots='belief'"
    remedy = "Give a trained EIRMAPPO, or choose other slots."
    check(len(found) > 0, f"{where}.belief", rule, kind, remedy)
    return found[0]


class ByzantinePerturber(Perturber):
    r"""Execute an adversary's actions in place of those of Byzantine agents.

    The attack process of EIR-MAPPO [Li2024]_,

    .. math:: P(\bar a \mid a, \hat\pi, \theta) = \prod_i
              [\theta^i \hat\pi^i(\bar a^i \mid H^i, \theta) + (1-\theta^i) 1[\bar a^i = a^i]]

    that is ``where(types, adversary, intended)``. Types are drawn per environment at the start
    of an episode and kept to its end. The learner is told the intended actions.

    Records, as ``byzantine``, ``types`` bool (E, N); ``adversary_id`` int64 (E,), the first
    Byzantine agent or -1; for adversaries that tell probabilities (stochastic policies, and those
    with ``has_probabilities``) their ``act``, of shape as the actions, and ``logp`` (E, N), zero
    where no Byzantine agent lived; and ``slots`` (E, N, N) if asked for. Defenders see none of it:
    only ``slots="truth"``, an oracle's, tells types.

    Args:
        adversary: ``"random"`` (uniform over available actions), a policy or algorithm of a team
            with the same spaces, a :class:`ByzantineAdversary`, or a function of (context,
            intended actions) that returns actions of all agents.
        types: who is Byzantine, and how often; a function is asked whenever episodes begin.
        slots: what is recorded as ``slots``: nothing, zeros, the types, or a belief.
        belief: whose belief, a belief network or a team that has one.

    Raises:
        TypeError: for an adversary or types of another kind.
        ValueError: at ``bind`` if the adversary or the types do not fit the team; in a step if
            the adversary plays an unavailable action or one that is not finite.

    Example:
        >>> from robustmarl import algorithms, envs, evaluation, perturbers
        >>> team = algorithms.QMIX.for_env(envs.ToyGame(), seed=0)
        >>> traitor = perturbers.TypeDistribution(1.0, choice="fixed", agents=["agent_0"])
        >>> play = ByzantinePerturber("random", types=traitor)
        >>> evaluation.rollout(team, envs.ToyGame, episodes=2, perturb=play).counters
        {'0/episodes': 2.0, '0/byzantine_episodes': 2.0, '0/steps': 400.0, '0/replaced': 200.0}
    """

    kind = "byzantine"
    act_told = "intended"

    def __init__(
        self,
        adversary: AdversaryLike,
        *,
        types: TypeDistribution | Callable[[], TypeDistribution] | None = None,
        slots: Slots = "none",
        belief: object = None,
    ) -> None:
        name = type(self).__name__
        self.adversary = as_adversary(f"{name}.adversary", adversary)
        types = TypeDistribution() if types is None else types
        if not isinstance(types, TypeDistribution) and not callable(types):
            raise TypeError(f"{name}.types must be a TypeDistribution, got {types!r}.")
        self.types, self.slots = types, slots
        self.belief = belief_source(name, slots, belief)
        self.shown_slots: Tensor | None = None  # of this step, (E, N, N)

    @property
    def type_distribution(self) -> TypeDistribution:
        """Who is Byzantine in the episodes that begin now, and how often."""
        return self.types if isinstance(self.types, TypeDistribution) else self.types()

    def bind(self, spec: TeamSpec, policy: Victim | None, place: Place) -> None:
        """Check that adversary, types and belief fit the team; see :class:`Perturber`."""
        super().bind(spec, policy, place)
        self.type_distribution.check_spec(spec)
        self.adversary.check_spec(spec)
        if self.belief is not None:
            self.belief.check_spec(spec)
        self.spec = spec
        self._type_stream = stream_id(f"types/{place.depth}")
        self._act_stream = stream_id(f"byzantine/{place.depth}")
        self.drawn_types = torch.zeros(0, spec.num_agents, dtype=torch.bool)
        self._hidden: Tensor | None = None
        self._last_act: Tensor | None = None  # what was executed of it, not what the agents chose
        self._belief_hidden: Tensor | None = None
        self._play: ByzantinePlay | None = None
        self._counted = dict.fromkeys(("episodes", "byzantine_episodes", "steps", "replaced"), 0.0)

    @torch.no_grad()
    def on_obs(self, context: StepContext) -> Tensor:
        """Draw the types of episodes that begin; observations (E, N, D) stay as they are."""
        begun = context.live & (context.step == 0)
        if len(self.drawn_types) != len(begun):
            self.drawn_types = torch.zeros_like(context.alive)
        if bool(begun.any()):
            self._forget(begun)
            draws = Draws(context.keys).at(torch.zeros_like(context.step), self._type_stream)
            drawn = self.type_distribution.sample(self.spec, draws)
            self.drawn_types = torch.where(begun[:, None], drawn, self.drawn_types)
            self._counted["episodes"] += float(begun.sum())
            self._counted["byzantine_episodes"] += float((begun & drawn.any(dim=1)).sum())
        types = self.drawn_types
        context.types = types if context.types is None else context.types | types
        return context.seen

    @torch.no_grad()
    def shown(self, context: StepContext) -> None:
        """Fill the slots, beliefs from what was shown."""
        num_envs, num_agents = context.alive.shape
        if self.slots == "zeros":
            self.shown_slots = context.seen.new_zeros(num_envs, num_agents, num_agents)
        elif self.slots == "truth":
            types = self.drawn_types.to(context.seen.dtype)
            self.shown_slots = types.unsqueeze(1).repeat(1, num_agents, 1)
        elif self.belief is not None:
            begun = (context.step == 0)[:, None, None]
            if self._belief_hidden is not None:
                self._belief_hidden = torch.where(begun, 0.0, self._belief_hidden)
            found = self.belief.step(context.seen, self._belief_hidden)
            self.shown_slots, self._belief_hidden = found

    @torch.no_grad()
    def on_act(self, context: StepContext, act: Tensor) -> Tensor:
        """Return ``where(types, adversary's, act)``, like ``act``; the dead keep their no-op."""
        rows = self.byzantine(context)
        replaced = int(rows.count_nonzero())
        self._counted["steps"] += int(context.acting.count_nonzero())
        self._counted["replaced"] += replaced
        self._play = None
        executed = act
        if replaced:
            adversarys = self._adversarys(context, act)
            draws = Draws(context.keys).at(context.step, self._act_stream)
            play = self._play = self.adversary.play(adversarys, act, draws)
            self._check_act(play.act, act, rows, context.mask)
            self._check_logp(play.logp, rows)
            played, real = play.act.to(act.dtype), self.spec.action_mask(act.device)
            if act.dim() == 3 and real is not None:
                played = played.masked_fill(~real, 0.0)
            executed = torch.where(_wide(rows, act), played, act)
            self._hidden = play.hidden
            if play.hidden is not None and adversarys.hidden is not None:
                # Others' episodes must not matter: memory moves on only where somebody played.
                somebody = rows.any(dim=1)[:, None, None]
                self._hidden = torch.where(somebody, play.hidden, adversarys.hidden)
        self._rows, self._intended, self._last_act = rows, act, executed
        return executed

    def byzantine(self, context: StepContext) -> Tensor:
        """Return the rows whose actions are replaced, bool (E, N): alive and Byzantine."""
        return self.drawn_types & context.acting

    def record(self) -> dict[str, Tensor]:
        """Return ``types`` (E, N), ``adversary_id`` (E,), and what else the class names."""
        types = self.drawn_types
        first = types.int().argmax(dim=1)
        kept = {"types": types, "adversary_id": torch.where(types.any(dim=1), first, -1)}
        if self.shown_slots is not None:
            kept["slots"] = self.shown_slots
        if has_probabilities(self.adversary):
            act = torch.zeros_like(self._intended)
            logp = torch.zeros(self._rows.shape, device=self._rows.device)
            if self._play is not None and self._play.logp is not None:
                act = torch.where(_wide(self._rows, act), self._play.act.to(act.dtype), act)
                logp = torch.where(self._rows, self._play.logp, 0.0)
            kept |= {"act": act, "logp": logp}
        return kept

    @property
    def asks_networks(self) -> bool:
        """Whether adversary or slots ask networks, whose weights change as they learn."""
        return self.belief is not None or not plays_by_rule(self.adversary)

    def counters(self) -> dict[str, float]:
        """Return episodes and agent-steps since ``bind``, and how many of each were Byzantine."""
        return dict(self._counted)

    def _forget(self, begun: Tensor) -> None:
        """Empty the memory of the environments ``begun``, bool (E,), whose episodes begin.

        At the beginning, as the adversary may be asked much later: its agent may appear late.
        """
        if self._hidden is not None and len(self._hidden) == len(begun):
            self._hidden = torch.where(begun[:, None, None], 0.0, self._hidden)
        if self._last_act is not None and len(self._last_act) == len(begun):
            none = _no_act(self._last_act)
            self._last_act = torch.where(_wide(begun, self._last_act), none, self._last_act)

    def _adversarys(self, context: StepContext, act: Tensor) -> StepContext:
        """Return the step as the adversary lives it: clean, and with its own past."""
        last_act = self._last_act
        if last_act is None or last_act.shape != act.shape:
            last_act = _no_act(act)
        hidden, size = self._hidden, self.adversary.hidden_size
        shape = (*context.alive.shape, size)
        if size and (hidden is None or hidden.shape != shape):
            hidden = context.obs.new_zeros(shape)
        hidden = hidden if size else None
        return replace(context, seen=context.obs, last_act=last_act, hidden=hidden)

    def _check_act(self, found: object, act: Tensor, rows: Tensor, mask: Tensor) -> None:
        """Raise unless ``found`` are actions like ``act``, available or finite in ``rows``."""
        where = f"{type(self).__name__}.adversary"
        if not isinstance(found, Tensor) or found.shape != act.shape:
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"{where} must return actions of shape {tuple(act.shape)}, got {got}.")
        if act.is_floating_point():
            chosen = found[rows]
            check(all_finite(chosen), where, "finite in its actions", chosen)
            return
        index = found.long()
        near = index.clamp(0, mask.shape[-1] - 1)
        bad = rows & ~(mask.gather(-1, near.unsqueeze(-1)).squeeze(-1) & (near == index))
        if found.is_floating_point():  # which would be cut off
            bad = bad | (rows & (found != index))
        if bool(bad.any()):
            env, agent = bad.nonzero()[0].tolist()
            rule = f"available to {self.spec.agents[agent]!r} in environment {env}"
            value, remedy = found[env, agent].item(), "Choose where context.mask is true."
            check(False, f"{where}'s action", rule, value, remedy)

    def _check_logp(self, logp: Tensor | None, rows: Tensor) -> None:
        """Raise unless a play tells its log-probabilities, (E, N), where its adversary says so."""
        if has_probabilities(self.adversary):
            got = None if logp is None else tuple(logp.shape)
            rule = f"log-probabilities of shape {tuple(rows.shape)}, as it has_probabilities"
            check(got == rows.shape, f"{type(self).__name__}.adversary's logp", rule, got)


def _wide(rows: Tensor, act: Tensor) -> Tensor:
    """Return ``rows``, (E,) or (E, N), with axes of length 1 to the number of those of ``act``."""
    return rows.view(*rows.shape, *(1,) * (act.dim() - rows.dim()))


def _no_act(act: Tensor) -> Tensor:
    """Return "nothing done yet" in the shape of ``act``: zeros of a box, else -1."""
    return torch.zeros_like(act) if act.is_floating_point() else torch.full_like(act, -1)
