"""A learned model of an environment: on games whose every transition is known."""

import dataclasses
import math
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from learners import Arena, collected
from pettingzoo import ParallelEnv

from robustmarl.algorithms import MADDPG, MAPPO, VDN
from robustmarl.data import EpisodeBuffer, JointCollector, RandomController
from robustmarl.envs import SignalMatching, ToyGame, TwoStepGame, predator_prey
from robustmarl.envs.vector import vector_env
from robustmarl.evaluation import rollout
from robustmarl.joint import spec_of
from robustmarl.learning import WorldModel, adam
from robustmarl.testing import check_engine


class Carts(ParallelEnv):
    """Two carts: x' = .9 x + .3 a + .1 of the other's x, with rewards -|x|^2 of each."""

    render_mode = None
    metadata = {"name": "carts", "team_reward": "sum", "horizon": 8}  # noqa: RUF012

    def __init__(self):
        self.possible_agents = ["left", "right"]
        self.agents = []

    def observation_space(self, agent):
        return Box(-9.0, 9.0, (2,), np.float32)

    def action_space(self, agent):
        return Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, seed=None, options=None):
        self.agents, self.steps = list(self.possible_agents), 0
        self.x = np.random.default_rng(seed).uniform(-1, 1, 2)
        return self._look(), {agent: {} for agent in self.agents}

    def step(self, actions):
        acted, act = self.agents, np.array([float(actions[agent][0]) for agent in self.agents])
        self.x, self.steps = 0.9 * self.x + 0.3 * act + 0.1 * self.x[::-1], self.steps + 1
        late = self.steps == 8
        self.agents = [] if late else acted
        rewards = {agent: -float(self.x[i] ** 2) for i, agent in enumerate(acted)}
        obs, never = self._look(), dict.fromkeys(acted, False)
        return obs, rewards, never, dict.fromkeys(acted, late), {agent: {} for agent in acted}

    def _look(self):
        return {
            agent: np.array([self.x[i], 1.0], np.float32)
            for i, agent in enumerate(self.possible_agents)
        }


def played(make_env, episodes=40, seed=0, engine=None):
    """Return episodes of random play, and the spec."""
    spec = spec_of(make_env())
    buffer = EpisodeBuffer(spec, episodes)
    env = vector_env(make_env, 4) if engine is None else engine
    collector = JointCollector(RandomController(spec), env, buffer, seed=seed)
    collector.collect(n_episode=episodes)
    return buffer.latest(episodes)


def model(make_env, **settings):
    return WorldModel(spec_of(make_env()), **{"hidden": (32, 32), "members": 2} | settings)


def test_of_what_it_does_not_foretell_it_says_so():
    """Nobody is caught, so that rewards are all the same; the environment has a metric."""
    make = partial(predator_prey, horizon=3)
    made, batch = model(make), played(make, 24)
    fitted = made.fit(batch.select(~batch.rew.any(dim=1)), updates=5)
    assert math.isnan(fitted.reward)
    assert not math.isnan(fitted.obs)
    found = rollout(MADDPG.for_env(make(), hidden=(8,)), made, episodes=3, num_envs=3)
    assert np.isnan(found.metrics["caught"]).all()
    assert np.isfinite(found.returns).all()


def test_it_finds_linear_dynamics_and_what_never_changes():
    made = model(Carts)
    fitted = made.fit(played(Carts, 120), updates=900, batch_size=128, optim=adam(3e-3))
    assert fitted.obs > 0.99
    assert fitted.reward > 0.95
    assert fitted.ended == 1.0
    assert fitted.steps + fitted.held_out == 120 * 8
    x = torch.linspace(-0.6, 0.6, 5)[:, None] * torch.tensor([1.0, -0.5])
    obs = torch.stack([x, torch.ones(5, 2)], dim=-1)
    act = torch.full((5, 2, 1), 0.4)
    state = obs.flatten(1)
    told = made.foretell(obs, state, act, torch.tensor([0, 1, 0, 1, 0]))
    exact = 0.9 * x + 0.12 + 0.1 * x.flip(1)
    told = dataclasses.replace(told, **{k: v.float() for k, v in vars(told).items()})
    torch.testing.assert_close(told.obs[..., 0], exact, atol=0.08, rtol=0)
    torch.testing.assert_close(told.rew_agents, -exact.square(), atol=0.08, rtol=0)
    assert torch.equal(told.obs[..., 1], torch.ones(5, 2))
    assert torch.equal(told.ended, torch.zeros(5))
    torch.testing.assert_close(told.state, told.obs.flatten(1), atol=0.08, rtol=0)


def test_its_episodes_of_a_game_are_the_games_own():
    """The two-step game: states, rewards and ends, of every joint action."""
    made = model(TwoStepGame)
    fitted = made.fit(played(TwoStepGame, 200), updates=400, batch_size=128, optim=adam(3e-3))
    assert fitted.ended == 1.0
    assert min(fitted.obs, fitted.reward) > 0.99
    batch = played(TwoStepGame, 60, seed=1, engine=made.make_engine(4))
    torch.testing.assert_close(batch.obs.obs[:, 0], torch.eye(3)[0].expand(60, 2, 3))
    first, second = batch.act[:, 0, 0], batch.act[:, 1]
    state = 1 + first
    after = batch.obs.obs[:, 1].argmax(-1)
    assert torch.equal(after, state[:, None].expand(-1, 2))
    exact = torch.tensor(TwoStepGame.payoffs[state, second[:, 0], second[:, 1]]).float()
    torch.testing.assert_close(batch.rew[:, 1], exact, atol=0.5, rtol=0)
    torch.testing.assert_close(batch.rew[:, 0], torch.zeros(60), atol=0.5, rtol=0)
    assert bool(batch.valid.all())
    assert bool(batch.terminated[:, 1].all())
    assert not bool(batch.terminated[:, 0].any())


def test_chance_stays_chance():
    """Contexts of signal matching are drawn evenly, and are contexts: not their mean."""

    def make():
        return SignalMatching(2, horizon=5)

    made = model(make)
    fitted = made.fit(played(make, 200), updates=400, batch_size=128, optim=adam(3e-3))
    assert 0.3 < fitted.obs < 0.7  # half of what contexts become is chance
    assert fitted.reward > 0.97
    batch = played(make, 200, seed=1, engine=made.make_engine(4))
    context = batch.obs.obs[:, 1:, 0, 1]
    near = torch.minimum(context.abs(), (context - 1).abs())
    assert float((near < 0.15).float().mean()) > 0.95
    assert 0.4 < float((context > 0.5).float().mean()) < 0.6
    torch.testing.assert_close(batch.obs.obs[..., 0, :], batch.obs.obs[..., 1, :], atol=0.3, rtol=0)
    assert bool(batch.truncated[:, -1].all())


def noisy():
    return SignalMatching(2, horizon=10, noise=0.5)


def test_what_was_held_out_once_is_never_fitted_to():
    """Noise is learned by heart where it is fitted to: a leak is seen when nothing more is."""
    made, batch = model(noisy, members=1, hidden=(64, 64)), played(noisy, 8)
    first = batch.replace(valid=batch.valid & (torch.arange(8) < 7)[:, None])
    one = made.fit(first, updates=400, held_out=0.3, optim=adam(3e-3))
    two = made.fit(batch, updates=1, held_out=0.3, optim=adam(1e-9))
    assert one.steps + one.held_out == 70
    assert one.held_out <= two.held_out < 35
    assert two.obs == pytest.approx(one.obs, abs=0.15)
    grown = made._held_out(80, 0.3)
    assert torch.equal(made._held_out(70, 0.3), grown[:70])
    assert int(grown.sum()) == two.held_out
    assert made._held_out(2, 1e-9).tolist() == [True, False]


def test_its_chance_is_as_large_as_what_it_leaves_of_fresh_steps():
    made = model(noisy, hidden=(64, 64))
    fitted = made.fit(played(noisy, 20), updates=600)
    assert made.residuals.shape == (2, fitted.held_out, made.obs_numbers + 2)
    fresh = played(noisy, 40, seed=1)
    obs, act = fresh.obs.obs[:, :-1].flatten(0, 1), fresh.act.flatten(0, 1)
    state = fresh.obs.state[:, :-1].flatten(0, 1)
    told = made.foretell(obs, state, act, torch.arange(len(act)) % 2)
    left = fresh.obs.obs[:, 1:].flatten(0, 1) - told.obs
    drawn = made.residuals[..., : made.obs_numbers]
    assert float(drawn.std()) == pytest.approx(float(left.std()), rel=0.3)


def test_episodes_follow_from_their_seeds_whatever_plays_beside():
    made = model(Carts)
    made.fit(played(Carts), updates=50)
    one, four = (played(Carts, 8, seed=3, engine=made.make_engine(number)) for number in (1, 4))
    order = [batch.obs.obs[:, 0, 0, 0].argsort() for batch in (one, four)]
    torch.testing.assert_close(one.obs.obs[order[0]], four.obs.obs[order[1]])
    torch.testing.assert_close(one.rew[order[0]], four.rew[order[1]])
    other = played(Carts, 8, seed=4, engine=made.make_engine(4))
    assert not torch.equal(other.obs.obs, four.obs.obs)


def test_shorter_episodes_begin_anywhere():
    made = model(Carts, horizon=3, anywhere=True)
    batch = played(Carts)
    made.fit(batch, updates=50)
    assert len(made.starts) == int(batch.valid.sum())
    imagined = played(Carts, 30, engine=made.make_engine(4))
    assert imagined.valid.shape[1] == 3
    assert bool(imagined.truncated[:, 2].all())
    first = model(Carts)
    first.fit(batch, updates=50)
    recorded = batch.obs.obs[:, 0].flatten(1)
    assert torch.equal(first.starts[:, :4].float(), recorded)


def test_two_fits_are_the_same_and_leave_the_rest_alone():
    batch, generator = played(Carts), torch.get_rng_state()
    twins = [model(Carts, seed=1) for _ in range(2)]
    fitted = [one.fit(batch, updates=20) for one in twins]
    assert fitted[0] == fitted[1]
    assert torch.equal(torch.get_rng_state(), generator)
    other = model(Carts, seed=2)
    assert other.fit(batch, updates=20) != fitted[0]


@pytest.mark.parametrize("make_env", [Carts, TwoStepGame])
def test_it_keeps_the_contract_of_engines(make_env):
    made = model(make_env)
    made.fit(played(make_env), updates=30)
    check_engine(made.make_engine)


def test_a_loaded_model_plays_the_same():
    made, other = model(TwoStepGame), model(TwoStepGame, seed=1)
    made.fit(played(TwoStepGame, 60), updates=30)
    other.load_state_dict(made.state_dict())
    one, two = (played(TwoStepGame, 8, engine=m.make_engine(2)) for m in (made, other))
    assert torch.equal(one.obs.obs, two.obs.obs)
    assert torch.equal(one.rew, two.rew)
    assert torch.equal(one.terminated, two.terminated)


def test_numbers_stay_near_what_was_recorded():
    """However far an episode goes astray: by a quarter of the range at most."""
    made = model(Carts)
    batch = played(Carts)
    made.fit(batch, updates=1)
    with torch.no_grad():
        for member in made.members:
            member[-1].bias.fill_(1e6)
    imagined = played(Carts, 4, engine=made.make_engine(4)).obs.obs[:, -1, :, 0]
    x = batch.obs.obs[..., 0]
    torch.testing.assert_close(
        imagined, (x.amax((0, 1)) + 0.25 * (x.amax((0, 1)) - x.amin((0, 1)))).expand(4, -1)
    )


def test_what_it_does_not_model_is_refused():
    def masked():
        return Arena(deaths=False)

    arena = collected(VDN.for_env(masked(), hidden=(4,)), make_env=masked).latest(6)
    masks = WorldModel(spec_of(Arena()))
    rule = r"WorldModel\.fit\.batch must be of episodes in which"
    with pytest.raises(ValueError, match=rf"{rule} every action is available"):
        masks.fit(arena, updates=1)

    def boxes():
        return Arena(continuous=True)

    deaths = collected(MADDPG.for_env(boxes(), hidden=(4,)), 20, make_env=boxes).latest(20)
    with pytest.raises(ValueError, match=rf"{rule} all agents live"):
        WorldModel(spec_of(boxes())).fit(deaths, updates=1)
    with pytest.raises(ValueError, match=r"WorldModel\.make_engine must be fitted before"):
        model(Carts).make_engine(2)


def test_states_of_each_agent_are_foretold_too():
    def make():
        return ToyGame(horizon=6, memoryless=True)

    made = model(make)
    fitted = made.fit(played(make, 80), updates=400, batch_size=128, optim=adam(3e-3))
    assert min(fitted.obs, fitted.reward) > 0.95
    imagined = played(make, 10, engine=made.make_engine(2))
    torch.testing.assert_close(imagined.obs.state, imagined.obs.obs, atol=0.2, rtol=0)


def test_bad_input():
    spec = spec_of(Carts())
    with pytest.raises(TypeError, match=r"WorldModel\.spec must be a TeamSpec"):
        WorldModel(Carts())
    with pytest.raises(ValueError, match=r"WorldModel\.horizon must be an int in \[1, 8\]"):
        WorldModel(spec, horizon=9)
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match=r"fit\.held_out must be a number in \(0, 1\), got"):
            WorldModel(spec).fit(played(Carts, 2), held_out=share)
    with pytest.raises(TypeError, match=r"WorldModel\.fit\.batch must be a JointBatch"):
        WorldModel(spec).fit(MAPPO)
