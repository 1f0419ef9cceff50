"""Collecting experience while one agent is poisoned, over collecting without.

    python benchmarks/tram.py [--task gather] [--json runs/bench/tram.json]

One thread, process CPU time, alternating pieces in one process. 16 environments, a GRU of 64,
every step attacked; the learner was updated, so that the return attack has a gradient. Once with
mpe2's world stepped per environment, which the targets are for, and once with the batched engine.
Also how fast that engine is by itself.
"""

import argparse
from pathlib import Path

import torch
from _timing import alternate, report
from tianshou.utils.torch_utils import policy_within_training_step

from robustmarl import algorithms, attacks, data, envs, perturbers
from robustmarl.envs.vector import JointVectorEnv, vector_env

ENVS = 16


def collecting(cls, make_env, batched, attack=None, kl_budget=6.0):
    """Return a function that collects two episodes per environment and returns their steps."""
    learner = cls.for_env(make_env(), hidden=(64,), exploration=0.1)
    perturb = []
    if attack is not None:
        perturb.append(
            perturbers.ActionPoisonPerturber(
                attack, learner=learner, agent=learner.spec.agents[0], kl_budget=kl_budget
            )
        )
    buffer = data.EpisodeBuffer(learner.spec, 2 * ENVS)
    engine = (vector_env if batched else JointVectorEnv)(make_env, ENVS)
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


def stepping(engine):
    """Return a function that plays ten episodes of random actions in every environment."""
    number, spec = torch.arange(len(engine)), engine.spec
    everywhere = torch.ones(len(engine), dtype=torch.bool)
    shape = (spec.horizon, len(engine), spec.num_agents)
    acts = torch.randint(spec.num_actions, shape)

    def work():
        for episode in range(10):
            engine.begin(everywhere, episode * len(engine) + number)
            for act in acts:
                engine.advance(act, everywhere)
        return 10 * spec.horizon * len(engine)

    return work


def main() -> None:
    """Print the table; write it to ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    tasks = ("gather", "tram_spread", "formation")
    parser.add_argument("--task", default=tasks[0], choices=tasks)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    make_env = getattr(envs, arguments.task)
    kinds = {
        "random": (attacks.RandomAttack(), ""),
        "J": (attacks.JAttack(), "<= 2.5"),
        "variance": (attacks.VarianceAttack(), "<= 3.5"),
        "variance, head": (attacks.VarianceAttack(scope="head"), ""),
    }
    rates = alternate(
        {
            "batched": stepping(vector_env(make_env, 32)),
            "mpe2": stepping(JointVectorEnv(make_env, 32)),
        },
        arguments.repeats,
    )
    rows = [
        ("32 environments, batched engine, steps/s", rates["batched"], ">= 50000"),
        ("32 environments, mpe2's world, steps/s", rates["mpe2"], ""),
    ]
    for cls in (algorithms.DOP, algorithms.COMA):
        for batched, where in ((False, "mpe2"), (True, "batched")):
            work = {"clean": collecting(cls, make_env, batched)}
            for budget in (6.0, 1.0):
                for name, (attack, _) in kinds.items():
                    piece = collecting(cls, make_env, batched, attack, budget)
                    work[f"{name}, KL {budget:g}"] = piece
            rates = alternate(work, arguments.repeats)
            title = f"{cls.__name__}, {where}"
            rows.append((f"{title}: clean, steps/s", rates["clean"], ""))
            for name, rate in rates.items():
                if name != "clean":
                    target = "" if batched else kinds[name.rsplit(",", 1)[0]][1]
                    rows.append((f"{title}: {name}, times slower", rates["clean"] / rate, target))
    report(f"Poisoned collection on {arguments.task}", rows, arguments.json)


if __name__ == "__main__":
    main()
