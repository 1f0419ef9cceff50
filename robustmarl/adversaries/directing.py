"""What adversaries with a director share: its network, what it named, its copy at work."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

from torch import Tensor

from robustmarl._checks import check
from robustmarl.adversaries.base import Adversary, Sample
from robustmarl.attacks.gradient import GradientAttack
from robustmarl.joint import JointBatch, TeamSpec
from robustmarl.learning.base import build_network
from robustmarl.learning.returns import masked_mean
from robustmarl.learning.settings import NetworkSettings, take
from robustmarl.networks import Agents
from robustmarl.perturbers.director import DirectedObsPerturber
from robustmarl.policies import TeamPolicy

__all__ = ["count_played", "directed", "director_network", "named_in", "realised_share"]


def director_network(where: str, spec: TeamSpec, settings: dict[str, Any]) -> Agents:
    """Return a network over a team's actions, recurrent and shown its own last targets.

    Args:
        where: who asks, for error messages.
        spec: the team's; discrete actions.
        settings: keywords of networks are taken out of it.
    """
    rule = "discrete: a director names one of the victim's actions"
    check(not spec.continuous, f"{where}.for_env.env", rule, "a Box of actions")
    default = NetworkSettings(hidden=(64,), recurrent=True, last_action=True)
    return build_network(spec, default | take(settings, NetworkSettings))


def directed(
    director: TeamPolicy, generator: GradientAttack, agents: Collection[str] | None
) -> DirectedObsPerturber:
    """Return a copy of the director at work, which explores no more.

    Args:
        director: who names actions.
        generator: who pushes victims towards them.
        agents: names of the attacked agents; None is all.
    """
    copied = copy.deepcopy(director).requires_grad_(False).eval()
    return DirectedObsPerturber(copied, generator, agents=agents)


def count_played(director: TeamPolicy, sample: Sample) -> None:
    """Count the newest episodes as played by the director: its schedules go by them."""
    if sample.fresh is not None:
        director.count("episodes", len(sample.fresh))
        director.count("env_steps", int(sample.fresh.valid.sum()))


def named_in(adversary: Adversary, batch: JointBatch) -> tuple[Tensor, Tensor]:
    """Return the actions named, (B, T, N), and the steps of episodes attacked, bool (B, T)."""
    record = adversary.recorded(batch)
    where, remedy = f"{type(adversary).__name__}.learn.sample", "Collect with its perturber()."
    check("target" in record, where, "of episodes that it played in", "others", remedy)
    attacked = record["attacked"].flatten(1).any(dim=1)
    return record["target"], batch.valid & attacked.unsqueeze(-1)


def realised_share(batch: JointBatch, target: Tensor, played: Tensor) -> float:
    """Return how often living agents took the action named for them, exploration included."""
    act = batch.act if batch.act_exec is None else batch.act_exec
    rows = batch.living & played.unsqueeze(-1)
    return float(masked_mean((act == target).float(), rows))
