"""Bounds of an MLP's leads over a ball, over one forward pass of the same rows.

    python benchmarks/bounds.py [--batches 64 1024] [--json bounds.json]

One thread, process CPU time, each piece of work in turn with the forward pass; the median ratio.
"""

import argparse
import json
from pathlib import Path

import torch
from _timing import times_longer

from robustmarl.budgets import LinfBall
from robustmarl.certify import BoundMethod, margin_bounds
from robustmarl.losses import certified_loss
from robustmarl.networks import AgentNetwork
from robustmarl.victims import LossRows, NetworkVictim

GOALS: dict[BoundMethod, float] = {"interval": 4.0, "linear": 40.0, "tightest": 40.0}


def measure(batch: int, repeats: int) -> dict[str, float]:
    """Return how many forward passes of ``batch`` rows each bound takes."""
    torch.manual_seed(0)
    network = AgentNetwork(48, 1, 9, hidden=(64, 64), agent_id=False)
    victim, ball = NetworkVictim(network, continuous=False), LinfBall(epsilon=0.1)
    rows = LossRows(obs=torch.randn(batch, 48))
    calls = max(3, 20_000 // (batch + 200))

    def forward() -> int:
        view = rows.view(victim)
        with torch.no_grad():
            for _ in range(10 * calls):
                view.logits(rows.obs)
        return 10 * calls

    def bound(method: BoundMethod) -> int:
        with torch.no_grad():
            for _ in range(calls):
                margin_bounds(victim, rows, ball, method=method)
        return calls

    def train() -> int:
        for _ in range(calls):
            loss = certified_loss(victim, rows, ball)
            torch.autograd.grad(loss, list(network.parameters()))
        return calls

    found = {"batch": float(batch)}
    for method in GOALS:
        work = lambda method=method: bound(method)  # noqa: E731, its argument is bound here
        found[method], ours, one = times_longer(work, forward, repeats)
        found[f"{method}_ms"], found["forward_ms"] = 1e3 / ours, 1e3 / one
    found["loss and gradient"], _, _ = times_longer(train, forward, repeats)
    return found


def main() -> None:
    """Print the table; write it to ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 1024])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(batch, arguments.repeats) for batch in arguments.batches]
    for row in rows:
        print(f"\n{row['batch']:.0f} rows, MLP 48-64-64-9: forward {row['forward_ms']:.3f} ms")
        for method, goal in GOALS.items():
            took = f"{row[f'{method}_ms']:.2f} ms"
            print(f"  {method:<18}{took:>10}{row[method]:>8.1f} forward passes, goal: {goal:.0f}")
        print(f"  loss and gradient           {row['loss and gradient']:>8.1f} forward passes")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
