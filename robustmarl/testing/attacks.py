"""The contract of observation attacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from robustmarl._seeding import Draws
from robustmarl.attacks.base import ObsAttack
from robustmarl.budgets import Coordinates, LinfBall
from robustmarl.testing._error import ContractError
from robustmarl.victims import FunctionVictim, Rows, Victim

__all__ = ["check_attack"]


def check_attack(
    make_attack: Callable[[Coordinates], ObsAttack],
    *,
    victim: Victim | None = None,
    obs_size: int = 6,
    num_actions: int = 4,
    rows: int = 16,
) -> None:
    """Check that an attack keeps its budget and leaves everything else alone.

    Args:
        make_attack: from a radius, one number or one per coordinate, to the attack, e.g.
            ``lambda epsilon: PGD(ball=LinfBall(epsilon=epsilon))``.
        victim: its rows are independent; None is a small discrete MLP.
        obs_size: D.
        num_actions: A, of the default victim and of the action masks.
        rows: M, >= 2.

    Raises:
        ContractError: naming the first promise that is broken.

    Example:
        >>> from robustmarl.attacks import PGD
        >>> check_attack(lambda epsilon: PGD(ball=LinfBall(epsilon=epsilon)))
    """
    generator = torch.Generator().manual_seed(0)
    network: nn.Module | None = None
    if victim is None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = nn.Sequential(nn.Linear(obs_size, 16), nn.Tanh(), nn.Linear(16, num_actions))
        victim = FunctionVictim(network)
    device = victim.device
    obs = torch.randn(rows, obs_size, generator=generator).to(device)
    mask = (torch.rand(rows, num_actions, generator=generator) < 0.7).to(device)
    mask[:, 0] = True
    keys = torch.randint(2**62, (rows,), generator=generator).to(device)
    bound = None if victim.continuous else mask

    def attacked(attack: ObsAttack, pick: slice = slice(None)) -> Tensor:
        view = victim.at(Rows(mask=None if bound is None else bound[pick]))
        with torch.no_grad():
            return attack(view, obs[pick].clone(), Draws(keys[pick]))

    weights = _snapshot(victim, network)
    for epsilon in (0.0, 0.05, 0.5):
        attack = make_attack(epsilon)
        found = attacked(attack)
        _require(_kind(found) == _kind(obs), f"keep shape, dtype and device of {_kind(obs)}")
        _require(not found.requires_grad, "return detached observations")
        if epsilon == 0.0:
            _require(torch.equal(found, obs), "be the identity, bit for bit, with zero budget")
        _require(attack.ball.contains(found, obs), f"stay in its ball, epsilon={epsilon}")
        same = attacked(make_attack(0.25).with_epsilon(epsilon))
        _require(torch.equal(same, found), "be the same attack after with_epsilon(epsilon)")
    attack = make_attack(0.5)
    whole = attacked(attack)
    _require(torch.equal(whole, attacked(attack)), "return the same for the same draws")
    half = attacked(attack, slice(rows // 2, None))
    near = torch.allclose(half, whole[rows // 2 :], rtol=0.0, atol=1e-6)
    _require(near, "treat rows independently of each other")
    given = obs.clone()
    attack(victim.at(Rows(mask=bound)), given, Draws(keys))
    _require(torch.equal(given, obs), "leave its input unmodified")
    _per_coordinate(make_attack, attacked, obs)
    after = _snapshot(victim, network)
    unchanged = all(_same(a, b) for a, b in zip(weights, after, strict=True))
    _require(unchanged, "leave the victim's weights and gradients alone")


def _per_coordinate(
    make_attack: Callable[[Coordinates], ObsAttack],
    attacked: Callable[[ObsAttack], Tensor],
    obs: Tensor,
) -> None:
    epsilon = tuple(0.1 * (d % 3) for d in range(obs.shape[-1]))
    found = attacked(make_attack(epsilon))
    inside = LinfBall(epsilon=epsilon).contains(found, obs)
    _require(inside, "keep a radius per coordinate, and leave those of radius zero untouched")


def _snapshot(victim: Victim, network: nn.Module | None) -> list[Tensor | None]:
    holders = (network, getattr(victim, "network", None), getattr(victim, "function", None))
    modules: Iterable[nn.Module] = (m for m in holders if isinstance(m, nn.Module))
    parameters = [p for module in modules for p in module.parameters()]
    grads = [None if p.grad is None else p.grad.clone() for p in parameters]
    return [*(p.detach().clone() for p in parameters), *grads]


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)


def _kind(x: Tensor) -> tuple[object, ...]:
    return tuple(x.shape), x.dtype, str(x.device)


def _require(good: bool, promise: str) -> None:
    if not good:
        raise ContractError(f"An attack must {promise}.")
