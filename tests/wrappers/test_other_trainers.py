"""Stable-Baselines3 trains on wrapped environments, by SuperSuit's vectors of copies."""

import numpy as np
import pytest
import stable_baselines3

from robustmarl import envs
from robustmarl.attacks import UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.wrappers import BayesianTypeWrapper, ObsAdversaryWrapper

supersuit = pytest.importorskip("supersuit")  # not for Python 3.13, see pyproject.toml

EPSILON = 0.05
NOISE = UniformNoise(ball=LinfBall(epsilon=EPSILON))

MAKERS = {
    "gather": lambda: ObsAdversaryWrapper(envs.gather(horizon=8), NOISE),
    "spread": lambda: ObsAdversaryWrapper(
        envs.spread(max_cycles=8, continuous_actions=True), NOISE
    ),
    "signals": lambda: ObsAdversaryWrapper(envs.SignalMatching(horizon=8), NOISE),
    "byzantine": lambda: ObsAdversaryWrapper(
        BayesianTypeWrapper(envs.gather(horizon=8), "random", slots="zeros"), NOISE
    ),
}


def vector(make, base_class, cpus=0):
    one = supersuit.pettingzoo_env_to_vec_env_v1(make())
    return supersuit.concat_vec_envs_v1(one, 2, num_cpus=cpus, base_class=base_class)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
@pytest.mark.parametrize("cpus", [0, 2])
def test_ppo_learns_on_a_vector_of_copies(make, cpus):
    venv = vector(make, "stable_baselines3", cpus)
    model = stable_baselines3.PPO(
        "MlpPolicy", venv, n_steps=16, batch_size=16, n_epochs=1, device="cpu"
    )
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(2 * 16 * venv.num_envs)
    assert model.num_timesteps == 2 * 16 * venv.num_envs
    after = list(model.policy.parameters())
    assert all(bool(p.isfinite().all()) for p in after)
    assert any(not a.equal(b) for a, b in zip(before, after, strict=True))
    venv.close()


def test_every_copy_is_attacked_by_noise_of_its_own():
    """SuperSuit resets without a seed; what the copies show is perturbed within the budget."""
    venv = vector(MAKERS["gather"], "gymnasium")
    _, infos = venv.reset()
    sizes = [info["perturbation"] for info in infos]
    assert all(0.0 < size <= EPSILON * (1 + 1e-5) for size in sizes)
    assert len(set(sizes)) == len(sizes)
    for _ in range(20):  # over an episode's end
        obs, _, _, _, infos = venv.step(np.zeros(venv.num_envs, np.int64))
        for row, info in zip(obs, infos, strict=True):
            assert np.abs(row - info["clean_obs"]).max() <= EPSILON * (1 + 1e-5)
    venv.close()
