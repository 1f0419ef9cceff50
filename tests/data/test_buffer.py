"""Episodes in, episodes out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmarl.data import EpisodeBuffer, buffer
from robustmarl.data.buffer import OBS_KEYS
from robustmarl.joint import TeamSpec

SPEC = TeamSpec(
    agents=("a", "b"),
    teams={"team": (0, 1)},
    obs_sizes=(3, 2),
    action_sizes=(2, 4),
    continuous=False,
    state_size=5,
    state_layout="joint",
    team_reward="sum",
    horizon=4,
)


def staged(*numbers, seen=False, first=0):
    """Return a ring whose every entry tells ``numbers[k]`` of environment k, and the step."""
    t = SPEC.horizon + 1
    value = torch.tensor(numbers, dtype=torch.float32).view(-1, 1) * 10 + torch.arange(t)
    arrays = {
        "obs": value[:, :, None, None].expand(-1, -1, 2, 3).clone(),
        "mask": torch.ones(len(numbers), t, 2, 4, dtype=torch.bool),
        "state": value[:, :, None].expand(-1, -1, 5).clone(),
        "alive": torch.ones(len(numbers), t, 2, dtype=torch.bool),
        "act": value[:, :, None].expand(-1, -1, 2).long().clone(),
        "rew": value.clone(),
        "rew_agents": value[:, :, None].expand(-1, -1, 2).clone(),
        "terminated": torch.zeros(len(numbers), t, dtype=torch.bool),
        "truncated": torch.zeros(len(numbers), t, dtype=torch.bool),
    }
    if seen:
        arrays["seen"] = -arrays["obs"]
    return {key: values.transpose(0, 1).roll(first, 0) for key, values in arrays.items()}


def add(store, arrays, rows, lengths, first=0, whole=None, tensors=False):
    rows = np.asarray(rows)
    ring = arrays if tensors else {key: values.numpy() for key, values in arrays.items()}
    store.add_episodes(ring, rows, np.full_like(rows, first), np.asarray(lengths), whole)


def fill(store, *numbers, length=2, seen=False):
    add(store, staged(*numbers, seen=seen), range(len(numbers)), [length] * len(numbers))


def numbers(batch):
    return (batch.rew[:, 0] / 10).long().tolist()


def test_arrays_of_the_episodes_alone_keep_to_them_when_some_do_not_fit():
    store = EpisodeBuffer(SPEC, 2)
    flags = np.array([[[k, step] for step in range(4)] for k in (5, 6, 7)])
    add(store, staged(1, 2, 3), [0, 1, 2], [3, 2, 3], whole={"audit/flags": flags})
    batch, _ = store.sample(None)
    assert numbers(batch) == [2, 3]
    assert batch.records["audit"]["flags"][:, :, 0].tolist() == [[6] * 3, [7] * 3]


@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize("first", range(5))
def test_episodes_begin_anywhere_in_the_ring(first, tensors):
    store, plain = EpisodeBuffer(SPEC, 3), EpisodeBuffer(SPEC, 3)
    add(store, staged(1, 2, first=first), [0, 1], [4, 2], first, tensors=tensors)
    add(plain, staged(1, 2), [0, 1], [4, 2])
    batch, expected = store.sample(None)[0], plain.sample(None)[0]
    for k, length in enumerate((4, 2)):  # what lies behind an episode's end means nothing
        for key in OBS_KEYS:
            held, known = (b.flat()[f"obs.{key}"][k] for b in (batch, expected))
            assert torch.equal(held[: length + 1], known[: length + 1]), key
        assert torch.equal(batch.act[k, :length], expected.act[k, :length])


def test_what_goes_in_comes_out_cut_to_the_longest():
    store = EpisodeBuffer(SPEC, 5)
    arrays = staged(1, 2, 3)
    add(store, arrays, [2, 0], [3, 1])
    batch, slots = store.sample(None)
    assert slots.tolist() == [0, 1]
    assert numbers(batch) == [3, 1]
    assert batch.valid.tolist() == [[True, True, True], [True, False, False]]
    for key in OBS_KEYS:
        source = arrays["obs" if key == "seen" else key]
        held = batch.flat()[f"obs.{key}"]
        assert held.shape[:2] == (2, 4)
        assert torch.equal(held[0], source[:4, 2]), key
        assert torch.equal(held[1, :2], source[:2, 0]), key
    for key in ("act", "rew"):
        held = batch.flat()[key]
        assert held.shape[:2] == (2, 3)
        assert torch.equal(held[0], arrays[key][:3, 2])
        assert torch.equal(held[1, :1], arrays[key][:1, 0])
    assert len(store) == store.num_episodes == 2


def test_a_batch_is_a_copy():
    store = EpisodeBuffer(SPEC, 2)
    fill(store, 1)
    store.latest(1).obs.obs.zero_()
    assert store.latest(1).obs.obs[0, 0, 0, 0] == 10.0


def test_the_ring_drops_the_oldest():
    store = EpisodeBuffer(SPEC, 3)
    for number in range(5):
        fill(store, number)
    assert len(store) == 3
    assert numbers(store.sample(None)[0]) == [2, 3, 4]
    assert numbers(store.latest(2)) == [3, 4]
    assert numbers(store.latest(9)) == [2, 3, 4]


def test_one_that_grows_keeps_all():
    store = EpisodeBuffer(SPEC, 2, grows=True)
    fill(store, 9, seen=True)
    store.reset()
    for some in ((0,), (1, 2), (3, 4, 5, 6, 7, 8), (9,)):
        fill(store, *some, length=1 + some[0] % 4)
    assert store.capacity == store.maxsize > 9
    batch = store.sample(None)[0]
    assert numbers(batch) == list(range(10))
    assert batch.valid.sum(1).tolist() == [1, 2, 2, *[4] * 6, 2]
    twin = EpisodeBuffer(SPEC, 1, grows=True)
    twin.load_state_dict(store.state_dict())
    for key, values in twin.sample(None)[0].flat().items():
        assert torch.equal(values, batch.flat()[key]), key
    assert store.room is None
    assert EpisodeBuffer(SPEC, 2).room == 2


def test_it_grows_no_further_than_memory_goes(monkeypatch):
    store = EpisodeBuffer(SPEC, 2, grows=True)
    each = EpisodeBuffer.bytes_per_episode(SPEC)
    monkeypatch.setattr(buffer, "_free_bytes", lambda device: 2 * each)
    fill(store, 0, 1)
    with pytest.raises(ValueError, match=r"at most 2 here: .* got 4\. Let rounds be shorter"):
        fill(store, 2)


def test_more_episodes_at_once_than_it_holds_leave_the_newest():
    store = EpisodeBuffer(SPEC, 3)
    fill(store, 9)
    fill(store, 0, 1, 2, 3, 4)
    assert numbers(store.sample(None)[0]) == [2, 3, 4]


def test_seen_is_obs_until_something_perturbs():
    store = EpisodeBuffer(SPEC, 4)
    fill(store, 1)
    batch = store.latest(1)
    assert batch.obs.seen is batch.obs.obs
    assert "seen" not in store.data
    fill(store, 2, seen=True)
    fill(store, 3)
    batch = store.latest(3)
    assert torch.equal(batch.obs.seen[[0, 2]], batch.obs.obs[[0, 2]])
    assert torch.equal(batch.obs.seen[1], -batch.obs.obs[1])


def test_after_a_reset_seen_is_obs_again():
    store = EpisodeBuffer(SPEC, 2)
    fill(store, 1, seen=True)
    store.reset()
    assert len(store) == 0
    fill(store, 2)
    batch = store.latest(1)
    assert batch.obs.seen is batch.obs.obs
    fill(store, 3, seen=True)
    assert torch.equal(store.latest(2).obs.seen[0], store.latest(2).obs.obs[0])


def extras(*numbers):
    """Return a ring of attacked episodes, with all that not every episode has."""
    arrays = staged(*numbers, seen=True)
    arrays["act_exec"], arrays["act_intended"] = arrays["act"] + 100, arrays["act"] + 200
    arrays["logp"] = -arrays["rew_agents"]
    arrays["byzantine/types"] = torch.ones_like(arrays["alive"])
    return arrays


OPTIONAL = ("act_exec", "act_intended", "logp", "hidden_before", "act_before")


def attacked(store, *numbers):
    before = {
        "hidden_before": torch.ones(len(numbers), 2, 3),
        "act_before": torch.ones(len(numbers), 2).long(),
    }
    rows = np.arange(len(numbers))
    store.add_episodes(extras(*numbers), rows, 0 * rows, 0 * rows + 2, None, before)


@pytest.mark.parametrize("reloaded", [False, True])
def test_after_a_reset_nothing_is_left_of_what_others_had(reloaded):
    store = EpisodeBuffer(SPEC, 2)
    attacked(store, 1, 2)
    store.reset()
    fill(store, 3)
    if reloaded:
        state, store = store.state_dict(), EpisodeBuffer(SPEC, 2)
        store.load_state_dict(state)
    batch = store.latest(1)
    assert batch.records == {}
    assert all(getattr(batch, key) is None for key in OPTIONAL)
    assert not {"logp", "seen", "byzantine/types"} & store.state_dict()["data"].keys()
    attacked(store, 4)
    old, new = (store.latest(2).select(torch.tensor([k])) for k in (0, 1))
    assert torch.equal(new.act_exec, new.act + 100)
    assert torch.equal(old.act_exec, old.act)
    assert not old.records["byzantine"]["types"].any()


@pytest.mark.parametrize("order", ["clean first", "attacked first"])
def test_of_what_an_episode_did_not_have_it_has_none(order):
    store = EpisodeBuffer(SPEC, 3)
    attacked(store, 7, 8, 9)
    add_one = [lambda: fill(store, 1), lambda: attacked(store, 2)]
    store.reset()
    for add_it in add_one if order == "clean first" else reversed(add_one):
        add_it()
    fill(store, 3)
    batch = store.latest(3)
    assert sorted(numbers(batch)) == [1, 2, 3]
    clean = torch.tensor([number != 2 for number in numbers(batch)])
    for key in ("act_exec", "act_intended"):
        same = (getattr(batch, key) == batch.act).flatten(1).all(1)
        assert torch.equal(same, clean)
    assert torch.equal(batch.records["byzantine"]["types"].flatten(1).any(1), ~clean)
    assert torch.equal((batch.obs.seen == batch.obs.obs).flatten(1).all(1), clean)
    assert torch.equal(batch.hidden_before.flatten(1).any(1), ~clean)
    assert batch.act_before.tolist() == [[-1, -1] if one else [1, 1] for one in clean]
    assert batch.logp is None  # of the others it would be wrong
    store.reset()
    attacked(store, 4)
    assert torch.equal(store.latest(1).logp, -store.latest(1).rew_agents)


def test_sampling_is_without_repetition_and_uniform():
    store = EpisodeBuffer(SPEC, 6, seed=3)
    fill(store, 0, 1, 2, 3, 4, 5)
    drawn = [store.sample(3)[1] for _ in range(600)]
    assert all(len(set(slots.tolist())) == 3 for slots in drawn)
    counts = np.bincount(np.concatenate(drawn), minlength=6)
    assert (abs(counts - 300) < 5 * np.sqrt(600 * 0.25)).all()  # five standard deviations
    assert store.sample(6)[1].tolist() == store.sample(0)[1].tolist() == list(range(6))


def test_the_seed_decides_what_is_sampled():
    drawn = []
    for seed in (0, 0, 1):
        store = EpisodeBuffer(SPEC, 20, seed=seed)
        for number in range(20):
            fill(store, number)
        drawn.append([store.sample(5)[1].tolist() for _ in range(4)])
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("seen", [False, True])
def test_a_round_trip_keeps_episodes_order_and_stream(seen, tmp_path):
    store = EpisodeBuffer(SPEC, 4, seed=1)
    for number in range(6):
        fill(store, number, length=1 + number % 3, seen=seen)
    store.sample(2)
    torch.save(store.state_dict(), tmp_path / "buffer.pt")
    twin = EpisodeBuffer(SPEC, 4, seed=99)
    fill(twin, 77)
    twin.load_state_dict(torch.load(tmp_path / "buffer.pt", weights_only=True))
    for number in (6, 7):
        fill(store, number, seen=seen)
        fill(twin, number, seen=seen)
    for size in (None, 2, 3, 2):
        (a, slots_a), (b, slots_b) = store.sample(size), twin.sample(size)
        assert slots_a.tolist() == slots_b.tolist()
        assert numbers(a) == numbers(b)
        assert torch.equal(a.obs.seen, b.obs.seen)
        assert torch.equal(a.valid, b.valid)


def test_an_empty_buffer_survives_the_round_trip_and_refuses_to_be_sampled():
    store = EpisodeBuffer(SPEC, 4)
    twin = EpisodeBuffer(SPEC, 4)
    twin.load_state_dict(store.state_dict())
    assert len(twin) == 0
    with pytest.raises(ValueError, match="filled before sampling, got '0 episodes'"):
        twin.sample(2)


def test_what_does_not_fit_is_refused_on_loading():
    store = EpisodeBuffer(SPEC, 4)
    fill(store, 0, 1, 2, 3)
    with pytest.raises(ValueError, match=r"capacity must be >= 4, got 3"):
        EpisodeBuffer(SPEC, 3).load_state_dict(store.state_dict())


def test_capacity_in_bytes():
    each = EpisodeBuffer.bytes_per_episode(SPEC)
    twice = 2 * 3 + 2  # what was shown beside what is true; log-probabilities beside rewards
    floats, ints, bools = 2 * 3 + 5 + 2 + twice, 2, 2 * 4 + 2
    assert each == 5 * (4 * floats + 8 * ints + bools)
    assert EpisodeBuffer(SPEC, max_bytes=3 * each + each // 2).capacity == 3
    with pytest.raises(ValueError, match=f"max_bytes must be >= {each}, one episode of 4 steps"):
        EpisodeBuffer(SPEC, max_bytes=each - 1)


def test_more_than_memory_holds_is_refused_with_the_figures(monkeypatch):
    each = EpisodeBuffer.bytes_per_episode(SPEC)
    monkeypatch.setattr(buffer, "_free_bytes", lambda device: 10 * each + 1)
    assert EpisodeBuffer(SPEC, 10).capacity == 10
    with pytest.raises(
        ValueError, match=r"at most 10 here: an episode takes .* KiB .*got 11.*max_b"
    ):
        EpisodeBuffer(SPEC, 11)


def test_free_memory_is_plausible():
    assert 2**20 < buffer._free_bytes(torch.device("cpu")) < 2**50


@pytest.mark.parametrize("bad", [0, -1, 1.5, True])
def test_bad_capacities(bad):
    with pytest.raises(
        (ValueError, TypeError), match=r"EpisodeBuffer\.episodes must be an int >= 1"
    ):
        EpisodeBuffer(SPEC, bad)


@settings(max_examples=60, deadline=None)
@given(
    capacity=st.integers(1, 5),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.lists(st.integers(1, 4), min_size=1, max_size=7)),
            st.tuples(st.just("perturbed"), st.lists(st.integers(1, 4), min_size=1, max_size=3)),
            st.tuples(st.just("reset"), st.just([])),
            st.tuples(st.just("reload"), st.just([])),
        ),
        max_size=12,
    ),
)
def test_it_behaves_like_a_list(capacity, steps):
    store, model, count = EpisodeBuffer(SPEC, capacity), [], 0
    for what, lengths in steps:
        if what == "reset":
            store.reset()
            model = []
        elif what == "reload":
            twin = EpisodeBuffer(SPEC, capacity)
            twin.load_state_dict(store.state_dict())
            store = twin
        else:
            ids = range(count, count + len(lengths))
            count += len(lengths)
            arrays = staged(*ids, seen=what == "perturbed")
            add(store, arrays, range(len(lengths)), lengths)
            model += [(i, n, what == "perturbed") for i, n in zip(ids, lengths, strict=True)]
            model = model[-capacity:]
        assert len(store) == len(model)
        if model:
            batch = store.sample(None)[0]
            assert numbers(batch) == [i for i, _, _ in model]
            assert batch.valid.sum(1).tolist() == [n for _, n, _ in model]
            for k, (_, n, perturbed) in enumerate(model):
                obs, seen = batch.obs.obs[k, : n + 1], batch.obs.seen[k, : n + 1]
                assert torch.equal(seen, -obs if perturbed else obs)
            assert numbers(store.latest(2)) == [i for i, _, _ in model[-2:]]
