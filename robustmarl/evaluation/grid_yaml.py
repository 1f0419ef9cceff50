"""Studies written as YAML: names of this package, and nothing else, stand for what they make."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import robustmarl.envs
from robustmarl import adversaries, algorithms, attacks, budgets, losses, perturbers, schedules
from robustmarl._checks import check, check_kind, check_known, check_path
from robustmarl.evaluation.recipes import Defence, Learned, Recipe
from robustmarl.learning import adam
from robustmarl.training import OffPolicy, OnPolicy

if TYPE_CHECKING:
    import yaml

__all__ = ["read_declaration"]

CALLED: tuple[ModuleType, ...] = (attacks, budgets, losses, perturbers, schedules)
"""Rooms whose names make an object where they stand."""

WHERE = "Grid.from_yaml.source"

OWN = (
    "A file names what this package makes and nothing else; environments, attacks and policies of "
    "your own go into Grid(...) in Python."
)
"""What to do with what is nobody's here."""

_FLOAT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
"""Numbers that YAML 1.1 takes for texts: 1e-3 has no point."""


def read_declaration(source: str | Path) -> dict[str, Any]:
    """Return the arguments of a grid that a YAML file, or a text of several lines, declares.

    Raises:
        ValueError: for what is no YAML, unknown names, and arguments that these refuse.
    """
    import yaml

    check_path(WHERE, source)
    inline = isinstance(source, str) and "\n" in source
    text = str(source) if inline else Path(source).read_text("utf-8")
    try:
        found = yaml.load(text, _loader())
    except yaml.YAMLError as error:
        raise ValueError(f"{WHERE} must be YAML that declares a study: {error}") from error
    check_kind(WHERE, found, dict, "YAML that declares a study")
    rooms = {"victims": Recipe, "defences": Defence}
    for part, kind in rooms.items():
        if isinstance(entries := found.get(part), dict):
            found[part] = {name: _made(part, name, kind, told) for name, told in entries.items()}
    return found


def _made(part: str, name: Any, kind: type, told: Any) -> Any:
    """Return a recipe or defence of the settings that a mapping gives it."""
    where = f"{WHERE}: {part}.{name}"
    check_kind(where, told, dict | None, "a mapping from settings")
    settings = dict(told or {})
    if "algorithm" in settings:
        settings["algorithm"] = _named(f"{where}.algorithm", settings["algorithm"], algorithms)
    if "mixins" in settings:
        check_kind(f"{where}.mixins", settings["mixins"], list, "a list of loss mixins")
        settings["mixins"] = [_named(f"{where}.mixins", one, losses) for one in settings["mixins"]]
    return _called(where, kind, (), settings)


def _named(where: str, name: Any, room: ModuleType) -> Any:
    check_kind(where, name, str, f"a name of {room.__name__}")
    check_known(where, name, room.__all__)
    return getattr(room, name)


@cache
def _names() -> dict[str, Callable[..., Any]]:
    """Return what tags may name, and what makes it of its arguments."""
    found: dict[str, Callable[..., Any]] = {
        one.__name__: one for one in (OffPolicy, OnPolicy, Learned, adam)
    }
    for room in CALLED:
        for name in room.__all__:
            if isinstance(one := getattr(room, name), type):
                found[name] = one
                found |= {f"{name}.{key}": getattr(one, key) for key in _classmethods(one)}
    # environments and adversaries are made in the process that needs them
    for name in robustmarl.envs.__all__:
        found[name] = partial(partial, getattr(robustmarl.envs, name))
    for name in adversaries.__all__:
        if hasattr(one := getattr(adversaries, name), "for_env"):
            found[name] = partial(partial, one.for_env)
    return found


def _classmethods(cls: type) -> list[str]:
    """Return its public ways to be made."""
    members = inspect.getmembers_static(cls, lambda one: isinstance(one, classmethod))
    return [name for name, _ in members if not name.startswith("_")]


def _called(where: str, make: Callable[..., Any], args: Any, settings: Any) -> Any:
    try:
        return make(*args, **settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


@cache
def _loader() -> type[yaml.SafeLoader]:
    """Return PyYAML's safe loader, which knows our names as tags and no others."""
    import yaml

    class Loader(yaml.SafeLoader):
        def __init__(self, stream: str) -> None:
            super().__init__(stream)
            self.deep_construct = True  # what a tag is given must be whole when it is called

        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            names = [key.value for key, _ in node.value]
            twice = sorted({str(name) for name in names if names.count(name) > 1})
            where = f"{WHERE}, line {node.start_mark.line + 1},"
            check(not twice, where, "a mapping with each name once", twice)
            return node

    def tagged(loader: Loader, name: str, node: yaml.Node) -> Any:
        where = f"{WHERE}, line {node.start_mark.line + 1}"
        check_known(where, name, _names(), OWN)
        args: Any = ()
        settings: Any = {}
        if isinstance(node, yaml.MappingNode):
            settings = loader.construct_mapping(node)
        elif isinstance(node, yaml.SequenceNode):
            args = loader.construct_sequence(node)
        elif node.value:
            kind = loader.resolve(yaml.ScalarNode, node.value, (True, False))
            args = [loader.construct_object(yaml.ScalarNode(kind, node.value))]
        check(all(isinstance(key, str) for key in settings), where, "settings by names", settings)
        return _called(f"{where}, {name}", _names()[name], args, settings)

    Loader.add_multi_constructor("!", tagged)
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
    return Loader
