"""Composable attacks and defences for multi-agent reinforcement learning on PettingZoo."""

import importlib
from types import ModuleType

__version__ = "0.1.0"

__all__ = [
    "adversaries",
    "algorithms",
    "attacks",
    "budgets",
    "certify",
    "data",
    "envs",
    "evaluation",
    "joint",
    "learning",
    "losses",
    "networks",
    "perturbers",
    "policies",
    "schedules",
    "testing",
    "training",
    "typing",
    "victims",
    "wrappers",
    "zoo",
]


def __getattr__(name: str) -> ModuleType:
    """Import a subpackage on first use, so that ``import robustmarl`` stays cheap."""
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
