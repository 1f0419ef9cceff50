"""ROMANCE: an archive of attackers that are strong and unlike, with few attacks per episode."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any, Self, TypedDict

import torch
from tianshou.algorithm.optim import OptimizerFactory
from torch import Tensor

from robustmarl._checks import (
    check,
    check_int,
    check_kind,
    check_number,
    check_usable,
    speaking_for,
)
from robustmarl._seeding import generator as seeded_generator
from robustmarl.adversaries.archive import Archive, jensen_shannon
from robustmarl.adversaries.base import Adversary, Sample
from robustmarl.attacks.gradient import GradientAttack
from robustmarl.joint import JointBatch, TeamSpec, at_actions
from robustmarl.learning.base import team_spec
from robustmarl.learning.making import remembered
from robustmarl.learning.optim import adam
from robustmarl.learning.returns import masked_mean
from robustmarl.learning.settings import check_settings, take
from robustmarl.perturbers.attacker_perturbers import AttackerActions, AttackerObs
from robustmarl.perturbers.attackers import (
    Attackers,
    reference_policy,
    soft_backup,
)
from robustmarl.schedules import Linear, Schedule, as_schedule
from robustmarl.typing import Env

__all__ = ["ROMANCE"]

# Both fall over the first hundred generations; all four numbers are the release's.
_RENEWED = Linear(0.4, 0.05, over=100)
_TOLERANCE = Linear(0.9, 0.5, over=100)


class AttackerSettings(TypedDict, total=False):
    """Keywords of :class:`~robustmarl.perturbers.Attackers` beside team, number and seed."""

    budget: int
    agents: Collection[str] | None
    hidden: tuple[int, ...]
    rate: float
    soft: float
    floor: float | None


class ROMANCE(Adversary):
    r"""ROMANCE's attackers [Yuan2023]_: few attacks in an episode, and many kinds of attacker.

    A population of attackers, one of which plays in an episode, learns by soft Q-learning on the
    team's reward turned, less what an attack costs, to attack when it pays, and to differ:

    .. math:: y = -r - c\,1[k \ne null] + \gamma\,\lambda \log \sum_k p_{ref}(k)\,
              e^{\bar Q_j(s', k) / \lambda}, \qquad
              L = \overline{(Q_j(s, k) - y)^2} - \beta\, JSD(\tilde\pi_1, \ldots, \tilde\pi_J)

    All of them learn from all episodes that the team drew for itself. Rounds of new episodes make
    a generation, in the first half of which they learn. At its end an :class:`Archive` takes those
    that are new or strong; the next population is drawn from it by strength, and some of it begins
    anew. After ``generations`` nobody learns, and populations are drawn from the archive alone.

    Args:
        attackers: the population.
        generator: pushes victims towards their worst actions, ``perturbers.stor(ball)``: ROMANCE-s
            of ATSA's tables; None forces the actions, the source's attack, their ROMANCE-p.
        episodes: share of the episodes in which there are attacks while they learn, in [0, 1].
        epsilon: the generator's radius >= 0 over the training of the team; None is its own, as
            it must be where there is none.
        archive: how many attackers are kept, >= 1; this and the following are the release's.
        generations: in which they learn, >= 0.
        rounds: of new episodes in a generation, >= 1.
        optim: optimizer factory; None is Adam at 2e-4, where the release has RMSprop.
        gamma: discount in [0, 1].
        attack_cost: c >= 0, in units of the reward.
        diversity: :math:`\beta` >= 0.
        target_rate: by which target networks follow at an update, in (0, 1].
        max_grad_norm: global norm at which gradients are clipped, > 0, or None.

    Example:
        >>> from robustmarl import algorithms, envs, training
        >>> team = algorithms.QMIX.for_env(envs.ToyGame(horizon=5), seed=0)
        >>> adversary = ROMANCE.for_env(envs.ToyGame(horizon=5), attackers=2, seed=1)
        >>> both = training.AdversarialTraining(team, adversary)
        >>> quiet = training.Log(progress=False)
        >>> few = training.OffPolicy(batch_size=8, learning_starts=8)
        >>> settings = {"env_steps": 100, "learn": few, "log": quiet}
        >>> training.run(both, lambda: envs.ToyGame(horizon=5), **settings).episodes
        20
    """

    needs = frozenset({"drawn"})
    earned: Tensor
    played: Tensor
    points: Tensor
    counts: Tensor
    round: Tensor
    generation: Tensor

    def __init__(
        self,
        attackers: Attackers,
        generator: GradientAttack | None = None,
        *,
        episodes: float = 1.0,
        epsilon: float | Schedule | None = None,
        archive: int = 15,
        generations: int = 500,
        rounds: int = 6,
        optim: OptimizerFactory | None = None,
        gamma: float = 0.99,
        attack_cost: float = 0.5,
        diversity: float = 1.2,
        target_rate: float = 0.005,
        max_grad_norm: float | None = 5.0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_kind(f"{name}.attackers", attackers, Attackers, "Attackers")
        self.attackers, self._generator = attackers, generator
        self.episodes = check_number(f"{name}.episodes", episodes, 0.0, 1.0)
        self.generations = check_int(f"{name}.generations", generations, 0)
        self.rounds = check_int(f"{name}.rounds", rounds)
        self.gamma = check_number(f"{name}.gamma", gamma, 0.0, 1.0)
        self.attack_cost = check_number(f"{name}.attack_cost", attack_cost, 0.0)
        self.diversity = check_number(f"{name}.diversity", diversity, 0.0)
        self.target_rate = check_number(f"{name}.target_rate", target_rate, 0.0, 1.0, open_low=True)
        self.lagged = copy.deepcopy(attackers).requires_grad_(False)
        self.archive = Archive(attackers, check_int(f"{name}.archive", archive))
        rule = "None where actions are forced: these have no radius"
        check(generator is not None or epsilon is None, f"{name}.epsilon", rule, epsilon)
        self.epsilon = None if epsilon is None else as_schedule(f"{name}.epsilon", epsilon, 0.0)
        self._perturber = self._playing(
            attackers, explore=True, greedy=False, episodes=self.episodes, epsilon=epsilon
        )
        number, most = attackers.number, self.archive.most
        for counter in ("round", "generation"):
            self.register_buffer(counter, torch.zeros((), dtype=torch.int64))
        self.register_buffer("earned", torch.zeros(number))
        self.register_buffer("played", torch.zeros(number, dtype=torch.int64))
        self.register_buffer("points", torch.zeros(number, most, attackers.features))
        self.register_buffer("counts", torch.zeros(number, dtype=torch.int64))
        self.optim = self.create_optimizer(attackers, optim or adam(2e-4), max_grad_norm)
        self.to(attackers.layers[0].device)

    @classmethod
    @remembered
    def for_env(
        cls,
        env: Env | TeamSpec,
        generator: GradientAttack | None = None,
        *,
        attackers: int = 4,
        team: str | None = None,
        device: torch.device | str = "cpu",
        seed: int = 0,
        **settings: Any,
    ) -> Self:
        """Return the adversary with networks of the right sizes for ``env``'s ``team``.

        Args:
            env: an environment, or a spec.
            generator: ``perturbers.stor(ball)`` for attacks on observations, ROMANCE-s; None for
                forced actions, ROMANCE-p.
            attackers: how many are in a population, >= 1.
            team: whom of several teams it attacks.
            device: where it learns.
            seed: of all weights, and of what is drawn between generations.
            settings: of the class, and of :class:`~robustmarl.perturbers.Attackers`.
        """
        name = cls.__name__
        check_settings(cls, settings, AttackerSettings)
        spec, device = team_spec(name, env, team), check_usable(f"{name}.device", device)
        number = check_int(f"{name}.attackers", attackers)
        of_attackers = take(settings, AttackerSettings)
        with speaking_for(name, Attackers):
            population = Attackers(spec, number=number, seed=seed, **of_attackers)
        return cls(population.to(device), generator, **settings)

    @property
    def learning(self) -> bool:
        """Whether attackers learn in the present round, or the team alone does."""
        first_half = int(self.round) <= (self.rounds + 1) // 2
        return int(self.generation) < self.generations and first_half

    def perturber(self) -> AttackerActions | AttackerObs:
        """Return what plays while they learn: one of the population in an episode."""
        return self._perturber

    def deployed(self, greedy: bool | None = None) -> AttackerActions | AttackerObs:
        """Return a copy of the population at work: by draws unless ``greedy``, not smoothed.

        It attacks in every episode, whatever share of them it learned from.
        """
        copied = copy.deepcopy(self.attackers).requires_grad_(False)
        return self._playing(copied, explore=False, greedy=bool(greedy))

    def can_learn(self, sample: Sample) -> bool:
        """Return whether there are any episodes: new ones are a round even if none was drawn."""
        return sample.fresh is not None or sample.drawn is not None

    def learn(self, sample: Sample) -> Mapping[str, float]:
        """Learn from the episodes that the team drew, and go by the newest; see the class."""
        for batch in (sample.fresh, sample.drawn):
            where, remedy = f"{type(self).__name__}.learn.sample", "Collect with its perturber()."
            played = batch is None or "agent" in self.recorded(batch)
            check(played, where, "of episodes that it played in", "others", remedy)
        if sample.fresh is not None:
            self._witness(sample.fresh)
            if int(self.round) == self.rounds:
                self._evolve()
            self.round += 1
        figures: dict[str, float] = {}
        if sample.drawn is not None and self.learning:
            figures = self._update(sample.drawn)
        self.step_schedulers()
        return figures | {"generation": float(self.generation), "archive": float(len(self.archive))}

    def _playing(
        self,
        attackers: Attackers,
        *,
        explore: bool,
        greedy: bool,
        episodes: float = 1.0,
        epsilon: float | Schedule | None = None,
    ) -> AttackerActions | AttackerObs:
        """Return what attacks by ``attackers`` in a share of the episodes."""
        if self._generator is None:
            return AttackerActions(attackers, explore=explore, greedy=greedy, episodes=episodes)
        with speaking_for(self, AttackerObs):
            return AttackerObs(
                attackers,
                self._generator,
                explore=explore,
                greedy=greedy,
                episodes=episodes,
                epsilon=epsilon,
            )

    def _update(self, batch: JointBatch) -> dict[str, float]:
        """Take a step of soft Q-learning and towards diversity, and return figures by name."""
        record, own, lagged = self.recorded(batch), self.attackers, self.lagged
        agent, used, obs = record["agent"], record["used"], batch.obs
        attacked = (agent < own.spec.num_agents) & batch.valid
        seen, able = own.seen(obs.state[:, :-1], used), own.able(obs.alive[:, :-1], used)
        q = own(seen)
        with torch.no_grad():
            later = used + attacked
            reference = reference_policy(own.able(obs.alive[:, 1:], later), own.rate)
            value = soft_backup(lagged(own.seen(obs.state[:, 1:], later)), reference, own.soft)
            reward = -batch.rew - self.attack_cost * attacked
            y = reward + self.gamma * batch.bootstrap * value
        taken = at_actions(q, agent.expand(q.shape[:-1]))
        loss = td_loss = masked_mean((taken - y).square(), batch.valid.expand(y.shape))
        figures = {"td_loss": td_loss.detach()}
        if self.diversity > 0.0 and own.number > 1:
            unlike = jensen_shannon(own.policies(q, able, explore=True))
            # Two thirds of the points are those of attacks, as in the release.
            others = batch.valid & ~attacked & able[..., :-1].any(dim=-1)
            jsd = (2.0 * masked_mean(unlike, attacked) + masked_mean(unlike, others)) / 3.0
            figures["diversity"] = jsd.detach()
            loss = loss - self.diversity * jsd
        self.optim.step(loss)
        with torch.no_grad():
            for slow, fast in zip(lagged.parameters(), own.parameters(), strict=True):
                slow.lerp_(fast, self.target_rate)
        figures["attacks"] = attacked.sum() / len(batch)
        values = torch.stack(list(figures.values())).tolist()
        return dict(zip(figures, values, strict=True))

    @torch.no_grad()
    def _witness(self, batch: JointBatch) -> None:
        """Note what each attacker of the population left of the team's return, and where."""
        record = self.recorded(batch)
        index, used = record["index"][:, 0], record["used"]
        returns = torch.where(batch.valid, batch.rew, 0.0).sum(dim=1)
        attacked = (record["agent"] < self.attackers.spec.num_agents) & batch.valid
        seen = self.attackers.seen(batch.obs.state[:, :-1], used)
        for number in range(self.attackers.number):
            own = index == number
            self.earned[number] += returns[own].sum()
            self.played[number] += own.sum()
            points = seen[own][attacked[own]][: self.archive.most - int(self.counts[number])]
            begin = int(self.counts[number])
            self.points[number, begin : begin + len(points)] = points
            self.counts[number] += len(points)

    @torch.no_grad()
    def _evolve(self) -> None:
        """End a generation: fill the archive, and draw the next population from it."""
        generation, own = int(self.generation), self.attackers
        draws = seeded_generator(own.seed, "romance", generation)
        learned = generation < self.generations
        if learned:
            for number in (self.played > 0).nonzero()[:, 0].tolist():
                self.archive.add(
                    own,
                    number,
                    points=self.points[number, : self.counts[number]],
                    returned=float(self.earned[number] / self.played[number]),
                    tolerance=_TOLERANCE(generation),
                    chance=float(torch.rand((), generator=draws)),
                )
        if len(self.archive) > 0:
            for number, kept in enumerate(self.archive.draw(own.number, draws)):
                own.take(number, self.archive.kept, kept)
                if learned and float(torch.rand((), generator=draws)) < _RENEWED(generation):
                    own.renew(number, "romance", generation, number)
        self.lagged.load_state_dict(own.state_dict())
        self.optim.load_state_dict(self.optim.state_dict() | {"state": {}})  # it begins anew
        for tally in (self.earned, self.played, self.counts, self.round):
            tally.zero_()
        self.generation += 1
