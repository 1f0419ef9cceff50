"""PGD-10 on a plain MLP, over the bare loop of forward and backward passes.

    python benchmarks/pgd.py --json pgd.json

One thread, process CPU time, repetitions interleaved; the median ratio per batch size.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.networks.layers import feed_forward
from robustmarl.victims import FunctionVictim

STEPS = 10


def bare(network: torch.nn.Module, obs: torch.Tensor, label: torch.Tensor) -> None:
    """Do nothing but the ``STEPS`` forward and backward passes of PGD, by autograd."""
    for _ in range(STEPS):
        x = obs.detach().requires_grad_()
        torch.autograd.grad(cross_entropy(network(x), label, reduction="sum"), x)


def cpu_seconds(work: Callable[[], object], calls: int) -> float:
    """Return process CPU seconds per call."""
    start = time.process_time()
    for _ in range(calls):
        work()
    return (time.process_time() - start) / calls


def measure(batch: int, repetitions: int) -> dict[str, float]:
    """Return CPU milliseconds of both, and the median ratio, at one batch size."""
    torch.manual_seed(0)
    network = feed_forward((48, 64, 64, 9))
    obs = torch.randn(batch, 48)
    label = network(obs).argmax(dim=-1)
    attack, view = PGD(ball=LinfBall(epsilon=0.1), steps=STEPS), FunctionVictim(network).at()
    calls = max(3, 20_000 // (batch + 200))
    pairs = []
    for repetition in range(repetitions + 1):
        ours = cpu_seconds(lambda: attack(view, obs), calls)
        reference = cpu_seconds(lambda: bare(network, obs, label), calls)
        if repetition > 0:  # the first warms up
            pairs.append((ours, reference))
    return {
        "batch": batch,
        "pgd_ms": 1e3 * statistics.median(ours for ours, _ in pairs),
        "bare_ms": 1e3 * statistics.median(reference for _, reference in pairs),
        "ratio": statistics.median(ours / reference for ours, reference in pairs),
    }


def main() -> None:
    """Print the table; write it to ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64, 1024])
    parser.add_argument("--repetitions", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(batch, arguments.repetitions) for batch in arguments.batches]
    print(f"{'batch':>6} {'PGD-10 ms':>10} {'bare ms':>9} {'ratio':>6}")
    for row in rows:
        print(
            f"{row['batch']:6.0f} {row['pgd_ms']:10.3f} {row['bare_ms']:9.3f} {row['ratio']:6.2f}"
        )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"steps": STEPS, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
