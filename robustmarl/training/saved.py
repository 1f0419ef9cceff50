"""Learners as files: their weights, how they were made, and what they were made for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar, overload

import torch
from tianshou.algorithm.algorithm_base import Algorithm

from robustmarl._checks import (
    check,
    check_flag,
    check_function,
    check_has,
    check_kind,
    check_usable,
    speaking_for,
)
from robustmarl.adversaries import Adversary
from robustmarl.learning import TeamAlgorithm
from robustmarl.learning.making import Making
from robustmarl.learning.optim import keeping_rates
from robustmarl.training.adversarial import AdversarialTraining
from robustmarl.training.checkpoints import check_finite, read_checkpoint, save_checkpoint
from robustmarl.training.spelling import Spelled, made_of, spelled, spelled_class

__all__ = ["Saved", "how_made", "load", "load_weights", "save_weights"]

Learner: TypeAlias = TeamAlgorithm | Adversary

_L = TypeVar("_L", bound=Learner)

_OPTIMIZERS = Algorithm._STATE_DICT_KEY_OPTIMIZERS, "_extra_state"
"""Where algorithms and adversaries keep what their optimizers know."""


@dataclass(frozen=True, kw_only=True)
class Saved(Generic[_L]):
    """What a file held.

    Attributes:
        learner: the algorithm or adversary, made anew, with its weights.
        make_env: builds the environment that it was saved with; None if it was saved without.
        about: what else was told of it.
    """

    learner: _L
    make_env: Callable[[], Any] | None
    about: Mapping[str, Any]


def save_weights(
    algorithm: torch.nn.Module,
    path: str | Path,
    *,
    make_env: Callable[[], Any] | None = None,
    about: Mapping[str, object] | None = None,
    optimizers: bool = True,
) -> None:
    """Write an algorithm's (or adversary's) weights, and how it was made.

    :func:`load` makes the same again of the file alone, :func:`load_weights` fills another one.

    Args:
        algorithm: what is saved.
        path: of the file.
        make_env: builds its environment: a function of ``envs``, or a ``partial`` of one.
        about: plain data that goes along.
        optimizers: whether what they know goes along, which a further training needs.

    Raises:
        ValueError: for weights that are not finite; a file that is there stays as it is.
        TypeError: for what is no algorithm, or an environment made by anything else.

    Example:
        >>> from robustmarl import algorithms, envs
        >>> team = algorithms.VDN.for_env(envs.climbing(), seed=0)
        >>> save_weights(team, "team.pt", make_env=envs.climbing)
        >>> type(load("team.pt").learner).__name__
        'VDN'
    """
    rule = "an algorithm or adversary"
    check_has("save_weights.algorithm", algorithm, ("state_dict", "load_state_dict"), rule)
    check_finite("save_weights.algorithm", algorithm)
    optimizers = check_flag("save_weights.optimizers", optimizers)
    kinds = [kind.__name__ for kind in type(algorithm).__mro__]
    state = algorithm.state_dict()
    if not optimizers:
        state = {key: one for key, one in state.items() if not key.endswith(_OPTIMIZERS)}
    content: dict[str, object] = {"class": kinds[0], "kinds": kinds, "algorithm": state}
    content |= how_made(algorithm)
    if make_env is not None:
        check_function("save_weights.make_env", make_env, "what builds an environment")
        try:
            content["environment"] = spelled("save_weights.make_env", make_env)
        except TypeError as error:
            remedy = "Leave make_env out, and pass the environment again where the team plays."
            raise TypeError(f"{error} {remedy}") from error
    if about is not None:
        check_kind("save_weights.about", about, Mapping, "a mapping from names")
        content["about"] = dict(about)
    with speaking_for("save_weights", save_checkpoint):
        save_checkpoint(path, content)


def load_weights(algorithm: torch.nn.Module, path: str | Path) -> None:
    """Load what :func:`save_weights`, or a run's checkpoint, holds into ``algorithm``.

    Raises:
        TypeError: for what is no algorithm or adversary.
        ValueError: if the weights are of another kind of algorithm, or do not fit.

    Example:
        >>> from robustmarl import algorithms, envs
        >>> one = algorithms.VDN.for_env(envs.climbing(), seed=0)
        >>> other = algorithms.VDN.for_env(envs.climbing(), seed=1)
        >>> save_weights(one, "team.pt")
        >>> load_weights(other, "team.pt")
        >>> pairs = zip(one.policy.parameters(), other.policy.parameters(), strict=True)
        >>> all(bool((ours == theirs).all()) for ours, theirs in pairs)
        True
    """
    rule, name = "an algorithm or adversary", type(algorithm).__name__
    check_has("load_weights.algorithm", algorithm, ("state_dict", "load_state_dict"), rule)
    content = read_checkpoint("load_weights", path)
    kinds = content.get("kinds", [content.get("class")])  # a run's checkpoint has one alone
    related = kinds[0] in [kind.__name__ for kind in type(algorithm).__mro__] or name in kinds
    rule = f"a {kinds[0]}, whose weights are in {str(path)!r}"
    check(related, "load_weights.algorithm", rule, name)
    _fill("load_weights", algorithm, content["algorithm"], content)


@overload
def load(path: str | Path, *, device: torch.device | str = "cpu") -> Saved[TeamAlgorithm]: ...


@overload
def load(path: str | Path, kind: type[_L], *, device: torch.device | str = "cpu") -> Saved[_L]: ...


def load(
    path: str | Path,
    kind: type[Any] = TeamAlgorithm,
    *,
    device: torch.device | str = "cpu",
) -> Saved[Any]:
    """Return what a file holds, made of the file alone, without executing code from it.

    Args:
        path: of a file that :func:`save_weights` wrote, or of a run's checkpoint, of which it
            takes the team, or, where that stood still, its one adversary.
        kind: what it is to be, for type checkers and for certain.
        device: where it is to live.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such file, does not say how it was made, or says it in names that
            this version has not got.
        TypeError: if it holds another kind.

    Example:
        >>> from robustmarl import algorithms, envs, evaluation
        >>> team = algorithms.VDN.for_env(envs.climbing(), seed=0)
        >>> save_weights(team, "team.pt", make_env=envs.climbing)
        >>> saved = load("team.pt")  # the file says what is made
        >>> evaluation.rollout(saved.learner, saved.make_env, episodes=5).lengths
        array([1, 1, 1, 1, 1])
    """
    if not (isinstance(kind, type) and issubclass(kind, TeamAlgorithm | Adversary)):
        rule = "a class of robustmarl.algorithms or robustmarl.adversaries"
        raise TypeError(f"load.kind must be {rule}, got {kind!r}.")
    check_usable("load.device", device)
    content = read_checkpoint("load", path)
    made = content.get("made")
    if made is None:
        why = content.get("unmade", "it was written by an earlier version")
        raise ValueError(
            f"load.path must be a file that says how its learner was made, got {str(path)!r}: "
            f"{why}. Make the learner yourself, and give both to load_weights."
        )
    cls = made_of("load.path", made["class"])
    if not issubclass(cls, kind):
        name = cls.__name__
        raise TypeError(f"load.path must hold a {kind.__name__}, got a {name}: load(path, {name}).")
    spec, settings = made_of("load.path", made["spec"]), made_of("load.path", made["settings"])
    with speaking_for("load.path", cls):
        learner = cls.for_env(spec, device=device, **settings)
    state, inside = content["algorithm"], made["inside"]
    if inside:
        state = {
            key.removeprefix(inside): one for key, one in state.items() if key.startswith(inside)
        }
    _fill("load", learner, state, content)
    environment = content.get("environment")
    make_env = None if environment is None else made_of("load.path", environment)
    return Saved(learner=learner, make_env=make_env, about=content.get("about", {}))


def how_made(learner: object) -> dict[str, Spelled]:
    """Return how :func:`load` makes a learner again: under ``made``, or ``unmade`` why it cannot.

    Of a team with adversaries it is the team, and where that stands still its one adversary.
    """
    inside, whole = "", ""
    if isinstance(learner, AdversarialTraining):
        still, several = learner.team is None, learner.adversaries
        names = ", ".join(type(one).__name__ for one in several)
        how = ", team_every=None" if still else ""
        whole = f", and what was saved is AdversarialTraining(team, [{names}]{how})"
        if still and len(several) > 1:
            return {"unmade": f"its team stood still{whole}"}
        inside = "_adversaries.0." if still else "team."
        learner = learner.adversaries[0] if still else learner.team
    made = getattr(learner, "made", None)
    if not isinstance(made, Making):
        return {"unmade": f"{type(learner).__name__} was not made by for_env{whole}"}
    name = type(learner).__name__
    try:
        settings = dict(made.settings)
        if isinstance(learner, TeamAlgorithm):
            settings["seed"] = learner.seed
        return {
            "made": {
                "class": spelled_class(name, type(learner)),
                "spec": spelled(f"{name}.spec", made.spec),
                "settings": spelled(name, settings),
                "inside": inside,
            }
        }
    except TypeError as error:
        return {"unmade": str(error).rstrip(".") + whole}


def _fill(
    name: str,
    learner: torch.nn.Module,
    state: Mapping[str, object],
    content: Mapping[str, object],
) -> None:
    """Give a learner the weights of a file; optimizers that are not in it stay fresh."""
    fresh = {key: one for key, one in learner.state_dict().items() if key.endswith(_OPTIMIZERS)}
    try:
        with keeping_rates(learner):
            learner.load_state_dict({**fresh, **state})
    except (RuntimeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{name}.path must hold weights of {type(learner).__name__} with these sizes, "
            f"got a {content.get('class')}: {error}"
        ) from error
