"""Directed games: the propositions and theorems of ATSA, and where they end."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmarl.certify import DirectedGame, StateAdversarialGame

GAMMA, ALPHA = 0.8, 0.5


def drawn(seed, *, states=3, actions=(2, 3), alpha=ALPHA, reach=0.5):
    """Return a random game of two agents; the team plays random actions, some cannot be moved."""
    rng = np.random.default_rng(seed)
    reward = rng.uniform(-1, 1, (states, *actions))
    transition = rng.dirichlet(np.full(states, 0.5), (states, *actions))
    does = []
    for size in actions:
        own = rng.integers(size, size=(states, 1))
        does.append(np.where(rng.random((states, size)) < reach, np.arange(size), own))
    return DirectedGame(reward, transition, does, GAMMA, alpha)


def policies(rng, game):
    return [rng.dirichlet(np.ones(np.shape(one)[1]), len(one)) for one in game.does]


def joint(rng, game):
    shape = np.shape(game.reward)
    return rng.dirichlet(np.ones(shape[1] * shape[2]), shape[0]).reshape(shape)


def one_shot(payoffs, alpha):
    """Return a game of one step in which everything can be reached; the team earns ``payoffs``."""
    reward = np.asarray(payoffs, float)[None]
    does = [np.arange(size)[None] for size in reward.shape[1:]]
    return DirectedGame(reward, np.ones((*reward.shape, 1)), does, 0.0, alpha)


def test_values_by_hand():
    game = replace(drawn(0), gamma=0.0)
    policy = joint(np.random.default_rng(1), game)
    found = game.evaluate(policy)
    for s, a, b in itertools.product(range(3), range(2), range(3)):
        assert found.q[s, a, b] == -game.reward[s, game.does[0][s, a], game.does[1][s, b]]
    entropy = -(policy * np.log(policy)).sum(axis=(1, 2))
    want = (policy * found.q).sum(axis=(1, 2)) + ALPHA * entropy
    assert found.value == pytest.approx(want)
    assert game.left(policy) == pytest.approx(-(policy * found.q).sum(axis=(1, 2)))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_lemma_e1_backups_from_anywhere_come_to_the_soft_values(seed):
    game, rng = drawn(seed), np.random.default_rng(seed)
    policy = joint(rng, game)
    found = game.evaluate(policy)
    ahead = np.empty((3, 2, 3, 3))
    earned = np.empty((3, 2, 3))
    for s, a, b in itertools.product(range(3), range(2), range(3)):
        where = s, game.does[0][s, a], game.does[1][s, b]
        ahead[s, a, b], earned[s, a, b] = game.transition[where], -game.reward[where]
    q = rng.normal(scale=3, size=(3, 2, 3))
    for _ in range(150):
        value = (policy * (q - ALPHA * np.log(policy))).sum(axis=(1, 2))
        q = earned + GAMMA * ahead @ value
    assert q == pytest.approx(found.q)
    assert game.left(policy) == pytest.approx(-replace(game, alpha=0.0).evaluate(policy).value)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), alpha=st.sampled_from([0.05, 0.5, 5.0]))
def test_proposition_3_2_no_policy_is_better_than_the_softmax_of_its_own_values(seed, alpha):
    game, rng = drawn(seed, alpha=alpha), np.random.default_rng(seed)
    best = game.optimal()
    flat = best.q.reshape(3, -1) / alpha
    value = alpha * (np.log(np.exp(flat - flat.max()).sum(axis=-1)) + flat.max())
    assert best.value == pytest.approx(value)
    assert best.policy == pytest.approx(np.exp((best.q - best.value[:, None, None]) / alpha))
    for other in [joint(rng, game), (best.policy + joint(rng, game)) / 2]:
        assert (game.evaluate(other).value < best.value).all()


def test_temperature_goes_from_the_strongest_attack_to_a_uniform_draw():
    game = drawn(3)
    hot = replace(game, alpha=1e6).optimal()
    assert hot.policy == pytest.approx(np.full((3, 2, 3), 1 / 6), abs=1e-5)
    strongest = replace(game, alpha=0.0).optimal()
    assert set(np.unique(strongest.policy)) == {0.0, 1.0}
    kept = [game.left(replace(game, alpha=a).optimal().policy) for a in (1e-3, 0.1, 1.0, 10.0)]
    assert kept[0] == pytest.approx(-strongest.value, abs=1e-2)
    assert (np.diff(kept, axis=0) > 0).all()
    for names in itertools.product(range(6), repeat=3):
        other = np.eye(6)[list(names)].reshape(3, 2, 3)
        assert (game.left(other) >= -strongest.value - 1e-9).all()


@pytest.mark.parametrize("seed", range(4))
def test_equation_3_holds_where_what_agents_earn_adds_up(seed):
    """Then the best joint policy is a product: of softmaxes of the agents' own shares."""
    rng = np.random.default_rng(seed)
    one, other = rng.normal(size=(2, 3))
    game = one_shot(one[:, None] + other, ALPHA)
    best = game.optimal()
    own = [np.exp(-share / ALPHA) / np.exp(-share / ALPHA).sum() for share in (one, other)]
    assert best.policy[0] == pytest.approx(np.outer(*own))
    step = game.improved(policies(rng, game))  # from anywhere, all at once
    assert [p[0] for p in step] == [pytest.approx(p) for p in own]


def test_equation_3_does_not_hold_where_agents_have_to_agree():
    """The team loses 1 if both do the same: no product comes near the best joint policy."""
    game = one_shot(-np.eye(2), 0.1)
    grid = np.linspace(0, 1, 201)
    best = max(
        game.evaluate(game.together([[[p, 1 - p]], [[q, 1 - q]]])).value[0]
        for p, q in itertools.product(grid, grid)
    )
    value = game.optimal().value[0]
    assert value == pytest.approx(1 + 0.1 * np.log(2), abs=1e-4)  # agrees, and which is open
    assert 1.0 <= best < 1.02 < value


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_lemma_e2_holds_for_one_agent_at_a_time(seed):
    game = drawn(seed)
    own = policies(np.random.default_rng(seed), game)
    for agent in (0, 1, 0):
        after = game.improved(own, [agent])
        before, now = (game.evaluate(game.together(one)) for one in (own, after))
        assert (now.value >= before.value - 1e-12).all()
        assert (now.q >= before.q - 1e-12).all()
        own = after
    rounds = game.settled(own)
    assert (np.diff([one.value for one in rounds], axis=0) >= -1e-12).all()
    last = game.settled(policies(np.random.default_rng(seed), game))[-1]
    marginals = [last.policy.sum(axis=axis) for axis in (2, 1)]
    assert last.policy == pytest.approx(game.together(marginals))
    for agent in (0, 1):  # nobody can better it alone
        again = game.improved(marginals, [agent])[agent]
        assert again == pytest.approx(marginals[agent], abs=1e-6)


def test_lemma_e2_does_not_hold_for_all_agents_at_once():
    """Both change sides, and miss each other for ever: worse than where they began."""
    game = one_shot(-np.eye(2), 0.1)
    found = game.settled([[[0.6, 0.4]], [[0.4, 0.6]]], at_once=True, rounds=20)
    assert len(found) == 21
    assert found[1].value[0] < found[0].value[0] - 0.3
    for one, after in itertools.pairwise(found[5:]):
        assert one.policy[0] == pytest.approx(1 - after.policy[0] - np.eye(2), abs=1e-3)
        assert one.value[0] == pytest.approx(0.0, abs=1e-3)
    apart = game.settled([[[0.6, 0.4]], [[0.4, 0.6]]])
    assert apart[-1].value[0] > 0.99
    assert len(apart) < 20


def test_settling_does_not_stop_at_a_saddle():
    game = one_shot(-np.eye(2), 0.1)
    start = [[[0.5 + 1e-9, 0.5 - 1e-9]]] * 2
    assert game.settled(start)[-1].value[0] > 0.99


def interaction(solved):
    """Return how far from a sum over two agents, with two actions each, joint values are."""
    q = solved.q
    return np.abs(q[:, 0, 0] + q[:, 1, 1] - q[:, 0, 1] - q[:, 1, 0]).max()


def marginals_of(solved):
    return [solved.policy.sum(axis=axis) for axis in (2, 1)]


def leaving_together(alpha, gamma=0.9):
    """Return a game of two states: the director pays 1 for each agent that it has play 1.

    From the second state both have to play it to get to the first, and nobody needs to: what is
    best is worth the same in both states, so that its joint values are sums over agents.
    """
    reward = np.add.outer([0.0, 1.0], [0.0, 1.0])[None].repeat(2, axis=0)
    after = np.zeros((2, 2, 2, 2))
    after[0, ..., 0] = after[1, ..., 1] = 1.0
    after[1, 1, 1] = 1.0, 0.0
    return DirectedGame(reward, after, [np.tile([0, 1], (2, 1))] * 2, gamma, alpha)


@pytest.mark.parametrize("at_once", [False, True])
def test_theorem_3_4_does_not_hold_though_equation_3_does(at_once):
    """Who begins by playing 1 in the second state goes on, as nobody can leave it alone."""
    game = leaving_together(0.05)
    best = game.optimal()
    assert interaction(best) < 1e-9
    assert best.policy == pytest.approx(game.together(marginals_of(best)), abs=1e-12)
    assert best.value == pytest.approx([0.0, 0.0], abs=1e-6)
    start = [[[0.99, 0.01], [0.01, 0.99]]] * 2
    last = game.settled(start, at_once=at_once)[-1]
    assert last.value == pytest.approx([0.0, -2.0], abs=1e-4)
    assert last.policy[1] == pytest.approx(np.diag([0.0, 1.0]), abs=1e-6)
    good = game.settled(marginals_of(best), at_once=at_once)[-1]
    assert good.value == pytest.approx(best.value)


def two_ways(alpha=0.1, gamma=0.9, p=0.99, loss=7.0):
    """Return a game in which the first state leads to one of two alike, and then to the end.

    To the third state if both agents play 1, which the director likes in the first state, with
    probability p at its best; in the second and third playing 1 costs it for the first agent.
    """
    reward = np.zeros((4, 2, 2))
    liked = alpha * np.log(p / (1 - p))
    reward[0] = -liked * np.add.outer([0, 1], [0, 1])
    reward[1:3] = loss * alpha / (gamma * p) * np.array([[0.0], [1.0]])
    after = np.zeros((4, 2, 2, 4))
    after[0, ..., 1] = after[1:, ..., 3] = 1.0
    after[0, 1, 1] = 0.0, 0.0, 1.0, 0.0
    return DirectedGame(reward, after, [np.tile([0, 1], (4, 1))] * 2, gamma, alpha)


def test_lemma_e2_does_not_hold_all_at_once_though_equation_3_does():
    """Each agent alone shuns a state where the first is wrong; at once they shun it too much."""
    game = two_ways()
    best = game.optimal()
    assert interaction(best) < 1e-9
    own = marginals_of(best)
    assert best.policy == pytest.approx(game.together(own), abs=1e-12)
    own[0] = own[0].copy()
    own[0][2] = 0.0001, 0.9999  # the old policy: the best one, but here
    before, after = (game.evaluate(game.together(one)).value for one in (own, game.improved(own)))
    assert after[0] < before[0] - 0.09
    for agent in (0, 1):
        one = game.evaluate(game.together(game.improved(own, [agent]))).value
        assert (one >= before - 1e-12).all()


def test_theorem_3_4_where_it_settles_depends_on_where_it_begins():
    """Agreeing on either action is stable; one is worth .1 more."""
    game = one_shot([[-1.0, 0.0], [0.0, -0.9]], 0.05)
    ends = []
    for p in (0.8, 0.2):
        for at_once in (False, True):
            start = [[[p, 1 - p]], [[p, 1 - p]]]
            ends.append(game.settled(start, at_once=at_once)[-1].value[0])
    assert ends == [pytest.approx(ends[0])] * 2 + [pytest.approx(ends[2])] * 2
    assert ends[0] == pytest.approx(1.0, abs=1e-3)
    assert ends[2] == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_theorem_3_4_holds_where_everything_adds_up(seed):
    """Rewards that are sums and a world that nobody moves: the best joint policy, from anywhere."""
    rng = np.random.default_rng(seed)
    shares = rng.normal(size=(2, 3, 2))
    reward = shares[0][:, :, None] + shares[1][:, None, :]
    world = np.broadcast_to(rng.dirichlet(np.ones(3), 3)[:, None, None], (3, 2, 2, 3))
    does = [np.tile(np.arange(2), (3, 1))] * 2
    game = DirectedGame(reward, world, does, GAMMA, ALPHA)
    best = game.optimal()
    for at_once in (False, True):
        last = game.settled(policies(rng, game), at_once=at_once)[-1]
        assert last.policy == pytest.approx(best.policy, abs=1e-6)
        assert last.value == pytest.approx(best.value)


def out_of_reach(alpha):
    """Return a game of one agent that plays 0, can be made to play 1, which costs 1, but not 2."""
    return DirectedGame([[1.0, 0.0, 0.5]], np.ones((1, 3, 1)), [[[0, 1, 0]]], 0.0, alpha)


def test_theorem_3_5_does_not_hold_where_a_name_is_out_of_reach():
    """Two names that come to the same are earned the entropy of, and drawn twice as often."""
    game = out_of_reach(1.0)
    named, own = game.optimal(), game.realised().optimal()
    e = np.e
    assert game.played(named.policy)[0] == pytest.approx(np.array([2, e, 0]) / (2 + e))
    assert game.played(own.policy)[0] == pytest.approx(np.array([1, e, 0]) / (1 + e))
    seen = game.realised().evaluate(game.played(named.policy)).value
    assert seen[0] < own.value[0] < named.value[0]


def test_who_plays_its_own_action_more_often_than_best_may_lose_more():
    """Where that is a bad one the team is left with less."""
    game = replace(out_of_reach(1.0), reward=[[0.0, 1.0, 0.5]])
    named, own = game.optimal(), game.realised().optimal()
    assert game.left(named.policy)[0] < game.realised().left(own.policy)[0] - 0.1


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), alpha=st.sampled_from([0.0, 0.05, 0.5]))
def test_theorem_3_5_against_all_that_agents_can_be_made_to_do(seed, alpha):
    """The observation adversary's own game, from the sets that agents may be shown."""
    rng = np.random.default_rng(seed)
    reward = np.tile(rng.uniform(-1, 1, (3, 2, 3)), (2, 1, 1, 1))
    transition = rng.dirichlet(np.full(3, 0.5), (3, 2, 3))
    sets = (rng.random((2, 3, 3)) < 0.4) | np.eye(3, dtype=bool)
    team = [np.eye(size)[rng.integers(size, size=3)] for size in (2, 3)]
    world = StateAdversarialGame(reward, transition, sets, GAMMA)
    game = DirectedGame.against(world, team, alpha)
    plays = [own.argmax(axis=1) for own in team]
    value = np.zeros(3)
    for _ in range(150):  # soft value iteration over actions that some view brings about
        q = -reward[0] + GAMMA * transition @ value
        for s in range(3):
            first, second = ({*own[sets[j, s]].tolist()} for j, own in enumerate(plays))
            some = np.array([q[s, a, b] for a, b in itertools.product(first, second)])
            value[s] = alpha * np.log(np.exp(some / alpha).sum()) if alpha else some.max()
    assert game.realised().optimal().value == pytest.approx(value)
    seen = game.realised().evaluate(game.played(game.optimal().policy)).value
    assert (seen <= value + 1e-9).all()
    if not alpha:
        assert seen == pytest.approx(value)


def test_theorem_3_5_holds_where_all_actions_have_as_many_names():
    game = DirectedGame([[1.0, 0.0, 0.5, 0.5]], np.ones((1, 4, 1)), [[[0, 1, 1, 0]]], 0.0, 0.7)
    assert game.played(game.optimal().policy) == pytest.approx(game.realised().optimal().policy)


def test_theorem_3_5_does_not_hold_where_states_differ_in_how_many_names_come_to_the_same():
    """The director is paid to go where the agent can be moved least: by what it names there."""
    ways = np.zeros((3, 2, 3))
    ways[0, 0, 1] = ways[0, 1, 2] = ways[1:, :, 0] = 1.0
    game = DirectedGame(np.zeros((3, 2)), ways, [[[0, 1], [0, 0], [0, 1]]], 0.9, 1.0)
    named, own = game.optimal(), game.realised().optimal()
    assert named.policy[0] == pytest.approx([0.5, 0.5])
    assert own.policy[0, 1] > 0.6


def test_what_is_done_under_another_name_can_still_be_done():
    game = DirectedGame([[1.0, 0.0, 0.5]], np.ones((1, 3, 1)), [[[1, 2, 2]]], 0.0, 0.0)
    assert game.left(game.optimal().policy)[0] == 0.0
    assert game.realised().left(game.realised().optimal().policy)[0] == 0.0
    assert game.realised().names[0].tolist() == [[False, True, True]]
    assert replace(game, names=[[[1, 0, 0]]]).realised().names[0].tolist() == [[False, True, False]]


def test_nobody_earns_the_entropy_of_agents_that_are_not_attacked():
    rng = np.random.default_rng(0)
    reward = np.tile(rng.uniform(-1, 1, (3, 2, 3)), (2, 1, 1, 1))
    transition = rng.dirichlet(np.ones(3), (3, 2, 3))
    views, team = np.ones((1, 3, 3)), [np.eye(2)[[0, 1, 0]], np.eye(3)]
    world = StateAdversarialGame(reward, transition, views, GAMMA)
    found = DirectedGame.against(world, team, 0.5).optimal()
    assert found.policy.sum(axis=1) == pytest.approx(team[1])
    earned = np.stack([reward[0, s, :, s] for s in range(3)])  # the second plays the state
    after = np.stack([transition[s, :, s] for s in range(3)])
    alone = StateAdversarialGame(earned[None], after, views, GAMMA)
    own = DirectedGame.against(alone, team[:1], 0.5).optimal()
    assert found.value == pytest.approx(own.value)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_the_hotter_the_more_the_team_keeps(seed):
    game = drawn(seed)
    kept = [game.left(replace(game, alpha=a).optimal().policy) for a in (0.0, 0.05, 0.3, 2.0, 50.0)]
    assert (np.diff(kept, axis=0) >= -1e-9).all()


def test_ties_at_temperature_0_go_to_the_first_and_end():
    game = replace(drawn(0, alpha=0.0), reward=np.zeros((3, 2, 3)))
    assert (game.optimal().policy[:, 0, 0] == 1.0).all()


def test_a_game_keeps_what_it_was_given():
    names = [np.ones((3, 2), bool), np.ones((3, 3), bool)]
    reward = np.array(drawn(0).reward)
    game = replace(drawn(0), reward=reward, names=names)
    before = game.optimal().value
    names[0][:, 1], reward[:] = False, 0.0
    assert game.optimal().value.tolist() == before.tolist()
    with pytest.raises(ValueError, match="read-only"):
        game.reward[0] = 1.0


@pytest.mark.parametrize("seed", range(6))
def test_at_temperature_0_it_is_the_worst_case_of_the_state_adversarial_game(seed):
    """The most that a director and a perfect generator take is the most that can be taken."""
    rng = np.random.default_rng(seed)
    reward = np.tile(rng.uniform(-1, 1, (3, 2, 3)), (2, 1, 1, 1))
    transition = rng.dirichlet(np.full(3, 0.5), (3, 2, 3))
    sets = (rng.random((2, 3, 3)) < 0.6) | np.eye(3, dtype=bool)
    game = StateAdversarialGame(reward, transition, sets, GAMMA)
    team = [np.eye(size)[rng.integers(size, size=3)] for size in (2, 3)]
    directed = DirectedGame.against(game, team, alpha=0.0)
    worst = game.worst(team, 0, moved=(0, 1))
    assert directed.left(directed.optimal().policy) == pytest.approx(worst.value)
    first = StateAdversarialGame(reward, transition, sets[:1], GAMMA)
    alone = DirectedGame.against(first, team, alpha=0.0)
    assert -alone.optimal().value == pytest.approx(first.worst(team, 0).value)


def test_what_may_be_named_is_all_that_is_named():
    game = drawn(0, reach=1.0)
    names = [np.ones((3, 2)), [[1, 0, 1], [1, 1, 1], [0, 1, 0]]]
    game = replace(game, names=names)
    best = game.optimal()
    assert not best.policy[0, :, 1].any()
    assert not best.policy[2][:, [0, 2]].any()
    assert best.policy.sum(axis=(1, 2)) == pytest.approx(np.ones(3))
    uniform = game.improved([np.full((3, 2), 0.5), [[0.5, 0, 0.5], [0.2, 0.4, 0.4], [0, 1, 0]]])
    assert uniform[1][0, 1] == 0.0


HALF, THIRD = np.full((3, 2), 0.5), np.full((3, 3), 1 / 3)
ACTIONS = [np.zeros((3, 2), int), np.zeros((3, 3), int)]
BAD = {
    "flat": ({"reward": np.ones(3)}, r"DirectedGame.reward must be the team's, \(S, A_1"),
    "empty": ({"reward": np.ones((0, 2))}, r"DirectedGame.reward must be the team's"),
    "ragged": ({"reward": [[1.0], [1.0, 2.0]]}, r"DirectedGame.reward must be an array of numbers"),
    "text": ({"reward": "x"}, r"DirectedGame.reward must be an array of numbers, got 'x'"),
    "nan": ({"reward": np.full((3, 2, 3), np.nan)}, r"DirectedGame.reward must be finite numbers"),
    "shape": ({"reward": np.ones((3, 2))}, r"DirectedGame.transition must be of shape \(3, 2, 3"),
    "transition": ({"transition": np.ones((3, 2, 3, 3))}, r"DirectedGame.transition must be prob"),
    "does": ({"does": [ACTIONS[0], np.full((3, 3), 3)]}, r"DirectedGame.does must be actions"),
    "below": ({"does": [ACTIONS[0], np.full((3, 3), -1)]}, r"DirectedGame.does must be actions"),
    "parts": ({"does": [HALF, THIRD]}, r"DirectedGame.does must be whole numbers of shapes"),
    "one": ({"does": ACTIONS[:1]}, r"DirectedGame.does must be whole numbers of shapes"),
    "none": ({"does": None}, r"DirectedGame.does must be whole numbers of shapes .* got None"),
    "names": ({"names": [np.zeros((3, 2)), THIRD > 0]}, r"DirectedGame.names must be .* at least"),
    "size": ({"names": [THIRD > 0, HALF > 0]}, r"DirectedGame.names must be bools of shapes"),
    "two": ({"names": [np.full((3, 2), 2), THIRD > 0]}, r"DirectedGame.names must be bools"),
    "gamma": ({"gamma": 1.0}, r"DirectedGame.gamma must be below 1"),
    "alpha": ({"alpha": -1.0}, r"DirectedGame.alpha must be a number >= 0"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_games_are_refused(bad):
    changed, message = BAD[bad]
    with pytest.raises((TypeError, ValueError), match=message):
        replace(drawn(0), **changed)


FEW = {"names": [np.eye(2)[[0, 0, 0]], np.ones((3, 3))]}
BELOW = np.full((3, 2, 3), 0.3)
BELOW[:, 0, 0] = -0.5
ASKED = {
    "shape": (lambda g: g.evaluate(np.ones((3, 2))), r"evaluate.policy must be of shape \(3, 2"),
    "sum": (lambda g: g.left(np.full((3, 2, 3), 0.17)), "policy must be probabilities"),
    "below": (lambda g: g.played(BELOW), "policy must be probabilities"),
    "together": (lambda g: g.together([HALF]), "together.own must be of shapes"),
    "none": (lambda g: g.together(None), "own must be one array of probabilities for each"),
    "agents": (lambda g: g.improved([HALF, THIRD], [2]), "improved.agents must be agents below 2"),
    "minus": (lambda g: g.improved([HALF, THIRD], [-1]), "improved.agents must be agents below 2"),
    "nobody": (lambda g: g.improved([HALF, THIRD], []), "agents below 2, at least one"),
    "half": (lambda g: g.improved([HALF, THIRD], [0.5]), "improved.agents must be an int"),
    "int": (lambda g: g.improved([HALF, THIRD], 1), "improved.agents must be agents below 2"),
    "rounds": (lambda g: g.settled([HALF, THIRD], rounds=0), "settled.rounds must be an int >= 1"),
    "flag": (lambda g: g.settled([HALF, THIRD], at_once="no"), "settled.at_once must be"),
    "joint": (
        lambda g: replace(g, **FEW).evaluate(np.full((3, 2, 3), 1 / 6)),
        "evaluate.policy must be of what may be named",
    ),
    "own": (
        lambda g: replace(g, **FEW).together([HALF, THIRD]),
        "together.own must be of what may be named",
    ),
    "huge": (
        lambda g: replace(g, reward=np.full((3, 2, 3), 1e308)).optimal(),
        "DirectedGame.reward must be so small that returns are finite",
    ),
}


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("asked", ASKED)
def test_bad_questions_are_refused(asked):
    call, message = ASKED[asked]
    with pytest.raises((TypeError, ValueError), match=message):
        call(drawn(0))


def test_rounds_are_at_most_so_many():
    assert len(drawn(0).settled([HALF, THIRD], rounds=2)) == 3


def test_probabilities_need_not_add_up_to_the_last_digit():
    game = replace(drawn(0), gamma=1 - 1e-7)
    exact = game.left(np.full((3, 2, 3), 1 / 6))
    assert game.left(np.full((3, 2, 3), (1 + 9e-7) / 6)) == pytest.approx(exact)


def test_the_team_has_to_be_one_that_a_director_can_direct():
    rng = np.random.default_rng(0)
    reward, over = rng.normal(size=(2, 2, 2, 2)), np.full((2, 2, 2, 2), 0.5)
    game = StateAdversarialGame(reward, over, np.ones((2, 2, 2)), GAMMA)
    with pytest.raises(ValueError, match=r"against.game.reward must be the same for all agents"):
        DirectedGame.against(game, [np.eye(2)] * 2, ALPHA)
    game = replace(game, reward=reward[[0, 0]])
    with pytest.raises(ValueError, match=r"against.policy must be deterministic"):
        DirectedGame.against(game, [np.eye(2), np.full((2, 2), 0.5)], ALPHA)
    with pytest.raises(TypeError, match=r"against.game must be a StateAdversarialGame"):
        DirectedGame.against(None, [np.eye(2)] * 2, ALPHA)
