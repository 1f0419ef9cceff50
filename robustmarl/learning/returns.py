"""Returns, advantages and surrogate losses as pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmarl._checks import check, check_int, check_number, check_tensor

__all__ = [
    "gae",
    "masked_mean",
    "n_step_returns",
    "normalize",
    "ppo_surrogate",
    "standardize",
    "td_lambda_returns",
]


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of ``x`` where ``mask``; 0 where nothing is; same shapes.

    What is masked out may hold anything, NaN included.
    """
    _check_mask("masked_mean", x, mask)
    return torch.where(mask, x, 0.0).sum() / mask.sum().clamp(min=1)


def normalize(x: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """Return ``x`` with mean 0 and standard deviation 1 over ``mask``, 0 elsewhere."""
    _check_mask("normalize", x, mask)
    return torch.where(mask, standardize(x, mask, eps), 0.0)


def standardize(x: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """Return ``x`` centred and scaled as it is over ``mask``, everywhere; same shapes.

    ``eps`` keeps what is constant at 0, and is lost in rounding elsewhere. A mask of fewer than two
    has no scale: then all are 0.
    """
    _check_mask("standardize", x, mask)
    centred = x - masked_mean(x, mask)
    squares = torch.where(mask, centred, 0.0).square().sum()
    std = (squares / (mask.sum() - 1).clamp(min=1)).sqrt()  # as torch's, over n - 1
    return torch.where(mask.sum() > 1, centred / (std + eps), 0.0)


def gae(
    reward: Tensor, value: Tensor, bootstrap: Tensor, going_on: Tensor, gamma: float, lam: float
) -> Tensor:
    r"""Return generalized advantage estimates, (B, T, ...).

    .. math:: \delta_t = r_t + \gamma c_t V_{t+1} - V_t, \qquad
              A_t = \delta_t + \gamma\lambda g_t A_{t+1}

    Args:
        reward: (B, T, ...); the team's one may broadcast to values of each agent, or they to it.
        value: (B, T+1, ...).
        bootstrap: c, whether the next value counts: 0 after a termination, 1 at a time limit.
        going_on: g, whether the episode goes on after step t: 0 at its last step.
        gamma: discount in [0, 1].
        lam: the mixing parameter lambda, in [0, 1].
    """
    check_over_time("gae", reward, bootstrap=bootstrap, going_on=going_on)
    check_tensor("gae.value", value)
    rule = f"of {reward.shape[1] + 1} steps, one more than there are rewards"
    check(value.shape[1:2] == (reward.shape[1] + 1,), "gae.value", rule, value)
    gamma = check_number("gae.gamma", gamma, 0.0, 1.0)
    lam = check_number("gae.lam", lam, 0.0, 1.0)
    delta = reward + gamma * bootstrap * value[:, 1:] - value[:, :-1]
    return _summed(delta, gamma * lam * going_on)


def td_lambda_returns(
    reward: Tensor,
    next_value: Tensor,
    bootstrap: Tensor,
    going_on: Tensor,
    gamma: float,
    lam: float,
) -> Tensor:
    r"""Return TD(lambda) targets, (B, T, ...).

    .. math:: G_t = r_t + \gamma c_t [(1 - \lambda g_t) V_{t+1} + \lambda g_t G_{t+1}]

    with the arguments of :func:`gae`; ``next_value`` is :math:`V_{t+1}`, (B, T, ...), to which
    the others broadcast. With ``lam=0`` it is the one-step target.
    """
    name = "td_lambda_returns"
    check_over_time(name, reward, next_value=next_value, bootstrap=bootstrap, going_on=going_on)
    gamma = check_number(f"{name}.gamma", gamma, 0.0, 1.0)
    lam = check_number(f"{name}.lam", lam, 0.0, 1.0)
    share = lam * going_on  # of the return that follows, against its estimate
    now = reward + gamma * bootstrap * ((1.0 - share) * next_value)
    return now if lam == 0.0 else _summed(now, gamma * bootstrap * share)


def _summed(now: Tensor, decay: Tensor) -> Tensor:
    r"""Return :math:`x_t = n_t + d_t x_{t+1}`, 0 after the last step, of (B, T, ...)."""
    found, following = [], torch.zeros_like(now[:, 0])
    # One operation a step on views made beforehand: with short rows calls are the cost.
    for number, share in zip(reversed(now.unbind(1)), reversed(decay.unbind(1)), strict=True):
        following = torch.addcmul(number, share, following)
        found.append(following)
    return torch.stack(found[::-1], dim=1)


def n_step_returns(
    reward: Tensor,
    next_value: Tensor,
    bootstrap: Tensor,
    going_on: Tensor,
    gamma: float,
    steps: int,
) -> Tensor:
    r"""Return n-step targets, (B, T, ...); shorter where the episode ends sooner.

    .. math:: G^{(1)}_t = r_t + \gamma c_t V_{t+1}, \qquad G^{(n)}_t = r_t + \gamma c_t
              [(1 - g_t) V_{t+1} + g_t G^{(n-1)}_{t+1}]

    with the arguments of :func:`td_lambda_returns` and n = ``steps`` >= 1.
    """
    name = "n_step_returns"
    check_over_time(name, reward, next_value=next_value, bootstrap=bootstrap, going_on=going_on)
    gamma = check_number(f"{name}.gamma", gamma, 0.0, 1.0)
    steps = check_int(f"{name}.steps", steps, 1)
    target = reward + gamma * bootstrap * next_value
    for _ in range(steps - 1):
        following = torch.cat([target[:, 1:], next_value[:, -1:]], dim=1)
        following = torch.where(going_on > 0, following, next_value)
        target = reward + gamma * bootstrap * following
    return target


def ppo_surrogate(logp: Tensor, logp_old: Tensor, advantage: Tensor, clip: float) -> Tensor:
    r"""Return :math:`\min(\rho A, \mathrm{clip}(\rho, 1-c, 1+c) A)` per element; c > 0."""
    check_tensor("ppo_surrogate.logp", logp)
    check_tensor("ppo_surrogate.logp_old", logp_old, logp)
    check_tensor("ppo_surrogate.advantage", advantage, logp)
    clip = check_number("ppo_surrogate.clip", clip, 0.0, open_low=True)
    ratio = (logp - logp_old).exp()
    return torch.min(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage)


def _check_mask(name: str, x: object, mask: Tensor) -> None:
    check_tensor(f"{name}.x", x)
    check_tensor(f"{name}.mask", mask, x)
    check(mask.dtype == torch.bool, f"{name}.mask", "bool", mask)


def check_over_time(name: str, reward: Tensor, **others: Tensor) -> None:
    """Raise unless all are (B, T, ...) with the same episodes and steps as ``reward``."""
    check_tensor(f"{name}.reward", reward)
    for key, values in others.items():
        check_tensor(f"{name}.{key}", values)
        rule = f"of {tuple(reward.shape[:2])} episodes and steps, as many as there are rewards"
        check(values.shape[:2] == reward.shape[:2], f"{name}.{key}", rule, values)
