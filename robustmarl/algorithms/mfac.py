"""MFAC: actors and critics of single agents that know the others by their mean action."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self, Unpack, cast, get_args

import torch
from tianshou.algorithm.algorithm_base import LaggedNetworkPolyakUpdateAlgorithmMixin
from tianshou.algorithm.optim import OptimizerFactory
from torch import Tensor, nn

from robustmarl._checks import check, check_choice, check_flag, check_int, check_kind, check_number
from robustmarl._seeding import generator
from robustmarl.joint import MASKED, JointBatch, TeamSpec, at_actions, last_actions
from robustmarl.learning import OnPolicyTeam
from robustmarl.learning.base import TeamTrainingStats, build_network
from robustmarl.learning.optim import adam
from robustmarl.learning.returns import masked_mean, td_lambda_returns
from robustmarl.learning.samples import Samples
from robustmarl.learning.settings import NetworkSettings, TeamSettings, take
from robustmarl.learning.values import Reward
from robustmarl.networks import AgentNetwork, Agents
from robustmarl.networks.layers import check_widths
from robustmarl.networks.rows import unroll_rows
from robustmarl.policies.mean_field import MeanFieldPolicy, Neighbours
from robustmarl.typing import Env

__all__ = ["MFAC", "CriticMean", "MFACSettings"]

CriticMean = Literal["previous", "current"]


class MFACSettings(TeamSettings, total=False):
    """Keywords of ``MFAC.for_env``."""

    critic_hidden: tuple[int, ...]
    neighbours: Neighbours | None
    actor_uses_mean: bool
    deterministic_eval: bool
    optim: OptimizerFactory | None
    critic_optim: OptimizerFactory | None
    critic_mean: CriticMean
    literal_eq8: bool
    gamma: float
    td_lambda: float
    tau: float
    reward: Reward
    entropy_coef: float
    max_grad_norm: float | None


@dataclass(frozen=True, kw_only=True)
class _MFACSamples(Samples):
    """What MFAC's steps learn from.

    Attributes:
        critic_mean: the mean action that the critic reads, (B, T, N, A).
        target: what the critic learns, (B, T, N).
        following: the target's value of the next step, 0 after a termination, (B, T, N).
    """

    critic_mean: Tensor
    target: Tensor
    following: Tensor


class MFAC(OnPolicyTeam, LaggedNetworkPolyakUpdateAlgorithmMixin):
    r"""Mean-field actor-critic [Yang2018]_ as RoMFAC trains it [Zhou2022]_, on whole episodes.

    .. math:: V(o', \bar a') = \sum_a \pi(a \mid o', \bar a')\, Q(o', a, \bar a'), \qquad
              y = r + \gamma c\, \bar V(o', \bar a')

    .. math:: L_Q = \overline{(y - Q(o, a, \bar a))^2}, \qquad
              L_\pi = -\overline{(Q(o, a, \bar a) - V(o, \bar a)) \log\pi(a \mid o, \bar a)}
                      - c_e \overline{H}

    RoMFAC, Eq. (5) to (8): agents share one actor and one critic with a value per own action;
    :math:`\bar a` is the mean action of an agent's living neighbours, :math:`\bar V` is of target
    networks, averages are over valid steps of living agents, and c = 0 after a termination or an
    agent's death, 1 at a time limit. Works wherever there is more than one agent. Learns from
    ``obs.seen``.

    ``for_env`` also takes ``neighbours`` (the whole team without the agent itself),
    ``actor_uses_mean`` (True), ``critic_hidden`` (the actor's), ``deterministic_eval`` and the
    network's settings, where agents do not know their index unless ``agent_id`` says so;
    ``conv=(13, 13, 5)`` has actor and critic read their view as an image
    (:class:`~robustmarl.networks.Conv`).

    Args:
        policy: the team's.
        critic: values of every own action, (..., N, A), made with ``mean_action``.
        optim: the actor's optimizer factory; None is Adam at 1e-4, as in the release of
            [Yang2018]_; small games learn faster with 5e-4.
        critic_optim: the critic's; None is Adam at 1e-4.
        critic_mean: the mean action that the critic reads: of the ``"previous"`` step, which the
            actor knows, or the ``"current"`` one, as RoMFAC writes. After a time limit
            nothing was played: probabilities of the target's policy stand for actions there.
        literal_eq8: weigh :math:`\log\pi` by the target's value of the next step, as Eq. (8) is
            printed, instead of by the advantage of the action taken.
        gamma: discount in [0, 1]; this, ``entropy_coef`` and ``max_grad_norm`` are the release's.
        td_lambda: of TD(lambda) targets, in [0, 1]; 0 is the paper's one step.
        tau: share of the online weights taken over by the targets per step, in (0, 1].
        reward: ``"agents"`` for each agent's own, or ``"team"``.
        entropy_coef: :math:`c_e` >= 0.
        max_grad_norm: global norm at which gradients are clipped, > 0, or None.
        seed: of the minibatches.

    Example:
        >>> from robustmarl import envs, training
        >>> team = MFAC.for_env(envs.ToyGame(horizon=5), seed=0)
        >>> quiet = training.Log(progress=False)
        >>> history = training.run(team, lambda: envs.ToyGame(horizon=5), env_steps=100, log=quiet)
        >>> history.episodes, history.env_steps[-1]
        (20, 100)
    """

    takes_segments = True
    policy: MeanFieldPolicy

    def __init__(
        self,
        *,
        policy: MeanFieldPolicy,
        critic: AgentNetwork,
        optim: OptimizerFactory | None = None,
        critic_optim: OptimizerFactory | None = None,
        critic_mean: CriticMean = "previous",
        literal_eq8: bool = False,
        gamma: float = 0.95,
        td_lambda: float = 0.0,
        tau: float = 0.01,
        reward: Reward = "agents",
        entropy_coef: float = 0.08,
        max_grad_norm: float | None = 5.0,
        seed: int = 0,
    ) -> None:
        name = type(self).__name__
        check_kind(f"{name}.policy", policy, MeanFieldPolicy, "a MeanFieldPolicy")
        check_kind(f"{name}.critic", critic, AgentNetwork, "an AgentNetwork")
        super().__init__(policy=policy)
        tau = check_number(f"{name}.tau", tau, 0.0, 1.0, open_low=True)
        LaggedNetworkPolyakUpdateAlgorithmMixin.__init__(self, tau)
        check_choice(f"{name}.critic_mean", critic_mean, get_args(CriticMean))
        check_choice(f"{name}.reward", reward, get_args(Reward))
        self.critic_mean: CriticMean = critic_mean
        self.reward: Reward = reward
        self.literal_eq8 = check_flag(f"{name}.literal_eq8", literal_eq8)
        self.gamma = check_number(f"{name}.gamma", gamma, 0.0, 1.0)
        self.td_lambda = check_number(f"{name}.td_lambda", td_lambda, 0.0, 1.0)
        self.entropy_coef = check_number(f"{name}.entropy_coef", entropy_coef, 0.0)
        self.seed = check_int(f"{name}.seed", seed, 0)
        self.critic = critic
        self._target = self._add_lagged_network(nn.ModuleList([policy.network, critic]))
        network = policy.network
        self.optim = self._create_optimizer(network, optim or adam(1e-4), max_grad_norm)
        self.critic_optim = self._create_optimizer(
            critic, critic_optim or adam(1e-4), max_grad_norm
        )

    @classmethod
    def for_env(cls, env: Env | TeamSpec, **settings: Unpack[MFACSettings]) -> Self:
        """Return MFAC for ``env``; see :meth:`TeamAlgorithm.for_env`."""
        return cls._make(env, settings)

    @classmethod
    def _build(cls, spec: TeamSpec, **settings: Any) -> Self:
        where = f"{cls.__name__}.for_env.env"
        rule = "discrete: the critic has a head per action"
        check(not spec.continuous, where, rule, "a Box of actions")
        check(spec.num_agents > 1, where, "a team of more than one agent", spec.agents)
        actors = NetworkSettings(agent_id=False) | take(settings, NetworkSettings)
        uses_mean = settings.pop("actor_uses_mean", True)
        uses_mean = check_flag(f"{cls.__name__}.actor_uses_mean", uses_mean)
        network = build_network(spec, actors, mean_action=uses_mean)
        policy = MeanFieldPolicy(
            spec,
            network,
            neighbours=settings.pop("neighbours", None),
            deterministic_eval=settings.pop("deterministic_eval", False),
        )
        # The critic is shared and without memory whatever the actors are.
        hidden = settings.pop("critic_hidden", actors.get("hidden", (64, 64)))
        hidden = check_widths(f"{cls.__name__}.critic_hidden", hidden)
        valued = NetworkSettings(
            hidden=hidden, agent_id=actors.get("agent_id", False), conv=actors.get("conv")
        )
        critic = build_network(spec, valued, mean_action=True)
        return cls(policy=policy, critic=cast(AgentNetwork, critic), **settings)

    def _target_networks(self) -> tuple[Agents, AgentNetwork]:
        actor, critic = cast(nn.ModuleList, self._target.module)
        return cast(Agents, actor), cast(AgentNetwork, critic)

    def mean_actions(self, batch: JointBatch) -> Tensor:
        """Return the neighbours' mean actions of the step before each, (B, T+1, N, A)."""
        before = last_actions(batch.act, terminal=True, before=batch.act_before)
        return self.policy.mean_action(before, batch.obs.alive, batch.obs.obs)

    def target_policy(self, batch: JointBatch, mean: Tensor) -> Tensor:
        """Return the target actor's probabilities, (B, T+1, N, A), of those that are asked for.

        Those of the dead, and behind an episode's end, mean nothing; see :meth:`targets`.
        """
        (actor, _), obs = self._target_networks(), batch.obs
        side = {} if actor.mean_table is None else {"mean_act": mean}
        last_act, asked = self.last_act(batch, terminal=True), self._asked(batch)
        logits, _ = unroll_rows(actor, obs.seen, last_act, side, asked, batch.hidden_before)
        return torch.softmax(logits.masked_fill(~obs.mask, MASKED), dim=-1)

    def _asked(self, batch: JointBatch) -> Tensor:
        """Return whose values targets ask for, bool (B, T+1, N)."""
        alive, lengths = batch.obs.alive, batch.valid.sum(dim=1, keepdim=True)
        played = torch.arange(alive.shape[1], device=alive.device) <= lengths
        wanted = torch.ones_like(alive) if self.reward == "team" else alive
        return played.unsqueeze(-1) & wanted

    def current_means(self, batch: JointBatch, policy: Tensor) -> Tensor:
        """Return the mean actions that the critic reads with ``"current"``, (B, T+1, N, A).

        Args:
            batch: episodes.
            policy: what stands for the actions after the last step, (B, T+1, N, A).
        """
        alive, size = batch.obs.alive, self.spec.num_actions
        vectors = nn.functional.one_hot(batch.act, size).to(policy.dtype)
        vectors = torch.cat([vectors, policy[:, -1:]], dim=1)
        final = torch.arange(len(vectors), device=vectors.device), batch.valid.sum(1)
        vectors[final] = policy[final]
        return self.policy.neighbours.mean(vectors, alive, batch.obs.obs)

    @torch.no_grad()
    def targets(
        self, batch: JointBatch, means: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the critic learns, the next step's values in it, and what it reads.

        Args:
            batch: episodes.
            means: its :meth:`mean_actions`, (B, T+1, N, A), where known.

        Returns:
            targets (B, T, N), bootstrapped next values (B, T, N), mean actions (B, T+1, N, A).
        """
        means = self.mean_actions(batch) if means is None else means
        policy = self.target_policy(batch, means)
        if self.critic_mean == "current":
            means = self.current_means(batch, policy)
        _, critic = self._target_networks()
        side = {"mean_act": means}
        q, _ = unroll_rows(critic, batch.obs.seen, None, side, self._asked(batch))
        value = (policy * q).sum(-1)[:, 1:]
        reward, bootstrap, going_on = batch.earned(self.reward)
        target = td_lambda_returns(reward, value, bootstrap, going_on, self.gamma, self.td_lambda)
        return target, bootstrap * value, means

    def learn(self, batch: JointBatch, minibatch: int | None, epochs: int) -> TeamTrainingStats:
        """Learn from one round's episodes; see :class:`~robustmarl.learning.OnPolicyTeam`."""
        order = generator(self.seed, self.policy.counted("updates"))
        means = self.mean_actions(batch)
        figures: list[Tensor] = []
        for _ in range(epochs):
            samples = self._samples(batch, means)  # targets move on from one epoch to the next
            parts = samples.minibatches(batch.valid, minibatch, order)
            figures += [self._step(part) for part in parts]
        self.policy.count("updates", 1)
        values = torch.stack(figures).mean(dim=0).tolist()
        names = ("policy_loss", "critic_loss", "entropy", "advantage")
        return TeamTrainingStats(metrics=dict(zip(names, values, strict=True)))

    def _samples(self, batch: JointBatch, means: Tensor) -> _MFACSamples:
        """Return what is learned of ``batch``; ``means`` are its :meth:`mean_actions`."""
        obs, living = batch.obs, batch.living
        target, following, critic_mean = self.targets(batch, means)
        network = self.policy.network
        reads_mean = network.mean_table is not None
        samples = _MFACSamples(
            seen=obs.seen[:, :-1],
            clean=obs.obs[:, :-1],
            mask=obs.mask[:, :-1],
            act=batch.act,
            acting=living,
            # A team's reward goes on for its dead, and targets ask for their values.
            valued=batch.earning(self.reward).expand_as(living),
            last_act=self.last_act(batch, terminal=False),
            side={"mean_act": means[:, :-1]} if reads_mean else {},
            hidden=batch.hidden_before,
            critic_mean=critic_mean[:, :-1],
            target=target,
            following=following,
        )
        # Without memory a step needs no history: minibatches are of steps, and padding is dropped.
        return samples if network.recurrent else samples.steps(batch.valid)

    def _step(self, samples: _MFACSamples) -> Tensor:
        """Take one step of critic, actor and targets; return the figures that `learn` names."""
        asked, side = samples.acting | samples.valued, {"mean_act": samples.critic_mean}
        q, _ = unroll_rows(self.critic, samples.seen, None, side, asked)
        q_taken = at_actions(q, samples.act)
        critic_loss = masked_mean((samples.target - q_taken).square(), samples.valued)
        self.critic_optim.step(critic_loss)

        network = self.policy.network
        logits, before = unroll_rows(
            network,
            samples.seen,
            samples.last_act,
            samples.side,
            samples.acting,
            samples.hidden,
        )
        logp = torch.log_softmax(logits.masked_fill(~samples.mask, MASKED), dim=-1)
        policy = logp.exp()
        advantage = q_taken.detach() - (policy * q).sum(-1).detach()
        weight = samples.following if self.literal_eq8 else advantage
        logp_taken = at_actions(logp, samples.act)
        entropy = masked_mean(-(policy * logp).sum(-1), samples.acting)
        loss = -masked_mean(weight * logp_taken, samples.acting) - self.entropy_coef * entropy
        self.step_policy(
            loss,
            lambda: self.loss_rows(
                samples.clean,
                samples.mask,
                samples.acting,
                samples.last_act,
                before,
                samples.side,
            ),
        )
        self._update_lagged_network_weights()
        size = masked_mean(advantage.abs(), samples.acting)
        return torch.stack([loss, critic_loss, entropy, size]).detach()
