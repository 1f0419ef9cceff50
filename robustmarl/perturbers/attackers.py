"""ROMANCE's attackers: whom to attack in which step, when there are only so many attacks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from robustmarl._checks import check, check_flag, check_int, check_kind, check_names, check_number
from robustmarl._seeding import Draws, generator, inverse, stream_id
from robustmarl.attacks.gradient import GradientAttack
from robustmarl.joint import StepContext, TeamSpec, joint_state
from robustmarl.networks.layers import check_widths
from robustmarl.perturbers.base import Perturber, Place
from robustmarl.perturbers.obs import ObsPerturber
from robustmarl.victims import Victim, VictimView

__all__ = [
    "AttackerActions",
    "AttackerObs",
    "Attackers",
    "attack_policy",
    "reference_policy",
    "smoothed",
    "soft_backup",
]

_FLOOR = 0.02  # of an attacker's probabilities while it explores: the release's


def reference_policy(able: Tensor, rate: float) -> Tensor:
    r"""Return :math:`p_{ref}`, (..., N+1): rarely attack, each agent alike; else nobody.

    .. math:: p_{ref} = (\delta_0 / N, \ldots, \delta_0 / N, 1 - \delta_0)

    What agents have that cannot be attacked goes to nobody, who is last.

    Args:
        able: who can be chosen, bool (..., N+1); the last, nobody, always can.
        rate: :math:`\delta_0`, the share of steps with an attack, in (0, 1].
    """
    each = able[..., :-1].float() * (rate / (able.shape[-1] - 1))
    nobody = (1.0 - each.sum(dim=-1, keepdim=True)).clamp(min=0.0)
    if rate == 1.0:  # what rounding leaves is weighed by the exponential of a value
        nobody = nobody.masked_fill(able[..., :-1].all(dim=-1, keepdim=True), 0.0)
    return torch.cat([each, nobody], dim=-1)


def attack_policy(q: Tensor, reference: Tensor, soft: float) -> Tensor:
    r"""Return :math:`\hat\pi(k) \propto p_{ref}(k)\, e^{Q(k)/\lambda}`, (..., N+1).

    Args:
        q: values of attacking each agent, and nobody, (..., N+1).
        reference: :math:`p_{ref}`, likewise.
        soft: :math:`\lambda` > 0, in units of the reward.
    """
    return (reference.log() + q / soft).softmax(dim=-1)


def soft_backup(q: Tensor, reference: Tensor, soft: float) -> Tensor:
    r"""Return :math:`\lambda \log \sum_k p_{ref}(k)\, e^{Q(k)/\lambda}`, (...,).

    It is what :func:`attack_policy` earns, less :math:`\lambda` times its divergence from the
    reference; the arguments are the same.
    """
    return soft * (reference.log() + q / soft).logsumexp(dim=-1)


def smoothed(policy: Tensor, able: Tensor, floor: float) -> Tensor:
    r"""Return :math:`(1 - nb)\,\hat\pi + b` over the n choices that are ``able``, 0 elsewhere.

    Args:
        policy: :math:`\hat\pi`, (..., N+1).
        able: who can be chosen, bool (..., N+1).
        floor: b, at most 1 / (N+1).
    """
    number = able.sum(dim=-1, keepdim=True)
    return torch.where(able, (1.0 - number * floor) * policy + floor, 0.0)


class Attackers(nn.Module):
    r"""Several attackers of one team as one network: the values of attacking whom.

    Each is an MLP of its own from the team's state and the share of the budget that is left,

    .. math:: \hat Q_j(s, 1 - n_{used} / K) \in \mathbb{R}^{N+1},

    of which the last is the value of attacking nobody.

    Args:
        spec: of the team that is attacked; discrete actions.
        number: of attackers, >= 1; 4 is the release's.
        budget: K, the attacks in an episode at most, >= 0; 6 is the release's, which was run
            with 8 on 2s3z and 3s_vs_3z.
        agents: names of those who may be attacked; None is all.
        hidden: widths of the hidden layers.
        rate: :math:`\delta_0` of :func:`reference_policy`, in (0, 1].
        soft: :math:`\lambda` of :func:`attack_policy`, > 0, in units of the reward.
        floor: b of :func:`smoothed`, in [0, 1 / (N+1)]; None is .02, the release's, or half of the
            most where that is less: with 25 agents and more a draw still is a choice.
        seed: of the initial weights.

    Raises:
        ValueError: for a team of continuous actions, which have no worst one; for numbers out of
            range.

    Example:
        >>> from robustmarl import envs, joint
        >>> attackers = Attackers(joint.spec_of(envs.ToyGame()), number=4)
        >>> attackers(torch.zeros(7, attackers.features)).shape  # 4 attackers: 2 agents, or nobody
        torch.Size([4, 7, 3])
    """

    attackable: Tensor

    def __init__(
        self,
        spec: TeamSpec,
        *,
        number: int = 4,
        budget: int = 6,
        agents: Collection[str] | None = None,
        hidden: tuple[int, ...] = (64, 64),
        rate: float = 0.05,
        soft: float = 0.04,
        floor: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_kind(f"{name}.spec", spec, TeamSpec, "a TeamSpec", "Write spec_of(env).")
        kind = "continuous" if spec.continuous else "discrete"
        rule = "of discrete actions: there is a worst one among them"
        check(not spec.continuous, f"{name}.spec", rule, kind)
        names = spec.agents if agents is None else agents
        self.agents = check_names(f"{name}.agents", names, spec.agents)
        check(len(self.agents) > 0, f"{name}.agents", "at least one name, or None for all", agents)
        self.spec, self.number = spec, check_int(f"{name}.number", number, 1)
        self.budget = check_int(f"{name}.budget", budget, 0)
        self.rate = check_number(f"{name}.rate", rate, 0.0, 1.0, open_low=True)
        self.soft = check_number(f"{name}.soft", soft, 0.0, open_low=True, unit="rewards")
        most = 1.0 / (spec.num_agents + 1)
        floor = min(_FLOOR, most / 2.0) if floor is None else floor
        self.floor = check_number(f"{name}.floor", floor, 0.0, most)
        self.seed = check_int(f"{name}.seed", seed, 0)
        self.hidden = check_widths(f"{name}.hidden", hidden)
        self.sizes = (self.features, *self.hidden, spec.num_agents + 1)
        attackable = torch.tensor([agent in self.agents for agent in spec.agents])
        self.register_buffer("attackable", attackable, persistent=False)
        layers = [
            nn.Parameter(torch.empty(self.number, *shape))
            for fan_in, fan_out in pairwise(self.sizes)
            for shape in ((fan_in, fan_out), (1, fan_out))
        ]
        self.layers = nn.ParameterList(layers)
        for index in range(self.number):
            self.renew(index, "attackers", index)

    @property
    def features(self) -> int:
        """How many numbers an attacker is shown."""
        return self.spec.joint_state_size + 1

    @torch.no_grad()
    def renew(self, index: int, *purpose: int | str) -> None:
        """Give an attacker new weights, which follow from the seed and ``purpose``."""
        draws = generator(self.seed, *purpose)
        for weight, bias in self._linear():
            bound = weight.shape[1] ** -0.5  # torch's own draw of a linear layer
            for values in (weight, bias):
                drawn = torch.empty(values.shape[1:]).uniform_(-bound, bound, generator=draws)
                values[index] = drawn.to(values)

    @torch.no_grad()
    def take(self, index: int, other: Attackers, of: int) -> None:
        """Give an attacker the weights of the attacker ``of`` of ``other``."""
        for own, others in zip(self.layers, other.layers, strict=True):
            own[index] = others[of]

    def seen(self, state: Tensor, used: Tensor) -> Tensor:
        """Return what attackers are shown, (..., F).

        Args:
            state: of the team, as environments give it: (..., S) or (..., N, S).
            used: attacks that there were in the episode, (...,).
        """
        left = 1.0 - used / max(self.budget, 1)
        return torch.cat([joint_state(state, self.spec), left.unsqueeze(-1)], dim=-1)

    def able(self, alive: Tensor, used: Tensor) -> Tensor:
        """Return whom they can choose, bool (..., N+1): the living while attacks are left, nobody.

        Args:
            alive: bool (..., N).
            used: as of :meth:`seen`.
        """
        left = (used < self.budget).unsqueeze(-1)
        agents = alive & self.attackable & left
        return torch.cat([agents, torch.ones_like(left)], dim=-1)

    def forward(self, seen: Tensor) -> Tensor:
        """Return all attackers' values, (J, ..., N+1), given what they are shown, (..., F)."""
        rows = seen.reshape(-1, self.features).expand(self.number, -1, -1)
        for number, (weight, bias) in enumerate(self._linear()):
            rows = torch.baddbmm(bias, rows if number == 0 else rows.relu(), weight)
        return rows.view(self.number, *seen.shape[:-1], -1)

    def policies(self, q: Tensor, able: Tensor, *, explore: bool) -> Tensor:
        """Return all attackers' probabilities of attacking whom, (J, ..., N+1).

        Args:
            q: their values, (J, ..., N+1).
            able: whom they can choose, bool (..., N+1).
            explore: whether they are smoothed.
        """
        policy = attack_policy(q, reference_policy(able, self.rate), self.soft)
        return smoothed(policy, able, self.floor) if explore else policy

    def _linear(self) -> Sequence[tuple[Tensor, Tensor]]:
        """Return the weights (J, I, O) and biases (J, 1, O) of each layer."""
        layers = list(self.layers)
        return list(zip(layers[::2], layers[1::2], strict=True))


class _Choice:
    """One attacker's choices of a step: drawn once per episode, and then in each of its steps.

    Args:
        attackers: one of which plays in an episode.
        explore: whether they are smoothed.
        greedy: whether the likeliest choice is taken, or one drawn.
        episodes: share of the episodes in which there are attacks.
    """

    def __init__(
        self, name: str, attackers: Attackers, explore: bool, greedy: bool, episodes: float
    ) -> None:
        check_kind(f"{name}.attackers", attackers, Attackers, "Attackers")
        self.attackers = attackers
        self.explore = check_flag(f"{name}.explore", explore)
        self.greedy = check_flag(f"{name}.greedy", greedy)
        self.episodes = check_number(f"{name}.episodes", episodes, 0.0, 1.0)
        self._name = name

    def bind(self, spec: TeamSpec, place: Place) -> None:
        """Begin anew with a team, which must be of the spaces of the attackers'."""
        given, wanted = (
            (team.action_sizes, team.joint_state_size, team.continuous)
            for team in (self.attackers.spec, spec)
        )
        rule = f"of a team with this one's actions and state, {wanted}"
        check(given == wanted, f"{self._name}.attackers", rule, given)
        self._place, self._used = place, torch.zeros(0, dtype=torch.int64)
        self._attacks = torch.zeros((), dtype=torch.int64)

    def of_step(self, context: StepContext) -> Tensor:
        """Return whose step is attacked, bool (E, N): one agent's at most."""
        playing, num_agents = context.live & ~context.terminal, context.alive.shape[1]
        if self._used.shape != context.step.shape:
            self._used = torch.zeros_like(context.step)
        used = self.used = torch.where(context.step == 0, 0, self._used)
        once = Draws(context.keys).at(torch.zeros_like(context.step), self._stream("episode"))
        which, whether = once.uniform(2).unbind(dim=1)
        self.index = (which * self.attackers.number).long()
        able = self.attackers.able(context.alive, used)
        seen = self.attackers.seen(context.state, used)
        policies = self.attackers.policies(self.attackers(seen), able, explore=self.explore)
        own = policies[self.index, torch.arange(len(used), device=used.device)]
        if self.greedy:
            drawn = own.argmax(dim=-1)
        else:
            step = Draws(context.keys).at(context.step, self._stream("step"))
            drawn = inverse(own, step.uniform(1)[:, 0])
        attacks = playing & (whether < self.episodes)
        self.agent = torch.where(attacks, drawn, num_agents)
        chosen = self.agent[:, None] == torch.arange(num_agents, device=used.device)
        chosen = chosen & able[:, :-1]  # a draw that rounding put beyond the last is nobody's
        hit = chosen.any(dim=1)
        self.agent = torch.where(hit, self.agent, num_agents)
        self._used = used + hit
        self._attacks = self._attacks.to(hit.device) + hit.sum()
        return chosen

    def _stream(self, purpose: str) -> int:
        return stream_id(f"{self._place.name}/{self._place.depth}/{purpose}")

    def record(self) -> dict[str, Tensor]:
        """Return ``index``, ``agent`` and ``used``, int64 (E,) each."""
        return {"index": self.index, "agent": self.agent, "used": self.used}

    def attacks(self) -> float:
        """Return the number of attacks since :meth:`bind`."""
        return float(self._attacks)


class AttackerActions(Perturber):
    r"""Let :class:`Attackers` force agents: who is attacked plays the worst of its actions.

    ROMANCE-p of ATSA's tables [Zhou2025]_: the attack of [Yuan2023]_,
    :math:`\hat a^k = \arg\min_a Q^k(\tau^k, a)` over available actions by the team's own values
    (or logits) of what it saw. The learner is told what was intended.

    Records, as ``attackers``, int64 (E,) each: ``index``, whose episode it is; ``agent``, who is
    attacked, N for nobody; and ``used``, the attacks that there were before in the episode.

    Args:
        attackers: one of which plays in an episode, drawn by its random key.
        explore: whether they are smoothed, as in training.
        greedy: take their likeliest choice, or draw.
        episodes: share of the episodes in which there are attacks, in [0, 1].

    Raises:
        TypeError: for other attackers.
        ValueError: at ``bind`` for a team of other spaces, or one without values.

    Example:
        >>> from robustmarl import algorithms, envs, evaluation, joint
        >>> team = algorithms.QMIX.for_env(envs.ToyGame(), seed=0)
        >>> forced = AttackerActions(Attackers(joint.spec_of(envs.ToyGame()), budget=6))
        >>> played = evaluation.rollout(team, envs.ToyGame, episodes=2, perturb=forced)
        >>> played.counters["0/attacked"] <= 2 * 6
        True
    """

    kind = "attackers"
    act_told = "intended"

    def __init__(
        self,
        attackers: Attackers,
        *,
        explore: bool = False,
        greedy: bool = False,
        episodes: float = 1.0,
    ) -> None:
        choice = self._choice = _Choice(type(self).__name__, attackers, explore, greedy, episodes)
        self.attackers, self.explore = attackers, choice.explore
        self.greedy, self.episodes = choice.greedy, choice.episodes

    def bind(self, spec: TeamSpec, policy: Victim | None, place: Place) -> None:
        """Check that the team is the attackers', and has values; see :class:`Perturber`."""
        super().bind(spec, policy, place)
        rule, remedy = "a team with values or logits", "Scripts and random teams have none."
        check(policy is not None, f"{type(self).__name__}.policy", rule, policy, remedy)
        self._choice.bind(spec, place)

    @torch.no_grad()
    def on_obs(self, context: StepContext) -> Tensor:
        """Choose whom to attack; observations (E, N, D) stay as they are."""
        self._chosen = self._choice.of_step(context)
        return context.seen

    @torch.no_grad()
    def on_logits(self, context: StepContext, logits: Tensor) -> Tensor:
        """Find the worst actions; logits (E, N, A) stay as they are."""
        self._worst = _worst(logits, context.mask)
        return logits

    def on_act(self, context: StepContext, act: Tensor) -> Tensor:
        """Return the executed actions (E, N): the worst one of who is attacked."""
        return torch.where(self._chosen, self._worst, act)

    def record(self) -> Mapping[str, Tensor]:
        """Return ``index``, ``agent`` and ``used``, (E,) each."""
        return self._choice.record()

    def counters(self) -> dict[str, float]:
        """Return ``attacked``: agent-steps since ``bind``."""
        return {"attacked": self._choice.attacks()}


class AttackerObs(ObsPerturber):
    """Let :class:`Attackers` name agents, and a generator push these towards their worst actions.

    ROMANCE-s of ATSA's tables [Zhou2025]_: what :class:`AttackerActions` forces is only suggested
    here, through what the one agent sees; the others see the truth. It records the same.

    Args:
        attackers: one of which plays in an episode, drawn by its random key.
        generator: a gradient attack, :func:`~robustmarl.perturbers.stor` as a rule; its own
            target is replaced.
        explore: whether attackers are smoothed, as in training.
        greedy: take their likeliest choice, or draw.
        episodes: share of the episodes in which there are attacks, in [0, 1].

    Raises:
        TypeError: for attackers or a generator of another kind.
        ValueError: for a generator that cannot have a target action; at ``bind`` for a team of
            other spaces.

    Example:
        >>> from robustmarl import algorithms, budgets, envs, evaluation, perturbers
        >>> team = algorithms.QMIX.for_env(envs.ToyGame(), seed=0)
        >>> attackers = Attackers(team.spec, budget=6)
        >>> pushed = AttackerObs(attackers, perturbers.stor(budgets.LinfBall(epsilon=0.5)))
        >>> evaluation.rollout(team, envs.ToyGame, perturb=pushed).counters["0/attacked"] <= 600
        True
    """

    kind = "attackers"

    def __init__(
        self,
        attackers: Attackers,
        generator: GradientAttack,
        *,
        explore: bool = False,
        greedy: bool = False,
        episodes: float = 1.0,
    ) -> None:
        name = type(self).__name__
        choice = self._choice = _Choice(name, attackers, explore, greedy, episodes)
        remedy = "Write perturbers.stor(ball)."
        check_kind(f"{name}.generator", generator, GradientAttack, "a GradientAttack", remedy)
        named = generator.loss in (None, "margin", "cross_entropy")
        rule = "a named loss, 'margin' or 'cross_entropy', which takes a target action"
        check(named, f"{name}.generator.loss", rule, generator.loss)
        super().__init__(replace(generator, target=_worst_of_view), agents=attackers.agents)
        self.attackers, self.explore = attackers, choice.explore
        self.greedy, self.episodes = choice.greedy, choice.episodes

    def bind(self, spec: TeamSpec, policy: Victim | None, place: Place) -> None:
        """Check that the team is the attackers'; see :class:`Perturber`."""
        super().bind(spec, policy, place)
        self._choice.bind(spec, place)

    @torch.no_grad()
    def on_obs(self, context: StepContext) -> Tensor:
        """Choose whom to attack, and return observations (E, N, D) with that agent's moved."""
        self._chosen_agents = self._choice.of_step(context)
        return super().on_obs(context)

    def _chosen(self, context: StepContext, draws: Draws) -> Tensor:
        return self._chosen_agents

    def record(self) -> Mapping[str, Tensor]:
        """Return ``index``, ``agent`` and ``used``, (E,) each."""
        return self._choice.record()


def _worst(output: Tensor, mask: Tensor) -> Tensor:
    """Return the available action of the least output, (...,); both are (..., A)."""
    return output.masked_fill(~mask, torch.inf).argmin(dim=-1)


def _worst_of_view(view: VictimView, obs: Tensor) -> Tensor:
    """Return the victim's worst actions, (M,), by its own output of ``obs`` (M, D)."""
    return _worst(view.logits(obs), cast(Tensor, view.mask))
