"""Algorithms, adversaries and training of both."""

import torch
from catalogue.kinds import (
    Domain,
    Made,
    Subject,
    briefly,
    choice,
    device,
    flag,
    instance,
    integer,
    names,
    number,
    schedule,
    seed,
    widths,
)
from catalogue.things import (
    ATTACK,
    BALL,
    BOXES,
    NAMES,
    SPEC,
    game,
    mappo,
    network,
    noise,
    q_policy,
    tianshou_policy,
    traitor,
    two_teams,
    vdn,
)
from learners import Arena

from robustmarl.adversaries import (
    ATSA,
    PAAD,
    RAP,
    ROMANCE,
    ByzantineAttacker,
    ContinuousATSA,
    DirectionPAAD,
    ObsAdversaryPPO,
    Population,
    SharedByzantine,
    SharedObsAdversary,
    TeamPAAD,
)
from robustmarl.adversaries.archive import Archive
from robustmarl.adversaries.atsa import SoftCritic
from robustmarl.adversaries.base import check_adversaries
from robustmarl.adversaries.continuous_atsa import VectorCritic
from robustmarl.adversaries.squashed import SquashedDirector
from robustmarl.algorithms import (
    A2C,
    COMA,
    DOP,
    EARMAPPO,
    EIRMAPPO,
    FACMAC,
    IPPO,
    IQL,
    M3DDPG,
    MADDPG,
    MAPPO,
    MFAC,
    QMIX,
    QPLEX,
    RMAAC,
    VDN,
    OwnActionValues,
    RoMFAC,
    TrueTypeMAPPO,
)
from robustmarl.algorithms.romfac import romfac_loss
from robustmarl.joint import spec_of
from robustmarl.learning import WorldModel
from robustmarl.networks import (
    ActionCritic,
    AgentNetwork,
    Critic,
    FactoredCritic,
    FOPMixer,
    JointCritic,
    QMIXMixer,
    VDNMixer,
    WeightedMixer,
)
from robustmarl.networks.squashed import SquashedNetwork
from robustmarl.perturbers import Attackers, DirectionActor, TypeDistribution, stor
from robustmarl.policies import ActorPolicy, ExploringPolicy, MeanFieldPolicy
from robustmarl.training import AdversarialTraining, attack_in_model


class Attackable(OwnActionValues, MAPPO):
    """A learner whose actions can be poisoned by their values."""


SHARE = number(0.5, 0.0, 1.0)
WEIGHT = number(0.5, 0.0)
POSITIVE = number(0.5, 0.0, open_low=True)
NORM = number(5.0, 0.0, open_low=True, optional=True)
OPTIM = instance(torch.optim.Adam, 1e-3, optional=True)
FRACTION = number(0.5, 0.0, 1.0, open_low=True)

MADE = {
    "env": instance(two_teams),
    "team": Domain((), ("nobody", 3)),
    "device": device(),
    "seed": seed(),
    "shared": flag(),
    "hidden": widths(),
    "recurrent": flag(),
    "agent_id": flag(),
    "last_action": flag(),
    "activation": choice(),
    "layer_norm": flag(),
    "output_gain": number(0.5, 0.0, open_low=True, optional=True),
    "columns": Domain((3, "012"), ((), (3,))),
    "conv": Domain((3, "551"), ((9, 9, 9),)),
}
BRIEFLY = {name: MADE[name] for name in ("seed", "shared", "hidden")}
EXPLORING = {"exploration": schedule(0.0, 1.0)}
Q_LEARNING = {
    "optim": OPTIM,
    "gamma": SHARE,
    "td_lambda": SHARE,
    "target_update": integer(2),
    "target_unit": choice(),
    "double_q": flag(),
    "reward": choice(),
    "max_grad_norm": NORM,
}
PPO = {
    "optim": OPTIM,
    "gamma": SHARE,
    "gae_lambda": SHARE,
    "clip": POSITIVE,
    "entropy_coef": WEIGHT,
    "value_coef": WEIGHT,
    "reward": choice(),
    "normalize_value": flag(),
    "huber_delta": number(0.5, 0.0, open_low=True, optional=True),
    "max_grad_norm": NORM,
    "deterministic_eval": flag(),
    "critic_hidden": widths(),
}
A2C_KEYS = {name: domain for name, domain in PPO.items() if name != "clip"}
ACTOR_CRITIC = {
    "optim": OPTIM,
    "critic_optim": OPTIM,
    "critic_hidden": widths(),
    "gamma": SHARE,
    "td_lambda": SHARE,
    "target_update": integer(2),
    "reward_scale": POSITIVE,
    "entropy_coef": WEIGHT,
    "max_grad_norm": NORM,
    "deterministic_eval": flag(),
}
BELIEVING = {
    "preset": choice(optional=True),
    "p": number(0.25, 0.0, 1.0, optional=True),
    "types": Domain((3, "all")),
    "teacher_forcing": schedule(0.0, 1.0),
    "hard_belief": flag(),
    "belief_reads": choice(),
    "belief_hidden": widths(),
    "belief_memory": integer(4),
    "belief_optim": OPTIM,
    "belief_epochs": integer(2),
    "belief_minibatches": integer(2),
    "belief_chunk": integer(2, optional=True),
    "sees_actions": flag(),
    "adversary_hidden": widths(),
    "adversary_optim": OPTIM,
    "adversary_epochs": integer(2),
    "adversary_clip": number(0.5, 0.0, open_low=True, optional=True),
    "adversary_entropy_coef": number(0.5, 0.0, optional=True),
    "victim_interval": integer(2),
}
RADIUS = schedule(0.0, optional=True)
WHO = {"agents": names(*NAMES)}
ATTACKING = {
    **WHO,
    "optim": OPTIM,
    "clip": POSITIVE,
    "entropy_coef": WEIGHT,
    "epochs": integer(2),
}
LEARNED = {"actor": instance(network()), "critic": instance(network())}
WHERE = {
    "env": instance(two_teams),
    "team": Domain((), ("nobody",)),
    "device": device(),
    "seed": seed(),
}


def for_env(kind, domains, **more):
    """Return the subject of ``kind.for_env``; what shares its checks with another is brief."""
    if kind not in (VDN, MAPPO, COMA):
        domains = briefly(domains)
    return Subject(kind.for_env, lambda: {"env": SPEC, "hidden": (4,), **more}, domains)


SUBJECTS = (
    for_env(VDN, MADE | EXPLORING | Q_LEARNING | {"reward": choice() | Domain((), ("agents",))}),
    for_env(IQL, BRIEFLY | Q_LEARNING),
    for_env(
        QMIX,
        {
            "embed": integer(4),
            "hyper_hidden": integer(4),
            "normalize_state": flag(),
            "init_gain": POSITIVE,
            "gamma": SHARE,
        },
    ),
    for_env(QPLEX, {"heads": integer(2), "hyper_hidden": integer(4), "normalize_state": flag()}),
    for_env(MAPPO, MADE | PPO),
    for_env(IPPO, BRIEFLY | PPO),
    for_env(A2C, BRIEFLY | A2C_KEYS),
    for_env(COMA, BRIEFLY | EXPLORING | ACTOR_CRITIC),
    for_env(
        DOP,
        BRIEFLY
        | EXPLORING
        | ACTOR_CRITIC
        | {
            "embed": integer(4),
            "tree_lambda": SHARE,
            "tree_steps": integer(2),
            "off_policy_weight": WEIGHT,
            "recent_episodes": integer(2),
            "critic_steps": integer(2),
        },
    ),
    for_env(
        MADDPG,
        BRIEFLY
        | EXPLORING
        | {
            "critic_hidden": widths(),
            "critic_input": choice(),
            "optim": OPTIM,
            "critic_optim": OPTIM,
            "gamma": SHARE,
            "n_step": integer(2),
            "tau": FRACTION,
            "temperature": POSITIVE,
            "output_coef": WEIGHT,
            "max_grad_norm": NORM,
            "deterministic_eval": flag(),
        },
    ),
    for_env(M3DDPG, {"epsilon": WEIGHT}),
    for_env(
        FACMAC,
        {
            "seed": seed(),
            "critic_hidden": widths(),
            "embed": integer(4),
            "hyper_hidden": integer(4),
            "normalize_state": flag(),
            "init_gain": POSITIVE,
            "gamma": SHARE,
            "n_step": integer(2),
        },
    ),
    for_env(
        MFAC,
        BRIEFLY
        | {
            "neighbours": Domain((3, "all")),
            "actor_uses_mean": flag(),
            "deterministic_eval": flag(),
            "critic_hidden": widths(),
            "optim": OPTIM,
            "critic_optim": OPTIM,
            "critic_mean": choice(),
            "literal_eq8": flag(),
            "gamma": SHARE,
            "td_lambda": SHARE,
            "tau": FRACTION,
            "reward": choice(),
            "entropy_coef": WEIGHT,
            "max_grad_norm": NORM,
        },
    ),
    for_env(RoMFAC, {"action_loss": instance(ATTACK)}),
    Subject(
        romfac_loss,
        dict,
        {
            "variant": choice(),
            "ball": instance(0.1, optional=True),
            "peak": WEIGHT,
            "warmup": integer(2, 0),
            "period": integer(2),
            "ramp": FRACTION,
            "steps": integer(2),
            "max_rows": integer(2, optional=True),
            "equal_rounds": flag(),
        },
    ),
    for_env(
        RMAAC,
        {
            "ball": instance(0.1),
            "noise_hidden": widths(),
            "noise_optim": OPTIM,
            "clip": POSITIVE,
        },
    ),
    for_env(EIRMAPPO, BELIEVING | {"hidden": widths()}, belief_hidden=(4,), adversary_hidden=(4,)),
    for_env(EARMAPPO, {"seed": seed(), "victim_interval": integer(2)}),
    for_env(TrueTypeMAPPO, {"seed": seed(), "victim_interval": integer(2)}),
    Subject(
        Attackable.for_env,
        lambda: {"env": SPEC, "hidden": (4,)},
        {
            "action_critic_hidden": widths(),
            "action_critic_lr": POSITIVE,
            "action_critic_updates": integer(2),
        },
        covers=OwnActionValues,
    ),
    Subject(
        VDN,
        lambda: {"policy": q_policy(), "mixer": VDNMixer()},
        {"policy": instance(tianshou_policy()), "mixer": Domain((3, "vdn"))},
    ),
    Subject(
        QMIX,
        lambda: {"policy": q_policy(), "mixer": QMIXMixer(5, 3)},
        {"policy": instance(tianshou_policy()), "mixer": Domain((3, network()))},
    ),
    Subject(
        MAPPO,
        lambda: {
            "policy": ActorPolicy(SPEC, network()),
            "critic": Critic(5),
            "critic_input": "state",
        },
        {
            "policy": instance(tianshou_policy(), Made(q_policy, "QPolicy")),
            "critic": instance(),
            "critic_input": choice(),
            "seed": seed(),
        },
    ),
    Subject(
        COMA,
        lambda: {
            "policy": ExploringPolicy(SPEC, network(), 0.1),
            "critic": ActionCritic(5, 3, 3, 4, others=True),
        },
        {"policy": instance(Made(q_policy, "QPolicy")), "critic": instance(Critic(5))},
    ),
    Subject(
        DOP,
        lambda: {
            "policy": ExploringPolicy(SPEC, network(), 0.1),
            "critic": ActionCritic(5, 3, 3, 4, dueling=True),
            "mixer": WeightedMixer(5, 3),
        },
        {
            "policy": instance(Made(q_policy, "QPolicy")),
            "critic": instance(Critic(5)),
            "mixer": instance(VDNMixer()),
        },
    ),
    Subject(
        MADDPG,
        lambda: {
            "policy": ExploringPolicy(SPEC, network(), 0.1),
            "critic": JointCritic(5, 3, 4),
        },
        {"policy": instance(Made(q_policy, "QPolicy")), "critic": instance(Critic(5))},
    ),
    Subject(
        FACMAC,
        lambda: {
            "policy": ExploringPolicy(SPEC, network(), 0.1),
            "critic": FactoredCritic(3, 3, 4, QMIXMixer(5, 3)),
        },
        {
            "policy": instance(Made(q_policy, "QPolicy")),
            "critic": instance(JointCritic(5, 3, 4)),
        },
    ),
    Subject(
        MFAC,
        lambda: {
            "policy": MeanFieldPolicy(SPEC, network(mean_action=True)),
            "critic": AgentNetwork(3, 3, 4, mean_action=True),
        },
        {
            "policy": instance(Made(q_policy, "QPolicy")),
            "critic": instance(Critic(5)),
            "seed": seed(),
        },
    ),
    Subject(
        ObsAdversaryPPO.for_env,
        lambda: {"env": SPEC, "ball": BALL, "hidden": (4,)},
        briefly(
            WHERE
            | ATTACKING
            | {
                "ball": instance(0.1),
                "preset": choice(),
                "hidden": widths(),
                "episodes": SHARE,
                "epsilon": RADIUS,
                "gamma": SHARE,
                "gae_lambda": SHARE,
                "max_grad_norm": POSITIVE,
            }
        ),
    ),
    Subject(ObsAdversaryPPO, lambda: {"actor": noise(), "critic": Critic(5)}, LEARNED),
    Subject(
        PAAD.for_env,
        lambda: {"env": SPEC, "generator": stor(BALL), "hidden": (4,)},
        briefly(
            WHERE
            | WHO
            | EXPLORING
            | {
                "generator": instance(BALL),
                "mixer": choice(),
                "episodes": SHARE,
                "epsilon": RADIUS,
                "optim": OPTIM,
                "gamma": SHARE,
                "td_lambda": SHARE,
                "target_update": integer(2),
                "target_unit": choice(),
                "double_q": flag(),
                "max_grad_norm": NORM,
            }
        ),
    ),
    Subject(
        PAAD,
        lambda: {"director": q_policy(), "generator": stor(BALL), "mixer": VDNMixer()},
        {
            "director": instance(network()),
            "generator": instance(BALL),
            "mixer": instance(network()),
        },
    ),
    Subject(
        ATSA.for_env,
        lambda: {"env": SPEC, "generator": stor(BALL), "hidden": (4,)},
        briefly(
            WHERE
            | WHO
            | {
                "generator": instance(BALL),
                "gradient": choice(),
                "attention": flag(),
                "episodes": SHARE,
                "epsilon": RADIUS,
                "optim": OPTIM,
                "critic_optim": OPTIM,
                "gamma": SHARE,
                "td_lambda": SHARE,
                "alpha": schedule(0.0),
                "kappa": WEIGHT,
                "reward_scale": POSITIVE,
                "target": choice(),
                "target_update": integer(2),
                "target_unit": choice(),
                "max_grad_norm": NORM,
            }
        ),
    ),
    Subject(
        ContinuousATSA.for_env,
        lambda: {"env": BOXES, "generator": stor(BALL), "hidden": (4,)},
        briefly(
            WHERE
            | WHO
            | {
                "generator": instance(BALL),
                "gradient": choice(),
                "attention": flag(),
                "episodes": SHARE,
                "epsilon": RADIUS,
                "optim": OPTIM,
                "critic_optim": OPTIM,
                "gamma": SHARE,
                "td_lambda": SHARE,
                "alpha": schedule(0.0),
                "kappa": WEIGHT,
                "reward_scale": POSITIVE,
                "target": choice(),
                "target_update": integer(2),
                "target_unit": choice(),
                "max_grad_norm": NORM,
                "hidden": widths(),
                "conv": Domain((), ((4, 4, 4),)),
            }
        ),
    ),
    Subject(
        VectorCritic,
        lambda: {
            "body": AgentNetwork(5, 3, 4, hidden=(4,)),
            "num_actions": 2,
            "mixer": FOPMixer(5, 3, 2),
        },
        {"body": instance(), "num_actions": integer(2), "mixer": instance(VDNMixer())},
    ),
    Subject(
        SquashedDirector,
        lambda: {"spec": BOXES, "network": SquashedNetwork(3, 3, 2, hidden=(4,))},
        {"network": instance(), "deterministic_eval": flag()},
    ),
    Subject(
        TeamPAAD.for_env,
        lambda: {"env": BOXES, "generator": stor(BALL), "kind": MADDPG, "hidden": (4,)},
        briefly(
            WHO
            | {
                "generator": instance(BALL),
                "kind": Domain((3, None, "MADDPG", MAPPO)),
                "episodes": SHARE,
                "epsilon": RADIUS,
            }
        ),
    ),
    Subject(
        TeamPAAD,
        lambda: {"learner": MADDPG.for_env(BOXES, hidden=(4,)), "generator": stor(BALL)},
        {
            "learner": Domain((3, None, Made(mappo, "MAPPO"), MADDPG)),
            "generator": instance(BALL),
            "episodes": SHARE,
            "epsilon": RADIUS,
            **WHO,
        },
    ),
    Subject(
        SoftCritic,
        lambda: {"agents": network(), "mixer": FOPMixer(5, 3, 4)},
        {"agents": instance(), "mixer": instance(VDNMixer())},
    ),
    Subject(
        DirectionPAAD.for_env,
        lambda: {"env": SPEC, "generator": stor(BALL), "hidden": (4,)},
        briefly(WHERE | ATTACKING | {"generator": instance(BALL), "hidden": widths()}),
    ),
    Subject(
        DirectionPAAD,
        lambda: {"actor": DirectionActor(stor(BALL), 3, 4, hidden=(4,)), "critic": Critic(5)},
        LEARNED,
    ),
    Subject(
        RAP.for_env,
        lambda: {"env": SPEC, "generator": stor(BALL), "hidden": (4,), "number": 2},
        briefly({"number": integer(2), "seed": seed()}),
    ),
    Subject(
        RAP,
        lambda: {"members": [PAAD.for_env(SPEC, stor(BALL), hidden=(4,))]},
        {"members": Domain((3, None, "all", [3]), ([],))},
    ),
    Subject(
        ROMANCE.for_env,
        lambda: {"env": SPEC, "generator": stor(BALL), "hidden": (4,)},
        briefly(
            WHERE
            | WHO
            | {
                "generator": instance(BALL, optional=True),
                "attackers": integer(2),
                "budget": integer(2, 0),
                "rate": number(0.5, 0.0, 1.0, open_low=True),
                "soft": POSITIVE,
                "floor": number(0.1, 0.0, 0.25, optional=True),
                "episodes": SHARE,
                "epsilon": RADIUS,
                "archive": integer(2),
                "generations": integer(2, 0),
                "rounds": integer(2),
                "optim": OPTIM,
                "gamma": SHARE,
                "attack_cost": WEIGHT,
                "diversity": WEIGHT,
                "target_rate": FRACTION,
                "max_grad_norm": NORM,
            }
        ),
    ),
    Subject(
        ROMANCE.for_env,
        lambda: {"env": SPEC, "hidden": (4,)},
        {"episodes": SHARE, "rounds": integer(2)},  # of forced actions
    ),
    Subject(
        ROMANCE,
        lambda: {"attackers": Attackers(SPEC, hidden=(4,))},
        {"attackers": instance(network()), "generator": instance(BALL, optional=True)},
    ),
    Subject(
        Archive,
        lambda: {"attackers": Attackers(SPEC, hidden=(4,))},
        {"attackers": instance(network()), "size": integer(2), "points": integer(2)},
    ),
    Subject(
        ByzantineAttacker.against,
        lambda: {"victim": vdn(), "hidden": (4,)},
        briefly(
            {
                "victim": instance(network()),
                "sees_actions": flag(),
                "hidden": widths(),
                "seed": seed(),
                "critic_optim": OPTIM,
                "gamma": SHARE,
                "gae_lambda": SHARE,
                "value_coef": WEIGHT,
                "reward": choice(),
                "normalize_value": flag(),
                "huber_delta": number(0.5, 0.0, open_low=True, optional=True),
                "max_grad_norm": NORM,
            }
            | ATTACKING
            | {"epochs": integer(2, optional=True)}
        ),
    ),
    Subject(
        ByzantineAttacker,
        lambda: {
            "policy": traitor(),
            "critic": Critic(5),
            "types": TypeDistribution(1.0),
        },
        {
            "policy": instance(network()),
            "critic": instance(network()),
            "types": instance("all"),
        },
    ),
    Subject(
        SharedObsAdversary,
        lambda: {"actor": noise()},
        ATTACKING | {"actor": instance(network()), "max_grad_norm": NORM},
    ),
    Subject(
        SharedByzantine,
        lambda: {"policy": traitor(), "types": TypeDistribution(1.0)},
        {
            "policy": instance(network()),
            "types": instance("all"),
            "p": Domain((0.5, "always")),
            "optim": OPTIM,
            "clip": POSITIVE,
            "entropy_coef": WEIGHT,
            "epochs": integer(2),
            "max_grad_norm": NORM,
        },
    ),
    Subject(
        Population,
        lambda: {"members": [SharedObsAdversary(noise())]},
        {"members": Domain((3, None, "all", [3]), ([],))},
    ),
    Subject(
        lambda adversaries: check_adversaries("check_adversaries.adversaries", adversaries),
        lambda: {"adversaries": [SharedObsAdversary(noise())]},
        {"adversaries": Domain((3, None, "all", [3]), ([],))},
        "check_adversaries",
        check_adversaries,
    ),
    Subject(
        WorldModel,
        lambda: {"spec": SPEC, "hidden": (4,), "members": 1},
        {
            "spec": instance(Arena),
            "horizon": integer(4, 1, 6, optional=True),
            "anywhere": flag(),
            "members": integer(2),
            "hidden": widths(),
            "device": device(),
            "seed": seed(),
        },
    ),
    Subject(
        attack_in_model,
        lambda: {
            "team": MAPPO.for_env(game(), hidden=(4,)),
            "adversaries": ObsAdversaryPPO.for_env(game(), BALL, hidden=(4,), epochs=1),
            "make_env": game,
            "model": WorldModel(spec_of(game()), hidden=(4,), members=1),
            "real_steps": 12,
            "imagined_steps": 4,
            "updates": 1,
            "num_envs": 2,
        },
        briefly(
            {
                "team": instance(network()),
                "adversaries": Domain((3, None)),
                "model": instance(),
                "real_steps": integer(14),
                "imagined_steps": integer(6),
                "rounds": integer(2),
                "updates": integer(2),
                "num_envs": integer(2),
                "seed": seed(),
                "learn": instance({}, optional=True),
            }
        ),
    ),
    Subject(
        AdversarialTraining,
        lambda: {"team": mappo(), "adversaries": SharedObsAdversary(noise())},
        {
            "team": instance(network()),
            "adversaries": Domain((3, None, "all", [3]), ([],)),
            "team_every": integer(2, optional=True),
            "adversary_every": integer(2),
        },
    ),
)
