"""What everything that learns against a team has in common."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from tianshou.algorithm.algorithm_base import Algorithm
from tianshou.algorithm.optim import OptimizerFactory
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from robustmarl._checks import check
from robustmarl.joint import JointBatch
from robustmarl.learning.making import Making
from robustmarl.learning.modes import is_training
from robustmarl.learning.optim import check_factory, check_max_grad_norm, follow
from robustmarl.perturbers.base import Perturber
from robustmarl.typing import Unit

__all__ = ["Adversary", "Needs", "Sample", "check_adversaries"]

Needs = Literal["fresh", "drawn", "advantage"]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What an adversary may learn from in one round.

    Attributes:
        fresh: the episodes that were played since it last learned, or None.
        drawn: the very episodes that the team drew for its own update, as stored, or None.
        advantage: the team's advantages over ``fresh`` before its update, standardised over the
            agent-steps that it learns from, (B, T, N); for adversaries that ask for them.
        epochs: passes that the team takes over its episodes, for those that keep step with it.
    """

    fresh: JointBatch | None = None
    drawn: JointBatch | None = None
    advantage: Tensor | None = None
    epochs: int = 1


class Adversary(nn.Module, ABC):
    """Learns against a team, or around it, from the episodes that it plays itself.

    :class:`robustmarl.training.AdversarialTraining` lets it play and learn; it saves and loads on
    its own, its optimizers and learning rates included. A subclass makes one perturber when it is
    made, and implements :meth:`perturber`, :meth:`learn` and :meth:`deployed`;
    :func:`robustmarl.testing.check_adversary` says whether it keeps what is promised here.

    Attributes:
        optimizers: those that :meth:`create_optimizer` made.
        lr_schedulers: of their learning rates; :meth:`step_schedulers` steps them.
        made: what ``for_env`` was asked for, None for what it did not make.
    """

    made: Making | None = None

    needs: frozenset[Needs] = frozenset({"fresh"})
    """What of a :class:`Sample` it cannot learn without."""

    takes_segments: ClassVar[bool] = False
    """Whether ``fresh`` may be pieces of episodes; it asks for whole ones where it sums them up."""

    def __init__(self) -> None:
        super().__init__()
        self.optimizers: list[Algorithm.Optimizer] = []
        self.lr_schedulers: list[LRScheduler] = []

    @abstractmethod
    def perturber(self) -> Perturber:
        """Return what plays while it learns, the same object each time.

        It explores, and records under its own name what :meth:`learn` needs.
        """

    def can_learn(self, sample: Sample) -> bool:
        """Return whether there are the episodes that it cannot learn without.

        In a population its own may be missing among the newest or among the drawn ones. What takes
        note of either, though it needs the other to learn, says so by returning True.
        """
        there = {"fresh": sample.fresh is not None, "drawn": sample.drawn is not None}
        return all(there.get(need, True) for need in self.needs)

    @abstractmethod
    def learn(self, sample: Sample) -> Mapping[str, float]:
        """Learn, and return figures by name. The team's weights are not touched."""

    @abstractmethod
    def deployed(self, greedy: bool | None = None) -> Perturber:
        """Return what plays as it would now, whatever is learned later: for evaluation.

        Args:
            greedy: whether it plays its most likely choice or draws; None is as it is usually
                evaluated.
        """

    def train(self, mode: bool = True) -> Self:
        """Put all of it into training mode, or out of it, as torch does."""
        return self if mode and is_training(self) else super().train(mode)

    def recorded(self, batch: JointBatch) -> Mapping[str, Tensor]:
        """Return what its own perturber recorded in these episodes, (B, T, ...) each."""
        return batch.record(self.perturber().place.name)

    def create_optimizer(
        self,
        module: nn.Module,
        factory: OptimizerFactory,
        max_grad_norm: float | None,
        *,
        counted: Callable[[Unit], int] | None = None,
    ) -> Algorithm.Optimizer:
        """Return an optimizer of ``module`` whose state travels with the weights.

        Args:
            module: whose parameters it changes.
            factory: makes it, and its scheduler if any.
            max_grad_norm: global norm at which gradients are clipped, > 0, or None.
            counted: what a schedule of its learning rate goes by; None counts calls of
                :meth:`learn`.
        """
        name = type(self).__name__
        check_factory(f"{name}.optim", factory)
        check_max_grad_norm(f"{name}.max_grad_norm", max_grad_norm)
        made, scheduler = factory.create_instances(module)
        if scheduler is not None:
            self.lr_schedulers.append(scheduler)
            follow([scheduler], counted, name)
        optimizer = Algorithm.Optimizer(made, module, max_grad_norm=max_grad_norm)
        self.optimizers.append(optimizer)
        return optimizer

    def step_schedulers(self) -> None:
        """Step the schedulers of learning rates, once per call of :meth:`learn`."""
        for scheduler in self.lr_schedulers:
            scheduler.step()

    def get_extra_state(self) -> dict[str, Any]:
        """Return the state of optimizers and schedulers, which travels with the weights."""
        return {
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self.lr_schedulers],
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` returned; ``state`` is left as it is."""
        copied = copy.deepcopy(state)  # torch's optimizers keep the tensors that they are given
        for optimizer, values in zip(self.optimizers, copied["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        known = copied["schedulers"]
        if len(known) == len(self.lr_schedulers):  # else one of both learned at a fixed rate
            for scheduler, values in zip(self.lr_schedulers, known, strict=True):
                scheduler.load_state_dict(values)


def check_adversaries(where: str, adversaries: object) -> list[Adversary]:
    """Return a sequence of adversaries, at least one, as a list.

    Raises:
        TypeError: for anything else.
        ValueError: for none, or the same object twice.
    """
    if isinstance(adversaries, str) or not isinstance(adversaries, Sequence):
        raise TypeError(f"{where} must be adversaries, got {type(adversaries).__name__}.")
    for one in adversaries:
        if not isinstance(one, Adversary):
            raise TypeError(f"{where} must be adversaries, got {type(one).__name__}.")
    distinct = len({id(one) for one in adversaries}) == len(adversaries) > 0
    kinds = [type(one).__name__ for one in adversaries]
    check(distinct, where, "different adversaries, at least one", kinds)
    return list(adversaries)
