"""What the collector plays, keeps, asks and refuses."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from doubles import Scripted, armies
from tianshou.utils.torch_utils import policy_within_training_step

from robustmarl._seeding import episode_key
from robustmarl.algorithms import IPPO, IQL, QMIX
from robustmarl.attacks import PGD, UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.data import EpisodeBuffer, JointCollector, RandomController, ScriptedController
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import last_actions, spec_of
from robustmarl.perturbers import ObsPerturber, Perturber
from robustmarl.typing import RobustnessWarning
from robustmarl.victims import FunctionVictim
from robustmarl.wrappers import ObsAdversaryWrapper

NOISE = UniformNoise(ball=LinfBall(epsilon=0.25))
ATTACK = PGD(ball=LinfBall(epsilon=0.25), steps=2)


def qmix(env, **settings):
    return QMIX.for_env(env, hidden=(8,), embed=4, hyper_hidden=4, **settings)


def ippo(env, **settings):
    return IPPO.for_env(env, hidden=(8,), output_gain=2.0, **settings)


class Watch(Perturber):
    """Writes down every call and what it was given; adds ``shift`` to what is seen."""

    def __init__(self, log=None, name="", shift=0.0):
        self.log = [] if log is None else log
        self.name, self.shift = name, shift

    def _note(self, what, context, **more):
        kept = {k: v.clone() for k, v in vars(context).items() if v is not None}
        self.log.append((self.name + what, kept | {k: v.clone() for k, v in more.items()}))

    def on_obs(self, context):
        self._note("on_obs", context)
        return context.seen + self.shift if self.shift else context.seen

    def shown(self, context):
        self._note("shown", context)

    def on_logits(self, context, logits):
        self._note("on_logits", context, logits=logits)
        return logits

    def on_act(self, context, act):
        self._note("on_act", context, act=act)
        return act

    def calls(self, what):
        return [kept for name, kept in self.log if name == self.name + what]


class Flip(Perturber):
    """Executes action 1 - a on odd steps, and the very same tensor on even ones."""

    def __init__(self, told):
        self.act_told = told

    def on_act(self, context, act):
        odd = (context.step % 2 == 1).unsqueeze(1)
        return torch.where(odd, 1 - act, act) if odd.any() else act


class Recorder(Perturber):
    def on_obs(self, context):
        self.step = context.step.clone()
        return context.seen

    def record(self):
        return {"when": self.step, "twice": torch.stack([self.step, self.step], dim=1)}


def play(policy, make, episodes, num_envs=1, *, training=False, seed=5, **settings):
    """Return (batch ordered by the episodes' observations, collector, statistics)."""
    env = JointVectorEnv(make, num_envs)
    spec = env.spec.of_team(settings.get("team"))
    store = EpisodeBuffer(spec, episodes)
    collector = JointCollector(policy, env, store, seed=seed, **settings)
    if training:
        with policy_within_training_step(policy.policy):
            stats = collector.collect(n_episode=episodes)
    else:
        stats = collector.collect(n_episode=episodes)
    batch = store.latest(episodes)
    order = batch.obs.obs[:, 0, 0, 0].argsort()
    return store.get_episodes(order.numpy()), collector, stats


def entries(batch):
    """Yield (key, values) of what was really played: (B, T+1, ...) or (B, T, ...) selected."""
    valid = batch.valid
    reached = torch.cat([torch.ones_like(valid[:, :1]), valid], dim=1)
    for key, values in batch.flat().items():
        if key != "valid":
            yield key, values[reached if key.startswith("obs.") else valid]


def assert_same(a, b, *, exact=True):
    assert torch.equal(a.valid, b.valid)
    left, right = dict(entries(a)), dict(entries(b))
    assert left.keys() == right.keys()
    for key, values in left.items():
        if exact or not values.is_floating_point():
            assert torch.equal(values, right[key]), key
        else:
            torch.testing.assert_close(values, right[key], rtol=1e-5, atol=1e-6, msg=key)


GAME = {"n": 3, "lengths": (2, 4, 7), "deaths": {1: 3}, "masks": "info", "action_sizes": (3, 4, 2)}


@pytest.mark.parametrize("perturb", [[], [NOISE, ATTACK]], ids=["clean", "attacked"])
@pytest.mark.parametrize("kind", ["qmix", "ippo", "gru", "random"])
def test_episodes_do_not_depend_on_how_many_play_side_by_side(kind, perturb):
    make = lambda: Scripted(**GAME)  # noqa: E731
    if kind == "random":
        perturb = perturb[:1]
        policy = RandomController(spec_of(make()))
    elif kind == "qmix":
        policy = qmix(make(), exploration=0.5)
    else:
        policy = ippo(make(), recurrent=kind == "gru", last_action=True)
    got = [
        play(policy, make, 9, num_envs, training=kind != "random", perturb=perturb)[0]
        for num_envs in (1, 3, 7)
    ]
    assert len(got[0].valid.sum(1).unique()) > 1
    for other in got[1:]:
        assert_same(got[0], other, exact=False)
        assert torch.equal(got[0].act[got[0].valid], other.act[other.valid])


def test_exploration_and_episodes_follow_from_the_seed():
    policy = qmix(Scripted(), exploration=0.5)
    one, two, three = (
        play(policy, Scripted, 6, 2, training=True, seed=s)[0].act for s in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    greedy = play(policy, Scripted, 6, 2, seed=1)[0].act
    assert not torch.equal(one, greedy)  # it explores in training only


@pytest.mark.parametrize("num_envs", [1, 4, 7])
def test_short_episodes_are_not_favoured(num_envs):
    make = lambda: Scripted(lengths=(1, 50))  # noqa: E731
    spec = spec_of(make())
    _, collector, stats = play(RandomController(spec), make, 12, num_envs)
    begun = [seed for joint in collector.engine.joint for seed in joint.env.seeds]
    assert sorted(begun) == sorted(episode_key(5, k) & 0x7FFFFFFF for k in range(12))
    lengths = []
    for seed in begun:
        env = make()
        env.reset(seed=seed)
        lengths.append(env.length)
    assert sorted(stats.lens) == sorted(lengths)
    assert 1 < sum(length == 50 for length in lengths) < 11
    assert stats.n_collected_episodes == 12
    assert stats.n_collected_steps == sum(lengths)


@pytest.mark.parametrize(("n_step", "episodes"), [(1, 2), (8, 2), (9, 4), (16, 4), (17, 6)])
def test_steps_are_rounded_up_to_whole_episodes(n_step, episodes):
    env = JointVectorEnv(Scripted, 2)
    collector = JointCollector(RandomController(env.spec), env)
    stats = collector.collect(n_step=n_step)
    assert stats.n_collected_episodes == episodes
    assert stats.n_collected_steps == 4 * episodes
    assert collector.episodes_begun == collector.collect_episode == episodes


def test_statistics_are_those_of_the_episodes():
    make = lambda: Scripted(3, lengths=(2, 5), metrics=("u", "steps"))  # noqa: E731
    batch, _, stats = play(RandomController(spec_of(make())), make, 8, 3)
    returns = (batch.rew * batch.valid).sum(1)
    assert sorted(stats.returns.tolist()) == pytest.approx(sorted(returns.tolist()))
    assert sorted(stats.lens) == sorted(batch.valid.sum(1).tolist())
    assert stats.metrics["steps"].tolist() == stats.lens.tolist()
    assert sorted(stats.metrics["u"]) == pytest.approx(batch.obs.obs[:, 0, 0, 0].tolist())


@pytest.mark.parametrize("rule", ["sum", "mean"])
def test_the_team_reward_is_sum_or_mean_and_every_agents_reward_is_kept(rule):
    make = lambda: Scripted(3, team_reward=rule)  # noqa: E731
    batch = play(RandomController(spec_of(make())), make, 2)[0]
    t = torch.arange(4).view(1, -1, 1)
    own = 1.0 + t + 10.0 * torch.arange(3) + batch.act
    assert torch.equal(batch.rew_agents, own)
    assert torch.equal(batch.rew, own.sum(-1) if rule == "sum" else own.mean(-1))


def test_a_time_limit_and_a_termination_are_told_apart():
    for end in ("terminated", "truncated"):
        make = lambda end=end: Scripted(end=end)  # noqa: E731
        batch = play(RandomController(spec_of(make())), make, 2, 2)[0]
        last, other = torch.tensor([[False, False, False, True]] * 2), torch.zeros(2, 4).bool()
        assert torch.equal(batch.terminated, last if end == "terminated" else other)
        assert torch.equal(batch.truncated, other if end == "terminated" else last)


# Hooks


def test_hooks_are_called_in_order_on_what_the_ones_before_left():
    log = []
    stack = [Watch(log, "p.", shift=1.0), Watch(log, "q.", shift=2.0)]
    make = lambda: Scripted(lengths=(2,))  # noqa: E731
    batch = play(qmix(make()), make, 1, perturb=stack)[0]
    step = ["on_obs", "shown", "on_logits", "on_act"]
    want = [f"{p}{what}" for what in step[:3] for p in ("p.", "q.")]
    want += ["q.on_act", "p.on_act"]  # actions pass from the agents to the environment
    assert [name for name, _ in log] == want * 2 + want[:4]
    for t, (p, q, shown) in enumerate(
        zip(
            stack[0].calls("on_obs"), stack[1].calls("on_obs"), stack[0].calls("shown"), strict=True
        )
    ):
        assert torch.equal(p["seen"], p["obs"])
        assert torch.equal(q["seen"], q["obs"] + 1.0)
        assert torch.equal(shown["seen"], shown["obs"] + 1.0 + 2.0)
        assert torch.equal(batch.obs.seen[:, t], shown["seen"])
        assert torch.equal(batch.obs.obs[:, t], p["obs"])
        assert p["step"].tolist() == [t]
        assert p["terminal"].tolist() == [t == 2]
        assert p["live"].tolist() == [True]
    assert stack[0].calls("on_obs")[0]["last_act"].tolist() == [[-1, -1]]
    assert torch.equal(stack[0].calls("on_obs")[1]["last_act"], batch.act[:, 0])


def test_logits_are_changed_before_actions_are_drawn():
    class Push(Perturber):
        def on_logits(self, context, logits):
            return logits + torch.tensor([0.0, 0.0, 1e6])

    batch = play(ippo(Scripted()), Scripted, 2, perturb=[Push()])[0]
    assert (batch.act == 2).all()
    torch.testing.assert_close(batch.logp, torch.zeros_like(batch.logp))


def test_the_policy_acts_on_what_it_sees():
    make = lambda: Scripted(masks="info")  # noqa: E731
    team = qmix(make())
    watch = Watch()
    batch = play(team, make, 3, perturb=[NOISE, watch])[0]
    q, _ = team.policy.network.unroll(batch.obs.seen[:, :-1], None)
    assert torch.equal(batch.act, q.masked_fill(~batch.obs.mask[:, :-1], -1e9).argmax(-1))
    assert watch.calls("on_logits")[0]["logits"][0, 0].min() == -1e9


def test_what_a_perturber_records_is_in_the_batch():
    batch = play(qmix(Scripted()), Scripted, 3, 2, perturb=[Recorder()])[0]
    assert batch.records["perturber"]["when"].tolist() == [[0, 1, 2, 3]] * 3
    assert batch.records["perturber"]["twice"].shape == (3, 4, 2)


@pytest.mark.parametrize("told", ["intended", "executed"])
def test_the_learner_is_told_the_intended_or_the_executed_action(told):
    make = lambda: Scripted(action_sizes=(2, 2), lengths=(3, 4))  # noqa: E731
    watch = Watch()
    batch, collector, _ = play(
        RandomController(spec_of(make())), make, 6, 1, perturb=[Flip(told), watch]
    )
    valid = batch.valid
    odd = (torch.arange(4) % 2 == 1).view(1, -1, 1)
    executed = torch.where(odd, 1 - batch.act_intended, batch.act_intended)
    assert torch.equal(batch.act_exec[valid], executed[valid])
    assert torch.equal(
        batch.act[valid], batch.flat()[{"intended": "act_intended"}.get(told, "act_exec")][valid]
    )
    received = sorted(tuple(map(int, a.values())) for a in collector.engine.joint[0].env.received)
    assert received == sorted(map(tuple, batch.act_exec[valid].tolist()))
    for kept in watch.calls("on_obs"):
        t, u = int(kept["step"]), kept["obs"][0, 0, 0]
        if t > 0:
            b = int((batch.obs.obs[:, 0, 0, 0] == u).nonzero()[0, 0])
            assert torch.equal(kept["last_act"][0], batch.act[b, t - 1])


def test_without_such_a_perturber_there_is_nothing_to_audit():
    batch = play(qmix(Scripted()), Scripted, 1, perturb=[NOISE])[0]
    assert batch.act_exec is None


def test_an_unknown_way_of_telling_is_refused():
    with pytest.raises(ValueError, match=r"act_told must be one of"):
        play(qmix(Scripted()), Scripted, 1, perturb=[Flip("guessed")])


@pytest.mark.parametrize("num_envs", [1, 3])
def test_hidden_states_begin_at_zero_and_follow_what_was_shown(num_envs):
    make = lambda: Scripted(lengths=(2, 5))  # noqa: E731
    team, watch = ippo(make(), recurrent=True, last_action=True), Watch()
    batch = play(team, make, 6, num_envs, perturb=[NOISE, watch])[0]
    last = last_actions(batch.act, terminal=True)
    _, before = team.policy.network.unroll(batch.obs.seen, last)
    seen = 0
    for kept in watch.calls("shown"):
        for e in kept["live"].nonzero()[:, 0]:
            t, u = int(kept["step"][e]), kept["obs"][e, 0, 0]
            b = int((batch.obs.obs[:, 0, 0, 0] == u).nonzero()[0, 0])
            torch.testing.assert_close(kept["hidden"][e], before[b, t], rtol=1e-5, atol=1e-6)
            assert t > 0 or not kept["hidden"][e].any()
            seen += 1
    assert seen == int(batch.valid.sum()) + 6


def test_the_terminal_observation_is_perturbed_and_kept():
    make = lambda: Scripted(end="terminated")  # noqa: E731
    for num_envs in (1, 2):
        batch = play(qmix(make()), make, 2, num_envs, perturb=[NOISE])[0]
        size = (batch.obs.seen - batch.obs.obs)[:, -1].abs()
        assert batch.obs.obs.shape[1] == batch.act.shape[1] + 1 == 5
        assert torch.equal(batch.obs.obs[:, -1, 0, 1], torch.full((2,), 0.4))
        assert size.max() <= 0.25 + 1e-6
        assert (size.amax(-1) > 0).all()


# Perturbers of observations


def test_only_the_named_agents_are_attacked_when_told():
    make = lambda: Scripted(3, lengths=(5,))  # noqa: E731
    perturber = ObsPerturber(NOISE, agents=["a2", "a0"], every=2)
    batch, _, stats = play(qmix(make()), make, 4, 3, perturb=[perturber])
    moved = (batch.obs.seen != batch.obs.obs).any(-1)
    want = torch.zeros(4, 6, 3, dtype=torch.bool)
    want[:, ::2, ::2] = True
    assert torch.equal(moved, want)
    assert stats.counters == {"0/attacked": 4 * 3 * 2, "0/unchanged": 0.0}


def test_probability_is_per_step_and_environment():
    make = lambda: Scripted(lengths=(25,))  # noqa: E731
    perturber = ObsPerturber(NOISE, probability=0.3)
    moved = [
        (batch.obs.seen != batch.obs.obs).any(-1)
        for num_envs in (1, 5)
        for batch in [play(qmix(make()), make, 20, num_envs, perturb=[perturber])[0]]
    ]
    assert torch.equal(*moved)
    assert torch.equal(moved[0][..., 0], moved[0][..., 1])  # a team is attacked together
    share = moved[0][..., 0].float().mean()
    assert abs(share - 0.3) < 5 * (0.21 / (20 * 26)) ** 0.5
    assert 0 < moved[0][:, 0, 0].sum() < 20


def test_a_share_of_the_episodes_is_attacked_throughout():
    perturber = ObsPerturber(NOISE, episodes=0.4)
    batch = play(qmix(Scripted()), Scripted, 80, 8, perturb=[perturber])[0]
    moved = (batch.obs.seen != batch.obs.obs).any(-1).flatten(1)
    assert torch.equal(moved.any(1), moved.all(1))
    assert abs(moved.all(1).float().mean() - 0.4) < 5 * (0.24 / 80) ** 0.5


def test_episodes_and_steps_are_drawn_apart():
    perturber = ObsPerturber(NOISE, episodes=0.5, probability=0.5)
    batch = play(qmix(Scripted()), Scripted, 200, 20, perturb=[perturber])[0]
    moved = (batch.obs.seen != batch.obs.obs).any(-1)[:, 0, 0]
    assert abs(moved.float().mean() - 0.25) < 5 * (0.1875 / 200) ** 0.5


def test_the_dead_are_not_attacked():
    make = lambda: Scripted(3, deaths={1: 2}, arrivals={2: 2})  # noqa: E731
    batch, _, stats = play(qmix(make()), make, 2, perturb=[NOISE])
    moved = (batch.obs.seen != batch.obs.obs).any(-1)
    assert torch.equal(moved[:, :4], batch.obs.alive[:, :4])
    assert stats.counters["0/attacked"] == batch.obs.alive[:, :4].sum()


@pytest.mark.parametrize(
    "idle",
    [
        NOISE.with_epsilon(0.0),
        ATTACK.with_epsilon(0.0),
        ObsPerturber(ATTACK, probability=0.0),
        ObsPerturber(ATTACK, episodes=0.0),
    ],
    ids=["noise", "pgd", "probability", "episodes"],
)
@pytest.mark.parametrize("recurrent", [False, True])
def test_no_budget_is_no_perturbation_bit_for_bit(idle, recurrent):
    team = ippo(Scripted(), recurrent=recurrent)
    plain = play(team, Scripted, 4, 2, training=True)[0]
    attacked = play(team, Scripted, 4, 2, training=True, perturb=[idle])[0]
    assert_same(plain, attacked)
    assert torch.equal(attacked.obs.seen, attacked.obs.obs)


def test_a_foreign_victim_is_asked_instead():
    other = FunctionVictim(lambda obs: torch.stack([obs[:, 0], -obs[:, 0], 0 * obs[:, 0]], -1))
    perturber = ObsPerturber(PGD.fgsm(LinfBall(epsilon=0.5)), victim=other)
    batch = play(qmix(Scripted()), Scripted, 2, perturb=[perturber])[0]
    shift = batch.obs.seen - batch.obs.obs
    assert torch.equal(shift[..., 1:], torch.zeros_like(shift[..., 1:]))  # it looks at the first
    torch.testing.assert_close(shift[..., 0], torch.full_like(shift[..., 0], -0.5))


def test_a_foreign_recurrent_victim_remembers_what_was_shown():
    make = lambda: Scripted(lengths=(2, 5))  # noqa: E731
    team = ippo(make(), recurrent=True, last_action=True)
    foreign = ObsPerturber(ATTACK, victim=team.untrained(seed=0))  # of the same weights
    one = play(team, make, 5, 3, perturb=[foreign, NOISE])[0]
    two = play(team, make, 5, 3, perturb=[ATTACK, NOISE])[0]
    assert_same(one, two, exact=False)
    assert not torch.equal(one.obs.seen, one.obs.obs)


def test_perturbers_that_do_not_fit_are_refused():
    team = qmix(Scripted())
    with pytest.raises(ValueError, match=r"ObsPerturber\.agents must be among .*got \['zz'\]"):
        play(team, Scripted, 1, perturb=[ObsPerturber(NOISE, agents=["zz"])])
    far = FunctionVictim(lambda obs: obs, device="meta")
    with pytest.raises(ValueError, match=r"ObsPerturber\.victim must be on cpu, got 'meta'.*\.to"):
        play(team, Scripted, 1, perturb=[ObsPerturber(ATTACK, victim=far)])
    with pytest.raises(ValueError, match=r"PGD\.ball\.epsilon must be one number or 5 numbers"):
        play(team, Scripted, 1, perturb=[PGD(ball=LinfBall(epsilon=(0.1, 0.2)))])
    with pytest.raises(
        ValueError, match=r"ObsPerturber\.victim must be given where nobody acts, or"
    ):
        play(RandomController(spec_of(Scripted())), Scripted, 1, perturb=[ATTACK])
    with pytest.raises(TypeError, match=r"JointCollector\.perturb must be an attack, a perturber"):
        play(team, Scripted, 1, perturb=["noise"])


@pytest.mark.parametrize(
    ("name", "value"), [("every", 0), ("probability", 1.5), ("episodes", -0.1), ("every", 1.0)]
)
def test_bad_settings_of_a_perturber(name, value):
    with pytest.raises((ValueError, TypeError), match=rf"ObsPerturber\.{name} must be"):
        ObsPerturber(NOISE, **{name: value})


def test_an_attack_that_does_nothing_says_so():
    flat = FunctionVictim(lambda obs: obs[:, :3] * 0.0)
    perturber = ObsPerturber(ATTACK, victim=flat)
    _, _, stats = play(qmix(Scripted()), Scripted, 2, perturb=[perturber])
    assert stats.counters == {"0/attacked": 16.0, "0/unchanged": 16.0}
    with pytest.warns(RobustnessWarning, match="changed none of 16 observations"):
        perturber.warn_if_idle()


def test_an_attack_cannot_leave_its_ball():
    class Cheat:
        ball: ClassVar = LinfBall(epsilon=0.1, low=0.0)

        def with_epsilon(self, epsilon):
            return self

        def __call__(self, view, obs, draws=None):
            return obs + 100.0

    batch = play(qmix(Scripted()), Scripted, 1, perturb=[Cheat()])[0]
    assert (batch.obs.seen - batch.obs.obs).abs().max() <= 0.1 + 1e-6


# One wrapper around one environment


@pytest.mark.parametrize("attack", [NOISE, ATTACK, ObsPerturber(NOISE, probability=0.5, every=2)])
@pytest.mark.parametrize("kind", ["mlp", "gru"])
def test_the_wrapper_shows_what_the_collector_shows(attack, kind):
    game = {"masks": "info", "lengths": (3, 6), "obs_sizes": (5, 3)}
    team = ippo(Scripted(**game), recurrent=kind == "gru", last_action=True)
    options = {}
    if isinstance(attack, ObsPerturber):
        options = {"probability": 0.5, "every": 2}
    inner = attack.attack if isinstance(attack, ObsPerturber) else attack
    batch = play(team, lambda: Scripted(**game), 3, perturb=[attack], seed=11)[0]
    env = ObsAdversaryWrapper(Scripted(**game), inner, victim=team, **options)
    for episode in range(3):
        obs, infos = env.reset(seed=episode_key(11, episode) & 0x7FFFFFFF)
        clean = infos["a0"]["clean_obs"]
        b = int((batch.obs.obs[:, 0, 0, 0] == float(clean[0])).nonzero()[0, 0])
        for t in range(int(batch.valid[b].sum()) + 1):
            for i, agent in enumerate(env.possible_agents):
                size = len(obs[agent])
                torch.testing.assert_close(
                    torch.as_tensor(obs[agent]), batch.obs.seen[b, t, i, :size], rtol=0, atol=1e-6
                )
            if env.agents:
                actions = {a: int(batch.act[b, t, i]) for i, a in enumerate(env.agents)}
                obs, *_, infos = env.step(actions)
        assert not env.agents


# Several teams


@pytest.mark.parametrize("opponent", ["random", "script", "frozen"])
def test_a_team_learns_from_its_own_slice_of_a_battle(opponent):
    spec = spec_of(armies())
    blue = spec.of_team("blue")
    team = IPPO.for_env(spec, team="red", hidden=(8,))
    script = ScriptedController(blue, lambda context: torch.zeros(1, 64, dtype=torch.int64) + 0)
    frozen = IPPO.for_env(spec, team="blue", hidden=(8,), recurrent=True)
    other = {"random": RandomController(blue), "script": script, "frozen": frozen}[opponent]
    batch, collector, _ = play(
        team, armies, 1, training=True, team="red", opponents={"blue": other}, perturb=[NOISE]
    )
    assert batch.obs.obs.shape == (1, 4, 64, 5)
    assert batch.obs.mask.shape == (1, 4, 64, 3)
    assert batch.obs.state.shape == (1, 4, 3)
    own = 1.0 + torch.arange(3).view(1, 3, 1) + 10.0 * torch.arange(64) + batch.act
    assert torch.equal(batch.rew_agents, own)
    torch.testing.assert_close(batch.rew, own.sum(-1))
    received = collector.engine.joint[0].env.received
    sent = torch.tensor([[int(a) for a in actions.values()] for actions in received])
    assert torch.equal(sent[:, :64], batch.act[0])
    if opponent == "script":
        assert not sent[:, 64:].any()
    else:
        assert len(sent[:, 64:].unique()) == 4
    assert team.policy.counted("env_steps") == 3
    assert frozen.policy.counted("env_steps") == 0


def test_the_second_team_and_its_padding():
    spec = spec_of(armies(2))
    blue = IPPO.for_env(spec, team="blue", hidden=(8,))
    seen = []

    def script(context):
        seen.append((context.obs.shape, context.mask.shape, context.last_act.clone()))
        return torch.full((2, 2), 0)

    red = ScriptedController(spec.of_team("red"), script)
    batch = play(blue, lambda: armies(2), 2, 2, team="blue", opponents={"red": red})[0]
    assert batch.obs.obs.shape == (2, 4, 2, 7)
    assert batch.obs.obs[0, 0, :, 2].tolist() == [2.0, 3.0]  # the agents' own numbers
    assert seen[0][:2] == ((2, 2, 5), (2, 2, 3))
    assert (seen[0][2] == -1).all()
    assert (seen[1][2] == 0).all()


def test_every_other_team_needs_a_controller():
    env = JointVectorEnv(lambda: armies(2), 1)
    red = RandomController(env.spec.of_team("red"))
    blue = RandomController(env.spec.of_team("blue"))
    with pytest.raises(ValueError, match=r"a controller for each of the other teams \['blue'\]"):
        JointCollector(red, env, team="red")
    with pytest.raises(ValueError, match=r"controller for each of the other teams"):
        JointCollector(red, env, team="red", opponents={"blue": blue, "green": blue})
    with pytest.raises(ValueError, match=r"RandomController\.spec must be the team's"):
        JointCollector(red, env, team="red", opponents={"blue": red})
    with pytest.raises(ValueError, match=r"one of \['red', 'blue'\] where there are several"):
        JointCollector(red, env)


# What is refused, and what is left alone


def test_a_policy_for_another_environment_is_refused():
    env = JointVectorEnv(lambda: Scripted(3), 1)
    with pytest.raises(ValueError, match=r"policy must be made for this environment.*agents"):
        JointCollector(qmix(Scripted()), env)


def test_tianshous_own_policy_plays():
    from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
    from tianshou.utils.net.common import Net

    space = Scripted().action_space("a0")
    net = Net(state_shape=(5,), action_shape=(3,))
    policy = DiscreteQLearningPolicy(model=net, action_space=space)
    stats = JointCollector(policy, JointVectorEnv(Scripted, 1)).collect(n_episode=2)
    assert len(stats.returns) == 2


def test_a_buffer_for_another_team_is_refused():
    env = JointVectorEnv(Scripted, 1)
    store = EpisodeBuffer(spec_of(Scripted(3)), 1)
    with pytest.raises(ValueError, match=r"JointCollector\.buffer must be for this team"):
        JointCollector(qmix(Scripted()), env, store)


def test_logits_that_are_not_finite_name_environment_agent_and_step():
    team = qmix(Scripted(), agent_id=True)
    with torch.no_grad():
        team.policy.network.id_table[1] = torch.nan
    with pytest.raises(
        ValueError, match=r"logits must be finite.*environment 0, agent 'a1', step 0"
    ):
        play(team, Scripted, 1)


def test_an_episode_longer_than_its_horizon_is_refused():
    make = lambda: Scripted(lengths=(5,), horizon=3)  # noqa: E731
    with pytest.raises(
        ValueError, match=r"environment 0 must end within its stated horizon of 3 st"
    ):
        play(qmix(make()), make, 1)


@pytest.mark.parametrize(
    "given", [{}, {"n_step": 2, "n_episode": 2}, {"n_step": 0}, {"n_episode": -1}]
)
def test_either_steps_or_episodes_are_asked_for(given):
    collector = JointCollector(qmix(Scripted()), JointVectorEnv(Scripted, 1))
    with pytest.raises(ValueError, match=r"JointCollector\.collect"):
        collector.collect(**given)


@pytest.mark.parametrize("name", ["random", "render", "gym_reset_kwargs"])
def test_arguments_of_tianshous_that_would_be_ignored_are_refused(name):
    env = JointVectorEnv(Scripted, 1)
    collector = JointCollector(qmix(Scripted()), env)
    with pytest.raises(ValueError, match=rf"JointCollector\.collect\.{name} must be left out"):
        collector.collect(n_episode=1, **{name: True})


def test_counts_go_up_in_training_only_and_weights_do_not_change():
    team = qmix(Scripted())
    before = {k: v.clone() for k, v in team.policy.network.state_dict().items()}
    play(team, Scripted, 3, perturb=[ATTACK])
    assert team.policy.counted("env_steps") == team.policy.counted("episodes") == 0
    play(team, Scripted, 3, training=True, perturb=[ATTACK])
    assert team.policy.counted("env_steps") == 12
    assert team.policy.counted("episodes") == 3
    assert all(torch.equal(before[k], v) for k, v in team.policy.network.state_dict().items())
    assert all(p.grad is None for p in team.parameters())


def test_it_goes_on_where_it_was():
    team = qmix(Scripted())
    whole = play(team, Scripted, 5)[0].obs.obs[:, 0, 0, 0]
    env = JointVectorEnv(Scripted, 2)
    first = JointCollector(team, env, seed=5)
    first.collect(n_episode=2)
    store = EpisodeBuffer(env.spec, 5)
    second = JointCollector(team, JointVectorEnv(Scripted, 2), store, seed=0)
    second.load_state_dict(first.state_dict())
    second.collect(n_episode=3)
    rest = store.latest(3).obs.obs[:, 0, 0, 0]
    assert len(set(whole.tolist()) & set(rest.tolist())) == 3


def test_a_scripts_own_tensor_is_left_alone():
    make = lambda: Scripted(continuous=True)  # noqa: E731
    constant = torch.full((2, 2, 3), 0.5)
    script = ScriptedController(spec_of(make()), lambda context: constant)
    batch = play(script, make, 4, 2)[0]
    assert (constant == 0.5).all()
    assert (batch.act == 0.5).all()


def test_continuous_actions_reach_the_box():
    make = lambda: Scripted(continuous=True)  # noqa: E731
    act = torch.tensor([-2.0, 0.0, 1.0])
    script = ScriptedController(spec_of(make()), lambda context: act.expand(1, 2, 3))
    _, collector, _ = play(script, make, 1)
    received = collector.engine.joint[0].env.received[0]["a0"]
    np.testing.assert_allclose(received, [-1.0, 2.0, 4.0])
    batch = play(RandomController(spec_of(make())), make, 40, 8)[0]
    assert -1 <= batch.act.min() < -0.95
    assert 0.95 < batch.act.max() <= 1


def test_random_play_is_uniform_over_the_available():
    make = lambda: Scripted(masks="info", action_sizes=(4, 4), lengths=(20,))  # noqa: E731
    batch = play(RandomController(spec_of(make())), make, 60, 6)[0]
    mask = batch.obs.mask[:, :-1]
    assert mask.gather(-1, batch.act.unsqueeze(-1)).all()
    share = torch.nn.functional.one_hot(batch.act, 4)[..., 0].float().mean()  # of always 3
    assert abs(share - 1 / 3) < 5 * (2 / 9 / 2400) ** 0.5


def test_independent_learners_use_it_too():
    team = IQL.for_env(Scripted(), hidden=(8,), exploration=1.0)
    batch = play(team, Scripted, 10, 5, training=True)[0]
    assert set(batch.act.unique().tolist()) == {0, 1, 2}
