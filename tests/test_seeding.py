"""Counter-based draws: moments, independence, and no dependence on batching."""

import pytest
import torch

from robustmarl._seeding import (
    Draws,
    episode_key,
    episode_keys,
    generator,
    mix,
    seeded,
    signed,
    stream_id,
    stream_seed,
)


def test_uniform_is_uniform():
    x = Draws(torch.arange(2000)).uniform(200)

    assert x.min() >= 0.0
    assert x.max() < 1.0
    assert x.mean().item() == pytest.approx(0.5, abs=2e-3)
    assert x.var().item() == pytest.approx(1 / 12, rel=0.01)
    counts = torch.histc(x, bins=64, min=0.0, max=1.0)
    assert (counts / 6250 - 1.0).abs().max() < 0.06
    assert torch.corrcoef(x[:, :50].T).fill_diagonal_(0).abs().max() < 0.12
    assert torch.corrcoef(x[:50]).fill_diagonal_(0).abs().max() < 0.35


def test_normal_is_normal():
    x = Draws(torch.arange(2000)).normal(200)

    assert x.mean().item() == pytest.approx(0.0, abs=5e-3)
    assert x.std().item() == pytest.approx(1.0, abs=5e-3)
    assert (x.abs() > 1.96).float().mean().item() == pytest.approx(0.05, abs=2e-3)
    assert torch.isfinite(x).all()


def test_rows_depend_on_their_own_key_only():
    keys = torch.tensor([5, 6, 7, -8])
    whole, part = Draws(keys), Draws(keys[2:])

    assert torch.equal(whole.uniform(3)[2:], part.uniform(3))
    assert torch.equal(whole.normal(4)[2:], part.normal(4))
    assert torch.equal(whole.split(2).keys[4:], part.split(2).keys)


def test_calls_steps_streams_and_parts_differ():
    def draws():
        return Draws(torch.tensor([1, 2]))

    base = draws()
    samples = [base.uniform(8), base.uniform(8)]
    for step, stream in ((0, 1), (1, 1), (0, 2)):
        samples.append(draws().at(torch.tensor([step, step]), stream).uniform(8))
    samples += list(draws().split(3).uniform(8).view(2, 3, 8).unbind(1))
    values = torch.stack(samples)
    assert values.unique().numel() == values.numel()
    assert torch.equal(draws().uniform(8), samples[0])


def test_keys_of_episodes_do_not_collide():
    keys = {episode_key(seed, episode) for seed in range(100) for episode in range(100)}

    assert len(keys) == 10_000
    assert all(-(2**63) <= key < 2**63 for key in keys)
    assert mix(1, 2) != mix(2, 1)
    assert stream_id("obs/0") != stream_id("obs/1")


def test_fresh_follows_torchs_generator():
    def fresh():
        torch.manual_seed(0)
        return Draws.fresh(3, torch.device("cpu")).keys

    assert torch.equal(fresh(), fresh())
    assert len(fresh().unique()) == 3


AWKWARD = (0, 1, 7, 2**31 - 1, 2**32, 2**62 + 5, 2**63 - 1, -1, -3, -(2**63), 2**64 + 9, 10**30)


@pytest.mark.parametrize("device", ["numpy", "torch"])
def test_keys_of_many_episodes_are_those_of_each(device, monkeypatch):
    """Both on the CPU, where numpy computes, and as on an accelerator, where torch does."""
    if device == "torch":
        monkeypatch.setattr("robustmarl._seeding._native", lambda x: x)
    numbers = torch.tensor([signed(number) for number in AWKWARD])
    for given in AWKWARD:
        of_episodes, of_seeds = episode_keys(given, numbers), episode_keys(numbers, given)
        assert of_episodes.tolist() == [episode_key(given, number) for number in AWKWARD]
        assert of_seeds.tolist() == [episode_key(number, given) for number in AWKWARD]
    both = episode_keys(numbers, numbers.flip(0))
    assert both.tolist() == [
        episode_key(*pair) for pair in zip(AWKWARD, AWKWARD[::-1], strict=True)
    ]


def test_streams_of_libraries_are_named_and_leave_the_global_one_alone():
    before = torch.random.get_rng_state()
    with seeded(3, "weights"):
        drawn = torch.rand(4)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(drawn, torch.rand(4, generator=generator(3, "weights")))
    others = [stream_seed(4, "weights"), stream_seed(3, "belief"), stream_seed(3, "weights")]
    assert len(set(others)) == 3
    assert 0 <= min(others) <= max(others) < 2**63


def test_streams_of_libraries_leave_accelerators_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", asked.append)
    with seeded(3, "weights"):
        torch.rand(4)
    assert asked == []


def test_a_stream_follows_from_numbers_and_names_in_their_order():
    known = mix(3, 7, stream_id("gumbel")) % 2**63
    assert stream_seed(3, 7, "gumbel") == known != stream_seed(7, 3, "gumbel")
    assert generator(3, 7, "gumbel").initial_seed() == known
