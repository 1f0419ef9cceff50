"""Policies of whole teams."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, cast, get_args

import torch
from tianshou.algorithm.algorithm_base import Policy
from tianshou.data import Batch
from torch import Tensor

from robustmarl._checks import check, check_has, check_kind
from robustmarl._seeding import Draws
from robustmarl.joint import MASKED, StepContext, TeamSpec
from robustmarl.networks import Agents, TeamNetwork
from robustmarl.typing import Unit
from robustmarl.victims import NetworkVictim

__all__ = ["UNITS", "TeamPolicy"]

UNITS: tuple[Unit, ...] = get_args(Unit)


class TeamPolicy(Policy):
    """N agents that share one network, acting on what they see.

    It plays through :meth:`infer` and :meth:`select`, which the collector calls; ``forward`` is
    the same for Tianshou's batches. How often it was updated, and over how many episodes and
    steps, is counted in a buffer and travels with the weights.

    Args:
        spec: the team's.
        network: its agents.
    """

    counts: Tensor
    _agents: Tensor

    def __init__(self, spec: TeamSpec, network: Agents) -> None:
        _check_parts(type(self).__name__, spec, network)
        bound = "clip" if spec.continuous else None
        space = spec.joint_action_space()
        super().__init__(action_space=space, action_bound_method=cast(Any, bound))
        self.spec, self.network = spec, network
        self.register_buffer("counts", torch.zeros(len(UNITS), dtype=torch.int64))
        # of which buffer, at which of its versions, and what was read of it: see `counted`
        self._last_read: tuple[Tensor | None, int, tuple[int, ...]] = (None, 0, ())
        everybody = getattr(network, "team", None)  # the very tensor, which networks know again
        everybody = torch.arange(spec.num_agents) if everybody is None else everybody
        self.register_buffer("_agents", everybody, persistent=False)
        self._victim = NetworkVictim(
            network,
            continuous=spec.continuous,
            agents=spec.agents,
            side=self.side,
            counted=self.counted,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become a copy, whose buffers begin to count their versions anew."""
        super().__setstate__(state)
        self._last_read = (None, 0, ())

    @staticmethod
    def _compile() -> None:
        """Skip compiling Tianshou's return estimators, which teams do not use."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.first.weight.device

    @property
    def hidden_size(self) -> int:
        """H, 0 without memory."""
        return self.network.hidden_size

    @property
    def whole(self) -> TeamNetwork:
        """The network from observations to outputs, all of the memory included."""
        return self.network

    def count(self, unit: Unit, number: int) -> None:
        """Add to the number of ``updates``, ``episodes`` or ``env_steps``."""
        self.counts[UNITS.index(unit)] += number

    def counted(self, unit: Unit) -> int:
        """Return the number of ``updates``, ``episodes`` or ``env_steps`` so far."""
        known, version, values = self._last_read
        if known is not self.counts or version != self.counts._version:
            # an accelerator is waited for when counts have changed, not whenever they are asked
            values = tuple(self.counts.tolist())
            self._last_read = (self.counts, self.counts._version, values)
        return values[UNITS.index(unit)]

    def victim(self) -> NetworkVictim:
        """Return the live view that attacks query."""
        return self._victim

    def side(self, context: StepContext) -> Mapping[str, Tensor]:
        """Return further inputs of the network, (E, N, ...) each, that no attack touches."""
        return {}

    def acted_on(self, context: StepContext) -> Mapping[str, Tensor]:
        """Return the further inputs with which :meth:`infer` last answered, for ``context``."""
        return self.side(context)

    def loss_victim(self) -> NetworkVictim:
        """Return the view that loss terms query: their rows carry what :meth:`acted_on` gives."""
        return self.victim()

    def without_padding(self, values: Tensor, agents: Tensor | None = None) -> Tensor:
        """Return ``values`` (..., A) with zeros for action coordinates that do not exist.

        Args:
            values: one per action coordinate; or (A,), the same for all agents.
            agents: whose they are, int64 (...,); None: (..., N, A) in the team's order.
        """
        real = self.spec.action_mask(values.device)
        if real is None:
            return values
        return torch.where(real if agents is None else real[agents], values, 0.0)

    def record(self) -> Mapping[str, Tensor]:
        """Return what it acted on in this step beside observations, by name, (E, ...) each.

        The batch has it as ``records["policy"]``, so that it learns from the very inputs.
        """
        return {}

    def check_spec(self, spec: TeamSpec) -> None:
        """Raise ``ValueError`` unless this policy was made for such a team."""
        if difference := self.spec.describe_difference(spec):
            raise ValueError(f"policy must be made for this environment, got {difference}.")

    def infer(self, context: StepContext) -> tuple[Tensor, Tensor | None]:
        """Return unmasked outputs (E, N, A) for ``context.seen``, and the next hidden state."""
        extra = self.network.extra(self._agents, context.last_act, self.side(context))
        return self.network.step(context.seen, extra, context.hidden)

    @abstractmethod
    def select(
        self, output: Tensor, mask: Tensor, draws: Draws, training: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return actions and their log-probabilities; see ``data.Controller``."""

    def forward(self, batch: Any, state: Any = None, **kwargs: Any) -> Any:
        """Return Tianshou's ``Batch(act, logits, state)`` for joint observations.

        Args:
            batch: ``obs`` with ``seen`` or ``obs`` (E, N, D), and ``mask`` (E, N, A) if any.
            state: the hidden state (E, N, H), or None.
            kwargs: unused.
        """
        obs = batch.obs
        seen = obs.get("seen", obs.get("obs")) if isinstance(obs, Batch) else obs
        seen = torch.as_tensor(seen, dtype=torch.float32, device=self.device)
        mask = obs.get("mask") if isinstance(obs, Batch) else None
        network = self.whole
        extra = network.extra(self._agents, None)
        output, hidden = network.step(seen, extra, state)
        if mask is None:
            mask = torch.ones(output.shape, dtype=torch.bool, device=self.device)
        if not self.spec.continuous:
            output = output.masked_fill(~torch.as_tensor(mask, device=self.device), MASKED)
        draws = Draws.fresh(len(seen), self.device)
        act, logp = self.select(output, mask, draws, self.is_within_training_step)
        return Batch(act=act, logits=output, logp=logp, state=hidden)


def _check_parts(name: str, spec: TeamSpec, network: Agents) -> None:
    """Raise unless the network is one of a team, and of this one's sizes."""
    check_kind(f"{name}.spec", spec, TeamSpec, "a TeamSpec", "Write spec_of(env).")
    rule = "a team's network, such as networks.AgentNetwork"
    check_has(f"{name}.network", network, ("plan", "extra", "step", "parameters"), rule)
    wanted = spec.obs_size, spec.num_agents, spec.num_actions
    num_agents = getattr(network, "num_agents", spec.num_agents)  # one of your own need not say
    found = network.obs_size, num_agents, network.num_actions
    rule = f"made for the team, of (obs_size, num_agents, num_actions) = {wanted}"
    check(found == wanted, f"{name}.network", rule, f"{type(network).__name__}{found}")
