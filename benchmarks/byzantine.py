"""Training EIR-MAPPO and its relatives on the toy game, over training MAPPO.

    python benchmarks/byzantine.py [--json runs/bench/byzantine.json]

One thread, process CPU time, alternating pieces in one process: a round is 20 environments of
100 steps and 5 epochs, with the same networks of 128-128-128 for all.
"""

import argparse
from pathlib import Path

import torch
from _timing import alternate, report
from tianshou.utils.torch_utils import policy_within_training_step

from robustmarl import algorithms, data, envs
from robustmarl.algorithms.eir_settings import PRESETS

ENVS, EPISODES, EPOCHS = 20, 40, 5


def training(cls, preset="released"):
    """Return a function that trains for one round of 4,000 steps and returns their number."""
    settings = {"preset": preset}
    if not issubclass(cls, algorithms.EIRMAPPO):
        own = ("adversary_optim", "adversary_epochs", "victim_interval")
        settings = {k: v for k, v in PRESETS[preset].items() if k not in own}
    learner = cls.for_env(envs.ToyGame(), **settings)
    buffer = data.EpisodeBuffer(learner.spec, EPISODES)
    engine = envs.ToyEngine(ENVS)
    collector = data.JointCollector(learner, engine, buffer, perturb=learner.perturbers())

    def work():
        with policy_within_training_step(learner.policy):
            steps = collector.collect(n_episode=EPISODES).n_collected_steps
            learner.update(buffer=buffer, batch_size=None, repeat=EPOCHS)
        buffer.reset()
        return steps

    return work


def main() -> None:
    """Print the table; write it to ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rates = alternate(
        {
            "MAPPO": training(algorithms.MAPPO),
            "RMAAC": training(algorithms.RMAAC),
            "EAR-MAPPO": training(algorithms.EARMAPPO),
            "EIR-MAPPO": training(algorithms.EIRMAPPO),
            "EIR-MAPPO, two time scales": training(algorithms.EIRMAPPO, "two_timescale"),
        },
        arguments.repeats,
    )
    rows = [("MAPPO, steps/s", rates.pop("MAPPO"), "")]
    for name, rate in rates.items():
        target = "<= 2.2" if name == "EIR-MAPPO" else ""
        rows.append((f"{name}, times slower", rows[0][1] / rate, target))
    report("Training on the toy game", rows, arguments.json)


if __name__ == "__main__":
    main()
