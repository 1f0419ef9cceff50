"""What networks are built of: widths, activations, plain linear layers."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from torch import nn

from robustmarl._checks import check, check_choice, check_each, check_flag, check_int

__all__ = ["Activation", "activation_of", "check_widths", "feed_forward"]

Activation = Literal["relu", "tanh"]
_ACTIVATIONS: dict[Activation, type[nn.ReLU] | type[nn.Tanh]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


def check_widths(where: str, hidden: object) -> tuple[int, ...]:
    """Return the widths of hidden layers as a tuple: one or more, each >= 1."""
    widths = check_each(where, hidden, check_int, "a tuple of ints")
    check(len(widths) > 0, where, "at least one width", hidden)
    return widths


def activation_of(name: Activation) -> nn.Module:
    """Return the activation called ``name``."""
    check_choice("activation_of.name", name, tuple(_ACTIVATIONS))
    return _ACTIVATIONS[name]()


def feed_forward(
    sizes: tuple[int, ...], activation: Activation = "relu", layer_norm: bool = False
) -> nn.Sequential:
    """Return linear layers ``sizes[0] -> ... -> sizes[-1]`` with activations between them."""
    sizes = check_each("feed_forward.sizes", sizes, check_int, "a tuple of ints")
    check(len(sizes) > 1, "feed_forward.sizes", "of input and output at least", sizes)
    check_choice("feed_forward.activation", activation, tuple(_ACTIVATIONS))
    layer_norm = check_flag("feed_forward.layer_norm", layer_norm)
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        if layers:
            layers += [nn.LayerNorm(fan_in)] if layer_norm else []
            layers.append(activation_of(activation))
        layers.append(nn.Linear(fan_in, fan_out))
    return nn.Sequential(*layers)
