"""Replace what one agent does while its team learns."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, cast

import torch
from torch import Tensor
from typing_extensions import override

from robustmarl._checks import check, check_choice, check_text, speaking_for
from robustmarl.attacks.poison.directions import PoisonAttack
from robustmarl.attacks.poison.view import PoisonView
from robustmarl.joint import MASKED, StepContext, TeamSpec, check_parallel
from robustmarl.perturbers.action_poison import ActionPoisonPerturber, PoisonedLearner, When
from robustmarl.perturbers.foreign import ForeignLearner
from robustmarl.typing import Actions, Env, Infos, Obs, Options, ResetResult, StepResult
from robustmarl.victims import Rated, VictimLike
from robustmarl.wrappers._episode import Episode, PerturbingWrapper, begun, sizes_of

__all__ = ["ActionPoisonWrapper"]


class ActionPoisonWrapper(PerturbingWrapper):
    r"""Execute one agent's action as drawn from :math:`\pi'_k` instead of the one submitted.

    The environment side of :class:`~robustmarl.perturbers.ActionPoisonPerturber`, with the same
    numbers: an episode reset with the seed of the collector's plays the same actions. At attacked
    steps the submitted action is dropped, exploration included; spaces, observations, rewards and
    the other agents' actions are those of ``env``.

    **What is stored must be what was executed.** ``infos[agent]`` of the attacked agent says after
    each step ``executed_action``, its log-probability under the clean policy ``clean_logp``,
    ``poisoned`` (whether this step was attacked), ``poison_kl`` in nats, and
    ``poison_log_likelihood``; a learner that stores its own action instead sees a change of the
    environment, which is another attack. Put this wrapper outermost: it must see what agents see.
    Above Byzantine play ``executed_action`` may be an adversary's; what a collector tells the
    learner is then ``intended_action``.

    Args:
        env: a parallel environment with discrete actions, of the learner's spaces.
        attack: see :class:`~robustmarl.perturbers.ActionPoisonPerturber`, as for all that follows.
        learner: the live algorithm that plays, or an algorithm or policy of Tianshou, whose
            actor cannot be asked for scores: a :class:`~robustmarl.attacks.RandomAttack` or a
            direction of your own poisons it. ``"training"`` is while it is within Tianshou's
            training step.
        agent: the attacked agent's name.
        attack_frequency: :math:`f_A` in [0, 1].
        kl_budget: :math:`KL^U` > 0, nats.
        when: ``"training"`` or ``"always"``.
        advantage_fn: for learners without advantages of their own.
        temperature: for value-based learners.

    Raises:
        TypeError: for an attack or learner of the wrong kind or without the advantages that the
            attack needs; when pickled.
        ValueError: for bad numbers, an agent that is not in ``env``, continuous actions, or an
            environment that is not the learner's.
        RuntimeError: for a step before the first reset.

    Note:
        ``reset(seed=s)`` starts the attack's own random numbers afresh; they are neither the
        environment's nor torch's.

    Example:
        >>> from robustmarl import algorithms, attacks, envs
        >>> team = algorithms.COMA.for_env(envs.ToyGame(), seed=0)
        >>> env = ActionPoisonWrapper(
        ...     envs.ToyGame(), attacks.RandomAttack(), learner=team, agent="agent_0", when="always"
        ... )
        >>> _ = env.reset(seed=0)
        >>> infos = env.step({"agent_0": 1, "agent_1": 1})[-1]
        >>> infos["agent_0"]["poisoned"]
        True
    """

    perturber: ActionPoisonPerturber

    def __init__(
        self,
        env: Env,
        attack: PoisonAttack | Callable[[PoisonView], Tensor],
        *,
        learner: PoisonedLearner | VictimLike,
        agent: str,
        attack_frequency: float = 1.0,
        kl_budget: float = 6.0,
        when: When = "training",
        advantage_fn: Callable[[StepContext], Tensor] | None = None,
        temperature: float | None = None,
    ) -> None:
        name = type(self).__name__
        check_parallel(f"{name}.env", env)
        spec = sizes_of(env)
        agent = check_text(f"{name}.agent", agent)
        check_choice(f"{name}.agent", agent, spec.agents)
        check(
            not spec.continuous, f"{name}.env", "of discrete actions: the attack shifts logits", env
        )
        learned = getattr(learner, "spec", None)
        if not hasattr(getattr(learner, "policy", None), "infer"):
            foreign = cast(VictimLike, learner)
            learner = cast(PoisonedLearner, ForeignLearner(f"{name}.learner", foreign, spec))
        elif isinstance(learned, TeamSpec):
            sizes = ("agents", "obs_sizes", "action_sizes", "state_size", "state_layout")
            same = all(getattr(spec, size) == getattr(learned, size) for size in sizes)
            check(same, f"{name}.env", "the learner's", spec.describe_difference(learned))
        with speaking_for(self, ActionPoisonPerturber):
            perturber = ActionPoisonPerturber(
                attack,
                learner=cast(PoisonedLearner, learner),
                agent=agent,
                attack_frequency=attack_frequency,
                kl_budget=kl_budget,
                when=when,
                advantage_fn=advantage_fn,
                temperature=temperature,
            )
        super().__init__(env, perturber)
        perturber.start(self.place)
        self.agent, self._spec, self._learner = agent, spec, perturber.learner
        policy: object = perturber.learner.policy
        self._rated = policy if isinstance(policy, Rated) else None
        self._device = perturber.learner.policy.device
        self._k = spec.agents.index(agent)
        self._episode = Episode(spec, self._device)
        self._hidden: Tensor | None = None
        self._context: StepContext | None = None

    @property
    def attack(self) -> PoisonAttack | Callable[[PoisonView], Tensor]:
        """The attack's settings."""
        return self.perturber.attack

    @override
    def reset(self, seed: int | None = None, options: Options | None = None) -> ResetResult:
        obs, infos = self._reset_env(seed, options)
        self._hidden = None
        self._look(obs, infos)
        return obs, infos

    @override
    def step(self, actions: Actions) -> StepResult:
        logits = self._infer()
        replaced = {}
        if self.agent in actions and bool(self.perturber.attacked[0]):
            replaced[self.agent] = int(self.perturber.act[0])
        obs, rewards, terminations, truncations, infos = self._step_env(actions, replaced)
        self._look(obs, infos)
        if self.agent in actions and self.agent in infos:
            report = self._report(logits)
            infos = {**infos, self.agent: {**infos[self.agent], **report}}
        return obs, rewards, terminations, truncations, infos

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} cannot be pickled or copied: a worker process refuses a live "
            "learner, whose weights would go stale there. Step the environments in this process, "
            "or pass an ActionPoisonPerturber to training.run or evaluation.rollout (perturb=...)."
        )

    def _look(self, obs: Obs, infos: Infos) -> None:
        living = self._roster.left
        self._context = self._episode.context(
            self.env, obs, infos, living=living, over=not living, hidden=self._hidden
        )

    @torch.no_grad()
    def _infer(self) -> Tensor:
        """Return the team's logits (1, N, A) in this step, of which the attack has drawn."""
        context = begun(f"{type(self).__name__}.step", self._context)
        output, self._hidden = self._learner.policy.infer(context)
        logits = output.masked_fill(~context.mask, MASKED)
        self.perturber.on_logits(context, logits)
        return logits

    @torch.no_grad()
    def _report(self, logits: Tensor) -> dict[str, float]:
        """Return what the attacked agent's info tells of the step that was played."""
        poison, executed = self.perturber, int(self.executed[self.agent])
        report: dict[str, float] = {
            "executed_action": executed,
            "poisoned": bool(poison.attacked[0]),
            "poison_kl": float(poison.kl[0]),
            "poison_log_likelihood": float(poison.log_likelihood[0]),
        }
        if self._rated is not None:
            act = torch.tensor([executed], device=self._device)
            report["clean_logp"] = float(self._rated.log_prob(logits[:, self._k], act)[0])
        return report
