"""How a belief network learns who is Byzantine."""

from __future__ import annotations

import torch
from tianshou.algorithm.algorithm_base import Algorithm
from torch import Tensor
from torch.nn import functional as F

from robustmarl._checks import check_has, check_int, check_kind
from robustmarl.learning.returns import masked_mean
from robustmarl.networks import BeliefNetwork

__all__ = ["BeliefLearner"]


class BeliefLearner:
    r"""Cross-entropy of beliefs against the types, by truncated backpropagation [Li2024]_.

    .. math:: L_b = -\overline{\theta^j \log b^{ij}_t + (1 - \theta^j) \log(1 - b^{ij}_t)}

    over observers i, subjects j and the steps played. It owns no weights: the algorithm whose
    team has the beliefs does, and makes the optimizer.

    Args:
        belief: the network.
        optim: its optimizer.
        epochs: passes over the episodes, >= 1.
        minibatches: optimizer steps per pass, each on a random part of the chunks, >= 1.
        chunk: steps over which the gradient passes back, >= 1; None is the episode.
    """

    def __init__(
        self,
        belief: BeliefNetwork,
        optim: Algorithm.Optimizer,
        *,
        epochs: int = 1,
        minibatches: int = 5,
        chunk: int | None = 10,
    ) -> None:
        name = type(self).__name__
        check_kind(f"{name}.belief", belief, BeliefNetwork, "a BeliefNetwork")
        check_has(f"{name}.optim", optim, ("step",), "an optimizer of the belief's weights")
        self.belief, self.optim = belief, optim
        self.epochs = check_int(f"{name}.epochs", epochs, 1)
        self.minibatches = check_int(f"{name}.minibatches", minibatches, 1)
        self.chunk = None if chunk is None else check_int(f"{name}.chunk", chunk, 1)

    def learn(self, obs: Tensor, types: Tensor, valid: Tensor, memory: Tensor, seed: int) -> float:
        """Learn from B episodes, and return the mean loss.

        Args:
            obs: what the network reads, (B, T, N, D).
            types: who is Byzantine, bool (B, T, N).
            valid: the steps played, bool (B, T).
            memory: the network's after each observation, the terminal one included,
                (B, T+1, N, H): where chunks begin.
            seed: of the order of chunks.
        """
        steps, num_agents = obs.shape[1:3]
        chunk = min(self.chunk or steps, steps)
        parts = -(-steps // chunk)
        pad = parts * chunk - steps  # steps that are not valid fill the last chunk

        def cut(values: Tensor) -> Tensor:
            """Return (B, T, ...) as chunks, (B * parts, chunk, ...), the last one padded."""
            padded = F.pad(values, (*(0, 0) * (values.dim() - 2), 0, pad))
            return padded.reshape(-1, chunk, *padded.shape[2:])

        # Memory before each chunk: empty before the first, else that of the step before it.
        before = F.pad(memory[:, chunk - 1 : -1 : chunk], (0, 0, 0, 0, 1, 0))[:, :parts]
        start = before.reshape(-1, *before.shape[2:])
        labels = types.to(obs.dtype).unsqueeze(2).expand(-1, -1, num_agents, -1)
        obs, labels, rows = cut(obs), cut(labels), cut(valid)
        generator = torch.Generator().manual_seed(seed)
        losses = []
        for _ in range(self.epochs):
            order = torch.randperm(len(obs), generator=generator).to(obs.device)
            for part in order.tensor_split(min(self.minibatches, len(obs))):
                logits, _ = self.belief.unroll(obs[part], start[part])
                loss = belief_loss(logits, labels[part], rows[part])
                self.optim.step(loss)
                losses.append(loss.detach())
        return float(torch.stack(losses).mean())


def belief_loss(logits: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
    """Return the mean cross-entropy over observers, subjects and the steps ``rows``.

    Args:
        logits: (B, T, N, N).
        labels: 0 or 1, of the same shape.
        rows: bool (B, T).
    """
    each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return masked_mean(each.mean(dim=(-1, -2)), rows)
