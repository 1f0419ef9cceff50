"""Copies of learned attacks at work, which later learning does not change."""

from __future__ import annotations

import copy

from robustmarl.perturbers.byzantine import ByzantinePerturber
from robustmarl.perturbers.drawn import AttackedAgents
from robustmarl.perturbers.learned import GaussianActor, LearnedObsPerturber
from robustmarl.perturbers.types import TypeDistribution
from robustmarl.policies import ByzantinePolicy

__all__ = ["deployed_actor", "deployed_policy"]


def deployed_actor(
    actor: GaussianActor, agents: AttackedAgents, greedy: bool | None
) -> LearnedObsPerturber:
    """Return a copy that perturbs observations: by its mean unless ``greedy`` is False.

    Args:
        actor: the attack.
        agents: names of the attacked agents; None is all.
        greedy: whether it acts by its mean; None is True.
    """
    copied = copy.deepcopy(actor).requires_grad_(False)
    return LearnedObsPerturber(copied, agents=agents, greedy=greedy is not False)


def deployed_policy(
    policy: ByzantinePolicy, types: TypeDistribution, greedy: bool | None
) -> ByzantinePerturber:
    """Return a copy that plays for Byzantine agents: by draws unless ``greedy``.

    Args:
        policy: what plays.
        types: whose actions it plays.
        greedy: whether it plays the most likely action; None is False.
    """
    copied = copy.deepcopy(policy).requires_grad_(False)
    copied.deterministic_eval = bool(greedy)
    return ByzantinePerturber(copied, types=copy.copy(types))
