"""Training a QMIX team beside adversaries that learn, against training it alone.

    python benchmarks/adversaries.py [--json runs/bench/adversaries.json]

One thread, process CPU time, alternating pieces in one process: 32 battles of 3m are played side by
side, and learned from by one update per battle on 32 of them. Teams act at random throughout, so
that all battles are of one length, and every update is done as in a training.
"""

import argparse
from pathlib import Path

import torch
from _timing import alternate, report
from tianshou.utils.torch_utils import policy_within_training_step

from robustmarl import adversaries, algorithms, data, envs, training
from robustmarl.budgets import LinfBall
from robustmarl.envs.vector import vector_env
from robustmarl.joint import spec_of
from robustmarl.perturbers import stor

ENVS = BATCH = 32
GOALS = {
    "ATSA": 2.0,
    "PA-AD": 1.6,
    "ROMANCE-p": 2.0,
    "ROMANCE-s": 2.0,
    "ATLA": 1.5,
    "RAP of 5": None,
}
NETWORKS = {
    "MLP": {"hidden": (64, 64), "recurrent": False, "last_action": False},
    "GRU": {"hidden": (64,), "recurrent": True, "last_action": True},
}


def make():
    """Return a battle."""
    return envs.skirmish("3m")


def adversary(name, spec, network):
    """Return what learns against the team, None where nothing does."""
    ball = LinfBall(epsilon=0.25, low=-1.0, high=1.0)
    if name == "ATSA":
        return adversaries.ATSA.for_env(spec, stor(ball), **network)
    if name == "PA-AD":
        return adversaries.PAAD.for_env(spec, stor(ball), **network)
    if name == "ATLA":
        return adversaries.ObsAdversaryPPO.for_env(spec, ball)
    if name.startswith("RAP"):
        return adversaries.RAP.for_env(spec, stor(ball), number=5, **network)
    if name.startswith("ROMANCE"):
        return adversaries.ROMANCE.for_env(spec, stor(ball) if name.endswith("s") else None)
    return None


def piece(name, network):
    """Return a function that plays and learns a round, and says how many steps were played."""
    spec = spec_of(make())
    team = algorithms.QMIX.for_env(spec, exploration=1.0, **network)
    against = adversary(name, spec, network)
    learner = team if against is None else training.AdversarialTraining(team, against)
    buffer = data.EpisodeBuffer(spec, 1_000)
    collector = data.JointCollector(
        team, vector_env(make, ENVS), buffer, perturb=[*learner.perturbers()]
    )

    def play():
        with policy_within_training_step(team.policy):
            steps = collector.collect(n_episode=ENVS).n_collected_steps
            for _ in range(ENVS):
                learner.update(buffer=buffer, sample_size=BATCH)
        return int(steps)

    return play


def main():
    """Measure, and print beside the goals."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for kind, network in NETWORKS.items():
        rates = alternate(
            {name: piece(name, network) for name in ("plain", *GOALS)}, repeats=args.repeats
        )
        rows.append((f"{kind}: plain QMIX, steps per CPU-second", rates["plain"], ""))
        for name, goal in GOALS.items():
            target = "" if goal is None else f"<= {goal}"
            rows.append((f"{kind}: {name} / plain", rates["plain"] / rates[name], target))
    report(f"Training on 3m, {ENVS} battles side by side", rows, args.json)


if __name__ == "__main__":
    main()
