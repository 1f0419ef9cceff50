"""One tick of E environments, as policies, attacks and perturbers see it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from torch import Tensor

from robustmarl._seeding import Draws, stream_id

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

    @property
    def acting(self) -> Tensor:
        """Who acts in this step, bool (E, N): the living, in environments that are stepped."""
        return self.alive & (self.live & ~self.terminal)[:, None]

    def acts(self, agent: int) -> Tensor:
        """Return in which environments one agent acts in this step, bool (E,)."""
        return self.alive[:, agent] & self.live & ~self.terminal

    def draws(self, name: str) -> Draws:
        """Return this step's random numbers for the purpose ``name``, one row per environment.

        They follow from the episodes' keys, the step and the name alone: the same in a wrapper
        and in a collector, whatever else draws.
        """
        return Draws(self.keys).at(self.step, stream_id(name))


def rows_of(context: StepContext, rows: Tensor) -> StepContext:
    """Return the context of the environments ``rows``, int64 (R,)."""
    values = {part.name: getattr(context, part.name) for part in fields(context)}
    chosen = {name: value[rows] for name, value in values.items() if value is not None}
    return replace(context, **chosen)
