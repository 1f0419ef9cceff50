"""Who is poisoned, when, and how much: TRAM in the loop that collects experience."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, cast, get_args

import torch
from torch import Tensor

from robustmarl._checks import all_finite, check, check_choice, check_names, check_number
from robustmarl._seeding import Draws, inverse, stream_id
from robustmarl.attacks.poison.budget import BSN1, log_likelihood, poison
from robustmarl.attacks.poison.directions import PoisonAttack
from robustmarl.attacks.poison.view import AdvantageFn, PoisonView
from robustmarl.joint import MASKED, StepContext, TeamSpec, rows_of
from robustmarl.networks import AgentNetwork, SeparateAgents
from robustmarl.perturbers.base import Perturber, Place
from robustmarl.perturbers.foreign import ForeignLearner
from robustmarl.policies import TeamPolicy
from robustmarl.victims import Rated, Victim

__all__ = ["ActionPoisonPerturber", "PoisonedLearner", "When"]

When = Literal["training", "always"]

_SATURATED = 2.0 ** (BSN1 - 1)
"""``poison`` scales by twice this where the budget cannot be used up, and never else."""


class PoisonedLearner(Protocol):
    """The live algorithm whose agent is poisoned; ``learning.TeamAlgorithm`` is one.

    Those with ``action_advantages(context, logits, act)``, like COMA and DOP, know the advantage
    of every own action; ``additive_advantages`` says whether the others' actions matter to it.
    """

    @property
    def policy(self) -> TeamPolicy:
        """Who plays."""

    @property
    def spec(self) -> TeamSpec:
        """The team's."""


class ActionPoisonPerturber(Perturber):
    r"""Draw one agent's actions from a policy near its own while the team learns [Wu2022]_.

    At an attacked step the agent's action is drawn from

    .. math:: \pi'_k = \mathrm{softmax}(l_k + \beta\hat\delta), \qquad
              KL(\pi'_k \,\|\, \pi_k) \le KL^U

    and the team's usual exploration acts afterwards. The learner is told the executed action, and
    its log-probability under its own policy. Observations, rewards, parameters and the other
    agents' draws are never touched; at the other steps, and in evaluation, nothing is.

    Records, as ``poison``, ``attacked`` bool (E,), ``kl`` and ``scale`` (E,), and
    ``log_likelihood`` (E,): :math:`\sum_a q(a) \log\pi(a)` with q the policy played, whose
    mean over steps estimates Eq. 3.

    Args:
        attack: the direction: a :class:`VarianceAttack`, :class:`JAttack`,
            :class:`RandomAttack`, or any callable of a :class:`PoisonView`.
        learner: the live algorithm that plays; asked anew each step.
        agent: the attacked agent's name.
        attack_frequency: :math:`f_A`, probability that a step is attacked, in [0, 1].
        kl_budget: :math:`KL^U` > 0, nats.
        when: ``"training"`` only, or ``"always"``: a frozen team in evaluation, too.
        advantage_fn: advantages or values of every agent's own actions, (E, N, A), of a step's
            context, for learners that have none. Centred here.
        temperature: of a softmax over Q-values, > 0: needed to poison value-based learners,
            which is our addition. At attacked steps the agent draws from the shifted softmax.

    Raises:
        TypeError: if ``attack`` or ``learner`` is of the wrong kind, or if the attack needs
            advantages and there are none.
        ValueError: for numbers out of range, continuous actions, an unknown agent, or a
            temperature that does not fit the learner; at ``bind`` for another learner's policy.

    Example:
        >>> from robustmarl import algorithms, attacks, envs, evaluation
        >>> team = algorithms.COMA.for_env(envs.ToyGame(), seed=0)
        >>> poison = ActionPoisonPerturber(
        ...     attacks.RandomAttack(), learner=team, agent="agent_0", kl_budget=0.1, when="always"
        ... )
        >>> counters = evaluation.rollout(team, envs.ToyGame, episodes=2, perturb=poison).counters
        >>> round(counters["0/kl"], 3)  # nats per step: the budget is used up
        0.1
    """

    kind = "poison"
    act_told = "executed"
    attacked: Tensor
    act: Tensor
    kl: Tensor
    scale: Tensor
    log_likelihood: Tensor
    _totals: list[float]

    def __init__(
        self,
        attack: PoisonAttack | Callable[[PoisonView], Tensor],
        *,
        learner: PoisonedLearner | ForeignLearner,
        agent: str,
        attack_frequency: float = 1.0,
        kl_budget: float = 6.0,
        when: When = "training",
        advantage_fn: Callable[[StepContext], Tensor] | None = None,
        temperature: float | None = None,
    ) -> None:
        name = type(self).__name__
        if not callable(attack) or isinstance(attack, type):
            raise TypeError(
                f"{name}.attack must be an attack or a callable of a PoisonView, got {attack!r}."
            )
        policy = getattr(learner, "policy", None)
        network = getattr(policy, "network", None)
        if isinstance(learner, ForeignLearner):
            if getattr(attack, "needs_advantages", False):
                raise TypeError(
                    f"{name}.learner must be a robustmarl algorithm for {attack!r}, which needs "
                    "the scores of its actor. Attack others by RandomAttack, or in a direction of "
                    "your own."
                )
        elif not isinstance(network, AgentNetwork | SeparateAgents):
            raise TypeError(
                f"{name}.learner must be a robustmarl algorithm, got {type(learner).__name__}. "
                "wrappers.ActionPoisonWrapper takes Tianshou's, too."
            )
        self.spec: TeamSpec = learner.spec
        rule = "of discrete actions: the attack shifts logits"
        check(not self.spec.continuous, f"{name}.learner", rule, "a Box of actions")
        if not isinstance(agent, str):
            raise TypeError(f"{name}.agent must be an agent's name, got {agent!r}.")
        check_names(f"{name}.agent", (agent,), self.spec.agents)
        self.attack, self.learner, self.agent = attack, learner, agent
        self.attack_frequency = check_number(f"{name}.attack_frequency", attack_frequency, 0.0, 1.0)
        self.kl_budget = check_number(
            f"{name}.kl_budget", kl_budget, 0.0, open_low=True, unit="nats"
        )
        check_choice(f"{name}.when", when, get_args(When))
        self.when = when
        self.advantage_fn = advantage_fn
        self.temperature = self._checked_temperature(temperature, isinstance(policy, Rated))
        self._advantage, self._additive = self._advantage_source(advantage_fn)
        if getattr(attack, "needs_advantages", False) and self._advantage is None:
            raise TypeError(
                f"{name}.learner must have the advantage of every own action for {attack!r}, got "
                f"{type(learner).__name__}, which has none. Use COMA or DOP, mix in "
                "algorithms.OwnActionValues, or give advantage_fn."
            )
        self._network = None if isinstance(learner, ForeignLearner) else network
        self._k = self.spec.agents.index(agent)
        self.start(Place(0, self.kind))

    def bind(self, spec: TeamSpec, policy: Victim | None, place: Place) -> None:
        """Check that the learner is who acts; see :class:`Perturber`."""
        super().bind(spec, policy, place)
        name = type(self).__name__
        difference = self.spec.describe_difference(spec)
        check(not difference, f"{name}.learner", "of the team that plays", difference)
        rule = "the algorithm whose policy plays"
        plays = policy is None or policy is self.learner.policy.victim()
        check(plays, f"{name}.learner", rule, self.learner)
        self.start(place)

    @property
    def active(self) -> bool:
        """Whether it would attack now."""
        if self.attack_frequency == 0.0:
            return False
        return self.when == "always" or bool(self.learner.policy.is_within_training_step)

    @torch.no_grad()
    def on_logits(self, context: StepContext, logits: Tensor) -> Tensor:
        """Return logits (E, N, A) with all mass on the drawn action at attacked steps."""
        self._note_no_attack(logits)
        if not self.active:
            return logits
        playing = context.acts(self._k)
        draws = Draws(context.keys).at(context.step, self._stream)
        chance, point = draws.uniform(2).unbind(1)
        self.attacked = playing & (chance < self.attack_frequency)
        soft = logits
        if self.temperature is not None:
            soft = (logits / self.temperature).masked_fill(~context.mask, MASKED)
        if self.attack_frequency < 1.0:  # else every figure is an attacked step's
            clean = torch.log_softmax(soft[:, self._k], dim=-1)
            self.log_likelihood = torch.where(playing, log_likelihood(clean, clean.exp()), 0.0)
        rows = self.attacked.nonzero()[:, 0]
        if len(rows) == 0:
            self._count(playing)
            return logits
        all_rows = len(rows) == len(logits)  # then nothing is copied
        view = self._view(context, soft, draws, None if all_rows else rows)
        found = poison(view.logits[:, self._k], view.mask, self._direction(view), self.kl_budget)
        act = inverse(found.policy, (point if all_rows else point[rows]).double())
        self.act = _replaced_in(self.act, rows, act)
        self.kl = _replaced_in(self.kl, rows, found.kl)
        self.scale = _replaced_in(self.scale, rows, found.scale)
        likelihood = log_likelihood(found.log_policy, found.policy)
        self.log_likelihood = _replaced_in(self.log_likelihood, rows, likelihood)
        self._count(playing, found.effective, found.scale > _SATURATED)
        logits = logits.clone()
        drawn = torch.full_like(view.policy, MASKED).scatter_(1, act.unsqueeze(1), 0.0)
        logits[slice(None) if all_rows else rows, self._k] = drawn
        return logits

    def _note_no_attack(self, logits: Tensor) -> None:
        """Note for every environment that nothing happened in this step."""
        envs, device = len(logits), logits.device
        self.attacked = torch.zeros(envs, dtype=torch.bool, device=device)
        self.act = torch.full((envs,), -1, dtype=torch.int64, device=device)
        self.kl, self.scale, self.log_likelihood = logits.new_zeros(3, envs)

    def _view(
        self, context: StepContext, logits: Tensor, draws: Draws, rows: Tensor | None
    ) -> PoisonView:
        """Return what the adversary knows of the attacked environments; None is all of them."""
        side = self.learner.policy.acted_on(context)
        if rows is not None:
            side = {name: values[rows] for name, values in side.items()}

        def attacked_draws() -> Draws:
            keys = draws.split(1).keys
            return Draws(keys if rows is None else keys[rows])

        return PoisonView(
            self._network,
            context if rows is None else rows_of(context, rows),
            logits if rows is None else logits[rows],
            self._k,
            attacked_draws,
            self._advantage,
            self._additive,
            side,
        )

    def _direction(self, view: PoisonView) -> Tensor:
        """Return the attack's direction, (R, A), checked."""
        direction = self.attack(view)
        got = tuple(direction.shape) if isinstance(direction, Tensor) else type(direction).__name__
        if got != (wanted := tuple(view.mask.shape)):
            raise ValueError(
                f"{self.attack!r} must return a direction of shape {wanted}, got {got}."
            )
        if not all_finite(direction):
            raise ValueError(f"{self.attack!r} must return finite directions, got {direction!r}.")
        return direction

    def record(self) -> dict[str, Tensor]:
        """Return ``attacked``, ``kl``, ``scale`` and ``log_likelihood``, (E,) each."""
        return {
            "attacked": self.attacked,
            "kl": self.kl,
            "scale": self.scale,
            "log_likelihood": self.log_likelihood,
        }

    def counters(self) -> dict[str, float]:
        """Return figures since ``bind``, over steps of the agent while it was to be attacked.

        ``attacked`` of ``steps``; ``ineffective`` of those without a direction, ``saturated``
        that could not use up the budget; the means ``kl`` over attacked steps and
        ``log_likelihood`` over all.
        """
        steps, attacked, ineffective, saturated, kl, likelihood = self._totals
        return {
            "steps": steps,
            "attacked": attacked,
            "ineffective": ineffective,
            "saturated": saturated,
            "kl": kl / max(attacked, 1.0),
            "log_likelihood": likelihood / max(steps, 1.0),
        }

    def _count(
        self, playing: Tensor, effective: Tensor | None = None, saturated: Tensor | None = None
    ) -> None:
        """Add a step to the figures of :meth:`counters`.

        Args:
            playing: environments in which the agent was to act, bool (E,).
            effective: of those attacked, where there was a direction, bool (R,); None of none.
            saturated: of those, where the budget could not be used up, bool (R,); None of none.
        """
        of_envs = [playing, self.attacked, self.kl, self.log_likelihood]
        sums = torch.stack([values.double() for values in of_envs]).sum(-1)
        steps, attacked, kl, likelihood = sums.tolist()
        ineffective = 0.0 if effective is None else float((~effective).sum())
        unused = 0.0 if saturated is None else float(saturated.sum())
        step = (steps, attacked, ineffective, unused, kl, likelihood)
        self._totals = [total + value for total, value in zip(self._totals, step, strict=True)]

    def start(self, place: Place) -> None:
        """Begin to count, and to draw, anew at ``place``."""
        self.place = place
        self._stream = stream_id(f"poison/{place.depth}")
        self._totals = [0.0] * 6
        self.attacked = torch.zeros(0, dtype=torch.bool)
        self.act = torch.zeros(0, dtype=torch.int64)
        self.kl = self.scale = self.log_likelihood = torch.zeros(0)

    def _checked_temperature(self, temperature: float | None, stochastic: bool) -> float | None:
        """Return the temperature, given if and only if the policy is not stochastic itself."""
        where = f"{type(self).__name__}.temperature"
        if stochastic:
            check(temperature is None, where, "left out for a stochastic policy", temperature)
            return None
        rule = "given for a value-based learner: its policy is a softmax over Q / temperature"
        check(temperature is not None, where, rule, temperature)
        return check_number(where, temperature, 0.0, open_low=True, unit="rewards")

    def _advantage_source(
        self, given: Callable[[StepContext], Tensor] | None
    ) -> tuple[AdvantageFn | None, bool]:
        """Return where advantages come from, and whether they ignore the others' actions."""
        if given is not None:
            where = f"{type(self).__name__}.advantage_fn"
            if not callable(given):
                raise TypeError(f"{where} must be a function of a StepContext, got {given!r}.")
            return lambda context, logits, act: _for_each_joint(
                _asked_advantages(where, given, context), act
            ), True
        if self.temperature is not None:
            return lambda context, logits, act: _for_each_joint(logits, act), True
        learned: AdvantageFn | None = getattr(self.learner, "action_advantages", None)
        return learned, bool(getattr(self.learner, "additive_advantages", True))


def _replaced_in(kept: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """Return ``kept`` (E,) with ``values`` (R,) in ``rows``."""
    values = values.to(kept)
    return values if len(rows) == len(kept) else kept.index_put((rows,), values)


def _for_each_joint(values: Tensor, act: Tensor) -> Tensor:
    """Return (K, R, N, A) of (R, N, A), K as in ``act``."""
    return values.unsqueeze(0).expand(len(act), *values.shape)


def _asked_advantages(
    where: str, function: Callable[[StepContext], Tensor], context: StepContext
) -> Tensor:
    """Return what a user's ``function`` answers, (R, N, A)."""
    found: object = function(context)
    got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
    wanted = tuple(context.mask.shape)
    check(got == wanted, where, f"a function that returns values of shape {wanted}", got)
    return cast(Tensor, found)
