"""A team whose observations are perturbed, as an opponent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from robustmarl._checks import check
from robustmarl._seeding import Draws, stream_id
from robustmarl.data.controllers import Controller, SlowCopy, found_controller
from robustmarl.joint import StepContext, TeamSpec
from robustmarl.perturbers.stack import Attacks, PerturberStack, listed
from robustmarl.victims import Victim

__all__ = ["PerturbedController", "follower_of"]

_OWN = stream_id("perturbed")
"""Its attacks draw apart from those on the team that it plays against."""


class PerturbedController:
    """Plays as another controller does that is shown perturbed observations.

    An opponent of ``training.run``, ``evaluation.rollout`` or ``crossplay`` is perturbed by it; the
    team under test is by ``perturb=``. A :class:`SlowCopy` goes on following its learner.

    Args:
        policy: an algorithm, policy or controller.
        perturb: an attack on all of its agents, a perturber of observations, or several in order.
            Attacks query the policy itself; names of agents are those of the team that it plays.

    Raises:
        TypeError: for a policy or an attack of another kind.
        ValueError: for perturbers that change what is done: they have no say here.

    Example:
        >>> from robustmarl import envs, evaluation, joint
        >>> from robustmarl.data import ScriptedController
        >>> from robustmarl.perturbers import ZeroedObs
        >>> spec = joint.spec_of(envs.ToyGame())
        >>> def best(context):  # the first agent plays the state, the second 0
        ...     return context.seen[..., 0].long() * context.mask.new_tensor([1, 0]).long()
        >>> blind = PerturbedController(ScriptedController(spec, best), ZeroedObs())
        >>> evaluation.rollout(blind, envs.ToyGame, episodes=1).returns
        array([50.])
    """

    def __init__(self, policy: object, perturb: Attacks) -> None:
        where = f"{type(self).__name__}.policy"
        controller = found_controller(policy)
        if controller is None:
            raise TypeError(
                f"{where} must be an algorithm, a policy or a controller, got {policy!r}. Write "
                "data.as_controller(name, policy, spec)."
            )
        self.policy: Controller = controller
        self.perturb = perturb
        self._stack = PerturberStack(listed(f"{type(self).__name__}.perturb", perturb))
        acts = self._stack.acts_differ or self._stack.changes_logits
        rule = "perturbers of observations alone"
        check(not acts, f"{type(self).__name__}.perturb", rule, perturb)
        self._spec: TeamSpec | None = None
        self._size = -1  # of the collection for which the stack was bound last

    @property
    def hidden_size(self) -> int:
        """H, 0 without memory."""
        return self.policy.hidden_size

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.policy.device

    def infer(self, context: StepContext) -> tuple[Tensor, Tensor | None]:
        """Return what the policy answers to perturbed observations."""
        if len(context.keys) != self._size:  # another collection, whose memories are of its size
            assert self._spec is not None  # it was asked whether it can play this team
            self._stack.bind(self._spec, self.policy.victim())
            self._size = len(context.keys)
        once = Draws(context.keys).at(torch.zeros_like(context.step), _OWN)
        shown = replace(context, keys=once.keys)
        self._stack.show(shown)
        return self.policy.infer(replace(context, seen=shown.seen))

    def select(
        self, output: Tensor, mask: Tensor, draws: Draws, training: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the policy's actions, and their log-probabilities or None."""
        return self.policy.select(output, mask, draws, training)

    def record(self) -> Mapping[str, Tensor]:
        """Return what the policy acted on beside observations."""
        return self.policy.record()

    def victim(self) -> Victim | None:
        """Return the policy's view."""
        return self.policy.victim()

    def check_spec(self, spec: TeamSpec) -> None:
        """Raise ``ValueError`` unless the policy, and the attacks on it, fit this team."""
        self.policy.check_spec(spec)
        self._stack.bind(spec, self.policy.victim())
        self._spec, self._size = spec, -1


def follower_of(controller: object) -> SlowCopy | None:
    """Return the slow copy that plays as ``controller``, perturbed or not; None if none does."""
    inner = controller.policy if isinstance(controller, PerturbedController) else controller
    return inner if isinstance(inner, SlowCopy) else None
