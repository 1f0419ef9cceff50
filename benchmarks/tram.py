"""Collecting experience while one agent is poisoned, over collecting without.

    python benchmarks/tram.py [--task spread] [--json runs/bench/tram.json]

One thread, process CPU time, alternating pieces in one process. 16 environments, a GRU of 64,
every step attacked; the learner was updated, so that the return attack has a gradient.
"""

import argparse
from pathlib import Path

import torch
from _timing import alternate, report
from tianshou.utils.torch_utils import policy_within_training_step

from robustmarl import algorithms, attacks, data, envs
from robustmarl.envs.vector import JointVectorEnv

ENVS = 16


def collecting(cls, make_env, attack=None, kl_budget=6.0):
    """Return a function that collects two episodes per environment and returns their steps."""
    learner = cls.for_env(make_env(), hidden=(64,), exploration=0.1)
    perturb = []
    if attack is not None:
        perturb.append(
            attacks.ActionPoisonPerturber(
                attack, learner=learner, agent=learner.spec.agents[0], kl_budget=kl_budget
            )
        )
    buffer = data.EpisodeBuffer(learner.spec, 2 * ENVS)
    engine = JointVectorEnv(make_env, ENVS)
    collector = data.JointCollector(learner, engine, buffer, perturb=perturb)

    def work():
        with policy_within_training_step(learner.policy):
            return collector.collect(n_episode=2 * ENVS).n_collected_steps

    work()
    off_policy = cls is algorithms.DOP
    how = {"sample_size": ENVS} if off_policy else {"batch_size": None, "repeat": 1}
    with policy_within_training_step(learner.policy):
        learner.update(buffer=buffer, **how)
    return work


def main() -> None:
    """Print the table; write it to ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    known = [name for name in ("gather", "spread", "formation") if hasattr(envs, name)]
    parser.add_argument("--task", default=known[0], choices=known)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    make_env = getattr(envs, arguments.task)
    kinds = {
        "random": (attacks.RandomAttack(), ""),
        "J": (attacks.JAttack(), "<= 2.5"),
        "variance": (attacks.VarianceAttack(), "<= 3.5"),
        "variance, head": (attacks.VarianceAttack(scope="head"), ""),
    }
    rows = []
    for cls in (algorithms.DOP, algorithms.COMA):
        work = {"clean": collecting(cls, make_env)}
        for budget in (6.0, 1.0):
            for name, (attack, _) in kinds.items():
                work[f"{name}, KL {budget:g}"] = collecting(cls, make_env, attack, budget)
        rates = alternate(work, arguments.repeats)
        rows.append((f"{cls.__name__}: clean, steps/s", rates["clean"], ""))
        for name, rate in rates.items():
            if name != "clean":
                target = kinds[name.rsplit(",", 1)[0]][1]
                rows.append(
                    (f"{cls.__name__}: {name}, times slower", rates["clean"] / rate, target)
                )
    report(f"Poisoned collection on {arguments.task}", rows, arguments.json)


if __name__ == "__main__":
    main()
