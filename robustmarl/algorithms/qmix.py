"""QMIX: monotone mixing of individual Q-values."""

from __future__ import annotations

from typing import Any

from robustmarl.algorithms.value_based import ValueBased
from robustmarl.joint import TeamSpec
from robustmarl.networks import QMIXMixer

__all__ = ["QMIX"]


class QMIX(ValueBased):
    """QMIX [Rashid2018]_ with double-Q targets; see :class:`ValueBased` for the loss.

    ``for_env`` also takes ``embed`` (width of the mixing layer, 32), ``hyper_hidden`` (64),
    ``normalize_state`` (True) and ``init_gain`` (0.1) of :class:`~robustmarl.networks.QMIXMixer`.
    """

    @classmethod
    def _mixer(cls, spec: TeamSpec, settings: dict[str, Any]) -> dict[str, Any]:
        names = ("embed", "hyper_hidden", "normalize_state", "init_gain")
        own = {"init_gain": 0.1} | {n: settings.pop(n) for n in names if n in settings}
        per_agent = spec.state_layout == "per_agent"
        size = spec.state_size * (spec.num_agents if per_agent else 1)
        return {"mixer": QMIXMixer(size, spec.num_agents, **own)}
