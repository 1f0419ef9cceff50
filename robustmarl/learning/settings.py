"""Keywords of ``for_env``: one ``TypedDict`` per family of learners, composed by inheritance.

A class with keywords of its own extends its family's beside the class, and says so in its
``for_env(env, **settings: Unpack[...])``. Type checkers and :func:`check_settings` read the same
declaration. What the keywords mean is told where they end: the class, and its network.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar, cast

import torch
from tianshou.algorithm.algorithm_base import Algorithm
from tianshou.algorithm.optim import OptimizerFactory

from robustmarl._signatures import (
    keywords,
    keywords_without_default,
    passes_on,
    typed_keywords,
    typeddict_keys,
)
from robustmarl.learning.optim import check_factory
from robustmarl.learning.values import Reward
from robustmarl.networks.conv import Conv
from robustmarl.networks.layers import Activation
from robustmarl.schedules import Schedule

__all__ = [
    "ActorCriticSettings",
    "ExplorationSettings",
    "MadeForSettings",
    "NetworkSettings",
    "OpenSettings",
    "PPOSettings",
    "TeamSettings",
    "ValueBasedSettings",
    "check_settings",
    "known_settings",
    "take",
    "told_of",
]

OpenSettings: TypeAlias = dict[str, Any]
"""Keywords on their way through ``_build``: a subclass may have added any, so values are Any."""

_T = TypeVar("_T")


class MadeForSettings(TypedDict, total=False):
    """What, where and from which seed a learner is made."""

    team: str | None
    device: torch.device | str
    seed: int


class NetworkSettings(TypedDict, total=False):
    """Keywords of :class:`~robustmarl.networks.AgentNetwork`, and whether agents share one.

    ``conv`` makes it a :class:`~robustmarl.networks.ConvAgentNetwork`.
    """

    hidden: tuple[int, ...]
    recurrent: bool
    agent_id: bool
    last_action: bool
    activation: Activation
    layer_norm: bool
    output_gain: float | None
    columns: tuple[int, ...] | None
    conv: Conv | tuple[int, int, int] | None
    shared: bool


class ExplorationSettings(TypedDict, total=False):
    """How policies explore in training, and whether stochastic ones act greedily outside of it."""

    exploration: float | Schedule
    deterministic_eval: bool


class TeamSettings(MadeForSettings, NetworkSettings, total=False):
    """What every learner of a team takes."""


class ValueBasedSettings(TeamSettings, total=False):
    """Keywords of :class:`~robustmarl.algorithms.value_based.ValueBased`."""

    exploration: float | Schedule
    optim: OptimizerFactory | None
    gamma: float
    td_lambda: float
    target_update: int
    target_unit: Literal["episodes", "updates"]
    double_q: bool
    reward: Reward
    max_grad_norm: float | None


class ActorCriticSettings(TeamSettings, ExplorationSettings, total=False):
    """What learners with a critic of every action take: COMA and DOP."""

    critic_hidden: tuple[int, ...]
    optim: OptimizerFactory | None
    critic_optim: OptimizerFactory | None
    gamma: float
    td_lambda: float
    target_update: int
    reward_scale: float
    entropy_coef: float
    max_grad_norm: float | None


class PPOSettings(TeamSettings, total=False):
    """Keywords of :class:`~robustmarl.algorithms.ppo_based.PPOBased`."""

    critic_hidden: tuple[int, ...]
    deterministic_eval: bool
    optim: OptimizerFactory | None
    gamma: float
    gae_lambda: float
    clip: float
    entropy_coef: float
    value_coef: float
    reward: Reward
    normalize_value: bool
    huber_delta: float | None
    max_grad_norm: float | None


def take(settings: OpenSettings, kind: type[_T]) -> _T:
    """Take out of ``settings``, and return, what ``kind`` names: a ``TypedDict``, nothing required.

    What is left over belongs to somebody else: ``_build`` passes it on to the constructor, which a
    subclass may have extended.
    """
    names = typeddict_keys(kind)
    return cast(_T, {name: settings.pop(name) for name in list(settings) if name in names})


def known_settings(cls: type) -> frozenset[str]:
    """Return what ``cls.for_env`` takes.

    That is what the first ``for_env`` with typed keywords in the order of inheritance says, and
    what the constructors of classes before it, mixins and subclasses, add. Where there is none, it
    is what the constructor has defaults for: what it cannot do without, the method makes.
    """
    added: set[str] = set()
    for base in cls.__mro__:
        method = vars(base).get("for_env")
        typed = typed_keywords(method.__func__) if isinstance(method, classmethod) else None
        if typed is not None:
            return typed | added
        added |= keywords(base)
    taken: set[str] = set()
    for base in cls.__mro__:
        taken |= keywords(base, optional=True)
        if not passes_on(base):  # what bases take it gives them itself
            break
    return frozenset(taken)


def required(cls: type, root: type) -> list[str]:
    """Return what ``cls.for_env`` cannot do without: keywords without default of its mixins.

    Args:
        cls: an algorithm.
        root: what all algorithms are, and mixins are not: what the constructors of algorithms ask
            for is made by themselves.
    """
    found: list[str] = []
    for base in cls.__mro__:
        method = vars(base).get("for_env")
        if isinstance(method, classmethod) and typed_keywords(method.__func__) is not None:
            break
        if root not in base.__mro__:
            found += keywords_without_default(base)
    return found


def check_settings(
    cls: type, given: Mapping[str, object], *parts: type, method: str = "for_env"
) -> None:
    """Raise ``TypeError`` for keywords that ``cls.for_env`` does not take, and for bad optimizers.

    The message names the nearest right keyword, or what to write in place of this one.

    Args:
        cls: what is made.
        given: the keywords.
        parts: typed dictionaries of further keywords, which its parts take.
        method: that is called.
    """
    known = known_settings(cls).union(*map(typeddict_keys, parts))
    for name, value in given.items():
        if name not in known:
            raise TypeError(
                f"{cls.__name__}.{method} has no setting {name!r}. {_advice(cls, name, known)}"
            )
        if name.endswith("optim") and value is not None:
            check_factory(f"{cls.__name__}.{name}", value)


@contextmanager
def told_of(cls: type, given: Mapping[str, object]) -> Iterator[None]:
    """Let errors of the parts of ``cls`` name the keyword that the user gave to it.

    An error of ``Critic.hidden`` is one of ``MAPPO.critic_hidden`` where that is among ``given``,
    else one of ``MAPPO.hidden``, and of ``Critic.hidden`` where neither is.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        text = str(error)
        found = re.match(r"(\w+)\.(\w+)\b", text)
        part, name = found.groups() if found else ("", "")
        told = [key for key in (f"{_PREFIXES.get(part, '')}{name}", name) if key in given]
        if part == cls.__name__ or not told:
            raise
        text = f"{cls.__name__}.{told[0]}{text[found.end() if found else 0 :]}"
        raise type(error)(text) from error


_PREFIXES = {
    "ActionCritic": "critic_",
    "Critic": "critic_",
    "FactoredCritic": "critic_",
    "JointCritic": "critic_",
    "TypedCritic": "critic_",
    "BeliefLearner": "belief_",
    "BeliefNetwork": "belief_",
    "ByzantinePolicy": "adversary_",
    "SharedByzantine": "adversary_",
    "GaussianObsAdversary": "noise_",
}
"""What keywords of a learner's parts begin with."""


def _advice(cls: type, name: str, known: frozenset[str]) -> str:
    for mixin in _mixins(Algorithm):
        if name in keywords(mixin):
            kind = mixin.__name__
            return (
                f"{kind} takes it, mixed in left of the algorithm: "
                f"class My{cls.__name__}({kind}, {cls.__name__}): ..."
            )
    if step_size := re.fullmatch(r"(\w+_)?(lr|learning_rate)", name):
        whose = f"{step_size[1] or ''}optim"
        whose = whose if whose in known else "optim"
        return f"The step size is the optimizer's: {whose}=adam(lr), adam of robustmarl.learning."
    near = difflib.get_close_matches(name, sorted(known), n=1)
    guess = f"Did you mean {near[0]!r}? " if near else ""
    return f"{guess}It takes {', '.join(sorted(known))}."


def _mixins(cls: type) -> Iterator[type]:
    """Yield the subclasses that pass all keywords on which they do not know."""
    subclasses: list[type] = cls.__subclasses__()
    for subclass in subclasses:
        line = subclass.__mro__[: subclass.__mro__.index(Algorithm)]
        if all(passes_on(base) for base in line):
            yield subclass
        yield from _mixins(subclass)
