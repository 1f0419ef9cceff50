"""What all learners of teams share: construction from an environment, devices, rows, saving."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, Unpack

import torch
from tianshou.algorithm.algorithm_base import (
    Algorithm,
    OffPolicyAlgorithm,
    OnPolicyAlgorithm,
    TrainingStats,
)
from tianshou.algorithm.optim import OptimizerFactory
from torch import Tensor, nn

from robustmarl._checks import check, check_flag, check_int, check_usable, speaking_for
from robustmarl._seeding import seeded
from robustmarl.joint import JointBatch, TeamSpec, last_actions
from robustmarl.learning.making import Making, team_spec
from robustmarl.learning.modes import is_training
from robustmarl.learning.optim import check_max_grad_norm, follow, own_state_dict
from robustmarl.learning.settings import (
    MadeForSettings,
    NetworkSettings,
    OpenSettings,
    TeamSettings,
    check_settings,
    required,
    take,
    told_of,
)
from robustmarl.networks import AgentNetwork, Agents, ConvAgentNetwork, SeparateAgents
from robustmarl.policies.base import TeamPolicy
from robustmarl.typing import Env
from robustmarl.victims import LossRows, NetworkVictim, Rows

__all__ = [
    "OffPolicyTeam",
    "OnPolicyTeam",
    "TeamAlgorithm",
    "TeamTrainingStats",
    "build_network",
    "team_spec",
]


@dataclass(kw_only=True)
class TeamTrainingStats(TrainingStats):
    """Named figures of one update."""

    metrics: dict[str, float] = field(default_factory=dict)

    def _get_self_dict(self) -> dict[str, Any]:
        return dict(self.metrics)


class TeamAlgorithm(Algorithm[Any, Any]):
    """Mixed in left of Tianshou's on- or off-policy base class.

    Attributes:
        made: what :meth:`for_env` was asked for, None for what it did not make.
    """

    takes_segments: ClassVar[bool] = False
    """Whether it learns from pieces of episodes, given memory and actions from before them."""

    policy: TeamPolicy
    seed: int = 0
    optim: Algorithm.Optimizer
    made: Making | None = None

    @classmethod
    def for_env(cls, env: Env | TeamSpec, **settings: Unpack[TeamSettings]) -> Self:
        """Return the algorithm with networks of the right sizes for ``env``.

        Args:
            env: an environment (only its spaces and metadata are read), or a spec.
            settings: ``team``, which of several teams it learns for; ``device``, where networks
                and episodes live; ``seed`` of the initial weights and of minibatches (torch's
                global generator is left as it was); and hyper-parameters: keywords of the class,
                and of :class:`~robustmarl.networks.AgentNetwork`. ``shared=False`` gives every
                agent a network of its own.

        Raises:
            TypeError: for a keyword that it does not take, with the nearest one that it does; for
                an optimizer that is not a factory, or a seed that is not an int.
            ValueError: for a negative seed.
        """
        return cls._make(env, settings)

    @classmethod
    def _make(cls, env: Env | TeamSpec, settings: Mapping[str, object]) -> Self:
        """Do what :meth:`for_env` promises; subclasses type its keywords, and call this."""
        check_settings(cls, settings)
        for name in required(cls, TeamAlgorithm):
            if name not in settings:
                raise TypeError(f"{cls.__name__}.for_env must be given {name}=..., got none.")
        hyper: OpenSettings = dict(settings)
        made_for = take(hyper, MadeForSettings)
        seed = check_int(f"{cls.__name__}.seed", made_for.get("seed", 0), 0)
        spec = team_spec(cls.__name__, env, made_for.get("team"))
        device = check_usable(f"{cls.__name__}.device", made_for.get("device", "cpu"))
        with told_of(cls, hyper), seeded(seed, "weights"):
            algorithm = cls._build(spec, **hyper)
        algorithm.made = Making(spec, hyper)
        algorithm.seed = seed
        return algorithm.to(device)

    def untrained(self, seed: int = 0) -> Self:
        """Return a fresh algorithm with the same settings: the untrained baseline.

        Raises:
            ValueError: if this one was not made by :meth:`for_env`.
        """
        if self.made is None:
            name = type(self).__name__
            raise ValueError(f"{name}.untrained must be of for_env's making, got {self!r}.")
        again: OpenSettings = {**self.made.settings, "device": self.device, "seed": seed}
        return type(self).for_env(self.made.spec, **again)

    @classmethod
    def _build(cls, spec: TeamSpec, **settings: Any) -> Self:
        """Return the algorithm; a subclass takes its part of ``settings`` and passes on the rest.

        Args:
            spec: the team's.
            settings: keywords of :meth:`for_env` that it knows by name, and those of constructors
                that mixins and subclasses add, which is why they are not typed here.
        """
        raise TypeError(f"{cls.__name__} must implement _build.")

    def train(self, mode: bool = True) -> Self:
        """Put all of it into training mode, or out of it, as torch does."""
        return self if mode and is_training(self) else super().train(mode)

    @property
    def spec(self) -> TeamSpec:
        """The team's."""
        return self.policy.spec

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.policy.device

    @property
    def off_policy(self) -> bool:
        """Whether it learns from a replay buffer, or from the newest episodes only."""
        return isinstance(self, OffPolicyAlgorithm)

    def perturbers(self) -> Sequence[Any]:
        """Return the perturbers that play while it trains, which ``training.run`` adds: none.

        They are of a room beside this one, so their type is stated where both are known, in
        :class:`robustmarl.training.Trainable`.
        """
        return []

    def _create_optimizer(
        self, module: nn.Module, factory: OptimizerFactory, max_grad_norm: float | None = None
    ) -> Algorithm.Optimizer:
        check_max_grad_norm(f"{type(self).__name__}.max_grad_norm", max_grad_norm)
        made = super()._create_optimizer(module, factory, max_grad_norm)
        follow(self.lr_schedulers, self.policy.counted, type(self).__name__)
        return made

    def victim(self) -> NetworkVictim:
        """Return the live view of its policy that attacks query."""
        return self.policy.victim()

    def step_policy(self, loss: Tensor, rows: Callable[[], LossRows]) -> None:
        """Take the policy's optimizer step on ``loss``: the one door to it.

        Loss mixins add their terms here. Steps of critics and beliefs do not pass it.

        Args:
            loss: a scalar with gradient.
            rows: makes the agent-steps learned from, when they are asked for.
        """
        self.optim.step(loss)

    def last_act(self, batch: JointBatch, *, terminal: bool) -> Tensor | None:
        """Return the actions before each step of ``batch``; None if the agents do not see them.

        Args:
            batch: the episodes.
            terminal: whether for the observation after the last step, too: T+1.
        """
        if self.policy.network.last_table is None:
            return None
        return last_actions(batch.act, terminal=terminal, before=batch.act_before)

    def loss_rows(
        self,
        obs: Tensor,
        mask: Tensor,
        where: Tensor,
        last_act: Tensor | None,
        before: Tensor | None,
        side: Mapping[str, Tensor] | None = None,
    ) -> LossRows:
        """Return the agent-steps selected by ``where``, bool (B, T, N).

        Args:
            obs: clean observations, (B, T, N, D), or T+1 of them.
            mask: available actions, (B, T, N, A), or T+1 of them.
            where: which are learned from.
            last_act: actions before each step, (B, T, N, ...), or None.
            before: hidden states before each step, (B, T, N, H), or None.
            side: further inputs of the policy by name, (B, T, N, ...) each.
        """
        steps = where.shape[1]
        agents = torch.arange(where.shape[-1], device=where.device).expand(where.shape)[where]
        existing = self.spec.obs_mask(where.device)  # padding of smaller observations left out
        rows = Rows(
            mask=mask[:, :steps][where],
            obs_mask=None if existing is None else existing[agents],
            hidden=None if before is None else before[:, :steps][where],
            last_act=None if last_act is None else last_act[:, :steps][where],
            agents=agents,
            side={name: values[:, :steps][where] for name, values in (side or {}).items()},
        )
        return LossRows(obs=obs[:, :steps][where], rows=rows)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights and optimizers; the caller's dictionary is left as it is."""
        copied = own_state_dict(state_dict)
        return super().load_state_dict(copied, strict=strict, assign=assign)


class OffPolicyTeam(TeamAlgorithm, OffPolicyAlgorithm[Any]):
    """A learner from replayed episodes: it implements :meth:`learn`."""

    @abstractmethod
    def learn(self, batch: JointBatch) -> TeamTrainingStats:
        """Take one update's steps on the sampled episodes."""

    def _update_with_batch(self, batch: Any) -> TeamTrainingStats:
        return self.learn(batch)  # Tianshou passes on what the buffer sampled, unread


class OnPolicyTeam(TeamAlgorithm, OnPolicyAlgorithm[Any]):
    """A learner from the newest episodes: it implements :meth:`learn`."""

    @abstractmethod
    def learn(self, batch: JointBatch, minibatch: int | None, epochs: int) -> TeamTrainingStats:
        """Learn from one round's episodes.

        Args:
            batch: the episodes.
            minibatch: valid steps per optimizer step; None is all at once.
            epochs: passes over the episodes, >= 1.
        """

    def _update_with_batch(
        self, batch: Any, batch_size: int | None, repeat: int
    ) -> TeamTrainingStats:
        return self.learn(batch, batch_size, repeat)  # see OffPolicyTeam


def build_network(
    spec: TeamSpec,
    settings: NetworkSettings,
    *,
    squash: bool = False,
    mean_action: bool = False,
) -> Agents:
    """Return the agents' network of the right sizes; see ``AgentNetwork`` for further keywords."""
    keywords: OpenSettings = dict(settings)
    shared = check_flag("build_network.shared", keywords.pop("shared", True))
    kind: type[AgentNetwork] | type[SeparateAgents] = AgentNetwork if shared else SeparateAgents
    sizes = spec.obs_size, spec.num_agents, spec.num_actions
    keywords |= {"squash": squash, "mean_action": mean_action}
    if keywords.get("conv") is None:
        keywords.pop("conv", None)
    else:
        check(shared, "build_network.shared", "True for convolutions, which agents share", shared)
        kind = ConvAgentNetwork
    with speaking_for("build_network", kind):
        return kind(*sizes, continuous=spec.continuous, **keywords)
