"""Play, attack and learn every environment of PettingZoo's butterfly and SISL and of mpe2.

    python benchmarks/other_envs.py [--page docs/envs/pettingzoo.md] [--only pursuit simple_tag]

Needs `pip install "pettingzoo[butterfly,sisl]" mpe2 supersuit`. In each environment, with the
preprocessing that its documentation names, a small IPPO team learns for a hundred steps, then
plays under PGD: two episodes in the collector, one in the observation wrapper, whose budget is
checked. What is not installed, or fails, is written down as it says.
"""

import argparse
import importlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from robustmarl import algorithms, attacks, data, envs, evaluation, training
from robustmarl.budgets import LinfBall
from robustmarl.joint import spec_of
from robustmarl.wrappers import ObsAdversaryWrapper

BEGIN, END = "<!-- table begins -->", "<!-- table ends -->"
EPSILON = 0.05
STEPS = 40  # of an episode, where it can be told


def pictures(env):
    """Return PettingZoo's preprocessing of pictures: one colour, smaller, three frames."""
    import supersuit

    env = supersuit.color_reduction_v0(env, mode="B")
    env = supersuit.resize_v1(env, x_size=21, y_size=21)
    return envs.flatten_obs(supersuit.frame_stack_v1(env, 3))


def black_death(env):
    """Return an environment whose dead stay, as PettingZoo advises for trainers of fixed teams."""
    import supersuit

    return envs.flatten_obs(supersuit.black_death_v3(env))


def as_it_is(env):
    """Return the environment."""
    return env


@dataclass(frozen=True)
class Case:
    """An environment and how it is made ready.

    Attributes:
        module: where it is.
        prepare: preprocessing.
        told: what the table says of it.
        settings: of its constructor.
        learner: the names of the team that learns, all by default; the others play at random.
    """

    module: str
    prepare: Callable = as_it_is
    told: str = "none"
    settings: tuple = ()
    learner: tuple = ()

    @property
    def name(self):
        """Its name without the version."""
        return self.module.rpartition(".")[2].rpartition("_")[0]


STACKED = "`color_reduction_v0`, `resize_v1`, `frame_stack_v1`, `flatten_obs`"
KAZ = "pettingzoo.butterfly.knights_archers_zombies_v11"
CYCLES, MPE = (("max_cycles", STEPS),), (("max_cycles", 25),)
CASES = [
    Case("pettingzoo.butterfly.cooperative_pong_v6", pictures, STACKED, CYCLES),
    Case(KAZ, envs.flatten_obs, "`flatten_obs`", CYCLES),
    Case(KAZ, black_death, "`black_death_v3`, `flatten_obs`", CYCLES),
    Case("pettingzoo.butterfly.pistonball_v6", pictures, STACKED, CYCLES),
    Case("pettingzoo.sisl.multiwalker_v9", settings=CYCLES),
    Case("pettingzoo.sisl.pursuit_v5", envs.flatten_obs, "`flatten_obs`", CYCLES),
    Case("mpe2.simple_v3", settings=MPE),
    Case("mpe2.simple_adversary_v3", settings=MPE, learner=("agent_0", "agent_1")),
    Case("mpe2.simple_crypto_v3", settings=MPE, learner=("bob_0", "alice_0")),
    Case("mpe2.simple_push_v3", settings=MPE, learner=("agent_0",)),
    Case("mpe2.simple_reference_v3", settings=MPE),
    Case("mpe2.simple_speaker_listener_v4", settings=MPE),
    Case("mpe2.simple_spread_v3", settings=MPE),
    Case("mpe2.simple_spread_v3", settings=(*MPE, ("continuous_actions", True))),
    Case(
        "mpe2.simple_tag_v3",
        settings=MPE,
        learner=("adversary_0", "adversary_1", "adversary_2"),
    ),
    Case("mpe2.simple_world_comm_v3", settings=MPE, learner=("agent_0", "agent_1")),
    Case("mpe2.collect_treasure_v1", settings=MPE),
    Case("mpe2.simple_formation_v1", settings=MPE),
    Case("mpe2.simple_line_v1", settings=MPE),
]


def maker(case):
    """Return a function that makes the environment ready for a team."""
    module = importlib.import_module(case.module)
    settings = dict(case.settings)

    def make():
        env = case.prepare(module.parallel_env(**settings))
        others = tuple(a for a in env.possible_agents if a not in case.learner)
        teams = {"learner": case.learner, "others": others} if case.learner else None
        horizon = settings["max_cycles"] + 1
        return envs.describe(env, team_reward="mean", horizon=horizon, teams=teams)

    return make


def tried(case):
    """Return the cells of the table's row."""
    make = maker(case)
    spec = spec_of(make())
    team, opponents = None, None
    if case.learner:
        team, rest = "learner", spec.of_team("others")
        opponents = {"others": data.RandomController(rest)}
    mine = spec.of_team(team)
    learner = algorithms.IPPO.for_env(mine, hidden=(16,), seed=0)
    scale = max(1.0, spread_of(make))
    how = {"loss": "mse", "random_start": True} if spec.continuous else {}
    pgd = attacks.PGD(ball=LinfBall(epsilon=EPSILON * scale), steps=2, **how)
    learn = training.OnPolicy(steps_per_round=50, batch_size=50, epochs=1)
    training.run(
        learner,
        make,
        env_steps=100,
        num_envs=2,
        team=team,
        opponents=opponents,
        learn=learn,
        log=training.Log(progress=False),
    )
    played = evaluation.rollout(
        learner, make, episodes=2, num_envs=2, perturb=pgd, team=team, opponents=opponents
    )
    if not np.isfinite(played.returns).all():
        raise ValueError(f"returns must be finite, got {played.returns}.")
    steps, largest = wrapped(make(), pgd, learner, mine.agents)
    if largest > EPSILON * scale * (1 + 1e-5):
        raise ValueError(f"perturbations must be at most {EPSILON * scale}, got {largest}.")
    states = {"concatenated": "observations", "joint": "joint", "per_agent": "per agent"}
    kind = "box of {}" if spec.continuous else "{}"
    actions = sorted(set(spec.action_sizes))
    return [
        str(spec.num_agents) if not case.learner else f"{mine.num_agents} of {spec.num_agents}",
        " or ".join(map(str, sorted(set(spec.obs_sizes)))),
        kind.format(" or ".join(map(str, actions))),
        f"{spec.state_size}, {states[spec.state_layout]}",
        f"yes, {steps} steps",
    ]


def spread_of(make):
    """Return the largest absolute value of first observations, by which radii are scaled."""
    obs, _ = make().reset(seed=0)
    return max(float(np.abs(row).max()) for row in obs.values())


def wrapped(env, attack, learner, agents):
    """Return how many steps an attacked episode of random actions takes, and the largest change."""
    env = ObsAdversaryWrapper(env, attack, victim=learner, agents=agents)
    _, infos = env.reset(seed=0)
    for i, agent in enumerate(env.possible_agents):
        env.action_space(agent).seed(i)
    steps, largest = 0, 0.0
    while env.agents:
        changes = [info["perturbation"] for info in infos.values() if "perturbation" in info]
        largest = max([largest, *changes])
        *_, infos = env.step({a: env.action_space(a).sample() for a in env.agents})
        steps += 1
    env.close()
    return steps, largest


def table(only):
    """Return the table's lines, printing each row when it is known."""
    head = ("environment", "preprocessing", "agents", "observation", "actions", "state", "works")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for case in CASES:
        if only and case.name not in only:
            continue
        try:
            cells = tried(case)
        except ImportError as error:
            cells = ["", "", "", "", f"not installed: {error.name}"]
        except Exception as error:  # whatever it is, the table says it
            cells = ["", "", "", "", f"no: {error}"]
        continuous = " (continuous)" if ("continuous_actions", True) in case.settings else ""
        name = f"`{case.module.rpartition('.')[2]}`{continuous}"
        lines.append("| " + " | ".join([name, case.told, *cells]) + " |")
        print(lines[-1], flush=True)
    return lines


def main():
    """Try all, print the table, and write it into the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--page", type=Path)
    parser.add_argument("--only", nargs="+", default=[])
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    lines = table(args.only)
    if args.page is not None:
        before, rest = args.page.read_text().split(BEGIN)
        after = rest.split(END)[1]
        args.page.write_text(before + "\n".join([BEGIN, *lines, END]) + after)


if __name__ == "__main__":
    main()
