"""Types, replaced actions and what is recorded of them."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from doubles import Scripted
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import Arena, collected

from robustmarl._seeding import Draws, mix
from robustmarl.algorithms import MAPPO, QMIX, VDN
from robustmarl.attacks import PGD, toward_adversary
from robustmarl.budgets import LinfBall
from robustmarl.data import EpisodeBuffer, JointCollector, ScriptedController
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.evaluation.suites import byzantine_attacks
from robustmarl.joint import StepContext, spec_of
from robustmarl.networks import BeliefNetwork
from robustmarl.perturbers import (
    ByzantinePerturber,
    ByzantinePlay,
    Place,
    TypeDistribution,
    WorstOfPopulation,
)
from robustmarl.victims import FunctionVictim, Rows


def spec(n=4, **keywords):
    return spec_of(Scripted(n, **keywords))


def keys(rows, seed=0):
    return torch.tensor([mix(seed, row) for row in range(rows)])


def sampled(distribution, rows=40_000, n=4, seed=0):
    return distribution.sample(spec(n), Draws(keys(rows, seed)))


def context(n=2, rows=1, *, step=0, mask=None, continuous=False, seed=0, alive=None):
    team = spec(n, continuous=continuous)
    one = torch.ones(rows, dtype=torch.bool)
    arrays = team.empty(rows)
    return StepContext(
        obs=arrays["obs"],
        seen=arrays["obs"],
        mask=torch.ones(rows, n, 3, dtype=torch.bool) if mask is None else mask,
        state=arrays["state"],
        alive=torch.ones(rows, n, dtype=torch.bool) if alive is None else alive,
        observed=torch.ones(rows, n, dtype=torch.bool) if alive is None else alive,
        last_act=arrays["act"],
        hidden=None,
        step=torch.full((rows,), step),
        keys=keys(rows, seed),
        live=one,
        terminal=~one,
    )


def bound(adversary, types=None, *, n=2, continuous=False, **keywords):
    made = ByzantinePerturber(adversary, types=types, **keywords)
    made.bind(spec(n, continuous=continuous), None, Place(0, "it"))
    return made


def always(*names):
    return TypeDistribution(1.0, choice="fixed", agents=names)


# Who is Byzantine


def test_half_of_the_episodes_have_one_byzantine_agent_each_as_often():
    types = sampled(TypeDistribution(0.5))
    count = types.sum(dim=1)
    assert int(count.max()) == 1
    assert float((count == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert types.float().mean(dim=0).tolist() == pytest.approx([0.125] * 4, abs=0.01)


def test_environments_are_independent():
    types = sampled(TypeDistribution(0.5)).any(dim=1).float()
    one, other = types[::2], types[1::2]
    covariance = float((one * other).mean() - one.mean() * other.mean())
    assert abs(covariance) < 0.01  # 5.6 standard errors


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_the_ends_of_p_are_exact(p):
    assert set(sampled(TypeDistribution(p), 5000).any(dim=1).tolist()) == {bool(p)}


def test_up_to_k_agents_each_number_as_often():
    count = sampled(TypeDistribution(1.0, k=3)).sum(dim=1)
    shares = torch.bincount(count, minlength=5) / len(count)
    assert shares.tolist() == pytest.approx([0.0, 1 / 3, 1 / 3, 1 / 3, 0.0], abs=0.01)


def test_only_the_named_agents_are_drawn():
    types = sampled(TypeDistribution(1.0, agents=["a1", "a3"]))
    assert types.float().mean(dim=0).tolist() == pytest.approx([0.0, 0.5, 0.0, 0.5], abs=0.01)


def test_a_fixed_choice_takes_all_its_agents():
    types = sampled(always("a0", "a2"), 100)
    assert types.tolist() == [[True, False, True, False]] * 100


def test_adaptive_weights_are_those_of_the_sheet():
    distribution = TypeDistribution(1.0, choice="adaptive")
    assert distribution.weights(spec()).tolist() == [0.25] * 4
    distribution.update(torch.tensor([0.2, 0.9, 0.9, 0.9]))
    expected = [0.402, 0.199, 0.199, 0.199]
    assert distribution.weights(spec()).tolist() == pytest.approx(expected, abs=1e-3)
    drawn = sampled(distribution).float().mean(dim=0).tolist()
    assert drawn == pytest.approx(expected, abs=0.01)
    distribution.update(torch.tensor([2.0, 9.0, 9.0, 9.0]))
    assert float(distribution.weights(spec())[0]) == pytest.approx(0.997, abs=1e-3)
    distribution.update(torch.tensor([float("nan"), 9.0, 9.0, 2.0]))
    assert distribution.returns.tolist() == [2.0, 9.0, 9.0, 2.0]


def test_who_was_never_byzantine_counts_as_the_worst_known():
    """Not as one that leaves 0, which hardly is attacked where returns are negative."""
    distribution, nan = TypeDistribution(1.0, choice="adaptive", scale=2.0), float("nan")
    distribution.update([nan, nan, nan, nan])
    assert distribution.weights(spec()).tolist() == [0.25] * 4
    distribution.update([-4.0, nan, -6.0, nan])
    expected = torch.tensor([2.0, 3.0, 3.0, 3.0]).softmax(dim=0)
    torch.testing.assert_close(distribution.weights(spec()), expected)
    among = TypeDistribution(1.0, choice="adaptive", agents=["a0", "a1"]).present(
        1.0, torch.tensor([-4.0, nan, -6.0, nan])
    )
    assert among.weights(spec()).tolist() == [0.5, 0.5, 0.0, 0.0]


def test_agents_that_hurt_much_less_are_drawn_after_those_that_hurt_more():
    """Their probability to be drawn first is zero in single precision."""
    distribution = TypeDistribution(1.0, choice="adaptive", k=3)
    distribution.update(torch.tensor([-500.0, 0.0, 0.0, 1e6]))
    types = sampled(distribution)
    count = types.sum(dim=1)
    shares = torch.bincount(count, minlength=4) / len(count)
    assert shares.tolist() == pytest.approx([0.0, 1 / 3, 1 / 3, 1 / 3], abs=0.01)
    assert types[:, 0].all()
    second = types[count == 2].float().mean(dim=0)
    assert second.tolist() == pytest.approx([1.0, 0.5, 0.5, 0.0], abs=0.01)
    assert types[count == 3, :3].all()


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"p": 1.5}, r"TypeDistribution.p must be a number in \[0, 1\], got 1.5"),
        ({"p": float("nan")}, "TypeDistribution.p must be"),
        ({"k": 0}, "TypeDistribution.k must be an int >= 1, got 0"),
        ({"scale": 0.0}, "TypeDistribution.scale must be"),
        ({"choice": "worst"}, "TypeDistribution.choice must be one of"),
        ({"choice": "fixed"}, "TypeDistribution.choice must be 'uniform' or 'adaptive'"),
        ({"agents": ["a0", "a0"]}, "without repetition"),
        ({"agents": []}, "TypeDistribution.agents must be at least one name"),
    ],
)
def test_bad_distributions_are_refused(keywords, text):
    with pytest.raises(ValueError, match=text):
        TypeDistribution(**keywords)


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"k": 3}, "TypeDistribution.k must be at most 2, the agents to draw from, got 3"),
        ({"agents": ["b"]}, r"TypeDistribution.agents must be among \['a0', 'a1'\], got \['b'\]"),
    ],
)
def test_distributions_that_do_not_fit_the_team_are_refused(keywords, text):
    with pytest.raises(ValueError, match=text):
        bound("random", TypeDistribution(**keywords))


def test_returns_that_do_not_fit_the_team_are_refused():
    distribution = TypeDistribution(1.0, choice="adaptive")
    with pytest.raises(ValueError, match=r"update\.returns must be one number per agent.*got"):
        distribution.update(torch.tensor(1.0))
    distribution.update([1.0, 2.0, 3.0])
    with pytest.raises(
        ValueError, match=r"update\.returns must be one number per agent.*got \[1\.0, 2\.0\]"
    ):
        distribution.update([1.0, 2.0])
    text = r"TypeDistribution\.returns must be 4 numbers, one per agent, got 3"
    with pytest.raises(ValueError, match=text):
        sampled(distribution, 2)
    with pytest.raises(TypeError, match=r"agents must be a collection of names, got 3\."):
        TypeDistribution(agents=3)


# The attack process


def test_without_byzantine_agents_the_very_tensor_passes():
    perturber = bound(lambda context, act: act + 1, TypeDistribution(0.0))
    now = context()
    assert perturber.on_obs(now) is now.seen
    act = torch.tensor([[1, 2]])
    assert perturber.on_act(now, act) is act


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 4), st.booleans())
def test_actions_are_the_adversarys_where_byzantine_and_alive(seed, k, continuous):
    draw = torch.Generator().manual_seed(seed)
    alive = torch.rand(6, 4, generator=draw) < 0.7
    now = context(4, 6, seed=seed, alive=alive, continuous=continuous)
    shape = (6, 4, 3) if continuous else (6, 4)
    act = torch.rand(shape, generator=draw) if continuous else torch.zeros(shape, dtype=torch.int64)
    types = TypeDistribution(0.7, k=k)
    perturber = bound(lambda context, act: act + 2, types, n=4, continuous=continuous)
    perturber.on_obs(now)
    executed = perturber.on_act(now, act)
    for e, i in product(range(6), range(4)):
        byzantine = bool(perturber.drawn_types[e, i] & alive[e, i])
        assert torch.equal(executed[e, i], act[e, i] + 2 * byzantine)


def test_the_law_of_executed_actions_sums_to_one_for_every_type():
    """P(executed | intended, types) by enumeration: every intended, every adversary's action."""
    adversary = torch.tensor([[0.1, 0.1, 0.8], [0.3, 0.3, 0.4]], dtype=torch.float64)
    every = torch.cartesian_prod(*[torch.arange(3)] * 4)
    act, own = every[:, :2], every[:, 2:]
    chance = adversary[0][own[:, 0]] * adversary[1][own[:, 1]]
    same = torch.eye(3, dtype=torch.float64)
    for names in ((), ("a0",), ("a1",), ("a0", "a1")):
        now = context(2, len(every))
        types = always(*names) if names else TypeDistribution(0.0)
        perturber = bound(lambda context, act: own, types)
        perturber.on_obs(now)
        executed = perturber.on_act(now, act)
        index = act @ torch.tensor([3, 1]), executed @ torch.tensor([3, 1])
        found = torch.zeros(9, 9, dtype=torch.float64).index_put_(index, chance, accumulate=True)
        assert torch.allclose(found.sum(dim=1), torch.ones(9, dtype=torch.float64), atol=1e-12)
        first, second = (
            adversary[i].expand(3, 3) if f"a{i}" in names else same for i in range(2)
        )  # a Byzantine agent's law is the adversary's, whatever it intended
        assert torch.allclose(found, torch.kron(first, second), atol=1e-12)


def test_the_random_ally_is_uniform_over_available_actions():
    rows = 30_000
    mask = torch.tensor([[True, False, True], [True, True, True]]).expand(rows, 2, 3)
    perturber = bound("random", always("a0", "a1"))
    now = context(2, rows, mask=mask)
    perturber.on_obs(now)
    executed = perturber.on_act(now, torch.zeros(rows, 2, dtype=torch.int64))
    counts = [torch.bincount(executed[:, i], minlength=3).double() for i in (0, 1)]
    assert counts[0][1] == 0
    for count, size in ((counts[0][[0, 2]], 2), (counts[1], 3)):
        chi2 = float(((count - rows / size) ** 2 / (rows / size)).sum())
        assert chi2 < {2: 10.8, 3: 13.8}[size]  # 0.999 quantiles


def test_a_random_continuous_ally_fills_the_box():
    perturber = bound("random", always("a1"), continuous=True)
    now = context(2, 20_000, continuous=True)
    perturber.on_obs(now)
    executed = perturber.on_act(now, torch.full((20_000, 2, 3), 0.5))
    assert bool((executed[:, 0] == 0.5).all())
    drawn = executed[:, 1]
    assert float(drawn.min()) < -0.99
    assert float(drawn.max()) > 0.99
    assert drawn.mean(dim=0).tolist() == pytest.approx([0.0] * 3, abs=0.02)


def test_an_unavailable_action_of_the_adversary_is_refused():
    mask = torch.tensor([[[True, True, True], [True, False, True]]])
    now = context(mask=mask)
    perturber = bound(lambda context, act: torch.ones_like(act), always("a1"))
    perturber.on_obs(now)
    text = "action must be available to 'a1' in environment 0, got 1"
    with pytest.raises(ValueError, match=text):
        perturber.on_act(now, torch.zeros(1, 2, dtype=torch.int64))
    for bad in (-1, 3):
        perturber = bound(lambda context, act, bad=bad: act + bad, always("a1"))
        perturber.on_obs(now)
        with pytest.raises(ValueError, match=f"available to 'a1'.*got {bad}"):
            perturber.on_act(now, torch.zeros(1, 2, dtype=torch.int64))
    for bad in (0.75, -0.5, float("nan")):  # cut off, these would be actions
        perturber = bound(lambda context, act, bad=bad: act + bad, always("a1"))
        perturber.on_obs(now)
        with pytest.raises(ValueError, match=f"available to 'a1'.*got {bad}"):
            perturber.on_act(now, torch.zeros(1, 2, dtype=torch.int64))
    whole = bound(lambda context, act: act + 2.0, always("a1"))
    whole.on_obs(now)
    executed = whole.on_act(now, torch.zeros(1, 2, dtype=torch.int64))
    assert (executed.tolist(), executed.dtype) == ([[0, 2]], torch.int64)
    perturber = bound(lambda context, act: act[:, :1], always("a1"))
    perturber.on_obs(now)
    with pytest.raises(ValueError, match=r"of shape \(1, 2\), got \(1, 1\)"):
        perturber.on_act(now, torch.zeros(1, 2, dtype=torch.int64))


def test_non_finite_actions_are_refused():
    perturber = bound(lambda context, act: act / 0, always("a0"), continuous=True)
    now = context(continuous=True)
    perturber.on_obs(now)
    with pytest.raises(ValueError, match="adversary must be finite in its actions"):
        perturber.on_act(now, torch.zeros(1, 2, 3))


@pytest.mark.parametrize("bad", [3, None, object(), ScriptedController])
def test_what_does_not_play_is_no_adversary(bad):
    with pytest.raises(TypeError, match=r"ByzantinePerturber.adversary must be 'random'"):
        ByzantinePerturber(bad)


def test_other_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"ByzantinePerturber.adversary must be one of"):
        ByzantinePerturber("worst")
    with pytest.raises(TypeError, match=r"ByzantinePerturber.types must be a TypeDistribution"):
        ByzantinePerturber("random", types=0.5)
    with pytest.raises(ValueError, match=r"ByzantinePerturber.slots must be one of"):
        ByzantinePerturber("random", slots="hints")
    with pytest.raises(ValueError, match="left out unless slots='belief', got 'object'"):
        ByzantinePerturber("random", belief=object())
    team = MAPPO.for_env(Arena())
    with pytest.raises(ValueError, match="belief must be a belief network, or a team that has one"):
        ByzantinePerturber("random", slots="belief", belief=team)
    with pytest.raises(ValueError, match=r"belief must be a belief network.*got None"):
        ByzantinePerturber("random", slots="belief")


def test_an_adversary_with_other_spaces_is_refused():
    other = MAPPO.for_env(Scripted(2, action_sizes=(5, 5)))
    with pytest.raises(ValueError, match="action_sizes"):
        bound(other)


def test_the_worst_of_a_population_plays():
    zeros, ones = (lambda context, act, v=v: torch.full_like(act, v) for v in (0, 1))
    population = WorstOfPopulation([zeros, ones], [3.0, 2.0])
    perturber = bound(population, always("a0"))
    now = context()
    perturber.on_obs(now)
    intended = torch.tensor([[2, 2]])
    assert perturber.on_act(now, intended).tolist() == [[1, 2]]
    population.returns = [1.0, 2.0]
    assert perturber.on_act(now, intended).tolist() == [[0, 2]]
    with pytest.raises(ValueError, match="returns must be 2 finite numbers"):
        population.returns = [1.0]
    with pytest.raises(ValueError, match="adversaries must be at least one"):
        WorstOfPopulation([], [])
    with pytest.raises(TypeError, match=r"adversaries must be a sequence, got 'random'"):
        WorstOfPopulation("random", [1.0])
    for bad in (None, ["a", "b"]):
        with pytest.raises(TypeError, match="returns must be a sequence of numbers, got"):
            WorstOfPopulation([zeros, ones], bad)


# In the collector


def buffer_of(make, perturber, *, episodes=12, num_envs=4, script=None, seed=3):
    team = spec_of(make())
    buffer = EpisodeBuffer(team, episodes)
    script = script or (lambda now: torch.zeros(now.alive.shape, dtype=torch.int64))
    player = ScriptedController(team, script)
    collector = JointCollector(
        player, JointVectorEnv(make, num_envs), buffer, perturb=[perturber], seed=seed
    )
    collector.collect(n_episode=episodes)
    collector.close()
    return buffer.sample(0)[0]


def test_types_stay_for_an_episode_and_do_not_depend_on_the_number_of_environments():
    def make():
        return Scripted(3, lengths=(2, 3, 5, 7))

    by_key = []
    for num_envs in (1, 2, 5):
        batch = buffer_of(make, ByzantinePerturber("random"), episodes=40, num_envs=num_envs)
        rows = {}
        for b in range(40):
            types = batch.record("byzantine")["types"][b][batch.valid[b]]
            assert bool((types == types[0]).all())
            rows[float(batch.obs.obs[b, 0, 0, 0])] = types[0].tolist()
        assert len(rows) == 40
        by_key.append(rows)
    assert by_key[0] == by_key[1] == by_key[2]
    assert len({tuple(t) for t in by_key[0].values()}) == 4  # nobody, and each of the three


def test_labels_are_those_of_the_same_environment_and_step_when_episodes_end_anywhere():
    def make():
        return Scripted(3, lengths=(2, 3, 5, 7))

    seen = []

    def spy(now, act):
        seen.extend(
            (int(key), int(step), row)
            for key, step, row in zip(now.keys, now.step, now.types.tolist(), strict=True)
        )
        return torch.full_like(act, 2)

    batch = buffer_of(make, ByzantinePerturber(spy), episodes=60)
    per_key = {}
    for key, _, row in seen:
        per_key.setdefault(key, set()).add(tuple(row))
    assert all(len(rows) == 1 for rows in per_key.values())
    # what the environment felt: the last action is in the next observation
    for b in range(60):
        for t in range(int(batch.valid[b].sum())):
            types = batch.record("byzantine")["types"][b, t]
            felt = batch.obs.obs[b, t + 1, :, 3]
            assert felt.tolist() == (2.0 * types).tolist()
            assert batch.act[b, t].tolist() == [0, 0, 0]
            assert batch.act_intended[b, t].tolist() == [0, 0, 0]
            assert batch.act_exec[b, t].tolist() == (2 * types).tolist()
            first = types.nonzero()
            expected = int(first[0]) if len(first) else -1
            assert int(batch.record("byzantine")["adversary_id"][b, t]) == expected


def test_observations_and_policies_of_defenders_do_not_depend_on_the_types():
    def make():
        return Scripted(3, lengths=(5,))

    told = []

    def script(now):
        told.append(now.seen.clone())
        return torch.zeros(now.alive.shape, dtype=torch.int64)

    for names in (["a0"], ["a1"]):
        same = ByzantinePerturber(lambda context, act: act, types=always(*names))
        buffer_of(make, same, script=script)
    half = len(told) // 2
    assert all(torch.equal(a, b) for a, b in zip(told[:half], told[half:], strict=True))


def test_counters_count_episodes_and_agent_steps():
    perturber = ByzantinePerturber("random", types=always("a1"))
    buffer_of(lambda: Scripted(3, lengths=(4,)), perturber, episodes=5)
    assert perturber.counters() == {
        "episodes": 5.0,
        "byzantine_episodes": 5.0,
        "steps": 60.0,
        "replaced": 20.0,
    }


class Coin:
    """Plays the first action, and says with which probability, if it says so at all."""

    hidden_size = 0

    def __init__(self, said, logp):
        self.has_probabilities, self.logp = said, logp

    def play(self, context, act, draws):
        return ByzantinePlay(act=context.mask.int().argmax(-1), logp=self.logp)

    def check_spec(self, spec):
        pass


def test_an_adversary_says_whether_its_probabilities_are_recorded():
    team, logp = VDN.for_env(Arena()), torch.full((3, 3), -0.7)
    types = always("unit_0")

    def recorded(adversary):
        perturber = ByzantinePerturber(adversary, types=types)
        return collected(team, 2, perturb=[perturber]).sample(0)[0].record("byzantine")

    assert "logp" not in recorded(Coin(False, logp))
    assert "logp" not in recorded(VDN.for_env(Arena()))  # acts by its best value
    found = recorded(Coin(True, logp))
    assert bool((found["logp"][..., 0] == -0.7).all())
    assert not bool(found["logp"][..., 1:].any())
    both = WorstOfPopulation([Coin(True, logp), MAPPO.for_env(Arena())], [0.0, 1.0])
    assert bool((recorded(both)["logp"][..., 0] == -0.7).all())
    assert "logp" not in recorded(WorstOfPopulation([Coin(True, logp), "random"], [0.0, 1.0]))
    for wrong, got in ((None, "None"), (logp[:, 0], r"\(3,\)")):
        with pytest.raises(ValueError, match=rf"logp must be log-prob.*\(3, 3\).*got {got}"):
            recorded(Coin(True, wrong))


@pytest.mark.parametrize("continuous", [False, True])
def test_a_policy_as_adversary_is_recorded_with_its_probabilities(continuous):
    def make():
        return Arena(continuous=continuous)

    team, other = (MAPPO.for_env(make(), seed=seed) for seed in (0, 1))
    perturber = ByzantinePerturber(other, types=TypeDistribution(0.8, k=2))
    batch = collected(team, 8, make_env=make, perturb=[perturber]).sample(0)[0]
    rows = batch.record("byzantine")["types"] & batch.obs.alive[:, :-1] & batch.valid.unsqueeze(-1)
    assert 0 < int(rows.sum()) < rows.numel()
    output, _ = other.policy.network.unroll(batch.obs.obs[:, :-1], None)
    if not continuous:
        output = output.masked_fill(~batch.obs.mask[:, :-1], -1e9)
    logp = other.policy.log_prob(output, batch.record("byzantine")["act"])
    assert torch.allclose(logp[rows], batch.record("byzantine")["logp"][rows], atol=1e-5)
    others = ~rows & batch.valid.unsqueeze(-1)
    assert not bool(batch.record("byzantine")["logp"][others].any())
    assert torch.equal(batch.record("byzantine")["act"][rows], batch.act_exec[rows])
    assert torch.equal(batch.act[others], batch.act_exec[others])


def test_a_recurrent_adversary_remembers_what_it_saw_and_did():
    other = QMIX.for_env(Arena(), recurrent=True, last_action=True, hidden=(8,), seed=5)
    torch.nn.init.normal_(other.policy.network.head.weight)
    team = MAPPO.for_env(Arena())
    names = [f"unit_{i}" for i in range(3)]
    perturber = ByzantinePerturber(other, types=always(*names))
    batch = collected(team, 8, perturb=[perturber]).sample(0)[0]
    done = batch.act_exec
    last = torch.cat([torch.full_like(done[:, :1], -1), done[:, :-1]], dim=1)
    output, _ = other.policy.network.unroll(batch.obs.obs[:, :-1], last)
    best = output.masked_fill(~batch.obs.mask[:, :-1], -1e9).argmax(dim=-1)
    rows = batch.obs.alive[:, :-1] & batch.valid.unsqueeze(-1)
    assert torch.equal(best[rows], done[rows])
    assert not torch.equal(batch.act[rows], done[rows])


class Counting:
    """An adversary whose memory counts how often it played, for all agents at once."""

    hidden_size = 1

    def __init__(self):
        self.seen = []

    def play(self, context, act, draws):
        self.seen += zip(context.step.tolist(), context.hidden[:, 0, 0].tolist(), strict=True)
        return ByzantinePlay(act=torch.zeros_like(act), hidden=context.hidden + 1)

    def check_spec(self, spec):
        pass


@pytest.mark.parametrize("num_envs", [1, 3])
def test_memory_begins_with_the_episode_also_of_an_agent_that_comes_late(num_envs):
    """And it moves on only in environments where the adversary was asked."""
    adversary = Counting()

    def make():
        return Scripted(2, arrivals={1: 2}, lengths=(3, 4, 5))

    script = ScriptedController(spec_of(make()), lambda c: torch.zeros_like(c.last_act))
    collector = JointCollector(
        script,
        JointVectorEnv(make, num_envs),
        perturb=[ByzantinePerturber(adversary, types=always("a1"))],
    )
    collector.collect(n_episode=6)
    assert {memory for step, memory in adversary.seen if step == 2} == {0.0}
    assert {memory for step, memory in adversary.seen if step == 3} <= {0.0, 1.0}
    assert max(step for step, _ in adversary.seen) == 4


def test_two_of_a_kind_keep_their_records_apart_and_unite_their_types():
    united = []

    def watch(context, act):
        united.append(context.types.clone())
        return act

    perturb = [
        ByzantinePerturber("random", types=always("a0")),
        ByzantinePerturber(watch, types=always("a1")),
    ]
    batch = gathered(perturb)
    names = ("byzantine", "byzantine.1")
    assert set(batch.records) == set(names)
    for i, name in enumerate(names):
        record = batch.record(name)
        assert record["types"][batch.valid].unique(dim=0).tolist() == [[i == 0, i == 1]]
        assert record["adversary_id"][batch.valid].unique().tolist() == [i]
    assert all(bool(types.all()) for types in united)


def test_padding_of_a_box_is_not_played():
    def make():
        return Scripted(2, action_sizes=(1, 3), continuous=True)

    for adversary in ("random", lambda context, act: torch.ones_like(act)):
        batch = gathered([ByzantinePerturber(adversary, types=always("a0"))], make)
        assert bool((batch.act_exec[:, :, 0, 1:] == 0).all())
        assert bool((batch.act_exec[:, :, 0, 0] != 0).any())


def gathered(perturb, make=lambda: Scripted(2)):
    team = spec_of(make())
    buffer = EpisodeBuffer(team, 3)
    script = ScriptedController(team, lambda c: torch.zeros_like(c.last_act))
    JointCollector(script, JointVectorEnv(make, 2), buffer, perturb=perturb).collect(n_episode=3)
    return buffer.latest(3)


def test_slots_are_zeros_or_the_truth():
    for kind in ("zeros", "truth"):
        perturber = ByzantinePerturber("random", slots=kind)
        batch = buffer_of(lambda: Scripted(3, lengths=(2, 5)), perturber)
        expected = batch.record("byzantine")["types"].unsqueeze(-2).expand(
            -1, -1, 3, -1
        ).float() * (kind == "truth")
        assert torch.equal(batch.record("byzantine")["slots"][batch.valid], expected[batch.valid])


def test_beliefs_in_slots_are_those_of_the_episode_so_far():
    """Their memory begins empty in every episode, whenever it begins, and types do not enter."""

    def make():
        return Scripted(3, lengths=(2, 3, 5))

    belief = BeliefNetwork(spec_of(make()), hidden=(8,), memory=6, seed=2)
    torch.nn.init.normal_(belief.head.weight)
    for p in (0.0, 1.0):
        perturber = ByzantinePerturber(
            lambda now, act: act, types=TypeDistribution(p), slots="belief", belief=belief
        )
        batch = buffer_of(make, perturber, episodes=20)
        with torch.no_grad():
            expected = torch.sigmoid(belief.unroll(batch.obs.seen[:, :-1])[0])
        assert torch.allclose(
            batch.record("byzantine")["slots"][batch.valid], expected[batch.valid], atol=1e-6
        )
        assert float(expected[batch.valid].std()) > 0.05


def test_an_adversary_object_gets_its_own_view_of_the_step():
    views = []

    class Remembers:
        hidden_size = 1

        def play(self, now, act, draws):
            views.append(replace(now))
            return ByzantinePlay(act=(act + 1) % 3, hidden=now.hidden + 1)

        def check_spec(self, spec):
            pass

    perturber = ByzantinePerturber(Remembers(), types=always("a0"))
    buffer_of(lambda: Scripted(2, lengths=(3,)), perturber, episodes=2, num_envs=1)
    assert [int(v.step) for v in views] == [0, 1, 2] * 2
    assert [int(v.hidden[0, 0, 0]) for v in views] == [0, 1, 2] * 2
    assert [v.last_act[0].tolist() for v in views] == [[-1, -1], [1, 0], [1, 0]] * 2


# Observations that make a victim act like an adversary


class Linear:
    """Logits or means W o + c, as an adversary offers them."""

    def __init__(self, weight, shift=0.0):
        self.weight, self.shift = weight, shift

    def outputs(self, obs, agents, act):
        assert act is None
        return obs @ self.weight.T + self.shift + 100.0 * agents.unsqueeze(-1)


WEIGHT = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 1.0, 0.25], [0.5, 0.5, -3.0]])


@pytest.mark.parametrize("continuous", [False, True])
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), epsilon=st.floats(0.0, 2.0))
def test_the_observation_attack_comes_near_the_adversary_within_its_radius(
    seed, epsilon, continuous
):
    """Far from the target, where no step overshoots, it ends at the ball's corner, exactly."""
    torch.manual_seed(seed)
    obs, goal = torch.randn(5, 3), Linear(torch.randn(3, 3), 500.0 * torch.randn(3).sign())
    victim = FunctionVictim(lambda x: x @ WEIGHT.T, continuous=continuous)
    view = victim.at(Rows(agents=torch.zeros(5, dtype=torch.int64)))
    found = toward_adversary(goal, epsilon)(view, obs)
    distance = obs @ WEIGHT.T - goal.outputs(obs, torch.zeros(5), None)
    corner = obs - epsilon * (distance @ WEIGHT).sign()
    assert torch.allclose(found, corner, atol=1e-5)
    error = [((view.output(x) - view.output(obs) + distance) ** 2).sum(-1) for x in (obs, found)]
    assert bool((error[1] <= error[0] + 1e-3).all())
    if epsilon == 0.0:
        assert torch.equal(found, obs)


def test_the_observation_attack_ignores_unavailable_actions_and_knows_the_agent():
    victim = FunctionVictim(lambda x: x @ WEIGHT.T)
    obs, agents = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
    mask = torch.tensor([[True, True, False]] * 4)
    view = victim.at(Rows(mask=mask, agents=agents))
    plain = Linear(WEIGHT.flip(0))
    absurd = Linear(WEIGHT.flip(0), torch.tensor([0.0, 0.0, 1e6]))
    found = toward_adversary(plain, 0.3)(view, obs)
    assert torch.equal(found, toward_adversary(absurd, 0.3)(view, obs))
    far = agents == 1  # its goal is 100 higher, so raise both logits
    corner = obs + 0.3 * WEIGHT[:2].sum(dim=0).sign()
    assert torch.allclose(found[far][:, 1:], corner[far][:, 1:], atol=1e-5)


def test_coordinates_with_no_radius_stay():
    view = FunctionVictim(lambda x: x @ WEIGHT.T).at(Rows(agents=torch.zeros(4, dtype=torch.int64)))
    obs = torch.randn(4, 3)
    ball = LinfBall(epsilon=(0.5, 0.5, 0.0))
    found = toward_adversary(Linear(WEIGHT.flip(0), 9.0), ball)(view, obs)
    assert torch.equal(found[:, 2], obs[:, 2])
    assert 0.0 < float((found - obs).abs().max()) <= 0.5 + 1e-6


def test_bad_observation_attacks_are_refused():
    with pytest.raises(TypeError, match="adversary must be a ByzantinePolicy, got str"):
        toward_adversary("random", 0.1)
    with pytest.raises(TypeError, match=r"toward_adversary\.ball must be a LinfBall or a radius"):
        toward_adversary(Linear(WEIGHT), "small")
    view = FunctionVictim(lambda x: x @ WEIGHT.T).at()
    with pytest.raises(ValueError, match=r"AdversaryOutputs\.view must be told its rows' agents"):
        toward_adversary(Linear(WEIGHT), 0.1)(view, torch.randn(2, 3))
    mask = torch.ones(2, 2, dtype=torch.bool)
    view = FunctionVictim(lambda x: x @ WEIGHT[:2].T).at(
        Rows(mask=mask, agents=torch.tensor([0, 1]))
    )
    with pytest.raises(ValueError, match=r"Imitation\.target must be 2 logits, one per action"):
        toward_adversary(Linear(WEIGHT), 0.1)(view, torch.randn(2, 3))
    attack = PGD(ball=LinfBall(epsilon=0.1), loss="mse", target=1)
    with pytest.raises(ValueError, match=r"PGD\.target must be a vector of logits"):
        attack(view, torch.randn(2, 3))


@pytest.mark.parametrize(
    ("keywords", "kind", "text"),
    [
        ({"target": "C"}, ValueError, r"\.target must be one of \['A', 'B'\], got 'C'"),
        ({"agent": "a9"}, ValueError, r"\.agent must be one of .* against 'A', \['a0'\], got 'a9'"),
        ({"adversaries": None}, TypeError, r"\.adversaries must be a mapping.*got NoneType"),
        ({"adversaries": {"A": 3}}, TypeError, r"\.adversaries\['A'\] must be a mapping.*got int"),
        ({"epsilons": 0.2}, TypeError, r"\.epsilons must be a sequence of numbers, got 0\.2"),
        ({"epsilons": ["x"]}, TypeError, r"\.epsilons must be a number >= 0, observation units"),
        ({"epsilons": [-1.0]}, ValueError, r"\.epsilons must be a number >= 0, observation units"),
        ({"epsilons": [0.1, 0.1]}, ValueError, r"\.epsilons must be different numbers"),
    ],
)
def test_bad_evaluations_are_refused(keywords, kind, text):
    both = {"A": {"a0": Linear(WEIGHT)}, "B": {"a0": Linear(WEIGHT)}}
    given = {"target": "A", "adversaries": both, "agent": "a0"} | keywords
    with pytest.raises(kind, match="byzantine_attacks" + text):
        byzantine_attacks(given.pop("target"), **given)
