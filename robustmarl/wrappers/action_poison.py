"""Replace what one agent does while its team learns."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np
import torch
from pettingzoo.utils import BaseParallelWrapper
from torch import Tensor
from typing_extensions import override

from robustmarl._checks import check
from robustmarl._seeding import episode_key
from robustmarl.attacks.action_poison import ActionPoisonPerturber, When
from robustmarl.attacks.base import StepContext
from robustmarl.attacks.tram import PoisonAttack, PoisonView
from robustmarl.spec import TeamSpec, describe, spec_of, split_obs
from robustmarl.typing import Env
from robustmarl.victims import MASKED

__all__ = ["ActionPoisonWrapper"]


class ActionPoisonWrapper(BaseParallelWrapper[str, Any, Any]):
    r"""Execute one agent's action as drawn from :math:`\pi'_k` instead of the one submitted.

    The environment side of :class:`~robustmarl.attacks.ActionPoisonPerturber`, with the same
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
        attack: see :class:`~robustmarl.attacks.ActionPoisonPerturber`, as for all that follows.
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

    Note:
        ``reset(seed=s)`` starts the attack's own random numbers afresh; they are neither the
        environment's nor torch's.
    """

    def __init__(
        self,
        env: Env,
        attack: PoisonAttack | Callable[[PoisonView], Tensor],
        *,
        learner: Any,
        agent: str,
        attack_frequency: float = 1.0,
        kl_budget: float = 6.0,
        when: When = "training",
        advantage_fn: Callable[[StepContext], Tensor] | None = None,
        temperature: float | None = None,
    ) -> None:
        name = type(self).__name__
        super().__init__(env)
        spec = spec_of(describe(env, team_reward="sum", horizon=1))  # of sizes only
        known = agent in spec.agents
        check(known, f"{name}.agent", f"one of {list(spec.agents)}", agent)
        check(
            not spec.continuous, f"{name}.env", "of discrete actions: the attack shifts logits", env
        )
        own = getattr(learner, "spec", None)
        if isinstance(own, TeamSpec):
            sizes = ("agents", "obs_sizes", "action_sizes", "state_size", "state_layout")
            same = all(getattr(spec, size) == getattr(own, size) for size in sizes)
            check(same, f"{name}.env", "the learner's", spec.describe_difference(own))
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
        self.agent, self._spec, self._learner = agent, spec, learner
        self._device = learner.policy.device
        self._k = spec.agents.index(agent)
        self._seed, self._episode, self._step = secrets.randbits(63), -1, 0
        self._hidden: Tensor | None = None
        self._last_act = torch.full((1, spec.num_agents), -1, device=self._device)
        self._context: StepContext | None = None

    @property
    def attack(self) -> PoisonAttack | Callable[[PoisonView], Tensor]:
        """The attack's settings."""
        return self._poison.attack

    def counters(self) -> dict[str, float]:
        """Return figures since construction; see the perturber's."""
        return self._poison.counters()

    @override
    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        obs, infos = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._seed, self._episode = seed, -1
        self._episode, self._step = self._episode + 1, 0
        self._hidden = None
        self._last_act = torch.full_like(self._last_act, -1)
        self._context = self._context_of(obs, infos)
        return obs, infos

    @override
    def step(
        self, actions: dict[str, Any]
    ) -> tuple[
        dict[str, Any],
        dict[str, float],
        dict[str, bool],
        dict[str, bool],
        dict[str, dict[str, Any]],
    ]:
        executed, found = self._draw(actions)
        obs, rewards, terminations, truncations, infos = self.env.step(executed)
        self._step += 1
        last = [int(executed.get(name, 0)) for name in self._spec.agents]
        self._last_act = torch.tensor([last], device=self._device)
        self._context = self._context_of(obs, infos) if self.env.agents else None
        if self.agent in executed and self.agent in infos:
            infos = {**infos, self.agent: {**infos[self.agent], **found}}
        return obs, rewards, terminations, truncations, infos

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} cannot be pickled or copied: a worker process refuses a live "
            "learner, whose weights would go stale there. Step the environments in this process, "
            "or pass an ActionPoisonPerturber to the collector (perturb=[...])."
        )

    @torch.no_grad()
    def _draw(self, actions: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the executed actions, and what the attacked agent's info tells of its own."""
        context, poison, k = self._context, self._poison, self._k
        assert context is not None  # PettingZoo: reset comes first
        network = self._learner.policy.network
        ids = torch.arange(self._spec.num_agents, device=self._device)
        extra = network.extra(ids, context.last_act)
        output, self._hidden = network.step(context.seen, extra, context.hidden)
        logits = output.masked_fill(~context.mask, MASKED)
        poison.on_logits(context, logits)
        if self.agent not in actions:
            return actions, {}
        attacked = bool(poison.attacked[0])
        if attacked:
            actions = {**actions, self.agent: int(poison.act[0])}
        found = {
            "executed_action": int(actions[self.agent]),
            "poisoned": attacked,
            "poison_kl": float(poison.kl[0]),
            "poison_log_likelihood": float(poison.log_likelihood[0]),
        }
        log_prob = getattr(self._learner.policy, "log_prob", None)
        if log_prob is not None:
            act = torch.tensor([found["executed_action"]], device=self._device)
            found["clean_logp"] = float(log_prob(logits[:, k], act)[0])
        return actions, found

    def _context_of(
        self, obs: Mapping[str, Any], infos: Mapping[str, Mapping[str, Any]]
    ) -> StepContext:
        spec = self._spec
        rows = np.zeros((1, spec.num_agents, spec.obs_size), dtype=np.float32)
        mask = np.zeros((1, spec.num_agents, spec.num_actions), dtype=bool)
        alive = np.zeros((1, spec.num_agents), dtype=bool)
        for i, agent in enumerate(spec.agents):
            alive[0, i] = agent in self.env.agents
            row, available = split_obs(obs[agent]) if agent in obs else (0.0, None)
            rows[0, i, : spec.obs_sizes[i]] = row
            if not alive[0, i]:
                mask[0, i, 0] = True
                continue
            if available is None:
                available = infos.get(agent, {}).get("action_mask")
            mask[0, i, : spec.action_sizes[i]] = True if available is None else available
        if spec.state_layout == "concatenated":
            state = np.concatenate([rows[0, i, :size] for i, size in enumerate(spec.obs_sizes)])
        else:
            state = np.asarray(self.env.state(), dtype=np.float32)
        seen = torch.from_numpy(rows).to(self._device)
        one = torch.ones(1, dtype=torch.bool, device=self._device)
        return StepContext(
            obs=seen,
            seen=seen,
            mask=torch.from_numpy(mask).to(self._device),
            state=torch.from_numpy(state[None]).to(self._device),
            alive=torch.from_numpy(alive).to(self._device),
            last_act=self._last_act,
            hidden=self._hidden,
            step=torch.tensor([self._step], device=self._device),
            keys=torch.tensor([episode_key(self._seed, self._episode)], device=self._device),
            live=one,
            terminal=~one,
        )
