"""Observation attacks: whose policy they are on, which coordinates they move, what they leave."""

import numpy as np
import pytest
import torch
from doubles import Scripted
from learners import Shift

from robustmarl._seeding import episode_key
from robustmarl.algorithms import IPPO, RMAAC
from robustmarl.attacks import PGD, UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.data import EpisodeBuffer, JointCollector, RandomController
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import spec_of
from robustmarl.perturbers import (
    GaussianObsAdversary,
    LearnedObsPerturber,
    ObsPerturber,
    Place,
    RandomAgents,
)
from robustmarl.schedules import Linear
from robustmarl.victims import FunctionVictim, Rows
from robustmarl.wrappers import ObsAdversaryWrapper

BALL = LinfBall(epsilon=0.3)
ANYBODY = FunctionVictim(lambda obs: obs)
TEAMS = {"red": ("a0",), "blue": ("a1", "a2")}


def three(**settings):
    return Scripted(3, **{"obs_sizes": (2, 7, 4), "action_sizes": (3, 5, 4), **settings})


def collected(make, perturb, *, policy=None, episodes=4, num_envs=2):
    spec = spec_of(make())
    buffer = EpisodeBuffer(spec, episodes)
    policy = RandomController(spec) if policy is None else policy
    collector = JointCollector(policy, JointVectorEnv(make, num_envs), buffer, perturb=[perturb])
    collector.collect(n_episode=episodes)
    return buffer.latest(episodes)


class Scribbler(Shift):
    """Writes its result into what it was given."""

    def __call__(self, view, obs, draws=None):
        return obs.add_(self.ball.radius(obs))


# Whose policy


@pytest.mark.parametrize("agents", [["a1"], ["a2"], ["a1", "a2"]])
def test_the_attack_is_the_one_on_that_agents_policy(agents):
    """A team of several is told its own numbers, not the game's."""

    def make():
        return Scripted(3, teams=TEAMS)

    blue = IPPO.for_env(make(), team="blue", hidden=(16,), seed=1)
    with torch.no_grad():
        blue.policy.network.id_table.mul_(20)  # a1 and a2 play differently
    attack = PGD(ball=BALL)
    env, other = ObsAdversaryWrapper(make(), attack, victim=blue, agents=agents), 0
    for seed in range(30):
        obs, infos = env.reset(seed=seed)
        for agent in agents:
            clean = torch.tensor(infos[agent]["clean_obs"])[None]
            by = [
                attack(blue.victim().at(Rows(agents=torch.tensor([i]))), clean)[0].numpy()
                for i in (0, 1)
            ]
            number = ("a1", "a2").index(agent)
            assert np.allclose(obs[agent], by[number])
            other += not np.allclose(*by)
    assert other > 0


def test_an_agent_that_is_not_the_policys_is_refused_by_name():
    blue = IPPO.for_env(Scripted(3, teams=TEAMS), team="blue", hidden=(8,))
    text = r"ObsAdversaryWrapper\.victim must be .*\['a0'\] among them, got \"one of \['a1', 'a2'\]"
    with pytest.raises(ValueError, match=text):
        ObsAdversaryWrapper(Scripted(3), PGD(ball=BALL), victim=blue)


def test_a_transferred_policy_is_taken_in_order_unless_it_knows_some_names():
    blue = IPPO.for_env(Scripted(3, teams=TEAMS), team="blue", hidden=(8,))

    def named(*names):
        env = Scripted(2)
        env.possible_agents = list(names)
        return env

    ObsAdversaryWrapper(named("x", "y"), PGD(ball=BALL), victim=blue)
    with pytest.raises(ValueError, match=r"\['z'\] among them"):
        ObsAdversaryWrapper(named("a2", "z"), PGD(ball=BALL), victim=blue)


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"obs_sizes": (5, 9)}, r"observations of size 5, got 'one for size 9'"),
        ({"obs_sizes": (5, 3), "action_sizes": (3, 6)}, r"actions of size 3, got 'one for size 6'"),
    ],
)
def test_a_victim_of_other_sizes_is_refused(sizes, text):
    victim = IPPO.for_env(Scripted(2, **sizes), hidden=(8,))
    with pytest.raises(ValueError, match=text):
        ObsAdversaryWrapper(Scripted(2), PGD(ball=BALL), victim=victim)


@pytest.mark.parametrize("kind", [ObsPerturber, ObsAdversaryWrapper])
def test_nobody_is_no_agent(kind):
    given = (three(),) if kind is ObsAdversaryWrapper else ()
    text = rf"{kind.__name__}\.agents must be at least one name, or None for all, got \[\]\."
    with pytest.raises(ValueError, match=text):
        kind(*given, UniformNoise(ball=BALL), agents=[])


def test_errors_name_the_class_that_was_written():
    actor = GaussianObsAdversary(BALL, 7)
    with pytest.raises(ValueError, match=r"LearnedObsPerturber\.agents must be at least one name"):
        LearnedObsPerturber(actor, agents=[])
    with pytest.raises(ValueError, match=r"LearnedObsPerturber\.agents must be among"):
        collected(three, LearnedObsPerturber(actor, agents=["nobody"]))


@pytest.mark.parametrize("agent", ["a0", "a1", "a2"])
def test_any_agent_by_a_function_of_its_own_size(agent):
    i = int(agent[1])
    network = torch.nn.Linear((2, 7, 4)[i], (3, 5, 4)[i])
    perturber = ObsPerturber(PGD(ball=BALL), victim=FunctionVictim(network), agents=[agent])
    batch = collected(three, perturber)
    moved = (batch.obs.seen - batch.obs.obs).abs().flatten(0, 1).amax(0)
    real = torch.zeros(3, 7, dtype=torch.bool)
    real[i, : (2, 7, 4)[i]] = True
    assert bool((moved[real] > 0).all())
    assert bool((moved[~real] == 0).all())


# Which coordinates


def test_radii_per_coordinate_are_those_of_what_the_victim_sees():
    radii = tuple(0.1 * (d % 3) for d in range(7))
    noise = UniformNoise(ball=LinfBall(epsilon=radii))
    batch = collected(three, ObsPerturber(noise))
    moved = (batch.obs.seen - batch.obs.obs).abs().flatten(0, 1).amax(0)
    assert bool((moved <= torch.tensor(radii) + 1e-6).all())
    alone = UniformNoise(ball=LinfBall(epsilon=(0.1, 0.2)))
    collected(three, ObsPerturber(alone, agents=["a0"]))
    with pytest.raises(ValueError, match=r"ball\.epsilon must be one number or 7 numbers"):
        collected(three, ObsPerturber(alone))


def test_a_learned_adversary_keeps_its_own_size_when_it_attacks_a_small_agent():
    adversary = GaussianObsAdversary(BALL, 7)
    batch = collected(three, LearnedObsPerturber(adversary, agents=["a0"]))
    moved = (batch.obs.seen != batch.obs.obs).flatten(0, 1).any(0)
    assert moved.tolist() == [[True, True] + [False] * 5, [False] * 7, [False] * 7]
    assert batch.record("adversary")["act"].shape[-2:] == (3, 7)


def test_rmaac_learns_with_agents_of_different_sizes():
    team = RMAAC.for_env(three(), hidden=(8,))
    (perturber,) = team.perturbers()
    batch = collected(three, perturber, policy=team)
    assert bool((batch.obs.seen != batch.obs.obs).any())
    assert np.isfinite(list(team.learn(batch, None, 1).metrics.values())).all()


# What is left alone


def test_zeros_of_the_absent_stay_also_at_the_end():
    """a1 dies, a2 appears late: their zeros are no observations, at the last tick neither."""

    def make():
        return three(deaths={1: 2}, arrivals={2: 2}, lengths=(5,))

    perturber = ObsPerturber(Shift(BALL), victim=ANYBODY)
    batch = collected(make, perturber)
    moved = (batch.obs.seen != batch.obs.obs).any(-1)
    assert torch.equal(moved[:, :-1], batch.obs.alive[:, :-1])
    assert moved[:, -1].tolist() == [[True, False, True]] * 4
    assert perturber.counters()["attacked"] == float(batch.living.sum())


class Returns(Shift):
    """Returns what a function makes of the observations."""

    needs_victim = False

    def __init__(self, function):
        super().__init__(BALL)
        self.function = function

    def __call__(self, view, obs, draws=None):
        return self.function(obs)


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (lambda obs: obs[0], r"\(7,\)"),
        (lambda obs: obs[:, :1], r"\(\d, 1\)"),
        (lambda obs: obs.mean(), r"\(\)"),
        (lambda obs: obs[:1].repeat(7, 1), r"\(7, 7\)"),
        (lambda obs: obs.long(), r"torch\.int64"),
        (lambda obs: obs > 0, r"torch\.bool"),
        (lambda obs: obs.numpy(), "ndarray"),
        (lambda obs: None, "None"),
    ],
)
def test_what_an_attack_returns_is_checked(function, got):
    """Broadcast it would show every agent the same."""
    rule = r"Returns\.__call__ must be a function that returns a float tensor of shape \(\d, 7\)"
    with pytest.raises((TypeError, ValueError), match=rf"{rule}, got {got}"):
        collected(three, ObsPerturber(Returns(function)))


def test_an_attack_may_calculate_in_double_precision():
    single, double = (
        collected(three, ObsPerturber(Returns(function)))
        for function in (lambda obs: obs + 0.1, lambda obs: obs.double() + np.float32(0.1))
    )
    assert double.obs.seen.dtype == torch.float32
    torch.testing.assert_close(double.obs.seen, single.obs.seen)
    assert bool((double.obs.seen != double.obs.obs).any())
    env = ObsAdversaryWrapper(three(), Returns(lambda obs: obs.double() + 0.1))
    assert all(row.dtype == np.float32 for row in env.reset(seed=0)[0].values())


def test_an_attack_that_writes_into_its_input_leaves_the_clean_observation():
    batch = collected(three, ObsPerturber(Scribbler(BALL), victim=ANYBODY))
    plain = collected(three, ObsPerturber(UniformNoise(ball=LinfBall(epsilon=0.0))))
    assert torch.equal(batch.obs.obs, plain.obs.obs)
    assert bool((batch.obs.seen != batch.obs.obs).any())
    env = ObsAdversaryWrapper(three(), Scribbler(BALL), victim=ANYBODY)
    (obs, infos), (truth, _) = env.reset(seed=1), three().reset(seed=1)
    for agent, row in truth.items():
        assert np.array_equal(infos[agent]["clean_obs"], row)
        assert np.allclose(obs[agent], row + 0.3)


@pytest.mark.parametrize("num_envs", [2, 4])
def test_the_number_of_environments_does_not_matter(num_envs):
    """A foreign victim with memory included, whose agent comes late."""
    alone = {"late": ("a2",), "rest": ("a0", "a1")}
    small = IPPO.for_env(
        three(teams=alone), team="late", hidden=(8,), recurrent=True, last_action=True
    )

    def make():
        return three(arrivals={2: 2}, lengths=(5,))

    def play(count):
        perturber = ObsPerturber(PGD(ball=BALL), victim=small, agents=["a2"], probability=0.6)
        return collected(make, perturber, num_envs=count)

    assert torch.equal(play(1).obs.seen, play(num_envs).obs.seen)


def test_the_size_of_the_change_is_known_per_agent():
    perturber = ObsPerturber(Shift(BALL), victim=ANYBODY, agents=["a0"])
    collected(three, perturber, num_envs=1)
    assert perturber.size.shape == (1, 3)
    perturber.bind(spec_of(three()), None, Place(0, "it"))
    assert perturber.obs_size == 2


# Who is attacked, where it is drawn


def attacked_in(batch):
    """Return who saw something else in each step, bool (B, T, N), last observations included."""
    return (batch.obs.seen != batch.obs.obs).any(-1)


@pytest.mark.parametrize("number", [0, 1, 2, 3, 8])
def test_so_many_agents_are_drawn_and_stay_attacked_for_the_episode(number):
    perturb = ObsPerturber(UniformNoise(ball=BALL), agents=RandomAgents(number))
    batch = collected(lambda: Scripted(3), perturb, episodes=12, num_envs=5)
    hit = attacked_in(batch)
    assert (hit.sum(-1) == min(number, 3)).all()
    assert (hit == hit[:, :1]).all()
    sets = {0: 1, 1: 3, 2: 3, 3: 1, 8: 1}
    assert len({tuple(row) for row in hit[:, 0].tolist()}) == sets[number]


def test_sets_are_equally_likely_and_who_is_named_alone_is_drawn():
    perturb = ObsPerturber(UniformNoise(ball=BALL), agents=RandomAgents(1, ["a0", "a2"]))
    batch = collected(lambda: Scripted(3), perturb, episodes=300, num_envs=30)
    share = attacked_in(batch)[:, 0].double().mean(0)
    assert share[1] == 0.0
    assert abs(float(share[0]) - 0.5) < 4 * (0.25 / 300) ** 0.5


def test_the_draw_is_the_episodes_however_many_are_played_side_by_side():
    def seen(num_envs):
        perturb = ObsPerturber(UniformNoise(ball=BALL), agents=RandomAgents(1))
        return collected(lambda: Scripted(3), perturb, episodes=6, num_envs=num_envs).obs.seen

    assert torch.equal(seen(1), seen(4))


def test_a_wrapper_draws_what_the_collector_draws():
    noise = UniformNoise(ball=BALL)
    batch = collected(lambda: Scripted(3), ObsPerturber(noise, agents=RandomAgents(2)), num_envs=1)
    env = ObsAdversaryWrapper(Scripted(3), noise, agents=RandomAgents(2))
    for k in range(4):
        obs, _ = env.reset(seed=episode_key(0, k) & 0x7FFFFFFF)
        shown = torch.stack([torch.from_numpy(obs[agent]) for agent in env.possible_agents])
        torch.testing.assert_close(shown, batch.obs.seen[k, 0])


@pytest.mark.parametrize("waits", [True, False])
def test_rows_are_chosen_alike_on_an_accelerator(waits):
    perturb = ObsPerturber(UniformNoise(ball=BALL), agents=RandomAgents(1))
    perturb._waits = waits
    hit = attacked_in(collected(lambda: Scripted(3), perturb, episodes=6))
    assert (hit.sum(-1) == 1).all()
    assert perturb.counters()["attacked"] == 6 * 4


def test_bad_draws():
    with pytest.raises(ValueError, match=r"RandomAgents\.number must be an int >= 0"):
        RandomAgents(-1)
    with pytest.raises(ValueError, match=r"RandomAgents\.among must be at least one name"):
        RandomAgents(2, [])
    other = ObsPerturber(UniformNoise(ball=BALL), agents=RandomAgents(1, ["b"]))
    with pytest.raises(ValueError, match=r"ObsPerturber\.agents must be among"):
        collected(lambda: Scripted(3), other)
    team = IPPO.for_env(Scripted(3, teams=TEAMS), team="blue", hidden=(8,))
    perturb = ObsPerturber(UniformNoise(ball=BALL), agents=RandomAgents(1, ["a0", "a1"]))
    with pytest.raises(ValueError, match=r"ObsPerturber\.agents must be among .*'a0'"):
        JointCollector(
            team,
            JointVectorEnv(lambda: Scripted(3, teams=TEAMS), 1),
            team="blue",
            opponents={"red": RandomController(spec_of(Scripted(3, teams=TEAMS)).of_team("red"))},
            perturb=[perturb],
        )


# A radius over time


@pytest.mark.parametrize("unit", ["updates", "episodes", "env_steps"])
def test_the_radius_follows_what_the_team_was_trained_on(unit):
    team = IPPO.for_env(Scripted(3), hidden=(8,))
    ramp = Linear(0.0, 0.5, over=100, begin=10, unit=unit)
    perturb = ObsPerturber(Shift(ball=BALL), epsilon=ramp)
    spec = spec_of(Scripted(3))
    for count, radius in ((0, 0.0), (10, 0.0), (60, 0.25), (110, 0.5), (500, 0.5)):
        team.policy.count(unit, count - team.policy.counted(unit))
        buffer = EpisodeBuffer(spec, 2)
        engine = JointVectorEnv(lambda: Scripted(3), 2)
        JointCollector(team, engine, buffer, perturb=[perturb]).collect(n_episode=2)
        moved = buffer.latest(2).obs.seen - buffer.latest(2).obs.obs
        torch.testing.assert_close(moved, torch.full_like(moved, radius))
    assert perturb.attack.ball == BALL  # settings stay what they were


def test_a_radius_over_time_needs_someone_who_counts():
    perturb = ObsPerturber(Shift(ball=BALL), epsilon=Linear(0.0, 1.0, over=5))
    with pytest.raises(ValueError, match=r"ObsPerturber\.epsilon must be None where the acting"):
        collected(lambda: Scripted(3), perturb)
    with pytest.raises(TypeError, match=r"ObsPerturber\.epsilon must be a number or a"):
        ObsPerturber(Shift(ball=BALL), epsilon="small")
    for bad in (-0.5, Linear(0.1, -0.1, over=5)):
        with pytest.raises(ValueError, match=r"ObsPerturber\.epsilon must be a number >= 0"):
            ObsPerturber(Shift(ball=BALL), epsilon=bad)
