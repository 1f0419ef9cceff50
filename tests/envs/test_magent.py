"""Battle and Pursuit against magent2's own environments, and against the library's contracts."""

import numpy as np
import pytest
import torch

from robustmarl import algorithms, data, envs, evaluation, training
from robustmarl.budgets import LinfBall
from robustmarl.envs.magent import BattleRules, Charge, MagentEngine, PursuitRules, picture
from robustmarl.envs.magent.rules import engine_seed
from robustmarl.envs.vector import JointVectorEnv, vector_env
from robustmarl.joint import spec_of
from robustmarl.testing import check_engine, check_env

pytest.importorskip("magent2")
from magent2.environments.adversarial_pursuit import adversarial_pursuit
from magent2.environments.battle import battle

STAY, PREDATOR_STAYS, PREY_STAYS = 6, 2, 4
UP_LEFT, ABOVE, RIGHT = 13, 14, 17  # attacks

SEEN = [
    {},
    {"minimap": True},
    {"extra_features": True},
    {"minimap": True, "extra_features": True},
]


def upstream(env, *, minimap=False, extra_features=False):
    """Return magent2's own environment of the same game."""
    rules = env.rules
    maker = battle if rules.name == "battle" else adversarial_pursuit
    return maker.parallel_env(
        map_size=rules.map_size,
        max_cycles=rules.horizon,
        minimap_mode=minimap,
        extra_features=extra_features,
    )


def begun(env, other, seed):
    """Begin the same episode in both, and return what both show."""
    other.generate_map = lambda: env.rules.place(other.env, seed)
    theirs, _ = other.reset(seed=engine_seed(seed))
    # magent2 counts the teams before it puts anybody on the map, so that in an episode's first step
    # the second team would play the first one's actions
    other.team_sizes = list(env.rules.sizes)
    # and its state keeps the walls of the map before the first reset
    other.base_state[:, :, 0] = 0.0
    other.base_state[(*other.env._get_walls_info().T, 0)] = 1.0
    ours, _ = env.reset(seed=seed)
    return ours, theirs


def demand_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for agent, seen in ours.items():
        np.testing.assert_array_equal(seen, theirs[agent])


def acted(env, obs, rng, *, charge=True):
    """Return actions of the living: in a battle they may charge, else all is random."""
    actions = {}
    for team in env.rules.teams:
        names = [agent for agent in env.agents if agent.startswith(team)]
        if not names:
            continue
        if charge and env.rules.name == "battle":
            draws = torch.Generator().manual_seed(int(rng.integers(2**31)))
            chosen = Charge(team=team).act(np.stack([obs[name] for name in names]), draws).tolist()
        else:
            chosen = rng.integers(env.action_space(names[0]).n, size=len(names)).tolist()
        actions |= dict(zip(names, chosen, strict=True))
    return actions


@pytest.mark.parametrize("seen", SEEN, ids=lambda seen: " and ".join(seen) or "views alone")
@pytest.mark.parametrize(
    "make",
    [
        lambda seen: envs.battle(12, image=True, horizon=80, **seen),
        lambda seen: envs.battle(17, image=True, horizon=25, jitter=False, **seen),
        lambda seen: envs.pursuit(14, image=True, horizon=30, **seen),
    ],
    ids=["battle", "battle in formation", "pursuit"],
)
def test_equals_magent2_bit_for_bit(make, seen):
    """Observations, rewards, ends and states of whole episodes, deaths and all."""
    env = make(seen)
    other = upstream(env, **seen)
    assert env.possible_agents == other.possible_agents
    for agent in env.possible_agents:
        assert env.action_space(agent) == other.action_space(agent)
        assert env.observation_space(agent).shape == other.observation_space(agent).shape
    rng, rewards, kinds = np.random.default_rng(0), set(), set()
    for seed in range(6):
        obs, theirs = begun(env, other, seed)
        demand_same(obs, theirs)
        while env.agents:
            assert env.agents == other.agents
            actions = acted(env, obs, rng)
            obs, earned, terminated, truncated, _ = env.step(actions)
            their_obs, their_rewards, their_ends, their_cuts, _ = other.step(actions)
            demand_same(obs, their_obs)
            assert earned == their_rewards
            assert terminated == their_ends
            assert all(env.observation_space(agent).contains(row) for agent, row in obs.items())
            # theirs truncates the dead, too
            assert all(
                their_cuts[agent] == cut or terminated[agent] for agent, cut in truncated.items()
            )
            rewards |= {round(reward, 3) for reward in earned.values()}
            if env.agents:
                told = other.state()[:, :, :5]
                np.testing.assert_array_equal(env.state().reshape(told.shape), told)
        kinds.add("cut" if any(truncated.values()) else "over")
    if env.rules.name == "pursuit":
        assert {-1.0, -0.2, 0.0, 0.8} <= rewards
        assert kinds == {"cut"}
    else:  # a step, a miss, a hit, a kill, a death, a death after a hit; nothing else
        assert rewards == {-0.005, -0.105, 0.095, 4.895, -0.1, 0.1}
        assert "over" in kinds


@pytest.mark.parametrize(
    "env",
    [
        envs.battle(40, image=True, horizon=60),
        envs.pursuit(50, predators=32, prey=64, image=True, horizon=60),
    ],
    ids=["64 against 64", "32 after 64"],
)
def test_equals_magent2_at_the_papers_size_where_all_play_at_random(env):
    other, rng, earned = upstream(env), np.random.default_rng(0), []
    # in magent2 a map's size decides how many there are
    other.team_sizes = list(env.rules.sizes)
    other.agents = other.possible_agents = list(env.possible_agents)
    obs, theirs = begun(env, other, 3)
    other.agents = list(env.agents)
    demand_same(obs, theirs)
    while env.agents:
        actions = acted(env, obs, rng, charge=False)
        obs, rewards, ends, *_ = env.step(actions)
        their_obs, their_rewards, their_ends, *_ = other.step(actions)
        demand_same(obs, their_obs)
        assert rewards == their_rewards
        assert ends == their_ends
        earned += rewards.values()
    assert len(set(earned)) > 2


@pytest.mark.parametrize(
    ("map_size", "agents"), [(12, 2), (13, 2), (17, 6), (20, 12), (31, 30), (40, 64), (45, 81)]
)
def test_battles_are_as_large_as_magent2s_and_in_its_formation(map_size, agents):
    rules = BattleRules(map_size=map_size, jitter=False)
    assert rules.sizes == (agents, agents)
    other = battle.parallel_env(map_size=map_size)
    for team, handle in enumerate(other.handles):
        np.testing.assert_array_equal(rules.formation(team), other.env.get_pos(handle))


@pytest.mark.parametrize("map_size", range(12, 60))
def test_everybody_finds_a_place(map_size):
    env = envs.battle(map_size)
    places = {tuple(place) for place in env.engine.games[0].places.tolist()}
    assert len(places) == len(env.possible_agents)
    assert env.engine.tensors["state"].view(-1, 5)[:, 1::2].sum() == len(places)
    env.reset(seed=map_size)
    middle = map_size // 2
    columns = env.engine.games[0].places[:, 0]
    red = env.rules.sizes[0]
    assert columns[:red].max() < middle - 2 < columns[red:].min()


def test_sizes_of_the_paper():
    """Sheet, test 12."""
    spec = spec_of(envs.battle(40))
    assert {team: len(rows) for team, rows in spec.teams.items()} == {"red": 64, "blue": 64}
    assert set(spec.obs_sizes) == {13 * 13 * 5}
    assert set(spec.action_sizes) == {21}
    spec = spec_of(envs.pursuit(50, predators=32, prey=64))
    assert {team: len(rows) for team, rows in spec.teams.items()} == {"predator": 32, "prey": 64}
    assert spec.obs_sizes == (500,) * 32 + (405,) * 64
    assert spec.action_sizes == (13,) * 32 + (9,) * 64


def together(env, act):
    """Return all agents' rewards for actions (N,), or one for all."""
    actions = np.broadcast_to(act, len(env.possible_agents)).tolist()
    _, rewards, *_ = env.step(dict(zip(env.possible_agents, actions, strict=True)))
    return list(rewards.values())


def test_what_a_step_of_battle_is_worth():
    """Sheet, test 12: idle -0.005, a miss -0.105, a hit 0.095; a kill as magent2 pays it."""
    env = envs.battle(12, jitter=False)
    env.reset(seed=0)
    assert together(env, STAY) == pytest.approx([-0.005] * 4)
    assert together(env, UP_LEFT) == pytest.approx([-0.105] * 4)
    # red stands at column 1, blue at 9: three steps of two cells, one of one
    for move in (8, 8, 8, 7):
        together(env, [move, move, STAY, STAY])
    assert env.engine.games[0].places.tolist() == [[8, 4], [8, 6], [9, 4], [9, 6]]
    hits = [RIGHT, STAY, STAY, STAY]
    assert together(env, hits) == pytest.approx([0.095, -0.005, -0.005, -0.005])
    for _ in range(4):  # 10 points of health, 2 a blow, 0.1 back a step: six blows
        assert together(env, hits)[0] == pytest.approx(0.095)
    actions = dict(zip(env.agents, hits, strict=True))
    obs, rewards, terminated, truncated, _ = env.step(actions)
    assert list(rewards.values()) == pytest.approx([4.895, -0.005, -0.1, -0.005])
    assert terminated == {"red_0": False, "red_1": False, "blue_0": True, "blue_1": False}
    assert not any(truncated.values())
    assert obs.keys() == actions.keys()
    assert env.agents == ["red_0", "red_1", "blue_1"]
    alive, mask, seen = (env.engine.tensors[key][0] for key in ("alive", "mask", "obs"))
    assert alive.tolist() == [True, True, False, True]
    assert mask.sum(-1).tolist() == [21, 21, 1, 21]
    assert bool(seen[2].any())  # its last view, as magent2 shows it
    obs, *_ = env.step(dict.fromkeys(env.agents, STAY))
    assert "blue_0" not in obs
    assert not bool(seen[2].any())
    assert int(env.state().reshape(-1, 5)[:, 3].sum()) == 1


def test_rewards_of_battle_can_be_set():
    env = envs.battle(12, jitter=False, step_reward=0.25, attack_penalty=-0.5, dead_penalty=-3.0)
    env.reset(seed=0)
    assert together(env, STAY) == [0.25] * 4
    assert together(env, UP_LEFT) == [-0.25] * 4


@pytest.mark.parametrize("penalty", [-1.0, -0.1])
def test_what_a_step_of_pursuit_is_worth(penalty):
    """Sheet, test 12: predators -0.2 for a miss, 0.8 for a hit; its prey pays for each."""
    env = envs.pursuit(10, predators=3, prey=12, horizon=40, prey_penalty=penalty)
    env.reset(seed=0)
    hits = misses = 0
    rng = np.random.default_rng(0)
    while env.agents:
        act = np.where(np.arange(15) < 3, rng.integers(5, 13, 15), PREY_STAYS)
        predators, prey = np.split(np.round(together(env, act), 4), [3])
        assert set(predators.tolist()) <= {-0.2, 0.8}
        hit = int((predators > 0).sum())
        assert prey.sum() == pytest.approx(penalty * hit)
        hits, misses = hits + hit, misses + 3 - hit
    assert hits > 0
    assert env.engine.tensors["metrics"][0].tolist() == [hits, misses]
    env.reset(seed=0)
    still = [PREDATOR_STAYS] * 3 + [PREY_STAYS] * 12
    assert together(env, still) == [0.0] * 15


def test_who_wins():
    """Sheet, test 13: more kills win, equal ones are a tie and no win; not annihilation."""
    rules = BattleRules(map_size=40)

    def figures(red, blue):
        return dict(zip(rules.metrics, rules.figures(np.array([[red, 0], [blue, 0]])), strict=True))

    rounds = [figures(64, 20)] * 49 + [figures(63, 10)]
    assert np.mean([one["red_won"] for one in rounds]) == 1.0
    kills = [one["red_kills"] for one in rounds]
    assert (np.mean(kills), np.std(kills)) == pytest.approx((63.98, 0.14))
    tie = figures(5, 5)
    assert (tie["red_won"], tie["blue_won"], tie["tie"]) == (0.0, 0.0, 1.0)
    lost = figures(3, 5)
    assert (lost["red_won"], lost["blue_won"], lost["tie"]) == (0.0, 1.0, 0.0)


def test_figures_count_who_died():
    """Over whole rounds, from who leaves and how; what a batch reports is the same."""
    env, found = envs.battle(12, horizon=60), []
    for seed in range(8):
        obs, _ = env.reset(seed=seed)
        rng, dead = np.random.default_rng(seed), {"red": 0, "blue": 0}
        while env.agents:
            fighting = {agent[: agent.index("_")] for agent in env.agents}
            assert fighting == {"red", "blue"}
            obs, _, terminated, truncated, infos = env.step(acted(env, obs, rng))
            over = all(terminated.values())
            for agent, gone in terminated.items():
                if gone and not over:
                    dead[agent[: agent.index("_")]] += 1
        figures = next(iter(infos.values()))
        assert all(info == figures for info in infos.values())
        red, blue = figures["red_kills"], figures["blue_kills"]
        assert figures["red_won"] == (red > blue)
        assert figures["blue_won"] == (blue > red)
        assert figures["tie"] == (red == blue)
        if over:  # a team's end terminates everybody, the winners too
            assert max(red, blue) == 2.0
            assert not any(truncated.values())
        else:
            assert (red, blue) == (dead["blue"], dead["red"])
        found.append(over)
    assert any(found)


def test_the_horizon_truncates_the_living():
    env = envs.battle(12, horizon=3)
    env.reset(seed=0)
    for _ in range(2):
        *_, truncated, infos = env.step(dict.fromkeys(env.agents, STAY))
        assert not any(truncated.values())
        assert not any(infos.values())
    _, _, terminated, truncated, infos = env.step(dict.fromkeys(env.agents, STAY))
    assert all(truncated.values())
    assert not any(terminated.values())
    assert infos["red_0"]["tie"] == 1.0
    assert env.agents == []
    assert env.step({}) == ({}, {}, {}, {}, {})


def test_who_dies_in_the_last_step_is_not_cut_off():
    env = envs.battle(12, jitter=False, horizon=10)
    env.reset(seed=0)
    for move in (8, 8, 8, 7):
        together(env, [move, move, STAY, STAY])
    for _ in range(5):
        together(env, [RIGHT, STAY, STAY, STAY])
    last = dict(zip(env.agents, [RIGHT, STAY, STAY, STAY], strict=True))
    _, _, terminated, truncated, infos = env.step(last)
    assert list(terminated.values()) == [False, False, True, False]
    assert list(truncated.values()) == [True, True, False, True]
    assert infos["blue_0"] == infos["red_0"]
    figures = {"red_won": 1.0, "blue_won": 0.0, "tie": 0.0, "red_kills": 1.0, "blue_kills": 0.0}
    assert infos["red_0"] == figures
    assert env.agents == []


MAKERS = {
    "battle": lambda: envs.battle(12, horizon=30),
    "battle with everything": lambda: envs.battle(13, horizon=9, minimap=True, extra_features=True),
    "pursuit": lambda: envs.pursuit(12, predators=3, prey=5, horizon=9),
    "pursuit with everything": lambda: envs.pursuit(
        9, horizon=9, minimap=True, extra_features=True
    ),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_contracts(make):
    check_env(make)
    check_engine(lambda num_envs: make().make_engine(num_envs))
    image = make().metadata["name"]
    check_env(lambda: envs.flatten_obs(getattr(envs, image)(12, image=True, horizon=9)), episodes=1)


def charged(engine, seed):
    """Return actions of two teams that charge, (E, N)."""
    draws, seen = torch.Generator().manual_seed(seed), engine.tensors["obs"]
    teams = engine.spec.teams.items()
    return torch.cat([Charge(team=team).act(seen[:, rows], draws) for team, rows in teams], dim=1)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_a_batch_is_its_environments_side_by_side(make):
    """Step by step, all tensors; in battles with deaths."""
    native, plain = vector_env(make, 3), JointVectorEnv(make, 3)
    assert isinstance(native, MagentEngine)
    assert native.spec == plain.spec
    rules = native.rules
    rng, everywhere = np.random.default_rng(0), torch.ones(3, dtype=torch.bool)
    seeds = torch.tensor([4, 0, 2**40])
    for engine in (native, plain):
        engine.begin(everywhere, seeds)
    active, died = everywhere.clone(), 0
    for _ in range(rules.horizon):
        for key in ("obs", "mask", "state", "alive", "rew_agents", "terminated", "truncated"):
            assert torch.equal(native.tensors[key][active], plain.tensors[key][active]), key
        ended = native.tensors["terminated"] | native.tensors["truncated"]
        died += int((~native.tensors["alive"]).sum())
        now, active = active & ended, active & ~ended
        assert torch.equal(native.tensors["metrics"][now], plain.tensors["metrics"][now])
        if rules.name == "battle":
            draws = torch.Generator().manual_seed(int(rng.integers(2**31)))
            seen = native.tensors["obs"]
            acts = [
                Charge(team=t).act(seen[:, rows], draws) for t, rows in native.spec.teams.items()
            ]
            act = torch.cat(acts, dim=1)
        else:
            act = torch.from_numpy(
                rng.integers(native.spec.action_sizes, size=(3, native.spec.num_agents))
            )
        act[~native.tensors["alive"]] = 0
        for engine in (native, plain):
            engine.advance(act, active)
    assert died > 0 or rules.name == "pursuit" or rules.horizon < 10


def test_an_episode_that_has_ended_stays_as_it_is():
    """magent2 would read a team of nobody, and end the process."""
    engine = envs.battle(12, horizon=80, minimap=True).make_engine(1)
    everywhere, draws = torch.ones(1, dtype=torch.bool), torch.Generator().manual_seed(0)
    for seed in range(20):
        engine.begin(everywhere, torch.tensor([seed]))
        while not bool(engine.tensors["terminated"] | engine.tensors["truncated"]):
            seen = engine.tensors["obs"]
            sides = [
                Charge(team=t, random=0.0).act(seen[:, rows], draws)
                for t, rows in engine.spec.teams.items()
            ]
            engine.advance(torch.cat(sides, dim=1), everywhere)
        if bool(engine.tensors["terminated"]):
            break
    assert bool(engine.tensors["terminated"])
    before = {key: values.clone() for key, values in engine.tensors.items()}
    engine.advance(torch.zeros(1, 4, dtype=torch.int64), everywhere)
    assert all(torch.equal(values, before[key]) for key, values in engine.tensors.items())


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (torch.zeros(2, 4, dtype=torch.int64), r"of shape \(1, 4\), \(environments, agents\)"),
        (
            torch.tensor([[0, 0, 21, 0]]),
            r"an int in \[0, 20\] for 'blue_0' in environment 0, got 21",
        ),
        (
            torch.tensor([[0, -1, 0, 0]]),
            r"an int in \[0, 20\] for 'red_1' in environment 0, got -1",
        ),
    ],
)
def test_actions_that_nobody_has_are_refused(act, text):
    """magent2 would read beyond its tables."""
    engine = envs.battle(12).make_engine(1)
    with pytest.raises(ValueError, match=rf"MagentEngine\.advance\.act must be {text}"):
        engine.advance(act, torch.ones(1, dtype=torch.bool))


def first(env, seed):
    obs, _ = env.reset(seed=seed)
    return np.concatenate([obs[agent] for agent in env.possible_agents])


@pytest.mark.parametrize("make", [lambda: envs.battle(20), lambda: envs.pursuit(20)])
def test_seeds_that_magent2_takes_for_one_are_several(make):
    """Its own battles begin alike whatever the seed, its pursuits for 0, 1 and 2^31 - 1."""
    env = make()
    shown = [first(env, seed) for seed in (0, 1, 2**31 - 1, 2**31, 2**40)]
    assert len({row.tobytes() for row in shown}) == 5
    np.testing.assert_array_equal(first(make(), 1), shown[1])


@pytest.mark.parametrize("make", [lambda: envs.battle(20), lambda: envs.pursuit(20)])
def test_nobody_seeded_begins_differently(make):
    """In magent2 all fresh environments play one game."""
    one, other = make(), make()
    shown = [first(env, None) for env in (one, one, other)]
    assert len({row.tobytes() for row in shown}) == 3


def test_without_jitter_battles_begin_in_formation():
    env = envs.battle(20, jitter=False)
    np.testing.assert_array_equal(first(env, 3), first(env, 4))
    moved = envs.battle(20)
    moved.reset(seed=3)
    shift = moved.engine.games[0].places - env.engine.games[0].places
    assert set(shift[:12, 0].tolist()) == {0, 1}
    assert set(shift[12:, 0].tolist()) == {0, -1}  # towards the other team, both
    assert set(shift[:, 1].tolist()) == {0, 1}


@pytest.mark.parametrize("seen", SEEN, ids=lambda seen: " and ".join(seen) or "views alone")
def test_no_attack_touches_what_no_sensor_tells(seen):
    env = envs.battle(12, **seen)
    features = {0: 0, 1: 2, 2: 32, 3: 34}[SEEN.index(seen)]
    channels = 7 if "minimap" in seen else 5
    assert env.fixed("red") == (False,) * (169 * channels) + (True,) * features
    image = envs.battle(12, image=True, **seen)
    cell = np.array(image.fixed("blue")).reshape(13, 13, channels + features)
    assert not cell[..., :channels].any()
    assert cell[..., channels:].all()
    if not features:
        return
    ball = LinfBall(epsilon=0.1, low=0.0, high=2.0, fixed=env.fixed("red"))
    clean = torch.from_numpy(env.reset(seed=0)[0]["red_0"])[None]
    moved = ball.project(clean + 0.05, clean) != clean
    assert moved[0].tolist() == [not kept for kept in env.fixed("red")]


def test_teams_of_pursuit_have_features_of_their_own():
    env = envs.pursuit(12, extra_features=True)
    assert sum(env.fixed("predator")) == 10 + 13 + 1
    assert sum(env.fixed("prey")) == 10 + 9 + 1
    with pytest.raises(ValueError, match=r"pursuit\.fixed\.team must be one of .* got 'red'"):
        env.fixed("red")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: envs.battle(11), r"battle\.map_size must be an int >= 12, got 11"),
        (lambda: envs.pursuit(6), r"pursuit\.map_size must be an int >= 7, got 6"),
        (
            lambda: envs.pursuit(20, predators=21),
            r"pursuit\.predators must be on a map of this size an int in \[1, 20\], got 21\. Or",
        ),
        (
            lambda: envs.pursuit(20, predators=10, prey=111),
            r"pursuit\.prey must be on a map of this size an int in \[1, 110\], got 111\. Or",
        ),
        (lambda: envs.battle(render_mode="human"), r"battle\.render_mode must be one of"),
    ],
)
def test_bad_arguments(make, text):
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize("map_size", [7, 8, 9, 12, 20])
def test_the_fullest_maps_can_be_filled(map_size):
    """magent2 ends the process where it finds no place in as many tries as there are cells."""
    cells = (map_size - 2) ** 2
    predators = cells // 16
    rules = PursuitRules(map_size=map_size, predators=predators)
    rules = PursuitRules(
        map_size=map_size, predators=predators, prey=cells // 2 - rules.walls - 4 * predators
    )
    engine = MagentEngine(rules)
    for seed in range(200):
        engine.begin(torch.ones(1, dtype=torch.bool), torch.tensor([seed]))
        assert engine.tensors["state"].view(-1, 5)[:, 1::2].sum() == sum(rules.sizes)


def test_pictures_show_teams_health_and_attacks():
    env = envs.battle(12, jitter=False, render_mode="rgb_array")
    env.reset(seed=0)
    whole = env.render()
    assert whole.shape == (120, 120, 3)
    assert whole.dtype == np.uint8
    red, blue = ((whole == colour).all(-1).sum() for colour in ((255, 80, 60), (70, 140, 255)))
    assert red == blue > 0
    for move in (8, 8, 8, 7):
        together(env, [move, move, STAY, STAY])
    together(env, [RIGHT, STAY, STAY, STAY])
    hurt = env.render()
    assert (hurt == (255, 220, 90)).all(-1).any()  # the attack
    assert not np.array_equal(hurt[45, 95], hurt[65, 95])  # who was hit is paler than the other
    np.testing.assert_array_equal(picture(env.engine), hurt)
    with pytest.raises(ValueError, match=r"battle\.render_mode must be 'rgb_array' to render"):
        envs.battle(12).render()


def test_a_view_has_rows_first_and_the_map_columns():
    """The first red agent is in column 1 of a map whose column 0 is a wall."""
    env = envs.battle(20, jitter=False)
    obs, _ = env.reset(seed=0)
    column, row = env.engine.games[0].places[0].tolist()
    assert (column, row) == (1, 6)
    walls = obs["red_0"].reshape(13, 13, 5)[..., 0]
    assert np.flatnonzero(walls[6]).tolist() == [5]  # west of it
    assert np.flatnonzero(walls[:, 6]).tolist() == [0]  # six cells north of it
    present = env.state().reshape(20, 20, 5)[..., 1]
    assert present[column, row] == 1.0


def view(**cells):
    """Return a view with walls or enemies at (right, down), flat."""
    found = torch.zeros(13, 13, 5)
    for name, places in cells.items():
        for right, down in places:
            found[down + 6, right + 6, {"walls": 0, "friends": 1, "enemies": 3}[name]] = 1.0
    return found.reshape(-1)


HITS = [(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1) if (x, y) != (0, 0)]


@pytest.mark.parametrize("team", ["red", "blue"])
class TestCharge:
    def act(self, team, *views):
        return Charge(team=team, random=0.0).act(torch.stack(views)).tolist()

    def test_hits_who_is_beside_it(self, team):
        assert self.act(team, *(view(enemies=[hit, (4, 4)]) for hit in HITS)) == list(range(13, 21))

    def test_walks_to_the_nearest(self, team):
        views = [view(enemies=[place, (-6, 6)]) for place in ((4, 0), (-4, 0), (0, 4), (0, -4))]
        assert self.act(team, *views) == [8, 4, 12, 0]

    def test_does_not_mind_friends(self, team):
        assert self.act(team, view(friends=[(1, 0)], enemies=[(0, 5)])) == [12]

    def test_goes_where_the_others_came_from(self, team):
        assert self.act(team, view()) == [8 if team == "red" else 4]

    def test_turns_anywhere_at_the_far_wall(self, team):
        far = 4 if team == "red" else -4
        behind = view(walls=[(-far, y) for y in range(-6, 7)])
        assert self.act(team, behind) == self.act(team, view())
        ahead = view(walls=[(far, y) for y in range(-6, 7)])
        assert len(set(self.act(team, *[ahead] * 100))) > 5

    def test_hits_what_magent2_hits(self, team):
        """Its numbers are those of the engine, for views and for actions."""
        env = envs.battle(12)
        other = 1 - env.rules.teams.index(team)
        layout = env.engine.layouts[other]
        assert layout.attack_base == 13
        assert [tuple(cell) for cell in layout.reach.tolist()] == HITS


def test_charge_reads_all_kinds_of_observations_alike():
    script = Charge(team="blue")
    for seen in SEEN:
        rows = []
        for image in (False, True):
            env = envs.battle(20, image=image, **seen)
            obs, _ = env.reset(seed=1)
            rows.append(np.stack([obs[agent] for agent in env.agents]))
        acts = [script.act(row, torch.Generator().manual_seed(0)) for row in rows]
        assert torch.equal(*acts)
        batch = np.stack([rows[0]] * 3)
        assert script.act(batch, torch.Generator().manual_seed(0)).shape == (3, 24)
    with pytest.raises(ValueError, match=r"Charge\.act\.obs must be of battle, .* got \(2, 30\)"):
        script.act(torch.zeros(2, 30))


def test_charge_acts_on_one_observation_as_on_many():
    script, sees_one = Charge(team="red", random=0.0), view(enemies=[(4, 0)])
    for _ in range(100):  # and leaves what it knows of views as it is
        assert script.act(view()).tolist() == 8
    assert script.act(sees_one).tolist() == 8
    assert script.act(view(enemies=[(-4, 0)])).tolist() == 4
    assert script.act(torch.stack([view(enemies=[(0, 4)])] * 100)).tolist() == [12] * 100


def test_the_share_of_random_actions():
    acts = Charge(team="red", random=0.25).act(torch.zeros(20_000, 845))
    counts = torch.bincount(acts, minlength=21) / len(acts)
    assert counts[8] == pytest.approx(0.75 + 0.25 / 21, abs=0.01)
    assert counts[20] == pytest.approx(0.25 / 21, abs=0.005)


def played(red, blue, **kwargs):
    return evaluation.rollout(
        red,
        lambda: envs.battle(20, horizon=200),
        team="red",
        opponents={"blue": blue},
        seed=0,
        **kwargs,
    )


def test_scripts_play_rollouts_reproducibly_and_from_either_side():
    spec = spec_of(envs.battle(20, horizon=200))
    chance = data.RandomController(spec.of_team("blue"))
    many = played(Charge(team="red"), chance, episodes=4, num_envs=4)
    one = played(Charge(team="red"), chance, episodes=4, num_envs=1)
    np.testing.assert_array_equal(many.returns, one.returns)
    assert many.metrics["red_won"].mean() == 1.0
    chance = data.RandomController(spec.of_team("red"))
    lost = played(chance, Charge(team="blue"), episodes=4, num_envs=4)
    assert lost.metrics["blue_won"].mean() == 1.0


def test_a_team_learns_in_it():
    make = MAKERS["battle"]
    team = algorithms.IPPO.for_env(spec_of(make()).of_team("red"), hidden=(8,), seed=0)
    training.run(
        team,
        make,
        env_steps=60,
        num_envs=2,
        team="red",
        opponents={"blue": Charge(team="blue")},
        learn=training.OnPolicy(steps_per_round=30, batch_size=64, epochs=1),
        log=training.Log(progress=False),
    )
