"""The perturber touches one agent's draw, in training, within its budget, and nothing else."""

import math

import pytest
import torch
from learners import Arena, arena_spec, collected, weights
from tianshou.algorithm.algorithm_base import OffPolicyAlgorithm
from tianshou.utils.torch_utils import policy_within_training_step

from robustmarl.algorithms import (
    COMA,
    DOP,
    IPPO,
    IQL,
    MAPPO,
    QMIX,
    VDN,
    OwnActionValues,
    TrueTypeMAPPO,
)
from robustmarl.attacks import JAttack, RandomAttack, VarianceAttack
from robustmarl.data import EpisodeBuffer, JointCollector
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import MASKED, StepContext
from robustmarl.learning.values import Valuation
from robustmarl.perturbers import ActionPoisonPerturber, Place

ATTACKS = {"random": RandomAttack(), "variance": VarianceAttack(samples=2), "J": JAttack(samples=2)}
SMALL = {"hidden": (8,), "exploration": 0.0}


class AttackableMAPPO(OwnActionValues, MAPPO):
    """PPO with the adversary's critic."""


LEARNERS = {
    "COMA": lambda: COMA.for_env(Arena(), critic_hidden=(8,), **SMALL),
    "DOP": lambda: DOP.for_env(Arena(), critic_hidden=(8,), **SMALL),
    "DOP, separate": lambda: DOP.for_env(Arena(), critic_hidden=(8,), shared=False, **SMALL),
    "MAPPO": lambda: AttackableMAPPO.for_env(Arena(), hidden=(8,)),
    "QMIX": lambda: QMIX.for_env(Arena(), recurrent=True, **SMALL),
    "VDN": lambda: VDN.for_env(Arena(), **SMALL),
    "IQL": lambda: IQL.for_env(Arena(), **SMALL),
}
VALUE_BASED = ("QMIX", "VDN", "IQL")


def update(learner, buffer, repeat=1):
    off = isinstance(learner, OffPolicyAlgorithm)
    how = {"sample_size": 4} if off else {"batch_size": None, "repeat": repeat}
    with policy_within_training_step(learner.policy):
        return learner.update(buffer=buffer, **how)


def make_learner(name, *, updated=True):
    learner = LEARNERS[name]()
    if updated:  # so that the actor has a gradient
        update(learner, collected(learner))
    return learner


def make(learner, attack="variance", agent="unit_1", **settings):
    if type(learner).__name__ in VALUE_BASED:
        settings.setdefault("temperature", 0.5)
    return ActionPoisonPerturber(ATTACKS[attack], learner=learner, agent=agent, **settings)


def played(learner, perturb=(), *, training=True, episodes=6, seed=0):
    buffer = EpisodeBuffer(learner.spec, episodes)
    collector = JointCollector(
        learner, JointVectorEnv(Arena, 3), buffer, seed=seed, perturb=perturb
    )
    with policy_within_training_step(learner.policy, enabled=training):
        stats = collector.collect(n_episode=episodes)
    return buffer.get_episodes(buffer.sample_indices(0)), stats


def tensors(batch):
    flat = batch.flat()
    return {k: v for k, v in flat.items() if not k.startswith("poison")}


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize(("settings", "training"), [({"attack_frequency": 0.0}, True), ({}, False)])
def test_silent_means_bit_identical(name, settings, training):
    learner = make_learner(name)
    generator = torch.get_rng_state()
    clean, _ = played(learner, training=training)
    silent, stats = played(learner, [make(learner, **settings)], training=training)
    one, other = tensors(clean), tensors(silent)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert not silent.records["poison"]["attacked"].any()
    assert stats.counters["0/attacked"] == 0
    assert torch.equal(generator, torch.get_rng_state())


@pytest.mark.parametrize("frequency", [0.0, 1.0])
def test_the_buffers_draws_are_its_own(frequency):
    learner = make_learner("DOP")
    perturber = make(learner, "random", attack_frequency=frequency)
    clean, other = collected(learner), collected(learner, perturb=[perturber])
    for size in (3, 5):
        assert clean.sample_indices(size).tolist() == other.sample_indices(size).tolist()


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_only_the_attacked_agents_actions_differ(name, attack):
    """The arena's observations and masks do not depend on actions, nor do MLPs on the past."""
    learner = LEARNERS[name]()
    learner = type(learner).for_env(Arena(), **{
        "hidden": (8,), "recurrent": False, "last_action": False,
        **({} if name == "MAPPO" else {"exploration": 0.0}),
    })  # fmt: skip
    update(learner, collected(learner))
    before, generator = weights(learner), torch.get_rng_state()
    perturber = make(learner, attack, kl_budget=2.0)
    clean, _ = played(learner)
    poisoned, stats = played(learner, [perturber])
    for key in ("obs.obs", "obs.seen", "obs.mask", "obs.state", "obs.alive", "terminated"):
        assert torch.equal(tensors(clean)[key], tensors(poisoned)[key])
    differ = clean.act != poisoned.act
    assert differ[..., 1].any()
    assert not differ[..., [0, 2]].any()
    assert torch.equal(poisoned.rew_agents[..., [0, 2]], clean.rew_agents[..., [0, 2]])
    after = weights(learner)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert torch.equal(generator, torch.get_rng_state())
    alive = poisoned.valid & poisoned.obs.alive[:, :-1, 1]
    assert torch.equal(poisoned.records["poison"]["attacked"], alive)
    assert (poisoned.records["poison"]["kl"] <= 2.0 + 1e-6).all()
    assert stats.counters["0/attacked"] == alive.sum() == stats.counters["0/steps"]
    available = poisoned.obs.mask[:, :-1].gather(-1, poisoned.act.unsqueeze(-1)).squeeze(-1)
    assert available[poisoned.valid].all()


@pytest.mark.parametrize("name", ["COMA", "MAPPO"])
def test_what_is_stored_is_the_executed_action_under_the_clean_policy(name):
    learner = make_learner(name)
    batch, _ = played(learner, [make(learner, "random")])
    network = learner.policy.network
    last = torch.cat([torch.full_like(batch.act[:, :1], -1), batch.act[:, :-1]], dim=1)
    output, _ = network.unroll(batch.obs.seen[:, :-1], last)
    output = output.masked_fill(~batch.obs.mask[:, :-1], MASKED)
    logp = torch.log_softmax(output, -1).gather(-1, batch.act.unsqueeze(-1)).squeeze(-1)
    rows = batch.valid.unsqueeze(-1) & batch.obs.alive[:, :-1]
    assert torch.allclose(logp[rows], batch.logp[rows], atol=1e-5)
    earned = batch.act == torch.arange(batch.act.shape[1])[None, :, None] % 4
    assert torch.equal(earned[rows], batch.rew_agents[rows] > 0)  # the environment agrees


@pytest.mark.parametrize("name", LEARNERS)
def test_likelihood_and_kl_are_those_of_the_policies(name):
    """Where one action is forced, L is its clean log-probability."""
    learner = make_learner(name)
    perturber = make(learner, "random", kl_budget=50.0)
    batch, stats = played(learner, [perturber])
    attacked = batch.record("poison")["attacked"]
    found = batch.record("poison")["log_likelihood"][attacked]
    assert torch.allclose(found, -batch.record("poison")["kl"][attacked], atol=1e-5)
    if name not in VALUE_BASED:
        assert torch.allclose(found, batch.logp[..., 1][attacked], atol=1e-5)
    assert stats.counters["0/saturated"] == attacked.sum()
    mean = stats.counters["0/log_likelihood"]
    assert mean == pytest.approx(
        float(batch.record("poison")["log_likelihood"][attacked].mean()), abs=1e-5
    )


def test_likelihood_of_steps_left_alone_is_minus_the_entropy():
    learner = make_learner("COMA")
    batch, stats = played(learner, [make(learner, "random", attack_frequency=0.5)])
    last = torch.cat([torch.full_like(batch.act[:, :1], -1), batch.act[:, :-1]], dim=1)
    output, _ = learner.policy.network.unroll(batch.obs.seen[:, :-1], last)
    logp = torch.log_softmax(output.masked_fill(~batch.obs.mask[:, :-1], MASKED), -1)[:, :, 1]
    rows = batch.valid & batch.obs.alive[:, :-1, 1] & ~batch.record("poison")["attacked"]
    assert 0 < rows.sum() < batch.valid.sum()
    entropy = -(logp.exp() * logp).sum(-1)
    assert torch.allclose(batch.record("poison")["log_likelihood"][rows], -entropy[rows], atol=1e-5)
    assert stats.counters["0/steps"] > stats.counters["0/attacked"] > 0


def many(learner, size, **kept):
    spec = learner.spec
    arrays = spec.empty(size)
    yes = torch.ones(size, dtype=torch.bool)
    return StepContext(
        obs=arrays["obs"],
        seen=arrays["obs"],
        mask=torch.ones_like(arrays["mask"]),
        state=arrays["state"],
        alive=torch.ones_like(arrays["alive"]),
        observed=torch.ones_like(arrays["alive"]),
        last_act=arrays["act"],
        hidden=torch.zeros(size, spec.num_agents, learner.policy.hidden_size),
        step=torch.zeros(size, dtype=torch.int64),
        keys=torch.arange(size),
        live=yes,
        terminal=~yes,
    )


def test_attack_rate():
    learner = make_learner("DOP", updated=False)
    size, f = 100_000, 0.3
    perturber = make(learner, "random", attack_frequency=f, when="always")
    context = many(learner, size)
    logits = torch.zeros(size, 3, 4)
    found = perturber.on_logits(context, logits)
    spread = math.sqrt(size * f * (1 - f))
    assert abs(float(perturber.attacked.sum()) - size * f) < 3 * spread
    untouched = found[~perturber.attacked]
    assert torch.equal(untouched, logits[~perturber.attacked])
    assert torch.equal(found[:, [0, 2]], logits[:, [0, 2]])
    chosen = perturber.act[perturber.attacked]
    share = torch.bincount(chosen, minlength=4) / len(chosen)  # directions are symmetric
    assert (share - 0.25).abs().max() < 0.02


def test_draws_follow_the_poisoned_policy():
    learner = make_learner("DOP", updated=False)
    fixed = torch.tensor([1.0, -1.0, 0.0, 0.0])
    perturber = ActionPoisonPerturber(
        lambda view: fixed.expand(view.mask.shape),
        learner=learner,
        agent="unit_0",
        kl_budget=0.3,
        when="always",
    )
    context = many(learner, 40_000)
    perturber.on_logits(context, torch.zeros(40_000, 3, 4))
    share = torch.bincount(perturber.act, minlength=4) / 40_000
    beta = float(perturber.scale[0]) * math.sqrt(0.5)
    expected = torch.softmax(beta * fixed, -1)
    assert (share - expected).abs().max() < 0.01
    assert perturber.kl.unique().tolist() == pytest.approx([0.3], abs=1e-4)


def test_the_dead_and_the_finished_are_left_alone():
    learner = make_learner("DOP", updated=False)
    perturber = make(learner, "random", when="always")
    context = many(learner, 4)
    context.alive[0, 1] = context.live[1] = False
    context.terminal[2] = True
    perturber.on_logits(context, torch.zeros(4, 3, 4))
    assert perturber.attacked.tolist() == [False, False, False, True]
    assert perturber.act.tolist()[:3] == [-1, -1, -1]


def test_an_attack_on_one_who_dies():
    learner = make_learner("DOP")
    batch, _ = played(learner, [make(learner, agent="unit_2")])
    dead = ~batch.obs.alive[:, :-1, 2] & batch.valid
    assert dead.any()
    assert not batch.record("poison")["attacked"][dead].any()
    assert (batch.act[..., 2][dead] == 0).all()  # its no-op
    assert (batch.record("poison")["log_likelihood"][dead] == 0).all()


def test_a_single_available_action_is_in_vain():
    learner = make_learner("DOP")
    perturber = make(learner, when="always")
    context = many(learner, 3)
    context.mask[:, 1, 1:] = False
    logits = torch.zeros(3, 3, 4).masked_fill(~context.mask, MASKED)
    perturber.on_logits(context, logits)
    assert (perturber.act == 0).all()
    assert (perturber.kl == 0).all()
    assert perturber.counters()["ineffective"] == 3


def test_return_attacks_nothing_before_the_first_update():
    learner = make_learner("DOP", updated=False)
    _, stats = played(learner, [make(learner, "J")])
    assert stats.counters["0/attacked"] == stats.counters["0/ineffective"] > 0
    update(learner, collected(learner))
    _, stats = played(learner, [make(learner, "J")])
    assert stats.counters["0/ineffective"] < 0.5 * stats.counters["0/attacked"]


class Listening(JointVectorEnv):
    """Tells what agent 1 was made to do."""

    def advance(self, act, active):
        self.heard(act[:, 1].clone())
        super().advance(act, active)


@pytest.mark.parametrize("name", ["DOP", "QMIX"])
def test_exploration_acts_after_the_attack(name):
    learner = LEARNERS[name]()
    perturber = make(learner, "random")
    executed = []
    kept = perturber.record

    def record():
        executed.append((perturber.attacked.clone(), perturber.act.clone()))
        return kept()

    perturber.record = record
    engine = Listening(Arena, 2)
    for epsilon, same in ((0.0, True), (1.0, False)):
        learner.policy.exploration = lambda count, epsilon=epsilon: epsilon
        learner.policy.exploration.unit = "updates"
        collector = JointCollector(
            learner, engine, EpisodeBuffer(learner.spec, 4), perturb=[perturber]
        )
        executed.clear()
        told = []
        engine.heard = told.append
        with policy_within_training_step(learner.policy):
            collector.collect(n_episode=4)
        agree = [(t == a)[k] for t, (k, a) in zip(told, executed, strict=True)]
        assert bool(torch.cat(agree).all()) == same


@pytest.mark.parametrize("name", VALUE_BASED)
def test_a_value_based_agent_is_a_softmax_over_values(name):
    """Its policy is softmax(Q / T), its advantages Q - E Q, its scores their gradient."""
    learner, temperature = make_learner(name), 0.25
    network, checked = learner.policy.network, []

    def attack(view):
        context = view._context
        ids = torch.arange(3)
        with torch.enable_grad():
            extra = network.extra(ids, context.last_act)
            value, _ = network.step(context.seen, extra, context.hidden)
            value = value.masked_fill(~context.mask, MASKED)
            logp = torch.log_softmax(value / temperature, dim=-1)
            parameters = list(network.parameters())
            for row in range(len(value)):
                policy, q = logp[row, 1].exp().detach(), value[row, 1].detach()
                q = torch.where(context.mask[row, 1], q, 0.0)
                weight = torch.zeros_like(q)
                for a in context.mask[row, 1].nonzero()[:, 0].tolist():
                    score = torch.autograd.grad(
                        logp[row, 1, a], parameters, retain_graph=True, allow_unused=True
                    )
                    square = sum(float(g.square().sum()) for g in score if g is not None)
                    weight[a] = (q[a] - policy @ q) ** 2 * square
                expected = policy * (weight - policy @ weight)
                found = VarianceAttack(terms="own")(view)[row].float()
                if expected.norm() > 1e-8:
                    cosine = torch.cosine_similarity(found, expected, dim=0)
                    assert cosine > 1 - 1e-4
                    checked.append(row)
        return VarianceAttack(terms="own")(view)

    perturber = ActionPoisonPerturber(
        attack, learner=learner, agent="unit_1", temperature=temperature, kl_budget=0.5
    )
    batch, _ = played(learner, [perturber], episodes=2)
    assert len(checked) > 3
    assert float(batch.record("poison")["kl"].max()) <= 0.5
    assert float(batch.record("poison")["kl"].max()) > 0.4


@pytest.mark.parametrize("name", LEARNERS)
def test_a_frozen_team_can_be_attacked_in_evaluation(name):
    learner = make_learner(name)
    batch, stats = played(learner, [make(learner, when="always")], training=False)
    assert batch.record("poison")["attacked"].any()
    assert stats.counters["0/attacked"] > 0


def test_ppo_with_a_given_advantage_function():
    learner = IPPO.for_env(Arena(), hidden=(8,))
    value = torch.tensor([3.0, 1.0, 0.0, -1.0])
    perturber = ActionPoisonPerturber(
        VarianceAttack(),
        learner=learner,
        agent="unit_0",
        advantage_fn=lambda context: value.expand(*context.mask.shape),
    )
    _, stats = played(learner, [perturber])
    assert stats.counters["0/attacked"] > 0
    assert stats.counters["0/ineffective"] < stats.counters["0/attacked"]


def test_the_adversarys_critic_leaves_its_learner_alone():
    plain, mixed = (
        MAPPO.for_env(Arena(), hidden=(8,)),
        AttackableMAPPO.for_env(Arena(), hidden=(8,)),
    )
    for learner in (plain, mixed):
        update(learner, collected(learner), repeat=2)
    own = weights(plain)
    both = weights(mixed)
    assert all(torch.equal(own[k], both[k]) for k in own)
    assert {k.split(".")[0] for k in both.keys() - own.keys()} == {"action_critic"}


def test_the_adversarys_critic_costs_no_second_look_at_the_episodes(monkeypatch):
    asked, advantages = [], Valuation.advantages

    def spy(self, batch, side=None):
        asked.append(side)
        return advantages(self, batch, side)

    class Typed(OwnActionValues, TrueTypeMAPPO):
        """Its returns are those of the slots that it acted on."""

    monkeypatch.setattr(Valuation, "advantages", spy)
    for learner in (LEARNERS["MAPPO"](), Typed.for_env(Arena(), hidden=(8,), preset=None)):
        asked.clear()
        stats = update(learner, collected(learner, perturb=learner.perturbers()))
        assert "action_critic_loss" in stats.metrics
        assert len(asked) == 1
    assert asked[0]["slots"].shape == (6, 7, 3, 3)


def test_the_adversarys_critic_learns_values_of_own_actions():
    class Attackable(OwnActionValues, IPPO):
        pass

    make_env = lambda: Arena(deaths=False)  # noqa: E731
    learner = Attackable.for_env(
        make_env(), hidden=(16,), gamma=0.0, action_critic_lr=1e-2, reward="agents"
    )
    buffer = collected(learner, 200, make_env=make_env, num_envs=20)
    for _ in range(60):
        update(learner, buffer)
    batch = buffer.get_episodes(buffer.sample_indices(0))
    q = learner.action_critic(batch.obs.state[:, 2], batch.obs.seen[:, 2])[batch.valid[:, 2]]
    assert (q[..., 2] - 3.0).abs().mean() < 0.6  # playing 2 in step 2 earns 3
    assert q[..., [0, 1, 3]].abs().mean() < 0.6


@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        ({"agent": "nobody"}, ValueError, r"agent must be among \['unit_0'.*got \['nobody'\]"),
        ({"agent": 1}, TypeError, r"agent must be an agent's name, got 1"),
        ({"attack_frequency": 1.5}, ValueError, r"attack_frequency must be a number in \[0, 1\]"),
        ({"attack_frequency": -0.1}, ValueError, r"attack_frequency must be a number in \[0, 1\]"),
        ({"kl_budget": 0.0}, ValueError, r"kl_budget must be a number > 0, nats, got 0\.0\."),
        ({"kl_budget": -1.0}, ValueError, r"kl_budget must be a number > 0, nats, got -1\.0\."),
        ({"kl_budget": math.nan}, ValueError, r"kl_budget must be a number > 0, nats, got nan"),
        ({"kl_budget": "6"}, TypeError, r"kl_budget must be a number"),
        ({"when": "sometimes"}, ValueError, r"when must be one of \['training', 'always'\]"),
        ({"temperature": 1.0}, ValueError, r"temperature must be left out for a stochastic policy"),
    ],
)
def test_bad_settings(settings, kind, text):
    learner = DOP.for_env(Arena(), **SMALL)
    with pytest.raises(kind, match=r"ActionPoisonPerturber\." + text):
        ActionPoisonPerturber(RandomAttack(), **{"learner": learner, "agent": "unit_0", **settings})


def test_bad_kinds():
    learner = DOP.for_env(Arena(), **SMALL)
    with pytest.raises(TypeError, match=r"attack must be an attack or a callable .* got 3"):
        ActionPoisonPerturber(3, learner=learner, agent="unit_0")
    with pytest.raises(TypeError, match=r"attack must be an attack"):
        ActionPoisonPerturber(RandomAttack, learner=learner, agent="unit_0")
    with pytest.raises(TypeError, match=r"advantage_fn must be a function of a StepContext, got 3"):
        ActionPoisonPerturber(VarianceAttack(), learner=learner, agent="unit_0", advantage_fn=3)
    with pytest.raises(TypeError, match=r"learner must be a robustmarl algorithm, got str"):
        ActionPoisonPerturber(RandomAttack(), learner="DOP", agent="unit_0")
    continuous = IPPO.for_env(Arena(continuous=True), hidden=(8,))
    with pytest.raises(ValueError, match=r"learner must be of discrete actions"):
        ActionPoisonPerturber(RandomAttack(), learner=continuous, agent="unit_0")
    with pytest.raises(ValueError, match=r"temperature must be given for a value-based learner"):
        ActionPoisonPerturber(RandomAttack(), learner=make_learner("QMIX"), agent="unit_0")


@pytest.mark.parametrize("attack", [VarianceAttack(), JAttack()])
def test_a_learner_without_advantages(attack):
    learner = MAPPO.for_env(Arena(), hidden=(8,))
    text = r"must have the advantage of every own action .* got MAPPO, .*OwnActionValues"
    with pytest.raises(TypeError, match=text):
        ActionPoisonPerturber(attack, learner=learner, agent="unit_0")
    ActionPoisonPerturber(RandomAttack(), learner=learner, agent="unit_0")  # needs none


def test_another_learners_policy_is_refused():
    one, other = LEARNERS["DOP"](), LEARNERS["DOP"]()
    with pytest.raises(ValueError, match=r"learner must be the algorithm whose policy plays"):
        played(one, [make(other)])
    with pytest.raises(ValueError, match=r"learner must be of the team that plays, got 'horizon"):
        make(one).bind(arena_spec(horizon=9), None, Place(0, "it"))


@pytest.mark.parametrize(
    ("direction", "text"),
    [
        (lambda view: torch.zeros(1), r"must return a direction of shape \(\d, 4\), got \(1,\)"),
        (lambda view: None, r"must return a direction of shape \(\d, 4\), got NoneType"),
        (lambda view: view.policy * float("nan"), r"must return finite directions"),
    ],
)
def test_bad_directions(direction, text):
    learner = LEARNERS["DOP"]()
    perturber = ActionPoisonPerturber(direction, learner=learner, agent="unit_0")
    with pytest.raises(ValueError, match=text):
        played(learner, [perturber])


def test_a_direction_is_finite_although_its_sum_is_not():
    learner, largest = LEARNERS["DOP"](), torch.finfo(torch.float32).max
    perturber = ActionPoisonPerturber(
        lambda view: torch.full_like(view.policy, largest) * (torch.arange(4) > 0),
        learner=learner,
        agent="unit_0",
        when="always",
    )
    played(learner, [perturber])
    assert perturber.counters()["attacked"] > 0


@pytest.mark.parametrize(("answer", "got"), [(None, "NoneType"), (torch.zeros(4), r"\(4,\)")])
def test_bad_advantage_functions(answer, got):
    learner = MAPPO.for_env(Arena(), hidden=(8,))
    perturber = ActionPoisonPerturber(
        VarianceAttack(), learner=learner, agent="unit_0", advantage_fn=lambda context: answer
    )
    text = (
        rf"advantage_fn must be a function that returns values of shape \(\d, 3, 4\), got '?{got}"
    )
    with pytest.raises(ValueError, match=text):
        played(learner, [perturber])


def test_the_mixin_needs_a_learner_with_returns():
    class Wrong(OwnActionValues, DOP):
        pass

    with pytest.raises(TypeError, match=r"OwnActionValues must be mixed into IPPO or MAPPO"):
        Wrong.for_env(Arena(), **SMALL)
