"""The contract of loss terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import torch
from tianshou.utils.torch_utils import policy_within_training_step
from torch import Tensor, nn

from robustmarl._checks import check_function, check_int, flags_of
from robustmarl._seeding import Draws
from robustmarl.algorithms import IPPO
from robustmarl.attacks import ObsAttack
from robustmarl.budgets import Coordinates, LinfBall
from robustmarl.data import EpisodeBuffer, JointCollector
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.losses import LossMixin, Term
from robustmarl.networks import AgentNetwork
from robustmarl.schedules import Schedule
from robustmarl.testing._compare import same_tensors, weights_of
from robustmarl.testing._error import requirement
from robustmarl.testing._game import UnevenGame
from robustmarl.victims import LossRows, NetworkVictim, Rows, Victim, VictimView

__all__ = ["check_loss"]

_require = requirement("A loss term")

_EPSILON = 0.3
"""The radius that the attacks here use up: far from zero, small beside unit normal rows."""


def check_loss(
    make_term: Callable[[ObsAttack], Term],
    *,
    continuous: bool = False,
    zero_without_budget: bool = False,
    asks_attack: bool = True,
    obs_size: int = 5,
    num_actions: int = 4,
    rows: int = 8,
) -> None:
    """Check a loss term against everything that algorithms rely on.

    The term is a finite scalar with a gradient for the policy, the mean of what it is on each row
    alone, and the same for the same random numbers. Coordinates and actions that do not exist do
    not count. The attack is called without gradients, on observations that it may write into. The
    term leaves its rows, the policy's ``.grad`` and torch's global generator alone. At weight 0
    an algorithm learns the same bits as without it, and never asks the attack.

    Args:
        make_term: from an attack to the term, which does without further randomness of its own,
            e.g. ``lambda attack: ActionLoss(attack=attack, weight=1.0)``.
        continuous: whether it is for policies of continuous actions.
        zero_without_budget: whether it must be 0 where the attack changes nothing.
        asks_attack: whether it asks the attack; a term on bounds takes its ball only.
        obs_size: D, >= 2.
        num_actions: A, >= 2.
        rows: M, >= 2.

    Raises:
        ContractError: naming the first promise that is broken.
        TypeError: if ``make_term`` is not callable.
        ValueError: if a number is out of range.

    Example:
        >>> from robustmarl.losses import ActionLoss
        >>> check_loss(lambda attack: ActionLoss(attack=attack, weight=1.0))
    """
    check_function("check_loss.make_term", make_term, "callable")
    continuous, zero_without_budget, asks_attack = flags_of(
        "check_loss",
        continuous=continuous,
        zero_without_budget=zero_without_budget,
        asks_attack=asks_attack,
    )
    for name, size in {"obs_size": obs_size, "num_actions": num_actions, "rows": rows}.items():
        check_int(f"check_loss.{name}", size, 2)
    case = _Case.of(continuous, obs_size, num_actions, rows)
    value = _check_value(make_term, case, asks_attack)
    _check_rows(make_term, case, value)
    _check_padding(make_term, case, value)
    if zero_without_budget:
        nothing = float(case.value(make_term(_Push(LinfBall(epsilon=0.0)))).detach())
        _require(abs(nothing) < 1e-6, f"be 0 where the attack changes nothing, got {nothing}")
    _check_weightless(make_term, continuous)


@dataclass(frozen=True)
class _Case:
    """A policy and rows that it learns from."""

    network: AgentNetwork
    victim: Victim
    rows: LossRows
    keys: Tensor

    @classmethod
    def of(cls, continuous: bool, obs_size: int, num_actions: int, rows: int) -> Self:
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = _network(obs_size, num_actions, continuous)
        return cls(
            network=network,
            victim=NetworkVictim(network, continuous=continuous),
            rows=LossRows(
                obs=torch.randn(rows, obs_size, generator=generator),
                rows=Rows(mask=torch.ones(rows, num_actions, dtype=torch.bool)),
            ),
            keys=torch.randint(2**62, (rows,), generator=generator),
        )

    def value(self, term: Term, index: Tensor | None = None) -> Tensor:
        """Return the term on all rows, or on some."""
        rows = self.rows if index is None else self.rows.select(index)
        keys = self.keys if index is None else self.keys[index]
        return term.loss(self.victim, rows, Draws(keys))


def _network(obs_size: int, num_actions: int, continuous: bool) -> AgentNetwork:
    """Return a small network that also bounds are known of."""
    return AgentNetwork(
        obs_size,
        1,
        num_actions,
        hidden=(16,),
        agent_id=False,
        activation="tanh",
        continuous=continuous,
    )


def _check_value(make_term: Callable[[ObsAttack], Term], case: _Case, asks_attack: bool) -> Tensor:
    """Return the term's value, which is a scalar with a gradient for the policy only."""
    attack = _Push(LinfBall(epsilon=_EPSILON))
    term = make_term(attack)
    kept, generator = case.rows.obs.clone(), torch.get_rng_state()
    value = case.value(term)
    scalar = isinstance(value, Tensor) and value.shape == ()
    _require(scalar, "return a scalar tensor")
    _require(bool(value.isfinite()), f"be finite, got {float(value.detach())}")
    _require(value.requires_grad, "carry a gradient")
    asked = "ask the attack" if asks_attack else "not ask the attack"
    _require(bool(attack.grad_enabled) == asks_attack, asked)
    _require(not any(attack.grad_enabled), "call the attack under no_grad")
    _require(torch.equal(case.rows.obs, kept), "give the attack a copy, which it may write into")
    same = torch.equal(generator, torch.get_rng_state())
    _require(same, "leave torch's global generator alone")
    untouched = all(weight.grad is None for weight in case.network.parameters())
    _require(untouched, "leave the policy's .grad alone")
    gradients = torch.autograd.grad(value, list(case.network.parameters()), allow_unused=True)
    moved = any(part is not None and bool((part != 0).any()) for part in gradients)
    _require(moved, "have a gradient for the policy's parameters that is not zero")
    again = case.value(term)
    _require(torch.equal(value, again), "be the same for the same random numbers")
    return value.detach()


def _check_rows(make_term: Callable[[ObsAttack], Term], case: _Case, value: Tensor) -> None:
    term = make_term(_Push(LinfBall(epsilon=_EPSILON)))
    numbers = torch.arange(len(case.rows))
    each = torch.stack([case.value(term, number[None]).detach() for number in numbers])
    near = torch.allclose(each.mean(), value, rtol=1e-4, atol=1e-6)
    _require(near, "be the mean of what it is on each row alone")


def _check_padding(make_term: Callable[[ObsAttack], Term], case: _Case, value: Tensor) -> None:
    """Append coordinates and actions that do not exist: the value stays."""
    obs, mask = case.rows.obs, torch.ones_like(case.rows.obs, dtype=torch.bool)
    num_actions = case.network.num_actions
    padding = torch.zeros(len(obs), 2)
    network = _padded(case.network)
    wide_mask = torch.cat([mask, padding.bool()], dim=1)
    actions = torch.ones(len(obs), num_actions, dtype=torch.bool)
    padded = _Case(
        network=network,
        victim=NetworkVictim(network, continuous=case.victim.continuous),
        rows=LossRows(
            obs=torch.cat([obs, padding], dim=1),
            rows=Rows(mask=torch.cat([actions, padding.bool()], dim=1), obs_mask=wide_mask),
        ),
        keys=case.keys,
    )
    found = padded.value(make_term(_Push(LinfBall(epsilon=_EPSILON)))).detach()
    near = torch.allclose(found, value, rtol=1e-4, atol=1e-6)
    _require(near, "not count coordinates and actions that do not exist")


@torch.no_grad()
def _padded(network: AgentNetwork) -> AgentNetwork:
    """Return it with two coordinates more, which it reads, and two outputs more, which are 7."""
    size, num_actions = network.obs_size, network.num_actions
    with torch.random.fork_rng(devices=[]):
        wide = _network(size + 2, num_actions + 2, network.continuous)
    wide.first.weight[:, :size] = network.first.weight
    wide.first.weight[:, size:] = 1.0
    wide.first.bias.copy_(network.first.bias)
    old, new = ([m for m in net.rest if isinstance(m, nn.Linear)] for net in (network, wide))
    new[-1].weight[:num_actions], new[-1].bias[:num_actions] = old[-1].weight, old[-1].bias
    new[-1].weight[num_actions:], new[-1].bias[num_actions:] = 0.0, 7.0
    return wide


def _check_weightless(make_term: Callable[[ObsAttack], Term], continuous: bool) -> None:
    attack = _Push(LinfBall(epsilon=_EPSILON))
    term = make_term(attack)
    plain = _trained(IPPO, continuous)
    without = _trained(_with_term(_Weighted(term, 0.0)), continuous)
    _require(same_tensors(plain, without), "leave an algorithm's bits alone at weight 0")
    _require(not attack.grad_enabled, "not ask the attack at weight 0")
    joined = _trained(_with_term(_Weighted(term, 1.0)), continuous)
    _require(not same_tensors(plain, joined), "change what an algorithm learns at weight 1")
    finite = all(bool(weight.isfinite().all()) for weight in joined.values())
    _require(finite, "keep an algorithm's weights finite")


def _with_term(term: Term) -> type[IPPO]:
    class Regularized(LossMixin, IPPO):
        """IPPO with the term."""

        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.add_term("term", term)

    return Regularized


def _trained(kind: type[IPPO], continuous: bool) -> Mapping[str, Tensor]:
    """Return the weights after one update on a few episodes."""
    make_env = partial(UnevenGame, continuous=continuous)
    algorithm = kind.for_env(make_env(), hidden=(8,))
    buffer = EpisodeBuffer(algorithm.spec, 2)
    collector = JointCollector(algorithm, JointVectorEnv(make_env, 2), buffer)
    with policy_within_training_step(algorithm.policy):
        collector.collect(n_episode=2)
        algorithm.update(buffer=buffer, batch_size=None, repeat=2)
    collector.close()
    return weights_of(algorithm)


@dataclass(frozen=True)
class _Weighted:
    """A term at another weight."""

    term: Term
    weight: float | Schedule

    @property
    def max_rows(self) -> int | None:
        return self.term.max_rows

    def loss(self, victim: Victim, rows: LossRows, draws: Draws) -> Tensor:
        return self.term.loss(victim, rows, draws)


@dataclass(frozen=True)
class _Push:
    """Goes to the ball's upper end, writing into its input, and notes whether gradients flow."""

    ball: LinfBall
    grad_enabled: list[bool] = field(default_factory=list)

    def with_epsilon(self, epsilon: Coordinates) -> Self:
        return type(self)(self.ball.with_epsilon(epsilon), self.grad_enabled)

    def __call__(self, view: VictimView, obs: Tensor, draws: Draws | None = None) -> Tensor:
        self.grad_enabled.append(torch.is_grad_enabled())
        return obs.add_(self.ball.radius(obs))
