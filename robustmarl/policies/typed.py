"""Actors that act on what they believe of their teammates' types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from robustmarl._checks import check, check_choice, check_flag, check_kind, check_number
from robustmarl._seeding import Draws, stream_id
from robustmarl.joint import StepContext, TeamSpec
from robustmarl.networks import BeliefNetwork, Extra, TeamNetwork, TypedAgentNetwork
from robustmarl.policies.actor import ActorPolicy
from robustmarl.schedules import Schedule, as_schedule
from robustmarl.victims import NetworkVictim

__all__ = ["TypedPolicy"]

SlotKind = Literal["zeros", "truth", "belief"]

BeliefReads = Literal["seen", "clean"]

_FORCE = stream_id("teacher_forcing")


class TypedPolicy(ActorPolicy):
    r"""An actor on observations and N type slots: zeros, the truth, or its own belief.

    In training each agent is shown the truth instead of its belief with the probability
    ``teacher_forcing`` (one coin per agent, step and environment), where types are known.
    Outside of training it never is. An oracle sees zeros where nobody draws types.

    Args:
        spec: the team's.
        network: its actor.
        slots: ``"zeros"``, ``"truth"`` or ``"belief"``.
        belief: the belief network, for ``"belief"``. It reads what the agents are shown.
        teacher_forcing: probability in [0, 1] over time.
        hard_belief: round beliefs to 0 or 1.
        deterministic_eval: act greedily outside training.
        belief_reads: ``"seen"``, what agents are shown, or ``"clean"`` observations: under an
            observation attack the actor alone is then deceived. May be set anew at any time.
    """

    network: TypedAgentNetwork

    def __init__(
        self,
        spec: TeamSpec,
        network: TypedAgentNetwork,
        *,
        slots: SlotKind,
        belief: BeliefNetwork | None = None,
        teacher_forcing: float | Schedule = 0.0,
        hard_belief: bool = False,
        deterministic_eval: bool = False,
        belief_reads: BeliefReads = "seen",
    ) -> None:
        super().__init__(spec, network, deterministic_eval)
        check_choice("TypedPolicy.belief_reads", belief_reads, get_args(BeliefReads))
        self.belief_reads = belief_reads
        check_choice("TypedPolicy.slots", slots, get_args(SlotKind))
        if belief is not None:
            check_kind("TypedPolicy.belief", belief, BeliefNetwork, "a BeliefNetwork, or None")
        rule = "given for slots='belief', and only then"
        check((belief is not None) == (slots == "belief"), "TypedPolicy.belief", rule, belief)
        self.slot_kind: SlotKind = slots
        self.belief = belief
        self.teacher_forcing = as_schedule("TypedPolicy.teacher_forcing", teacher_forcing, 0.0, 1.0)
        self.hard_belief = check_flag("TypedPolicy.hard_belief", hard_belief)
        self._slots: Tensor | None = None
        self._beside_belief = NetworkVictim(
            network,
            continuous=spec.continuous,
            agents=spec.agents,
            side=self.side,
            acting_only=belief is not None,
            counted=self.counted,
        )
        if belief is not None:
            self._through_belief = NetworkVictim(
                _Believer(self),
                continuous=spec.continuous,
                agents=spec.agents,
                counted=self.counted,
            )

    @property
    def hidden_size(self) -> int:
        """Size of the belief's memory, 0 without."""
        return 0 if self.belief is None else self.belief.hidden_size

    @property
    def forcing(self) -> float:
        """The present probability of teacher forcing."""
        value = self.teacher_forcing(self.counted(self.teacher_forcing.unit))
        return check_number("TypedPolicy.teacher_forcing()", value, 0.0, 1.0)

    @property
    def whole(self) -> TeamNetwork:
        """The actor, with the belief that it acts on."""
        return self.network if self.belief is None else self._through_belief.network

    def infer(self, context: StepContext) -> tuple[Tensor, Tensor | None]:
        """Return unmasked outputs (E, N, A), and the belief's next memory."""
        hidden = context.hidden
        if self.slot_kind == "zeros":
            self._slots = None
        elif self.belief is None:
            self._slots = self._truth(context)
        else:
            read = context.obs if self.belief_reads == "clean" else context.seen
            belief, hidden = self.belief.step(read, context.hidden)
            self._slots = self._forced(self.rounded(belief), context)
        extra = self.network.extra(self._agents, context.last_act, self.acted_on(context))
        return self.network.step(context.seen, extra, None)[0], hidden

    def record(self) -> Mapping[str, Tensor]:
        """Return ``slots``, (E, N, N), teacher forcing included; nothing where they are zero."""
        return {} if self._slots is None else {"slots": self._slots}

    def side(self, context: StepContext) -> Mapping[str, Tensor]:
        """Return the slots that do not depend on what an attack shows."""
        if self.slot_kind == "truth":
            return {"slots": self._truth(context)}
        if self.belief is None or self.belief_reads == "seen":
            return {}
        return {"slots": self.rounded(self.belief.step(context.obs, context.hidden)[0])}

    def acted_on(self, context: StepContext) -> Mapping[str, Tensor]:
        """Return the slots with which :meth:`infer` last answered, teacher forcing included."""
        return self.record()

    def loss_victim(self) -> NetworkVictim:
        """Return the actor alone, whose slots come with the rows: their memory is gone."""
        return self._beside_belief

    def victim(self) -> NetworkVictim:
        """Return the live view that attacks query, through the belief if it reads the same."""
        if self.belief is None:
            return super().victim()
        return self._through_belief if self.belief_reads == "seen" else self._beside_belief

    def rounded(self, belief: Tensor) -> Tensor:
        """Return the belief as the actor is shown it."""
        return (belief > 0.5).to(belief.dtype) if self.hard_belief else belief

    def _forced(self, belief: Tensor, context: StepContext) -> Tensor:
        if not self.is_within_training_step or context.types is None:
            return belief
        probability = self.forcing
        if probability == 0.0:
            return belief
        coins = Draws(context.keys).at(context.step, _FORCE).uniform(belief.shape[1])
        return torch.where((coins < probability).unsqueeze(-1), self._truth(context), belief)

    def _truth(self, context: StepContext) -> Tensor:
        shape = (*context.alive.shape, self.spec.num_agents)
        if context.types is None:
            return context.seen.new_zeros(shape)
        return context.types.to(context.seen.dtype).unsqueeze(1).expand(shape)


class _Believer:
    """Belief and actor as one network, as attacks query it; gradients pass through both."""

    def __init__(self, policy: TypedPolicy) -> None:
        self._policy = policy

    @property
    def obs_size(self) -> int:
        return self._policy.network.obs_size

    @property
    def num_actions(self) -> int:
        return self._policy.network.num_actions

    @property
    def hidden_size(self) -> int:
        return self._policy.hidden_size

    def parameters(self) -> Iterator[nn.Parameter]:
        return self._policy.network.parameters()

    def plan(self) -> None:
        return None

    def extra(
        self,
        agents: Tensor | None,
        last_act: Tensor | None,
        side: Mapping[str, Tensor] | None = None,
    ) -> Extra:
        return self._policy.network.extra(agents, last_act)  # its slots are the belief's

    def step(
        self, obs: Tensor, extra: Extra | None, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        extra = Extra() if extra is None else extra
        network, belief_net = self._policy.network, cast(BeliefNetwork, self._policy.belief)
        belief, after = belief_net.step_rows(obs, extra.agents, hidden)
        shown = network.with_inputs(extra, {"slots": self._policy.rounded(belief)})
        return network.step(obs, shown, None)[0], after
