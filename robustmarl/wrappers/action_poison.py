"""Replace what one agent does while its team learns."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor
from typing_extensions import override

from robustmarl._checks import check, check_choice, check_text, speaking_for
from robustmarl.attacks.poison.directions import PoisonAttack
from robustmarl.attacks.poison.view import PoisonView
from robustmarl.joint import MASKED, StepContext, TeamSpec
from robustmarl.perturbers.action_poison import ActionPoisonPerturber, PoisonedLearner, When
from robustmarl.typing import Actions, Env, Infos, Obs, Options, ResetResult, StepResult
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

    Args:
        env: a parallel environment with discrete actions, of the learner's spaces.
        attack: see :class:`~robustmarl.perturbers.ActionPoisonPerturber`, as for all that follows.
        learner: the live algorithm that plays; ``"training"`` is while it is within Tianshou's
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
    """

    def __init__(
        self,
        env: Env,
        attack: PoisonAttack | Callable[[PoisonView], Tensor],
        *,
        learner: PoisonedLearner,
        agent: str,
        attack_frequency: float = 1.0,
        kl_budget: float = 6.0,
        when: When = "training",
        advantage_fn: Callable[[StepContext], Tensor] | None = None,
        temperature: float | None = None,
    ) -> None:
        name = type(self).__name__
        super().__init__(env, ActionPoisonPerturber.kind)
        spec = sizes_of(env)
        agent = check_text(f"{name}.agent", agent)
        check_choice(f"{name}.agent", agent, spec.agents)
        check(
            not spec.continuous, f"{name}.env", "of discrete actions: the attack shifts logits", env
        )
        learned = getattr(learner, "spec", None)
        if isinstance(learned, TeamSpec):
            sizes = ("agents", "obs_sizes", "action_sizes", "state_size", "state_layout")
            same = all(getattr(spec, size) == getattr(learned, size) for size in sizes)
            check(same, f"{name}.env", "the learner's", spec.describe_difference(learned))
        with speaking_for(self, ActionPoisonPerturber):
            self._poison = ActionPoisonPerturber(
                attack,
                learner=learner,
                agent=agent,
                attack_frequency=attack_frequency,
                kl_budget=kl_budget,
                when=when,
                advantage_fn=advantage_fn,
                temperature=temperature,
            )
        self._poison.start(self.place)
        self.agent, self._spec, self._learner = agent, spec, learner
        self._device = learner.policy.device
        self._k = spec.agents.index(agent)
        self._episode = Episode(spec, self._device)
        self._hidden: Tensor | None = None
        self._context: StepContext | None = None

    @property
    def attack(self) -> PoisonAttack | Callable[[PoisonView], Tensor]:
        """The attack's settings."""
        return self._poison.attack

    def counters(self) -> dict[str, float]:
        """Return figures since construction; see the perturber's."""
        return self._poison.counters()

    @override
    def reset(self, seed: int | None = None, options: Options | None = None) -> ResetResult:
        obs, infos = self.env.reset(seed=seed, options=options)
        self._episode.begin(seed)
        self._hidden = None
        self._look(obs, infos)
        return obs, infos

    @override
    def step(self, actions: Actions) -> StepResult:
        executed, report = self._draw(actions)
        obs, rewards, terminations, truncations, infos = self.env.step(executed)
        self._episode.advance(self._episode.encode(executed))
        self._look(obs, infos)
        if self.agent in executed and self.agent in infos:
            infos = {**infos, self.agent: {**infos[self.agent], **report}}
        return obs, rewards, terminations, truncations, infos

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} cannot be pickled or copied: a worker process refuses a live "
            "learner, whose weights would go stale there. Step the environments in this process, "
            "or pass an ActionPoisonPerturber to training.run or evaluation.rollout (perturb=...)."
        )

    def _look(self, obs: Obs, infos: Infos) -> None:
        living = self.env.agents
        self._context = self._episode.context(
            self.env, obs, infos, living=living, hidden=self._hidden
        )

    @torch.no_grad()
    def _draw(self, actions: Actions) -> tuple[Actions, dict[str, float]]:
        """Return the executed actions, and what the attacked agent's info tells of its own."""
        context = begun(f"{type(self).__name__}.step", self._context)
        poison, k = self._poison, self._k
        output, self._hidden = self._learner.policy.infer(context)
        logits = output.masked_fill(~context.mask, MASKED)
        poison.on_logits(context, logits)
        if self.agent not in actions:
            return actions, {}
        attacked = bool(poison.attacked[0])
        if attacked:
            actions = {**actions, self.agent: int(poison.act[0])}
        executed = int(actions[self.agent])
        report: dict[str, float] = {
            "executed_action": executed,
            "poisoned": attacked,
            "poison_kl": float(poison.kl[0]),
            "poison_log_likelihood": float(poison.log_likelihood[0]),
        }
        log_prob = getattr(self._learner.policy, "log_prob", None)
        if log_prob is not None:
            act = torch.tensor([executed], device=self._device)
            report["clean_logp"] = float(log_prob(logits[:, k], act)[0])
        return actions, report
