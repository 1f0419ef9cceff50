"""The learner of ATLA's observation adversary: MAPPO against the team's reward."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from tianshou.algorithm.algorithm_base import TrainingStats
from tianshou.algorithm.optim import OptimizerFactory
from torch import Tensor, nn

from robustmarl._checks import check_int, check_number
from robustmarl.budgets import LinfBall
from robustmarl.joint import JointBatch, TeamSpec, spec_of
from robustmarl.learning.base import TeamTrainingStats
from robustmarl.learning.optim import adam
from robustmarl.learning.returns import gae, masked_mean, normalize, ppo_surrogate
from robustmarl.networks import Critic
from robustmarl.perturbers.learned import GaussianObsAdversary
from robustmarl.typing import Env

__all__ = ["ObsAdversaryPPO", "attacked_rows", "policy_terms"]


def attacked_rows(batch: JointBatch, logp: Tensor) -> Tensor:
    """Return the agent-steps that an adversary of log-probabilities ``logp`` played, (B, T, N)."""
    return (logp != 0) & batch.living


def policy_terms(
    adversary: GaussianObsAdversary,
    obs: Tensor,
    act: Tensor,
    logp_old: Tensor,
    advantage: Tensor,
    clip: float,
) -> tuple[Tensor, Tensor]:
    """Return PPO's policy loss of an adversary and its entropy, two scalars.

    Args:
        adversary: the attack.
        obs: clean observations of R agent-steps, (R, D).
        act: its unclipped samples, (R, D).
        logp_old: their log-probabilities when drawn, (R,).
        advantage: the adversary's own, (R,).
        clip: PPO's.
    """
    surrogate = ppo_surrogate(adversary.log_prob(obs, act), logp_old, advantage, clip)
    return -surrogate.mean(), adversary.entropy()


class ObsAdversaryPPO(nn.Module):
    r"""PPO for a :class:`~robustmarl.perturbers.GaussianObsAdversary`, with a critic on the state.

    Learns from :func:`robustmarl.training.adversary_view`: clean observations, its own unclipped
    samples and their log-probabilities, and the team's reward with its sign turned.

    Args:
        adversary: the attack it trains.
        critic: V(s), (..., S) to (...).
        optim: optimizer factory; None is Adam at 3e-4.
        gamma: discount in [0, 1].
        gae_lambda: in [0, 1].
        clip: PPO's clip, > 0.
        entropy_coef: >= 0.
        epochs: passes over a batch, >= 1.
        max_grad_norm: global norm at which gradients are clipped.
    """

    def __init__(
        self,
        adversary: GaussianObsAdversary,
        critic: Critic,
        *,
        optim: OptimizerFactory | None = None,
        gamma: float = 0.98,
        gae_lambda: float = 0.9,
        clip: float = 0.2,
        entropy_coef: float = 1e-3,
        epochs: int = 10,
        max_grad_norm: float = 0.5,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.adversary, self.critic = adversary, critic
        self.gamma = check_number(f"{name}.gamma", gamma, 0.0, 1.0)
        self.gae_lambda = check_number(f"{name}.gae_lambda", gae_lambda, 0.0, 1.0)
        self.clip = check_number(f"{name}.clip", clip, 0.0, open_low=True)
        self.entropy_coef = check_number(f"{name}.entropy_coef", entropy_coef, 0.0)
        self.epochs = check_int(f"{name}.epochs", epochs, 1)
        self.max_grad_norm = check_number(
            f"{name}.max_grad_norm", max_grad_norm, 0.0, open_low=True
        )
        learned = nn.ModuleList([adversary, critic])
        self.optim, scheduler = (optim or adam(3e-4)).create_instances(learned)
        self.lr_schedulers = [] if scheduler is None else [scheduler]

    def get_extra_state(self) -> dict[str, Any]:
        """Return the optimizer's state, which travels with the weights."""
        return self.optim.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` returned; ``state`` is left as it is."""
        self.optim.load_state_dict(copy.deepcopy(state))

    @classmethod
    def for_env(
        cls,
        env: Env | TeamSpec,
        ball: LinfBall,
        *,
        team: str | None = None,
        hidden: tuple[int, ...] = (64, 64),
        device: torch.device | str = "cpu",
        seed: int = 0,
        **settings: Any,
    ) -> Self:
        """Return the learner with networks of the right sizes for ``env``'s ``team``."""
        spec = (env if isinstance(env, TeamSpec) else spec_of(env)).of_team(team)
        adversary = GaussianObsAdversary(ball, spec.obs_size, hidden=hidden, seed=seed)
        size = spec.state_size * (spec.num_agents if spec.state_layout == "per_agent" else 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            critic = Critic(size, hidden=hidden, layer_norm=True)
        return cls(adversary.to(device), critic.to(device), **settings)

    def update(self, batch: JointBatch) -> TrainingStats:
        """Learn from one adversary view of (B, T) steps; see the class."""
        if batch.logp is None:
            raise ValueError(
                "ObsAdversaryPPO.update.batch must be an adversary view with 'logp', got none."
            )
        state = batch.obs.state.flatten(2)
        attacked = attacked_rows(batch, batch.logp)
        if not bool(attacked.any()):
            return TeamTrainingStats(metrics={})
        with torch.no_grad():
            value = self.critic(state)
            flags = batch.bootstrap, batch.going_on
            advantage = gae(batch.rew, value, *flags, self.gamma, self.gae_lambda)
            returns = advantage + value[:, :-1]
            advantage = normalize(advantage.unsqueeze(-1).expand(attacked.shape), attacked)
        played = (batch.obs.obs[:, :-1], batch.act, batch.logp, advantage)
        obs, act, logp, advantage = (values[attacked] for values in played)
        figures: list[Tensor] = []
        for _ in range(self.epochs):
            policy_loss, entropy = policy_terms(
                self.adversary, obs, act, logp, advantage, self.clip
            )
            error = (self.critic(state[:, :-1]) - returns).square()
            value_loss = masked_mean(error, batch.valid)
            loss = policy_loss + 0.5 * value_loss - self.entropy_coef * entropy
            self.optim.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters(), self.max_grad_norm)
            self.optim.step()
            figures.append(torch.stack([loss, policy_loss, value_loss, entropy]).detach())
        for scheduler in self.lr_schedulers:
            scheduler.step()
        means = torch.stack(figures).mean(dim=0).tolist()
        names = ("loss", "policy_loss", "value_loss", "entropy")
        return TeamTrainingStats(metrics=dict(zip(names, means, strict=True)))
