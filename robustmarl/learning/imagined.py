"""Imagined environments: episodes of a learned model, stepped together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robustmarl._seeding import Draws, stream_id
from robustmarl.joint import check_act, check_flags, check_seeds

if TYPE_CHECKING:
    from robustmarl.learning.world import WorldModel

__all__ = ["ImaginedEngine"]

_BEGINS, _CHANCE = stream_id("imagined/begins"), stream_id("imagined/chance")


class ImaginedEngine:
    """E episodes of a learned model; a ``robustmarl.joint.VectorEngine``.

    Made by :meth:`robustmarl.learning.WorldModel.make_engine`. The model is asked as it is,
    so one that is fitted again changes what is played. An episode follows from its seed and the
    actions: the seed draws where it begins, who of the ensemble foretells it and all of its chance.

    Args:
        model: fitted.
        num_envs: E.
    """

    def __init__(self, model: WorldModel, num_envs: int) -> None:
        self.model, self.spec = model, model.spec
        device = model.device
        empty = self.spec.empty(num_envs, device=device)
        self.tensors = {key: values for key, values in empty.items() if key != "act"}
        for key in ("terminated", "truncated"):
            self.tensors[key] = torch.zeros(num_envs, dtype=torch.bool, device=device)
        # the environment's own figures are not foretold
        self.tensors["metrics"] = torch.full(
            (num_envs, len(self.spec.metrics)), torch.nan, device=device
        )
        self.tensors["alive"].fill_(True)
        real = self.spec.action_mask(device)
        self.tensors["mask"].copy_(torch.ones_like(self.tensors["mask"]) if real is None else real)
        self._steps = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self._seeds, self._member = torch.zeros_like(self._steps), torch.zeros_like(self._steps)

    def __len__(self) -> int:
        return len(self._steps)

    @torch.no_grad()
    def begin(self, mask: Tensor, seeds: Tensor) -> None:
        """Start new episodes where ``mask``, bool (E,), from ``seeds``, int64 (E,)."""
        check_flags("ImaginedEngine.begin.mask", mask, len(self))
        check_seeds("ImaginedEngine.begin.seeds", seeds, len(self))
        model = self.model
        drawn = Draws(seeds).at(torch.zeros_like(seeds), _BEGINS).uniform(2)
        start = model.starts[(drawn[:, 0] * len(model.starts)).long()]
        obs, state = start.split((model.obs_numbers, start.shape[1] - model.obs_numbers), dim=1)
        self._seeds = torch.where(mask, seeds, self._seeds)
        member = (drawn[:, 1] * len(model.members)).long()
        self._member = torch.where(mask, member, self._member)
        self._steps = torch.where(mask, 0, self._steps)
        nothing = torch.zeros_like(self.tensors["rew_agents"])
        never = torch.zeros_like(mask)
        self._write(mask, {"obs": obs, "state": state, "rew_agents": nothing})
        self._write(mask, {"terminated": never, "truncated": never})

    @torch.no_grad()
    def advance(self, act: Tensor, active: Tensor) -> None:
        """Step the environments that are ``active``, bool (E,), by what the model foretells."""
        check_flags("ImaginedEngine.advance.active", active, len(self))
        check_act("ImaginedEngine.advance.act", act, self.spec, len(self))
        model, tensors = self.model, self.tensors
        # of the others it means nothing, and need be no action
        act = torch.where(active.view(-1, *[1] * (act.dim() - 1)), act, 0)
        draws = Draws(self._seeds).at(self._steps, _CHANCE).uniform(2)
        told = model.foretell(tensors["obs"], tensors["state"].flatten(1), act, self._member)
        drawn = (draws[:, 0] * model.residuals.shape[1]).long()
        left = model.residuals[self._member, drawn]
        after = model.settled(torch.cat([told.obs.flatten(1), told.state], dim=1) + left)
        obs, state = after.split((model.obs_numbers, left.shape[1] - model.obs_numbers), dim=1)
        self._steps = self._steps + active
        ended = draws[:, 1] < told.ended
        late = (self._steps >= model.horizon) & ~ended
        found = {"obs": obs, "state": state, "rew_agents": told.rew_agents}
        self._write(active, {**found, "terminated": ended, "truncated": late})

    def close(self) -> None:
        """Do nothing: there is only memory to release."""

    def _write(self, rows: Tensor, values: dict[str, Tensor]) -> None:
        """Write what these environments, bool (E,), show now."""
        for key, value in values.items():
            kept = self.tensors[key]
            where = rows.view(-1, *[1] * (kept.dim() - 1))
            kept.copy_(torch.where(where, value.view(kept.shape).to(kept.dtype), kept))
