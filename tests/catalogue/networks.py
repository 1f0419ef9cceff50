"""Networks, critics, mixers and policies."""

from catalogue.kinds import (
    Domain,
    Made,
    Pair,
    Subject,
    briefly,
    choice,
    flag,
    instance,
    integer,
    number,
    schedule,
    seed,
    widths,
)
from catalogue.things import BOXES, SPEC, network, vdn

from robustmarl.networks import (
    ActionCritic,
    AgentNetwork,
    BeliefNetwork,
    Conv,
    ConvAgentNetwork,
    Critic,
    FactoredCritic,
    FOPMixer,
    JointCritic,
    QMIXMixer,
    SeparateAgents,
    TypedAgentNetwork,
    TypedCritic,
    ValueNormalizer,
    VDNMixer,
    WeightedMixer,
)
from robustmarl.networks.conv import as_conv
from robustmarl.networks.duplex import QPLEXMixer
from robustmarl.networks.layers import activation_of, check_widths, feed_forward
from robustmarl.networks.squashed import SquashedNetwork
from robustmarl.policies import (
    ActorPolicy,
    ByzantinePolicy,
    DeterministicPolicy,
    ExploringPolicy,
    FrozenPolicy,
    MeanFieldPolicy,
    Neighbours,
    QPolicy,
    TypedPolicy,
)

SIZES = {"obs_size": integer(3), "num_agents": integer(3), "num_actions": integer(4)}
STATES = {"state_size": integer(5), "num_agents": integer(3)}
COLUMNS = Domain(
    (3, "012", (0.5,)), ((), (3,), (-1,)), (Pair([0, 2], (0, 2)), Pair((0, 2), (0, 2)))
)
LAYERS = {
    "hidden": widths(),
    "recurrent": flag(),
    "last_action": flag(),
    "mean_action": flag(),
    "continuous": flag(),
    "squash": Domain(("no", 1, None), (True,)),
    "activation": choice(),
    "layer_norm": flag(),
    "output_gain": number(0.5, 0.0, open_low=True, optional=True),
    "columns": COLUMNS,
}
POLICY = {
    "spec": instance(),
    "network": instance()
    | Domain(
        (),
        (
            Made(lambda: AgentNetwork(3, 3, 5), "five actions"),
            Made(lambda: AgentNetwork(2, 3, 4), "two inputs"),
        ),
    ),
}


def sizes():
    return {"obs_size": 3, "num_agents": 3, "num_actions": 4}


def states():
    return {"state_size": 5, "num_agents": 3}


def acting():
    return {"spec": SPEC, "network": network()}


SUBJECTS = (
    Subject(AgentNetwork, sizes, SIZES | LAYERS | {"agent_id": flag()}),
    Subject(
        SquashedNetwork,
        sizes,
        briefly(SIZES | LAYERS | {"agent_id": flag()})
        | {name: Domain((), (True, False)) for name in ("continuous", "squash")},
    ),
    Subject(
        Conv,
        lambda: {"view": (9, 7, 1)},
        {
            "view": Domain((3, "431", (4, 3, 0.5)), ((4, 3), (4, 3, 0), ())),
            "channels": widths(),
            "kernel": Domain((2.5, "2", None), (0, 5)),
        },
    ),
    Subject(
        lambda conv: as_conv("as_conv.conv", conv),
        lambda: {"conv": (5, 5, 1)},
        {"conv": Domain((3, "551"), (), (Pair([5, 5, 1], (5, 5, 1)),))},
        "as_conv",
        as_conv,
    ),
    Subject(
        ConvAgentNetwork,
        lambda: {**sizes(), "obs_size": 26, "conv": (5, 5, 1)},
        {
            "obs_size": integer(26),
            "num_agents": integer(3),
            "conv": Domain((3, "551"), ((9, 9, 9),)),
            "columns": Domain((), ((0, 1),)),
            "hidden": widths(),
        },
    ),
    Subject(SeparateAgents, sizes, SIZES | LAYERS),
    Subject(
        TypedAgentNetwork, sizes, SIZES | {"hidden": widths(), "recurrent": Domain((), (True,))}
    ),
    Subject(
        lambda hidden: check_widths("check_widths.hidden", hidden),
        lambda: {"hidden": (8,)},
        {"hidden": widths()},
        "check_widths",
        check_widths,
    ),
    Subject(activation_of, lambda: {"name": "relu"}, {"name": choice()}),
    Subject(
        feed_forward,
        lambda: {"sizes": (3, 4)},
        {
            "sizes": Domain((3, None, ("3", 4)), ((), (3,), (3, 0)), (Pair([3, 4], (3, 4)),)),
            "activation": choice(),
            "layer_norm": flag(),
        },
    ),
    Subject(
        BeliefNetwork,
        lambda: {"spec": SPEC, "hidden": (4,), "memory": 4},
        {"spec": instance(), "hidden": widths(), "memory": integer(4), "seed": seed()},
    ),
    Subject(
        Critic,
        lambda: {"size": 3},
        {
            "size": integer(3),
            "num_agents": integer(3, 0),
            "hidden": widths(),
            "activation": choice(),
            "layer_norm": flag(),
        },
    ),
    Subject(
        TypedCritic,
        lambda: {"size": 3, "slots": 3},
        {"size": integer(3), "slots": integer(3), "hidden": widths()},
    ),
    Subject(
        ActionCritic,
        lambda: states() | {"obs_size": 3, "num_actions": 4},
        STATES
        | SIZES
        | {
            "hidden": widths(),
            "others": flag(),
            "dueling": flag(),
            "normalize_state": flag(),
        },
    ),
    Subject(
        JointCritic,
        lambda: states() | {"num_actions": 4},
        STATES | {"num_actions": integer(4), "hidden": widths(), "normalize_state": flag()},
    ),
    Subject(
        FactoredCritic,
        lambda: {"obs_size": 3, "num_agents": 3, "num_actions": 4, "mixer": QMIXMixer(5, 3)},
        {
            "obs_size": integer(4),
            "num_agents": integer(3),
            "num_actions": integer(4),
            "mixer": instance(VDNMixer()),
            "hidden": widths(),
        },
    ),
    Subject(VDNMixer, dict, {}),
    Subject(
        QMIXMixer,
        states,
        STATES
        | {
            "embed": integer(4),
            "hyper_hidden": integer(4),
            "normalize_state": flag(),
            "init_gain": number(0.5, 0.0, open_low=True),
        },
    ),
    Subject(WeightedMixer, states, STATES | {"embed": integer(4), "normalize_state": flag()}),
    Subject(
        QPLEXMixer,
        lambda: states() | {"num_actions": 4},
        STATES
        | {
            "num_actions": integer(4),
            "heads": integer(2),
            "hyper_hidden": integer(4),
            "normalize_state": flag(),
        },
    ),
    Subject(
        FOPMixer,
        lambda: states() | {"num_actions": 4},
        STATES
        | {
            "num_actions": integer(4),
            "heads": integer(2),
            "hidden": integer(4),
            "gradient": choice(),
            "normalize_state": flag(),
            "attention": flag(),
        },
    ),
    Subject(ValueNormalizer, dict, {"decay": number(0.5, 0.0, 1.0, open_high=True)}),
    Subject(ActorPolicy, acting, POLICY | {"deterministic_eval": flag()}),
    Subject(
        DeterministicPolicy,
        lambda: {
            "spec": BOXES,
            "network": AgentNetwork(3, 3, 2, hidden=(4,), continuous=True, squash=True),
            "exploration": 0.1,
        },
        {"spec": POLICY["spec"], "network": instance(), "exploration": schedule(0.0)},
    ),
    Subject(
        ExploringPolicy,
        lambda: acting() | {"exploration": 0.1},
        POLICY | {"exploration": schedule(0.0, 1.0), "deterministic_eval": flag()},
    ),
    Subject(
        QPolicy,
        lambda: acting() | {"exploration": 0.1},
        POLICY | {"exploration": schedule(0.0, 1.0)},
    ),
    Subject(
        MeanFieldPolicy,
        lambda: {"spec": SPEC, "network": network(mean_action=True)},
        POLICY | {"neighbours": Domain((3, "all")), "deterministic_eval": flag()},
    ),
    Subject(
        Neighbours,
        lambda: {"radius": 1.0, "position": (0, 1)},
        {
            "include_self": flag(),
            "radius": number(1.0, 0.0, open_low=True, optional=True),
            "position": Domain((3, None, "01", (0.5,)), ((-1,), ()), (Pair([0, 1], (0, 1)),)),
        },
    ),
    Subject(
        ByzantinePolicy,
        lambda: {"spec": SPEC, "hidden": (4,)},
        {
            "spec": instance(),
            "sees_actions": flag(),
            "hidden": widths(),
            "layer_norm": flag(),
            "seed": seed(),
        },
    ),
    Subject(FrozenPolicy, lambda: {"policy": vdn().policy}, {"policy": instance(network())}),
    Subject(
        TypedPolicy,
        lambda: {
            "spec": SPEC,
            "network": TypedAgentNetwork(3, 3, 4, hidden=(4,)),
            "slots": "zeros",
        },
        {
            "spec": instance(),
            "network": instance(),
            "slots": choice(),
            "belief": Domain((3, "all")),
            "teacher_forcing": schedule(0.0, 1.0),
            "hard_belief": flag(),
            "deterministic_eval": flag(),
            "belief_reads": choice(),
        },
    ),
)
