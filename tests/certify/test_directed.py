"""Directed games: the propositions and theorems of ATSA, and where they end."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustmarl.certify import DirectedGame, StateAdversarialGame

GAMMA, ALPHA = 0.8, 0.5


def drawn(seed, *, states=3, actions=(2, 3), alpha=ALPHA, reach=0.5):
    """Return a random game of two agents; the team plays random actions, some cannot be moved."""
    rng = np.random.default_rng(seed)
    reward = rng.uniform(-1, 1, (states, *actions))
    transition = rng.dirichlet(np.full(states, 0.5), (states, *actions))
    done = []
    for size in actions:
        own = rng.integers(size, size=(states, 1))
        done.append(np.where(rng.random((states, size)) < reach, np.arange(size), own))
    return DirectedGame(reward, transition, done, GAMMA, alpha)


def policies(rng, game):
    return [rng.dirichlet(np.ones(np.shape(one)[1]), len(one)) for one in game.done]


def joint(rng, game):
    shape = np.shape(game.reward)
    return rng.dirichlet(np.ones(shape[1] * shape[2]), shape[0]).reshape(shape)


def one_shot(payoffs, alpha):
    """Return a game of one step in which everything can be reached; the team earns ``payoffs``."""
    reward = np.asarray(payoffs, float)[None]
    done = [np.arange(size)[None] for size in reward.shape[1:]]
    return DirectedGame(reward, np.ones((*reward.shape, 1)), done, 0.0, alpha)


def test_values_by_hand():
    game = replace(drawn(0), gamma=0.0)
    policy = joint(np.random.default_rng(1), game)
    found = game.evaluate(policy)
    for s, a, b in itertools.product(range(3), range(2), range(3)):
        assert found.q[s, a, b] == -game.reward[s, game.done[0][s, a], game.done[1][s, b]]
    entropy = -(policy * np.log(policy)).sum(axis=(1, 2))
    want = (policy * found.q).sum(axis=(1, 2)) + ALPHA * entropy
    assert found.value == pytest.approx(want)
    assert game.left(policy) == pytest.approx(-(policy * found.q).sum(axis=(1, 2)))


@given(seed=st.integers(0, 10_000))
def test_lemma_e1_backups_from_anywhere_come_to_the_soft_values(seed):
    game, rng = drawn(seed), np.random.default_rng(seed)
    policy = joint(rng, game)
    found = game.evaluate(policy)
    ahead = np.empty((3, 2, 3, 3))
    earned = np.empty((3, 2, 3))
    for s, a, b in itertools.product(range(3), range(2), range(3)):
        where = s, game.done[0][s, a], game.done[1][s, b]
        ahead[s, a, b], earned[s, a, b] = game.transition[where], -game.reward[where]
    q = rng.normal(scale=3, size=(3, 2, 3))
    for _ in range(150):
        value = (policy * (q - ALPHA * np.log(policy))).sum(axis=(1, 2))
        q = earned + GAMMA * ahead @ value
    assert q == pytest.approx(found.q)
    assert game.left(policy) == pytest.approx(-replace(game, alpha=0.0).evaluate(policy).value)


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
    again = game.improved(marginals)
    assert [p == pytest.approx(q, abs=1e-5) for p, q in zip(again, marginals, strict=True)]


def test_lemma_e2_does_not_hold_for_all_agents_at_once():
    """Both change sides, and miss each other for ever: worse than where they began."""
    game = one_shot(-np.eye(2), 0.1)
    found = [one.value[0] for one in game.settled([[[0.6, 0.4]], [[0.4, 0.6]]], at_once=True)]
    assert found[1] < found[0] - 0.3
    assert max(found[2:]) < found[0] - 0.3
    apart = game.settled([[[0.6, 0.4]], [[0.4, 0.6]]])
    assert apart[-1].value[0] > 0.99


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
    done = [np.tile(np.arange(2), (3, 1))] * 2
    game = DirectedGame(reward, world, done, GAMMA, ALPHA)
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


@given(seed=st.integers(0, 10_000))
def test_theorem_3_5_holds_where_all_names_are_reached_and_at_temperature_0(seed):
    game = drawn(seed, reach=1.0)
    best = game.optimal()
    assert game.played(best.policy) == pytest.approx(best.policy)
    assert game.realised().optimal().value == pytest.approx(best.value)
    some = drawn(seed, alpha=0.0)
    some = replace(some, done=[with_default(done) for done in some.done])
    assert some.realised().optimal().value == pytest.approx(some.optimal().value)


def with_default(done):
    """Return it with what is done by default named so, too."""
    fixed = done.copy()
    for row in fixed:
        for action in set(row.tolist()):
            row[action] = action
    return fixed


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
    assert (alone.done[1] == team[1].argmax(axis=-1)[:, None]).all()
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


BAD = {
    "reward": ({"reward": np.ones((3, 2))}, r"DirectedGame.reward must be the team's, \(S, A_1"),
    "flat": ({"reward": np.ones(3)}, r"DirectedGame.reward must be the team's"),
    "nan": ({"reward": np.full((3, 2, 3), np.nan)}, "DirectedGame.reward must be finite numbers"),
    "transition": ({"transition": np.ones((3, 2, 3, 3))}, "DirectedGame.transition must be prob"),
    "done": (
        {"done": [np.zeros((3, 2), int), np.full((3, 3), 3)]},
        "DirectedGame.done must be whole",
    ),
    "float": ({"done": [np.zeros((3, 2)), np.zeros((3, 3))]}, "DirectedGame.done must be whole"),
    "one": ({"done": [np.zeros((3, 2), int)]}, "DirectedGame.done must be whole numbers of shapes"),
    "names": (
        {"names": [np.zeros((3, 2)), np.ones((3, 3))]},
        "DirectedGame.names must be .* least one",
    ),
    "gamma": ({"gamma": 1.0}, "DirectedGame.gamma must be below 1"),
    "alpha": ({"alpha": -1.0}, "DirectedGame.alpha must be a number >= 0"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_games_are_refused(bad):
    settings, message = BAD[bad]
    with pytest.raises(ValueError, match=message):
        replace(drawn(0), **settings)


def test_bad_policies_are_refused():
    game = drawn(0)
    with pytest.raises(
        ValueError, match=r"DirectedGame.evaluate.policy must be of shape \(3, 2, 3\)"
    ):
        game.evaluate(np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"DirectedGame.left.policy must be probabilities"):
        game.left(np.ones((3, 2, 3)))
    with pytest.raises(ValueError, match=r"DirectedGame.together.own must be of shapes"):
        game.together([np.ones((3, 2))])
    with pytest.raises(ValueError, match=r"DirectedGame.improved.agents must be agents below 2"):
        game.improved([np.full((3, 2), 0.5), np.full((3, 3), 1 / 3)], [2])
    with pytest.raises(ValueError, match=r"DirectedGame.settled.rounds must be an int >= 1"):
        game.settled([np.full((3, 2), 0.5), np.full((3, 3), 1 / 3)], rounds=0)
    few = replace(game, names=[np.eye(2)[[0, 0, 0]], np.ones((3, 3))])
    with pytest.raises(ValueError, match="of what may be named"):
        few.evaluate(np.full((3, 2, 3), 1 / 6))
    with pytest.raises(ValueError, match=r"together.own must be of names that may be named"):
        few.together([np.full((3, 2), 0.5), np.full((3, 3), 1 / 3)])
    stuck = replace(game, done=[np.tile([1, 0], (3, 1)), game.done[1]])
    with pytest.raises(ValueError, match="does something that can be named"):
        stuck.realised()


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
