"""Episodes of one team, or pieces of them, as a learner samples them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from robustmarl.joint.spec import TeamSpec

__all__ = ["JointBatch", "JointObs", "at_actions", "joint_state", "last_actions"]


@dataclass(frozen=True, kw_only=True)
class JointObs:
    """What B episodes of at most T steps looked like, the last observation included.

    Attributes:
        obs: what the environment showed: clean, (B, T+1, N, D).
        seen: what the agents saw, (B, T+1, N, D); the same tensor where nothing perturbed.
        mask: available actions, bool (B, T+1, N, A).
        state: the global state, (B, T+1, S) or (B, T+1, N, S).
        alive: bool (B, T+1, N).
    """

    obs: Tensor
    seen: Tensor
    mask: Tensor
    state: Tensor
    alive: Tensor

    def replace(self, **changes: Tensor) -> Self:
        """Return the same with other tensors for some."""
        return replace(self, **changes)


@dataclass(frozen=True, kw_only=True)
class JointBatch:
    """B episodes of at most T steps of one team with N agents; or pieces of episodes.

    A piece that ends where its segment does is ``truncated`` like an episode at a time limit: the
    value of the observation after it bootstraps, as the agents saw that. What comes before it is
    in ``hidden_before`` and ``act_before``.

    Attributes:
        obs: observations, (B, T+1, ...) each.
        act: what the learner is told was done, int64 (B, T, N) or float (B, T, N, A).
        rew: the team's reward, (B, T).
        rew_agents: the agents' own, (B, T, N).
        terminated: whether a step ended its episode for good, bool (B, T).
        truncated: whether it was cut off, by a time limit or where a segment ends: values
            bootstrap, bool (B, T).
        valid: which steps were played, bool (B, T); the others are padding.
        logp: on-policy, the log-probability of ``act`` when it was drawn, (B, T, N), or None where
            not all episodes have it.
        act_intended: what the policy chose, like ``act``, where ``on_act`` hooks were; or None.
        act_exec: what the environment was given, likewise.
        hidden_before: of pieces, the policy's memory before the first step, (B, N, H), or None.
        act_before: of pieces, the actions before the first step, like ``last_act`` of
            :class:`StepContext`, (B, N) or (B, N, A), or None.
        records: what each perturber recorded, by its name in the stack, (B, T, ...) each; and as
            ``policy`` what the policy acted on beside observations.
    """

    obs: JointObs
    act: Tensor
    rew: Tensor
    rew_agents: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    logp: Tensor | None = None
    act_intended: Tensor | None = None
    act_exec: Tensor | None = None
    hidden_before: Tensor | None = None
    act_before: Tensor | None = None
    records: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.valid)

    @property
    def living(self) -> Tensor:
        """The agent-steps of living agents that were played, bool (B, T, N)."""
        return self.valid.unsqueeze(-1) & self.obs.alive[:, :-1]

    @property
    def going_on(self) -> Tensor:
        """1 where the episode goes on after a step, 0 at its last, (B, T)."""
        valid = self.valid.float()
        return torch.cat([valid[:, 1:], torch.zeros_like(valid[:, :1])], dim=1)

    @property
    def bootstrap(self) -> Tensor:
        """1 where the next value counts, 0 after a termination, (B, T)."""
        return 1.0 - self.terminated.float()

    def earned(self, reward: Literal["team", "agents"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return reward, :attr:`bootstrap` and :attr:`going_on`, of which returns are made.

        Args:
            reward: ``"team"``, (B, T, 1), which the dead go on to earn; or ``"agents"`` for each
                agent's own, (B, T, N): who has died earns nothing more.
        """
        bootstrap, going_on = self.bootstrap.unsqueeze(-1), self.going_on.unsqueeze(-1)
        if reward == "team":
            return self.rew.unsqueeze(-1), bootstrap, going_on
        living = self.obs.alive[:, 1:].float()
        return self.rew_agents, bootstrap * living, going_on * living

    def earning(self, reward: Literal["team", "agents"]) -> Tensor:
        """Return who earns at which steps, bool (B, T, 1) or (B, T, N) as of :meth:`earned`."""
        return self.valid.unsqueeze(-1) if reward == "team" else self.living

    def record(self, name: str) -> Mapping[str, Tensor]:
        """Return what the perturber ``name`` recorded; nothing if there was none."""
        return self.records.get(name, {})

    def select(self, episodes: Tensor) -> Self:
        """Return these episodes alone: bool (B,) or int64 (K,)."""
        kept = {part.name: getattr(self, part.name) for part in fields(self)}
        tensors = {name: x[episodes] for name, x in kept.items() if isinstance(x, Tensor)}
        parts = {part.name: getattr(self.obs, part.name)[episodes] for part in fields(self.obs)}
        records = {
            name: {key: x[episodes] for key, x in record.items()}
            for name, record in self.records.items()
        }
        return replace(self, obs=JointObs(**parts), records=records, **tensors)

    def flat(self) -> dict[str, Tensor]:
        """Return all tensors by name, as ``obs.seen``, ``act``, ``byzantine/types``."""
        found = {f"obs.{part.name}": getattr(self.obs, part.name) for part in fields(self.obs)}
        values_of = {part.name: getattr(self, part.name) for part in fields(self)}
        found |= {name: values for name, values in values_of.items() if isinstance(values, Tensor)}
        for perturber, record in self.records.items():
            found |= {f"{perturber}/{name}": values for name, values in record.items()}
        return found

    def replace(self, **changes: Any) -> Self:
        """Return the same with other values for some attributes."""
        return replace(self, **changes)


def joint_state(state: Tensor, spec: TeamSpec) -> Tensor:
    """Return a team's whole state, (..., S): of all agents where each has its own, (..., N, S).

    Example:
        >>> from robustmarl import envs, joint
        >>> spec = joint.spec_of(envs.ToyGame())
        >>> joint_state(torch.zeros(7, 2, 5), spec).shape
        torch.Size([7, 10])
    """
    return state.flatten(-2) if spec.state_layout == "per_agent" else state


def at_actions(values: Tensor, act: Tensor) -> Tensor:
    """Return of ``values`` (..., A), one per action, those of the actions ``act``, (...,).

    Example:
        >>> at_actions(torch.tensor([[0.1, 0.9], [0.4, 0.6]]), torch.tensor([1, 0]))
        tensor([0.9000, 0.4000])
    """
    return values.gather(-1, act.unsqueeze(-1)).squeeze(-1)


def last_actions(act: Tensor, *, terminal: bool, before: Tensor | None = None) -> Tensor:
    """Return the action before each step, (B, T, N, ...) or T+1 with the terminal step.

    Args:
        act: the actions, (B, T, N) or (B, T, N, A).
        terminal: whether for the observation after the last step, too.
        before: those before the first step, (B, N, ...); None where there were none.

    Example:
        >>> last_actions(torch.tensor([[[3], [1], [2]]]), terminal=True).flatten().tolist()
        [-1, 3, 1, 2]
    """
    if before is None:
        none = 0 if act.is_floating_point() else -1
        before = torch.full_like(act[:, 0], none)
    return torch.cat([before.unsqueeze(1), act if terminal else act[:, :-1]], dim=1)
