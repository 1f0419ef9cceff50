"""The suite `standard` on the quickstart's two teams: CPU seconds of each attack, and per team.

    python benchmarks/worst_case.py [--teams runs/quickstart/3m-150000] [--json worst.json]

One thread; 200 episodes per attack and 100 to choose from, learned attacks included. Teams that
are not there are trained first, in about 20 and 30 CPU seconds.
"""

import argparse
import sys
from pathlib import Path

import torch

from robustmarl import evaluation, training
from robustmarl.budgets import LinfBall

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import quickstart


def main() -> None:
    """Print the table; write it to ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teams", type=Path, default=Path("runs/quickstart/3m-150000"))
    parser.add_argument("--seed", type=int, default=0, help="the teams' training seed")
    parser.add_argument("--json", type=Path, help="where to write figures and raw scores")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    task, teams = quickstart.TASKS["3m"], {}
    for name in ("defended", "clean"):
        quickstart.train((name, "3m", arguments.seed, task.steps, arguments.teams, 0))
        teams[name], _ = quickstart.build(name, task, task.steps, arguments.seed)
        weights = arguments.teams / f"{name}-{arguments.seed}" / "checkpoint.pt"
        training.load_weights(teams[name], weights)
    found = evaluation.worst_case(teams, task.make, LinfBall(epsilon=task.epsilon))
    print(f"{found}\n{found.seconds / len(teams):.0f} CPU seconds per team (goal: 600)")
    if arguments.json is not None:
        found.to_json(arguments.json)


if __name__ == "__main__":
    main()
