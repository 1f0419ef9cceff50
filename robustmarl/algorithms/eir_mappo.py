"""EIR-MAPPO and its relatives: MAPPO that expects Byzantine teammates."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any, ClassVar, Self, Unpack, cast

import torch
from tianshou.algorithm.algorithm_base import Algorithm
from tianshou.algorithm.optim import OptimizerFactory
from torch import Tensor
from torch.nn import functional as F

from robustmarl._checks import check, check_choice, check_int, check_number
from robustmarl._seeding import mix, stream_id
from robustmarl.algorithms.mappo import MAPPO
from robustmarl.algorithms.ppo_based import CriticParts
from robustmarl.joint import MASKED, JointBatch, JointObs, StepContext, TeamSpec
from robustmarl.learning.base import TeamTrainingStats
from robustmarl.learning.optim import adam
from robustmarl.learning.returns import masked_mean, ppo_surrogate
from robustmarl.learning.settings import NetworkSettings, PPOSettings, take
from robustmarl.networks import BeliefNetwork, TypedAgentNetwork, TypedCritic
from robustmarl.perturbers.base import Perturber
from robustmarl.perturbers.byzantine import ByzantinePerturber
from robustmarl.perturbers.types import TypeDistribution
from robustmarl.policies.byzantine import ByzantinePolicy
from robustmarl.policies.typed import BeliefReads, SlotKind, TypedPolicy
from robustmarl.schedules import Schedule, as_schedule
from robustmarl.typing import Env

__all__ = [
    "EARMAPPO",
    "EIRMAPPO",
    "PRESETS",
    "ByzantineAttack",
    "EIRMAPPOSettings",
    "TrueTypeMAPPO",
]


class EIRMAPPOSettings(PPOSettings, total=False):
    """Keywords of ``EIRMAPPO.for_env``."""

    preset: str | None
    p: float | None
    types: TypeDistribution | None
    teacher_forcing: float | Schedule
    hard_belief: bool
    belief_reads: BeliefReads
    belief_hidden: tuple[int, ...]
    belief_memory: int
    belief_optim: OptimizerFactory | None
    belief_epochs: int
    belief_minibatches: int
    belief_chunk: int | None
    sees_actions: bool
    adversary_hidden: tuple[int, ...]
    adversary_optim: OptimizerFactory | None
    adversary_epochs: int
    adversary_clip: float | None
    adversary_entropy_coef: float | None
    victim_interval: int


_RELEASED: dict[str, Any] = {
    "hidden": (128, 128, 128),
    "layer_norm": True,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip": 0.05,
    "entropy_coef": 0.01,
    "value_coef": 1.0,
    "max_grad_norm": 10.0,
    "optim": adam(5e-4, 1e-5),
    "adversary_optim": adam(5e-4, 1e-5),
    "adversary_epochs": 1,
    "victim_interval": 1,
}

PRESETS: dict[str, dict[str, Any]] = {
    "released": _RELEASED,
    "two_timescale": _RELEASED | {"optim": adam(1e-4, 1e-5), "adversary_epochs": 2},
}
"""Settings of ``for_env(preset=...)``: the released ones, and a team slower than its adversary."""


class _LearnsByzantine(Algorithm[Any, Any]):
    """PPO of opposite sign for the adversary of a team."""

    adversary: ByzantinePolicy
    adversary_optim: Algorithm.Optimizer

    def _learn_adversary(
        self, batch: JointBatch, advantage: Tensor, steps: int, clip: float, entropy_coef: float
    ) -> dict[str, float]:
        r"""Take ``steps`` steps against the team's ``advantage`` (B, T, N), on Byzantine rows.

        .. math:: L = -\overline{\min(-\hat\rho A, -\mathrm{clip}(\hat\rho, 1 \pm c) A)} - c_e H
        """
        rows = byzantine_rows(batch)
        if not bool(rows.any()):
            return {}
        obs, mask = batch.obs.obs[:, :-1][rows], batch.obs.mask[:, :-1][rows]
        agents = torch.arange(rows.shape[-1], device=rows.device).expand(rows.shape)[rows]
        told = None
        if self.adversary.sees_actions and batch.act_intended is not None:
            told = batch.act_intended.unsqueeze(2)
            told = told.expand(*rows.shape, *batch.act_intended.shape[2:])[rows]
        played = batch.record("byzantine")
        act, old, gain = played["act"][rows], played["logp"][rows], -advantage[rows]
        figures: list[Tensor] = []
        for _ in range(steps):
            output = self.adversary.outputs(obs, agents, told)
            if not self.adversary.spec.continuous:
                output = output.masked_fill(~mask, MASKED)
            logp = self.adversary.log_prob(output, act, agents)
            entropy = self.adversary.entropy(output, agents).mean()
            loss = -ppo_surrogate(logp, old, gain, clip).mean()
            self.adversary_optim.step(loss - entropy_coef * entropy)
            figures.append(torch.stack([loss, entropy, (old - logp).mean()]).detach())
        means = torch.stack(figures).mean(dim=0).tolist()
        names = ("adversary/policy_loss", "adversary/entropy", "adversary/kl")
        return dict(zip(names, means, strict=True))


def byzantine_rows(batch: JointBatch) -> Tensor:
    """Return the agent-steps that an adversary played, bool (B, T, N)."""
    return batch.living & _types(batch)


def _types(batch: JointBatch) -> Tensor:
    types = batch.record("byzantine").get("types")
    return torch.zeros_like(batch.obs.alive[:, :-1]) if types is None else types


def _belief_loss(logits: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
    """Return the mean cross-entropy over observers, subjects and the steps ``rows``."""
    each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return masked_mean(each.mean(dim=(-1, -2)), rows)


def _standard(advantage: Tensor, rows: Tensor) -> Tensor:
    """Return ``advantage`` centred and scaled as it is on ``rows``, everywhere."""
    mean = masked_mean(advantage, rows)
    spread = torch.where(rows, advantage - mean, 0.0).square().sum()
    return (advantage - mean) / ((spread / (rows.sum() - 1).clamp(min=1)).sqrt() + 1e-8)


class _TrainingPerturber(ByzantinePerturber):
    """The learning adversary; records what the actor's slots were."""

    def __init__(self, learner: EIRMAPPO) -> None:
        super().__init__(learner.adversary, types=learner.types)
        self._learner = learner

    def on_obs(self, context: StepContext) -> Tensor:
        types = self.type_distribution
        types.p, types.returns = self._learner.present_p, self._learner.type_returns
        return super().on_obs(context)

    def record(self) -> dict[str, Tensor]:
        own = self._learner.policy.slots
        return super().record() | ({} if own is None else {"policy_slots": own})


class EIRMAPPO(_LearnsByzantine, MAPPO):
    r"""MAPPO for the Bayesian game in which teammates may be Byzantine [Li2024]_.

    In training an adversary replaces the actions of Byzantine agents (at most k of them, with
    probability p per episode). The team acts on its beliefs b about types; V(s, b) is the ex
    interim value. Team and adversary learn from the same advantages with opposite signs,

    .. math:: \nabla_\phi: (1-\theta^i) \nabla\log\pi(a^i|H^i,b^i) A^i, \qquad
              \nabla_{\hat\phi}: -\theta^i \nabla\log\hat\pi(\hat a^i|H^i,\theta) A^i

    as clipped PPO over disjoint rows, A standardised over the team's. Beliefs are learned by
    cross-entropy against the types; no gradient passes between them and PPO. Without Byzantine
    agents (p = 0) :class:`EARMAPPO` is :class:`MAPPO`, bit for bit.

    Train it with ``training.run``, which adds :meth:`perturbers`. ``for_env`` also takes
    ``preset`` (a key of ``PRESETS``, None for the defaults of :class:`MAPPO`), ``p``,
    ``teacher_forcing``, ``hard_belief``, ``belief_reads``, ``belief_hidden``, ``belief_memory``,
    ``adversary_hidden`` and ``sees_actions``. ``columns``, the coordinates of observations that the
    actor reads, leaves critic, belief and adversary all of them.

    Args:
        policy: the team's.
        adversary: who plays for Byzantine agents.
        types: who is Byzantine; ``"adaptive"`` uses the returns of the latest rollouts.
        adversary_optim: optimizer factory; None is Adam at 5e-4, eps 1e-5, as for beliefs.
        belief_optim: optimizer factory of the belief network.
        adversary_epochs: the adversary's steps per step of the team, >= 1.
        adversary_clip: PPO's clip of the adversary, > 0; None is the team's. As a clip bounds how
            far a policy moves in a round, only a wider one lets the adversary be the faster.
        adversary_entropy_coef: of the adversary's entropy, >= 0; None is the team's. More of it
            keeps a best response from becoming so sure that it cannot turn round in time.
        victim_interval: the team learns in every so many rounds, >= 1; in the others all
            episodes have Byzantine agents, and critic, belief and adversary learn.
        belief_epochs: passes of the belief network over a round's episodes, >= 1.
        belief_minibatches: optimizer steps per pass, each on a random part of the chunks, >= 1.
        belief_chunk: steps over which its gradient passes back, >= 1; None is the episode.
        settings: of :class:`PPOBased`.
    """

    slot_kind: ClassVar[SlotKind] = "belief"
    policy: TypedPolicy
    type_returns: Tensor

    def __init__(
        self,
        *,
        policy: TypedPolicy,
        adversary: ByzantinePolicy,
        types: TypeDistribution,
        adversary_optim: OptimizerFactory | None = None,
        belief_optim: OptimizerFactory | None = None,
        adversary_epochs: int = 1,
        adversary_clip: float | None = None,
        adversary_entropy_coef: float | None = None,
        victim_interval: int = 1,
        belief_epochs: int = 1,
        belief_minibatches: int = 5,
        belief_chunk: int | None = 10,
        **settings: Any,
    ) -> None:
        name = type(self).__name__
        super().__init__(policy=policy, **settings)
        if not isinstance(types, TypeDistribution):
            raise TypeError(f"{name}.types must be a TypeDistribution, got {types!r}.")
        types.check_spec(policy.spec)
        self.adversary, self.types, self._p = adversary, types, types.p
        self.adversary_epochs = check_int(f"{name}.adversary_epochs", adversary_epochs, 1)
        own = self.clip if adversary_clip is None else adversary_clip
        self.adversary_clip = check_number(f"{name}.adversary_clip", own, 0.0, open_low=True)
        own = self.entropy_coef if adversary_entropy_coef is None else adversary_entropy_coef
        self.adversary_entropy_coef = check_number(f"{name}.adversary_entropy_coef", own, 0.0)
        self.victim_interval = check_int(f"{name}.victim_interval", victim_interval, 1)
        self.belief_epochs = check_int(f"{name}.belief_epochs", belief_epochs, 1)
        self.belief_minibatches = check_int(f"{name}.belief_minibatches", belief_minibatches, 1)
        if belief_chunk is not None:
            check_int(f"{name}.belief_chunk", belief_chunk, 1)
        self.belief_chunk = belief_chunk
        norm = settings.get("max_grad_norm", 10.0)
        default = adam(5e-4, 1e-5)
        self.adversary_optim = self._create_optimizer(adversary, adversary_optim or default, norm)
        self.belief_optim = None
        if policy.belief is not None:
            factory = belief_optim or default
            self.belief_optim = self._create_optimizer(policy.belief, factory, norm)
        self.register_buffer("type_returns", torch.zeros(policy.spec.num_agents))

    @classmethod
    def for_env(cls, env: Env | TeamSpec, **settings: Unpack[EIRMAPPOSettings]) -> Self:
        """Return the learner for ``env``; see :meth:`TeamAlgorithm.for_env`."""
        return cls._make(env, settings)

    @classmethod
    def _build(cls, spec: TeamSpec, **settings: Any) -> Self:
        preset = settings.pop("preset", "released")
        if preset is not None:
            check_choice(f"{cls.__name__}.preset", preset, PRESETS)
            settings = PRESETS[preset] | settings
        p = settings.pop("p", None)
        types = settings.pop("types", None)
        rule = "left out where types are given"
        check(types is None or p is None, f"{cls.__name__}.p", rule, p)
        types = TypeDistribution(0.5 if p is None else p) if types is None else copy.copy(types)
        hidden = settings.get("hidden", (64, 64))
        layer_norm = settings.get("layer_norm", False)
        actors: dict[str, Any] = {"output_gain": 0.01, **take(settings, NetworkSettings)}
        shared = actors.pop("shared", True)
        check(shared, f"{cls.__name__}.shared", "True: its actors share a network", shared)
        network = TypedAgentNetwork(
            spec.obs_size,
            spec.num_agents,
            spec.num_actions,
            continuous=spec.continuous,
            **actors,
        )
        critic_hidden = settings.pop("critic_hidden", hidden)
        critic = cls._critic(spec, settings, critic_hidden)
        seed = int(torch.randint(2**31, ()))  # of for_env's stream; after MAPPO's own draws
        belief_hidden = settings.pop("belief_hidden", hidden)
        memory = settings.pop("belief_memory", belief_hidden[-1])
        belief = None
        if cls.slot_kind == "belief":
            belief = BeliefNetwork(spec, hidden=belief_hidden, memory=memory, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        network.draw_slots(generator)
        cast(TypedCritic, critic["critic"]).draw_slots(generator)
        policy = TypedPolicy(
            spec,
            network,
            slots=cls.slot_kind,
            belief=belief,
            teacher_forcing=settings.pop("teacher_forcing", 0.0),
            hard_belief=settings.pop("hard_belief", False),
            belief_reads=settings.pop("belief_reads", "seen"),
            deterministic_eval=settings.pop("deterministic_eval", False),
        )
        adversary = ByzantinePolicy(
            spec,
            sees_actions=settings.pop("sees_actions", False),
            hidden=settings.pop("adversary_hidden", hidden),
            layer_norm=layer_norm,
            seed=seed,
        )
        return cls(policy=policy, adversary=adversary, types=types, **critic, **settings)

    @classmethod
    def _critic(
        cls, spec: TeamSpec, settings: dict[str, Any], hidden: tuple[int, ...]
    ) -> CriticParts:
        per_agent = spec.state_layout == "per_agent" or settings.get("reward") == "agents"
        n = spec.num_agents
        critic = TypedCritic(
            spec.state_size, n, num_agents=n if per_agent else 0, hidden=hidden, layer_norm=True
        )
        return {"critic": critic, "critic_input": "state"}

    @property
    def belief(self) -> BeliefNetwork | None:
        """The team's belief network, None if it has none."""
        return self.policy.belief

    @property
    def team_learns(self) -> bool:
        """Whether the team learns in this round, or only its adversary, critic and belief."""
        return (self.policy.counted("updates") + 1) % self.victim_interval == 0

    @property
    def present_p(self) -> float:
        """The probability of Byzantine agents in this round's episodes."""
        return self._p if self.team_learns or self._p == 0.0 else 1.0

    def perturbers(self) -> list[Perturber]:
        """Return what ``training.run`` adds to the perturbations: the learning adversary."""
        return [] if self._p == 0.0 else [_TrainingPerturber(self)]

    def learning_rows(self, batch: JointBatch) -> Tensor:
        """Return the agent-steps the actor learns from: living agents that are not Byzantine."""
        return super().learning_rows(batch) & ~_types(batch)

    def learn(self, batch: JointBatch, minibatch: int | None, epochs: int) -> TeamTrainingStats:
        """Learn from one round's episodes; see :class:`~robustmarl.learning.OnPolicyTeam`."""
        memory, view = self._with_slots(batch)
        figures: dict[str, float] = {}
        rows = self.learning_rows(view)
        with torch.no_grad():
            raw, returns = self.advantages(view)
            advantage = _standard(raw.expand(rows.shape), rows)
        if self.team_learns:
            self._valued = view, (raw, returns)
            stats = super().learn(view, minibatch, epochs)
            figures |= stats.metrics
        else:
            figures["value_loss"] = self._learn_critic(view, returns, epochs)
            self.policy.count("updates", 1)
        steps = epochs * self.adversary_epochs
        own = self.adversary_clip, self.adversary_entropy_coef
        figures |= self._learn_adversary(batch, advantage, steps, *own)
        if memory is not None:
            figures["belief/loss"] = self._learn_belief(batch, memory)
        self._note_returns(batch)
        return TeamTrainingStats(metrics=figures)

    def _with_slots(self, batch: JointBatch) -> tuple[Tensor | None, JointBatch]:
        """Return the belief's memory after each step, and the batch as the actor lived it."""
        kind, memory = self.slot_kind, None
        if kind == "zeros":
            return None, batch
        valid, types = batch.valid, _types(batch)
        n = self.spec.num_agents
        if kind == "truth":
            theta = types[:, :1].to(batch.obs.seen.dtype).unsqueeze(2)  # the episode's
            slots = theta.expand(-1, valid.shape[1] + 1, n, n)
        else:
            with torch.no_grad():
                logits, memory = cast(BeliefNetwork, self.belief).unroll(self._read(batch.obs))
                slots = self.policy.rounded(torch.sigmoid(logits))
            kept = batch.record("byzantine").get("policy_slots")
            if kept is not None:  # what it acted on, teacher forcing included
                acted = torch.where(valid[..., None, None], kept, slots[:, :-1])
                slots = torch.cat([acted, slots[:, -1:]], dim=1)
        state = batch.obs.state
        if state.dim() == 3:
            state = state.unsqueeze(2).expand(-1, -1, n, -1)
        obs = batch.obs.replace(
            seen=torch.cat([batch.obs.seen, slots], dim=-1),
            state=torch.cat([state, slots], dim=-1),
        )
        return memory, batch.replace(obs=obs)

    def _side(self, seen: Tensor) -> dict[str, Tensor]:
        """Return the slots, which ``_with_slots`` put behind the observation."""
        slots = seen[..., self.spec.obs_size :]
        return {"slots": slots} if slots.shape[-1] else {}

    def _read(self, obs: JointObs) -> Tensor:
        """Return what the belief reads."""
        read: Tensor = obs.obs if self.policy.belief_reads == "clean" else obs.seen
        return read

    def _learn_critic(self, view: JointBatch, returns: Tensor, epochs: int) -> float:
        valued = self.learning_rows(view) | byzantine_rows(view)
        if self.reward == "team":
            valued = view.valid.unsqueeze(-1).expand_as(returns)
        if self.normalizer is not None:
            self.normalizer.update(returns, valued)
            returns = self.normalizer.normalize(returns)
        inputs = self._critic_inputs(view.obs)[:, :-1]
        losses = []
        for _ in range(epochs):
            value = self.critic(inputs).expand_as(returns)
            loss = masked_mean(self.value_error(value, returns), valued)
            self.optim.step(self.value_coef * loss)
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    def _learn_belief(self, batch: JointBatch, memory: Tensor) -> float:
        belief = cast(BeliefNetwork, self.belief)
        obs, valid = self._read(batch.obs)[:, :-1], batch.valid
        n, steps = self.spec.num_agents, valid.shape[1]
        chunk = min(self.belief_chunk or steps, steps)
        parts = -(-steps // chunk)
        pad = parts * chunk - steps

        def cut(x: Tensor) -> Tensor:
            x = F.pad(x, (*(0, 0) * (x.dim() - 2), 0, pad))
            return x.reshape(-1, chunk, *x.shape[2:])

        before = F.pad(memory[:, chunk - 1 : -1 : chunk], (0, 0, 0, 0, 1, 0))[:, :parts]
        start = before.reshape(-1, *before.shape[2:])
        labels = _types(batch).to(obs.dtype).unsqueeze(2).expand(-1, -1, n, -1)
        obs, labels, rows = cut(obs), cut(labels), cut(valid)
        number = mix(self.seed, self.policy.counted("updates"), stream_id("belief_parts"))
        generator = torch.Generator().manual_seed(number & (2**63 - 1))
        losses = []
        for _ in range(self.belief_epochs):
            order = torch.randperm(len(obs), generator=generator).to(obs.device)
            for part in order.tensor_split(min(self.belief_minibatches, len(obs))):
                logits, _ = belief.unroll(obs[part], start[part])
                loss = _belief_loss(logits, labels[part], rows[part])
                cast(Algorithm.Optimizer, self.belief_optim).step(loss)
                losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    def _note_returns(self, batch: JointBatch) -> None:
        """Remember the team's return while each agent was Byzantine, where it was."""
        total = torch.where(batch.valid, batch.rew, 0.0).sum(dim=1)
        was = _types(batch)[:, 0].to(total.dtype)
        mean = (was * total.unsqueeze(-1)).sum(dim=0) / was.sum(dim=0).clamp(min=1)
        self.type_returns.copy_(torch.where(was.sum(dim=0) > 0, mean, self.type_returns))


class EARMAPPO(EIRMAPPO):
    """The ex ante robust team: EIR-MAPPO without beliefs, its slots zero [Li2024]_."""

    slot_kind = "zeros"


class TrueTypeMAPPO(EIRMAPPO):
    """The oracle: EIR-MAPPO told the types, an upper bound [Li2024]_."""

    slot_kind = "truth"


class ByzantineAttack(_LearnsByzantine, MAPPO):
    r"""A fresh adversary trained against a frozen team: the non-oblivious attack [Li2024]_.

    The team's policy is copied and never learns; critic and adversary do, with
    :math:`\theta = e_j` in every episode. Make it by :meth:`against`, train it with
    ``training.run``, and play ``attack.adversary`` by a
    :class:`~robustmarl.perturbers.ByzantinePerturber` against any team with the same spaces.

    Args:
        policy: the frozen team's.
        adversary: what learns.
        types: whose actions it plays.
        adversary_optim: optimizer factory; None is Adam at 5e-4, eps 1e-5.
        settings: of :class:`PPOBased`.
    """

    def __init__(
        self,
        *,
        policy: Any,
        adversary: ByzantinePolicy,
        types: TypeDistribution,
        adversary_optim: OptimizerFactory | None = None,
        **settings: Any,
    ) -> None:
        name = type(self).__name__
        for key, given, kind in (
            ("adversary", adversary, ByzantinePolicy),
            ("types", types, TypeDistribution),
        ):
            if not isinstance(given, kind):
                raise TypeError(f"{name}.{key} must be a {kind.__name__}, got {given!r}.")
        super().__init__(policy=policy, **settings)
        self.adversary, self.types = adversary, types
        factory = adversary_optim or adam(5e-4, 1e-5)
        norm = settings.get("max_grad_norm", 10.0)
        self.adversary_optim = self._create_optimizer(adversary, factory, norm)

    @classmethod
    def against(
        cls,
        victim: Any,
        agents: Collection[str] | None = None,
        *,
        sees_actions: bool = False,
        hidden: tuple[int, ...] = (128, 128, 128),
        seed: int = 0,
        **settings: Any,
    ) -> Self:
        """Return the attack on ``victim``, a robustmarl algorithm or policy.

        Args:
            victim: the team; left as it is.
            agents: the Byzantine agents, all of them in every episode; None draws one anew.
            sees_actions: whether the adversary sees what the others are about to do.
            hidden: widths of adversary and critic.
            seed: of the initial weights.
            settings: of :class:`PPOBased`; gamma is 0.95, the clip 0.05 by default.

        Raises:
            TypeError: if ``victim`` has no policy of a team, or the seed is no int.
            ValueError: for unknown agents, or a negative seed.
        """
        policy = getattr(victim, "policy", victim)
        if not hasattr(policy, "infer") or not hasattr(policy, "spec"):
            raise TypeError(
                f"{cls.__name__}.victim must be a robustmarl algorithm or policy, got {victim!r}."
            )
        check_int(f"{cls.__name__}.seed", seed, 0)
        policy = copy.deepcopy(policy).requires_grad_(False)
        for name in ("exploration", "teacher_forcing"):  # a frozen team has no training habits
            if hasattr(policy, name):
                setattr(policy, name, as_schedule(name, 0.0))
        spec = policy.spec
        fixed = agents is not None
        types = TypeDistribution(1.0, choice="fixed" if fixed else "uniform", agents=agents)
        types.check_spec(spec)
        defaults = {"gamma": 0.95, "clip": 0.05, "value_coef": 1.0}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(seed, stream_id("weights")) & (2**63 - 1))
            critic = cls._critic(spec, settings, hidden)
        made = cls(
            policy=policy,
            adversary=ByzantinePolicy(spec, sees_actions=sees_actions, hidden=hidden, seed=seed),
            types=types,
            **critic,
            **(defaults | settings),
        )
        return made.to(policy.device)

    def perturbers(self) -> list[Perturber]:
        """Return what ``training.run`` adds to the perturbations: the learning adversary."""
        return [ByzantinePerturber(self.adversary, types=self.types)]

    def learn(self, batch: JointBatch, minibatch: int | None, epochs: int) -> TeamTrainingStats:
        """Learn from one round's episodes; see :class:`~robustmarl.learning.OnPolicyTeam`."""
        rows = byzantine_rows(batch)
        with torch.no_grad():
            raw, returns = self.advantages(batch)
            advantage = _standard(raw.expand(rows.shape), rows)
            valued = batch.valid.unsqueeze(-1).expand_as(returns)
            if self.normalizer is not None:
                self.normalizer.update(returns, valued)
                returns = self.normalizer.normalize(returns)
        figures = self._learn_adversary(batch, advantage, epochs, self.clip, self.entropy_coef)
        inputs = self._critic_inputs(batch.obs)[:, :-1]
        for _ in range(epochs):
            value = self.critic(inputs).expand_as(returns)
            loss = masked_mean(self.value_error(value, returns), valued)
            self.optim.step(self.value_coef * loss)
            figures["value_loss"] = float(loss.detach())
        self.policy.count("updates", 1)
        return TeamTrainingStats(metrics=figures)
