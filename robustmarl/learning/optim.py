"""Optimizer factories, learning rates over time, and their state."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from tianshou.algorithm.algorithm_base import Algorithm
from tianshou.algorithm.optim import (
    LRSchedulerFactory,
    OptimizerFactory,
    ParamsType,
    TorchOptimizerFactory,
)
from torch.optim.lr_scheduler import LRScheduler

from robustmarl._checks import check, check_kind, check_number
from robustmarl.schedules import Constant, Schedule, as_schedule
from robustmarl.typing import Unit

__all__ = [
    "adam",
    "check_factory",
    "check_max_grad_norm",
    "follow",
    "own_state_dict",
    "torch_factory",
]


def adam(lr: float | Schedule, eps: float = 1e-8) -> OptimizerFactory:
    """Return Adam with fused kernels: for small networks the loop over tensors is the cost.

    Args:
        lr: step size, > 0; or a schedule, >= 0, of what the learner has counted when it begins an
            update. Teams and directors count updates, episodes and environment steps, other
            learners updates alone.
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
    rate = as_schedule("adam.lr", lr, 0.0, open_low=not callable(lr))
    eps = check_number("adam.eps", eps, 0.0, open_low=True)
    told = rate.value if isinstance(rate, Constant) else rate
    return torch_factory(torch.optim.Adam, lr=told, eps=eps, fused=True)


def torch_factory(cls: type[torch.optim.Optimizer], **settings: Any) -> OptimizerFactory:
    """Return a factory of one of torch's optimizers, whose ``lr`` may be a schedule."""
    scheduled = callable(settings.get("lr"))
    return (_ScheduledFactory if scheduled else TorchOptimizerFactory)(cls, **settings)


class _ScheduledFactory(TorchOptimizerFactory):
    """Makes optimizers whose learning rate follows a schedule, which is its ``lr``."""

    def __init__(self, cls: type[torch.optim.Optimizer], *, lr: Schedule, **settings: Any) -> None:
        super().__init__(cls, lr=lr, **settings)
        self.with_lr_scheduler_factory(_Following(lr))
        self.schedule = lr

    def _create_optimizer_for_params(self, params: ParamsType) -> torch.optim.Optimizer:
        return self.optim_class(params, **self.kwargs | {"lr": self.schedule(0)})


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

    def follow(self, counted: Callable[[Unit], int] | None) -> None:
        """Go by what ``counted`` says from now on, None by steps."""
        self._counted = counted
        self._check_unit()

    def _check_unit(self) -> None:
        knows = self._counted is not None or self.schedule.unit == "updates"
        rule = "counting 'updates' for what counts nothing else"
        check(knows, "adam.lr", rule, self.schedule)

    def step(self, epoch: int | None = None) -> None:
        """Set the rate of the next update; torch's own would ask for optimizer steps before it."""
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the rate of each group of parameters."""
        if self.last_epoch > 0:  # before that nobody has been able to say
            self._check_unit()
        unit, counted = self.schedule.unit, self._counted
        count = self.last_epoch if counted is None else counted(unit)
        rate = check_number("adam.lr", self.schedule(count), 0.0)
        return [rate for _ in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return how far it is, as plain data."""
        told = super().state_dict()
        return {key: one for key, one in told.items() if key not in ("schedule", "_counted")}


def follow(schedulers: Sequence[LRScheduler], counted: Callable[[Unit], int] | None) -> None:
    """Let those of :func:`adam` go by what ``counted`` says; others step as they are made to.

    Raises:
        ValueError: if it is None, and one of them counts something else than updates.
    """
    for one in schedulers:
        if isinstance(one, _ScheduledRate):
            one.follow(counted)


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
