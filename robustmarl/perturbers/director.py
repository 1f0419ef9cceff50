"""A director names an action for each agent, a generator moves what the agent sees towards it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from robustmarl._checks import check, check_choice, check_flag, check_kind, speaking_for
from robustmarl._seeding import Draws
from robustmarl.attacks.aimed import Target
from robustmarl.attacks.gradient import PGD, GradientAttack
from robustmarl.budgets import LinfBall
from robustmarl.joint import MASKED, StepContext, TeamSpec
from robustmarl.perturbers.base import Place
from robustmarl.perturbers.drawn import AttackedAgents
from robustmarl.perturbers.obs import ObsPerturber
from robustmarl.policies import ActorPolicy, TeamPolicy
from robustmarl.schedules import Schedule
from robustmarl.victims import Victim, VictimLike, VictimView

__all__ = ["DirectedObsPerturber", "stor"]


StorLoss = Literal["margin", "cross_entropy", "kl"]


def stor(
    ball: LinfBall,
    *,
    steps: int = 1,
    loss: StorLoss = "margin",
    continuous: bool = False,
    target: Target | None = None,
) -> PGD:
    r"""Return STor, ATSA's generator [Zhou2025]_, whose target a director sets.

    .. math:: \hat o = \Pi_{B_\epsilon(o)}\bigl(o + \beta\,\mathrm{sgn}\,\nabla_o
              [Q(o, \hat a) - Q(o, y)]\bigr)

    with :math:`\hat a` the action named and y the one that the victim takes anyway; where they are
    the same the observation stays clean. Exact for a victim that is linear in its observation.

    Of continuous actions the step lowers :math:`\|\mu(o) - \hat a\|^2`: along
    :math:`J_\mu^\top (\hat a - \mu)`, zero where :math:`\hat a` is what the victim does anyway. It
    has full length however near the target is; :class:`~robustmarl.attacks.FrankWolfe` comes as
    near as it can.

    Args:
        ball: what may change.
        steps: of :math:`\beta = \epsilon` if there is one, else of 2.5 epsilon / steps, with y the
            best other action at each, >= 1.
        loss: ``"margin"`` as above, the release's; ``"cross_entropy"`` raises
            :math:`\log \pi(\hat a \mid \hat o)`, also where the victim takes that action anyway;
            ``"kl"``, the paper's formula, lowers :math:`KL(\pi(\hat o) \| h)` from all that the
            director h would draw, so that it takes a director with a policy, one that stands
            still: what it draws changes nothing that is shown. Of continuous actions it is left
            as it is.
        continuous: whether it is called on victims of continuous actions. What plays a director
            sets this to what the team is.
        target: the action named: an index, or a vector in [-1, 1], with ``"kl"`` one of logits;
            or a rule from (view, clean observations (M, D)) to (M,) or (M, A) of them. None leaves
            it to a director.

    Raises:
        ValueError: for an unknown loss, another than the margin for continuous actions, or an index
            with ``"kl"``.

    Example:
        >>> from robustmarl.budgets import LinfBall
        >>> from robustmarl.victims import FunctionVictim
        >>> from dataclasses import replace
        >>> generator = replace(stor(LinfBall(epsilon=0.25)), target=1)  # the action to name
        >>> generator(FunctionVictim(lambda obs: obs).at(), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        tensor([[0.7500, 0.2500],
                [0.0000, 1.0000]])
    """
    boxes = check_flag("stor.continuous", continuous)
    check_choice("stor.loss", loss, get_args(StorLoss))
    check(not boxes or loss == "margin", "stor.loss", "left out for continuous actions", loss)
    indexed = loss == "kl" and isinstance(target, int)
    check(not indexed, "stor.target", "logits, or a rule that returns them, for 'kl'", target)
    if target is None:
        target = _nobodys if boxes or loss == "kl" else 0
    with speaking_for("stor", PGD):
        if boxes:
            return PGD(ball=ball, steps=steps, loss="mse", target=target)
        clean_if_own = loss == "margin"
        return PGD(ball=ball, steps=steps, loss=loss, target=target, clean_if_own=clean_if_own)


def _nobodys(view: VictimView, obs: Tensor) -> Tensor:
    """Stand for the target that a director sets."""
    rule, remedy = "set by a director, or given", "Write stor(ball, ..., target=...)."
    check(False, "stor.target", rule, None, remedy)
    return obs


class DirectedObsPerturber(ObsPerturber):
    r"""Let a director name actions, and a generator push the victims towards them.

    The director is a policy over the team's own actions. It sees clean observations, and in place
    of last actions its own last targets if its network has room for them; its memory is empty when
    an episode begins. The generator goes through whichever victim is under test. Directors of
    continuous actions name vectors in [-1, 1], and the generator lowers the squared distance.

    Records, as ``director``, ``target``, the actions named, (E, N) or (E, N, A); ``logp`` (E, N),
    if the director draws; and ``attacked``, whose observations the generator was given,
    bool (E, N).

    Args:
        director: whose actions are the targets; of a team with the same spaces.
        generator: a gradient attack, :func:`stor` as a rule; its own target is replaced, and for
            continuous actions its loss. One of loss ``"kl"`` is pulled towards all that the
            director would draw, which has to be an ``ActorPolicy``.
        explore: whether the director acts as in training, or as deployed.
        victim: whose outputs the generator queries; None is the acting policy itself.
        agents: names of the attacked agents; None is all.
        every: as of :class:`ObsPerturber`.
        probability: likewise.
        episodes: likewise.
        epsilon: likewise, the generator's radius over the training of the acting policy.

    Raises:
        TypeError: for a director or generator of another kind.
        ValueError: for a generator that cannot have a target action; at ``bind`` for a team of
            other spaces.

    Example:
        >>> from robustmarl import algorithms, budgets, envs, evaluation
        >>> team = algorithms.QMIX.for_env(envs.ToyGame(), seed=0)
        >>> director = algorithms.QMIX.for_env(envs.ToyGame(), seed=1).policy
        >>> directed = DirectedObsPerturber(director, stor(budgets.LinfBall(epsilon=0.5)))
        >>> evaluation.rollout(team, envs.ToyGame, episodes=2, perturb=directed).counters
        {'0/attacked': 400.0, '0/unchanged': 0.0}
    """

    kind = "director"

    def __init__(
        self,
        director: TeamPolicy,
        generator: GradientAttack,
        *,
        explore: bool = False,
        victim: VictimLike | None = None,
        agents: AttackedAgents = None,
        every: int = 1,
        probability: float = 1.0,
        episodes: float = 1.0,
        epsilon: float | Schedule | None = None,
    ) -> None:
        name = type(self).__name__
        check_kind(f"{name}.director", director, TeamPolicy, "a TeamPolicy")
        remedy = "Write perturbers.stor(ball)."
        check_kind(f"{name}.generator", generator, GradientAttack, "a GradientAttack", remedy)
        boxes = director.spec.continuous
        losses = ("margin", "mse") if boxes else ("margin", "cross_entropy", "kl")
        rule = f"a named loss, {' or '.join(map(repr, losses))}, which takes a target"
        check(generator.loss in (None, *losses), f"{name}.generator.loss", rule, generator.loss)
        rule = "'margin' or 'cross_entropy' for a director without a policy"
        known = generator.loss != "kl" or isinstance(director, ActorPolicy)
        check(known, f"{name}.generator.loss", rule, generator.loss)
        self.director, self.explore = director, check_flag(f"{name}.explore", explore)
        self._by_policy = generator.loss == "kl"
        aimed = replace(generator, target=self._targets_of_rows)
        if boxes:  # STor's margin of actions is a distance of vectors
            aimed = replace(aimed, loss="mse", clean_if_own=False)
        super().__init__(
            aimed,
            victim=victim,
            agents=agents,
            every=every,
            probability=probability,
            episodes=episodes,
            epsilon=epsilon,
        )
        kind = torch.float32 if boxes else torch.int64
        self.target = torch.zeros(0, *director.spec.action_shape(), dtype=kind)

    def bind(self, spec: TeamSpec, policy: Victim | None, place: Place) -> None:
        """Check that the director is of such a team; see :class:`ObsPerturber`."""
        given, wanted = (
            (team.obs_sizes, team.action_sizes, team.continuous)
            for team in (self.director.spec, spec)
        )
        rule = f"of a team with this one's spaces, {wanted}"
        check(given == wanted, f"{type(self).__name__}.director", rule, given)
        super().bind(spec, policy, place)
        self._hidden_of_director: Tensor | None = None
        self._last_target: Tensor | None = None
        self._logp: Tensor | None = None

    @property
    def bound_victim(self) -> Victim:
        """Whose outputs the generator queries; after ``bind``."""
        return self._victim

    @torch.no_grad()
    def on_obs(self, context: StepContext) -> Tensor:
        """Name actions, and return observations (E, N, D) moved towards them."""
        output, self._hidden_of_director = self.director.infer(self._directors(context))
        if not self.director.spec.continuous:
            output = output.masked_fill(~context.mask, MASKED)
        draws = context.draws(f"director/{self.place.depth}")
        self.target, self._logp = self.director.select(output, context.mask, draws, self.explore)
        self._last_target = self.target
        self._wanted = self._policy(output) if self._by_policy else self.target
        self._given = torch.zeros_like(context.observed)
        return super().on_obs(context)

    def perturbed(self, view: VictimView, obs: Tensor, draws: Draws) -> Tensor:
        """Return the attacked rows ``obs``, (M, D), moved towards their targets."""
        self._given = self.rows.attacked
        self._row_targets = self._fit.cut_actions(self.rows.pick(self._wanted))
        return super().perturbed(view, obs, draws)

    def record(self) -> Mapping[str, Tensor]:
        """Return ``target``, ``attacked``, and ``logp`` if the director draws, (E, N, ...) each."""
        kept = {"target": self.target, "attacked": self._given}
        return kept if self._logp is None else kept | {"logp": self._logp}

    def _targets_of_rows(self, view: VictimView, obs: Tensor) -> Tensor:
        """Return the targets of the rows that the generator is called on, (M,) or (M, A)."""
        return self._row_targets

    def _policy(self, output: Tensor) -> Tensor:
        """Return the logits (E, N, A) of what the director would do: one action if it is greedy."""
        greedy = isinstance(self.director, ActorPolicy) and self.director.deterministic_eval
        if self.explore or not greedy:
            return output
        return torch.full_like(output, MASKED).scatter(-1, self.target.unsqueeze(-1), 0.0)

    def _directors(self, context: StepContext) -> StepContext:
        """Return the step as the director lives it: clean, and with its own past."""
        begun, target, hidden = context.step == 0, self._last_target, self._hidden_of_director
        # nothing named yet: zeros of vectors, as agents without a last action have it
        empty = 0.0 if self.director.spec.continuous else -1
        if target is None or target.shape != context.last_act.shape:
            target, hidden = torch.full_like(context.last_act, empty), None
        target = torch.where(begun.view(-1, *[1] * (target.dim() - 1)), empty, target)
        if hidden is not None:
            hidden = torch.where(begun[:, None, None], 0.0, hidden)
        return replace(context, seen=context.obs, last_act=target, hidden=hidden)
