"""PPO against a team, written once: whatever the adversary plays, and whoever values it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from robustmarl.joint import MASKED, JointBatch
from robustmarl.learning.returns import ppo_surrogate
from robustmarl.perturbers import LearnedObsPerturber
from robustmarl.policies import ByzantinePolicy

__all__ = [
    "Played",
    "attacked_rows",
    "byzantine_rows",
    "played_as_byzantine",
    "played_on_obs",
    "ppo_steps",
]


@dataclass(frozen=True)
class Played:
    """R agent-steps that an adversary played.

    Attributes:
        logp: log-probabilities of what it did when it was drawn, (R,).
        again: returns the same under its present weights, (R,), and its mean entropy, a scalar;
            both with gradient.
    """

    logp: Tensor
    again: Callable[[], tuple[Tensor, Tensor]]


def ppo_steps(
    played: Played,
    advantage: Tensor,
    *,
    steps: int,
    clip: float,
    entropy_coef: float,
    step: Callable[[Tensor], None],
    value_loss: Callable[[], Tensor] | None = None,
) -> dict[str, float]:
    r"""Take ``steps`` steps of an adversary and return the figures' means.

    .. math:: L = -\overline{\min(\hat\rho \hat A, \mathrm{clip}(\hat\rho, 1 \pm c) \hat A)}
                  - c_e H + L_V

    over the agent-steps that it played, with :math:`\hat A` its own advantage: as a rule
    :math:`-A`, the team's turned [Schulman2017]_.

    Args:
        played: what it did.
        advantage: :math:`\hat A`, (R,), without gradient.
        steps: >= 1.
        clip: c.
        entropy_coef: :math:`c_e`.
        step: takes an optimizer step on a loss.
        value_loss: :math:`L_V` of a critic that learns in the same step, or None.
    """
    figures: dict[str, list[Tensor]] = defaultdict(list)
    for _ in range(steps):
        logp, entropy = played.again()
        policy_loss = -ppo_surrogate(logp, played.logp, advantage, clip).mean()
        loss = policy_loss - entropy_coef * entropy
        found = {"policy_loss": policy_loss, "entropy": entropy, "kl": (played.logp - logp).mean()}
        if value_loss is not None:
            found["value_loss"] = value_loss()
            loss = loss + found["value_loss"]
        step(loss)
        for name, value in {"loss": loss, **found}.items():
            figures[name].append(value.detach())
    return {name: float(torch.stack(values).mean()) for name, values in figures.items()}


def attacked_rows(batch: JointBatch, record: Mapping[str, Tensor]) -> Tensor:
    """Return the agent-steps whose observation was attacked, bool (B, T, N).

    Args:
        batch: the episodes.
        record: of a :class:`~robustmarl.perturbers.LearnedObsPerturber`; empty if none played.
    """
    logp = record.get("logp")
    return torch.zeros_like(batch.living) if logp is None else (logp != 0) & batch.living


def byzantine_rows(batch: JointBatch, record: Mapping[str, Tensor]) -> Tensor:
    """Return the agent-steps that an adversary played, bool (B, T, N).

    Args:
        batch: the episodes.
        record: of a :class:`~robustmarl.perturbers.ByzantinePerturber`; empty if none played.
    """
    types = record.get("types")
    return torch.zeros_like(batch.living) if types is None else types & batch.living


def played_on_obs(
    perturber: LearnedObsPerturber, batch: JointBatch, record: Mapping[str, Tensor], rows: Tensor
) -> Played:
    """Return what an actor did to the observations ``rows``, bool (B, T, N)."""
    actor = perturber.actor
    obs = batch.obs.obs[:, :-1][rows][:, : actor.obs_size]
    act = record["act"][rows][:, : actor.act_size]
    real = perturber.real_rows(rows.nonzero()[:, 2])

    def again() -> tuple[Tensor, Tensor]:
        return actor.log_prob(obs, act, real), actor.entropy(real)

    return Played(record["logp"][rows], again)


def played_as_byzantine(
    policy: ByzantinePolicy, batch: JointBatch, record: Mapping[str, Tensor], rows: Tensor
) -> Played:
    """Return what a policy did for Byzantine agents in ``rows``, bool (B, T, N)."""
    obs, mask = batch.obs.obs[:, :-1][rows], batch.obs.mask[:, :-1][rows]
    agents = torch.arange(rows.shape[-1], device=rows.device).expand(rows.shape)[rows]
    others = None
    if policy.sees_actions and batch.act_intended is not None:
        others = batch.act_intended.unsqueeze(2)
        others = others.expand(*rows.shape, *batch.act_intended.shape[2:])[rows]
    act = record["act"][rows]

    def again() -> tuple[Tensor, Tensor]:
        output = policy.outputs(obs, agents, others)
        if not policy.spec.continuous:
            output = output.masked_fill(~mask, MASKED)
        return policy.log_prob(output, act, agents), policy.entropy(output, agents).mean()

    return Played(record["logp"][rows], again)
