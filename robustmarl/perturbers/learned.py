"""Observation attacks that are learned: a network emits the perturbation."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from robustmarl._checks import check_flag, check_int, check_kind, check_number
from robustmarl._seeding import Draws, seeded
from robustmarl.budgets import Coordinates, LinfBall
from robustmarl.joint import StepContext, TeamSpec
from robustmarl.networks.gaussian import (
    bounded_log_std,
    gaussian_entropy,
    gaussian_log_density,
)
from robustmarl.networks.layers import check_widths
from robustmarl.perturbers.base import Place
from robustmarl.perturbers.drawn import AttackedAgents
from robustmarl.perturbers.obs import ObsPerturber
from robustmarl.schedules import Schedule
from robustmarl.victims import Victim, VictimView

__all__ = ["GaussianActor", "GaussianObsAdversary", "LearnedObsPerturber"]


class GaussianActor(nn.Module, ABC):
    r"""An attack that draws :math:`u \sim N(\mu(o), \sigma^2)` given the clean observation.

    A subclass says what u, of ``act_size`` numbers, makes of observations: :meth:`moved`.
    """

    by_coordinate: ClassVar[bool] = False
    """Whether u has a number for each coordinate of the observation."""

    ball: LinfBall
    obs_size: int
    act_size: int
    hidden: tuple[int, ...]
    max_std: float | None

    def __init__(
        self,
        obs_size: int,
        act_size: int,
        hidden: tuple[int, ...],
        max_std: float | None,
        seed: int,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if max_std is not None:
            max_std = check_number(f"{name}.max_std", max_std, 0.0, open_low=True)
        self.obs_size = check_int(f"{name}.obs_size", obs_size, 1)
        hidden = check_widths(f"{name}.hidden", hidden)
        seed = check_int(f"{name}.seed", seed, 0)
        self.act_size, self.max_std, self.hidden = act_size, max_std, hidden
        with seeded(seed, "adversary"):
            layers: list[nn.Module] = []
            for fan_in, fan_out in zip((obs_size, *hidden), hidden, strict=False):
                layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
            self.mean = nn.Sequential(*layers, nn.Linear(hidden[-1], act_size))
        begin = 0.0 if max_std is None else 1.0
        self.log_std = nn.Parameter(torch.full((act_size,), begin))

    @abstractmethod
    def with_epsilon(self, epsilon: Coordinates) -> Self:
        """Return the same networks, shared, at another radius."""

    @abstractmethod
    def moved(
        self,
        obs: Tensor,
        u: Tensor,
        view: VictimView | None = None,
        draws: Draws | None = None,
    ) -> Tensor:
        """Return what ``u``, (M, U), makes of observations (M, D).

        Args:
            obs: clean observations.
            u: unclipped samples.
            view: the victim, for those that ask it.
            draws: M rows of random numbers, for those that need more.
        """

    def __call__(self, view: VictimView, obs: Tensor, draws: Draws | None = None) -> Tensor:
        """Return observations (M, D) perturbed by the mean."""
        with torch.no_grad():
            return self.moved(obs, self.mean(obs), view, draws)

    @torch.no_grad()
    def sample(
        self, obs: Tensor, draws: Draws, real: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return unclipped samples u (M, U) given ``obs`` and their log-densities (M,).

        Args:
            obs: clean observations, (M, D).
            draws: M rows of random numbers.
            real: which coordinates exist, bool (M, U); None is all. The others do not count.
        """
        mean, log_std = self.mean(obs), self._log_std()
        u = mean + draws.normal(self.act_size).to(mean.dtype) * log_std.exp()
        return u, _summed(gaussian_log_density(u, mean, log_std), real)

    def log_prob(self, obs: Tensor, u: Tensor, real: Tensor | None = None) -> Tensor:
        """Return the log-density (...,) of unclipped samples (..., U), given ``obs`` (..., D)."""
        return _summed(gaussian_log_density(u, self.mean(obs), self._log_std()), real)

    def entropy(self, real: Tensor | None = None) -> Tensor:
        """Return the entropy in nats, a scalar: the mean over rows of coordinates ``real``."""
        return _summed(gaussian_entropy(self._log_std()), real).mean()

    def _twin(self) -> Self:
        """Return another attack with the same networks, shared."""
        twin = type(self).__new__(type(self))
        nn.Module.__init__(twin)
        twin.obs_size, twin.act_size, twin.max_std = self.obs_size, self.act_size, self.max_std
        twin.hidden = self.hidden
        twin.mean, twin.log_std = self.mean, self.log_std
        return twin

    def _log_std(self) -> Tensor:
        if self.max_std is not None:
            return math.log(self.max_std) + nn.functional.logsigmoid(self.log_std)
        return bounded_log_std(self.log_std)


class GaussianObsAdversary(GaussianActor):
    r"""ATLA's adversary [Zhang2021]_: a Gaussian over perturbations given the clean observation.

    .. math:: u \sim N(\mu(o), \sigma^2), \qquad
              \hat o = \Pi_{B_\epsilon(o)}(o + \epsilon\,\mathrm{clip}(u, -1, 1))

    One actor shared by all attacked agents. As an attack it acts by its mean; a
    :class:`LearnedObsPerturber` asks it for samples and their log-probabilities instead. It is the
    actor of :class:`robustmarl.adversaries.ObsAdversaryPPO` and ``SharedObsAdversary``, and needs
    no victim.

    Args:
        ball: what it may change.
        obs_size: D.
        hidden: widths of the hidden layers.
        max_std: bound of sigma > 0, which is then this times sigmoid(``log_std``), as RMAAC has
            it, and begins at sigmoid(1) of it; None is exp(``log_std``), beginning at 1.
        seed: of the initial weights.

    Example:
        >>> from robustmarl.budgets import LinfBall
        >>> adversary = GaussianObsAdversary(LinfBall(epsilon=0.1), obs_size=3)
        >>> shown = adversary(None, torch.zeros(5, 3))
        >>> bool(shown.abs().max() <= 0.1)
        True
    """

    needs_victim: ClassVar[bool] = False
    by_coordinate = True

    def __init__(
        self,
        ball: LinfBall,
        obs_size: int,
        *,
        hidden: tuple[int, ...] = (64, 64),
        max_std: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(obs_size, obs_size, hidden, max_std, seed)
        check_kind("GaussianObsAdversary.ball", ball, LinfBall, "a LinfBall")
        ball.check_size("GaussianObsAdversary", self.obs_size)
        self.ball = ball

    def with_epsilon(self, epsilon: Coordinates) -> Self:
        """Return the same networks, shared, at another radius."""
        twin = self._twin()
        twin.ball = self.ball.with_epsilon(epsilon)
        return twin

    def moved(
        self,
        obs: Tensor,
        u: Tensor,
        view: VictimView | None = None,
        draws: Draws | None = None,
    ) -> Tensor:
        """Return what ``u``, (M, D), makes of observations (M, D): inside the ball."""
        return self.ball.project(obs + self.ball.radius(obs) * u.clamp(-1.0, 1.0), obs)


def _summed(each: Tensor, real: Tensor | None) -> Tensor:
    """Return the sums (...,) of values (..., D) over coordinates that exist, None for all."""
    return (each if real is None else torch.where(real, each, 0.0)).sum(dim=-1)


class LearnedObsPerturber(ObsPerturber):
    """Plays a :class:`GaussianActor` and records what it needs to learn.

    Whatever others have already made of an observation, the actor decides by the clean one, as it
    learns; what it decides moves what the agent would have seen.

    Records, as ``adversary``, ``act``, the unclipped samples (E, N, U), and ``logp`` (E, N);
    rows that were not attacked are zero. U is D for a :class:`GaussianObsAdversary`.

    Args:
        actor: the network that is asked for samples.
        agents: names of the attacked agents; None is all.
        greedy: play the mean, as it is deployed, where it would draw.
        episodes: share of the episodes in which it attacks at all, in [0, 1].
        epsilon: the actor's radius >= 0 over the training of the acting policy; None is its own.

    Example:
        >>> from robustmarl import algorithms, budgets, envs, evaluation
        >>> team = algorithms.QMIX.for_env(envs.ToyGame(), seed=0)
        >>> actor = GaussianObsAdversary(budgets.LinfBall(epsilon=0.5), obs_size=5)
        >>> learned = LearnedObsPerturber(actor)
        >>> evaluation.rollout(team, envs.ToyGame, episodes=2, perturb=learned).counters
        {'0/attacked': 400.0, '0/unchanged': 0.0}
    """

    kind = "adversary"

    def __init__(
        self,
        actor: GaussianActor,
        *,
        agents: AttackedAgents = None,
        greedy: bool = False,
        episodes: float = 1.0,
        epsilon: float | Schedule | None = None,
    ) -> None:
        where, rule = f"{type(self).__name__}.actor", "a GaussianObsAdversary"
        check_kind(where, actor, GaussianActor, rule)
        super().__init__(actor, agents=agents, episodes=episodes, epsilon=epsilon)
        self.actor, self.greedy = actor, check_flag(f"{type(self).__name__}.greedy", greedy)
        self._real: Tensor | None = None

    def bind(self, spec: TeamSpec, policy: Victim | None, place: Place) -> None:
        """Resolve agents; see :class:`ObsPerturber`."""
        super().bind(spec, policy, place)
        self._real = self._fit.real if self.actor.by_coordinate else None

    def on_obs(self, context: StepContext) -> Tensor:
        """Return perturbed observations (E, N, D), sampled unless ``greedy``."""
        self._clean = context.obs
        self._sample = context.seen.new_zeros(*context.seen.shape[:2], self.actor.act_size)
        self._logp = context.seen.new_zeros(context.seen.shape[:2])
        return super().on_obs(context)

    def perturbed(self, view: VictimView, obs: Tensor, draws: Draws) -> Tensor:
        """Return what a sample makes of the attacked rows ``obs``, (M, D), and keep it."""
        actor, real = self.actor, self.real_rows(self.rows.agents)
        # The actor learns from clean observations: a sample's density has to be given those.
        clean = self._fit.cut(self.rows.pick(self._clean)).contiguous()
        if self.greedy:
            u = actor.mean(clean)
            logp = actor.log_prob(clean, u, real)
        else:
            u, logp = actor.sample(clean, draws, real)
        self._sample = self.rows.spread(u, self._sample)
        self._logp = self.rows.spread(logp, self._logp)
        present = self._present
        assert isinstance(present, GaussianActor)
        return present.moved(obs, u, view, draws)

    def real_rows(self, agents: Tensor) -> Tensor | None:
        """Return which numbers of the agents' samples count, bool (M, U); None if all do."""
        return None if self._real is None else self._real.to(agents.device)[agents]

    def record(self) -> dict[str, Tensor]:
        """Return ``act``, (E, N, U), and ``logp``, (E, N)."""
        return {"act": self._sample, "logp": self._logp}
