"""Lower bounds on how far the greedy action stays ahead, whatever is observed in a ball."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmarl._checks import check, check_kind
from robustmarl.budgets import LinfBall
from robustmarl.networks.calculus.bounds import Interval, interval_bounds, linear_lower_bounds
from robustmarl.victims import LossRows, NetworkVictim

__all__ = ["certified", "margin_bounds"]


@torch.no_grad()
def margin_bounds(victim: NetworkVictim, rows: LossRows, ball: LinfBall) -> Tensor:
    r"""Return lower bounds of the greedy action's lead over each other one, (M, A).

    .. math:: \min_{\hat o \in B_\epsilon(o)} z_y(\hat o) - z_a(\hat o), \qquad
              y = \arg\max_a z_a(o)

    over logits or Q-values z. The better of interval and linear bounds is taken per entry. Entries
    of the greedy action itself and of unavailable ones are infinite. Memory and side inputs are as
    the rows have them: of a recurrent network one step is bounded, not what follows from it.

    Args:
        victim: a team's live view; discrete actions.
        rows: clean observations, (M, D), and all else that its policy acts on.
        ball: what may change.

    Raises:
        TypeError: for a victim that is no team's network.
        ValueError: for continuous actions, a network whose layers cannot be read, or a ball that
            does not fit the observations.
    """
    return _bounds("margin_bounds", victim, rows, ball)


def _bounds(name: str, victim: NetworkVictim, rows: LossRows, ball: LinfBall) -> Tensor:
    where = f"{name}.victim"
    check_kind(where, victim, NetworkVictim, "a NetworkVictim", "Write algorithm.victim().")
    check_kind(f"{name}.rows", rows, LossRows, "LossRows")
    check_kind(f"{name}.ball", ball, LinfBall, "a LinfBall")
    check(not victim.continuous, where, "of discrete actions", "a continuous one")
    plan = victim.network.plan()
    rule = "a network of layers that bounds are known of"
    check(plan is not None, where, rule, type(victim.network).__name__)
    assert plan is not None
    ball.check_size(name, rows.obs.shape[-1])
    beside = rows.rows  # what the policy acts on beside observations
    logits = rows.view(victim).logits(rows.obs)
    greedy = logits.argmax(dim=-1, keepdim=True)
    low, high = ball.box(rows.obs)
    if beside.obs_mask is not None:  # padding is not attacked
        low, high = (torch.where(beside.obs_mask, end, rows.obs) for end in (low, high))
    added = victim.network.extra(beside.agents, beside.last_act, beside.side).added
    size = logits.shape[-1]
    one_hot = torch.eye(size, dtype=logits.dtype, device=logits.device)
    leads = one_hot[greedy] - one_hot  # (M, A, A): row a is z_y - z_a
    box = Interval(low, high)
    forward = interval_bounds(plan, box, added, beside.hidden)
    margins = forward[-1].low.gather(-1, greedy) - forward[-1].high
    tighter = linear_lower_bounds(plan, box, leads, forward, added)
    if tighter is not None:
        margins = torch.maximum(margins, tighter)
    margins = margins.scatter(-1, greedy, torch.inf)
    return margins if beside.mask is None else margins.masked_fill(~beside.mask, torch.inf)


@torch.no_grad()
def certified(victim: NetworkVictim, rows: LossRows, ball: LinfBall) -> Tensor:
    """Return for which rows no attack in the ball changes the greedy action, bool (M,).

    True is a proof, up to rounding; False is not: the bounds may be too loose. Arguments and
    errors are those of :func:`margin_bounds`.
    """
    return (_bounds("certified", victim, rows, ball) > 0.0).all(dim=-1)
