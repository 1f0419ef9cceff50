"""Balls, schedules, what describes a team, and victims."""

import math

import numpy as np
import torch
from catalogue.kinds import (
    Domain,
    Made,
    Pair,
    Subject,
    choice,
    flag,
    function,
    instance,
    integer,
    names,
    number,
    schedule,
)
from catalogue.things import SPEC, game, network, tianshou_policy, vdn

from robustmarl.budgets import LinfBall, check_coordinates
from robustmarl.joint import (
    Described,
    check_act,
    check_flags,
    check_parallel,
    check_seeds,
    describe,
    flagged,
    spec_of,
)
from robustmarl.schedules import Constant, Linear, Repetitive, as_schedule
from robustmarl.victims import (
    FunctionVictim,
    MembersVictim,
    NetworkVictim,
    PolicyVictim,
    as_victim,
)

BOUND = Domain(("1", True, None, 1j), (math.nan,), (Pair(np.float64(0.5), 0.5),))
FLAGS = Domain(
    (3, None, Made(lambda: torch.zeros(2), "float")),
    (Made(lambda: torch.zeros(3, dtype=torch.bool), "three"),),
)

SUBJECTS = (
    Subject(
        LinfBall,
        lambda: {"epsilon": 0.5, "low": -1.0, "high": 1.0},
        {
            "epsilon": BOUND
            | Domain(
                ({"a": 1}, ("1",), object(), [[0.1]]),
                ((), (0.1, -0.1), 1e300, -0.5, math.inf),
                (
                    Pair([0.5, 0.25], (0.5, 0.25)),
                    Pair(np.array([0.5, 0.25]), (0.5, 0.25)),
                    Pair(Made(lambda: torch.tensor([0.5, 0.25]), "tensor"), (0.5, 0.25)),
                ),
            ),
            "low": BOUND | Domain((), (2.0, ()), (Pair([-1.0, -1.0], (-1.0, -1.0)),)),
            "high": BOUND | Domain((), (), (Pair(np.float32(0.5), 0.5),)),
            "fixed": Domain(
                (True, "no", (1, 0), ("yes",)),
                ((),),
                (Pair([True, False], (True, False)), Pair(np.array([True, False]), (True, False))),
            ),
        },
    ),
    Subject(
        LinfBall(epsilon=0.5).with_epsilon,
        lambda: {"epsilon": 0.25},
        {"epsilon": BOUND},
        "LinfBall",
    ),
    Subject(
        lambda value: check_coordinates("check_coordinates.value", value, 0.0),
        lambda: {"value": 0.25},
        {"value": BOUND | Domain((), (-0.5, ()))},
        "check_coordinates",
        check_coordinates,
    ),
    Subject(
        Constant,
        lambda: {"value": 0.5},
        {"value": number(0.5), "unit": choice()},
    ),
    Subject(
        Linear,
        lambda: {"start": 1.0, "stop": 0.0, "over": 4},
        {
            "start": number(1.0),
            "stop": number(0.0),
            "over": integer(4),
            "begin": integer(2, 0),
            "unit": choice(),
        },
    ),
    Subject(
        Repetitive,
        lambda: {"peak": 1.0, "warmup": 2, "period": 4},
        {
            "peak": number(1.0, 0.0),
            "warmup": integer(2, 0),
            "period": integer(4),
            "loops": integer(2),
            "ramp": number(0.5, 0.0, 1.0, open_low=True),
            "unit": choice(),
        },
    ),
    Subject(
        lambda value: as_schedule("as_schedule.value", value, 0.0, 1.0),
        lambda: {"value": 0.5},
        {"value": schedule(0.0, 1.0)},
        "as_schedule",
        as_schedule,
    ),
    Subject(
        describe,
        lambda: {"env": game()},
        {
            "env": instance(),
            "team_reward": Domain((), ("max", 3, np.array(["sum", "mean"]))),
            "horizon": integer(9, optional=True),
            "teams": Domain(
                (3, ["agent_0"], {"red": "agent_0", "blue": "agent_1"}),
                ({"red": ["agent_0"]}, {"red": ["nobody"], "blue": ["agent_1"]}, {}),
                (
                    Pair(
                        {"red": ["agent_0"], "blue": ["agent_1"]},
                        {"red": ("agent_0",), "blue": ("agent_1",)},
                    ),
                ),
            ),
            "episode_metrics": Domain(
                ("won", 3, (3,)), (("won", "won"),), (Pair(["won"], ("won",)),)
            ),
        },
    ),
    Subject(
        Described,
        lambda: {"env": game(), "metadata": {"horizon": 3}},
        {"env": instance(), "metadata": instance()},
    ),
    Subject(spec_of, lambda: {"env": game()}, {"env": instance(game)}),
    Subject(
        lambda env: check_parallel("check_parallel.env", env),
        lambda: {"env": game()},
        {"env": instance(game)},
        "check_parallel",
        check_parallel,
    ),
    Subject(
        SPEC.of_team,
        lambda: {"team": None},
        {"team": Domain((), ("nobody", 3))},
        "TeamSpec",
        type(SPEC),
    ),
    Subject(
        lambda flags: check_flags("check_flags.flags", flags, 2),
        lambda: {"flags": torch.ones(2, dtype=torch.bool)},
        {"flags": FLAGS},
        "check_flags",
        check_flags,
    ),
    Subject(
        lambda flags: flagged("flagged.flags", flags, 2),
        lambda: {"flags": torch.ones(2, dtype=torch.bool)},
        {"flags": FLAGS},
        "flagged",
        flagged,
    ),
    Subject(
        lambda seeds: check_seeds("check_seeds.seeds", seeds, 2),
        lambda: {"seeds": torch.arange(2)},
        {
            "seeds": Domain(
                (3, None, Made(lambda: torch.zeros(2), "float")),
                (Made(lambda: torch.arange(3), "three"),),
            )
        },
        "check_seeds",
        check_seeds,
    ),
    Subject(
        lambda act: check_act("check_act.act", act, SPEC, 1),
        lambda: {"act": torch.zeros(1, SPEC.num_agents, dtype=torch.int64)},
        {
            "act": Domain(
                (3, None, Made(lambda: torch.zeros(1, SPEC.num_agents), "float")),
                (Made(lambda: torch.zeros(1, 1 + SPEC.num_agents, dtype=torch.int64), "more"),),
            )
        },
        "check_act",
        check_act,
    ),
    Subject(
        FunctionVictim,
        lambda: {"function": torch.nn.Linear(3, 4)},
        {"function": function(), "continuous": flag(), "device": Domain((3.5,), ("cud",))},
    ),
    Subject(
        MembersVictim,
        lambda: {"policies": {"a": tianshou_policy()}},
        {"policies": Domain((3, None, [1]), ({},))},
    ),
    Subject(
        NetworkVictim,
        lambda: {"network": network(), "continuous": False},
        {
            "network": instance(),
            "continuous": flag(),
            "agents": names("a", "b", "c"),
            "side": function(optional=True),
            "acting_only": flag(),
        },
    ),
    Subject(PolicyVictim, lambda: {"policy": tianshou_policy()}, {"policy": instance()}),
    Subject(
        lambda victim: as_victim("as_victim.victim", victim),
        lambda: {"victim": vdn()},
        {"victim": Domain((3, None, object()))},
        "as_victim",
        as_victim,
    ),
)
