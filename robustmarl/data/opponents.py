"""The other teams in a game, and what is cut out for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from robustmarl._checks import check
from robustmarl._seeding import Draws, stream_id
from robustmarl.data.adapted import AnyPolicy, as_controller
from robustmarl.data.guards import Guards
from robustmarl.data.perturbed import follower_of
from robustmarl.joint import MASKED, StepContext, TeamSpec

__all__ = ["Opponents", "Pick", "masked", "restarted"]

_OPPONENT = stream_id("opponent")


class Pick:
    """Cuts a team's rows, and its own padding, out of joint arrays (E, N, ...).

    Args:
        spec: of all agents.
        team: the team's name.
        device: where the joint arrays are.
    """

    def __init__(self, spec: TeamSpec, team: str, device: torch.device) -> None:
        of_team = spec.of_team(team)
        self.whole = of_team is spec
        rows = spec.team_indices(team)
        first, last = rows[0], rows[-1]
        neighbours = rows == tuple(range(first, last + 1))
        # rows side by side are not copied
        self._agents = slice(first, last + 1) if neighbours else torch.tensor(rows, device=device)
        self._obs_size, self._num_actions = of_team.obs_size, of_team.num_actions

    def __call__(self, values: Tensor) -> Tensor:
        """Return the team's slice of ``values``: observations, masks (bool), or flags (E, N)."""
        if self.whole:
            return values
        picked = values[:, self._agents]
        if values.dim() == 2:
            return picked
        size = self._num_actions if values.dtype == torch.bool else self._obs_size
        return picked[..., :size]

    def state(self, state: Tensor) -> Tensor:
        """Return the team's rows of states (E, N, S); all of a global one (E, S)."""
        return state if self.whole or state.dim() == 2 else state[:, self._agents]


ContextOf: TypeAlias = Callable[[Pick, Tensor, "Tensor | None"], StepContext]
"""Makes a team's context of its slice, its last actions and its hidden state."""


class _Opponent:
    """Another team's controller with its memory."""

    def __init__(
        self,
        spec: TeamSpec,
        team: str,
        policy: AnyPolicy,
        size: int,
        device: torch.device,
        guards: Callable[[TeamSpec], Guards],
    ) -> None:
        of_team = spec.of_team(team)
        where = f"JointCollector.opponents[{team!r}]"
        self.controller = controller = as_controller(where, policy, of_team)
        controller.check_spec(of_team)
        self.on_cpu = controller.device.type == "cpu"
        self.guards = guards(of_team)
        self.agents = torch.tensor(spec.team_indices(team), device=controller.device)
        self.pick = Pick(spec, team, device)
        self.last_act = of_team.empty(size, device=controller.device)["act"]
        shape = (size, of_team.num_agents, controller.hidden_size)
        remembers = controller.hidden_size > 0
        self.hidden = torch.zeros(shape, device=controller.device) if remembers else None


class Opponents:
    """All teams but one.

    Args:
        controllers: of each, by name, or whatever :func:`as_controller` takes.
        spec: of all agents.
        team: the one that is not among them.
        size: E.
        device: where the engine's arrays are.
        guards: makes what checks a team's steps.

    Raises:
        ValueError: if a team has no controller, one has one that does not fit, or is unknown.
    """

    def __init__(
        self,
        controllers: Mapping[str, AnyPolicy],
        spec: TeamSpec,
        team: str,
        size: int,
        device: torch.device,
        guards: Callable[[TeamSpec], Guards],
    ) -> None:
        others = set(spec.teams) - {team}
        rule = f"a controller for each of the other teams {sorted(others)}"
        check(set(controllers) == others, "JointCollector.opponents", rule, sorted(controllers))
        self._spec = spec
        self._indices = spec.team_indices(team)
        self._agents: Tensor | None = None  # the same, where the actions are
        followers = [follower_of(one) for one in controllers.values()]
        self._compares = any(one is not None and one.when == "ahead" for one in followers)
        self._earned = torch.zeros(spec.num_agents, dtype=torch.float64, device=device)
        self._teams = [
            _Opponent(spec, name, controller, size, device, guards)
            for name, controller in controllers.items()
        ]

    def __len__(self) -> int:
        return len(self._teams)

    def open(self) -> None:
        """Begin a collection."""
        self._earned.zero_()
        for team in self._teams:
            team.guards.open()

    def settle(self) -> None:
        """Raise what is known to be wrong by now in what they do."""
        for team in self._teams:
            team.guards.settle()

    def count(self, rewards: Tensor, live: Tensor) -> None:
        """Add up what a step earned all agents, (E, N), if one goes by it.

        Args:
            rewards: of the step.
            live: which environments took it, bool (E,).
        """
        if self._compares:
            self._earned += torch.where(live[:, None], rewards, 0.0).sum(dim=0)

    def earned(self, episodes: int) -> dict[str, float]:
        """Return what each team earned in this collection, as a mean over so many episodes.

        In a segment in which none ended, the sum.
        """
        if not self._compares:
            return {}
        per_agent = self._earned.cpu() / max(episodes, 1)
        return {
            name: float(per_agent[list(indices)].sum())
            for name, indices in self._spec.teams.items()
        }

    def begin(self, mask: Tensor) -> None:
        """Forget the episodes of the environments in ``mask``, bool (E,)."""
        for team in self._teams:
            begun = mask.to(team.last_act.device)
            team.last_act = restarted(team.last_act, begun, 0 if self._spec.continuous else -1)
            if team.hidden is not None:
                team.hidden = restarted(team.hidden, begun, 0)

    def joint_act(self, act: Tensor, context_of: ContextOf) -> Tensor:
        """Return the actions of all agents, (E, N) or (E, N, A), given those of the one team."""
        if self._agents is None:
            self._agents = torch.tensor(self._indices, device=act.device)
        shape = (len(act), *self._spec.action_shape())
        joint = torch.zeros(shape, dtype=act.dtype, device=act.device)
        _write_actions(joint, self._agents, act)
        for number, team in enumerate(self._teams):
            context = context_of(team.pick, team.last_act, team.hidden)
            output, hidden = team.controller.infer(context)
            team.guards.output(output, context)
            if not self._spec.continuous:
                team.guards.mask(context)
                output = masked(output, context.mask, team.on_cpu)
            draws = Draws(context.keys).at(context.step, _OPPONENT + number)
            theirs, _ = team.controller.select(output, context.mask, draws, training=False)
            team.last_act = theirs
            team.hidden = hidden if team.hidden is not None else None
            _write_actions(joint, team.agents, theirs)
            team.guards.turn()
        return joint


def _write_actions(joint: Tensor, agents: Tensor, act: Tensor) -> None:
    """Write the actions of some agents into those of all, (E, N) or padded (E, N, A)."""
    if joint.dim() == 3:
        joint[:, agents, : act.shape[-1]] = act
    else:
        joint[:, agents] = act


def masked(output: Tensor, mask: Tensor, on_cpu: bool) -> Tensor:
    """Return logits (E, N, A), those of unavailable actions ``MASKED``; by numpy on the CPU.

    Told where they are: between two steps of an engine, asking a tensor takes longer than this.
    """
    if on_cpu:
        return torch.from_numpy(np.where(mask.numpy(), output.numpy(), MASKED))
    return torch.where(mask, output, MASKED)


def restarted(values: Tensor, mask: Tensor, value: int) -> Tensor:
    """Return a copy with ``value`` where episodes begin; values (E, ...) may be a script's own."""
    return torch.where(mask.view(-1, *[1] * (values.dim() - 1)), value, values)
