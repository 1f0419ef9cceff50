"""Process CPU time of alternating pieces of work, so that ratios survive a noisy machine."""

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["alternate", "report", "times_longer"]


def alternate(work: dict[str, Callable[[], int]], repeats: int = 5) -> dict[str, float]:
    """Return units per CPU-second of each piece, median over rounds of all pieces in turn.

    Each piece returns how many units it did. All are run once before anything counts.
    """
    for piece in work.values():
        piece()
    rates: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, piece in work.items():
            begun = time.process_time()
            units = piece()
            rates[name].append(units / (time.process_time() - begun))
    return {name: statistics.median(values) for name, values in rates.items()}


def times_longer(
    one: Callable[[], int], other: Callable[[], int], repeats: int
) -> tuple[float, float, float]:
    """Return how many times the CPU time of ``other`` a unit of ``one`` takes, and both rates.

    The first is the median over rounds in which one follows the other, so that a neighbour that
    comes or goes in the middle of the run does not show. Both are run once before.
    """
    one(), other()
    pairs: list[tuple[float, float]] = []
    for _ in range(repeats):
        rates = []
        for piece in (one, other):
            begun = time.process_time()
            units = piece()
            rates.append(units / (time.process_time() - begun))
        pairs.append((rates[0], rates[1]))
    ones, others = zip(*pairs, strict=True)
    ratio = statistics.median(b / a for a, b in pairs)
    return ratio, statistics.median(ones), statistics.median(others)


def report(title: str, rows: list[tuple[str, float, str]], path: Path | None) -> None:
    """Print (name, value, target) rows, and write them as JSON if ``path`` is given."""
    print(f"\n{title}  [{os.cpu_count()} CPUs, one thread used]")
    for name, value, target in rows:
        print(f"  {name:<58}{value:>12,.2f}  {target}")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        keys = ("name", "value", "target")
        path.write_text(json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=1))
