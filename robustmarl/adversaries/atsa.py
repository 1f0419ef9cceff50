"""ATSA's adversary: a stochastic director with soft critics, and the generator it directs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self, cast, get_args

import torch
from torch import Tensor, nn

from robustmarl._checks import (
    check_choice,
    check_has,
    check_int,
    check_kind,
    check_number,
    check_tensor,
    check_usable,
)
from robustmarl._seeding import inverse, seeded
from robustmarl.adversaries.directing import director_network
from robustmarl.adversaries.soft_director import SoftDirecting, TargetForm
from robustmarl.attacks.gradient import GradientAttack
from robustmarl.joint import MASKED, JointBatch, TeamSpec, at_actions, joint_state, last_actions
from robustmarl.learning.base import team_spec
from robustmarl.learning.making import remembered
from robustmarl.learning.returns import masked_mean, td_lambda_returns
from robustmarl.learning.settings import NetworkSettings, check_settings, told_of
from robustmarl.networks import Agents, FOPMixer
from robustmarl.policies import ActorPolicy
from robustmarl.typing import Env

__all__ = ["ATSA", "SoftCritic", "actor_objective", "soft_targets", "soft_value"]


def soft_value(q: Tensor, mask: Tensor, alpha: float) -> Tensor:
    r"""Return :math:`\alpha \log \sum_a e^{Q(a)/\alpha}` over available actions, (...,).

    It minimises ATSA, Eq. (9) [Zhou2025]_, for the director that draws by
    :math:`\mathrm{softmax}(Q/\alpha)`; 0 where there is no action.

    Args:
        q: (..., A).
        mask: available actions, bool (..., A).
        alpha: temperature, > 0.
    """
    check_tensor("soft_value.q", q)
    check_tensor("soft_value.mask", mask, q)
    alpha = check_number("soft_value.alpha", alpha, 0.0, open_low=True)
    value = alpha * (q / alpha).masked_fill(~mask, MASKED).logsumexp(dim=-1)
    return torch.where(mask.any(dim=-1), value, 0.0)


def actor_objective(logp: Tensor, q: Tensor, mask: Tensor, alpha: float) -> Tensor:
    r"""Return :math:`\sum_a h(a) [\alpha \log h(a) - Q(a)]`, (...,): what a director lowers.

    ATSA, Eq. (10) [Zhou2025]_, with the mean over actions in place of drawn ones.

    Args:
        logp: log-probabilities of all actions, (..., A).
        q: their values, without gradient, (..., A).
        mask: available actions, bool (..., A).
        alpha: temperature, > 0.
    """
    check_tensor("actor_objective.logp", logp)
    check_tensor("actor_objective.q", q, logp)
    alpha = check_number("actor_objective.alpha", alpha, 0.0, open_low=True)
    return torch.where(mask, logp.exp() * (alpha * logp - q), 0.0).sum(dim=-1)


def soft_targets(
    reward: Tensor,
    q: Tensor,
    logp: Tensor,
    entropy: Tensor,
    bootstrap: Tensor,
    going_on: Tensor,
    *,
    gamma: float,
    lam: float,
    alpha: float,
    form: TargetForm = "exact",
) -> Tensor:
    r"""Return targets of the joint soft value, (B, T): ATSA, Eq. (8) [Zhou2025]_, with TD(lambda).

    .. math:: G_t = r_t + \gamma c_t [(1 - \lambda g_t)(\bar Q_{t+1} - \alpha \sum_i \log h^i)
              + \lambda g_t (G_{t+1} + \alpha \sum_i H^i)]

    or, as FOP's release has it, the plain return of :math:`\bar Q` less
    :math:`\alpha\, \overline{\log h^i}`, once.

    Args:
        reward: the director's, (B, T).
        q: the lagged joint value of actions drawn after each step, (B, T).
        logp: their log-probabilities, (B, T, N).
        entropy: the director's, after each step, (B, T, N).
        bootstrap: c, as of :func:`~robustmarl.learning.returns.td_lambda_returns`.
        going_on: g, likewise.
        gamma: discount in [0, 1].
        lam: lambda in [0, 1].
        alpha: temperature >= 0.
        form: ``"exact"`` or ``"fop"``.
    """
    check_choice("soft_targets.form", form, get_args(TargetForm))
    check_tensor("soft_targets.reward", reward)
    gamma = check_number("soft_targets.gamma", gamma, 0.0, 1.0)
    lam = check_number("soft_targets.lam", lam, 0.0, 1.0)
    alpha = check_number("soft_targets.alpha", alpha, 0.0)
    flags = bootstrap, going_on, gamma, lam
    if form == "fop":
        return td_lambda_returns(reward, q, *flags) - alpha * logp.mean(dim=-1)
    # The entropy of the step that follows is earned with the return that it begins, and so may
    # be paid with this step's reward: r + gamma c lambda g alpha H.
    earned = gamma * bootstrap * lam * going_on * alpha * entropy.sum(dim=-1)
    return td_lambda_returns(reward + earned, q - alpha * logp.sum(dim=-1), *flags)


class SoftCritic(nn.Module):
    """The agents' soft values and the mixer that makes the team's of them: ATSA, Eq. (7).

    Args:
        agents: Q-values from clean observations, the director's last targets and ids.
        mixer: FOP's.
    """

    def __init__(self, agents: Agents, mixer: FOPMixer) -> None:
        super().__init__()
        rule = "a team's network, such as networks.AgentNetwork"
        check_has("SoftCritic.agents", agents, ("plan", "extra", "step", "parameters"), rule)
        check_kind("SoftCritic.mixer", mixer, FOPMixer, "a FOPMixer")
        self.agents, self.mixer = agents, mixer

    def forward(self, q: Tensor, mask: Tensor, act: Tensor, state: Tensor, alpha: float) -> Tensor:
        """Return the joint soft value (...,) of ``act`` (..., N), given ``q`` (..., N, A)."""
        taken = at_actions(q, act)
        # Who has no action, dead or padding, has no advantage.
        value = torch.where(mask.any(dim=-1), soft_value(q, mask, alpha), taken)
        mixed: Tensor = self.mixer(taken, value, act, state)
        return mixed


class ATSA(SoftDirecting):
    r"""ATSA's stochastic adversary [Zhou2025]_: SDor, which directs STor.

    The director draws each agent's target from a policy :math:`h^i` over the victim's actions. It
    is FOP on the reward turned, with entropy: two critics :math:`Q_k` with FOP's mixing learn
    :func:`~robustmarl.adversaries.atsa.soft_targets`, with the smaller of the two lagged values,
    and the director lowers

    .. math:: \overline{\sum_a h^i(a)\,[\alpha \log h^i(a) - \min_k Q^i_k(a)]}
              - \kappa\, \overline{\log h^i(a_v^i)}

    where :math:`a_v`, what the victim as it is now does on what it was shown, ties the director to
    what can be achieved. This is Eq. (10), (14) and (15), with the minus of a cross entropy, which
    Eq. (14) is printed without. It learns from the very episodes that the team drew for itself, the
    director first, then the critics. Deployed it draws, unless ``deployed(greedy=True)``.

    :class:`~robustmarl.adversaries.soft_director.SoftDirecting` has the arguments: the director is
    an ``ActorPolicy``, the critics are two ``SoftCritic``. Against continuous actions there is
    :class:`ContinuousATSA`.

    Example:
        >>> from robustmarl import algorithms, budgets, envs, perturbers, training
        >>> team = algorithms.QMIX.for_env(envs.SignalMatching(), seed=0)
        >>> generator = perturbers.stor(budgets.LinfBall(epsilon=0.5))
        >>> adversary = ATSA.for_env(envs.SignalMatching(), generator, seed=1)
        >>> both = training.AdversarialTraining(team, adversary)
        >>> quiet = training.Log(progress=False)
        >>> few = training.OffPolicy(batch_size=8, learning_starts=8)
        >>> settings = {"env_steps": 100, "learn": few, "log": quiet}
        >>> training.run(both, envs.SignalMatching, **settings).episodes
        10
    """

    director: ActorPolicy
    director_kind = ActorPolicy

    @classmethod
    @remembered
    def for_env(
        cls,
        env: Env | TeamSpec,
        generator: GradientAttack,
        *,
        gradient: Literal["fop", "exact"] = "fop",
        attention: bool = False,
        team: str | None = None,
        device: torch.device | str = "cpu",
        seed: int = 0,
        **settings: Any,
    ) -> Self:
        """Return the adversary with networks of the right sizes for ``env``'s ``team``.

        Args:
            env: an environment, or a spec.
            generator: pushes victims towards the actions named: ``perturbers.stor(ball)``.
            gradient: of :class:`~robustmarl.networks.FOPMixer`.
            attention: likewise.
            team: whom of several teams it attacks.
            device: where it learns.
            seed: of the initial weights and of the class.
            settings: of the class, and of the director's network, which the critics share.
        """
        name = cls.__name__
        check_settings(cls, settings, NetworkSettings)
        spec, seed = team_spec(name, env, team), check_int(f"{name}.seed", seed, 0)
        device = check_usable(f"{name}.device", device)
        mixing: dict[str, Any] = {"gradient": gradient, "attention": attention}
        given = {**mixing, **settings}

        def critic() -> SoftCritic:
            sizes = spec.joint_state_size, spec.num_agents, spec.num_actions
            agents = director_network(cls.__name__, spec, dict(settings))
            return SoftCritic(agents, FOPMixer(*sizes, **mixing)).to(device)

        with told_of(cls, given), seeded(seed, "atsa"):
            critics = critic(), critic()
            director = ActorPolicy(spec, director_network(cls.__name__, spec, settings))
        return cls(director.to(device), critics, generator, seed=seed, **settings)

    @property
    def critics(self) -> list[SoftCritic]:
        """The two critics."""
        return cast("list[SoftCritic]", list(self._critics))

    @property
    def lagged(self) -> list[SoftCritic]:
        """Their target networks."""
        return cast("list[SoftCritic]", list(cast(nn.ModuleList, self._lagged)))

    def update(self, batch: JointBatch, target: Tensor, played: Tensor) -> dict[str, float]:
        """Take a step of the director, then one of the critics; see the class and the base."""
        alpha = self.alpha
        last_target = last_actions(target, terminal=True)
        # of the critics as they are in both steps, so that they are asked once
        given = batch.obs.obs[:, :-1], last_target[:, :-1]
        q = [critic.agents.unroll(*given)[0] for critic in self.critics]
        least = torch.minimum(q[0].detach(), q[1].detach())
        figures = self._step_director(batch, last_target, least, played, alpha)
        figures |= self._step_critics(batch, target, last_target, q, played, alpha)
        values = torch.stack(list(figures.values())).tolist()
        return dict(zip(figures, values, strict=True)) | {"alpha": alpha}

    def _step_director(
        self, batch: JointBatch, last_target: Tensor, q: Tensor, played: Tensor, alpha: float
    ) -> dict[str, Tensor]:
        """Take a step of the director, given the lesser values of all targets, (B, T, N, A)."""
        obs, mask = batch.obs.obs[:, :-1], batch.obs.mask[:, :-1]
        logp = self._logp(obs, last_target[:, :-1], mask)
        rows = batch.living & played.unsqueeze(-1)
        objective = actor_objective(logp, q, mask, alpha)
        loss = policy_loss = masked_mean(objective, rows)
        figures = {"policy_loss": policy_loss.detach()}
        if self.kappa > 0.0:
            own = self._victims_actions(batch)
            alignment = masked_mean(-at_actions(logp, own), rows)
            figures["alignment"] = alignment.detach()
            loss = policy_loss + self.kappa * alignment
        self.optim.step(loss)
        return figures | {"entropy": masked_mean(_entropy(logp.detach(), mask), rows)}

    def _step_critics(
        self,
        batch: JointBatch,
        target: Tensor,
        last_target: Tensor,
        of_critics: Sequence[Tensor],
        played: Tensor,
        alpha: float,
    ) -> dict[str, Tensor]:
        """Take a step of the critics, given the values of all targets by each, (B, T, N, A)."""
        mask = batch.obs.mask[:, :-1]
        state = joint_state(batch.obs.state, self.director.spec)
        with torch.no_grad():
            y = self._targets(batch, last_target, state, alpha)
        losses = []
        for critic, q in zip(self.critics, of_critics, strict=True):
            joint = critic(q, mask, target, state[:, :-1], alpha)
            error = (joint - y).square() + critic.mixer.penalty(state[:, :-1])
            losses.append(masked_mean(error, played))
        loss = losses[0] + losses[1]
        self.critic_optim.step(loss)
        return {"critic_loss": loss.detach(), "target": masked_mean(y, played)}

    def _targets(
        self, batch: JointBatch, last_target: Tensor, state: Tensor, alpha: float
    ) -> Tensor:
        """Return what the critics learn, (B, T), by actions drawn after each step."""
        obs, later = batch.obs.obs, batch.obs.mask[:, 1:]
        logp = self._logp(obs, last_target, batch.obs.mask)[:, 1:]
        uniform = self.draws("atsa", len(obs)).uniform(logp[0, ..., 0].numel())
        act = inverse(logp.exp(), uniform.view(logp.shape[:-1]))
        joint = [
            critic(
                critic.agents.unroll(obs, last_target)[0][:, 1:], later, act, state[:, 1:], alpha
            )
            for critic in self.lagged
        ]
        # Who has no action, dead or padding, has no entropy.
        drawn = at_actions(logp, act)
        drawn = torch.where(later.any(dim=-1), drawn, 0.0)
        return soft_targets(
            -batch.rew / self.reward_scale,
            torch.minimum(*joint),
            drawn,
            _entropy(logp, later),
            batch.bootstrap,
            batch.going_on,
            gamma=self.gamma,
            lam=self.td_lambda,
            alpha=alpha,
            form=self.target,
        )

    def _logp(self, obs: Tensor, last_target: Tensor, mask: Tensor) -> Tensor:
        """Return the director's log-probabilities of all targets, (B, T, N, A)."""
        output = self.director.network.unroll(obs, last_target)[0]
        return output.masked_fill(~mask, MASKED).log_softmax(dim=-1)

    def _victims_actions(self, batch: JointBatch) -> Tensor:
        """Return what the victim as it is now does on what it was shown, (B, T, N)."""
        output = self.victims_outputs(batch)
        return output.masked_fill(~batch.obs.mask[:, :-1], MASKED).argmax(dim=-1)


def _entropy(logp: Tensor, mask: Tensor) -> Tensor:
    """Return the entropy (...,) in nats of log-probabilities (..., A), 0 without an action."""
    return torch.where(mask, -logp.exp() * logp, 0.0).sum(dim=-1)
