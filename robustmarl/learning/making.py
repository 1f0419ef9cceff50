"""What was asked for when something was made, so that the same can be made again."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from robustmarl._checks import speaking_for
from robustmarl.joint import TeamSpec, check_parallel, spec_of
from robustmarl.typing import Env

__all__ = ["Making", "remembered", "team_spec"]

_Method = TypeVar("_Method", bound=Callable[..., Any])


@dataclass(frozen=True)
class Making:
    """The team that something was made for, and the keywords it was made with.

    Attributes:
        spec: the team's.
        settings: of ``for_env``, device and team left out; arguments without a keyword by name.
    """

    spec: TeamSpec
    settings: Mapping[str, object]


def remembered(for_env: _Method) -> _Method:
    """Let what a class method ``for_env(cls, env, ...)`` returns keep its :class:`Making`.

    It is kept as ``made``, as it was asked for: what settings default to may change.
    """
    signature = inspect.signature(for_env)

    @functools.wraps(for_env)
    def make(cls: type, env: Any, *args: object, **keywords: object) -> Any:
        found = for_env(cls, env, *args, **keywords)
        _, first, *_ = signature.parameters
        told = signature.bind(cls, env, *args, **keywords).arguments
        settings = {name: value for name, value in told.items() if name not in ("cls", first)}
        settings |= cast("dict[str, object]", settings.pop("settings", {}))
        spec = team_spec(cls.__name__, env, cast("str | None", settings.pop("team", None)))
        settings.pop("device", None)
        found.made = Making(spec, settings)
        return found

    return cast(_Method, make)


def team_spec(name: str, env: Env | TeamSpec, team: str | None = None) -> TeamSpec:
    """Return the spec of a team of ``env``, which ``name`` was given.

    Raises:
        TypeError: if ``env`` is neither a parallel environment nor a spec.
        ValueError: for an unknown team, or None where there are several.
    """
    if not isinstance(env, TeamSpec):
        check_parallel(f"{name}.env", env)
        env = spec_of(env)
    with speaking_for(name, TeamSpec):
        return env.of_team(team)
