"""Segments of episodes: what goes on over the end of a collection, and what is learned of it."""

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
import torch
from doubles import Scripted, armies
from tianshou.utils.torch_utils import policy_within_training_step

from robustmarl.algorithms import IPPO, MFAC
from robustmarl.attacks import PGD, UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.data import EpisodeBuffer, JointCollector, RandomController
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import MASKED, last_actions, spec_of
from robustmarl.perturbers import (
    ByzantinePerturber,
    ObsPerturber,
    Perturber,
    SparingPerturber,
    TypeDistribution,
)

BALL = LinfBall(epsilon=0.25)
NOISE, ATTACK = UniformNoise(ball=BALL), PGD(ball=BALL, steps=2, random_start=True)


class Named(Perturber):
    """Records which episode a step is of, and which of its steps."""

    def on_obs(self, context):
        self._now = {"key": context.keys.clone(), "step": context.step.clone()}
        return context.seen

    def record(self):
        return self._now


def gru(env, **settings):
    """Return a team with memory that acts differently in different situations."""
    settings = {"recurrent": True, "last_action": True, "output_gain": 2.0} | settings
    return IPPO.for_env(env, hidden=(8,), **settings)


def segments(policy, engine, lengths, *, capacity=400, deferred=None, training=True, **settings):
    """Return (the batch of all pieces, statistics of each segment)."""
    spec = engine.spec.of_team(settings.get("team"))
    store = EpisodeBuffer(spec, capacity)
    perturb = [Named(), *settings.pop("perturb", [])]
    collector = JointCollector(
        policy,
        engine,
        store,
        perturb=perturb,
        seed=5,
        segments=True,
        _deferred=deferred,
        **settings,
    )
    inner = getattr(policy, "policy", policy)
    with policy_within_training_step(inner) if training else torch.no_grad():
        stats = [collector.collect(n_step=length * len(engine)) for length in lengths]
    return store.sample(0)[0], stats


def whole(policy, engine, episodes, *, training=True, **settings):
    """Return the batch of whole episodes of the same seed, and their statistics."""
    spec = engine.spec.of_team(settings.get("team"))
    store = EpisodeBuffer(spec, episodes)
    perturb = [Named(), *settings.pop("perturb", [])]
    collector = JointCollector(policy, engine, store, perturb=perturb, seed=5, **settings)
    inner = getattr(policy, "policy", policy)
    with policy_within_training_step(inner) if training else torch.no_grad():
        stats = collector.collect(n_episode=episodes)
    return store.sample(0)[0], stats


def by_episode(batch):
    """Return {key of the episode: its pieces, in order}, a piece by name without padding."""
    found = defaultdict(list)
    for k, length in enumerate(batch.valid.sum(1).tolist()):
        piece = {}
        for name, values in batch.flat().items():
            entries = length + name.startswith("obs.")
            piece[name] = values[k] if name.endswith("_before") else values[k, :entries]
        found[int(batch.records["perturber"]["key"][k, 0])].append(piece)
    for pieces in found.values():
        pieces.sort(key=lambda piece: int(piece["perturber/step"][0]))
    return found


def assert_whole(pieces, episode):
    """Check that the pieces together are the episode, up to where the last of them ends."""
    assert int(pieces[0]["perturber/step"][0]) == 0
    names = [name for name in episode if name != "truncated" and not name.endswith("_before")]
    for name in names:
        values = [piece[name] for piece in pieces]
        if name.startswith("obs."):  # the observation at a border is in both pieces
            for one, other in pairwise(values):
                assert torch.equal(one[-1], other[0]), name
            values = [*(one[:-1] for one in values), values[-1][-1:]]
        together = torch.cat(values)
        torch.testing.assert_close(
            together, episode[name][: len(together)], rtol=1e-5, atol=1e-6, msg=name
        )
    nothing = 0 if pieces[0]["act"].is_floating_point() else -1
    assert pieces[0]["act_before"].eq(nothing).all()
    assert not pieces[0].get("hidden_before", torch.zeros(())).any()
    for one, other in pairwise(pieces):
        assert torch.equal(other["act_before"], one["act"][-1])
        assert other.get("hidden_before", torch.ones(())).any()
    cut = [piece["truncated"] for piece in pieces[:-1]]
    assert all(bool(flags[-1]) and not bool(flags[:-1].any()) for flags in cut)
    assert not any(bool(piece["terminated"].any()) for piece in pieces[:-1])


GAMES = {
    "long": {"lengths": (23,)},
    "short": {"n": 3, "deaths": {1: 2}, "arrivals": {2: 2}, "lengths": (1, 3, 9), "masks": "info"},
    "boxes": {"continuous": True, "lengths": (4, 11), "end": "terminated", "state": "joint"},
}
STACKS = {
    "clean": lambda env: [],
    "stateless": lambda env: [ObsPerturber(NOISE, probability=0.7, agents=["a1"]), ATTACK],
    "budget": lambda env: [SparingPerturber(ObsPerturber(NOISE), steps=2)],
    "traitor": lambda env: [ByzantinePerturber(gru(env, seed=1), types=TypeDistribution(0.6))],
}


@pytest.mark.parametrize(("recurrent", "deferred"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("game", GAMES)
def test_segments_together_are_the_episodes(game, stack, recurrent, deferred):
    def make():
        return Scripted(**GAMES[game])

    team = gru(make(), recurrent=recurrent)
    lengths = [1, 5, 2, 7, 3, 1, 1, 6] * 2
    engine = JointVectorEnv(make, 3)
    batch, stats = segments(team, engine, lengths, perturb=STACKS[stack](make()), deferred=deferred)
    episodes = by_episode(batch)
    reference, told = whole(team, JointVectorEnv(make, 3), 40, perturb=STACKS[stack](make()))
    for key, (episode,) in by_episode(reference).items():
        if key in episodes:
            assert_whole(episodes.pop(key), episode)
    assert not episodes
    ended = sum(one.n_collected_episodes for one in stats)
    returns = np.concatenate([one.returns for one in stats])
    assert ended == len(returns) > 0
    assert sum(one.n_collected_steps for one in stats) == int(batch.valid.sum())
    # an episode's figures are of all its segments, and come with its last one
    known = set(zip(told.lens.tolist(), told.returns.tolist(), strict=True))
    lens = np.concatenate([one.lens for one in stats])
    assert set(zip(lens.tolist(), returns.tolist(), strict=True)) <= known


def test_a_segment_is_so_many_ticks_of_every_environment():
    team = RandomController(spec_of(Scripted()))
    batch, stats = segments(team, JointVectorEnv(Scripted, 3), [2, 3, 4], training=False)
    # Episodes of four steps: the second segment begins with two of them, shows the last
    # observation in its third tick, and the third one plays another episode.
    assert [one.n_collected_steps for one in stats] == [6, 6, 12]
    assert [one.n_collected_episodes for one in stats] == [0, 3, 3]
    assert batch.valid.sum(1).tolist() == [2] * 6 + [4] * 3
    assert batch.truncated.sum(1).tolist() == [1] * 9
    assert batch.hidden_before is None
    assert batch.act_before[:3].eq(-1).all()
    assert torch.equal(batch.act_before[3:6], batch.act[:3, 1])


def test_figures_of_a_segment_in_which_nothing_ended():
    make = lambda: Scripted(metrics=("u",))  # noqa: E731
    _, (none, some) = segments(
        RandomController(spec_of(make())), JointVectorEnv(make, 2), [3, 1], training=False
    )
    assert none.returns.shape == none.lens.shape == none.metrics["u"].shape == (0,)
    assert none.returns_stat is none.lens_stat is None
    assert none.means == {}
    assert none.n_collected_steps == 6
    assert some.lens.tolist() == [4, 4]
    assert some.means["u"] == pytest.approx(some.metrics["u"].mean())


@pytest.mark.parametrize("deferred", [False, True])
def test_segments_as_long_as_every_episode_are_the_episodes_bit_for_bit(deferred):
    team, length = gru(Scripted()), 4
    batch, stats = segments(
        team, JointVectorEnv(Scripted, 3), [length] * 3, perturb=[ATTACK], deferred=deferred
    )
    reference, told = whole(team, JointVectorEnv(Scripted, 3), 9, perturb=[ATTACK])
    left, right = batch.flat(), reference.flat()
    assert torch.equal(left.pop("act_before"), torch.full((9, 2), -1))
    assert not left.pop("hidden_before").any()
    assert left.keys() == right.keys()
    for name, values in left.items():
        assert torch.equal(values, right[name]), name
    assert np.concatenate([one.returns for one in stats]).tolist() == told.returns.tolist()


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("shared", [True, False])
def test_logits_in_the_update_are_those_of_collecting(shared, deferred):
    make = lambda: Scripted(lengths=(3, 11), masks="info")  # noqa: E731
    team = gru(make(), shared=shared)
    batch, _ = segments(team, JointVectorEnv(make, 3), [2, 3, 4], deferred=deferred)
    network, last_act = team.policy.network, team.last_act(batch, terminal=False)

    def logp(**hidden):
        logits, before = network.unroll(batch.obs.seen[:, :-1], last_act, **hidden)
        logits = logits.masked_fill(~batch.obs.mask[:, :-1], MASKED)
        return team.policy.log_prob(logits, batch.act), before

    found, before = logp(hidden=batch.hidden_before)
    torch.testing.assert_close(found[batch.valid], batch.logp[batch.valid])
    assert torch.equal(before[:, 0], batch.hidden_before)
    goes_on = batch.records["perturber"]["step"][:, 0] > 0
    assert torch.equal((batch.hidden_before != 0).flatten(1).any(1), goes_on)
    assert not torch.allclose(logp()[0][batch.valid], batch.logp[batch.valid])


def test_the_value_beyond_a_border_bootstraps():
    """By hand: rewards 1 + t + 10 i + a, values v_t = (2 + t)^2, gamma .5 and lambda .25."""
    make = lambda: Scripted(1, lengths=(4,), action_sizes=(1,))  # noqa: E731
    team = IPPO.for_env(make(), hidden=(4,), gamma=0.5, gae_lambda=0.25, normalize_value=False)
    batch, _ = segments(team, JointVectorEnv(make, 1), [3, 1])
    values = lambda inputs: (2.0 + 10.0 * inputs[..., 1]).square()  # noqa: E731
    team.valuation.critic.forward = values
    assert batch.rew.tolist() == [[1, 2, 3], [4, 0, 0]]
    d0, d1, d2 = 1 + 4.5 - 4, 2 + 8 - 9, 3 + 12.5 - 16
    last = 4 + 18 - 25  # a time limit
    advantage, returns = team.advantages(batch)
    wanted = [d0 + d1 / 8 + d2 / 64, d1 + d2 / 8, d2]
    assert advantage[0, :, 0].tolist() == pytest.approx(wanted, abs=1e-4)
    assert advantage[1, 0, 0].item() == pytest.approx(last, abs=1e-4)
    values_shown = [4, 9, 16]
    assert returns[0, :, 0].tolist() == pytest.approx(
        [a + v for a, v in zip(wanted, values_shown, strict=True)], abs=1e-4
    )


def test_with_true_values_and_lambda_1_returns_are_those_of_the_whole_episode():
    make = lambda: Scripted(1, lengths=(6,), action_sizes=(1,), end="terminated")  # noqa: E731
    team = IPPO.for_env(make(), hidden=(4,), gamma=1.0, gae_lambda=1.0, normalize_value=False)
    # what is still to be earned at t: 1 + t + ... + 6
    still = lambda inputs: 21.0 - 5.0 * inputs[..., 1] * (10.0 * inputs[..., 1] + 1.0)  # noqa: E731
    team.valuation.critic.forward = still
    pieces, _ = segments(team, JointVectorEnv(make, 2), [2, 1, 3])
    reference, _ = whole(team, JointVectorEnv(make, 2), 2)
    assert reference.rew.tolist() == [[1, 2, 3, 4, 5, 6]] * 2
    expected = team.advantages(reference)[1][0, :, 0]
    found = team.advantages(pieces)[1][..., 0][pieces.valid]
    at = pieces.records["perturber"]["step"][pieces.valid]
    torch.testing.assert_close(found, expected[at])
    assert expected.tolist() == pytest.approx([21, 20, 18, 15, 11, 6], abs=1e-4)


def test_the_border_is_seen_as_the_agents_see_it():
    make = lambda: Scripted(lengths=(9,))  # noqa: E731
    batch, _ = segments(gru(make()), JointVectorEnv(make, 2), [4, 4], perturb=[NOISE])
    one, two = batch.obs.seen[:2], batch.obs.seen[2:]
    assert (one[:, 4] != batch.obs.obs[:2, 4]).any()
    assert torch.equal(one[:, 4], two[:, 0])


def test_perturbers_are_shown_every_observation_once():
    class Counting(Perturber):
        def on_obs(self, context):
            live = context.live
            shown = torch.stack([context.keys[live], context.step[live]], dim=1)
            seen.extend(map(tuple, shown.tolist()))
            return context.seen

    seen = []
    make = lambda: Scripted(lengths=(3, 7))  # noqa: E731
    segments(gru(make()), JointVectorEnv(make, 2), [2, 3, 4, 1], perturb=[Counting()])
    assert len(seen) == len(set(seen)) > 10


def test_opponents_go_on_with_their_memory():
    make = lambda: armies(2, length=9)  # noqa: E731
    spec = spec_of(make())
    blue = gru(spec, team="blue", seed=3)
    red = gru(spec, team="red")
    settings = {"team": "red", "opponents": {"blue": blue}}
    batch, _ = segments(red, JointVectorEnv(make, 2), [2, 4, 3], **settings)
    reference, _ = whole(red, JointVectorEnv(make, 2), 2, **settings)
    episodes = by_episode(batch)
    for key, (episode,) in by_episode(reference).items():
        assert len(episodes[key]) == 3
        assert_whole(episodes[key], episode)


def test_neighbours_actions_before_a_piece_count():
    make = lambda: Scripted(3, lengths=(9,))  # noqa: E731
    team = MFAC.for_env(make(), hidden=(8,))
    batch, _ = segments(team, JointVectorEnv(make, 1), [4, 5])
    reference, _ = whole(team, JointVectorEnv(make, 1), 1)
    means, found = team.mean_actions(reference)[0], team.mean_actions(batch)
    assert torch.equal(found[0, :5], means[:5])
    assert torch.equal(found[1, :6], means[4:])


def test_last_actions_go_on():
    act = torch.tensor([[[3], [1], [2]]])
    before = torch.tensor([[4]])
    assert last_actions(act, terminal=True, before=before).flatten().tolist() == [4, 3, 1, 2]
    assert last_actions(act / 1.0, terminal=False).flatten().tolist() == [0, 3, 1]


def test_a_reset_lets_episodes_begin_anew():
    store = EpisodeBuffer(spec_of(Scripted()), 30)
    team = RandomController(spec_of(Scripted()))
    collector = JointCollector(team, JointVectorEnv(Scripted, 2), store, segments=True)
    collector.collect(n_step=4)
    collector.reset(reset_buffer=False)
    assert collector.collect(n_step=4).n_collected_episodes == 0
    batch = store.sample(0)[0]
    assert len(batch) == collector.episodes_begun == 4
    assert batch.act_before.eq(-1).all()
    assert len({*batch.obs.obs[:, 0, 0, 0].tolist()}) == 4
    assert collector.collect(n_step=4).n_collected_episodes == 2


def test_an_error_leaves_nothing_to_go_on_from():
    def make():
        return Scripted(lengths=(9,), bad=("reward", 0, 2, np.nan))

    team = RandomController(spec_of(make()))
    collector = JointCollector(team, JointVectorEnv(make, 2), segments=True)
    for _ in range(2):
        collector.collect(n_step=4)
        with pytest.raises(ValueError, match="reward must be finite"):
            collector.collect(n_step=4)


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize(("length", "ticks", "capacity"), [(1, 10, 3), (1, 10, 5), (4, 3, 4)])
def test_no_piece_pushes_out_another(length, ticks, capacity, deferred):
    make = lambda: Scripted(lengths=(length,))  # noqa: E731
    store, team = EpisodeBuffer(spec_of(make()), capacity), RandomController(spec_of(make()))
    engine = JointVectorEnv(make, 3)
    collector = JointCollector(team, engine, store, segments=True, _deferred=deferred)
    pieces = []
    for _ in range(4):
        stats = collector.collect(n_step=3 * ticks)
        assert stats.n_collected_steps == int(store.lengths[: len(store)].sum()) > 0
        pieces.append(len(store))
        collector.reset_buffer()
    assert max(pieces) == capacity


def test_the_buffer_of_segments_is_as_long_as_they_are():
    make = lambda: Scripted(lengths=(9,))  # noqa: E731
    spec, engine = spec_of(make()), JointVectorEnv(make, 2)
    store, team = EpisodeBuffer(spec, 8, steps=3), RandomController(spec)
    assert (
        EpisodeBuffer.bytes_per_episode(spec, 3) == 4 * EpisodeBuffer.bytes_per_episode(spec) / 10
    )
    collector = JointCollector(team, engine, store, segments=True)
    collector.collect(n_step=6)
    assert store.data["obs"].shape[1] == 4
    other = EpisodeBuffer(spec, 8, steps=3)
    other.load_state_dict(store.state_dict())
    for name, values in store.sample(0)[0].flat().items():
        assert torch.equal(values, other.sample(0)[0].flat()[name]), name
    with pytest.raises(ValueError, match=r"n_step must be at most 6: the buffer holds pieces of 3"):
        collector.collect(n_step=8)
    with pytest.raises(ValueError, match=r"JointCollector\.buffer must be of 9 steps, for whole"):
        JointCollector(team, engine, store)
    with pytest.raises(ValueError, match=r"EpisodeBuffer\.steps must be an int >= 1, got 0"):
        EpisodeBuffer(spec, 8, steps=0)


@pytest.mark.parametrize("wanted", [{"n_step": 5}, {"n_step": 1}, {"n_episode": 4}])
def test_steps_that_are_not_the_same_for_all_are_refused(wanted):
    team = RandomController(spec_of(Scripted()))
    collector = JointCollector(team, JointVectorEnv(Scripted, 2), segments=True)
    with pytest.raises(ValueError, match=r"n_step must be a multiple of 2, the number of env"):
        collector.collect(**wanted)
    with pytest.raises(TypeError, match=r"JointCollector\.segments must be a bool"):
        JointCollector(team, JointVectorEnv(Scripted, 2), segments=3)
