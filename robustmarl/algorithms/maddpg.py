"""MADDPG, and M3DDPG, which expects the worst of the other agents."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Self, Unpack, cast

import torch
from tianshou.algorithm.algorithm_base import (
    LaggedNetworkPolyakUpdateAlgorithmMixin,
)
from tianshou.algorithm.optim import OptimizerFactory
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from robustmarl._checks import (
    check,
    check_choice,
    check_int,
    check_kind,
    check_number,
    check_tensor,
)
from robustmarl._seeding import generator
from robustmarl.joint import MASKED, JointBatch, JointObs, TeamSpec, joint_state
from robustmarl.learning import OffPolicyTeam
from robustmarl.learning.base import TeamTrainingStats, build_network
from robustmarl.learning.optim import adam
from robustmarl.learning.returns import masked_mean, n_step_returns
from robustmarl.learning.settings import (
    ExplorationSettings,
    NetworkSettings,
    TeamSettings,
    take,
)
from robustmarl.learning.values import CriticInput
from robustmarl.networks import Agents, JointCritic
from robustmarl.policies.actor import DeterministicPolicy
from robustmarl.policies.base import TeamPolicy
from robustmarl.policies.exploring import ExploringPolicy
from robustmarl.typing import Env

__all__ = ["M3DDPG", "MADDPG", "M3DDPGSettings", "MADDPGSettings", "gumbel_softmax"]


class MADDPGSettings(TeamSettings, ExplorationSettings, total=False):
    """Keywords of ``MADDPG.for_env``."""

    critic_hidden: tuple[int, ...]
    critic_input: CriticInput
    optim: OptimizerFactory | None
    critic_optim: OptimizerFactory | None
    gamma: float
    n_step: int
    tau: float
    temperature: float
    output_coef: float
    max_grad_norm: float | None


class M3DDPGSettings(MADDPGSettings, total=False):
    """Keywords of ``M3DDPG.for_env``."""

    epsilon: float


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


class MADDPG(OffPolicyTeam, LaggedNetworkPolyakUpdateAlgorithmMixin):
    r"""Multi-agent deterministic policy gradients [Lowe2017]_ with one critic of the team.

    .. math:: y_t = r_t + \gamma c_t\, \bar Q(s_{t+1}, \bar\mu(o_{t+1})), \qquad
              L_Q = \overline{(Q(s, a) - y)^2}, \qquad
              L_\mu = -\overline{Q(s, a_1, .., \mu^i(o^i), .., a_N)} + c_o \overline{l^2}

    on whole episodes, with the other agents' actions as played, averages over living agents, and
    c = 0 after a termination, 1 at a time limit. Discrete actions are one-hot: the actor's own is
    drawn by :func:`~robustmarl.algorithms.maddpg.gumbel_softmax`, the target's is the most likely
    one, and the team acts by drawing from its softmax, in evaluation too. Continuous actions are
    :math:`\mu(o) = \tanh`, with Gaussian noise in training. Learns from ``obs.seen``.

    ``for_env`` also takes ``exploration`` (0.1; discrete: a share of uniform actions, continuous:
    the noise's standard deviation), ``critic_hidden``, ``deterministic_eval`` (discrete) and
    the network's settings, ``shared=False`` for an actor per agent among them.

    Args:
        policy: the team's.
        critic: Q of a state and a joint action.
        critic_input: ``"state"``, or ``"seen"`` for all agents' observations.
        optim: the actor's optimizer factory; None is Adam at 5e-4 (the authors: 1e-2 for both).
        critic_optim: the critic's; None is Adam at 1e-3: it must lead the actor.
        gamma: discount in [0, 1]; this, ``tau`` and ``output_coef`` are the authors'.
        n_step: length of the returns before the target's value, >= 1.
        tau: share of the online weights taken over by the targets per update, in (0, 1].
        temperature: of the Gumbel-softmax, > 0.
        output_coef: :math:`c_o` >= 0, of the mean square of available logits or of actions.
        max_grad_norm: global norm at which gradients are clipped, > 0, or None.

    Example:
        >>> from functools import partial
        >>> from robustmarl import envs, evaluation
        >>> make = partial(envs.spread, agents=2, continuous_actions=True)
        >>> team = MADDPG.for_env(make(), seed=0)
        >>> evaluation.rollout(team, make, episodes=2).lengths
        array([25, 25])
    """

    policy: TeamPolicy

    def __init__(
        self,
        *,
        policy: TeamPolicy,
        critic: JointCritic,
        critic_input: CriticInput = "state",
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
        check_kind(f"{name}.critic", critic, JointCritic, "a JointCritic")
        super().__init__(policy=policy)
        tau = check_number(f"{name}.tau", tau, 0.0, 1.0, open_low=True)
        LaggedNetworkPolyakUpdateAlgorithmMixin.__init__(self, tau)
        check_choice(f"{name}.critic_input", critic_input, ("seen", "state"))
        self.critic_input = critic_input
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
    def for_env(cls, env: Env | TeamSpec, **settings: Unpack[MADDPGSettings]) -> Self:
        """Return MADDPG for ``env``; see :meth:`TeamAlgorithm.for_env`."""
        return cls._make(env, settings)

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
        reads = settings.get("critic_input", "state")
        check_choice(f"{cls.__name__}.critic_input", reads, ("seen", "state"))
        reads_state = reads == "state"
        size = spec.joint_state_size if reads_state else spec.num_agents * spec.obs_size
        critic_hidden = settings.pop("critic_hidden", hidden)
        critic = JointCritic(size, spec.num_agents, spec.num_actions, hidden=critic_hidden)
        return cls(policy=policy, critic=critic, **settings)

    def _state(self, obs: JointObs) -> Tensor:
        if self.critic_input == "seen":
            return obs.seen.flatten(-2)
        return joint_state(obs.state, self.spec)

    def _vectors(self, act: Tensor, alive: Tensor) -> Tensor:
        """Return actions as the critic takes them, (..., N, A)."""
        if self.spec.continuous:  # what the dead "do", or padding says, changes nothing
            return self.policy.without_padding(act * alive.unsqueeze(-1))
        return F.one_hot(act, self.spec.num_actions).to(self.critic.of_act.weight.dtype)

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
        actors, critic = cast(Agents, modules[0]), cast(JointCritic, modules[1])
        act = actors.unroll(obs.seen, self.last_act(batch.act, terminal=True))[0][:, 1:]
        alive = obs.alive[:, 1:]
        if not self.spec.continuous:
            act = act.masked_fill(~obs.mask[:, 1:], MASKED).argmax(dim=-1)
        joint = self._vectors(act, alive).unsqueeze(-3)
        state = self._state(obs)[:, 1:]
        value = critic(state, self.facing(critic, state, joint, alive))
        reward, bootstrap, going_on = batch.earned("team")
        return n_step_returns(reward, value, bootstrap, going_on, self.gamma, self.n_step)

    def learn(self, batch: JointBatch) -> TeamTrainingStats:
        """Take one update's steps; see :class:`~robustmarl.learning.OffPolicyTeam`."""
        obs, valid = batch.obs, batch.valid
        alive = obs.alive[:, :-1][valid]
        state = self._state(obs)[:, :-1][valid]
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
        last_act = self.last_act(batch.act, terminal=False)
        output, before = self.policy.network.unroll(obs.seen[:, :-1], last_act)
        output, mask = output[valid], obs.mask[:, :-1][valid]
        chosen, counted = output, alive.unsqueeze(-1).expand_as(output)
        if not self.spec.continuous:
            logits = output.masked_fill(~mask, MASKED)
            chosen = gumbel_softmax(logits, self.temperature, self._noise())
            counted = counted & mask
        elif (real := self.spec.action_mask(output.device)) is not None:
            chosen, counted = self.policy.without_padding(output), counted & real
        agents = self.spec.num_agents
        chooses = torch.eye(agents, dtype=torch.bool, device=chosen.device).unsqueeze(-1)
        joint = torch.where(chooses, chosen.unsqueeze(-3), taken.unsqueeze(-3))
        # The critic judges and does not learn here: no gradient for its parameters is computed.
        frozen = {name: weight.detach() for name, weight in self.critic.named_parameters()}
        critic = partial(_call, self.critic, frozen)
        value = critic(state, self.facing(critic, state, joint, alive))
        loss = -masked_mean(value, alive)
        if self.output_coef > 0.0:
            loss = loss + self.output_coef * masked_mean(output.square(), counted)
        self.step_policy(
            loss, lambda: self.loss_rows(obs.obs, obs.mask, batch.living, last_act, before)
        )
        return loss.detach()


class M3DDPG(MADDPG):
    r"""Minimax MADDPG [Li2019]_: every agent learns for others that turn against it a little.

    .. math:: \hat a_j = a_j - \epsilon \frac{g_j}{\lVert g_j \rVert_2} \quad (j \ne i), \qquad
              g_j = \nabla_{a_j} Q(s, a)

    both in agent i's loss, on the online critic, and in N targets, on the target critic; the
    critic learns their mean. Own actions and those of the dead stay. The shifted vectors are no
    longer one-hot. With ``epsilon=0`` it is :class:`MADDPG`, bit for bit.

    Args:
        epsilon: length of the shift >= 0, in units of actions (one-hot, or half of the box); 1e-3
            is the authors' for opponents.
        settings: of :class:`MADDPG`.

    Example:
        >>> from functools import partial
        >>> from robustmarl import envs, evaluation
        >>> make = partial(envs.spread, agents=2, continuous_actions=True)
        >>> team = M3DDPG.for_env(make(), seed=0)
        >>> evaluation.rollout(team, make, episodes=2).lengths
        array([25, 25])
    """

    def __init__(self, *, epsilon: float = 1e-3, **settings: Any) -> None:
        super().__init__(**settings)
        self.epsilon = check_number(f"{type(self).__name__}.epsilon", epsilon, 0.0)

    @classmethod
    def for_env(cls, env: Env | TeamSpec, **settings: Unpack[M3DDPGSettings]) -> Self:
        """Return M3DDPG for ``env``; see :meth:`TeamAlgorithm.for_env`."""
        return cls._make(env, settings)

    def facing(
        self,
        critic: Callable[[Tensor, Tensor], Tensor],
        state: Tensor,
        joint: Tensor,
        alive: Tensor,
    ) -> Tensor:
        """Return them with the others' actions shifted, (..., N, N, A); see :class:`MADDPG`."""
        if self.epsilon == 0.0:
            return joint
        point = joint.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(critic(state, point).sum(), point)
        gradient = self.policy.without_padding(gradient)
        oneself = torch.eye(joint.shape[-2], dtype=torch.bool, device=joint.device)
        moved = ~oneself & alive.unsqueeze(-2)
        shift = self.epsilon * F.normalize(gradient, dim=-1)
        return joint - shift * moved.unsqueeze(-1)


def _call(critic: nn.Module, parameters: dict[str, Tensor], state: Tensor, act: Tensor) -> Tensor:
    value: Tensor = functional_call(critic, parameters, (state, act))
    return value
