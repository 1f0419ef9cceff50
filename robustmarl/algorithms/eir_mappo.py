"""EIR-MAPPO and its relatives: MAPPO that expects Byzantine teammates."""

from __future__ import annotations

from typing import Any, ClassVar, Self, Unpack, cast

import torch
from tianshou.algorithm.optim import OptimizerFactory
from torch import Tensor

from robustmarl._checks import check, check_choice, check_flag, check_int, check_kind
from robustmarl._seeding import stream_seed
from robustmarl.adversaries import Sample, SharedByzantine
from robustmarl.algorithms.eir_settings import PRESETS, EIRMAPPOSettings
from robustmarl.algorithms.mappo import MAPPO
from robustmarl.algorithms.ppo_based import CriticParts
from robustmarl.joint import JointBatch, JointObs, TeamSpec
from robustmarl.learning.base import TeamTrainingStats
from robustmarl.learning.beliefs import BeliefLearner
from robustmarl.learning.optim import adam
from robustmarl.learning.settings import NetworkSettings, OpenSettings, take
from robustmarl.networks import BeliefNetwork, TypedAgentNetwork, TypedCritic
from robustmarl.networks.layers import check_widths
from robustmarl.perturbers.base import Perturber
from robustmarl.perturbers.types import TypeDistribution
from robustmarl.policies.byzantine import ByzantinePolicy
from robustmarl.policies.typed import SlotKind, TypedPolicy
from robustmarl.typing import Env

__all__ = ["EARMAPPO", "EIRMAPPO", "TrueTypeMAPPO"]


class EIRMAPPO(MAPPO):
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

    Example:
        >>> from robustmarl import envs, training
        >>> team = EIRMAPPO.for_env(envs.ToyGame(horizon=5), seed=0)
        >>> quiet = training.Log(progress=False)
        >>> history = training.run(team, lambda: envs.ToyGame(horizon=5), env_steps=100, log=quiet)
        >>> history.episodes, history.env_steps[-1]
        (20, 100)
    """

    takes_segments = False  # adaptive types and intervals of victims go by whole episodes
    slot_kind: ClassVar[SlotKind] = "belief"
    policy: TypedPolicy

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
        super().__init__(policy=policy, **settings)
        name = type(self).__name__
        check_kind(f"{name}.types", types, TypeDistribution, "a TypeDistribution")
        types.check_spec(policy.spec)
        check_int(f"{name}.adversary_epochs", adversary_epochs, 1)
        self.victim_interval = check_int(f"{name}.victim_interval", victim_interval, 1)
        clip = self.clip if adversary_clip is None else adversary_clip
        entropy = self.entropy_coef if adversary_entropy_coef is None else adversary_entropy_coef
        self.adversary = SharedByzantine(
            adversary,
            types,
            p=self.present_p,
            optim=adversary_optim,
            clip=clip,
            entropy_coef=entropy,
            epochs=adversary_epochs,
            max_grad_norm=self._max_grad_norm,
        )
        self.belief_learner = None
        if policy.belief is not None:
            optim = self._create_optimizer(
                policy.belief, belief_optim or adam(5e-4, 1e-5), self._max_grad_norm
            )
            self.belief_learner = BeliefLearner(
                policy.belief,
                optim,
                epochs=belief_epochs,
                minibatches=belief_minibatches,
                chunk=belief_chunk,
            )

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
        types = TypeDistribution(0.5 if p is None else p) if types is None else types
        hidden = settings.get("hidden", (64, 64))
        layer_norm = settings.get("layer_norm", False)
        actors: OpenSettings = {"output_gain": 0.01, **take(settings, NetworkSettings)}
        shared = check_flag(f"{cls.__name__}.shared", actors.pop("shared", True))
        check(shared, f"{cls.__name__}.shared", "True: its actors share a network", shared)
        conv = actors.pop("conv", None)
        check(conv is None, f"{cls.__name__}.conv", "None: types enter its first layer", conv)
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
        belief_hidden = check_widths(f"{cls.__name__}.belief_hidden", belief_hidden)
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
        cls, spec: TeamSpec, settings: OpenSettings, hidden: tuple[int, ...]
    ) -> CriticParts:
        per_agent = spec.state_layout == "per_agent" or settings.get("reward") == "agents"
        critic = TypedCritic(
            spec.state_size,
            spec.num_agents,
            num_agents=spec.num_agents if per_agent else 0,
            hidden=hidden,
            layer_norm=True,
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

    def present_p(self) -> float:
        """Return the probability of Byzantine agents in this round's episodes."""
        p = self.adversary.types.p
        return p if self.team_learns or p == 0.0 else 1.0

    def perturbers(self) -> list[Perturber]:
        """Return what ``training.run`` adds to the perturbations: the learning adversary."""
        return [] if self.adversary.types.p == 0.0 else [self.adversary.perturber()]

    def advantages(self, batch: JointBatch) -> tuple[Tensor, Tensor]:
        """Return GAE advantages and returns, (B, T, K) each, given the slots that were acted on."""
        return self.valuation.advantages(batch, self._lived(batch)[1])

    def learning_rows(self, batch: JointBatch) -> Tensor:
        """Return the agent-steps the actor learns from: living agents that are not Byzantine."""
        return super().learning_rows(batch) & ~self.adversary.types_in(batch)

    def learn(self, batch: JointBatch, minibatch: int | None, epochs: int) -> TeamTrainingStats:
        """Learn from one round's episodes; see :class:`~robustmarl.learning.OnPolicyTeam`."""
        memory, side = self._lived(batch)
        with torch.no_grad():
            raw, returns = self.valuation.advantages(batch, side)
            advantage = self.standardized(batch, raw)
        if self.team_learns:
            stats = self.learn_from(batch, raw, returns, minibatch, epochs, side)
        else:
            valued = self.valuation.rows(batch, returns)
            loss = self.valuation.fit(batch, returns, valued, self._step_critic, epochs, side)
            stats = TeamTrainingStats(metrics={"value_loss": loss})
            self.policy.count("updates", 1)
        sample = Sample(fresh=batch, drawn=batch, advantage=advantage, epochs=epochs)
        found = self.adversary.learn(sample)
        stats.metrics.update({f"adversary/{name}": value for name, value in found.items()})
        if self.belief_learner is not None and memory is not None:
            stats.metrics["belief/loss"] = self.belief_learner.learn(
                self._belief_inputs(batch.obs)[:, :-1],
                self.adversary.types_in(batch),
                batch.valid,
                memory,
                seed=stream_seed(self.seed, self.policy.counted("updates"), "belief_parts"),
            )
        return stats

    def _lived(self, batch: JointBatch) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Return the belief's memory after each observation, and what actor and critic saw.

        Returns:
            Memory (B, T+1, N, H), None without beliefs; and ``slots``, (B, T+1, N, N), as the
            actor acted on them, teacher forcing included. Nothing where they are zero.
        """
        if self.slot_kind == "zeros":
            return None, {}
        memory = None
        if self.belief is None:
            types = self.adversary.types_in(batch)[:, :1]  # the episode's
            shape = (*batch.obs.alive.shape, self.spec.num_agents)
            slots = types.to(batch.obs.seen.dtype).unsqueeze(2).expand(shape)
        else:
            with torch.no_grad():
                logits, memory = self.belief.unroll(self._belief_inputs(batch.obs))
                slots = self.policy.rounded(torch.sigmoid(logits))
        acted = batch.record("policy").get("slots")
        if acted is not None:
            acted = torch.where(batch.valid[..., None, None], acted, slots[:, :-1])
            slots = torch.cat([acted, slots[:, -1:]], dim=1)
        return memory, {"slots": slots}

    def _step_critic(self, loss: Tensor) -> None:
        self.optim.step(self.value_coef * loss)  # the actor has no gradient, and stays

    def _belief_inputs(self, obs: JointObs) -> Tensor:
        """Return what the belief reads."""
        return obs.obs if self.policy.belief_reads == "clean" else obs.seen


class EARMAPPO(EIRMAPPO):
    """The ex ante robust team: EIR-MAPPO without beliefs, its slots zero [Li2024]_.

    Example:
        >>> from robustmarl import envs, training
        >>> team = EARMAPPO.for_env(envs.ToyGame(horizon=5), seed=0)
        >>> quiet = training.Log(progress=False)
        >>> history = training.run(team, lambda: envs.ToyGame(horizon=5), env_steps=100, log=quiet)
        >>> history.episodes, history.env_steps[-1]
        (20, 100)
    """

    slot_kind = "zeros"


class TrueTypeMAPPO(EIRMAPPO):
    """The oracle: EIR-MAPPO told the types, an upper bound [Li2024]_.

    Example:
        >>> from robustmarl import envs, training
        >>> team = TrueTypeMAPPO.for_env(envs.ToyGame(horizon=5), seed=0)
        >>> quiet = training.Log(progress=False)
        >>> history = training.run(team, lambda: envs.ToyGame(horizon=5), env_steps=100, log=quiet)
        >>> history.episodes, history.env_steps[-1]
        (20, 100)
    """

    slot_kind = "truth"
