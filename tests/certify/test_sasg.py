"""State-adversarial games: the theorems of RoMFAC, and where they end."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from robustmarl.certify import StateAdversarialGame

GAMMA = 0.8


def drawn(seed, *, states=3, actions=(2, 3), attacked=2, gamma=GAMMA, shared=False):
    """Return a random game of two players, and policies for it."""
    rng = np.random.default_rng(seed)
    reward = rng.uniform(-1, 1, (2, states, *actions))
    reward[1] = reward[0] if shared else reward[1]
    transition = rng.dirichlet(np.full(states, 0.5), (states, *actions))
    sets = rng.random((attacked, states, states)) < 0.6
    sets |= np.eye(states, dtype=bool)
    policy = [rng.dirichlet(np.ones(size), states) for size in actions]
    return StateAdversarialGame(reward, transition, sets, gamma), policy


def perturbations(game, moved):
    """Yield all that the adversaries of the agents ``moved`` can do, (M, S) each."""
    states = len(game.transition)
    choices = [
        [t for t in range(states) if game.sets[j, s, t]] for j in moved for s in range(states)
    ]
    for choice in itertools.product(*choices):
        shown = game.clean()
        shown[list(moved)] = np.reshape(choice, (len(moved), states))
        yield shown


def test_joint_play_is_the_product_of_what_each_does_with_what_it_sees():
    game, policy = drawn(0)
    shown = np.array([[1, 1, 0], [2, 0, 2]])
    game = replace(game, sets=np.ones((2, 3, 3)))
    joint = game.joint(policy, shown)
    for s, a, b in itertools.product(range(3), range(2), range(3)):
        want = policy[0][shown[0, s], a] * policy[1][shown[1, s], b]
        assert joint[s, a, b] == pytest.approx(want)
    assert game.joint(policy).sum(axis=(1, 2)) == pytest.approx(np.ones(3))


@pytest.mark.parametrize("seed", range(5))
def test_theorem_1_values_solve_the_bellman_equations_and_sum_what_is_earned(seed):
    game, policy = drawn(seed)
    shown = next(itertools.islice(perturbations(game, (0, 1)), 1, None))
    play, value = game.joint(policy, shown), game.value(policy, shown)
    for j, s in itertools.product(range(2), range(3)):
        right = 0.0
        for a, b, t in itertools.product(range(2), range(3), range(3)):
            gain = game.reward[j, s, a, b] + GAMMA * value[j, t]
            right += play[s, a, b] * game.transition[s, a, b, t] * gain
        assert value[j, s] == pytest.approx(right)
    step = np.einsum("sab,sabt->st", play, game.transition)
    earned, total, ahead = np.einsum("sab,jsab->js", play, game.reward), 0.0, np.eye(3)
    for k in range(200):
        total = total + GAMMA**k * earned @ ahead.T
        ahead = ahead @ step
    assert value == pytest.approx(total)


@given(seed=st.integers(0, 10_000))
def test_theorem_2_the_operator_is_a_contraction(seed):
    game, policy = drawn(seed)
    one, other = np.random.default_rng(seed).normal(scale=3, size=(2, 3))
    images = [game.backup(v, policy, 0, moved=(0, 1)).value for v in (one, other)]
    assert np.abs(images[0] - images[1]).max() <= GAMMA * np.abs(one - other).max() + 1e-9


@pytest.mark.parametrize("moved", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("seed", range(4))
def test_theorem_2_its_fixed_point_is_the_least_of_all_perturbations_in_every_state(seed, moved):
    game, policy = drawn(seed)
    found = game.worst(policy, 0, moved=moved)
    every = [game.value(policy, shown)[0] for shown in perturbations(game, moved)]
    assert found.value == pytest.approx(np.min(every, axis=0))
    assert game.value(policy, found.shown)[0] == pytest.approx(found.value)
    for start in np.random.default_rng(seed).normal(size=(3, 3)):
        for _ in range(150):
            start = game.backup(start, policy, 0, moved=moved).value
        assert start == pytest.approx(found.value)


@pytest.mark.parametrize("gamma", [0.9, 0.99])
@pytest.mark.parametrize("power", [-40, 0, 20, 40])
def test_the_unit_of_reward_does_not_matter(power, gamma):
    """By powers of two nothing is rounded: worst perturbations are the same, and are found."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        transition = rng.dirichlet(np.ones(4), size=(4, 3))
        reward = rng.uniform(-1, 1, (1, 4, 3))
        policy = [rng.dirichlet(np.ones(3), size=4)]
        sets = np.ones((1, 4, 4), dtype=bool)
        one, other = (
            StateAdversarialGame(reward * unit, transition, sets, gamma).worst(policy, 0)
            for unit in (1.0, 2.0**power)
        )
        assert other.shown.tolist() == one.shown.tolist()
        assert other.value.tolist() == (one.value * 2.0**power).tolist()


def test_theorem_2_says_nothing_about_the_perturbation_itself():
    """Where policies do not look, all perturbations are worst ones."""
    game, _ = drawn(0)
    blind = [np.full((3, 2), 1 / 2), np.full((3, 3), 1 / 3)]
    values = [game.value(blind, shown)[0] for shown in perturbations(game, (0, 1))]
    assert np.ptp(values, axis=0) == pytest.approx(np.zeros(3))
    assert len(values) > 1


def one_shot(payoffs, gamma=0.5):
    """Return a game played in state 0 and over in 1; both may be shown as either; and copyists.

    An agent plays what it is shown. ``payoffs`` are (2, A_1, A_2), of state 0.
    """
    reward = np.zeros((2, 2, 2, 2))
    reward[:, 0] = payoffs
    transition = np.zeros((2, 2, 2, 2))
    transition[..., 1] = 1.0
    game = StateAdversarialGame(reward, transition, np.ones((2, 2, 2)), gamma)
    return game, [np.eye(2), np.eye(2)]


def settled(game, policy):
    """Return the perturbations of state 0 that no adversary alone would change, and values."""
    found = {}
    for shown in perturbations(game, (0, 1)):
        value = game.value(policy, shown)[:, 0]
        best = [game.worst(policy, j, moved=(j,), shown=shown).value[0] for j in (0, 1)]
        if value == pytest.approx(best):
            found[tuple(shown[:, 0].tolist())] = value.tolist()
    return found


def test_adversaries_of_agents_with_rewards_of_their_own_may_have_no_joint_optimum():
    """Matching pennies: the paper's v_* need not exist among deterministic perturbations."""
    same = np.eye(2)
    assert settled(*one_shot([same, 1 - same])) == {}


def test_and_may_have_several_of_different_values():
    """Each for itself changes nothing, both together would: a joint adversary alone has one."""
    cost = np.array([[1.0, 2.0], [2.0, 0.0]])
    game, policy = one_shot([cost, cost])
    assert settled(game, policy) == {(0, 0): [1.0, 1.0], (1, 1): [0.0, 0.0]}
    assert game.worst(policy, 0, moved=(0, 1)).value[0] == 0.0


def guessing(gamma=0.9):
    """Two states, shown as either: the first agent is to name the state, the second to help.

    The first earns 1 for the right name, 2 where it is helped; the second 1 for helping.
    """
    reward, transition = np.zeros((2, 3, 2, 2)), np.zeros((3, 2, 2, 3))
    for s in (0, 1):
        reward[0, s, s] = 1.0, 2.0
        reward[1, s, :, 1] = 1.0
    transition[..., 2] = 1.0
    sets = np.eye(3, dtype=bool)[None].copy()
    sets[0, :2, :2] = True
    return StateAdversarialGame(reward, transition, sets, gamma)


def test_theorem_3_a_game_without_a_nash_equilibrium():
    """Helping dominates; then no policy of the first agent is best in both states at once."""
    game, helping = guessing(), np.array([[0.0, 1.0]] * 3)
    always = [np.array([[1.0, 0.0]] * 3), np.array([[0.0, 1.0]] * 3)]
    best = [game.worst([always[s], helping], 0).value[s] for s in (0, 1)]
    assert best == [2.0, 2.0]  # as much as is to be had
    for p, q in itertools.product(np.linspace(0, 1, 21), repeat=2):
        naming = np.array([[p, 1 - p], [q, 1 - q], [1.0, 0.0]])
        value = game.worst([naming, helping], 0).value[:2]
        assert value == pytest.approx([2 * min(p, q), 2 * (1 - max(p, q))])
        assert (best - value).max() >= 1.0 - 1e-9  # what it gains by changing, in one of them
        idle = np.array([[1.0, 0.0]] * 3)
        assert game.value([naming, idle])[1, 0] < game.value([naming, helping])[1, 0]
    # The same for all policies: maximise t_0 + t_1 with t_0 <= 2 p, 2 q; t_1 <= 2 - 2 p, 2 - 2 q.
    limits = [[-2, 0, 1, 0], [0, -2, 1, 0], [2, 0, 0, 1], [0, 2, 0, 1]]
    most = linprog([0, 0, -1, -1], limits, [0, 0, 2, 2], bounds=[(0, 1)] * 2 + [(None, None)] * 2)
    assert -most.fun == pytest.approx(2.0)  # and not 4


def variation(game, policy, shown, agent):
    """Return the largest total variation, half the sum of differences, that an adversary causes."""
    most = 0.0
    for state, seen in zip(*np.nonzero(game.sets[agent]), strict=True):
        trial = np.array(shown)
        trial[agent, state] = seen
        before, after = (game.joint(policy, one)[state] for one in (shown, trial))
        most = max(most, 0.5 * np.abs(before - after).sum())
    return most


def loss_and_bounds(game, policy, shown, agent=0):
    """Return what attacking one agent more costs it, and the bounds as proved and as printed."""
    worst = game.worst(policy, agent, moved=(agent,), shown=shown)
    loss = (game.value(policy, shown)[agent] - worst.value).max()
    scale = np.abs(game.reward[agent]).max() * variation(game, policy, shown, agent)
    gamma = game.gamma
    return loss, 2 / (1 - gamma) ** 2 * scale, 2 * (1 + gamma / (1 - gamma) ** 2) * scale


@given(seed=st.integers(0, 10_000), gamma=st.floats(0.0, 0.95))
def test_theorem_4_the_loss_is_bounded_by_the_total_variation(seed, gamma):
    game, policy = drawn(seed, gamma=gamma)
    rng = np.random.default_rng(seed)
    shown = game.clean()
    shown[1] = [rng.choice(np.nonzero(row)[0]) for row in game.sets[1]]  # of the other agent
    loss, proved, _ = loss_and_bounds(game, policy, shown)
    assert -1e-9 <= loss <= proved + 1e-9


def slipping(gamma, delta):
    """In state 0 each step earns 1 unless the first agent slips into state 1, which earns -1.

    State 2 never comes, but is what state 0 may be shown as; there the agent slips with
    probability ``delta``. The second agent does nothing.
    """
    reward, transition = np.ones((2, 3, 2, 1)), np.zeros((3, 2, 1, 3))
    reward[:, 1] = reward[:, :, 1] = -1.0
    transition[0, 0, 0, 0] = transition[2, 0, 0, 0] = 1.0
    transition[:, 1, 0, 1] = transition[1, 0, 0, 1] = 1.0
    sets = np.eye(3, dtype=bool)[None].copy()
    sets[0, 0, 2] = True
    policy = [np.array([[1.0, 0.0], [1.0, 0.0], [1 - delta, delta]]), np.ones((3, 1))]
    return StateAdversarialGame(reward, transition, sets, gamma), policy


@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.9, 0.99])
def test_theorem_4_its_constant_as_printed_is_too_small(gamma):
    """The loss is 2 delta / ((1 - gamma) (1 - gamma + gamma delta)): nearly what is proved."""
    delta = 1e-3 * (1 - gamma)
    game, policy = slipping(gamma, delta)
    loss, proved, printed = loss_and_bounds(game, policy, game.clean())
    assert loss == pytest.approx(2 * delta / ((1 - gamma) * (1 - gamma + gamma * delta)))
    assert printed < loss <= proved
    assert loss > 0.99 * proved
    assert loss <= 2 * printed  # as it reads where the variation is the whole sum


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"reward": np.zeros((2, 3, 2))}, r"\.reward must be \(N, S, A_1"),
        ({"transition": np.ones((3, 2, 3, 3))}, r"\.transition must be probabilities"),
        ({"sets": np.zeros((2, 3, 3))}, r"\.sets must be \(M, S, S\) with M <= N"),
        ({"sets": np.ones((3, 3, 3))}, r"\.sets must be \(M, S, S\) with M <= N"),
        ({"gamma": 1.0}, r"\.gamma must be below 1"),
    ],
)
def test_bad_games(changed, text):
    game, _ = drawn(0)
    parts = {name: getattr(game, name) for name in ("reward", "transition", "sets", "gamma")}
    with pytest.raises(ValueError, match=rf"StateAdversarialGame{text}"):
        StateAdversarialGame(**(parts | changed))


def test_bad_questions():
    game, policy = drawn(0, attacked=1)
    with pytest.raises(
        ValueError, match=r"StateAdversarialGame\.worst\.moved must be agents below"
    ):
        game.worst(policy, 1)
    with pytest.raises(ValueError, match=r"StateAdversarialGame\.worst\.agent must be below 2"):
        game.worst(policy, 2)
    with pytest.raises(ValueError, match=r"StateAdversarialGame\.value\.policy must be of shapes"):
        game.value([policy[0]])
    with pytest.raises(ValueError, match=r"Game\.backup\.value must be of shape \(3,\)"):
        game.backup([0.0], policy, 0)


@pytest.mark.parametrize("own", [3 * np.eye(3)[:, :2], -np.eye(3)[:, :2], np.zeros((3, 2))])
def test_what_is_no_policy_is_refused(own):
    game, policy = drawn(0)
    for ask in (game.joint, game.value, lambda one: game.worst(one, 0)):
        with pytest.raises(ValueError, match=r"\.policy must be probabilities, which add up to 1"):
            ask([own, policy[1]])


def test_policies_of_single_precision_are_taken():
    game, policy = drawn(0)
    rounded = [own.astype(np.float32) for own in policy]
    assert game.value(rounded) == pytest.approx(game.value(policy), rel=1e-5)


@pytest.mark.parametrize(
    "shown", [[[0, 1, 1]], [[0, 1, -1]], [[0, 1, 3]], [[0, 1]], [[0.0, 1.0, 2.0]], [0, 1, 2]]
)
def test_what_may_not_be_shown_is_refused(shown):
    game, policy = drawn(0, attacked=1)
    game = replace(game, sets=np.eye(3)[None])
    asked = [game.joint, game.value]
    asked.append(lambda policy, shown: game.worst(policy, 0, shown=shown))
    asked.append(lambda policy, shown: game.backup([0.0] * 3, policy, 0, shown=shown))
    for ask in asked:
        with pytest.raises(ValueError, match=r"\.shown must be whole numbers \(M, S\)"):
            ask(policy, shown)
