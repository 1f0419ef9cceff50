"""One tick of E environments, as policies, attacks and perturbers see it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

__all__ = ["StepContext", "rows_of"]


@dataclass(kw_only=True)
class StepContext:
    """One tick of E environments with N agents, before they act.

    Attributes:
        obs: clean observations (E, N, D).
        seen: what the agents see so far, (E, N, D); the same tensor while nothing perturbs.
        mask: available actions (E, N, A).
        state: global state (E, S) or (E, N, S).
        alive: (E, N).
        observed: which agents have an observation, bool (E, N): the living, and at an episode's
            end those that lived until then.
        last_act: (E, N) int64, -1 at the first step, or (E, N, A) float, zeros at the first step.
        hidden: the acting policy's hidden state before this step, (E, N, H), or None.
        step: steps since the episode began, int64 (E,).
        keys: the episodes' random keys, int64 (E,).
        live: environments that play in this tick, bool (E,).
        terminal: environments whose observation is their episode's last, bool (E,).
        types: which agents are Byzantine, bool (E, N), None where none can be. The truth: for
            adversaries, oracles and labels, never for a defender's own decisions.
    """

    obs: Tensor
    seen: Tensor
    mask: Tensor
    state: Tensor
    alive: Tensor
    observed: Tensor
    last_act: Tensor
    hidden: Tensor | None
    step: Tensor
    keys: Tensor
    live: Tensor
    terminal: Tensor
    types: Tensor | None = None


def rows_of(context: StepContext, rows: Tensor) -> StepContext:
    """Return the context of the environments ``rows``, int64 (R,)."""
    values = {f.name: getattr(context, f.name) for f in fields(context)}
    picked: dict[str, Any] = {k: None if v is None else v[rows] for k, v in values.items()}
    return StepContext(**picked)
