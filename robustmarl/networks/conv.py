"""Agents that read the beginning of their observation as an image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Unpack

import torch
from torch import Tensor, nn

from robustmarl._checks import check, check_each, check_int, check_kind, keep
from robustmarl.networks.agents import AgentNetwork, AgentSettings
from robustmarl.networks.layers import activation_of, check_widths
from robustmarl.networks.protocol import Extra

__all__ = ["Conv", "ConvAgentNetwork", "as_conv"]


@dataclass(frozen=True)
class Conv:
    """A small convolutional network for views: layers without padding, at stride 1.

    Args:
        view: (H, W, C), the image's height, width and channels. It is the first H * W * C
            coordinates of an observation, flattened row by row as numpy does; what follows are
            features without places.
        channels: of each layer, one or more, >= 1.
        kernel: width of each layer's square window, in pixels, >= 1.

    Raises:
        ValueError: for sizes out of range, or windows that the image has no room for.
        TypeError: for what is no int.

    Example:
        >>> Conv((13, 13, 5)).flat_size, Conv((13, 13, 5)).features
        (845, 2592)
    """

    view: tuple[int, int, int]
    channels: tuple[int, ...] = (32, 32)
    kernel: int = 3

    def __post_init__(self) -> None:
        view = check_each("Conv.view", self.view, check_int, "a tuple of ints")
        check(len(view) == 3, "Conv.view", "(height, width, channels)", self.view)
        channels = check_widths("Conv.channels", self.channels)
        kernel = check_int("Conv.kernel", self.kernel, 1)
        keep(self, view=view, channels=channels, kernel=kernel)
        most = (min(view[:2]) - 1) // len(channels) + 1
        rule = f"at most {most} for {len(channels)} layers on a view of {view[0]} x {view[1]}"
        check(kernel <= most, "Conv.kernel", rule, kernel)

    @property
    def flat_size(self) -> int:
        """The number of an observation's coordinates that are the image."""
        return math.prod(self.view)

    @property
    def features(self) -> int:
        """The number of outputs of the last layer."""
        lost = len(self.channels) * (self.kernel - 1)
        height, width, _ = self.view
        return (height - lost) * (width - lost) * self.channels[-1]


def as_conv(where: str, conv: object) -> Conv:
    """Return settings of convolutions; a view, (H, W, C), stands for those with defaults."""
    if isinstance(conv, tuple | list):
        return Conv(tuple(conv))
    check_kind(where, conv, Conv, "a Conv, or a view's (height, width, channels)")
    assert isinstance(conv, Conv)
    return conv


class ConvAgentNetwork(AgentNetwork):
    """An :class:`AgentNetwork` whose first layer reads what convolutions make of an image.

    Convolutions and activations turn the image into features; these, and the observation's
    coordinates behind the image, are the input of the first linear layer, to which agents' ids,
    last actions and mean actions are added as in any :class:`AgentNetwork`. Attacks differentiate
    through it by autograd; bounds and action poisoning, which read layers, refuse it.

    Args:
        obs_size: D, at least the image's coordinates.
        num_agents: N.
        num_actions: A.
        conv: of the image; a tuple is its (height, width, channels).
        settings: of :class:`AgentNetwork`, but for ``columns``.

    Raises:
        ValueError: for an image larger than the observation, or columns.

    Example:
        >>> from robustmarl import algorithms, envs
        >>> team = algorithms.MFAC.for_env(envs.battle(map_size=12), conv=(13, 13, 5), team="red")
        >>> type(team.policy.network).__name__
        'ConvAgentNetwork'
    """

    def __init__(
        self,
        obs_size: int,
        num_agents: int,
        num_actions: int,
        *,
        conv: Conv | tuple[int, int, int],
        **settings: Unpack[AgentSettings],
    ) -> None:
        name = type(self).__name__
        conv = as_conv(f"{name}.conv", conv)
        obs_size = check_int(f"{name}.obs_size", obs_size, 1)
        rule = f"of at most {obs_size} coordinates, the observation's"
        check(conv.flat_size <= obs_size, f"{name}.conv", rule, conv)
        columns = settings.get("columns")
        check(columns is None, f"{name}.columns", "None beside an image", columns)
        read_size = conv.features + obs_size - conv.flat_size
        super().__init__(read_size, num_agents, num_actions, **settings)
        self.obs_size, self.conv = obs_size, conv
        layers: list[nn.Module] = []
        for before, after in pairwise((conv.view[2], *conv.channels)):
            layers.append(nn.Conv2d(before, after, conv.kernel))
            layers.append(activation_of(settings.get("activation", "relu")))
        self.image = nn.Sequential(*layers)

    def plan(self) -> None:
        """Return None: what walks the layers of networks knows no convolution."""

    def features(self, obs: Tensor) -> Tensor:
        """Return what the first linear layer reads of observations (..., D)."""
        size = self.conv.flat_size
        image = obs[..., :size].reshape(-1, *self.conv.view)
        # Channels lie last, as they came, which convolutions on the CPU are fastest on, too.
        seen: Tensor = self.image(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        flat = seen.reshape(*obs.shape[:-1], self.conv.features)
        return flat if size == self.obs_size else torch.cat([flat, obs[..., size:]], dim=-1)

    def step(
        self, obs: Tensor, extra: Extra | None, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return (output (..., A), hidden (..., H) or None) of one step; obs (..., D)."""
        return super().step(self.features(obs), extra, hidden)

    def unroll(
        self,
        obs: Tensor,
        last_act: Tensor | None,
        side: Mapping[str, Tensor] | None = None,
        hidden: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return what :meth:`AgentNetwork.unroll` does; obs (B, T, N, D)."""
        return super().unroll(self.features(obs), last_act, side, hidden)
