"""CPU time of one checkout over that of another, piece by piece.

    python benchmarks/compare.py BEFORE [AFTER] [--rounds 15] [--json runs/bench/compare.json]

BEFORE and AFTER are checkouts, AFTER this one by default. Each is a process that runs the pieces
of its own ``benchmarks/``; one works at a time, in turn, on one thread. Process CPU time per unit
of work (a step, an attack); the median over rounds of the ratio, and the middle half of the ratios.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent


def pieces():
    """Return functions that make pieces, by name; each piece works and says how many units."""
    import byzantine
    import pgd
    import skirmish
    import torch
    import training
    import tram

    from robustmarl import algorithms, attacks, envs

    torch.set_num_threads(1)
    battle = partial(envs.skirmish, "3m")

    def attacked(attack):
        team = algorithms.QMIX.for_env(battle(), hidden=(128, 128), layer_norm=True)
        return training.rollouts(
            team, battle, 10, attack and attack(training.LinfBall(epsilon=0.1))
        )

    def collected():
        team = algorithms.QMIX.for_env(battle())
        return skirmish.collected("3m", 32, 64, team)

    def on_mlp(batch, steps):
        torch.manual_seed(0)
        network, obs = pgd.feed_forward((48, 64, 64, 9)), torch.randn(batch, 48)
        attack = attacks.PGD(ball=pgd.LinfBall(epsilon=0.1), steps=steps)
        view, calls = pgd.FunctionVictim(network).at(), 20_000 // (steps * (batch + 200)) + 3

        def work():
            for _ in range(calls):
                attack(view, obs)
            return calls

        return work

    def poisoned(learner, attack):
        return tram.collecting(learner, envs.gather, True, attack)

    made = {
        "QMIX training, spread": partial(training.qmix, envs.spread),
        "MAPPO training, spread": partial(training.mappo, envs.spread),
        "QMIX training, foraging": partial(training.qmix, envs.foraging),
        "MAPPO training, toy game": partial(byzantine.training, algorithms.MAPPO),
        "EIR-MAPPO training, toy game": partial(byzantine.training, algorithms.EIRMAPPO),
        "collecting, foraging, 16 environments": lambda: training.collection(envs.foraging, 16)[
            "collect"
        ],
        "collecting, 3m, 32 environments": collected,
        "collecting, gather, DOP": partial(poisoned, algorithms.DOP, None),
        "collecting, gather, COMA": partial(poisoned, algorithms.COMA, None),
        "rollouts, 3m, clean": partial(attacked, None),
        "rollouts, 3m, FGSM": partial(attacked, attacks.PGD.fgsm),
        "rollouts, 3m, PGD-10": partial(attacked, lambda ball: attacks.PGD(ball=ball)),
        "TRAM, gather, DOP, variance": partial(poisoned, algorithms.DOP, attacks.VarianceAttack()),
        "TRAM, gather, DOP, J": partial(poisoned, algorithms.DOP, attacks.JAttack()),
        "engine, 3m, 1 environment": partial(skirmish.battles, "3m", 1, 200),
        "engine, 3m, 64 environments": partial(skirmish.battles, "3m", 64, 100),
        "engine, 3m, 1024 environments": partial(skirmish.battles, "3m", 1024, 15),
    }
    for batch in (1, 16, 64, 1024):
        made[f"PGD-10 on an MLP, batch {batch}"] = partial(on_mlp, batch, 10)
    return made | {"FGSM on an MLP, batch 16": partial(on_mlp, 16, 1)}


def serve():
    """Run pieces by name as asked on stdin; answer with CPU seconds per unit."""
    made = pieces()
    print(json.dumps(list(made)), flush=True)
    name, piece = None, None
    for line in sys.stdin:
        if line.strip() != name:
            name, piece = line.strip(), made[line.strip()]()
            piece()
        begun = time.process_time()
        units = piece()
        print(json.dumps((time.process_time() - begun) / units), flush=True)


class Checkout:
    """A process that works in one checkout when asked to.

    Args:
        path: of the checkout.
    """

    def __init__(self, path):
        found = [str(path), str(path / "benchmarks")]
        paths = {"PYTHONPATH": os.pathsep.join(found), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", str(HERE / "compare.py"), "--serve", str(path)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | paths,
        )
        self.names = json.loads(self._process.stdout.readline())

    def seconds(self, name):
        """Return CPU seconds per unit of a piece."""
        print(name, file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self):
        """End the process."""
        self._process.stdin.close()
        self._process.wait()


def compare(before, after, name, rounds):
    """Return the ratios of one piece, sorted; which checkout begins alternates."""
    before.seconds(name), after.seconds(name)
    ratios = []
    for number in range(rounds):
        seconds = {}
        for one in (before, after) if number % 2 else (after, before):
            seconds[one] = one.seconds(name)
        ratios.append(seconds[after] / seconds[before])
    return sorted(ratios)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path, nargs="?", default=HERE.parent)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="pieces whose names contain this")
    parser.add_argument("--json", type=Path, help="where to write all ratios")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve()
        return
    before, after = Checkout(args.before.resolve()), Checkout(args.after.resolve())
    found = {}
    print("CPU time, after / before: median [middle half]")
    for name in [name for name in before.names if args.only in name]:
        ratios = found[name] = compare(before, after, name, args.rounds)
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"  {name:<42}{middle:6.2f}  [{low:.2f}, {high:.2f}]", flush=True)
    before.close(), after.close()
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
