"""Gaussians squashed by tanh, whose spread depends on what is seen, and networks of them."""

from __future__ import annotations

import math
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustmarl._checks import check
from robustmarl.networks.agents import AgentNetwork, AgentSettings
from robustmarl.networks.gaussian import gaussian_log_density

__all__ = ["SquashedNetwork", "squashed_log_density", "unsquashed"]

_EDGE = 1e-3
"""How near to the ends of [-1, 1] an action is taken to be: tanh never reaches them, and where a
deterministic actor saturates its density would be of numbers without end."""


def squashed_log_density(u: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    r"""Return each coordinate's log-density, (..., A), of :math:`a = \tanh u` with u Gaussian.

    .. math:: \log h(a) = \log N(u; \mu, \sigma) - \log(1 - \tanh^2 u), \qquad
              \log(1 - \tanh^2 u) = 2\,[\log 2 - u - \log(1 + e^{-2u})]

    Args:
        u: before it is squashed, (..., A).
        mean: :math:`\mu`, (..., A).
        log_std: :math:`\log\sigma`, (..., A) or (A,).
    """
    # written so that nothing is rounded to 0 where tanh is 1
    stretched = 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))
    return gaussian_log_density(u, mean, log_std) - stretched


def unsquashed(act: Tensor) -> Tensor:
    """Return what tanh makes ``act`` of, (..., A); its ends count as .001 inside of them."""
    return torch.atanh(act.clamp(-1.0 + _EDGE, 1.0 - _EDGE))


class SquashedNetwork(AgentNetwork):
    r"""Means and log standard deviations of a squashed Gaussian for every agent, (..., 2A).

    An :class:`~robustmarl.networks.AgentNetwork` of continuous actions with one more output per
    coordinate in place of ``log_std``, which is the same for all observations.

    Args:
        obs_size: D.
        num_agents: N.
        num_actions: A.
        settings: of ``AgentNetwork``, without ``continuous`` and ``squash``.
    """

    def __init__(
        self, obs_size: int, num_agents: int, num_actions: int, **settings: Unpack[AgentSettings]
    ) -> None:
        for name in ("continuous", "squash"):
            rule = "left out: outputs are a Gaussian's, which tanh squashes"
            check(name not in settings, f"{type(self).__name__}.{name}", rule, settings.get(name))
        settings["continuous"] = True
        super().__init__(obs_size, num_agents, num_actions, **settings)
        self.log_std = None
        narrow = self.head if self.recurrent else self.rest[-1]
        assert isinstance(narrow, nn.Linear)  # without squash the last layer is one
        wide = nn.Linear(narrow.in_features, 2 * self.num_actions)
        gain = settings.get("output_gain")
        if gain is not None:
            nn.init.orthogonal_(wide.weight, gain)
            nn.init.zeros_(wide.bias)
        if self.recurrent:
            self.head = wide
        else:
            self.rest[-1] = wide
