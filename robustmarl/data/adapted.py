"""Policies from elsewhere play a team: modules, functions, Tianshou's, Stable-Baselines3's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TypeAlias, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from robustmarl._checks import check, check_has, check_kind
from robustmarl._seeding import Draws
from robustmarl.data.controllers import (
    Controller,
    ScriptedController,
    categorical,
    found_controller,
)
from robustmarl.joint import StepContext, TeamSpec
from robustmarl.perturbers._fit import Fit
from robustmarl.victims import MembersVictim, Rows, Victim, VictimLike, as_victim

__all__ = ["AnyPolicy", "PolicyController", "Script", "as_controller"]

Script: TypeAlias = Callable[[StepContext], Tensor]
"""Maps what a team sees to its actions."""

AnyPolicy: TypeAlias = Controller | VictimLike | Script
"""Whatever can play a team."""


class PolicyController:
    """A victim plays the team that it is attacked in, by its most likely actions or its means.

    Tianshou's policies with a distribution over discrete actions and ``deterministic_eval=False``
    draw from it, as they do in Tianshou's own evaluation. Memory begins anew in each episode.

    Args:
        victim: what answers with logits or means.
        spec: the team it plays.
        where: what errors call it.

    Raises:
        ValueError: if it is not for such a team.
    """

    def __init__(
        self, victim: Victim, spec: TeamSpec, where: str = "PolicyController.victim"
    ) -> None:
        rule = "a Victim, as victims.as_victim returns"
        check_has(where, victim, ("at", "side"), rule)
        check_kind("PolicyController.spec", spec, TeamSpec, "a TeamSpec", "Write spec_of(env).")
        self.spec, self._victim, self._where = spec, victim, where
        kinds = ("discrete", "continuous")
        rule = f"a policy for {kinds[spec.continuous]} actions"
        fits = victim.continuous == spec.continuous
        check(fits, where, rule, f"a {kinds[victim.continuous]} one")
        rule = "a policy that acts without the memory of another"
        check(not victim.acting_only, where, rule, victim)
        try:
            self._fit = Fit.of(victim, spec, spec.agents).to(victim.device)
        except ValueError as error:
            text = str(error).replace("ObsPerturber.victim", where)
            raise ValueError(text.partition(" Attack its agents")[0]) from error
        members = victim.members if isinstance(victim, MembersVictim) else [victim]
        draws = torch.tensor([bool(getattr(one, "stochastic", False)) for one in members])
        draws = draws.to(victim.device)
        everybody = torch.arange(spec.num_agents, device=victim.device)
        self._stochastic = draws[self._fit.ids_of(everybody)] if len(members) > 1 else draws
        self._draws = bool(self._stochastic.any())

    @property
    def hidden_size(self) -> int:
        """H, 0 without memory."""
        return self._victim.hidden_size

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self._victim.device

    @torch.no_grad()
    def infer(self, context: StepContext) -> tuple[Tensor, Tensor | None]:
        """Return logits or means (E, N, A) for ``context.seen`` and the next hidden state."""
        fit, lead = self._fit, context.alive.shape
        agents = torch.arange(lead[1], device=self.device).expand(lead).flatten()
        state, last_act = context.state, context.last_act.flatten(0, 1)
        if state.dim() == 2:
            state = state.unsqueeze(1).expand(*lead, -1)
        rows = Rows(
            obs_mask=fit.real_rows(agents),
            hidden=None if context.hidden is None else context.hidden.flatten(0, 1),
            last_act=fit.cut_actions(last_act),
            agents=fit.ids_of(agents),
            state=state.flatten(0, 1),
            side={k: v.flatten(0, 1) for k, v in self._victim.side(context).items()},
        )
        view, seen = self._victim.at(rows), fit.cut(context.seen.flatten(0, 1))
        output = view.output(seen)
        size = output.shape[-1]
        rule = f"a policy with outputs of shape ({len(seen)}, {fit.num_actions})"
        fits = output.dim() == 2 and size == fit.num_actions
        check(fits, self._where, rule, f"outputs of shape {tuple(output.shape)}")
        output = pad(output, (0, self.spec.num_actions - size)).view(*lead, -1)
        hidden = view.advance(seen)
        return output, None if hidden is None else hidden.view(*lead, -1)

    def select(
        self, output: Tensor, mask: Tensor, draws: Draws, training: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return actions; the log-probabilities are not told."""
        if self.spec.continuous:
            return output.clamp(-1.0, 1.0), None
        best = output.argmax(dim=-1)
        if self._draws:
            best = torch.where(self._stochastic, categorical(output, draws), best)
        return best, None

    def record(self) -> Mapping[str, Tensor]:
        """Return nothing: it acts on nothing else."""
        return {}

    def victim(self) -> Victim | None:
        """Return the victim that plays."""
        return self._victim

    def check_spec(self, spec: TeamSpec) -> None:
        """Raise ``ValueError`` unless it was made for this team."""
        if difference := self.spec.describe_difference(spec):
            raise ValueError(f"PolicyController.spec must be the team's, got {difference}.")


def as_controller(where: str, policy: AnyPolicy, spec: TeamSpec) -> Controller:
    """Return what plays the team ``spec``: the one place where policies from elsewhere come in.

    ===============================================  ============================================
    given                                            plays
    ===============================================  ============================================
    a controller, or what has one as ``policy``      itself
    a function whose first argument is ``context``   its actions: :class:`ScriptedController`
    or annotated as ``StepContext``
    a module or another function of observations     its best logit, or its mean
    a policy or algorithm of Tianshou                as in Tianshou's evaluation, by its mean if
                                                     continuous
    a ``MultiAgentPolicy``                           each member its agent
    a model of Stable-Baselines3                     ``predict(obs, deterministic=True)``
    ===============================================  ============================================

    Args:
        where: what errors call it.
        policy: any of these.
        spec: the team's.

    Raises:
        TypeError: if it is none of them.
        ValueError: if it does not fit the team.
    """
    own = found_controller(policy)
    if own is not None:
        return own
    if _is_script(policy):
        return ScriptedController(spec, cast(Script, policy))
    victim = as_victim(where, cast(VictimLike, policy), continuous=spec.continuous)
    return PolicyController(victim, spec, where)


def _is_script(policy: object) -> bool:
    """Return whether ``policy`` is a function of a whole step, by its first argument."""
    if not callable(policy) or isinstance(policy, type | torch.nn.Module):
        return False
    try:
        parameters = inspect.signature(policy).parameters.values()
    except (TypeError, ValueError):  # compiled, and tells nothing
        return False
    first = next(iter(parameters), None)
    if first is None:
        return False
    return first.name == "context" or first.annotation in (StepContext, "StepContext")
