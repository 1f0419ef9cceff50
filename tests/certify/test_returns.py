"""The certified return: closed forms, brute force over all play, and attacks."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from robustmarl.algorithms import VDN
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.certify import certified_return
from robustmarl.envs import MatrixGame, SignalMatching, ToyGame, TwoStepGame, climbing
from robustmarl.evaluation import rollout
from robustmarl.networks import AgentNetwork
from robustmarl.perturbers import ObsPerturber
from robustmarl.victims import NetworkVictim

GAMES = {
    "climbing": lambda: climbing(steps=2),
    "matrix": lambda: MatrixGame(np.arange(6.0).reshape(2, 3) % 4),
    "two_step": TwoStepGame,
    "toy": lambda: ToyGame(horizon=3),
    "memoryless": lambda: ToyGame(horizon=4, memoryless=True, dynamics="alternating"),
    "signal": lambda: SignalMatching(horizon=2),
}


def affine_team(game, seed):
    """Return a team whose outputs are affine: its only ReLU layer is always active."""
    team = VDN.for_env(game, hidden=(8,), seed=seed)
    network = team.policy.network
    with torch.no_grad():
        network.first.bias.add_(50.0)
    return team


def reachable(team, shown, agent, size, epsilon):
    """Return the actions that are greedy somewhere in the ball, by a linear program for each."""
    network = team.policy.network
    first, last = network.first, network.rest[-1]
    weight = (last.weight @ first.weight).detach().double().numpy()
    start = first.bias + network.id_table[agent]
    bias = (last.weight @ start + last.bias).detach().double().numpy()
    box = [(value - epsilon, value + epsilon) for value in shown]
    found = []
    for action in range(size):
        others = [other for other in range(size) if other != action]
        limits = {
            "A_ub": weight[others] - weight[action],
            "b_ub": bias[action] - bias[others],
        }
        if linprog(np.zeros(len(shown)), bounds=box, **limits).success:
            found.append(action)
    return found


def brute_force(team, game, epsilon):
    """Return the least expected return over all an attacker can do, by plain recursion."""

    def least(state):
        shown = game.shown(state)
        sets = [
            reachable(team, shown[agent], agent, size, epsilon)
            for agent, size in enumerate(game.action_sizes)
        ]
        values = []
        for joint in itertools.product(*sets):
            reward, nexts = game.follow(state, joint)
            values.append(reward + sum(p * least(after) for after, p in nexts.items()))
        return min(values)

    return sum(p * least(state) for state, p in game.first_states().items())


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("epsilon", [0.0, 0.2, 0.6])
def test_bound_brute_force_and_attack_are_in_order(name, epsilon):
    for seed in range(3):
        game = GAMES[name]()
        team, ball = affine_team(game, seed), LinfBall(epsilon=epsilon)
        found, brute = certified_return(team.victim(), game, ball), brute_force(team, game, epsilon)
        assert found.bound <= brute + 1e-6
        if max(game.action_sizes) == 2:  # what pairs of actions tell is all there is
            assert found.bound == pytest.approx(brute)
        assert brute <= found.clean + 1e-6
        if epsilon == 0.0:
            assert found.bound == pytest.approx(found.clean)


@pytest.mark.parametrize("name", GAMES)
def test_it_tells_what_a_played_episode_returns_and_what_pgd_leaves(name):
    game = GAMES[name]()
    team, ball = affine_team(game, seed=1), LinfBall(epsilon=0.3)
    found = certified_return(team.victim(), game, ball)
    clean = rollout(team, GAMES[name], episodes=40).figure("return")
    attack = PGD(ball=ball, steps=5, random_start=True)
    attacked = rollout(team, GAMES[name], episodes=40, perturb=ObsPerturber(attack))
    if name not in ("toy", "memoryless", "signal"):  # whose first states are drawn
        assert clean.mean() == pytest.approx(found.clean)
        brute = brute_force(team, game, 0.3)
        assert found.bound - 1e-6 <= brute <= attacked.figure("return").min() + 1e-6
    else:
        error = clean.std() / math.sqrt(40) + 1e-6
        assert abs(clean.mean() - found.clean) <= 5 * error
    assert found.bound <= found.clean


def reader():
    """Return a team of two that plays the signal it sees: o_1 > o_0."""
    network = AgentNetwork(2, 2, 2, hidden=(2,), agent_id=False)
    with torch.no_grad():
        network.first.weight.copy_(torch.eye(2))
        network.first.bias.fill_(5.0)
        network.rest[-1].weight.copy_(torch.eye(2))
        network.rest[-1].bias.zero_()
    return NetworkVictim(network, continuous=False)


@pytest.mark.parametrize(("epsilon", "bound"), [(0.4, 10.0), (0.6, 0.0)])
def test_a_team_that_copies_its_signal_keeps_all_up_to_one_half(epsilon, bound):
    found = certified_return(reader(), SignalMatching(), LinfBall(epsilon=epsilon))
    assert (found.clean, found.bound) == (10.0, bound)
    assert found.states == 20


@pytest.mark.parametrize("name", GAMES)
def test_games_follow_as_they_are_played(name):
    game, rng = GAMES[name](), np.random.default_rng(0)
    for seed in range(5):
        obs, _ = game.reset(seed=seed)
        states = [s for s in game.first_states() if np.array_equal(game.shown(s), [*obs.values()])]
        while game.agents:
            (state,) = states
            joint = tuple(int(rng.integers(size)) for size in game.action_sizes)
            obs, rewards, *_ = game.step(dict(zip(game.agents, joint, strict=True)))
            reward, nexts = game.follow(state, joint)
            assert set(rewards.values()) == {reward}
            assert bool(nexts) == bool(game.agents)
            assert sum(nexts.values()) in (0.0, 1.0)
            states = [s for s in nexts if np.array_equal(game.shown(s), [*obs.values()])]


def test_long_episodes_are_worked_out_state_by_state():
    team = VDN.for_env(ToyGame(), hidden=(8,))
    found = certified_return(team.victim(), ToyGame(horizon=300), LinfBall(epsilon=10.0))
    assert found.bound == 0.0
    assert found.states <= 300 * 16


class Asked(ToyGame):
    """Says what it was asked to follow."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.followed = Counter()

    def follow(self, state, joint):
        self.followed[state, joint] += 1
        return super().follow(state, joint)


def test_what_follows_is_asked_once():
    game, team = Asked(horizon=5), VDN.for_env(ToyGame(), hidden=(8,))
    found = certified_return(team.victim(), game, LinfBall(epsilon=10.0))
    assert set(game.followed.values()) == {1}
    assert len(game.followed) == 4 * found.states


class Endless(ToyGame):
    """Stays where it is."""

    def follow(self, state, joint):
        return 0.0, {state: 1.0}


def test_a_game_that_goes_on_for_ever_is_refused():
    team = VDN.for_env(ToyGame(), hidden=(8,))
    with pytest.raises(ValueError, match=r"certified_return\.game must be .* do not come again"):
        certified_return(team.victim(), Endless(), LinfBall(epsilon=0.1))


def test_what_cannot_be_listed_or_bounded_is_refused():
    ball = LinfBall(epsilon=0.1)
    for settings, text in (
        ({"recurrent": True, "hidden": (4,)}, "without memory"),
        ({"last_action": True, "recurrent": False}, "acting on observations and ids alone"),
    ):
        team = VDN.for_env(TwoStepGame(), **settings)
        with pytest.raises(ValueError, match=rf"certified_return\.victim must be {text}"):
            certified_return(team.victim(), TwoStepGame(), ball)
    victim = reader()
    with pytest.raises(ValueError, match=r"SignalMatching\.noise must be 0 for states to be"):
        certified_return(victim, SignalMatching(noise=0.1), ball)
    with pytest.raises(TypeError, match=r"certified_return\.game must be a ListedGame"):
        certified_return(victim, 3, ball)
    with pytest.raises(ValueError, match=r"certified_return\.game must be of at most 2 actions"):
        certified_return(victim, climbing(), ball)
