"""The Bayesian game as an environment: the collector's twin, and what it must not tell."""

import copy

import numpy as np
import pytest
import torch
from doubles import Scripted
from gymnasium.spaces import Box, Dict

from robustmarl import envs
from robustmarl._seeding import Draws, episode_key
from robustmarl.algorithms import MAPPO
from robustmarl.attacks import RandomAttack, UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.data import EpisodeBuffer, JointCollector, ScriptedController
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import spec_of
from robustmarl.networks import BeliefNetwork
from robustmarl.perturbers import (
    ByzantinePerturber,
    ObsPerturber,
    TypeDistribution,
    WorstOfPopulation,
)
from robustmarl.testing import check_wrapper
from robustmarl.wrappers import ActionPoisonWrapper, BayesianTypeWrapper, ObsAdversaryWrapper


def make(**keywords):
    defaults = {"lengths": (2, 3, 5), "masks": "info", "state": "joint", "deaths": {0: 2}}
    return Scripted(3, **{**defaults, **keywords})


def script(now):
    if now.last_act.is_floating_point():
        return torch.full_like(now.last_act, 0.25)
    return torch.zeros_like(now.last_act)


def half_up(now, act):
    """Go up by a half of what is left, or to the last available action."""
    if act.is_floating_point():
        return (1.0 + act) / 2.0
    return now.mask.shape[-1] - 1 - now.mask.flip(-1).int().argmax(-1)


def always(*names):
    return TypeDistribution(1.0, choice="fixed", agents=names)


def played(env, spec, seed):
    """Return (observations, infos, rewards) of one episode, actions as of ``script``."""
    obs, infos = env.reset(seed=seed)
    happened = [(obs, infos, {})]
    while env.agents:
        actions = {}
        for agent in env.agents:
            if spec.continuous:
                i = spec.agents.index(agent)
                low, high = np.float32(spec.action_low[i]), np.float32(spec.action_high[i])
                actions[agent] = low + np.float32(1.25) * np.float32(0.5) * (high - low)
            else:
                actions[agent] = 0
        obs, rewards, _, _, infos = env.step(actions)
        happened.append((obs, infos, rewards))
    return happened


def padded(spec, rows, size):
    out = np.zeros((spec.num_agents, size), np.float32)
    for agent, row in rows.items():
        raw = row["observation"] if isinstance(row, dict) else row
        out[spec.agents.index(agent), : len(raw)] = raw
    return out


def twins(make_env, adversary, *, types, slots="none", belief=None, under=None, episodes=9):
    """Play the same episodes in the collector and in the wrapper; yield both for each."""
    spec = spec_of(make_env())
    perturber = ByzantinePerturber(adversary, types=types, slots=slots, belief=belief)
    stack = [perturber] if under is None else [ObsPerturber(under), perturber]
    buffer = EpisodeBuffer(spec, episodes)
    engine = JointVectorEnv(make_env, 4)
    collector = JointCollector(ScriptedController(spec, script), engine, buffer, perturb=stack)
    collector.collect(n_episode=episodes)
    collector.close()
    batch = buffer.sample(0)[0]
    kept = {}
    for b in range(episodes):
        kept[float(batch.obs.obs[b, 0, 0, 0])] = b
    env = make_env() if under is None else ObsAdversaryWrapper(make_env(), under)
    env = BayesianTypeWrapper(env, adversary, types=types, slots=slots, belief=belief)
    for number in range(episodes):
        seed = episode_key(0, number) & 0x7FFFFFFF
        yield spec, batch, played(env, spec, seed), kept


@pytest.mark.parametrize(
    "under", [None, UniformNoise(ball=LinfBall(epsilon=0.1))], ids=["plain", "noise"]
)
@pytest.mark.parametrize("slots", ["none", "zeros", "truth", "belief"])
@pytest.mark.parametrize("continuous", [False, True])
def test_the_wrapper_is_the_collectors_twin(continuous, slots, under):
    def make_env():
        return make(continuous=continuous, masks=None if continuous else "info")

    team = spec_of(make_env())
    belief = BeliefNetwork(team, hidden=(8,), memory=6, seed=2) if slots == "belief" else None
    if belief is not None:
        torch.nn.init.normal_(belief.head.weight)
    types = TypeDistribution(0.8, k=2)
    seen_types = set()
    for spec, batch, happened, kept in twins(
        make_env, half_up, types=types, slots=slots, belief=belief, under=under
    ):
        first = happened[0][1]["a0"]
        u = first["clean_obs"][0] if under is not None else happened[0][0]["a0"][0]
        b = kept[float(u)]
        size = spec.obs_size
        assert len(happened) == int(batch.valid[b].sum()) + 1
        for t, (obs, infos, rewards) in enumerate(happened):
            rows = padded(spec, obs, size + 3 * (slots != "none"))
            last = t == len(happened) - 1
            there = {spec.agents.index(agent) for agent in obs}
            here = [i for i in there if last or bool(batch.obs.alive[b, t, i])]  # not who just died
            assert np.array_equal(rows[here, :size], batch.obs.seen[b, t].numpy()[here])
            if not last:
                seen_types.add(tuple(batch.record("byzantine")["types"][b, t].tolist()))
                for agent in obs:
                    assert (
                        infos[agent]["types"].tolist()
                        == batch.record("byzantine")["types"][b, t].tolist()
                    )
                    i = spec.agents.index(agent)
                    if slots != "none" and i in here:
                        own = batch.record("byzantine")["slots"][b, t, i].numpy()
                        assert np.allclose(rows[i, size:], own, atol=1e-6)
            for agent, reward in rewards.items():
                assert reward == pytest.approx(
                    float(batch.rew_agents[b, t - 1, spec.agents.index(agent)]), rel=1e-6
                )
    assert len(seen_types) > 3


def test_a_learned_adversary_plays_the_same_in_both():
    other = MAPPO.for_env(make(masks="info"), seed=4)
    executed = 0
    for spec, batch, happened, kept in twins(make, other, types=TypeDistribution(0.9)):
        b = kept[float(happened[0][0]["a0"][0])]
        for t, (_, infos, _) in enumerate(happened[1:]):
            for agent, info in infos.items():
                i = spec.agents.index(agent)
                if "executed_action" in info:
                    assert info["intended_action"] == 0
                    assert info["executed_action"] == int(batch.act_exec[b, t, i])
                    executed += info["executed_action"] != 0
    assert executed > 3


@pytest.mark.parametrize(
    "adversary",
    ["random", half_up, WorstOfPopulation(["random", half_up], [1.0, 0.0])],
    ids=["random", "script", "population"],
)
def test_it_is_still_a_parallel_environment(adversary):
    for make_env in (envs.ToyGame, envs.spread, lambda: envs.spread(continuous_actions=True)):
        check_wrapper(
            lambda env: BayesianTypeWrapper(env, adversary, types=TypeDistribution(0.7)),
            make_env,
            observations_only=False,
        )


@pytest.mark.parametrize("continuous", [False, True])
def test_at_theta_zero_everything_passes_unchanged(continuous):
    check_wrapper(
        lambda env: BayesianTypeWrapper(env, half_up, types=TypeDistribution(0.0)),
        lambda: envs.spread(continuous_actions=continuous),
        identity=True,
    )
    env = make(continuous=continuous, masks=None)
    wrapped = BayesianTypeWrapper(env, half_up, types=TypeDistribution(0.0))
    wrapped.reset(seed=0)
    actions = {agent: env.action_space(agent).sample() for agent in env.agents}
    wrapped.step(actions)
    assert all(env.received[0][agent] is actions[agent] for agent in actions)


def test_only_byzantine_actions_are_replaced_and_infos_say_so():
    env = make(lengths=(5,))
    wrapped = BayesianTypeWrapper(env, half_up, types=always("a1"))
    _, infos = wrapped.reset(seed=0)
    assert infos["a0"]["types"].tolist() == [False, True, False]
    assert [infos[a]["byzantine"] for a in wrapped.agents] == [False, True, False]
    best = max(i for i, ok in enumerate(env.available("a1")) if ok)
    submitted = {agent: np.int64(0) for agent in env.agents}
    _, _, _, _, infos = wrapped.step(submitted)
    assert env.received == [{"a0": 0, "a1": best, "a2": 0}]
    assert [infos[a]["executed_action"] for a in env.agents] == [0, best, 0]
    assert [infos[a]["intended_action"] for a in env.agents] == [0, 0, 0]
    assert infos["a2"]["steps"] == 1.0
    assert wrapped.counters()["replaced"] == 1.0


def test_continuous_actions_are_mapped_to_the_box():
    env = make(continuous=True, masks=None, deaths={})
    wrapped = BayesianTypeWrapper(env, half_up, types=always("a0"))
    wrapped.reset(seed=0)
    middle = np.array([0.5, 2.0, 2.0], np.float32)
    wrapped.step(dict.fromkeys(env.agents, middle))
    assert env.received[0]["a0"].tolist() == [1.25, 3.0, 3.0]  # half of what was left
    assert env.received[0]["a1"] is middle


def test_without_slots_observations_do_not_depend_on_the_types():
    seen = []
    for names in (["a0"], ["a2"]):
        env = BayesianTypeWrapper(make(), lambda now, act: act, types=always(*names))
        seen.append([obs for obs, _, _ in played(env, spec_of(make()), 7)])
    for one, other in zip(*seen, strict=True):
        assert all(np.array_equal(one[agent], other[agent]) for agent in one)


def test_slots_widen_boxes_and_masked_observations():
    for masks in (None, "dict"):
        env = make(masks=masks, lengths=(4,))
        wrapped = BayesianTypeWrapper(env, "random", types=always("a2"), slots="truth")
        space = wrapped.observation_space("a0")
        assert space is wrapped.observation_space("a0")
        box = space["observation"] if isinstance(space, Dict) else space
        assert isinstance(box, Box)
        assert box.shape == (8,)
        assert box.high[-3:].tolist() == [1.0] * 3
        assert box.low[-3:].tolist() == [0.0] * 3
        obs, _ = wrapped.reset(seed=1)
        row = obs["a1"]["observation"] if masks else obs["a1"]
        assert row.dtype == np.float32
        assert row[-3:].tolist() == [0.0, 0.0, 1.0]
        assert space.contains(obs["a0"])
        assert wrapped.state_space == env.state_space


def test_a_plain_learner_can_be_made_for_the_wider_observations():
    def wrapped():
        return BayesianTypeWrapper(make(), "random", slots="truth")

    assert MAPPO.for_env(wrapped()).spec.obs_size == spec_of(make()).obs_size + 3


def test_types_follow_the_seed_and_change_between_episodes():
    env = BayesianTypeWrapper(make(), "random")
    found = []
    for start in (3, 3):
        env.reset(seed=start)
        row = [tuple(env.types)]
        for _ in range(20):
            env.reset()
            row.append(tuple(env.types))
        found.append(row)
    assert found[0] == found[1]
    assert len(set(found[0])) == 4


def test_a_step_comes_after_a_reset():
    env = BayesianTypeWrapper(envs.ToyGame(), "random")
    for name, ask in (("step", lambda: env.step({})), ("types", lambda: env.types)):
        text = rf"BayesianTypeWrapper\.{name} must come after a reset, got none yet"
        with pytest.raises(RuntimeError, match=text):
            ask()


def test_bad_input_is_refused():
    env = BayesianTypeWrapper(envs.ToyGame(), "random")
    env.reset(seed=0)
    for bad in ("a", 0.5):
        text = rf"step\.actions\['agent_0'\] must be an int, got {bad!r}"
        with pytest.raises(TypeError, match=text):
            env.step({"agent_0": bad, "agent_1": 0})
    with pytest.raises(ValueError, match=r"TypeDistribution.k must be at most 3"):
        BayesianTypeWrapper(make(), "random", types=TypeDistribution(k=4))
    other = MAPPO.for_env(make(action_sizes=(4, 4, 4), masks="info"))
    with pytest.raises(ValueError, match="action_sizes"):
        BayesianTypeWrapper(make(), other)
    team = MAPPO.for_env(make())
    with pytest.raises(ValueError, match=r"got 'MAPPO'. Give a trained EIRMAPPO"):
        BayesianTypeWrapper(make(), "random", slots="belief", belief=team)
    belief = BeliefNetwork(spec_of(Scripted(2)))
    with pytest.raises(ValueError, match=r"BeliefNetwork must be made for this team"):
        BayesianTypeWrapper(make(), "random", slots="belief", belief=belief)
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        copy.deepcopy(BayesianTypeWrapper(make(), team))


def test_it_stacks_with_poisoned_actions_and_observations():
    learner = MAPPO.for_env(make(deaths={}))
    game = make(deaths={}, lengths=(5,))
    env = ObsAdversaryWrapper(game, UniformNoise(ball=LinfBall(epsilon=0.1)))
    env = BayesianTypeWrapper(env, lambda now, act: torch.zeros_like(act), types=always("a0"))
    poisoned = ActionPoisonWrapper(
        env, RandomAttack(), learner=learner, agent="a0", kl_budget=9.0, when="always"
    )
    poisoned.reset(seed=0)
    overruled = 0
    while poisoned.agents:
        best = {a: int(np.flatnonzero(game.available(a))[-1]) for a in poisoned.agents}
        _, _, _, _, infos = poisoned.step(best)
        told = infos["a0"]
        assert "clean_obs" in told
        assert told["poisoned"]
        assert told["types"].tolist() == [True, False, False]
        submitted = told["intended_action"]  # by the poison, which the Byzantine agent drops
        overruled += submitted != 0
        assert game.received[-1] == {"a0": 0, "a1": best["a1"], "a2": best["a2"]}
    assert overruled


def convention(now):
    """Agree on 0 in state 0; agent 1 differs in state 1."""
    return torch.stack([torch.zeros_like(now.step), now.obs[:, 1, 0].long()], dim=1)


def deviated(now):
    """Return whether the last joint action was not the convention's, bool (E,)."""
    last, first, second = now.obs[:, 0, 2:].unbind(1)
    return (now.step > 0) & ((first != 0) | (second != last))


class Grim:
    """Keeps the convention until it was broken once, then plays uniformly."""

    def __init__(self):
        self.broken = torch.zeros(0)

    def __call__(self, now):
        if len(self.broken) != len(now.step):
            self.broken = torch.zeros(len(now.step), dtype=torch.bool)
        self.broken = (self.broken & (now.step > 0)) | deviated(now)
        return torch.where(self.broken[:, None], uniform(now), convention(now))


def one_step_grim(now):
    """Play uniformly after a failure, else by the convention: no belief, only the last step."""
    last, first, second = now.obs[:, 0, 2:].unbind(1)
    failed = ((first == second) != (last == 0)) & (now.step > 0)
    return torch.where(failed[:, None], uniform(now), convention(now))


def uniform(now):
    return (Draws(now.keys).at(now.step, 99).uniform(2) < 0.5).long()


def mixture(x):
    """Play the convention with probability x, else its opposite, each agent by itself."""

    def play(now):
        keep = Draws(now.keys).at(now.step, 99).uniform(2) < x
        return torch.where(keep, convention(now), 1 - convention(now))

    return play


def against(now, act):
    """Do the opposite of the convention."""
    return 1 - convention(now)


def toy_return(script, attacked, dynamics, episodes=2000):
    """Return the mean return of ``episodes`` episodes of the toy game."""
    engine = envs.ToyEngine(episodes, dynamics=dynamics)
    types = always("agent_1") if attacked else TypeDistribution(0.0)
    attack = ByzantinePerturber(against, types=types)
    player = ScriptedController(engine.spec, script)
    collector = JointCollector(player, engine, perturb=[attack], seed=1)
    return collector.collect(n_episode=episodes).returns.mean()


@pytest.mark.parametrize("dynamics", ["alternating", "published"])
@pytest.mark.parametrize(
    ("script", "together", "attacked"),
    [
        (convention, 100.0, 0.0),
        (uniform, 50.0, 50.0),
        (Grim(), 100.0, 49.5),
        (one_step_grim, 100.0, 33.2),  # 1/3 a step, and 0 in the first
    ],
    ids=["convention", "uniform", "grim", "one-step grim"],
)
def test_the_toy_games_analytic_anchors(script, together, attacked, dynamics):
    for traitor, want in ((False, together), (True, attacked)):
        exact = want in (0.0, 100.0)
        found = toy_return(script, traitor, dynamics, episodes=50 if exact else 2000)
        assert found == pytest.approx(want, abs=0.0 if exact else 0.5)  # 4 standard errors


@pytest.mark.parametrize("dynamics", ["alternating", "published"])
def test_teams_without_memory_in_the_toy_game(dynamics):
    """A traitor with probability p: pure convention below p = 1/2, uniform above, a tie at it."""
    shares = (0.5, 0.75, 1.0)
    scores = {x: [toy_return(mixture(x), t, dynamics, 600) for t in (False, True)] for x in shares}
    for x, (together, attacked) in scores.items():
        assert together == pytest.approx(100 * (x * x + (1 - x) ** 2), abs=0.8)
        assert attacked == pytest.approx(100 * (1 - x), abs=0.8)
    for p, best in ((0.3, 1.0), (0.7, 0.5)):
        value = {x: (1 - p) * together + p * attacked for x, (together, attacked) in scores.items()}
        assert max(value, key=value.get) == best


def test_the_state_alone_tells_of_the_past_in_the_published_toy_game():
    """Uniform in state 0, convention in state 1, is one-step grim there and poor otherwise."""

    def by_state(now):
        return torch.where(now.obs[:, :1, 0] > 0, convention(now), uniform(now))

    scores = {
        dynamics: [toy_return(by_state, traitor, dynamics, 600) for traitor in (False, True)]
        for dynamics in ("published", "alternating")
    }
    # Half of the episodes begin in state 0, where a success takes two steps.
    assert scores["published"] == pytest.approx([99.5, 33.2], abs=0.5)
    # In turn two steps and one without a traitor; with one, the first success is the last.
    assert scores["alternating"] == pytest.approx([66.7, 0.5], abs=0.5)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"types": 0.5}, TypeError, r"^BayesianTypeWrapper\.types must be a TypeDistribution"),
        ({"slots": "x"}, ValueError, r"^BayesianTypeWrapper\.slots must be one of"),
        ({"adversary": "nobody"}, ValueError, r"^BayesianTypeWrapper\.adversary must be one of"),
    ],
)
def test_errors_name_the_wrapper(change, error, text):
    with pytest.raises(error, match=text):
        BayesianTypeWrapper(envs.ToyGame(), **{"adversary": "random", **change})
