"""Training and rollouts against the raw stepping rate of the same environments.

    python benchmarks/training.py [--json runs/bench/training.json]

One thread, process CPU time, alternating pieces in one process. Raw is one environment with
random actions: the public package's own parallel environment (mpe2) or gymnasium environment
(lbforaging), not our faster adapters, whose own rate is printed beside it.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from _timing import alternate, report
from tianshou.utils.torch_utils import policy_within_training_step

from robustmarl import algorithms, attacks, data, envs, evaluation
from robustmarl.budgets import LinfBall
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import StepContext


def upstream_spread():
    """Return mpe2's own environment, behind its conversion from turns to parallel."""
    from mpe2 import simple_spread_v3

    return envs.describe(simple_spread_v3.parallel_env(), team_reward="sum", horizon=25)


def raw_spread():
    """Return a function that plays mpe2's own environment for 20 episodes."""
    from mpe2 import simple_spread_v3

    env = simple_spread_v3.parallel_env()
    rng = np.random.default_rng(0)

    def play():
        steps = 0
        for episode in range(20):
            env.reset(seed=episode)
            while env.agents:
                acts = rng.integers(5, size=len(env.agents)).tolist()
                env.step(dict(zip(env.agents, acts, strict=True)))
                steps += 1
        return steps

    return play


def raw_foraging():
    """Return a function that plays lbforaging's own environment for 20 episodes."""
    from lbforaging.foraging.environment import ForagingEnv

    env = ForagingEnv(
        players=2,
        min_player_level=1,
        max_player_level=2,
        min_food_level=1,
        max_food_level=None,
        field_size=(8, 8),
        max_num_food=3,
        sight=8,
        max_episode_steps=50,
        force_coop=False,
    )
    rng = np.random.default_rng(0)

    def play():
        steps = 0
        for episode in range(20):
            env.reset(seed=episode)
            done = False
            while not done:
                _, _, done, _, _ = env.step(rng.integers(6, size=2).tolist())
                steps += 1
        return steps

    return play


def raw_ours(make_env):
    """Return a function that plays our adapter for 20 episodes."""
    env = make_env()
    rng = np.random.default_rng(0)

    def play():
        steps = 0
        for episode in range(20):
            env.reset(seed=episode)
            while env.agents:
                acts = {a: int(rng.integers(env.action_space(a).n)) for a in env.agents}
                env.step(acts)
                steps += 1
        return steps

    return play


def qmix(make_env):
    """Return a function that trains: ten episodes, ten updates on 32 whole episodes each."""
    algorithm = algorithms.QMIX.for_env(make_env(), hidden=(64, 64), embed=32)
    buffer = data.EpisodeBuffer(algorithm.spec, 500)
    collector = data.JointCollector(algorithm, JointVectorEnv(make_env, 10), buffer)
    with policy_within_training_step(algorithm.policy):
        collector.collect(n_episode=40)

    def train():
        with policy_within_training_step(algorithm.policy):
            steps = 0
            for _ in range(2):
                steps += collector.collect(n_episode=10).n_collected_steps
                for _ in range(10):
                    algorithm.update(buffer=buffer, sample_size=32)
        return steps

    return train


def mappo(make_env):
    """Return a function that trains: four full-batch epochs per ten episodes, GRU 128."""
    algorithm = algorithms.MAPPO.for_env(make_env(), recurrent=True, hidden=(128,))
    buffer = data.EpisodeBuffer(algorithm.spec, 20)
    collector = data.JointCollector(algorithm, JointVectorEnv(make_env, 10), buffer)

    def train():
        with policy_within_training_step(algorithm.policy):
            steps = 0
            for _ in range(2):
                steps += collector.collect(n_episode=10).n_collected_steps
                algorithm.update(buffer=buffer, batch_size=None, repeat=4)
                buffer.reset()
        return steps

    return train


def rollouts(algorithm, make_env, num_envs, attack):
    """Return a function that plays two episodes per environment."""

    def play():
        played = evaluation.rollout(
            algorithm, make_env, episodes=2 * num_envs, num_envs=num_envs, perturb=attack
        )
        return int(played.lengths.sum())

    return play


def collection(make_env, num_envs):
    """Return functions: collecting, and the same environment steps and forward passes bare."""
    algorithm = algorithms.QMIX.for_env(make_env(), hidden=(64, 64))
    buffer = data.EpisodeBuffer(algorithm.spec, 100)
    vector = JointVectorEnv(make_env, num_envs)
    collector = data.JointCollector(algorithm, vector, buffer)
    games = [make_env() for _ in range(num_envs)]
    policy = algorithm.policy
    size, spec = num_envs, algorithm.spec

    def collect():
        return collector.collect(n_episode=2 * num_envs).n_collected_steps

    def bare():
        """Step the same environments with the same greedy forward pass, keeping nothing."""
        steps = 0
        obs = torch.zeros(size, spec.num_agents, spec.obs_size)
        mask = torch.ones(size, spec.num_agents, spec.num_actions, dtype=torch.bool)
        none = torch.zeros(0)
        for round_ in range(2):
            live = list(range(size))
            for e, env in enumerate(games):
                first, _ = env.reset(seed=round_ * size + e)
                _fill(obs, mask, e, first)
            while live:
                context = StepContext(
                    obs=obs,
                    seen=obs,
                    mask=mask,
                    state=none,
                    alive=none,
                    last_act=none,
                    hidden=None,
                    step=none,
                    keys=none,
                    live=none,
                    terminal=none,
                )
                with torch.no_grad():
                    output, _ = policy.infer(context)
                    act = output.masked_fill(~mask, -1e9).argmax(-1).tolist()
                for e in list(live):
                    env = games[e]
                    seen, _, _, _, _ = env.step(dict(zip(env.agents, act[e], strict=True)))
                    _fill(obs, mask, e, seen)
                    steps += 1
                    if not env.agents:
                        live.remove(e)
        return steps

    return {"collect": collect, "bare": bare}


def _fill(obs, mask, e, raw):
    for i, value in enumerate(raw.values()):
        obs.numpy()[e, i] = value["observation"]
        mask.numpy()[e, i] = value["action_mask"]


def main():
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    foraging = envs.foraging
    rows = []
    for name, raw, make_env, goals in (
        ("spread", raw_spread(), envs.spread, (0.45, 0.40)),
        ("foraging 8x8-2p-3f", raw_foraging(), foraging, (0.30, 0.20)),
    ):
        rates = alternate(
            {
                "raw": raw,
                "ours": raw_ours(make_env),
                "qmix": qmix(make_env),
                "mappo": mappo(make_env),
            },
            args.repeats,
        )
        rows.append((f"{name}: raw steps per CPU-second", rates["raw"], ""))
        rows.append((f"{name}: our adapter, raw steps per CPU-second", rates["ours"], ""))
        for learner, goal in zip(("qmix", "mappo"), goals, strict=True):
            rows.append((f"{name}: {learner} steps per CPU-second", rates[learner], ""))
            share = rates[learner] / rates["raw"]
            rows.append((f"{name}: {learner} / raw", share, f">= {goal}"))
    algorithm = algorithms.QMIX.for_env(envs.spread(), hidden=(128, 128), layer_norm=True)
    pgd = attacks.PGD(ball=LinfBall(epsilon=0.1))
    for num_envs, goal in ((10, 2.0), (64, 1.35)):
        rates = alternate(
            {
                "mpe2 clean": rollouts(algorithm, upstream_spread, num_envs, None),
                "mpe2 pgd": rollouts(algorithm, upstream_spread, num_envs, pgd),
                "ours clean": rollouts(algorithm, envs.spread, num_envs, None),
                "ours pgd": rollouts(algorithm, envs.spread, num_envs, pgd),
            },
            args.repeats,
        )
        for whose, target in (("mpe2", f"<= {goal}"), ("ours", "")):
            name = f"spread ({whose}): clean / PGD-10 rollouts, {num_envs} envs"
            rows.append((name, rates[f"{whose} clean"] / rates[f"{whose} pgd"], target))
            rate = rates[f"{whose} pgd"]
            rows.append((f"spread ({whose}): steps per CPU-second, PGD-10", rate, ""))
    rates = alternate(collection(foraging, 16), args.repeats)
    over = rates["bare"] / rates["collect"] - 1.0
    rows.append(("foraging, 16 envs: collecting over env + policy", over, "<= 0.25"))
    report("Training and rollouts", rows, args.json)


if __name__ == "__main__":
    main()
