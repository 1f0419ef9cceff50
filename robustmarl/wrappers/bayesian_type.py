"""Teammates that may secretly be Byzantine, as a Bayesian game."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from gymnasium.spaces import Box, Dict
from torch import Tensor
from typing_extensions import override

from robustmarl._checks import speaking_for
from robustmarl.joint import StepContext, split_obs
from robustmarl.joint.boxes import in_box
from robustmarl.perturbers.byzantine import ByzantinePerturber, Slots
from robustmarl.perturbers.traitors import AdversaryLike
from robustmarl.perturbers.types import TypeDistribution
from robustmarl.typing import (
    Actions,
    AnySpace,
    Env,
    Infos,
    Obs,
    Options,
    ResetResult,
    StepResult,
    Values,
)
from robustmarl.wrappers._episode import Episode, PerturbingWrapper, begun, sizes_of

__all__ = ["BayesianTypeWrapper"]


class BayesianTypeWrapper(PerturbingWrapper):
    r"""Execute an adversary's actions in place of those of Byzantine agents [Li2024]_.

    The environment side of :class:`~robustmarl.perturbers.ByzantinePerturber`, with the same
    numbers: an episode reset with the seed of the collector's has the same types and actions.
    Types :math:`\theta \in \{0, 1\}^N` are drawn at reset and kept to the episode's end. Other
    agents' actions, and everything at :math:`\theta = 0`, pass unchanged. Rewards, terminations
    and the state are those of ``env``.

    On request N slots are appended to every observation, in the order of ``possible_agents``:
    ``"zeros"``, the types (``"truth"``, an oracle's), or a ``"belief"`` about each agent, itself
    included. Otherwise observations do not depend on the types.

    ``infos[agent]`` says ``types`` (bool, N) and ``byzantine``, and after a step
    ``intended_action`` and ``executed_action``. They are for audits and labels: a defender that
    reads them is an oracle.

    Args:
        env: a parallel environment.
        adversary: see :class:`~robustmarl.perturbers.ByzantinePerturber`. It observes what ``env``
            shows, or ``infos[agent]["clean_obs"]`` where an observation attack lies beneath.
        types: who is Byzantine, and how often; None is one agent in half of the episodes.
        slots: what is appended to observations.
        belief: for ``slots="belief"``, a belief network or a team that has one, asked live.

    Raises:
        TypeError: for an adversary or types of the wrong kind; when pickled or copied with an
            adversary that is neither random nor a function, or with beliefs.
        ValueError: for unknown agents, more Byzantine agents than agents, an adversary with other
            spaces, or a belief asked of a team without a belief network.
        RuntimeError: for a step, or a question for the types, before the first reset.

    Note:
        ``reset(seed=s)`` starts the attack's own random numbers afresh; they depend on ``s``, the
        number of episodes since, the step and the depth in the stack.

    Example:
        >>> from robustmarl import envs, perturbers
        >>> traitor = perturbers.TypeDistribution(1.0, choice="fixed", agents=["agent_0"])
        >>> env = BayesianTypeWrapper(envs.ToyGame(), lambda context, act: 0 * act, types=traitor)
        >>> _ = env.reset(seed=0)
        >>> infos = env.step({"agent_0": 1, "agent_1": 1})[-1]
        >>> infos["agent_0"]["byzantine"], infos["agent_0"]["executed_action"]
        (True, 0)
    """

    perturber: ByzantinePerturber

    def __init__(
        self,
        env: Env,
        adversary: AdversaryLike,
        *,
        types: TypeDistribution | None = None,
        slots: Slots = "none",
        belief: object = None,
    ) -> None:
        with speaking_for(self, ByzantinePerturber):
            perturber = ByzantinePerturber(adversary, types=types, slots=slots, belief=belief)
        super().__init__(env, perturber)
        self._spec = sizes_of(env)
        with speaking_for(self, ByzantinePerturber):
            perturber.bind(self._spec, None, self.place)
        policy = getattr(perturber.adversary, "policy", None)
        self._device = torch.device(getattr(policy, "device", "cpu"))
        self._episode = Episode(self._spec, self._device)
        self._context: StepContext | None = None
        self._spaces = {agent: self._widened(agent) for agent in self._spec.agents}

    @property
    def types(self) -> Values:
        """The types of the episode, bool (N,)."""
        begun(f"{type(self).__name__}.types", self._context)
        return self.perturber.drawn_types[0].cpu().numpy()

    @override
    def observation_space(self, agent: str) -> AnySpace:
        return self._spaces[agent]

    @override
    def reset(self, seed: int | None = None, options: Options | None = None) -> ResetResult:
        return self._look(*self._reset_env(seed, options))

    @override
    def step(self, actions: Actions) -> StepResult:
        replaced = self._replaced(actions)
        obs, rewards, terminations, truncations, infos = self._step_env(actions, replaced)
        obs, infos = self._look(obs, infos)
        for agent, info in infos.items():
            if agent in actions:
                info["intended_action"] = actions[agent]
                info["executed_action"] = self.executed[agent]
        return obs, rewards, terminations, truncations, infos

    def __getstate__(self) -> dict[str, Any]:
        if not self.perturber.asks_networks:
            return self.__dict__
        raise TypeError(
            f"{type(self).__name__} cannot be pickled or copied with networks: a worker process "
            "refuses a live adversary, whose weights would go stale there. Step the environments "
            "in this process, or pass a ByzantinePerturber to training.run or evaluation.rollout "
            "(perturb=...)."
        )

    def _look(self, obs: Obs, infos: Infos) -> ResetResult:
        """Return observations with slots and infos with types; remember the step."""
        living = self._roster.left
        context = self._context = self._episode.context(
            self.env, obs, infos, living=living, over=not living
        )
        self.perturber.on_obs(context)
        self.perturber.shown(context)
        assert context.types is not None  # on_obs adds its own to those of wrappers below
        types = context.types[0].cpu().numpy()
        byzantine = dict(zip(self._spec.agents, types.tolist(), strict=True))
        infos = {
            agent: {**infos.get(agent, {}), "types": types.copy(), "byzantine": byzantine[agent]}
            for agent in obs
        }
        if self.perturber.shown_slots is None:
            return obs, infos
        values = self.perturber.shown_slots[0].cpu().numpy()
        slots = dict(zip(self._spec.agents, values, strict=True))
        wide = {agent: _appended(raw, slots[agent]) for agent, raw in obs.items()}
        for agent, raw in obs.items():
            clean = infos[agent].get("clean_obs")
            if clean is not None and np.shape(clean) == np.shape(split_obs(raw)[0]):
                infos[agent]["clean_obs"] = _appended(clean, slots[agent])  # as it is of ``raw``
        return wide, infos

    def _replaced(self, actions: Actions) -> Actions:
        """Return the actions of those who are Byzantine, as the environment has them."""
        context = begun(f"{type(self).__name__}.step", self._context)
        played = self.perturber.on_act(context, self._episode.encode(actions))
        byzantine = self.perturber.byzantine(context)[0].tolist()
        return {
            agent: self._to_env(i, played[0, i])
            for i, agent in enumerate(self._spec.agents)
            if byzantine[i] and agent in actions
        }

    def _to_env(self, i: int, act: Tensor) -> int | Values:
        if not self._spec.continuous:
            return int(act)
        box = cast(Box, self.env.action_space(self._spec.agents[i]))
        return in_box(act.cpu().numpy()[: self._spec.action_sizes[i]], box)

    def _widened(self, agent: str) -> AnySpace:
        space = self.env.observation_space(agent)
        if self.perturber.slots == "none":
            return space
        inner = space["observation"] if isinstance(space, Dict) else space
        assert isinstance(inner, Box)  # spec_of accepts no other
        num_agents = self._spec.num_agents  # one slot each
        low = np.concatenate([inner.low, np.zeros(num_agents)]).astype(inner.dtype)
        high = np.concatenate([inner.high, np.ones(num_agents)]).astype(inner.dtype)
        wide = Box(low, high, dtype=inner.dtype.type)
        return Dict({**space.spaces, "observation": wide}) if isinstance(space, Dict) else wide


RawObs: TypeAlias = Values | Mapping[str, Values]


def _appended(raw: RawObs, slots: Values) -> RawObs:
    """Return an observation, masked or not, with slots at its end."""
    row = np.asarray(split_obs(raw)[0])
    row = np.concatenate([row, slots.astype(row.dtype)])
    return {**raw, "observation": row} if isinstance(raw, Mapping) else row
