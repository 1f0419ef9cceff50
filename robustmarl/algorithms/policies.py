"""Policies of whole teams: epsilon-greedy over Q-values, and stochastic actors."""

from __future__ import annotations

import math
from typing import Any, cast, get_args

import gymnasium
import torch
from tianshou.algorithm.algorithm_base import Policy
from tianshou.data import Batch
from torch import Tensor

from robustmarl._checks import check_number
from robustmarl._seeding import Draws
from robustmarl.attacks.base import StepContext
from robustmarl.networks import Agents
from robustmarl.schedules import Schedule, as_schedule
from robustmarl.spec import TeamSpec
from robustmarl.typing import Unit
from robustmarl.victims import MASKED, NetworkVictim

__all__ = ["ActorPolicy", "DeterministicPolicy", "QPolicy", "TeamPolicy"]

_UNITS: tuple[Unit, ...] = get_args(Unit)


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
        space: gymnasium.Space[Any] = (
            gymnasium.spaces.Box(-1.0, 1.0, spec.action_shape())
            if spec.continuous
            else gymnasium.spaces.MultiDiscrete(list(spec.action_sizes))
        )
        bound = "clip" if spec.continuous else None
        super().__init__(action_space=space, action_bound_method=cast(Any, bound))
        self.spec, self.network = spec, network
        self.register_buffer("counts", torch.zeros(len(_UNITS), dtype=torch.int64))
        self.register_buffer("_agents", torch.arange(spec.num_agents), persistent=False)
        self._victim = NetworkVictim(network, continuous=spec.continuous)

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

    def count(self, unit: Unit, number: int) -> None:
        """Add to the number of ``updates``, ``episodes`` or ``env_steps``."""
        self.counts[_UNITS.index(unit)] += number

    def counted(self, unit: Unit) -> int:
        """Return the number of ``updates``, ``episodes`` or ``env_steps`` so far."""
        return int(self.counts[_UNITS.index(unit)])

    def victim(self) -> NetworkVictim:
        """Return the live view that attacks query."""
        return self._victim

    def check_spec(self, spec: TeamSpec) -> None:
        """Raise ``ValueError`` unless this policy was made for such a team."""
        if difference := self.spec.describe_difference(spec):
            raise ValueError(f"policy must be made for this environment, got {difference}.")

    def infer(self, context: StepContext) -> tuple[Tensor, Tensor | None]:
        """Return unmasked outputs (E, N, A) for ``context.seen``, and the next hidden state."""
        extra = self.network.extra(self._agents, context.last_act)
        return self.network.step(context.seen, extra, context.hidden)

    def select(
        self, output: Tensor, mask: Tensor, draws: Draws, training: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return actions and their log-probabilities; see ``data.Controller``."""
        raise TypeError(f"{type(self).__name__} must implement select.")

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
        network = self._victim.network
        extra = network.extra(self._agents, None)
        output, hidden = network.step(seen, extra, state)
        if mask is None:
            mask = torch.ones(output.shape, dtype=torch.bool, device=self.device)
        if not self.spec.continuous:
            output = output.masked_fill(~torch.as_tensor(mask, device=self.device), MASKED)
        draws = Draws.fresh(len(seen), self.device)
        act, logp = self.select(output, mask, draws, self.is_within_training_step)
        return Batch(act=act, logits=output, logp=logp, state=hidden)


class QPolicy(TeamPolicy):
    """Greedy on Q-values; in training each agent explores with probability epsilon.

    Args:
        spec: the team's; discrete actions.
        network: its agents' Q-values.
        exploration: epsilon in [0, 1] over time.
    """

    def __init__(self, spec: TeamSpec, network: Agents, exploration: float | Schedule) -> None:
        super().__init__(spec, network)
        self.exploration = as_schedule("QPolicy.exploration", exploration)

    @property
    def epsilon(self) -> float:
        """The present probability of exploring."""
        value = self.exploration(self.counted(self.exploration.unit))
        return check_number("QPolicy.exploration()", value, 0.0, 1.0)

    def select(
        self, output: Tensor, mask: Tensor, draws: Draws, training: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return greedy or exploring actions (E, N)."""
        greedy = output.argmax(dim=-1)
        epsilon = self.epsilon if training else 0.0
        if epsilon == 0.0:
            return greedy, None
        explore, which = draws.uniform(2 * greedy.shape[1]).split(greedy.shape[1], dim=1)
        order = mask.cumsum(dim=-1)
        nth = (which * order[..., -1]).long() + 1
        uniform = ((order == nth.unsqueeze(-1)) & mask).int().argmax(dim=-1)
        return torch.where(explore < epsilon, uniform, greedy), None


class ActorPolicy(TeamPolicy):
    """Softmax over logits, or a Gaussian around means in [-1, 1]; evaluated as trained.

    Args:
        spec: the team's.
        network: its agents.
        deterministic_eval: act greedily outside training; a team trained to mix may fail so.
    """

    def __init__(self, spec: TeamSpec, network: Agents, deterministic_eval: bool = False) -> None:
        super().__init__(spec, network)
        self.deterministic_eval = deterministic_eval

    def select(
        self, output: Tensor, mask: Tensor, draws: Draws, training: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return drawn actions and their log-probabilities (E, N)."""
        if self.spec.continuous:
            return self._select_box(output, draws, training)
        logp = torch.log_softmax(output, dim=-1)
        if self.deterministic_eval and not training:
            act = logp.argmax(dim=-1)
        else:
            cumulative = logp.exp().cumsum(dim=-1)
            point = draws.uniform(logp.shape[1]).unsqueeze(-1) * cumulative[..., -1:]
            act = (cumulative <= point).sum(dim=-1)
        return act, logp.gather(-1, act.unsqueeze(-1)).squeeze(-1)

    def _select_box(
        self, mean: Tensor, draws: Draws, training: bool
    ) -> tuple[Tensor, Tensor | None]:
        act = mean
        if training or not self.deterministic_eval:
            noise = draws.normal(mean.shape[1] * mean.shape[2]).view(mean.shape)
            act = mean + noise * self._log_std().exp()
        return act, self.log_prob(mean, act)

    def log_prob(self, output: Tensor, act: Tensor) -> Tensor:
        """Return log-probabilities of ``act`` (...,) or (..., A) given outputs (..., A)."""
        if self.spec.continuous:
            log_std = self._log_std()
            z = (act - output) * (-log_std).exp()
            each = -0.5 * z * z - log_std - 0.5 * math.log(2.0 * math.pi)
            return each.sum(dim=-1)
        logp = torch.log_softmax(output, dim=-1)
        return logp.gather(-1, act.unsqueeze(-1)).squeeze(-1)

    def entropy(self, output: Tensor) -> Tensor:
        """Return entropies (...,) in nats given outputs (..., A)."""
        if self.spec.continuous:
            each = self._log_std() + 0.5 * math.log(2.0 * math.pi * math.e)
            return each.sum(dim=-1).expand(output.shape[:-1])
        logp = torch.log_softmax(output, dim=-1)
        return -(logp.exp() * logp).sum(dim=-1)

    def _log_std(self) -> Tensor:
        assert self.network.log_std is not None  # continuous networks have one
        return self.network.log_std.clamp(-5.0, 2.0)


class DeterministicPolicy(TeamPolicy):
    r"""Actions :math:`\mu(o)` in [-1, 1]; in training with Gaussian noise, clipped to the box.

    Args:
        spec: the team's; continuous actions.
        network: its agents, with ``squash``.
        exploration: the noise's standard deviation >= 0 over time, in units of the box's half.
    """

    def __init__(self, spec: TeamSpec, network: Agents, exploration: float | Schedule) -> None:
        super().__init__(spec, network)
        self.exploration = as_schedule("DeterministicPolicy.exploration", exploration)

    def select(
        self, output: Tensor, mask: Tensor, draws: Draws, training: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return actions (E, N, A), and None: they have no density."""
        value = self.exploration(self.counted(self.exploration.unit))
        scale = check_number("DeterministicPolicy.exploration()", value, 0.0)
        if not training or scale == 0.0:
            return output, None
        noise = draws.normal(output.shape[1] * output.shape[2]).view(output.shape)
        return (output + scale * noise).clamp(-1.0, 1.0), None
