"""VDN: the team's value is the sum of individual Q-values."""

from __future__ import annotations

from typing import Any

from robustmarl.algorithms.value_based import ValueBased
from robustmarl.joint import TeamSpec
from robustmarl.networks import VDNMixer

__all__ = ["VDN"]


class VDN(ValueBased):
    """VDN [Sunehag2018]_ with double-Q targets; see :class:`ValueBased` for the loss."""

    @classmethod
    def _mixer(cls, spec: TeamSpec, settings: dict[str, Any]) -> VDNMixer:
        return VDNMixer()
