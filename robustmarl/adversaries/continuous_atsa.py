"""ATSA against continuous actions: a squashed Gaussian director with FOP's continuous critics."""

from __future__ import annotations

from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustmarl._checks import check, check_int, check_kind, check_usable
from robustmarl._seeding import seeded
from robustmarl.adversaries.atsa import soft_targets
from robustmarl.adversaries.soft_director import SoftDirecting
from robustmarl.adversaries.squashed import SquashedDirector
from robustmarl.attacks.gradient import GradientAttack
from robustmarl.joint import JointBatch, TeamSpec, joint_state, last_actions
from robustmarl.learning.base import team_spec
from robustmarl.learning.making import remembered
from robustmarl.learning.returns import masked_mean
from robustmarl.learning.settings import NetworkSettings, check_settings, take, told_of
from robustmarl.networks import AgentNetwork, AgentSettings, FOPMixer
from robustmarl.networks.layers import feed_forward
from robustmarl.networks.squashed import SquashedNetwork
from robustmarl.typing import Env

__all__ = ["ContinuousATSA", "VectorCritic"]


class VectorCritic(nn.Module):
    r"""Soft values of vectors for every agent, and the mixer that makes the team's of them.

    Features of clean observations and of the director's last targets, with memory if it is
    recurrent, are shared by :math:`Q^i(\tau, a)` and :math:`V^i(\tau)`. The vector asked about is
    no part of the memory, so that any may be asked about at any step.

    Args:
        body: features (..., W) of observations and last targets together, (..., D + A).
        num_actions: A.
        mixer: FOP's.
    """

    def __init__(self, body: AgentNetwork, num_actions: int, mixer: FOPMixer) -> None:
        super().__init__()
        name = type(self).__name__
        check_kind(f"{name}.body", body, AgentNetwork, "an AgentNetwork")
        num_actions = check_int(f"{name}.num_actions", num_actions, 1)
        check_kind(f"{name}.mixer", mixer, FOPMixer, "a FOPMixer")
        self.body, self.mixer = body, mixer
        width = body.num_actions
        self.of_vector = feed_forward((width + num_actions, width, 1))
        self.of_history = nn.Linear(width, 1)

    def features(self, obs: Tensor, last_target: Tensor) -> Tensor:
        """Return features (B, T, N, W) of observations (B, T, N, D), last targets (B, T, N, A)."""
        return F.relu(self.body.unroll(torch.cat([obs, last_target], dim=-1), None)[0])

    def q(self, features: Tensor, target: Tensor) -> Tensor:
        """Return each agent's value (..., N) of ``target`` (..., N, A)."""
        value: Tensor = self.of_vector(torch.cat([features, target], dim=-1))
        return value.squeeze(-1)

    def value(self, features: Tensor) -> Tensor:
        """Return each agent's soft value, (..., N)."""
        value: Tensor = self.of_history(features)
        return value.squeeze(-1)

    def forward(self, features: Tensor, target: Tensor, state: Tensor, alive: Tensor) -> Tensor:
        """Return the joint soft value, (...,).

        Args:
            features: (..., N, W).
            target: (..., N, A).
            state: (..., S).
            alive: bool (..., N); others have no advantage.
        """
        q = self.q(features, target)
        mixed: Tensor = self.mixer(q, torch.where(alive, self.value(features), q), target, state)
        return mixed


class ContinuousATSA(SoftDirecting):
    r"""ATSA's stochastic adversary against teams of continuous actions [Zhou2025]_.

    The paper has a table of it and no equations; these are those of :class:`ATSA` where FOP's for
    continuous actions take their place. The director draws :math:`\hat a = \tanh u` with u
    Gaussian given clean observations and its own last targets. Two critics learn

    .. math:: Q_{tot} = \sum_i \lambda^i\,[Q^i(\hat a^i) - V^i] + \sum_i V^i + v(s), \qquad
              L_V = \overline{\bigl(V^i - [Q^i(a) - \alpha \log h^i(a)]\bigr)^2}, \quad a \sim h^i

    on :func:`~robustmarl.adversaries.atsa.soft_targets`, in which a draw's
    :math:`-\log h` stands for the entropy, and the director lowers

    .. math:: \overline{\alpha \log h^i(a) - \min_k Q^i_k(a)}
              - \kappa\, \overline{\log h^i(a_v^i)}, \qquad a \sim h^i

    with the gradient through the draw a, where :math:`a_v` is what the victim as it is now does on
    what it was shown. The arguments are those of
    :class:`~robustmarl.adversaries.soft_director.SoftDirecting`, with a
    :class:`~robustmarl.adversaries.squashed.SquashedDirector` and two ``VectorCritic``.
    ``perturbers.stor(ball)`` pushes by one sign step, ``attacks.FrankWolfe(ball=ball)`` as near as
    it can. Deployed it draws, or names :math:`\tanh\mu`: ``deployed(greedy=True)``.

    Example:
        >>> from functools import partial
        >>> from robustmarl import algorithms, budgets, envs, perturbers, training
        >>> make = partial(envs.spread, agents=2, continuous_actions=True)
        >>> team = algorithms.MADDPG.for_env(make(), seed=0)
        >>> generator = perturbers.stor(budgets.LinfBall(epsilon=0.1), continuous=True)
        >>> adversary = ContinuousATSA.for_env(make(), generator, seed=1)
        >>> both = training.AdversarialTraining(team, adversary)
        >>> few = training.OffPolicy(batch_size=8, learning_starts=8)
        >>> quiet = training.Log(progress=False)
        >>> settings = {"env_steps": 250, "learn": few, "log": quiet}
        >>> training.run(both, make, **settings).episodes
        10
    """

    director: SquashedDirector
    director_kind = SquashedDirector

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
            env: an environment, or a spec; continuous actions.
            generator: pushes victims towards the vectors named: ``perturbers.stor(ball)``.
            gradient: of :class:`~robustmarl.networks.FOPMixer`.
            attention: likewise.
            team: whom of several teams it attacks.
            device: where it learns.
            seed: of the initial weights and of the class.
            settings: of the class, and of the director's network, which the critics share; agents
                always share one.
        """
        name = cls.__name__
        check_settings(cls, settings, NetworkSettings)
        spec, seed = team_spec(name, env, team), check_int(f"{name}.seed", seed, 0)
        rule, remedy = "continuous: a director draws vectors", "Take ATSA for discrete actions."
        check(spec.continuous, f"{name}.for_env.env", rule, "discrete actions", remedy)
        device = check_usable(f"{name}.device", device)
        mixing: dict[str, Any] = {"gradient": gradient, "attention": attention}
        given = {**mixing, **settings}
        # The victim's own kind of network, fed with targets for last actions, as of ATSA.
        default = NetworkSettings(hidden=(64,), recurrent=True, last_action=True)
        network: dict[str, Any] = {**default, **take(settings, NetworkSettings)}
        for part, wanted in (("shared", True), ("conv", None)):
            found = network.pop(part, wanted)
            check(found is wanted, f"{name}.{part}", f"{wanted}, or left out", found)
        sizes = spec.num_agents, spec.num_actions

        def critic() -> VectorCritic:
            body: AgentSettings = cast(AgentSettings, network | {"last_action": False})
            width = network["hidden"][-1]
            features = AgentNetwork(spec.obs_size + spec.num_actions, sizes[0], width, **body)
            mixer = FOPMixer(spec.joint_state_size, *sizes, **mixing)
            return VectorCritic(features, spec.num_actions, mixer).to(device)

        with told_of(cls, given), seeded(seed, "atsa"):
            director = SquashedNetwork(spec.obs_size, *sizes, **network)
            critics = critic(), critic()
        policy = SquashedDirector(spec, director).to(device)
        return cls(policy, critics, generator, seed=seed, **settings)

    @property
    def critics(self) -> list[VectorCritic]:
        """The two critics."""
        return cast("list[VectorCritic]", list(self._critics))

    @property
    def lagged(self) -> list[VectorCritic]:
        """Their target networks."""
        return cast("list[VectorCritic]", list(cast(nn.ModuleList, self._lagged)))

    def update(self, batch: JointBatch, target: Tensor, played: Tensor) -> dict[str, float]:
        """Take a step of the director, then one of the critics; see the class and the base."""
        alpha, last_target = self.alpha, last_actions(target, terminal=True)
        given = batch.obs.obs[:, :-1], last_target[:, :-1]
        features = [critic.features(*given) for critic in self.critics]
        figures = self._step_director(batch, last_target, features, played, alpha)
        figures |= self._step_critics(batch, target, last_target, features, played, alpha)
        values = torch.stack(list(figures.values())).tolist()
        return dict(zip(figures, values, strict=True)) | {"alpha": alpha}

    def _step_director(
        self,
        batch: JointBatch,
        last_target: Tensor,
        features: list[Tensor],
        played: Tensor,
        alpha: float,
    ) -> dict[str, Tensor]:
        """Take a step of the director, given the critics' features, (B, T, N, W) each."""
        rows = batch.living & played.unsqueeze(-1)
        output = self.director.network.unroll(batch.obs.obs[:, :-1], last_target[:, :-1])[0]
        drawn, logp = self.director.named(output, self._noise("director", output))
        # The critics judge and do not learn here; their next step begins by forgetting this.
        each = zip(self.critics, features, strict=True)
        q = torch.minimum(*(critic.q(known.detach(), drawn) for critic, known in each))
        loss = policy_loss = masked_mean(alpha * logp - q, rows)
        figures = {"policy_loss": policy_loss.detach()}
        if self.kappa > 0.0:
            own = self.victims_outputs(batch).clamp(-1.0, 1.0)
            alignment = masked_mean(-self.director.log_prob(output, own), rows)
            figures["alignment"] = alignment.detach()
            loss = policy_loss + self.kappa * alignment
        self.optim.step(loss)
        return figures | {"entropy": masked_mean(-logp.detach(), rows)}

    def _step_critics(
        self,
        batch: JointBatch,
        target: Tensor,
        last_target: Tensor,
        features: list[Tensor],
        played: Tensor,
        alpha: float,
    ) -> dict[str, Tensor]:
        """Take a step of the critics, given their features, (B, T, N, W) each."""
        alive, rows = batch.obs.alive[:, :-1], batch.living & played.unsqueeze(-1)
        state = joint_state(batch.obs.state, self.director.spec)
        with torch.no_grad():
            output = self.director.network.unroll(batch.obs.obs, last_target)[0]
            drawn, logp = self.director.named(output, self._noise("critics", output))
            y = self._targets(batch, last_target, (drawn[:, 1:], logp[:, 1:]), state, alpha)
        loss, of_values = y.new_zeros(()), []
        for critic, known in zip(self.critics, features, strict=True):
            joint = critic(known, target, state[:, :-1], alive)
            error = (joint - y).square() + critic.mixer.penalty(state[:, :-1])
            loss = loss + masked_mean(error, played)
            with torch.no_grad():
                soft = critic.q(known, drawn[:, :-1]) - alpha * logp[:, :-1]
            of_values.append(masked_mean((critic.value(known) - soft).square(), rows))
        value_loss = of_values[0] + of_values[1]
        self.critic_optim.step(loss + value_loss)
        figures = {"critic_loss": loss.detach(), "value_loss": value_loss.detach()}
        return figures | {"target": masked_mean(y, played)}

    def _targets(
        self,
        batch: JointBatch,
        last_target: Tensor,
        later: tuple[Tensor, Tensor],
        state: Tensor,
        alpha: float,
    ) -> Tensor:
        """Return what the critics learn, (B, T), by vectors drawn after each step."""
        drawn, logp = later
        alive = batch.obs.alive[:, 1:]
        joint = []
        for critic in self.lagged:
            features = critic.features(batch.obs.obs, last_target)[:, 1:]
            joint.append(critic(features, drawn, state[:, 1:], alive))
        logp = torch.where(alive, logp, 0.0)  # the dead, and padding, draw nothing
        return soft_targets(
            -batch.rew / self.reward_scale,
            torch.minimum(*joint),
            logp,
            -logp,
            batch.bootstrap,
            batch.going_on,
            gamma=self.gamma,
            lam=self.td_lambda,
            alpha=alpha,
            form=self.target,
        )

    def _noise(self, name: str, output: Tensor) -> Tensor:
        """Return this update's standard normal numbers, (B, T, N, A), for outputs (..., 2A)."""
        like = output.chunk(2, dim=-1)[0]
        return self.draws(f"atsa/{name}", len(like)).normal(like[0].numel()).view(like.shape)
