"""Learning, data and environments' engines: what makes and keeps episodes."""

import torch
from catalogue.kinds import (
    Domain,
    Made,
    Pair,
    Subject,
    choice,
    device,
    flag,
    function,
    instance,
    integer,
    number,
    seed,
    tensor,
    widths,
)
from catalogue.things import ATTACK, BALL, SPEC, game, vdn, victim
from learners import Arena
from tianshou.algorithm.algorithm_base import Algorithm

from robustmarl._seeding import Draws
from robustmarl.adversaries.atsa import actor_objective, soft_targets, soft_value
from robustmarl.algorithms import VDN
from robustmarl.algorithms.action_gradients import gumbel_softmax
from robustmarl.algorithms.dop import tree_backup
from robustmarl.data import (
    EpisodeBuffer,
    JointCollector,
    PerturbedController,
    PolicyController,
    RandomController,
    ScriptedController,
    SlowCopy,
    as_controller,
)
from robustmarl.data.controllers import categorical
from robustmarl.envs.vector import JointVectorEnv, vector_env
from robustmarl.learning import adam
from robustmarl.learning.base import build_network, team_spec
from robustmarl.learning.beliefs import BeliefLearner
from robustmarl.learning.optim import check_factory
from robustmarl.learning.returns import (
    gae,
    masked_mean,
    n_step_returns,
    normalize,
    ppo_surrogate,
    standardize,
    td_lambda_returns,
)
from robustmarl.learning.settings import check_settings
from robustmarl.learning.values import state_critic
from robustmarl.networks import BeliefNetwork

BELIEF = BeliefNetwork(SPEC, hidden=(4,), memory=4)
MASK = torch.ones(2, 3, dtype=torch.bool)
SHARES = {"gamma": number(0.5, 0.0, 1.0), "lam": number(0.5, 0.0, 1.0)}
OVER_TIME = {"reward": tensor(), "bootstrap": tensor((2, 4)), "going_on": tensor((2, 4))}


def episodes():
    """Return what returns are computed of: two episodes of three steps."""
    return {
        "reward": torch.ones(2, 3),
        "bootstrap": torch.ones(2, 3),
        "going_on": torch.ones(2, 3),
        "gamma": 0.9,
    }


def soft():
    """Return what soft values are computed of: one episode, two steps, agents and actions."""
    return {
        "reward": torch.ones(1, 2),
        "q": torch.zeros(1, 2),
        "logp": torch.zeros(1, 2, 2),
        "entropy": torch.zeros(1, 2, 2),
        "bootstrap": torch.ones(1, 2),
        "going_on": torch.ones(1, 2),
        "gamma": 0.9,
        "lam": 0.5,
        "alpha": 0.1,
    }


SUBJECTS = (
    Subject(
        adam,
        lambda: {"lr": 1e-3},
        {"lr": number(0.5, 0.0, open_low=True), "eps": number(0.5, 0.0, open_low=True)},
    ),
    Subject(
        lambda factory: check_factory("check_factory.factory", factory),
        lambda: {"factory": adam(1e-3)},
        {"factory": instance(torch.optim.Adam)},
        "check_factory",
        check_factory,
    ),
    Subject(
        lambda **given: check_settings(VDN, given),
        lambda: {"gamma": 0.9},
        {"optim": instance(torch.optim.Adam, optional=True)},
        "VDN",
        check_settings,
    ),
    Subject(
        lambda **settings: build_network(SPEC, settings),
        lambda: {"hidden": (4,)},
        {"shared": flag(), "hidden": widths()},
        "build_network",
        build_network,
    ),
    Subject(
        lambda **given: team_spec("team_spec", **given),
        lambda: {"env": SPEC},
        {"env": instance(Arena), "team": Domain((), ("nobody", 3))},
        "team_spec",
        team_spec,
    ),
    Subject(
        BeliefLearner,
        lambda: {
            "belief": BELIEF,
            "optim": Algorithm.Optimizer(torch.optim.SGD(BELIEF.parameters(), 0.1), BELIEF),
        },
        {
            "belief": instance(),
            "optim": instance(adam(1e-3)),
            "epochs": integer(2),
            "minibatches": integer(2),
            "chunk": integer(2, optional=True),
        },
    ),
    Subject(
        tree_backup,
        lambda: (
            episodes()
            | {
                "taken": torch.zeros(2, 3),
                "expected": torch.zeros(2, 3),
                "probability": torch.full((2, 3), 0.5),
                "lam": 0.9,
                "steps": 2,
            }
        ),
        OVER_TIME
        | SHARES
        | {
            "taken": tensor((2, 4)),
            "expected": tensor((2, 4)),
            "probability": tensor((2, 4)),
            "steps": integer(2),
        },
    ),
    Subject(
        lambda **given: state_critic(SPEC, hidden=(4,), **given),
        lambda: {"reward": "team"},
        {"reward": choice()},
        "state_critic",
        state_critic,
    ),
    *(
        Subject(
            mean,
            lambda: {"x": torch.ones(2, 3), "mask": MASK},
            {"x": tensor(), "mask": tensor((2, 4))},
        )
        for mean in (masked_mean, normalize, standardize)
    ),
    Subject(
        gae,
        lambda: episodes() | {"value": torch.zeros(2, 4), "lam": 0.9},
        OVER_TIME | SHARES | {"value": tensor((2, 3))},
    ),
    Subject(
        td_lambda_returns,
        lambda: episodes() | {"next_value": torch.zeros(2, 3), "lam": 0.9},
        OVER_TIME | SHARES | {"next_value": tensor((2, 4))},
    ),
    Subject(
        n_step_returns,
        lambda: episodes() | {"next_value": torch.zeros(2, 3), "steps": 2},
        OVER_TIME | {"gamma": SHARES["gamma"], "next_value": tensor((2, 4)), "steps": integer(2)},
    ),
    Subject(
        ppo_surrogate,
        lambda: {
            "logp": torch.zeros(2, 3),
            "logp_old": torch.zeros(2, 3),
            "advantage": torch.ones(2, 3),
            "clip": 0.2,
        },
        {
            "logp": tensor(),
            "logp_old": tensor((2, 4)),
            "advantage": tensor((2, 4)),
            "clip": number(0.5, 0.0, open_low=True),
        },
    ),
    Subject(
        gumbel_softmax,
        lambda: {
            "logits": torch.zeros(2, 3),
            "temperature": 1.0,
            "generator": torch.Generator().manual_seed(0),
        },
        {
            "logits": tensor(),
            "temperature": number(0.5, 0.0, open_low=True),
            "generator": instance(),
        },
    ),
    Subject(
        categorical,
        lambda: {"logits": torch.zeros(2, 3, 4), "draws": Draws(torch.arange(2))},
        {"logits": tensor(), "draws": instance()},
    ),
    Subject(
        EpisodeBuffer,
        lambda: {"spec": SPEC, "episodes": 4},
        {
            "spec": instance(Arena),
            "episodes": integer(4) | Domain((), (10**12,)),
            "steps": integer(2, optional=True),
            "max_bytes": integer(2**20, optional=True) | Domain((), (99,)),
            "grows": flag(),
            "device": device(),
            "seed": seed(),
        },
    ),
    Subject(
        JointCollector,
        lambda: {"policy": vdn(), "env": JointVectorEnv(Arena, 1)},
        {
            "policy": Domain((3, None, "random")),
            "env": instance(Arena, Made(Arena, "no engine")),
            "buffer": Domain((3, "buffer")),
            "team": Domain((), ("nobody", 3)),
            "opponents": Domain((3, "random"), ({"nobody": 3},)),
            "perturb": Domain((3, "noise", [BALL]), (), (Pair(ATTACK, (ATTACK,)),)),
            "seed": seed(),
            "segments": flag(),
        },
    ),
    Subject(
        PolicyController,
        lambda: {"victim": victim(), "spec": SPEC},
        {"victim": instance(), "spec": instance()},
    ),
    Subject(
        lambda policy: as_controller("as_controller.policy", policy, SPEC),
        lambda: {"policy": vdn()},
        {"policy": Domain((3, None, "random", object()))},
        "as_controller",
        as_controller,
    ),
    Subject(
        RandomController,
        lambda: {"spec": SPEC},
        {"spec": instance(), "device": device()},
    ),
    Subject(
        ScriptedController,
        lambda: {"spec": SPEC, "script": torch.zeros},
        {"spec": instance(), "script": function(), "device": device()},
    ),
    Subject(
        SlowCopy,
        lambda: {"learner": vdn()},
        {"learner": instance(victim()), "tau": number(0.5, 0.0, 1.0), "when": choice()},
    ),
    Subject(
        PerturbedController,
        lambda: {"policy": vdn(), "perturb": ATTACK},
        {"policy": instance(victim()), "perturb": Domain((3, "noise", BALL))},
    ),
    Subject(
        JointVectorEnv,
        lambda: {"make_env": game},
        {"make_env": function() | Domain((Made(game, "an environment"),)), "num_envs": integer(2)},
    ),
    Subject(
        vector_env,
        lambda: {"make_env": game, "num_envs": 2},
        {"make_env": function(), "num_envs": integer(2)},
    ),
    Subject(
        soft_targets,
        soft,
        {
            "reward": tensor(),
            **SHARES,
            "alpha": number(0.5, 0.0),
            "form": choice(),
        },
    ),
    Subject(
        soft_value,
        lambda: {
            "q": torch.zeros(2, 3),
            "mask": torch.ones(2, 3, dtype=torch.bool),
            "alpha": 0.1,
        },
        {"q": tensor(), "mask": tensor((2, 4)), "alpha": number(0.5, 0.0, open_low=True)},
    ),
    Subject(
        actor_objective,
        lambda: {
            "logp": torch.zeros(2, 3),
            "q": torch.zeros(2, 3),
            "mask": torch.ones(2, 3, dtype=torch.bool),
            "alpha": 0.1,
        },
        {"logp": tensor(), "q": tensor((2, 4)), "alpha": number(0.5, 0.0)},
    ),
)
