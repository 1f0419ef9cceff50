"""Our foraging against lbforaging's own game, bit for bit."""

import warnings

import gymnasium
import numpy as np
import pytest

from robustmarl.envs import foraging, foraging_from_id
from robustmarl.envs.lbf import _arguments
from robustmarl.joint import spec_of
from robustmarl.testing import check_env

pytest.importorskip("lbforaging")
from lbforaging.foraging.environment import ForagingEnv

from robustmarl.envs._lbf_engine import Action, IndexedPlayer


class Upstream(ForagingEnv):
    """The game as published, but for the crash of its grid spaces and the order of its sets."""

    def __init__(self, **kwargs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            super().__init__(**kwargs)
        self.players = [IndexedPlayer(i) for i in range(len(self.players))]

    def _get_observation_space(self):
        if not self._grid_observation:
            return super()._get_observation_space()
        edge = 1 + 2 * self.sight
        return gymnasium.spaces.Box(0, 100, (3, edge, edge), np.float32)


def upstream(size=8, players=2, foods=3, **ours):
    shape = (size, size) if isinstance(size, int) else size
    return Upstream(
        players=players,
        min_player_level=ours.get("min_player_level", 1),
        max_player_level=ours.get("max_player_level", 2),
        min_food_level=ours.get("min_food_level", 1),
        max_food_level=ours.get("max_food_level"),
        field_size=shape,
        max_num_food=foods,
        sight=ours.get("sight") or max(shape),
        max_episode_steps=ours.get("horizon", 50),
        force_coop=ours.get("coop", False),
        normalize_reward=ours.get("normalize_reward", True),
        grid_observation=ours.get("grid_observation", False),
        observe_agent_levels=ours.get("observe_agent_levels", True),
        penalty=ours.get("penalty", 0.0),
    )


CONFIGS = [
    {},
    {"size": 5, "foods": 1, "coop": True},
    {"size": 10, "players": 4, "foods": 4, "sight": 2},
    {"sight": 1, "players": 3, "penalty": 0.1, "horizon": 20},
    {"size": 6, "players": 3, "foods": 2, "grid_observation": True, "sight": 2},
    {"size": 5, "foods": 1, "grid_observation": True, "observe_agent_levels": False},
    {"observe_agent_levels": False, "sight": 3, "normalize_reward": False},
    {"players": 2, "foods": 2, "max_player_level": [1, 3], "max_food_level": [1, 2]},
    {"size": 12, "players": 4, "coop": True, "max_player_level": 3},
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_equals_lbforaging_bit_for_bit(config):
    env, rng, loads = foraging(**config), np.random.default_rng(0), 0
    for seed in range(12):
        other = upstream(**config)  # a new one each time: it remembers the last positions
        obs, _ = env.reset(seed=seed)
        other_obs, _ = other.reset(seed=seed)
        over = False
        while True:
            valid = [other._valid_actions[p] for p in other.players]
            for i, agent in enumerate(env.possible_agents):
                mine = obs[agent]["observation"]
                assert mine.dtype == np.float32
                assert mine.tobytes() == np.ascontiguousarray(other_obs[i]).tobytes()
                assert env.observation_space(agent).contains(obs[agent])
                assert obs[agent]["action_mask"].tolist() == [int(a in valid[i]) for a in Action]
            np.testing.assert_array_equal(
                env.state(), np.concatenate([o.ravel() for o in other_obs])
            )
            if over:
                break
            act = [  # load where possible; now and then what is not allowed
                5 if Action.LOAD in valid[i] and rng.random() < 0.7 else int(rng.integers(6))
                for i in range(len(valid))
            ]
            obs, rewards, terminated, truncated, infos = env.step(
                dict(zip(env.agents, act, strict=True))
            )
            other_obs, other_rewards, over, _, _ = other.step(act)
            assert list(rewards.values()) == other_rewards
            loads += any(r > 0 for r in other_rewards)
            empty = over and not other.field.any()
            assert set(terminated.values()) == {empty}
            assert set(truncated.values()) == {over and not empty}
            assert all(
                info == ({"success": float(empty)} if over else {}) for info in infos.values()
            )
        assert not env.agents
    assert loads or config.get("size") == 12  # otherwise no reward was compared


def test_a_used_environment_starts_as_a_new_one():
    """lbforaging keeps the last positions, which block cells for players not yet placed."""
    used = foraging(5, 4, 1)
    for seed in range(40):
        obs, _ = used.reset(seed=seed)
        new, _ = foraging(5, 4, 1).reset(seed=seed)
        for agent in obs:
            np.testing.assert_array_equal(obs[agent]["observation"], new[agent]["observation"])


def test_all_food_terminates_with_success_and_reward_one():
    env = foraging(3, 1, 1, max_food_level=1, horizon=30)
    obs, _ = env.reset(seed=0)
    total = 0.0
    while env.agents:
        y, x, _, row, col, _ = obs["player_0"]["observation"]
        act = 5 if obs["player_0"]["action_mask"][5] else (1 if row > y else 2)
        if act != 5 and (row == y or not obs["player_0"]["action_mask"][act]):
            act = 3 if col > x else 4
        obs, rewards, terminated, truncated, infos = env.step({"player_0": act})
        total += rewards["player_0"]
    assert (total, terminated, truncated) == (1.0, {"player_0": True}, {"player_0": False})
    assert infos == {"player_0": {"success": 1.0}}


def test_time_limit_truncates_without_success():
    env = foraging(horizon=3)
    env.reset(seed=0)
    for _ in range(3):
        _, _, terminated, truncated, infos = env.step(dict.fromkeys(env.agents, 0))
    assert not any(terminated.values())
    assert all(truncated.values())
    assert infos["player_1"] == {"success": 0.0}


def registered(grid, monkeypatch):
    import lbforaging

    if not grid:
        found = {n: s.kwargs for n, s in gymnasium.registry.items() if n.startswith("Foraging")}
        return {name: kwargs for name, kwargs in found.items() if "-grid" not in name}
    found = {}  # really registering these 11,520 takes a quarter of a minute
    monkeypatch.setattr(
        lbforaging, "register", lambda **stated: found.update({stated["id"]: stated["kwargs"]})
    )
    lbforaging.register_grid_envs()
    return found


@pytest.mark.parametrize(("grid", "count"), [(False, 1920), (True, 11520)])
def test_every_registered_id_means_the_same_game(grid, count, monkeypatch):
    names = registered(grid, monkeypatch)
    assert len(names) == count
    for name, stated in names.items():
        found = _arguments(name)
        rows, cols = found["size"]
        assert {
            "players": found["players"],
            "min_player_level": 1,
            "max_player_level": 2,
            "field_size": (rows, cols),
            "min_food_level": 1,
            "max_food_level": found["max_food_level"],
            "max_num_food": found["foods"],
            "sight": found["sight"] or rows,
            "max_episode_steps": 50,
            "force_coop": found["coop"],
            "grid_observation": found["grid_observation"],
            **({} if grid else {"penalty": found["penalty"]}),
        } == stated, name


def test_ids_that_are_commented_out_upstream():
    found = _arguments("Foraging-2s-8x8-2p-3f-coop-ind-pen-v3")
    assert (found["max_food_level"], found["penalty"], found["sight"]) == (1, 0.1, 2)


def test_from_id_takes_overrides():
    env = foraging_from_id("Foraging-5x5-2p-1f-coop-v3", horizon=7)
    assert spec_of(env).horizon == 7
    assert env.engine.force_coop
    assert env.engine.field.shape == (5, 5)


@pytest.mark.parametrize(
    "name", ["Foraging-5x5-v3", "foraging-5x5-2p-1f-v3", "Foraging-0s-5x5-2p-1f-v3"]
)
def test_refuses_other_ids(name):
    with pytest.raises(ValueError, match=r"foraging_from_id\.id must be like"):
        foraging_from_id(name)


@pytest.mark.parametrize(
    "config", [{}, {"size": (4, 7), "sight": 2}, {"size": 5, "foods": 1, "grid_observation": True}]
)
def test_contract(config):
    check_env(lambda: foraging(horizon=12, **config), episodes=2)


def test_spec():
    spec = spec_of(foraging())
    assert (spec.obs_size, spec.num_actions, spec.horizon) == (15, 6, 50)
    assert (spec.team_reward, spec.state_layout, spec.metrics) == (
        "sum",
        "concatenated",
        ("success",),
    )


def placed(*cells, **config):
    """Return a field without food nearby and players in these cells."""
    env = foraging(6, len(cells), 1, **config)
    env.reset(seed=0)
    env.engine.field[:] = 0
    env.engine.field[5, 5] = 1
    for player, cell in zip(env.engine.players, cells, strict=True):
        player.position = cell
    env.engine._gen_valid_moves()
    return env


@pytest.mark.parametrize("share", [False, True])
def test_contested_cells(share):
    """Of those who claim (2, 2) the first moves in, or nobody does; occupied cells alike."""
    none, north, south, west, east = range(5)
    cases = [
        ([(2, 1), (2, 3), (1, 2)], [east, west, south], [(2, 2), (2, 3), (1, 2)]),
        ([(2, 2), (2, 1), (4, 4)], [none, east, north], [(2, 2), (2, 2), (3, 4)]),
        ([(2, 1), (2, 2), (0, 0)], [east, west, north], [(2, 2), (2, 1), (0, 0)]),
    ]
    upstream = [
        [(2, 1), (2, 3), (1, 2)],
        [(2, 2), (2, 1), (3, 4)],
        [(2, 2), (2, 1), (0, 0)],
    ]
    for (cells, actions, after), without in zip(cases, upstream, strict=True):
        env = placed(*cells, share_cells=share)
        env.step({f"player_{i}": action for i, action in enumerate(actions)})
        found = [tuple(player.position) for player in env.engine.players]
        assert found == (after if share else without)


def test_the_mask_tells_of_food_and_walls_and_not_of_players():
    env = placed((4, 5), (3, 5), (0, 0))  # food is south of the first
    _, _, south, west, east, load = range(6)
    first, second, third = env.engine.mask.astype(bool)
    assert first.tolist() == [True, True, False, True, False, True]  # north stands the second
    assert second[[south, west]].all()
    assert not second[[east, load]].any()
    assert third.tolist() == [True, False, True, False, True, False]


def test_players_that_share_a_cell_still_load_together():
    env = placed((4, 5), (4, 5), coop=True, share_cells=True)
    env.engine.field[5, 5] = sum(player.level for player in env.engine.players)
    _, rewards, terminated, *_ = env.step({"player_0": 5, "player_1": 5})
    assert sum(rewards.values()) > 0.0
    assert all(terminated.values())


def test_the_task_of_eir_mappo():
    """12x12-4p-3f-c: levels of 1 to 3, food of three players together, success 1."""

    def make():
        return foraging(12, 4, 3, coop=True, max_player_level=3, share_cells=True)

    assert spec_of(make()).obs_sizes == (3 * 3 + 3 * 4,) * 4
    check_env(make, episodes=2)


def test_without_a_mask_it_is_the_same_game():
    """Actions at random: what a mask forbids does nothing in either."""
    masked, bare = (foraging(5, 2, 1, coop=True, horizon=30, mask=mask) for mask in (True, False))
    draws = np.random.default_rng(0)
    for seed in range(5):
        (seen, _), (told, _) = masked.reset(seed=seed), bare.reset(seed=seed)
        while bare.agents:
            assert all((seen[agent]["observation"] == told[agent]).all() for agent in bare.agents)
            assert all(told[agent] in bare.observation_space(agent) for agent in bare.agents)
            actions = {agent: int(draws.integers(6)) for agent in bare.agents}
            (seen, *ours), (told, *theirs) = masked.step(actions), bare.step(actions)
            assert ours == theirs
        assert not masked.agents
    check_env(lambda: foraging(5, 2, 1, mask=False), episodes=2)


def test_render_needs_no_display_and_shows_everything():
    env = foraging(6, 2, 2, render_mode="rgb_array")
    env.reset(seed=1)
    picture = env.render()
    assert picture.shape == (96, 96, 3)
    assert picture.dtype == np.uint8
    for row, col in np.argwhere(env.engine.field):
        red, _, blue = picture[row * 16 + 8, col * 16 + 8]
        assert red >= 100 > blue
    for player in env.engine.players:
        row, col = player.position
        red, _, blue = picture[row * 16 + 8, col * 16 + 8]
        assert blue >= 100 > red
    with pytest.raises(ValueError, match=r"foraging\.render_mode must be 'rgb_array' to render"):
        foraging().render()


@pytest.mark.parametrize(
    ("config", "error", "text"),
    [
        ({"size": 2}, ValueError, r"foraging\.size must be an int >= 3, got 2\."),
        ({"size": 5.0}, TypeError, r"foraging\.size must be an int, or 2 of them, got 5\.0\."),
        ({"size": (5, 5, 5)}, ValueError, r"foraging\.size must be an int, or 2 of them"),
        ({"players": 0}, ValueError, r"foraging\.players must be an int in \[1, 63\]"),
        ({"foods": 1.5}, TypeError, r"foraging\.foods must be an int"),
        ({"sight": 0}, ValueError, r"foraging\.sight must be an int >= 1"),
        ({"penalty": -1.0}, ValueError, r"foraging\.penalty must be a number >= 0"),
        ({"render_mode": "human"}, ValueError, r"foraging\.render_mode must be one of"),
        ({"max_player_level": [1]}, ValueError, r"max_player_level must be an int, or 2 of them"),
        (
            {"min_food_level": 3, "max_food_level": 2},
            ValueError,
            r"max_food_level must be at least",
        ),
        # two players of level 1 or 2, who may both be of level 1
        ({"min_food_level": 3}, ValueError, r"min_food_level must be at most 2 without max_food"),
        ({"min_food_level": [1, 1, 9]}, ValueError, r"min_food_level must be at most 2 without"),
    ],
)
def test_refuses(config, error, text):
    with pytest.raises(error, match=text):
        foraging(**config)


@pytest.mark.parametrize(
    "levels",
    [
        {"players": 4, "min_food_level": 3},
        {"players": 4, "min_player_level": [2, 1, 2, 1], "min_food_level": [4, 1, 1]},
        {"min_food_level": 9, "coop": True},  # which makes all food as strong as it can be
        {"min_food_level": 9, "max_food_level": 9},
    ],
)
def test_the_strongest_weakest_food_that_all_players_can_load(levels):
    env = foraging(**levels)
    for seed in range(30):
        env.reset(seed=seed)
        assert env.engine.field.any()


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize(
    ("bad", "error", "text"),
    [
        (-1, ValueError, r"must be an index below 6, got -1"),
        (6, ValueError, r"must be an index below 6, got 6"),
        (1.9, TypeError, r"must be an int, got 1\.9"),
        ("3", TypeError, r"must be an int, got '3'"),
    ],
)
def test_bad_actions_are_refused_before_anybody_moves(bad, error, text, share):
    env = placed((4, 2), (2, 2), share_cells=share)
    with pytest.raises(error, match=r"step\.actions\['player_1'\] " + text):
        env.step({"player_0": 1, "player_1": bad})
    assert env.engine.players[0].position == (4, 2)
    assert env.engine.current_step == 0
    env.step({"player_0": np.int64(1), "player_1": np.uint8(0)})
    assert env.engine.players[0].position == (3, 2)


def test_missing_action():
    env = foraging()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"step\.actions must be one per living agent"):
        env.step({"player_0": 0})
