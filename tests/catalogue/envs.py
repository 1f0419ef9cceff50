"""Environments and their engines."""

import math
import tempfile

import numpy as np
from catalogue.kinds import (
    Domain,
    Made,
    Pair,
    Subject,
    briefly,
    choice,
    device,
    flag,
    function,
    instance,
    integer,
    number,
    seed,
    text,
)
from envs.smac_double import Game
from learners import Arena

from robustmarl.envs import (
    MatrixGame,
    SignalMatching,
    TwoStepGame,
    climbing,
    foraging,
    foraging_from_id,
    formation,
    gather,
    predator_prey,
    spread,
    tag,
    tram_spread,
)
from robustmarl.envs.chase import ChaseEnv
from robustmarl.envs.lbf import ForagingParallelEnv
from robustmarl.envs.magent import (
    BattleRules,
    Charge,
    MagentEngine,
    MagentParallelEnv,
    PursuitRules,
    battle,
    pursuit,
)
from robustmarl.envs.magent import picture as magent_picture
from robustmarl.envs.merge import MergeEngine, MergeParallelEnv, Traffic, merge
from robustmarl.envs.mpe import MPEParallelEnv, SpreadEnv
from robustmarl.envs.particles import ParticleEngine, ParticleEnv
from robustmarl.envs.skirmish import (
    PaddedSkirmish,
    SkirmishEngine,
    SkirmishMap,
    SkirmishParallelEnv,
    UnitType,
    picture,
    save_replay,
    skirmish,
)
from robustmarl.envs.skirmish.maps import map_of
from robustmarl.envs.smac import SmacParallelEnv
from robustmarl.envs.toy import ToyEngine, ToyGame

FOLDER = tempfile.TemporaryDirectory()

MODE = Domain((), ("ansi", 3, True))
FIGURE = Domain(("1", True, None), (math.nan, math.inf, -1.0, 1e9), (Pair(np.float64(0.5), 0.5),))
POSITIVE = FIGURE | Domain((), (0.0,))
PARTICLES = {
    "agents": integer(2),
    "grid": flag(),
    "horizon": integer(4),
    "render_mode": MODE,
}
BATTLE = {"difficulty": choice(), "illegal": choice(), "reward": choice()}
MAGENT = {"horizon": integer(4), "minimap": flag(), "extra_features": flag()}
FIGHT = MAGENT | {
    "map_size": integer(13, 12),
    "jitter": flag(),
    "step_reward": number(),
    "attack_penalty": number(),
    "attack_opponent_reward": number(),
    "dead_penalty": number(),
}
HUNT = MAGENT | {
    "map_size": integer(9, 7),
    "predators": integer(2, high=9, optional=True),
    "prey": integer(2, high=59, optional=True),
    "tag_penalty": number(),
    "prey_penalty": number(),
}
DRIVERS = {
    "cavs": integer(2, high=12),
    "hdvs": Domain(
        ("1", 3, None, (1, "2"), (1.5, 2)),
        ((), (1,), (2, 1), (-1, 2), (1, 99)),
        (Pair([1, 2], (1, 2)), Pair(np.array([1, 2]), (1, 2))),
    ),
    "horizon": integer(4),
}
SHOWN = {"image": flag(), "render_mode": MODE}
GAME = Domain((3, None, ["3m"]), ("4m",))
ARMY = Domain(
    (3, None, "marine", (("marine", "3"),), ((3, 3),)),
    ((), (("knight", 3),), (("marine", 0),), (("marine", 100_000),), ("marine", 3)),
    (Pair([["marine", 3]], (("marine", 3),)), Pair((("marine", np.int64(3)),), (("marine", 3),))),
)
PLACE = Domain(
    (3, None, "ab", ("a", "b")),
    ((9.0,), (99.0, 16.0), (math.nan, 16.0)),
    (Pair([9.0, 16.0], (9.0, 16.0)),),
)
CELLS = Domain((3, None, "ab", (2.5, 2.5)), ((32,),), ())
INDEX = Domain((1.5, "0", None), (9, -1), (Pair(np.int64(1), 1),))
LEVELS = Domain(
    ("1", 1.5, True, ("1", 2)),
    (0, (1,), (0, 1)),
    (Pair(np.int64(1), 1), Pair([1, 1], (1, 1)), Pair(np.array([1, 1]), (1, 1))),
)


def raw():
    """Return an mpe2 environment, not wrapped."""
    from mpe2 import simple_spread_v3

    return simple_spread_v3.raw_env(N=2)


def played(env):
    """Return a first step of ``env``, in which all agents but those told do nothing."""

    def step(**actions):
        env.reset(seed=0)
        idle = {agent: 0 * env.action_space(agent).sample() for agent in env.agents}
        return env.step(idle | actions)

    return step


def seeded(env):
    """Return the observations after a reset."""
    return lambda seed: env.reset(seed=seed)[0]


def frames():
    return [np.zeros((4, 4, 3), np.uint8)] * 2


SUBJECTS = (
    Subject(
        MatrixGame,
        lambda: {"payoff": [[1.0, 0.0], [0.0, 1.0]]},
        {
            "payoff": Domain(
                ("high", [["a", "b"], ["c", "d"]], {"a": 1}, [[1.0, 2.0], [3.0]]),
                (3.0, [], None, [[math.nan, 0.0]]),
                (
                    Pair(((1, 0), (0, 1)), [[1, 0], [0, 1]]),
                    Pair(np.eye(2), [[1.0, 0.0], [0.0, 1.0]]),
                ),
            ),
            "steps": integer(2),
            "name": text(),
        },
    ),
    Subject(climbing, dict, {"steps": integer(2)}),
    Subject(TwoStepGame, dict, {}),
    Subject(
        SignalMatching,
        dict,
        {"agents": integer(3), "noise": number(0.5, 0.0), "horizon": integer(4)},
    ),
    Subject(ToyGame, dict, {"horizon": integer(4), "memoryless": flag(), "dynamics": choice()}),
    Subject(
        ToyEngine,
        dict,
        {
            "num_envs": integer(2),
            "horizon": integer(4),
            "memoryless": flag(),
            "dynamics": choice(),
        },
    ),
    *(
        Subject(
            seeded(env), lambda: {"seed": 1}, {"seed": briefly({"": seed()})[""]}, "reset", kind
        )
        for env, kind in (
            (TwoStepGame(), TwoStepGame),
            (ToyGame(), ToyGame),
            (skirmish("3m"), SkirmishParallelEnv),
            (spread(2), SpreadEnv),
            (gather(agents=2), ParticleEnv),
            (foraging(5, 2, 1), ForagingParallelEnv),
            (battle(12), MagentParallelEnv),
            (merge(), MergeParallelEnv),
        )
    ),
    *(
        Subject(
            played(env),
            dict,
            {"agent_0": actions},
            "step.actions",
            covers=type(env),
        )
        for env, actions in (
            (TwoStepGame(), INDEX),
            (ToyGame(), INDEX),
            (spread(2), INDEX),
            (gather(agents=2), INDEX),
            (
                spread(2, continuous_actions=True),
                Domain((), ("up", None, [0.0], [math.nan] * 5, [0.0, math.inf, 0.0, 0.0, 0.0])),
            ),
        )
    ),
    Subject(
        played(battle(12)),
        dict,
        {"red_0": Domain((1.5, "0", None), (21, -1), (Pair(np.int64(1), 1),))},
        "step.actions",
        covers=MagentParallelEnv,
    ),
    Subject(Traffic, dict, DRIVERS),
    Subject(merge, dict, briefly(DRIVERS) | {"render_mode": MODE}),
    Subject(
        MergeEngine,
        lambda: {"traffic": Traffic()},
        {"traffic": instance(Traffic), "num_envs": integer(2)},
    ),
    Subject(
        MergeParallelEnv,
        lambda: {"traffic": Traffic()},
        {"traffic": instance(Traffic), "render_mode": MODE},
    ),
    Subject(BattleRules, lambda: {"map_size": 12}, FIGHT),
    Subject(PursuitRules, lambda: {"map_size": 14}, HUNT),
    Subject(battle, lambda: {"map_size": 12}, briefly(FIGHT) | SHOWN),
    Subject(pursuit, lambda: {"map_size": 14}, briefly(HUNT) | SHOWN),
    Subject(
        MagentParallelEnv,
        lambda: {"rules": BattleRules(map_size=12)},
        SHOWN,
    ),
    Subject(
        MagentEngine,
        lambda: {"rules": BattleRules(map_size=12)},
        {"rules": instance(BattleRules), "num_envs": integer(2)},
    ),
    Subject(
        magent_picture,
        lambda: {"engine": MagentEngine(BattleRules(map_size=12))},
        {"engine": instance(), "env": Domain((1.5, "0", True), (1, -1), (Pair(np.int64(0), 0),))},
    ),
    Subject(
        Charge,
        lambda: {"team": "red"},
        {"team": choice(), "random": number(0.5, 0.0, 1.0)},
    ),
    *(
        Subject(
            maker,
            lambda: {"agents": 2},
            PARTICLES if maker is tram_spread else briefly(PARTICLES),
        )
        for maker in (tram_spread, gather, formation)
    ),
    Subject(
        ParticleEngine,
        lambda: {"env": gather(agents=2)},
        {"env": instance(ParticleEnv, Made(Arena, "Arena")), "num_envs": integer(2)},
    ),
    Subject(
        spread,
        lambda: {"agents": 2},
        {
            "agents": integer(2),
            "local_ratio": number(0.5, 0.0, 1.0),
            "max_cycles": integer(4),
            "continuous_actions": flag(),
            "render_mode": MODE,
        },
    ),
    *(
        Subject(
            maker,
            lambda: {"predators": 2},
            {
                "predators": integer(2),
                "prey": integer(2),
                "obstacles": integer(2, 0),
                horizon: integer(4),
                "continuous_actions": flag(),
                "render_mode": MODE,
            }
            | more,
        )
        for maker, horizon, more in (
            (tag, "max_cycles", {}),
            (
                predator_prey,
                "horizon",
                {
                    "sight": number(0.5, 0.0, open_low=True, optional=True),
                    "prey_accel": number(0.5, 0.0),
                },
            ),
        )
    ),
    Subject(
        ChaseEnv,
        lambda: {"raw": raw(), "name": "chase"},
        {"raw": instance(Made(Arena, "Arena")), "name": text(), "rules": choice(optional=True)},
    ),
    Subject(
        MPEParallelEnv,
        lambda: {"raw": raw(), "name": "spread"},
        {"raw": instance(Made(Arena, "Arena")), "name": text(), "team_reward": choice()},
    ),
    Subject(SpreadEnv, lambda: {"raw": raw()}, {"raw": instance(Made(Arena, "Arena"))}),
    Subject(
        foraging,
        lambda: {"size": 5, "players": 2, "foods": 2},
        {
            "size": Domain(
                ("5", 2.5, None, True, ("5", 5)),
                (2, (5,), (5, 2)),
                (Pair([5, 5], (5, 5)), Pair(np.int64(5), 5), Pair(np.array([5, 5]), (5, 5))),
            ),
            "players": integer(2),
            "foods": integer(2),
            "coop": flag(),
            "sight": integer(2, optional=True),
            "max_player_level": LEVELS,
            "max_food_level": LEVELS,
            "min_player_level": LEVELS,
            "min_food_level": LEVELS,
            "penalty": number(0.5, 0.0),
            "horizon": integer(4),
            "normalize_reward": flag(),
            "grid_observation": flag(),
            "observe_agent_levels": flag(),
            "share_cells": flag(),
            "mask": flag(),
            "render_mode": MODE,
        },
    ),
    Subject(
        foraging_from_id,
        lambda: {"id": "Foraging-5x5-2p-1f-v3"},
        {"id": Domain((3, None, ["Foraging-5x5-2p-1f-v3"]), ("Foraging", "8x8"))},
    ),
    Subject(
        skirmish,
        lambda: {"map": "3m"},
        {"map": GAME, "render_mode": MODE} | BATTLE,
    ),
    Subject(
        SkirmishEngine,
        lambda: {"game": "3m"},
        {
            "game": GAME,
            "num_envs": integer(2),
            "device": device(),
            "backend": choice(optional=True),
        }
        | BATTLE,
    ),
    Subject(
        PaddedSkirmish,
        lambda: {"game": "2m_vs_1z", "like": "3s_vs_3z"},
        {"game": GAME, "like": GAME},
    ),
    Subject(map_of, lambda: {"game": "3m"}, {"game": GAME}),
    Subject(
        SkirmishMap,
        lambda: {
            "name": "duel",
            "allies": (("marine", 3),),
            "enemies": (("marine", 3),),
            "limit": 60,
        },
        {
            "name": text(),
            "allies": ARMY,
            "enemies": ARMY,
            "limit": integer(9),
            "enemy_types": Domain((3, "marine"), (("zealot",),)),
            "size": CELLS,
            "playable": CELLS,
            "ally_start": PLACE,
            "enemy_start": PLACE,
        },
    ),
    Subject(
        UnitType,
        lambda: {"name": "knight", "health": 10.0},
        {
            "name": text(),
            "health": POSITIVE,
            "cooldown": POSITIVE,
            "radius": POSITIVE,
            "shield": FIGURE,
            "damage": FIGURE,
            "range": FIGURE,
            "speed": FIGURE,
            "attacks": integer(2),
            "attribute": choice(optional=True),
            "bonus_against": choice(optional=True),
            "flying": flag(),
            "hits_air": flag(),
            "spent": flag(),
            "sc2_id": integer(2, 0),
        },
    ),
    Subject(
        picture,
        lambda: {"engine": SkirmishEngine("3m")},
        {"engine": instance(), "env": Domain((1.5, "0", True), (1, -1), (Pair(np.int64(0), 0),))},
    ),
    Subject(
        save_replay,
        lambda: {"path": f"{FOLDER.name}/replay.gif", "frames": frames()},
        {
            "path": Domain((3, None), ("replay.avi", "/dev/null/replay.gif")),
            "frames": Domain((3, None, ["picture"]), ([],)),
            "fps": number(0.5, 0.0, open_low=True),
        },
    ),
    Subject(
        SmacParallelEnv,
        lambda: {"make_game": lambda seed: Game([], seed)},
        {"make_game": function(), "dead": choice(), "illegal": choice(), "render_mode": MODE},
        "smac",
    ),
)
