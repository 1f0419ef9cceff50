"""Process CPU time of alternating pieces of work, so that ratios survive a noisy machine."""

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["alternate", "report"]


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


def report(title: str, rows: list[tuple[str, float, str]], path: Path | None) -> None:
    """Print (name, value, target) rows, and write them as JSON if ``path`` is given."""
    print(f"\n{title}  [{os.cpu_count()} CPUs, one thread used]")
    for name, value, target in rows:
        print(f"  {name:<58}{value:>12,.2f}  {target}")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        keys = ("name", "value", "target")
        path.write_text(json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=1))
