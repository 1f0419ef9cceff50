"""Directed perturbations: STor against linear victims, and what a director lives through."""

import dataclasses
import itertools

import pytest
import torch
from learners import Arena, arena_spec, collected
from torch import nn

from robustmarl.algorithms import FACMAC, IPPO, MADDPG, MAPPO, QMIX
from robustmarl.attacks import PGD, FrankWolfe
from robustmarl.budgets import LinfBall
from robustmarl.joint import MASKED, last_actions
from robustmarl.networks import AgentNetwork
from robustmarl.perturbers import DirectedObsPerturber, Perturber, stor
from robustmarl.policies import ActorPolicy, DeterministicPolicy, QPolicy
from robustmarl.testing import check_perturber
from robustmarl.testing._game import UnevenGame
from robustmarl.victims import FunctionVictim, Rows

BALL = LinfBall(epsilon=0.25)


def director(kind=QPolicy, *, recurrent=True, seed=0, exploration=0.0):
    torch.manual_seed(seed)
    spec = arena_spec()
    network = AgentNetwork(3, 3, 4, hidden=(8, 8), recurrent=recurrent, last_action=True)
    return QPolicy(spec, network, exploration) if kind is QPolicy else kind(spec, network)


def aimed(weight, obs, target, ball, steps=1):
    """Return what STor makes of rows ``obs`` of a linear victim."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False).double()
    linear.weight.data = weight
    attack = stor(ball, steps=steps)
    rule = PGD(
        ball=ball,
        steps=steps,
        loss=attack.loss,
        clean_if_own=attack.clean_if_own,
        target=lambda view, obs: target,
    )
    return rule(FunctionVictim(linear).at(), obs)


def test_stor_is_exact_against_a_linear_victim():
    """The step is eps sign(W_target - W_y), and no corner of the ball has a larger margin."""
    torch.manual_seed(0)
    weight, obs = torch.randn(4, 8, dtype=torch.float64), torch.randn(20, 8, dtype=torch.float64)
    y = (obs @ weight.T).argmax(-1)
    target = (y + 1) % 4
    found = aimed(weight, obs, target, BALL)
    slope = weight[target] - weight[y]
    torch.testing.assert_close(found, obs + 0.25 * slope.sign())
    gain = ((found - obs) * slope).sum(-1)
    torch.testing.assert_close(gain, 0.25 * slope.abs().sum(-1), rtol=0, atol=1e-9)
    corners = torch.tensor(list(itertools.product((-0.25, 0.25), repeat=8)), dtype=torch.float64)
    torch.testing.assert_close(gain, (corners @ slope.T).amax(0), rtol=0, atol=1e-9)


def test_of_two_actions_all_losses_go_the_same_way():
    """But for the divergence where the victim is surer of the target than the director."""
    torch.manual_seed(0)
    obs, weight = torch.randn(64, 5, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    view = FunctionVictim(lambda rows: rows @ weight.T).at()
    policy = view.logits(obs).softmax(-1)
    target = 1 - policy.argmax(-1)
    way = 0.25 * (weight[target] - weight[1 - target]).sign()
    wanted = policy.gather(-1, target[:, None])
    for loss in ("margin", "cross_entropy"):
        found = stor(BALL, loss=loss, target=lambda view, obs: target)(view, obs)
        torch.testing.assert_close(found, obs + way)
    for share, turn in ((0.5, -1.0), (1.5, 1.0)):  # of the target's probability
        h = torch.cat([share * wanted, 1.0 - share * wanted], dim=1)
        h = torch.where(target[:, None] == 0, h, h.flip(-1)).log()
        found = stor(BALL, loss="kl", target=lambda view, obs, h=h: h)(view, obs)
        torch.testing.assert_close(found, obs + turn * way)


def test_only_the_margin_shows_the_truth_where_the_target_is_what_it_does_anyway():
    obs, target = torch.tensor([[0.3, 0.1]]), torch.tensor([0])
    for loss in ("margin", "cross_entropy"):
        found = stor(BALL, loss=loss, target=0)(FunctionVictim(lambda obs: obs).at(), obs)
        assert torch.equal(found, obs) is (loss == "margin"), target


def test_a_greedy_policy_is_its_one_action():
    made = director(ActorPolicy)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    victim, shown = QMIX.for_env(Arena(), hidden=(8,)), {}
    for greedy in (False, True):
        made.deterministic_eval = greedy
        named = DirectedObsPerturber(made, stor(BALL, loss="kl"))
        shown[greedy] = collected(victim, perturb=[named]).latest(6).obs.seen
    assert not torch.equal(shown[False], shown[True])
    obs, one_hot = torch.randn(9, 4), torch.tensor([[0.0, MASKED, MASKED, MASKED]]).expand(9, 4)
    aimed = stor(BALL, loss="kl", target=lambda view, obs: one_hot)
    moved = aimed(FunctionVictim(lambda obs: obs).at(), obs)
    assert bool((moved[:, 0] >= obs[:, 0]).all())


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("loss", ["margin", "cross_entropy", "kl"])
def test_every_loss_keeps_to_the_ball_and_the_range(loss, steps):
    ball = LinfBall(epsilon=0.25, low=-1.0, high=1.0)
    named = DirectedObsPerturber(director(ActorPolicy), stor(ball, steps=steps, loss=loss))
    batch = collected(QMIX.for_env(Arena(), hidden=(8,), recurrent=True), perturb=[named]).latest(6)
    moved = batch.obs.seen - batch.obs.obs
    assert float(moved.abs().max()) <= 0.25 * (1 + 1e-6)
    assert bool((moved != 0).any())
    inside = (batch.obs.obs >= -1.0) & (batch.obs.obs <= 1.0)
    assert bool((batch.obs.seen[inside].abs() <= 1.0).all())


@pytest.mark.parametrize(("epsilon", "turned"), [(0.09, False), (0.11, True)])
def test_the_target_wins_beyond_half_the_margin(epsilon, turned):
    """A margin of .2 against slopes of 2 is overtaken beyond .1."""
    obs = torch.tensor([[0.3, 0.1]], dtype=torch.float64)
    weight = torch.eye(2, dtype=torch.float64)
    found = aimed(weight, obs, torch.tensor([1]), LinfBall(epsilon=epsilon))
    assert bool(found[0].argmax() == 1) is turned


def test_where_the_truth_is_out_of_range_the_ball_still_holds():
    """3.47 of at most 1: it may come back towards the range, and not go on."""
    obs = torch.tensor([[3.47, 0.1], [3.47, 0.1]], dtype=torch.float64)
    weight = torch.eye(2, dtype=torch.float64)
    ball = LinfBall(epsilon=0.25, low=-1.0, high=1.0)
    for steps in (1, 5):
        found = aimed(weight, obs, torch.tensor([1, 0]), ball, steps=steps)
        torch.testing.assert_close(found[0], torch.tensor([3.22, 0.35], dtype=torch.float64))
        out = aimed(-weight, obs, torch.tensor([1, 0]), ball, steps=steps)
        assert float(out[:, 0].max()) <= 3.47
        assert float((out - obs).abs().max()) <= 0.25 * (1 + 1e-6)


def test_the_own_action_leaves_the_observation_clean():
    obs = torch.tensor([[0.3, 0.1], [0.3, 0.1]], dtype=torch.float64)
    weight = torch.eye(2, dtype=torch.float64)
    found = aimed(weight, obs, torch.tensor([0, 1]), BALL, steps=3)
    assert torch.equal(found[0], obs[0])
    assert not torch.equal(found[1], obs[1])


@pytest.mark.parametrize("kind", [QPolicy, ActorPolicy])
@pytest.mark.parametrize("recurrent", [False, True])
def test_the_director_lives_the_clean_episode(kind, recurrent):
    """Its outputs are those of one pass over clean observations and its own last targets."""
    made = director(kind, recurrent=recurrent)
    team = QMIX.for_env(Arena(), hidden=(8,))
    batch = collected(team, perturb=[DirectedObsPerturber(made, stor(BALL))]).latest(6)
    record, mask = batch.record("director"), batch.obs.mask[:, :-1]
    last = last_actions(record["target"], terminal=True)
    output = made.network.unroll(batch.obs.obs, last)[0][:, :-1].masked_fill(~mask, -1e9)
    if kind is QPolicy:
        assert set(record) == {"target", "attacked"}
        assert torch.equal(output.argmax(-1)[batch.living], record["target"][batch.living])
    else:
        logp = made.log_prob(output, record["target"])[batch.living]
        torch.testing.assert_close(logp, record["logp"][batch.living], atol=1e-5, rtol=1e-4)
    named = mask.gather(-1, record["target"].unsqueeze(-1)).squeeze(-1)
    assert bool(named[batch.living].all())
    assert torch.equal(record["attacked"][batch.valid], batch.living[batch.valid])
    assert not torch.equal(batch.obs.seen, batch.obs.obs)
    assert float((batch.obs.seen - batch.obs.obs).abs().max()) <= 0.25 + 1e-6


def test_the_victim_is_moved_where_it_would_not_go_by_itself():
    """Where the target is what the victim does anyway, it sees the truth."""
    team = QMIX.for_env(Arena(), hidden=(8,), exploration=0.0)
    batch = collected(team, perturb=[DirectedObsPerturber(director(), stor(BALL))]).latest(6)
    q = team.policy.network.unroll(batch.obs.obs, None)[0].masked_fill(~batch.obs.mask, -1e9)
    own = q.argmax(-1)[:, :-1] == batch.record("director")["target"]
    clean = (batch.obs.seen == batch.obs.obs).all(-1)[:, :-1]
    assert torch.equal(own[batch.living], clean[batch.living])


@pytest.mark.parametrize("cls", [QMIX, MAPPO])
def test_no_budget_is_no_attack_bit_for_bit(cls):
    def played(perturb):
        team = cls.for_env(Arena(), hidden=(8,), seed=1)
        return collected(team, perturb=perturb).latest(6)

    nothing = DirectedObsPerturber(director(), stor(LinfBall(epsilon=0.0)), explore=True)
    one, other = played([nothing]), played([])
    assert torch.equal(one.obs.seen, other.obs.obs)
    assert torch.equal(one.act, other.act)
    assert not bool(one.record("director")["attacked"].any())


def test_only_the_named_agents_and_episodes_are_attacked():
    team = QMIX.for_env(Arena(), hidden=(8,))
    some = DirectedObsPerturber(director(), stor(BALL), agents=["unit_1"], episodes=0.5)
    batch = collected(team, 20, perturb=[some]).latest(20)
    attacked = batch.record("director")["attacked"]
    moved = (batch.obs.seen != batch.obs.obs).any(-1)[:, :-1]
    assert not bool(attacked[..., [0, 2]].any())
    assert not bool((moved & batch.valid.unsqueeze(-1) & ~attacked).any())
    episodes = attacked.flatten(1).any(1)
    assert 0 < int(episodes.sum()) < 20


def test_exploring_names_other_actions_only_in_training():
    def named(explore):
        team = QMIX.for_env(Arena(), hidden=(8,))
        made = DirectedObsPerturber(director(exploration=1.0), stor(BALL), explore=explore)
        return collected(team, perturb=[made]).latest(6).record("director")["target"]

    assert not torch.equal(named(True), named(False))
    assert torch.equal(named(True), named(True))


def test_other_kinds_are_refused():
    with pytest.raises(TypeError, match=r"DirectedObsPerturber\.director must be a TeamPolicy"):
        DirectedObsPerturber(Perturber(), stor(BALL))
    with pytest.raises(TypeError, match=r"generator must be a GradientAttack, .*stor\(ball\)"):
        DirectedObsPerturber(director(), BALL)
    with pytest.raises(ValueError, match=r"generator\.loss must be a named loss"):
        DirectedObsPerturber(director(), PGD(ball=BALL, loss="mse", random_start=True))
    with pytest.raises(
        ValueError, match=r"'cross_entropy' for a director without a policy, got 'kl'"
    ):
        DirectedObsPerturber(director(), stor(BALL, loss="kl"))
    with pytest.raises(ValueError, match=r"stor\.loss must be one of .*'kl'.*got 'dlr'"):
        stor(BALL, loss="dlr")
    with pytest.raises(ValueError, match=r"stor\.loss must be left out for continuous actions"):
        stor(BALL, loss="kl", continuous=True)
    with pytest.raises(ValueError, match=r"stor\.target must be logits, or a rule .*, got 1"):
        stor(BALL, loss="kl", target=1)
    with pytest.raises(ValueError, match=r"stor\.target must be set by a director, or given"):
        stor(BALL, loss="kl")(FunctionVictim(lambda obs: obs).at(), torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"loss must be a named loss, 'margin' or 'mse'"):
        DirectedObsPerturber(named(), PGD(ball=BALL, loss="cross_entropy"))
    boxed = MAPPO.for_env(arena_spec(continuous=True))
    refused = DirectedObsPerturber(director(), stor(BALL))
    with pytest.raises(ValueError, match=r"director must be of a team with this one's spaces"):
        collected(boxed, make_env=lambda: Arena(continuous=True), perturb=[refused])


@pytest.mark.parametrize("explore", [False, True])
@pytest.mark.parametrize("recurrent", [False, True])
def test_it_keeps_the_contract_of_perturbers(recurrent, explore):
    """With agents of different sizes, one of which comes late, however many play side by side."""

    def make(team):
        spec = team.spec
        torch.manual_seed(0)
        sizes = spec.obs_size, spec.num_agents, spec.num_actions
        network = AgentNetwork(*sizes, hidden=(8, 8), recurrent=recurrent, last_action=True)
        return DirectedObsPerturber(QPolicy(spec, network, 0.5), stor(BALL), explore=explore)

    check_perturber(make)


# Continuous actions


def boxes():
    return Arena(continuous=True)


def named(kind=DeterministicPolicy, *, recurrent=True, exploration=0.3):
    torch.manual_seed(0)
    squash = kind is DeterministicPolicy
    shape = {"recurrent": recurrent, "last_action": True, "continuous": True, "squash": squash}
    network = AgentNetwork(3, 3, 2, hidden=(8, 8), **shape)
    spec = arena_spec(continuous=True)
    return kind(spec, network, exploration) if squash else kind(spec, network)


@pytest.mark.parametrize("kind", [DeterministicPolicy, ActorPolicy])
@pytest.mark.parametrize("recurrent", [False, True])
def test_a_director_of_vectors_lives_the_clean_episode(kind, recurrent):
    made, team = named(kind, recurrent=recurrent), IPPO.for_env(boxes(), hidden=(8,))
    perturb = [DirectedObsPerturber(made, stor(BALL))]
    batch = collected(team, make_env=boxes, perturb=perturb).latest(6)
    record = batch.record("director")
    output = made.network.unroll(batch.obs.obs, last_actions(record["target"], terminal=True))[0]
    if kind is DeterministicPolicy:
        assert set(record) == {"target", "attacked"}
        found, expected = (x[batch.living] for x in (record["target"], output[:, :-1]))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    else:
        logp = made.log_prob(output[:, :-1], record["target"])[batch.living]
        torch.testing.assert_close(logp, record["logp"][batch.living], atol=1e-5, rtol=1e-4)
    assert torch.equal(record["attacked"][batch.valid], batch.living[batch.valid])


@pytest.mark.parametrize("cls", [MADDPG, FACMAC, IPPO, MAPPO])
@pytest.mark.parametrize("attack", [stor, lambda ball: FrankWolfe(ball=ball, steps=4)])
def test_teams_are_moved_towards_the_vectors_named(cls, attack):
    """The same attack by hand, of the recorded targets, and nearer to them than before."""
    team = cls.for_env(boxes(), hidden=(8,))
    made = DirectedObsPerturber(named(), attack(BALL), explore=True)
    batch = collected(team, 8, make_env=boxes, perturb=[made]).latest(8)
    rows, obs = batch.living, batch.obs
    target = batch.record("director")["target"][rows]
    agents = torch.arange(3).expand(rows.shape)[rows]
    view = team.policy.victim().at(Rows(agents=agents))
    clean, seen = obs.obs[:, :-1][rows], obs.seen[:, :-1][rows]
    by_hand = dataclasses.replace(
        attack(BALL), loss="mse", clean_if_own=False, target=lambda view, obs: target
    )
    torch.testing.assert_close(seen, by_hand(view, clean))
    before, after = ((view.mean(x) - target).square().sum(-1) for x in (clean, seen))
    assert float((after < before).float().mean()) > 0.8


def test_vectors_are_cut_to_what_agents_have():
    """The contract, with agents of different sizes, however many play side by side."""

    def make(team):
        spec = team.spec
        torch.manual_seed(0)
        sizes = spec.obs_size, spec.num_agents, spec.num_actions
        shape = {"recurrent": True, "last_action": True, "continuous": True, "squash": True}
        director = DeterministicPolicy(spec, AgentNetwork(*sizes, hidden=(8,), **shape), 0.5)
        return DirectedObsPerturber(director, stor(BALL), explore=True)

    check_perturber(make, make_env=lambda: UnevenGame(continuous=True))


def test_without_budget_vectors_move_nothing():
    def played(perturb):
        team = MADDPG.for_env(boxes(), hidden=(8,), seed=1)
        return collected(team, make_env=boxes, perturb=perturb).latest(6)

    nothing = DirectedObsPerturber(named(), stor(LinfBall(epsilon=0.0)), explore=True)
    one, other = played([nothing]), played([])
    assert torch.equal(one.obs.seen, other.obs.obs)
    assert torch.equal(one.act, other.act)
