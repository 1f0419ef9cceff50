"""Stacks of wrappers are the collector's stacks: they draw, show and execute the same."""

from itertools import product

import numpy as np
import pytest
import torch
from doubles import Scripted
from pettingzoo.utils import BaseParallelWrapper
from tianshou.utils.torch_utils import policy_within_training_step

from robustmarl._seeding import episode_key
from robustmarl.algorithms import EIRMAPPO, IPPO, MAPPO, MFAC
from robustmarl.attacks import PGD, GaussianNoise, UniformNoise
from robustmarl.attacks.poison import JAttack, RandomAttack
from robustmarl.budgets import LinfBall
from robustmarl.data import EpisodeBuffer, JointCollector, RandomController
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import spec_of
from robustmarl.perturbers import (
    ActionPoisonPerturber,
    ByzantinePerturber,
    ObsPerturber,
    RandomAgents,
    TypeDistribution,
)
from robustmarl.wrappers import ActionPoisonWrapper, BayesianTypeWrapper, ObsAdversaryWrapper

SEED, BALL = 7, LinfBall(epsilon=0.3)
NOISE = UniformNoise(ball=BALL)


def types():
    return TypeDistribution(1.0, k=2)


def sizes(**settings):
    """Three agents of different sizes, one of which appears late."""
    return Scripted(
        3,
        obs_sizes=(2, 7, 4),
        action_sizes=(3, 5, 4),
        lengths=(3, 5),
        arrivals={1: 2},
        masks="dict",
        **settings,
    )


def teams():
    members = {"red": ("a0", "a3"), "blue": ("a1", "a2")}
    return Scripted(4, obs_sizes=(9, 3, 5, 9), action_sizes=(6, 3, 4, 6), teams=members)


def played(make, policy, perturb, *, episodes=4, num_envs=1, **settings):
    spec = spec_of(make()).of_team(settings.get("team"))
    buffer = EpisodeBuffer(spec, episodes)
    engine = JointVectorEnv(make, num_envs)
    JointCollector(policy, engine, buffer, perturb=perturb, seed=SEED, **settings).collect(
        n_episode=episodes
    )
    return spec, buffer.latest(episodes)


def follow(env, spec, batch, submitted, opponents=None):
    """Replay the collector's episodes around ``env``; yield (k, t, observations, infos)."""
    for k in range(len(batch)):
        obs, infos = env.reset(seed=episode_key(SEED, k) & 0x7FFFFFFF)
        t = 0
        while env.agents:
            yield k, t, obs, infos
            joint = {a: int(submitted[k, t, spec.agents.index(a)]) for a in env.agents}
            obs, *_, infos = env.step(joint)
            t += 1
        yield k, t, obs, infos
        assert t == int(batch.valid[k].sum())


def row_of(raw):
    return raw["observation"] if isinstance(raw, dict) else raw


def assert_same_observations(env, spec, batch, submitted):
    compared = 0
    for k, t, obs, _ in follow(env, spec, batch, submitted):
        for i, agent in enumerate(spec.agents):
            if batch.obs.alive[k, t, i]:
                row = row_of(obs[agent])
                assert np.array_equal(row, batch.obs.seen[k, t, i, : len(row)].numpy()), (k, t)
                compared += 1
    assert compared > 20


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize(
    "attack",
    [NOISE, GaussianNoise(ball=BALL), PGD(ball=BALL, steps=3, random_start=True)],
    ids=["uniform", "gaussian", "pgd"],
)
def test_agents_of_different_sizes(attack, recurrent):
    team = IPPO.for_env(sizes(), hidden=(8,), recurrent=recurrent, last_action=True)
    spec, batch = played(sizes, team, [ObsPerturber(attack, victim=team.victim())])
    padding = ~(torch.arange(7) < torch.tensor([2, 7, 4])[:, None])
    assert bool((batch.obs.seen[..., padding] == 0).all())
    assert bool((batch.obs.seen != batch.obs.obs).any())
    assert_same_observations(
        ObsAdversaryWrapper(sizes(), attack, victim=team), spec, batch, batch.act
    )


def test_mean_actions():
    """PGD through a mean-field actor needs what its neighbours did, and who of them lives."""
    team = MFAC.for_env(sizes(), hidden=(8,))
    with torch.no_grad():
        team.policy.network.mean_table.mul_(20)
    attack = PGD(ball=BALL, steps=3)
    spec, batch = played(sizes, team, [ObsPerturber(attack, victim=team.victim())])
    assert bool((batch.obs.seen != batch.obs.obs).any())
    env = ObsAdversaryWrapper(sizes(), attack, victim=team)
    assert_same_observations(env, spec, batch, batch.act)


@pytest.mark.parametrize("number", [0, 1, 2, 9])
def test_mean_field_actors_of_which_some_are_drawn(number):
    """RoMFAC's M attacked agents, of a team that has another against it."""

    def make():
        members = {"red": ("a0", "a3", "a5"), "blue": ("a1", "a2", "a4")}
        return Scripted(6, lengths=(3, 5), state="joint", deaths={3: 2}, teams=members)

    red = MFAC.for_env(make(), team="red", hidden=(8,))
    with torch.no_grad():
        red.policy.network.mean_table.mul_(20)
    blue = RandomController(spec_of(make()).of_team("blue"))
    attack = PGD(ball=BALL, steps=3)
    perturb = [ObsPerturber(attack, agents=RandomAgents(number))]
    settings = {"team": "red", "opponents": {"blue": blue}, "episodes": 6}
    spec, batch = played(make, red, perturb, **settings)
    drawn = RandomAgents(number, among=spec.agents)
    env, bare = ObsAdversaryWrapper(make(), attack, victim=red, agents=drawn), make()
    sets = set()
    for k in range(len(batch)):
        seed, hit = episode_key(SEED, k) & 0x7FFFFFFF, set()
        (shown, _), (clean, _) = env.reset(seed=seed), bare.reset(seed=seed)
        for t in range(int(batch.valid[k].sum()) + 1):
            changed = {agent for agent in shown if not np.array_equal(shown[agent], clean[agent])}
            assert changed <= set(spec.agents)
            living = {a for i, a in enumerate(spec.agents) if batch.obs.alive[k, t, i]}
            hit |= changed
            assert changed & living == hit & living  # the same ones all along
            for i, agent in enumerate(spec.agents):
                if agent in living:
                    assert np.array_equal(shown[agent], batch.obs.seen[k, t, i].numpy()), (k, t)
            assert np.array_equal(env.state(), bare.state())
            if not env.agents:
                break
            act = {a: int(batch.act[k, t, i]) for i, a in enumerate(spec.agents)}
            joint = {agent: act.get(agent, 0) for agent in env.agents}
            (shown, *told, _), (clean, *true, _) = env.step(joint), bare.step(joint)
            assert told == true  # rewards, terminations, truncations
        assert len(hit) == min(number, 3)
        sets.add(frozenset(hit))
    assert len(sets) > 1 or number in (0, 9)


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("agent", ["a0", "a1", "a2"])
def test_every_agent_by_a_small_policy_of_its_own(agent, recurrent):
    """The policy knows this agent alone: its sizes, its name, and its memory from step 0 on."""
    alone = {"alone": (agent,), "rest": tuple(a for a in ("a0", "a1", "a2") if a != agent)}
    settings = {"hidden": (8,), "recurrent": recurrent, "last_action": True}
    small = IPPO.for_env(sizes(teams=alone), team="alone", **settings)
    attack = PGD(ball=BALL, steps=3)
    random = RandomController(spec_of(sizes()))
    spec, batch = played(sizes, random, [ObsPerturber(attack, victim=small, agents=[agent])])
    changed = (batch.obs.seen != batch.obs.obs).any(-1).flatten(0, 1).any(0)
    assert changed.tolist() == [name == agent for name in spec.agents]
    env = ObsAdversaryWrapper(sizes(), attack, victim=small, agents=[agent])
    assert_same_observations(env, spec, batch, batch.act)


@pytest.mark.parametrize("attack", [NOISE, GaussianNoise(ball=BALL), PGD(ball=BALL, steps=2)])
def test_one_team_of_several(attack):
    """An environment of two teams draws and attacks as the collector of one does."""
    blue = IPPO.for_env(teams(), team="blue", hidden=(8,), seed=1)
    with torch.no_grad():
        blue.policy.network.id_table.mul_(20)  # its agents play differently
    red = RandomController(spec_of(teams()).of_team("red"))
    perturb = [ObsPerturber(attack)]
    spec, batch = played(teams, blue, perturb, team="blue", opponents={"red": red})
    env = ObsAdversaryWrapper(teams(), attack, victim=blue, agents=["a1", "a2"])
    for k in range(4):
        obs, _ = env.reset(seed=episode_key(SEED, k) & 0x7FFFFFFF)
        for i, agent in enumerate(spec.agents):
            expected = batch.obs.seen[k, 0, i, : len(obs[agent])].numpy()
            assert np.array_equal(obs[agent], expected), agent


STACKS = [stack for n in (1, 2, 3) for stack in product("ob", repeat=n)]
POISONED = [(*stack, "p") for n in (0, 1, 2) for stack in product("ob", repeat=n)]


def perturber(letter, team, attack):
    if letter == "o":
        return ObsPerturber(NOISE)
    if letter == "b":
        return ByzantinePerturber("random", types=types())
    return ActionPoisonPerturber(attack, learner=team, agent="a2", kl_budget=2.0, when="always")


def wrapped(env, letter, team, attack):
    if letter == "o":
        return ObsAdversaryWrapper(env, NOISE)
    if letter == "b":
        return BayesianTypeWrapper(env, "random", types=types())
    return ActionPoisonWrapper(env, attack, learner=team, agent="a2", kl_budget=2.0, when="always")


def replayed(stack, team, attack=None):
    perturbers = [perturber(letter, team, attack) for letter in stack]
    spec, batch = played(sizes, team, perturbers)
    bare = env = sizes()
    for letter in stack:
        env = wrapped(env, letter, team, attack)
    return spec, batch, bare, env


@pytest.mark.parametrize("stack", STACKS, ids="".join)
def test_stacks_of_noise_and_byzantine_play(stack):
    team = MAPPO.for_env(sizes(), hidden=(8,))
    spec, batch, bare, env = replayed(stack, team)
    intended = batch.act if batch.act_intended is None else batch.act_intended
    executed = batch.act if batch.act_exec is None else batch.act_exec
    assert_same_observations(env, spec, batch, intended)
    assert_same_executed(bare, spec, batch, executed)
    if "b" in stack:
        assert bool((executed != intended).any())
        names = [name for name in batch.records if name.startswith("byzantine")]
        assert len(names) == stack.count("b")
        every = torch.stack([batch.records[name]["types"] for name in names]).any(0)
        for k, t, _, infos in follow(env, spec, batch, intended):
            if t < int(batch.valid[k].sum()):
                for info in infos.values():
                    assert info["types"].tolist() == every[k, t].tolist()


def assert_same_executed(bare, spec, batch, executed):
    """``bare`` was given what the collector's environment was given."""
    steps = [(k, t) for k in range(len(batch)) for t in range(int(batch.valid[k].sum()))]
    assert len(bare.received) == len(steps)
    for actions, (k, t) in zip(bare.received, steps, strict=True):
        for agent, action in actions.items():
            assert action == int(executed[k, t, spec.agents.index(agent)]), (k, t, agent)


@pytest.mark.parametrize("kind", [MAPPO, EIRMAPPO])
@pytest.mark.parametrize("stack", POISONED, ids="".join)
def test_stacks_with_poisoned_actions(stack, kind):
    team = kind.for_env(sizes(), hidden=(8,), seed=2)
    spec, batch, bare, env = replayed(stack, team, RandomAttack())
    other = (batch.act if batch.act_intended is None else batch.act_intended).clone()
    executed = batch.act if batch.act_exec is None else batch.act_exec
    poisoned = batch.records["poison"]["attacked"]
    assert bool(poisoned.any())
    first = batch.obs.mask[:, :-1].int().argmax(-1)[..., 2]
    other[..., 2] = torch.where(poisoned, first, other[..., 2])  # what is submitted is dropped
    assert bool((other != executed).any())
    assert_same_observations(env, spec, batch, other)
    assert_same_executed(bare, spec, batch, executed)


REMEMBERING = ["ob", "bo", "obo", "bob", "obb", "obp", "bop"]


def layers(env):
    """Return the wrappers of a stack, the innermost first."""
    found = []
    while isinstance(env, ActionPoisonWrapper | BayesianTypeWrapper | ObsAdversaryWrapper):
        found.insert(0, env)
        env = env.env
    return found


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("stack", REMEMBERING)
def test_stacks_beneath_a_team_that_remembers(stack, seed):
    """All who live in a stack are told the same last actions, whichever way it is played."""
    settings = {"hidden": (8,), "recurrent": True, "last_action": True}
    team, traitor = (IPPO.for_env(sizes(), seed=seed + k, **settings) for k in (0, 10))
    for network in (team.policy.network, traitor.policy.network):
        with torch.no_grad():
            network.last_table.mul_(20)  # last actions matter
    pgd = PGD(ball=BALL, steps=2)

    def perturber(letter):
        if letter == "o":
            return ObsPerturber(pgd)
        if letter == "b":
            return ByzantinePerturber(traitor, types=types())
        return ActionPoisonPerturber(RandomAttack(), learner=team, agent="a2", when="always")

    def wrap(env, letter):
        if letter == "o":
            return ObsAdversaryWrapper(env, pgd, victim=team)
        if letter == "b":
            return BayesianTypeWrapper(env, traitor, types=types())
        return ActionPoisonWrapper(env, RandomAttack(), learner=team, agent="a2", when="always")

    spec, batch = played(sizes, team, [perturber(letter) for letter in stack])
    bare = env = sizes()
    for letter in stack:
        env = wrap(env, letter)
    intended, executed = batch.act_intended, batch.act_exec
    assert bool((executed != intended).any())
    assert torch.equal(batch.act, intended)  # Byzantine play is not told to who learns
    for k, t, obs, infos in follow(env, spec, batch, intended):
        for i, agent in enumerate(spec.agents):
            if batch.obs.alive[k, t, i]:
                row = row_of(obs[agent])
                seen = batch.obs.seen[k, t, i, : len(row)].numpy()
                np.testing.assert_allclose(row, seen, atol=1e-5, err_msg=f"{k, t, agent}")
        if t == 0:
            continue
        for layer in layers(env):
            for name, found in layer.perturber.record().items():
                expected = batch.records[layer.place.name][name][k, t - 1]
                assert torch.allclose(found[0].double(), expected.double(), atol=1e-5), (
                    f"{layer.place.name}/{name} in {k, t - 1}"
                )
        for agent, info in infos.items():
            if "executed_action" in info:
                assert info["executed_action"] == int(executed[k, t - 1, spec.agents.index(agent)])
    assert_same_executed(bare, spec, batch, executed)


@pytest.mark.parametrize("forced", [False, True])
def test_poison_shifts_the_policy_that_eir_mappo_acted_on(forced):
    """Belief slots are constants of the step, teacher forcing included."""
    forcing = 0.5 if forced else 0.0
    team = EIRMAPPO.for_env(sizes(), hidden=(8,), belief_hidden=(8,), teacher_forcing=forcing)
    with torch.no_grad():
        team.policy.network.slot_table.mul_(20)
    for parameter in team.policy.network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    views = []

    def spy(view):
        slots = team.policy.record()["slots"][: len(view.logits)]
        network = team.policy.network
        context = view._context
        outputs = network.step(
            context.seen, network.extra(torch.arange(3), None, {"slots": slots}), None
        )[0]
        mask = context.mask
        assert torch.allclose(view.logits[mask], outputs[mask], atol=1e-6)
        found = view.jacobian("full").logits
        assert torch.allclose(found[mask], outputs[mask], atol=1e-5)
        views.append(view.jacobian("full").jvp())
        expected = directional(network, context, slots)
        assert torch.allclose(views[-1], expected, atol=1e-4)
        return JAttack()(view) if view._advantage else RandomAttack()(view)

    byzantine = ByzantinePerturber("random", types=types())
    poison = ActionPoisonPerturber(spy, learner=team, agent="a2", when="always")
    with policy_within_training_step(team.policy):
        played(sizes, team, [byzantine, poison], num_envs=1, episodes=2)
    assert len(views) > 3


def directional(network, context, slots):
    """Return d outputs along minus the parameters' gradients, by autograd's forward mode."""
    parameters = dict(network.named_parameters())
    ascent = {name: -p.grad for name, p in parameters.items()}

    def outputs(values):
        def call(module, seen):
            return module.step(seen, module.extra(torch.arange(3), None, {"slots": slots}), None)[0]

        class Caller(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.network = network

            def forward(self, seen):
                return call(self.network, seen)

        given = {f"network.{name}": value for name, value in values.items()}
        return torch.func.functional_call(Caller(), given, (context.seen,))

    return torch.func.jvp(outputs, (parameters,), (ascent,))[1].detach()


# Our own wrappers in any order, and others between


class Turned(BaseParallelWrapper):
    """Counts actions from the other end: those above speak of others than those beneath."""

    def step(self, actions):
        return self.env.step({agent: 2 - action for agent, action in actions.items()})


def test_beneath_a_wrapper_that_changes_actions_they_are_those_that_it_gives():
    bare = Scripted(2, lengths=(3,))
    inner = ObsAdversaryWrapper(bare, NOISE)
    env = BayesianTypeWrapper(Turned(inner), "random", types=TypeDistribution(1.0))
    env.reset(seed=3)
    while env.agents:
        env.step(dict.fromkeys(env.agents, 0))
        assert inner._episode.last_act[0].tolist() == list(bare.received[-1].values())
        assert env._episode.last_act[0].tolist() == [0, 0]


def noisy_slots(slots):
    def make(env):
        inner = ObsAdversaryWrapper(env, NOISE)
        return BayesianTypeWrapper(inner, "random", types=types(), slots=slots)

    return make


@pytest.mark.parametrize("attack", [NOISE, PGD(ball=BALL, steps=2)])
def test_above_type_slots_above_another_attack(attack):
    """The clean observation is the environment's, with the slots that were appended."""
    wide = BayesianTypeWrapper(sizes(), "random", slots="truth")
    victim = IPPO.for_env(spec_of(wide), hidden=(8,), recurrent=True) if attack != NOISE else None
    env = ObsAdversaryWrapper(noisy_slots("truth")(sizes()), attack, victim=victim)
    bare = sizes()
    obs, infos = env.reset(seed=3)
    truth, _ = bare.reset(seed=3)
    while True:
        for agent, raw in obs.items():
            clean = infos[agent]["clean_obs"]
            size = len(row_of(truth[agent]))
            assert np.array_equal(clean[:size], row_of(truth[agent]))
            assert np.array_equal(clean[size:], infos[agent]["types"])
            gap = np.abs(row_of(raw) - clean).max()
            assert infos[agent]["perturbation"] == pytest.approx(gap)
            assert 0 < gap <= 0.6 + 1e-6
        if not env.agents:
            break
        joint = {a: int(row_of(obs[a])[0] >= 9) for a in env.agents}  # 0, always available
        obs, _, _, _, infos = env.step(joint)
        truth, *_ = bare.step({a: env_action(bare, a, infos) for a in bare.agents})


def env_action(bare, agent, infos):
    return infos[agent]["executed_action"]


@pytest.mark.parametrize("slots", ["none", "zeros", "truth"])
def test_with_frames_stacked_between(slots):
    """Then what lies beneath is not of what is shown: the outer wrapper's input is its truth."""

    def plain():
        return Scripted(2, obs_sizes=(3, 3), lengths=(4,))

    def below():
        inner = ObsAdversaryWrapper(plain(), NOISE)
        framed = pytest.importorskip("supersuit").frame_stack_v1(inner, 2)
        return BayesianTypeWrapper(framed, "random", types=types(), slots=slots)

    env, same = ObsAdversaryWrapper(below(), NOISE), below()
    obs, infos = env.reset(seed=1)
    truth, inner = same.reset(seed=1)
    while env.agents:
        for agent, row in obs.items():
            assert row.shape == env.observation_space(agent).shape
            assert np.array_equal(infos[agent]["clean_obs"], truth[agent])
            assert inner[agent]["clean_obs"].shape == (3,)
            assert infos[agent]["perturbation"] <= 0.3 + 1e-6
        joint = dict.fromkeys(env.agents, 0)
        obs, _, _, _, infos = env.step(joint)
        truth, _, _, _, inner = same.step(joint)
