"""VDN: the team's value is the sum of individual Q-values."""

from __future__ import annotations

from robustmarl.algorithms.value_based import ValueBased
from robustmarl.joint import TeamSpec
from robustmarl.learning.settings import OpenSettings
from robustmarl.networks import VDNMixer

__all__ = ["VDN"]


class VDN(ValueBased):
    """VDN [Sunehag2018]_ with double-Q targets; see :class:`ValueBased` for the loss."""

    @classmethod
    def _mixer(cls, spec: TeamSpec, settings: OpenSettings) -> VDNMixer:
        return VDNMixer()
