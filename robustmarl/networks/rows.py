"""Asking a team's network about some of its agent-steps only."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from robustmarl.networks.agents import AgentNetwork, Agents

__all__ = ["unroll_rows"]

# Ours: to gather rows and to spread outputs costs a network of two layers of 256 about a tenth.
_WORTH = 0.9


def unroll_rows(
    network: Agents,
    obs: Tensor,
    last_act: Tensor | None,
    side: Mapping[str, Tensor],
    asked: Tensor,
    hidden: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return what ``network.unroll`` does, zeros or anything where nobody asks.

    In large teams many die, and episodes end: a network without memory, which agents share and
    which does not know who they are, need not answer for those.

    Args:
        network: the agents.
        obs: (B, T, N, D).
        last_act: actions before each step, (B, T, N), or None.
        side: further inputs by name, (B, T, N, size) each.
        asked: which outputs are wanted, bool (B, T, N).
        hidden: memory before the first step, (B, N, H); None is empty.
    """
    alike = isinstance(network, AgentNetwork) and network.id_table is None
    if not alike or network.recurrent or int(asked.sum()) > _WORTH * asked.numel():
        return network.unroll(obs, last_act, side, hidden)
    last = None if last_act is None else last_act[asked]
    extra = network.extra(None, last, {name: values[asked] for name, values in side.items()})
    answers, _ = network.step(obs[asked], extra, None)
    outputs = answers.new_zeros(*asked.shape, answers.shape[-1])
    return outputs.index_put(asked.nonzero().unbind(1), answers), None
