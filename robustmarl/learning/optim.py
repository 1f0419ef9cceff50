"""Optimizer factories, learning rates over time, and their state."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import torch
from tianshou.algorithm.algorithm_base import Algorithm
from tianshou.algorithm.optim import (
    LRSchedulerFactory,
    OptimizerFactory,
    ParamsType,
    TorchOptimizerFactory,
)
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from robustmarl._checks import check, check_kind, check_number
from robustmarl.schedules import Schedule, as_schedule
from robustmarl.typing import Unit

__all__ = [
    "ScheduledFactory",
    "adam",
    "check_factory",
    "check_max_grad_norm",
    "follow",
    "keeping_rates",
    "own_state_dict",
    "torch_factory",
]


def adam(lr: float | Schedule, eps: float = 1e-8) -> OptimizerFactory:
    """Return Adam with fused kernels: for small networks the loop over tensors is the cost.

    Args:
        lr: step size, > 0; or a schedule, >= 0, of what the learner had counted at the end of its
            last update: the first one has the value at 0. Teams and directors count updates,
            episodes and environment steps, other learners updates alone.
        eps: added to the denominator, > 0; torch's default, PPO's learners take 1e-5.

    Raises:
        ValueError: for numbers out of range.
        TypeError: for what is neither number nor schedule.

    Example:
        >>> from robustmarl import algorithms, envs
        >>> team = algorithms.VDN.for_env(envs.climbing(), optim=adam(lr=1e-3), seed=0)
        >>> team.optim._optim.param_groups[0]["lr"]
        0.001
        >>> from robustmarl.schedules import Linear
        >>> falling = Linear(1e-3, 0.0, over=50_000, begin=50_000, unit="env_steps")
        >>> team = algorithms.VDN.for_env(envs.climbing(), optim=adam(falling), seed=0)
    """
    eps = check_number("adam.eps", eps, 0.0, open_low=True)
    if callable(lr):
        return torch_factory(torch.optim.Adam, lr=lr, eps=eps, fused=True)
    lr = check_number("adam.lr", lr, 0.0, open_low=True)
    return TorchOptimizerFactory(torch.optim.Adam, lr=lr, eps=eps, fused=True)


def torch_factory(cls: type[torch.optim.Optimizer], **settings: Any) -> OptimizerFactory:
    """Return a factory of one of torch's optimizers, whose ``lr`` may be a schedule."""
    lr = settings.get("lr")
    if not callable(lr):
        return TorchOptimizerFactory(cls, **settings)
    rule = f"a number, or a schedule that counts one of {list(get_args(Unit))}"
    counts = not isinstance(lr, type) and getattr(lr, "unit", None) in get_args(Unit)
    if not counts:
        raise TypeError(f"{_name(cls)}.lr must be {rule}, got {lr!r}.")
    return ScheduledFactory(cls, as_schedule(f"{_name(cls)}.lr", lr, 0.0), **settings)


def _name(cls: type[torch.optim.Optimizer]) -> str:
    return cls.__name__.lower()


class ScheduledFactory(TorchOptimizerFactory):
    """Makes optimizers whose learning rate follows a schedule, which is their ``lr``."""

    def __init__(
        self, cls: type[torch.optim.Optimizer], schedule: Schedule, **settings: Any
    ) -> None:
        super().__init__(cls, **settings)
        self.schedule = schedule
        self._first = check_number(f"{_name(cls)}.lr", schedule(0), 0.0)
        self.with_lr_scheduler_factory(_Following(schedule))

    @property
    def plain(self) -> bool:
        """Whether this schedule is what its optimizers follow: another may have been put on it."""
        return isinstance(self.lr_scheduler_factory, _Following)

    def _create_optimizer_for_params(self, params: ParamsType) -> torch.optim.Optimizer:
        return self.optim_class(params, **self.kwargs | {"lr": self._first})


class _Following(LRSchedulerFactory):
    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def create_scheduler(self, optim: torch.optim.Optimizer) -> LRScheduler:
        return _ScheduledRate(optim, self.schedule)


class _ScheduledRate(LRScheduler):
    """Sets a learning rate by what a learner has counted, by itself the calls of :meth:`step`."""

    def __init__(self, optim: torch.optim.Optimizer, schedule: Schedule) -> None:
        self.schedule = schedule
        self._counted: Callable[[Unit], int] | None = None
        super().__init__(optim)

    def follow(self, counted: Callable[[Unit], int] | None, owner: str) -> None:
        """Go by what ``counted`` says from now on, None by steps."""
        self._counted = counted
        self._check_unit(owner)

    def _check_unit(self, owner: str) -> None:
        rule = f"counting 'updates', as {owner} counts nothing else"
        knows = self._counted is not None or self.schedule.unit == "updates"
        where = f"{_name(type(self.optimizer))}.lr"
        check(knows, where, rule, self.schedule, "Write unit='updates'.")

    def step(self, epoch: int | None = None) -> None:
        """Set the rate of the next update; torch's own would ask for optimizer steps before it."""
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self.renew()

    def renew(self) -> None:
        """Set the rate that belongs to what is counted now."""
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the rate of each group of parameters."""
        if self.last_epoch > 0:  # before that nobody has been able to say
            self._check_unit("what it learns for")
        unit, counted = self.schedule.unit, self._counted
        count = self.last_epoch if counted is None else counted(unit)
        rate = check_number(f"{_name(type(self.optimizer))}.lr", self.schedule(count), 0.0)
        return [rate for _ in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return how far it is, as plain data."""
        told = super().state_dict()
        return {key: one for key, one in told.items() if key not in ("schedule", "_counted")}


def follow(
    schedulers: Sequence[LRScheduler], counted: Callable[[Unit], int] | None, owner: str
) -> None:
    """Let those of :func:`adam` go by what ``counted`` says; others step as they are made to.

    Args:
        schedulers: of learning rates.
        counted: number of updates, episodes or environment steps so far; None is their own steps.
        owner: whose they are, for messages.

    Raises:
        ValueError: if ``counted`` is None, and one of them counts something else than updates.
    """
    for one in schedulers:
        if isinstance(one, _ScheduledRate):
            one.follow(counted, owner)


@contextmanager
def keeping_rates(learner: nn.Module) -> Iterator[None]:
    """Let optimizers that are loaded meanwhile learn on at rates of their own.

    What follows a schedule is set to where that is now. What has a number keeps it where the
    weights come from optimizers that followed one, whose last rate may be 0.

    Args:
        learner: an algorithm, an adversary, or what has such among its modules.
    """
    schedulers: list[LRScheduler] = []
    optimizers: dict[int, torch.optim.Optimizer] = {}
    for part in learner.modules():
        schedulers += getattr(part, "lr_schedulers", [])
        for name in ("_optimizers", "optimizers"):
            optimizers |= {id(one._optim): one._optim for one in getattr(part, name, [])}
    for scheduler in schedulers:
        optimizers.pop(id(scheduler.optimizer), None)
    own = {key: [group["lr"] for group in one.param_groups] for key, one in optimizers.items()}
    yield
    for key, one in optimizers.items():
        for group, rate in zip(one.param_groups, own[key], strict=True):
            if group.pop("initial_lr", None) is not None:
                group["lr"] = rate
    for scheduler in schedulers:
        if isinstance(scheduler, _ScheduledRate):
            scheduler.renew()


def check_factory(where: str, factory: object) -> None:
    """Raise ``TypeError`` unless ``factory`` makes optimizers; the message says what to give."""
    remedy = "Give adam(5e-4) of robustmarl.learning, or one of Tianshou's."
    check_kind(where, factory, OptimizerFactory, "an optimizer factory", remedy)


def check_max_grad_norm(where: str, max_grad_norm: float | None) -> None:
    """Raise unless gradients can be clipped at this global norm; None clips none."""
    if max_grad_norm is not None:
        check_number(where, max_grad_norm, 0.0, open_low=True)


def own_state_dict(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy that Tianshou may take the optimizers from.

    Their state is copied, too: torch's optimizers keep the very tensors they are given, and
    would go on to change them.
    """
    optimizers = Algorithm._STATE_DICT_KEY_OPTIMIZERS
    copied = dict(state_dict)  # Tianshou removes the optimizers' entry from what it is given
    if optimizers in copied:
        copied[optimizers] = copy.deepcopy(copied[optimizers])
    return copied
