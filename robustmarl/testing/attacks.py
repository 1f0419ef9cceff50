"""The contract of observation attacks."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from robustmarl._checks import check_function, check_has, check_int, sizes_of
from robustmarl._seeding import Draws
from robustmarl.attacks.aimed import AimedAttack
from robustmarl.attacks.base import ObsAttack, needs_victim
from robustmarl.attacks.losses import CrossEntropy, SquaredError
from robustmarl.budgets import Coordinates, LinfBall
from robustmarl.testing._error import ContractError, requirement
from robustmarl.victims import FunctionVictim, OutputLoss, Rows, Victim, VictimView

__all__ = ["check_attack"]

_require = requirement("An attack")

MakeAttack = Callable[[Coordinates], ObsAttack]


def check_attack(
    make_attack: MakeAttack,
    *,
    victim: Victim | None = None,
    obs_size: int = 6,
    num_actions: int = 4,
    rows: int = 16,
) -> None:
    """Check that an attack attacks, keeps its budget and leaves everything else alone.

    What an :class:`~robustmarl.attacks.AimedAttack` raises is its own ``output_loss``, what
    others do the cross entropy of the victim's action, or the distance from it; that loss must
    not fall where it could be raised. An attack with ``needs_victim = False``, like noise, only
    has to change something, and must not ask the victim.

    Args:
        make_attack: from a radius, one number or one per coordinate, to the attack, e.g.
            ``lambda epsilon: PGD(ball=LinfBall(epsilon=epsilon))``.
        victim: its rows are independent; None is a small discrete MLP.
        obs_size: D.
        num_actions: A, of the default victim and of the action masks.
        rows: M, >= 2.

    Raises:
        ContractError: naming the first promise that is broken.
        TypeError: for an argument of a wrong kind.
        ValueError: for a number out of range.

    Example:
        >>> from robustmarl.attacks import PGD
        >>> check_attack(lambda epsilon: PGD(ball=LinfBall(epsilon=epsilon)))
    """
    check_function("check_attack.make_attack", make_attack, "callable")
    obs_size, num_actions = sizes_of("check_attack", obs_size=obs_size, num_actions=num_actions)
    rows = check_int("check_attack.rows", rows, 2)
    if victim is None:
        victim = FunctionVictim(_network(obs_size, num_actions))
    check_has("check_attack.victim", victim, ("at", "side"), "a Victim, or None")
    trial = _Trial.of(victim, obs_size, num_actions, rows)
    before = _weights(victim)
    _check_budget(make_attack, trial)
    _check_rows(make_attack, trial)
    weights = zip(before, _weights(victim), strict=True)
    unchanged = all(_same(then, now) for then, now in weights)
    _require(unchanged, "leave the victim's weights and gradients alone")
    _check_effect(make_attack(0.05), trial)
    if isinstance(victim, FunctionVictim) and not victim.continuous:
        _check_masks(make_attack(0.5), trial, victim.function)


@dataclass(frozen=True)
class _Trial:
    """A victim, and M rows on which attacks are tried."""

    victim: Victim
    obs: Tensor
    mask: Tensor | None
    keys: Tensor

    @classmethod
    def of(cls, victim: Victim, obs_size: int, num_actions: int, rows: int) -> _Trial:
        generator = torch.Generator().manual_seed(0)
        # Rows of very different size, so that those that look at each other's gradients show it.
        scales = torch.logspace(-1.0, 1.0, rows)[torch.randperm(rows, generator=generator)]
        obs = torch.randn(rows, obs_size, generator=generator) * scales.unsqueeze(-1)
        mask = torch.rand(rows, num_actions, generator=generator) < 0.7
        mask[:, 0] = True
        keys = torch.randint(2**62, (rows,), generator=generator)
        device = victim.device
        available = None if victim.continuous else mask.to(device)
        return cls(victim, obs.to(device), available, keys.to(device))

    def view(self, index: Tensor | None = None, victim: Victim | None = None) -> VictimView:
        """Return the view of the rows ``index``, int64 (K,), or of all."""
        rows = Rows(mask=self.mask, agents=torch.zeros_like(self.keys))
        return (victim or self.victim).at(rows if index is None else rows.select(index))

    def play(
        self,
        attack: ObsAttack,
        index: Tensor | None = None,
        victim: Victim | None = None,
        grad: bool = False,
    ) -> Tensor:
        """Return what the attack makes of the rows ``index``, having watched its manners."""
        view = self.view(index, victim) if needs_victim(attack) else cast(VictimView, _Unaskable())
        obs, keys = (self.obs, self.keys) if index is None else (self.obs[index], self.keys[index])
        given, streams = obs.clone(), _global_streams()
        with torch.set_grad_enabled(grad):  # those who act do without, those who learn do not
            found = attack(view, given, Draws(keys))
        _require(not found.requires_grad, "return detached observations")
        _require(torch.equal(given, obs), "leave its input unmodified")
        _require(_global_streams() == streams, "take chance from the draws that it is given only")
        return found


class _Unaskable:
    """The view of attacks that say that they need no victim."""

    def __getattr__(self, name: str) -> Callable[..., Tensor]:
        raise ContractError(f"An attack must not ask for view.{name} with needs_victim = False.")


def _check_budget(make_attack: MakeAttack, trial: _Trial) -> None:
    obs = trial.obs
    for epsilon in (0.0, 0.05, 0.5):
        attack = make_attack(epsilon)
        found = trial.play(attack)
        _require(_kind(found) == _kind(obs), f"keep shape, dtype and device of {_kind(obs)}")
        if epsilon == 0.0:
            _require(torch.equal(found, obs), "be the identity, bit for bit, with zero budget")
        _require(attack.ball.contains(found, obs), f"stay in its ball, epsilon={epsilon}")
        same = trial.play(make_attack(0.25).with_epsilon(epsilon))
        _require(torch.equal(same, found), "be the same attack after with_epsilon(epsilon)")
        again = trial.play(attack, grad=True)
        _require(torch.equal(again, found), "return the same for the same draws")
    radii = tuple(0.1 * (i % 3) for i in range(obs.shape[-1]))
    inside = LinfBall(epsilon=radii).contains(trial.play(make_attack(radii)), obs)
    _require(inside, "keep a radius per coordinate, and leave those of radius zero untouched")


def _check_rows(make_attack: MakeAttack, trial: _Trial) -> None:
    size = len(trial.obs)
    every = torch.arange(size, device=trial.obs.device)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0)).to(every.device)
    # Wide radii: steps that overshoot turn directions, and then the weight of each step matters.
    for epsilon in (0.5, 2.0):
        attack = make_attack(epsilon)
        whole = trial.play(attack)
        for index in (order, every[size // 2 :], *every.split(1)):
            # Matrix products of other sizes may round differently, and where attacks go by the
            # differences of outputs these are shorter than the outputs; but no more than that.
            near = torch.allclose(trial.play(attack, index), whole[index], rtol=1e-5, atol=1e-5)
            _require(near, "treat rows independently of each other")


def _check_effect(attack: ObsAttack, trial: _Trial) -> None:
    obs, found = trial.obs, trial.play(attack)
    moved = not torch.equal(found, obs)
    if not needs_victim(attack):
        _require(moved, "change something where it has a budget")
        return
    view = trial.view()
    loss = _aim(attack, view, obs)
    clean = _mean_loss(loss, view, obs)  # first: a loss may take its label from the first output
    uphill = view.input_gradient(obs, loss).sign() * attack.ball.radius(obs)
    points = (attack.ball.project(obs + uphill, obs), attack.ball.sample(obs, Draws(trial.keys)))
    slack = 1e-6 * abs(clean)
    if max(_mean_loss(loss, view, point) for point in points) <= clean + slack:
        return  # nothing to be gained on this victim, as far as can be seen
    _require(moved, "change something where it has a budget")
    _require(
        _mean_loss(loss, view, found) >= clean - slack, "raise the victim's loss, not lower it"
    )


def _check_masks(attack: ObsAttack, trial: _Trial, function: Callable[[Tensor], Tensor]) -> None:
    mask = trial.mask
    assert mask is not None  # the victim is discrete

    def disguised(obs: Tensor) -> Tensor:
        """Return logits of which the unavailable are the best and the steepest."""
        return torch.where(mask, function(obs), 100.0 + 50.0 * obs.sum(dim=-1, keepdim=True))

    device = trial.victim.device
    plain = FunctionVictim(lambda obs: function(obs), device=device)  # by autograd, like the other
    found = trial.play(attack, victim=FunctionVictim(disguised, device=device))
    same = torch.equal(found, trial.play(attack, victim=plain))
    _require(same, "not depend on the logits of unavailable actions")


def _aim(attack: ObsAttack, view: VictimView, obs: Tensor) -> OutputLoss:
    if isinstance(attack, AimedAttack):
        return attack.output_loss(view, obs)
    return SquaredError(view.mean(obs)) if view.continuous else CrossEntropy()


@torch.no_grad()
def _mean_loss(loss: OutputLoss, view: VictimView, obs: Tensor) -> float:
    return loss(view.output(obs)).double().mean().item()


def _network(obs_size: int, num_actions: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(obs_size, 16), nn.Tanh(), nn.Linear(16, num_actions))
    for parameter in network.parameters():
        parameter.data.mul_(3.0)  # torch's draw is almost linear: no step would turn
    return network


def _global_streams() -> tuple[bytes, ...]:
    """Return the states of all generators that belong to nobody."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    states = [torch.get_rng_state(), *cuda]
    _, words, position, *_ = np.random.get_state()  # noqa: NPY002
    others = (np.asarray(words).tobytes(), repr((position, random.getstate())).encode())
    return (*(state.numpy().tobytes() for state in states), *others)


def _weights(victim: Victim) -> list[Tensor | None]:
    """Return copies of the victim's parameters and of their gradients."""
    holders = (getattr(victim, "network", None), getattr(victim, "function", None))
    modules = [holder for holder in holders if isinstance(holder, nn.Module)]
    weights = [weight for module in modules for weight in module.parameters()]
    gradients = [None if weight.grad is None else weight.grad.clone() for weight in weights]
    return [*(weight.detach().clone() for weight in weights), *gradients]


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)


def _kind(x: Tensor) -> tuple[tuple[int, ...], torch.dtype, str]:
    return tuple(x.shape), x.dtype, str(x.device)
