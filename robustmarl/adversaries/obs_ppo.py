"""ATLA's adversary: a team of its own that perturbs observations and earns the reward turned."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal, Self

import torch
from tianshou.algorithm.optim import OptimizerFactory, TorchOptimizerFactory
from torch import Tensor, nn

from robustmarl._checks import (
    check,
    check_choice,
    check_int,
    check_kind,
    check_number,
    check_usable,
    speaking_for,
)
from robustmarl.adversaries.base import Adversary, Sample
from robustmarl.adversaries.deployed import deployed_actor
from robustmarl.adversaries.ppo import attacked_rows, played_on_obs, ppo_steps
from robustmarl.budgets import LinfBall
from robustmarl.joint import TeamSpec
from robustmarl.learning.base import team_spec
from robustmarl.learning.making import remembered
from robustmarl.learning.optim import adam
from robustmarl.learning.returns import gae, masked_mean, normalize
from robustmarl.learning.settings import check_settings
from robustmarl.networks import Critic
from robustmarl.perturbers.learned import GaussianActor, GaussianObsAdversary, LearnedObsPerturber
from robustmarl.schedules import Schedule
from robustmarl.typing import Env

__all__ = ["GaussianPPO", "ObsAdversaryPPO", "value_critic"]


class GaussianPPO(Adversary):
    r"""PPO for an attack that draws from a Gaussian, of the kind that a subclass names.

    It lives the team's newest episodes with clean observations, its own unclipped samples as
    actions, and the team's reward with its sign turned:

    .. math:: \hat A = \mathrm{GAE}(-r, \hat V), \qquad
              L_V = \tfrac12 \overline{(\hat V(s) - \hat G)^2}

    with a critic of its own on the state, over the episodes that it attacked, and pieces in which
    none of its agents lived; see :func:`robustmarl.adversaries.ppo.ppo_steps`. Evaluated by its
    mean, unless ``deployed(greedy=False)`` is asked for.

    Args:
        actor: the attack it trains.
        critic: V(s), (..., S) to (...).
        agents: names of the attacked agents; None is all.
        episodes: share of the episodes in which it attacks while it learns, in [0, 1].
        epsilon: the actor's radius >= 0 over the training of the team; None is its own.
        optim: optimizer factory for both; None is Adam at 3e-4: at 1e-6, the step size of the
            release of [Zhou2025]_, it hardly moves.
        gamma: discount in [0, 1]; this, ``gae_lambda``, ``clip`` and ``epochs`` are that release's.
        gae_lambda: in [0, 1].
        clip: PPO's clip, > 0.
        entropy_coef: >= 0.
        epochs: passes over a batch, >= 1.
        max_grad_norm: global norm at which gradients are clipped, > 0, or None.
    """

    takes_segments = True
    actor_kind: ClassVar[type[GaussianActor]]

    def __init__(
        self,
        actor: GaussianActor,
        critic: Critic,
        *,
        agents: Collection[str] | None = None,
        episodes: float = 1.0,
        epsilon: float | Schedule | None = None,
        optim: OptimizerFactory | None = None,
        gamma: float = 0.98,
        gae_lambda: float = 0.9,
        clip: float = 0.2,
        entropy_coef: float = 1e-3,
        epochs: int = 10,
        max_grad_norm: float | None = 0.5,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_kind(f"{name}.actor", actor, self.actor_kind, f"a {self.actor_kind.__name__}")
        check_kind(f"{name}.critic", critic, Critic, "a Critic")
        self.actor, self.critic = actor, critic
        self.gamma = check_number(f"{name}.gamma", gamma, 0.0, 1.0)
        self.gae_lambda = check_number(f"{name}.gae_lambda", gae_lambda, 0.0, 1.0)
        self.clip = check_number(f"{name}.clip", clip, 0.0, open_low=True)
        self.entropy_coef = check_number(f"{name}.entropy_coef", entropy_coef, 0.0)
        self.epochs = check_int(f"{name}.epochs", epochs, 1)
        with speaking_for(self, LearnedObsPerturber):
            self._perturber = LearnedObsPerturber(
                actor, agents=agents, episodes=episodes, epsilon=epsilon
            )
        self.epsilon = self._perturber.epsilon
        learned = nn.ModuleList([actor, critic])
        self.optim = self.create_optimizer(learned, optim or adam(3e-4), max_grad_norm)

    def perturber(self) -> LearnedObsPerturber:
        """Return what plays while it learns: the sampling actor."""
        return self._perturber

    def deployed(self, greedy: bool | None = None) -> LearnedObsPerturber:
        """Return a copy of the actor at work: by its mean, or sampling if not ``greedy``."""
        return deployed_actor(self.actor, self._perturber.agents, greedy)

    def learn(self, sample: Sample) -> Mapping[str, float]:
        """Learn from the newest episodes; see the class."""
        batch = sample.fresh
        if batch is None:
            return {}
        record, where = self.recorded(batch), f"{type(self).__name__}.learn.sample"
        remedy = "Collect with the adversary's own perturber()."
        check("logp" in record, where, "of episodes that it played in", "others", remedy)
        rows = attacked_rows(batch, record)
        if not bool(rows.any()):
            return {}
        # What it left alone says nothing of returns under it, but where its agents were dead.
        exposed = (batch.living & rows.flatten(0, 1).any(dim=0)).flatten(1).any(dim=1)
        played = batch.valid & (rows.flatten(1).any(dim=1) | ~exposed).unsqueeze(1)
        state = batch.obs.state.flatten(2)  # of all agents, where each has its own
        with torch.no_grad():
            value = self.critic(state)
            flags = batch.bootstrap, batch.going_on
            raw = gae(-batch.rew, value, *flags, self.gamma, self.gae_lambda)
            returns = raw + value[:, :-1]
            advantage = normalize(raw.unsqueeze(-1).expand(rows.shape), rows)[rows]

        def value_loss() -> Tensor:
            error = (self.critic(state[:, :-1]) - returns).square()
            return 0.5 * masked_mean(error, played)

        figures = ppo_steps(
            played_on_obs(self._perturber, batch, record, rows),
            advantage,
            steps=self.epochs,
            clip=self.clip,
            entropy_coef=self.entropy_coef,
            step=self.optim.step,
            value_loss=value_loss,
        )
        self.step_schedulers()
        return figures


class ObsAdversaryPPO(GaussianPPO):
    """ATLA's adversary [Zhang2021]_: it draws the perturbation itself.

    :class:`GaussianPPO` has the arguments; the actor is a
    :class:`~robustmarl.perturbers.GaussianObsAdversary`.

    Example:
        >>> from robustmarl import algorithms, budgets, envs, evaluation, training
        >>> ball, game = budgets.LinfBall(epsilon=0.5), envs.SignalMatching
        >>> team = algorithms.MAPPO.for_env(game(), seed=0)
        >>> adversary = ObsAdversaryPPO.for_env(game(), ball, seed=1)
        >>> attack = training.AdversarialTraining(team, adversary, team_every=None)
        >>> _ = training.run(attack, game, env_steps=100, log=training.Log(progress=False))
        >>> evaluation.rollout(team, game, episodes=2, perturb=adversary.deployed()).counters
        {'0/attacked': 40.0, '0/unchanged': 0.0}
    """

    actor_kind = GaussianObsAdversary

    @classmethod
    @remembered
    def for_env(
        cls,
        env: Env | TeamSpec,
        ball: LinfBall,
        *,
        team: str | None = None,
        preset: Literal["paper"] | None = None,
        hidden: tuple[int, ...] = (64, 64),
        device: torch.device | str = "cpu",
        seed: int = 0,
        **settings: Any,
    ) -> Self:
        """Return the adversary with networks of the right sizes for ``env``'s ``team``.

        Args:
            env: an environment, or a spec.
            ball: within which it perturbs observations.
            team: whom of several teams it attacks.
            preset: ``"paper"`` learns as the release of [Zhou2025]_ does, whose adversary is weak;
                settings that are given count.
            hidden: widths of actor and critic.
            device: where it learns.
            seed: of the initial weights; torch's global generator is left as it was.
            settings: of the class.
        """
        check_settings(cls, settings)
        check_choice(f"{cls.__name__}.preset", preset, (None, "paper"))
        if preset == "paper":
            settings = _paper() | settings
        device = check_usable(f"{cls.__name__}.device", device)
        seed = check_int(f"{cls.__name__}.seed", seed, 0)
        spec = team_spec(cls.__name__, env, team)
        with speaking_for(cls.__name__, GaussianObsAdversary):
            actor = GaussianObsAdversary(ball, spec.obs_size, hidden=hidden, seed=seed)
        critic = value_critic(spec, hidden, seed)
        return cls(actor.to(device), critic.to(device), **settings)


def value_critic(spec: TeamSpec, hidden: tuple[int, ...], seed: int) -> Critic:
    """Return V(s) of a team, with the weights of ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # not a stream of it: what is published began with these weights
        return Critic(spec.joint_state_size, hidden=hidden, layer_norm=True)


def _paper() -> dict[str, Any]:
    """Return what the release of ATSA's tables trains ATLA's adversary with."""
    return {
        # RMSprop as for its teams, at the step size of its configuration
        "optim": TorchOptimizerFactory(torch.optim.RMSprop, lr=1e-6, alpha=0.99, eps=1e-5),
        "gamma": 0.98,
        "gae_lambda": 0.9,
        "clip": 0.2,
        "epochs": 10,
        "entropy_coef": 0.0,  # there is no bonus
        "max_grad_norm": 10.0,  # one norm for all of its learners
    }
