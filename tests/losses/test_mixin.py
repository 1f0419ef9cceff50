"""Loss terms in an algorithm's one step: team learners, Tianshou's DQN and PPO."""

import copy
from itertools import pairwise

import gymnasium
import numpy as np
import pytest
import torch
from learners import (
    PPO,
    TEAMS,
    Arena,
    NoAttack,
    Recorded,
    Shift,
    collected,
    copy_batch,
    same_weights,
    sgd,
    train,
    update,
    weights,
)
from tianshou import algorithm as stock
from tianshou.algorithm.modelfree.c51 import C51Policy
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy
from tianshou.data import Batch, ReplayBuffer
from tianshou.utils.net.common import Net, Recurrent
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic
from tianshou.utils.torch_utils import policy_within_training_step
from torch.distributions import Categorical
from torch.nn.functional import cross_entropy

from robustmarl.algorithms import IPPO, MAPPO, QMIX, VDN
from robustmarl.attacks import PGD, UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.joint import MASKED
from robustmarl.losses import (
    ActionLoss,
    ActionLossRegularizer,
    PolicyLoss,
    PolicyRegularizer,
    policy_loss,
)
from robustmarl.schedules import Constant, Linear, Repetitive
from robustmarl.training import Log, OffPolicy, run

BALL = LinfBall(epsilon=0.4)
FGSM = PGD.fgsm(BALL)
NETWORKS = {"mlp": {}, "gru": {"recurrent": True, "last_action": True, "hidden": (8,)}}
LR = 0.1


def robust(cls):
    return type(f"Robust{cls.__name__}", (ActionLossRegularizer, cls), {})


def regular(cls):
    return type(f"Regular{cls.__name__}", (PolicyRegularizer, cls), {})


def stacked(cls):
    return type(f"Both{cls.__name__}", (ActionLossRegularizer, PolicyRegularizer, cls), {})


def build(cls, env=None, **settings):
    settings = {"hidden": (8, 8), "optim": sgd(LR), "max_grad_norm": None} | settings
    if issubclass(cls, QMIX):
        settings = {"embed": 4, "hyper_hidden": 4} | settings
    if issubclass(cls, PPO):
        settings = {"output_gain": 1.0} | settings
    return cls.for_env(Arena() if env is None else env, **settings)


def batch_for(algorithm, perturb=()):
    buffer = collected(algorithm, perturb=perturb)
    return buffer.get_episodes(buffer.sample_indices(0))


def clean_and_shifted(network, batch):
    """Return masked outputs (M, A) on clean and shifted observations, and masks; by hand.

    The shifted observation meets the hidden state of the history that was seen.
    """
    agents = torch.arange(3)
    clean, moved, masks = [], [], []
    for b, length in enumerate(batch.valid.sum(1).tolist()):
        last, hidden = torch.full((3,), -1), None
        for t in range(length):
            alive, mask = batch.obs.alive[b, t], batch.obs.mask[b, t]
            extra, obs = network.extra(agents, last), batch.obs.obs[b, t]
            before = None if hidden is None else hidden.detach()
            for out, shown in ((clean, obs), (moved, obs + BALL.epsilon)):
                logits = network.step(shown, extra, before)[0].masked_fill(~mask, MASKED)
                out.append(logits[alive])
            masks.append(mask[alive])
            hidden = network.step(batch.obs.seen[b, t], extra, hidden)[1]
            last = batch.act[b, t]
    return torch.cat(clean), torch.cat(moved), torch.cat(masks)


@pytest.mark.parametrize("cls", TEAMS)
@pytest.mark.parametrize("network", NETWORKS)
def test_two_terms_join_the_one_step_with_their_weights(cls, network):
    """SGD step on loss + 0.5 * L_action + 2 * L_policy, the latter two written out."""
    shift = Shift(BALL)
    both = build(
        stacked(cls),
        action_loss=ActionLoss(attack=shift, weight=0.5, max_rows=None),
        policy_loss=PolicyLoss(attack=shift, weight=2.0, form="kl", max_rows=None),
        **NETWORKS[network],
    )
    plain = build(cls, **NETWORKS[network])
    assert weights(plain).keys() == weights(both).keys()
    assert same_weights(plain, both)
    batch = batch_for(plain, perturb=[UniformNoise(ball=LinfBall(epsilon=0.5))])
    twin = copy.deepcopy(plain.policy.network)
    clean, moved, mask = clean_and_shifted(twin, batch)
    action = cross_entropy(moved, clean.argmax(-1))
    choice = mask.sum(-1) > 1
    policy = policy_loss(clean[choice], moved[choice], "kl").mean()
    (0.5 * action + 2.0 * policy).backward()
    update(plain, Recorded(copy_batch(batch)))
    stats = update(both, Recorded(copy_batch(batch)))

    assert stats.metrics["action_loss/loss"] == pytest.approx(action.item(), rel=1e-4)
    assert stats.metrics["policy_loss/loss"] == pytest.approx(policy.item(), rel=1e-4)
    assert stats.metrics["action_loss/weight"] == 0.5
    assert stats.metrics["policy_loss/weight"] == 2.0
    assert "action_loss/loss" in stats.get_loss_stats_dict()
    without = weights(plain)
    for name, found in weights(both).items():
        expected = without[name]
        inner = name.removeprefix("policy.network.")
        if inner != name:
            expected = expected - LR * dict(twin.named_parameters())[inner].grad
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-6)
    assert not same_weights(plain, both)


@pytest.mark.parametrize("cls", TEAMS)
@pytest.mark.parametrize("network", NETWORKS)
def test_weight_zero_is_the_plain_algorithm_bit_for_bit(cls, network):
    zero = build(
        stacked(cls),
        optim=None,
        action_loss=ActionLoss(attack=NoAttack(BALL), weight=0.0),
        policy_loss=PolicyLoss(attack=NoAttack(BALL), weight=Linear(0.0, 1.0, over=1, begin=99)),
        **NETWORKS[network],
    )
    plain = build(cls, optim=None, **NETWORKS[network])
    assert same_weights(train(zero, 5), train(plain, 5))


@pytest.mark.parametrize("cls", [IPPO, QMIX])
def test_a_hundred_updates_of_weight_zero(cls):
    schedule = Repetitive(1.0, warmup=10**6, period=10)
    zero = build(
        robust(cls),
        optim=None,
        action_loss=ActionLoss(attack=NoAttack(BALL), weight=schedule),
    )
    plain = build(cls, optim=None)
    assert same_weights(train(zero, 100, episodes=2), train(plain, 100, episodes=2))
    assert plain.policy.counted("updates") == zero.policy.counted("updates") == 100


def test_attacks_get_clean_observations_of_the_living_with_their_masks():
    shift = Shift(BALL)
    algorithm = build(robust(QMIX), action_loss=ActionLoss(attack=shift, weight=1.0, max_rows=None))
    batch = batch_for(algorithm, perturb=[UniformNoise(ball=LinfBall(epsilon=0.5))])
    update(algorithm, Recorded(batch))
    ((view, obs),) = shift.calls
    rows = batch.valid.unsqueeze(-1) & batch.obs.alive[:, :-1]

    assert torch.equal(obs, batch.obs.obs[:, :-1][rows])
    assert torch.equal(view.mask, batch.obs.mask[:, :-1][rows])
    assert not torch.equal(batch.obs.obs, batch.obs.seen)


def test_action_loss_without_budget_still_sharpens_the_policy():
    """At epsilon 0 cross entropy is -log of the greatest probability, a KL divergence is 0."""
    sharp = build(
        robust(IPPO), action_loss=ActionLoss(attack=PGD(ball=BALL.with_epsilon(0.0)), weight=1.0)
    )
    still = build(
        regular(IPPO),
        policy_loss=PolicyLoss(attack=PGD(ball=BALL.with_epsilon(0.0)), weight=1.0, form="kl"),
    )
    plain = build(IPPO)
    batch = batch_for(plain)
    with torch.no_grad():
        clean, _, _ = clean_and_shifted(plain.policy.network, batch)
    for algorithm in (sharp, still, plain):
        stats = update(algorithm, Recorded(copy_batch(batch)))
        if algorithm is sharp:
            expected = -clean.log_softmax(-1).amax(-1).mean().item()
            assert stats.metrics["action_loss/loss"] == pytest.approx(expected, rel=1e-4)
    assert not same_weights(sharp, plain)
    for name, found in weights(still).items():
        torch.testing.assert_close(found, weights(plain)[name], rtol=0, atol=1e-7)


def test_random_rows_come_from_an_own_stream():
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        shift = Shift(BALL)
        algorithm = build(
            robust(QMIX), action_loss=ActionLoss(attack=shift, weight=1.0, max_rows=5)
        )
        buffer = collected(algorithm)
        state = torch.get_rng_state()
        for _ in range(3):
            update(algorithm, buffer)
        assert torch.equal(torch.get_rng_state(), state)
        made.append((algorithm, [obs for _, obs in shift.calls]))
    (one, first), (other, second) = made

    assert [len(obs) for obs in first] == [5, 5, 5]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])
    assert same_weights(one, other)


def test_random_rows_go_on_after_loading():
    def make(shift):
        settings = ActionLoss(attack=shift, weight=1.0, max_rows=5)
        return build(robust(QMIX), action_loss=settings)

    shifts = Shift(BALL), Shift(BALL)
    one, other = make(shifts[0]), make(shifts[1])
    buffer = collected(one)
    update(one, buffer)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    update(one, buffer)
    update(other, buffer)

    assert torch.equal(shifts[0].calls[-1][1], shifts[1].calls[-1][1])
    assert same_weights(one, other)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Constant(0.3), 0.3),
        (Linear(0.0, 1.0, over=4), 0.0),
        (Linear(0.0, 1.0, over=12, unit="episodes"), 0.5),
        (Linear(0.0, 1.0, over=100, unit="env_steps"), None),
        (Repetitive(2.0, warmup=2, period=5, ramp=0.8), 2.0),
    ],
)
def test_schedules_count_what_they_say(schedule, expected):
    algorithm = build(robust(QMIX), action_loss=ActionLoss(attack=PGD(ball=BALL), weight=schedule))
    buffer = collected(algorithm, 6)
    steps = algorithm.policy.counted("env_steps")
    expected = steps / 100 if expected is None else expected
    found = update(algorithm, buffer).metrics.get("action_loss/weight", 0.0)

    assert found == pytest.approx(expected)
    if schedule == Linear(0.0, 1.0, over=4):
        assert update(algorithm, buffer).metrics["action_loss/weight"] == pytest.approx(0.25)


def test_repetitive_weights_through_a_training():
    """RoMFAC's schedule at its worked values, as the learner applies it."""
    schedule = Repetitive(1.0, warmup=100, period=50, loops=3, ramp=0.8)
    algorithm = build(robust(VDN), action_loss=ActionLoss(attack=PGD.fgsm(BALL), weight=schedule))
    buffer = collected(algorithm, 4)
    algorithm.policy.counts.zero_()
    found, done = {}, 0
    for episode in (0, 99, 100, 101, 120, 140, 149, 150, 170, 249, 250):
        algorithm.policy.count("episodes", episode - done)
        done = episode
        found[episode] = update(algorithm, buffer).metrics.get("action_loss/weight", 0.0)

    expected = [0, 0, 0, 0.025, 0.5, 1, 1, 0, 0.5, 1, 0]
    assert list(found.values()) == pytest.approx(expected)


def test_pr_rep_is_policy_regularisation_with_a_repeated_weight():
    """Its schedule apart it is PR: .4 of a training without, then three rises to .1."""
    once, rep = PolicyLoss(attack=FGSM, weight=0.1), PolicyLoss.repetitive(FGSM, 1000)
    assert rep.weight == Repetitive(
        0.1, warmup=400, period=200, loops=3, ramp=0.8, unit="env_steps"
    )
    assert (rep.attack, rep.form, rep.margin) == (once.attack, once.form, once.margin)
    values = [rep.weight(step) for step in range(1200)]
    assert values[:401] == [0.0] * 401
    assert values[1000:] == [0.0] * 200
    assert sum(before == 0.0 < after for before, after in pairwise(values)) == 3
    assert max(values) == pytest.approx(0.1)
    assert [values[400 + 200 * k + 160] for k in range(3)] == pytest.approx([0.1] * 3)
    # of whatever length, it is over when the training is
    for total, loops in ((5, 3), (101, 3), (1003, 7)):
        weight = PolicyLoss.repetitive(FGSM, total, loops=loops, unit="updates").weight
        assert weight(total) == 0.0
        assert weight.unit == "updates"


def test_pr_rep_equals_pr_at_the_same_weight():
    """Of a team in the flat part of a loop; and is the plain team before the loops."""
    rep = PolicyLoss.repetitive(FGSM, 1000)
    for steps, twin in ((400 + 170, PolicyLoss(attack=FGSM, weight=0.1)), (400, None)):
        one = build(regular(QMIX), policy_loss=rep)
        other = build(QMIX) if twin is None else build(regular(QMIX), policy_loss=twin)
        buffer = collected(one, 6)
        for algorithm in (one, other):
            algorithm.policy.counts.zero_()
            algorithm.policy.count("env_steps", steps)
            update(algorithm, buffer)
        assert same_weights(one, other)


def test_pr_rep_goes_on_where_it_was(tmp_path):
    """A run that is cut in the middle of a loop ends with the same bits."""

    def part(folder, env_steps):
        algorithm = build(
            regular(QMIX),
            optim=None,
            policy_loss=PolicyLoss.repetitive(FGSM, 240, peak=5.0),
        )
        log = Log(folder, progress=False, resume=(folder / "checkpoint.pt").exists())
        learn = OffPolicy(batch_size=4, learning_starts=2)
        run(algorithm, Arena, env_steps=env_steps, num_envs=2, learn=learn, log=log)
        return algorithm

    part(tmp_path / "cut", 150)
    cut, through = part(tmp_path / "cut", 240), part(tmp_path / "through", 240)
    assert cut.policy.counted("env_steps") == through.policy.counted("env_steps")
    assert same_weights(cut, through)


@pytest.mark.parametrize("cls", PPO)
@pytest.mark.parametrize("network", NETWORKS)
def test_continuous_actions_take_the_mse(cls, network):
    env = Arena(continuous=True)
    shift = Shift(BALL)
    term = PolicyLoss(attack=shift, weight=3.0, form="mse", max_rows=None)
    algorithm = build(regular(cls), env, policy_loss=term, **NETWORKS[network])
    plain = build(cls, env, **NETWORKS[network])
    buffer = collected(algorithm, make_env=lambda: Arena(continuous=True))
    stats = update(algorithm, buffer)
    update(plain, buffer)

    assert stats.metrics["policy_loss/loss"] > 0
    assert not same_weights(algorithm, plain)
    assert len(shift.calls) == 1


@pytest.mark.parametrize("cls", PPO)
def test_losses_that_do_not_fit_the_actions_are_refused(cls):
    continuous = Arena(continuous=True)
    with pytest.raises(ValueError, match=r"policy must be of discrete actions.*PolicyRegularizer"):
        build(robust(cls), continuous, action_loss=ActionLoss(attack=PGD(ball=BALL), weight=1.0))
    with pytest.raises(ValueError, match=r"PolicyLoss\.form must be 'mse' for continuous"):
        build(regular(cls), continuous, policy_loss=PolicyLoss(attack=PGD(ball=BALL)))
    with pytest.raises(ValueError, match=r"PolicyLoss\.form must be 'mse' for continuous"):
        build(regular(cls), policy_loss=PolicyLoss(attack=PGD(ball=BALL), form="mse"))


def test_every_epoch_of_ppo_takes_the_term():
    shift = Shift(BALL)
    algorithm = build(robust(MAPPO), action_loss=ActionLoss(attack=shift, weight=1.0))
    update(algorithm, collected(algorithm), repeat=3, batch_size=20)
    assert len(shift.calls) == int(algorithm.penalty_steps) > 3
    assert int(algorithm.penalty_updates) == 1


# Tianshou's own algorithms


def stock_dqn(cls=stock.DQN, **settings):
    torch.manual_seed(0)
    policy = DiscreteQLearningPolicy(
        model=Net(state_shape=(3,), action_shape=4, hidden_sizes=(8,)),
        action_space=gymnasium.spaces.Discrete(4),
    )
    return cls(policy=policy, optim=sgd(LR), **settings)


def stock_ppo(cls=stock.PPO, **settings):
    torch.manual_seed(0)
    body = Net(state_shape=(3,), hidden_sizes=(8,))
    actor = DiscreteActor(preprocess_net=body, action_shape=4, softmax_output=False)
    policy = DiscreteActorPolicy(actor=actor, action_space=gymnasium.spaces.Discrete(4))
    critic = DiscreteCritic(preprocess_net=Net(state_shape=(3,), hidden_sizes=(8,)))
    return cls(policy=policy, critic=critic, optim=sgd(LR), **settings)


def transitions(masks=False):
    rng = np.random.default_rng(0)
    buffer = ReplayBuffer(16)
    for t in range(16):
        obs, obs_next = rng.normal(size=(2, 3)).astype(np.float32)
        if masks:
            obs, obs_next = (
                {"obs": o, "mask": np.array([1, 1, 0, 1], bool)} for o in (obs, obs_next)
            )
        buffer.add(
            Batch(
                obs=obs,
                act=int(rng.integers(2)),
                rew=rng.normal(),
                terminated=t % 4 == 3,
                truncated=False,
                obs_next=obs_next,
                info={},
            )
        )
    return buffer


def stock_update(algorithm, buffer):
    settings = (
        {"sample_size": 0}
        if isinstance(algorithm, stock.DQN)
        else {"batch_size": None, "repeat": 1}
    )
    np.random.seed(0)  # noqa: NPY002, Tianshou shuffles with it
    with policy_within_training_step(algorithm.policy):
        return algorithm.update(buffer=buffer, **settings)


def stock_logits(algorithm, obs):
    network = algorithm.policy.model if isinstance(algorithm, stock.DQN) else algorithm.policy.actor
    return network(obs)[0]


STOCK = {"dqn": (stock_dqn, stock.DQN), "ppo": (stock_ppo, stock.PPO)}


@pytest.mark.parametrize(("name", "masks"), [("dqn", False), ("dqn", True), ("ppo", False)])
def test_stock_algorithms_take_terms_in_their_one_step(name, masks):
    make, cls = STOCK[name]
    shift = Shift(BALL)
    both = make(
        stacked(cls),
        action_loss=ActionLoss(attack=shift, weight=0.5, max_rows=None),
        policy_loss=PolicyLoss(attack=shift, weight=2.0, form="tv", max_rows=None),
    )
    plain = make()
    buffer = transitions(masks)
    obs = buffer.obs.obs if masks else buffer.obs
    obs = torch.as_tensor(np.asarray(obs), dtype=torch.float32)
    twin = copy.deepcopy(plain)
    clean, moved = stock_logits(twin, obs), stock_logits(twin, obs + BALL.epsilon)
    if masks:
        clean, moved = (
            x.masked_fill(torch.tensor([False, False, True, False]), MASKED) for x in (clean, moved)
        )
    action = cross_entropy(moved, clean.argmax(-1))
    policy = policy_loss(clean, moved, "tv").mean()
    (0.5 * action + 2.0 * policy).backward()
    stats = stock_update(both, buffer)
    stock_update(plain, buffer)
    found, without = weights(both), weights(plain)
    grads = {n: p.grad for n, p in twin.named_parameters()}

    for key, value in found.items():
        grad = 0.0 if grads[key] is None else grads[key]
        torch.testing.assert_close(value, without[key] - LR * grad, rtol=1e-4, atol=2e-6)
    logged = stats.get_loss_stats_dict()
    assert logged["action_loss_loss"] == pytest.approx(action.item(), rel=1e-4)
    assert logged["policy_loss_weight"] == 2.0


@pytest.mark.parametrize("name", STOCK)
def test_stock_algorithms_with_weight_zero(name):
    make, cls = STOCK[name]
    zero = make(robust(cls), action_loss=ActionLoss(attack=NoAttack(BALL), weight=0.0))
    plain, buffer = make(), transitions()
    for _ in range(3):
        stats = stock_update(zero, buffer)
        stock_update(plain, buffer)
    assert same_weights(zero, plain)
    assert "action_loss_loss" not in stats.get_loss_stats_dict()


@pytest.mark.parametrize("name", STOCK)
def test_stock_algorithms_count_updates(name):
    make, cls = STOCK[name]
    term = ActionLoss(attack=PGD(ball=BALL), weight=Linear(0.0, 1.0, over=2))
    algorithm, buffer = make(robust(cls), action_loss=term), transitions()
    logged = [stock_update(algorithm, buffer).get_loss_stats_dict() for _ in range(3)]
    assert [step.get("action_loss_weight", 0.0) for step in logged] == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("name", STOCK)
def test_stock_algorithms_do_not_count_episodes(name):
    make, cls = STOCK[name]
    term = ActionLoss(attack=PGD(ball=BALL), weight=Repetitive(1.0, warmup=1, period=1))
    with pytest.raises(ValueError, match=r"action_loss\.weight must be counting 'updates' with"):
        make(robust(cls), action_loss=term)


@pytest.mark.parametrize("cls", [stock.TRPO, stock.NPG])
def test_algorithms_without_a_step_to_join_are_refused(cls):
    with pytest.raises(TypeError, match=r"must take gradient steps on its policy.*Use DQN, PPO"):
        stock_ppo(robust(cls), action_loss=ActionLoss(attack=PGD(ball=BALL), weight=1.0))


def test_terms_read_the_policys_own_distribution():
    """A term on an actor that outputs probabilities is that of its logits."""
    found = []
    for softmax in (False, True):
        torch.manual_seed(0)
        body = Net(state_shape=(3,), hidden_sizes=(8,))
        actor = DiscreteActor(preprocess_net=body, action_shape=4, softmax_output=softmax)
        how = {"dist_fn": Categorical} if softmax else {}
        policy = DiscreteActorPolicy(actor=actor, action_space=gymnasium.spaces.Discrete(4), **how)
        critic = DiscreteCritic(preprocess_net=Net(state_shape=(3,), hidden_sizes=(8,)))
        term = ActionLoss(attack=PGD(ball=BALL), weight=1.0, max_rows=None)
        cls = robust(stock.PPO)
        algorithm = cls(policy=policy, critic=critic, optim=sgd(LR), action_loss=term)
        stats = stock_update(algorithm, transitions()).get_loss_stats_dict()
        found.append(stats["action_loss_loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_terms_compare_expected_values_of_distributional_policies():
    torch.manual_seed(0)
    model = Net(state_shape=(3,), action_shape=4, hidden_sizes=(8,), num_atoms=11, softmax=True)
    space = gymnasium.spaces.Discrete(4)
    policy = C51Policy(model=model, num_atoms=11, action_space=space)
    term = ActionLoss(attack=Shift(BALL), weight=1.0, max_rows=None)
    algorithm = robust(stock.C51)(policy=policy, optim=sgd(LR), action_loss=term)
    buffer = transitions()
    obs = torch.as_tensor(np.asarray(buffer.obs), dtype=torch.float32)
    with torch.no_grad():
        clean, moved = ((model(x)[0] * policy.support).sum(2) for x in (obs, obs + BALL.epsilon))
    with policy_within_training_step(policy):
        stats = algorithm.update(buffer=buffer, sample_size=0).get_loss_stats_dict()
    expected = cross_entropy(moved, clean.argmax(-1)).item()
    assert stats["action_loss_loss"] == pytest.approx(expected, rel=1e-5)


def test_tianshous_recurrent_policies_are_refused():
    model = Recurrent(layer_num=1, state_shape=(3,), action_shape=4)
    policy = DiscreteQLearningPolicy(model=model, action_space=gymnasium.spaces.Discrete(4))
    term = ActionLoss(attack=PGD(ball=BALL), weight=1.0)
    text = r"without memory.*got DiscreteQLearningPolicy with a recurrent network.*recurrent=True"
    with pytest.raises(TypeError, match=text):
        robust(stock.DQN)(policy=policy, optim=sgd(LR), action_loss=term)


def test_stacked_observations_are_refused():
    algorithm = stock_dqn(
        robust(stock.DQN), action_loss=ActionLoss(attack=PGD(ball=BALL), weight=1.0)
    )
    algorithm._batch = Batch(obs=np.zeros((2, 4, 3)))
    with pytest.raises(ValueError, match=r"observations must be flat.*got \(2, 4, 3\)"):
        algorithm._stock_rows()


def test_one_term_of_a_kind():
    twice = type("Twice", (robust(QMIX),), {})
    algorithm = build(twice, action_loss=ActionLoss(attack=PGD(ball=BALL), weight=1.0))
    with pytest.raises(ValueError, match=r"action_loss must be one term of its kind"):
        algorithm.add_term("action_loss", ActionLoss(attack=PGD(ball=BALL), weight=1.0))


@pytest.mark.parametrize(
    ("mixin", "name"),
    [(ActionLossRegularizer, "action_loss"), (PolicyRegularizer, "policy_loss")],
)
def test_what_is_no_term_is_refused(mixin, name):
    class Robust(mixin, QMIX):
        pass

    text = rf"Robust\.{name} must be an? \w+Loss, got PGD"
    with pytest.raises(TypeError, match=text):
        Robust.for_env(Arena(), **{name: PGD(ball=LinfBall(epsilon=0.1))})
