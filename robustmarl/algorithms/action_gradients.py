"""What MADDPG and FACMAC share: actors that climb a critic of the team's joint action."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Self, cast

import torch
from tianshou.algorithm.algorithm_base import (
    LaggedNetworkPolyakUpdateAlgorithmMixin,
)
from tianshou.algorithm.optim import OptimizerFactory
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from robustmarl._checks import check, check_int, check_kind, check_number, check_tensor
from robustmarl._seeding import generator
from robustmarl.joint import MASKED, JointBatch, StepContext, TeamSpec
from robustmarl.learning import OffPolicyTeam
from robustmarl.learning.base import TeamTrainingStats, build_network
from robustmarl.learning.optim import adam
from robustmarl.learning.returns import masked_mean, n_step_returns
from robustmarl.learning.settings import (
    ExplorationSettings,
    NetworkSettings,
    OpenSettings,
    TeamSettings,
    take,
)
from robustmarl.networks import Agents, FactoredCritic, JointCritic
from robustmarl.policies.actor import DeterministicPolicy
from robustmarl.policies.base import TeamPolicy
from robustmarl.policies.exploring import ExploringPolicy

__all__ = ["ActionGradientSettings", "ActionGradients", "gumbel_softmax"]


class ActionGradientSettings(TeamSettings, ExplorationSettings, total=False):
    """Keywords of :class:`ActionGradients`."""

    critic_hidden: tuple[int, ...]
    optim: OptimizerFactory | None
    critic_optim: OptimizerFactory | None
    gamma: float
    n_step: int
    tau: float
    temperature: float
    output_coef: float
    max_grad_norm: float | None


def gumbel_softmax(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    r"""Return a one-hot sample of softmax(logits) with a straight-through gradient, (..., A).

    .. math:: y = \mathrm{softmax}((l + g) / \tau),\quad g \sim \mathrm{Gumbel}(0, 1), \qquad
              \text{forward: } 1[\arg\max y], \quad \text{backward: } \partial y / \partial l

    An action whose logit is ``MASKED`` is never drawn.

    Args:
        logits: (..., A).
        temperature: :math:`\tau` > 0.
        generator: of the noise, on the device of ``logits``.
    """
    check_tensor("gumbel_softmax.logits", logits)
    where = "gumbel_softmax.temperature"
    temperature = check_number(where, temperature, 0.0, open_low=True)
    rule = "a torch.Generator"
    check_kind("gumbel_softmax.generator", generator, torch.Generator, rule)
    uniform = torch.rand(
        logits.shape, dtype=logits.dtype, device=logits.device, generator=generator
    )
    smallest = torch.finfo(logits.dtype).tiny  # logarithms of zero would be infinite
    noise = -(-uniform.clamp(min=smallest).log()).clamp(min=smallest).log()
    soft = torch.softmax((logits + noise) / temperature, dim=-1)
    hard = F.one_hot(soft.argmax(dim=-1), logits.shape[-1]).to(soft.dtype)
    return hard + (soft - soft.detach())  # the bracket is exactly zero


class ActionGradients(OffPolicyTeam, LaggedNetworkPolyakUpdateAlgorithmMixin):
    r"""Base of teams whose actors follow the gradient of a critic in their actions.

    .. math:: y_t = r_t + \gamma c_t\, \bar Q(s_{t+1}, \bar\mu(o_{t+1})), \qquad
              L_Q = \overline{(Q(s, a) - y)^2}, \qquad
              L_\mu = -\overline{Q(s, \tilde a)} + c_o \overline{l^2}

    on whole episodes, with c = 0 after a termination, 1 at a time limit; which joint actions
    :math:`\tilde a` the actors are judged by, a subclass says. Discrete actions are one-hot: the
    actors' own are drawn by :func:`gumbel_softmax`, the target's are the most likely ones, and the
    team acts by drawing from its softmax, in evaluation too. Continuous actions are
    :math:`\mu(o) = \tanh`, with Gaussian noise in training. Learns from ``obs.seen``.

    ``for_env`` also takes ``exploration`` (0.1; discrete: a share of uniform actions, continuous:
    the noise's standard deviation), ``critic_hidden``, ``deterministic_eval`` (discrete) and
    the network's settings, ``shared=False`` for an actor per agent among them.

    Args:
        policy: the team's.
        critic: Q of what it reads, which a subclass says, and a joint action.
        optim: the actor's optimizer factory; None is Adam at 5e-4 (the authors: 1e-2 for both).
        critic_optim: the critic's; None is Adam at 1e-3: it must lead the actor.
        gamma: discount in [0, 1].
        n_step: length of the returns before the target's value, >= 1.
        tau: share of the online weights taken over by the targets per update, in (0, 1].
        temperature: of the Gumbel-softmax, > 0.
        output_coef: :math:`c_o` >= 0, of the mean square of available logits or of actions.
        max_grad_norm: global norm at which gradients are clipped, > 0, or None.
    """

    policy: TeamPolicy
    kind_of_critic: ClassVar[type[JointCritic | FactoredCritic]]

    def __init__(
        self,
        *,
        policy: TeamPolicy,
        critic: JointCritic | FactoredCritic,
        optim: OptimizerFactory | None = None,
        critic_optim: OptimizerFactory | None = None,
        gamma: float = 0.95,
        n_step: int = 1,
        tau: float = 0.01,
        temperature: float = 1.0,
        output_coef: float = 1e-3,
        max_grad_norm: float | None = 10.0,
    ) -> None:
        name = type(self).__name__
        kinds = ExploringPolicy | DeterministicPolicy
        rule = "an ExploringPolicy, or a DeterministicPolicy of continuous actions"
        check_kind(f"{name}.policy", policy, kinds, rule)
        kind = self.kind_of_critic
        check_kind(f"{name}.critic", critic, kind, f"a {kind.__name__}")
        super().__init__(policy=policy)
        tau = check_number(f"{name}.tau", tau, 0.0, 1.0, open_low=True)
        LaggedNetworkPolyakUpdateAlgorithmMixin.__init__(self, tau)
        self.gamma = check_number(f"{name}.gamma", gamma, 0.0, 1.0)
        self.n_step = check_int(f"{name}.n_step", n_step, 1)
        self.temperature = check_number(f"{name}.temperature", temperature, 0.0, open_low=True)
        self.output_coef = check_number(f"{name}.output_coef", output_coef, 0.0)
        self.critic = critic
        self._target = self._add_lagged_network(nn.ModuleList([policy.network, critic]))
        self.optim = self._create_optimizer(policy.network, optim or adam(5e-4), max_grad_norm)
        self.critic_optim = self._create_optimizer(
            critic, critic_optim or adam(1e-3), max_grad_norm
        )

    @classmethod
    def _build(cls, spec: TeamSpec, **settings: Any) -> Self:
        hidden = settings.get("hidden", (64, 64))
        # Small first outputs: means near the box's middle, or an almost uniform softmax.
        actors = NetworkSettings(output_gain=0.01) | take(settings, NetworkSettings)
        network = build_network(spec, actors, squash=spec.continuous)
        acting = take(settings, ExplorationSettings)
        exploration = acting.get("exploration", 0.1)
        policy: TeamPolicy
        if spec.continuous:
            name = f"{cls.__name__}.deterministic_eval"
            left_out = "deterministic_eval" not in acting
            check(left_out, name, "left out: continuous actors are deterministic", acting)
            policy = DeterministicPolicy(spec, network, exploration)
        else:
            greedy = acting.get("deterministic_eval", False)
            policy = ExploringPolicy(spec, network, exploration, greedy)
        critic = cls._critic(spec, settings.pop("critic_hidden", hidden), settings)
        return cls(policy=policy, critic=critic, **settings)

    @classmethod
    @abstractmethod
    def _critic(
        cls, spec: TeamSpec, hidden: tuple[int, ...], settings: OpenSettings
    ) -> JointCritic | FactoredCritic:
        """Return the critic; a subclass takes its settings out of ``settings``."""

    @abstractmethod
    def _reading(self, seen: Tensor, state: Tensor) -> Tensor:
        """Return what the critic reads, (..., R).

        Args:
            seen: what agents observe, (..., N, D).
            state: (..., S) or (..., N, S).
        """

    @abstractmethod
    def _judged(self, chosen: Tensor, taken: Tensor, alive: Tensor) -> tuple[Tensor, Tensor]:
        """Return the joint actions by which the actors are judged, and which of them count.

        Args:
            chosen: what the actors choose now, with a gradient, (R, N, A).
            taken: what was played, (R, N, A).
            alive: (R, N).

        Returns:
            (R, K, N, A) and bool (R, K).
        """

    def _vectors(self, act: Tensor, alive: Tensor) -> Tensor:
        """Return actions as the critic takes them, (..., N, A)."""
        if self.spec.continuous:  # what the dead "do", or padding says, changes nothing
            return self.policy.without_padding(act * alive.unsqueeze(-1))
        return F.one_hot(act, self.spec.num_actions).to(self.critic.of_act.weight.dtype)

    def action_values(self, context: StepContext, joint: Tensor) -> Tensor:
        """Return Q, (E, K), of K joint actions (E, K, N, A) in the environments of a step."""
        reading = self._reading(context.seen, context.state)
        value: Tensor = self.critic(reading, self._vectors(joint, context.alive.unsqueeze(-2)))
        return value

    def facing(
        self,
        critic: Callable[[Tensor, Tensor], Tensor],
        state: Tensor,
        joint: Tensor,
        alive: Tensor,
    ) -> Tensor:
        """Return the joint actions that the critic is asked about in place of ``joint``.

        Args:
            critic: Q of states and joint actions, the online one or the target.
            state: (..., S).
            joint: (..., K, N, A): K is N where agent k chooses anew, else 1.
            alive: (..., N).
        """
        return joint

    def _noise(self) -> torch.Generator:
        """Return the generator of this update's Gumbel noise."""
        return generator(self.seed, self.policy.counted("updates"), "gumbel", device=self.device)

    @torch.no_grad()
    def targets(self, batch: JointBatch) -> Tensor:
        """Return n-step targets of the joint actions taken, (B, T, K)."""
        obs = batch.obs
        modules = cast(nn.ModuleList, self._target.module)
        actors, critic = cast(Agents, modules[0]), modules[1]
        act = actors.unroll(obs.seen, self.last_act(batch, terminal=True))[0][:, 1:]
        alive = obs.alive[:, 1:]
        if not self.spec.continuous:
            act = act.masked_fill(~obs.mask[:, 1:], MASKED).argmax(dim=-1)
        joint = self._vectors(act, alive).unsqueeze(-3)
        state = self._reading(obs.seen, obs.state)[:, 1:]
        value = critic(state, self.facing(critic, state, joint, alive))
        reward, bootstrap, going_on = batch.earned("team")
        return n_step_returns(reward, value, bootstrap, going_on, self.gamma, self.n_step)

    def learn(self, batch: JointBatch) -> TeamTrainingStats:
        """Take one update's steps; see :class:`~robustmarl.learning.OffPolicyTeam`."""
        obs, valid = batch.obs, batch.valid
        alive = obs.alive[:, :-1][valid]
        state = self._reading(obs.seen, obs.state)[:, :-1][valid]
        taken = self._vectors(batch.act[valid], alive)
        value = self.critic(state, taken)
        error = value.unsqueeze(-1) - self.targets(batch)[valid]
        critic_loss = error.square().mean()
        self.critic_optim.step(critic_loss)
        policy_loss = self._actor_step(batch, state, taken, alive)
        self.policy.count("updates", 1)
        self._update_lagged_network_weights()
        figures = torch.stack([critic_loss.detach(), policy_loss, value.detach().mean()])
        names = ("critic_loss", "policy_loss", "q")
        return TeamTrainingStats(metrics=dict(zip(names, figures.tolist(), strict=True)))

    def _actor_step(self, batch: JointBatch, state: Tensor, taken: Tensor, alive: Tensor) -> Tensor:
        """Step on the actor's loss and return it; R valid steps (R, S), (R, N, A), (R, N)."""
        obs, valid = batch.obs, batch.valid
        last_act = self.last_act(batch, terminal=False)
        output, before = self.policy.network.unroll(obs.seen[:, :-1], last_act)
        output, mask = output[valid], obs.mask[:, :-1][valid]
        chosen, counted = output, alive.unsqueeze(-1).expand_as(output)
        if not self.spec.continuous:
            logits = output.masked_fill(~mask, MASKED)
            chosen = gumbel_softmax(logits, self.temperature, self._noise())
            counted = counted & mask
        elif (real := self.spec.action_mask(output.device)) is not None:
            chosen, counted = self.policy.without_padding(output), counted & real
        joint, judged = self._judged(chosen, taken, alive)
        # The critic judges and does not learn here: no gradient for its parameters is computed.
        frozen = {name: weight.detach() for name, weight in self.critic.named_parameters()}
        critic = partial(_call, self.critic, frozen)
        value = critic(state, self.facing(critic, state, joint, alive))
        loss = -masked_mean(value, judged)
        if self.output_coef > 0.0:
            loss = loss + self.output_coef * masked_mean(output.square(), counted)
        self.step_policy(
            loss, lambda: self.loss_rows(obs.obs, obs.mask, batch.living, last_act, before)
        )
        return loss.detach()


def _call(critic: nn.Module, parameters: dict[str, Tensor], state: Tensor, act: Tensor) -> Tensor:
    value: Tensor = functional_call(critic, parameters, (state, act))
    return value
