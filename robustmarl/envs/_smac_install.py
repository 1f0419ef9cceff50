"""What SMAC needs that no package index has, and what to say where it is missing."""

from __future__ import annotations

import importlib
import warnings
from importlib.machinery import PathFinder
from importlib.util import find_spec
from types import ModuleType

__all__ = ["import_part", "require_binary", "require_package"]

_GUIDE = "See 'SMAC' in the documentation."


def require_package() -> None:
    """Raise unless ``smac`` is the StarCraft one; SMAC3, of that name too, is not imported."""
    install = (
        "Install it with: pip install --no-deps git+https://github.com/oxwhirl/smac.git "
        "&& pip install pysc2 s2clientprotocol pygame."
    )
    found = find_spec("smac")
    if found is None:
        raise ImportError(
            f"envs.smac needs the package 'smac', the StarCraft one. {install} {_GUIDE}"
        )
    if PathFinder.find_spec("smac.env", found.submodule_search_locations or []) is None:
        raise ImportError(
            f"envs.smac needs the package 'smac' of StarCraft, got another one at {found.origin}. "
            "PyPI's 'smac' is AutoML's SMAC3, with the same import name: use an environment "
            f"without it. {install} {_GUIDE}"
        )


def import_part(module: str) -> ModuleType:
    """Import a module of smac's or pysc2's; what fails says what to install or to set."""
    try:
        with warnings.catch_warnings():  # about what their own dependencies deprecate
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", UserWarning)
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"envs.smac needs the package {error.name!r}, on which 'smac' depends. "
            f"Install it with pip. {_GUIDE}"
        ) from error
    except TypeError as error:
        if "Descriptors cannot be created directly" not in str(error):
            raise
        raise ImportError(
            "envs.smac needs a protobuf that reads StarCraft II's old messages, got a newer one. "
            "Set the environment variable PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python before "
            f"Python starts, or install 'protobuf<3.21'. {_GUIDE}"
        ) from error


def require_binary(name: str, version: object) -> None:
    """Raise unless pysc2 finds StarCraft II and the map."""
    launch_error: type[Exception] = import_part("pysc2.lib.sc_process").SC2LaunchError
    try:
        config = import_part("pysc2.run_configs").get(version=version)
    except (OSError, launch_error) as error:
        raise FileNotFoundError(
            f"envs.smac needs StarCraft II where pysc2 looks for it, got: {error}. Install it, "
            "and set the environment variable SC2PATH to its folder unless that is "
            f"~/StarCraftII. {_GUIDE}"
        ) from error
    path = import_part("pysc2.maps").get(name).path
    try:
        config.map_data(path)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"envs.smac needs the map file {path!r} in the folder Maps of StarCraft II, got: "
            f"{error} Put smac's folder SMAC_Maps there. {_GUIDE}"
        ) from error
