"""What attacks on observations have in common, from noise to ATSA and ROMANCE."""

import copy

import pytest
import torch
from learners import Arena, collected, same_weights, weights

from robustmarl.adversaries import ATSA, PAAD, RAP, ROMANCE, DirectionPAAD, ObsAdversaryPPO, Sample
from robustmarl.algorithms import QMIX
from robustmarl.attacks import PGD, UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.perturbers import (
    AttackerActions,
    AttackerObs,
    Attackers,
    DirectionActor,
    LearnedObsPerturber,
    ObsPerturber,
    stor,
)
from robustmarl.schedules import Linear
from robustmarl.testing import check_attack, check_perturber
from robustmarl.training import AdversarialTraining, Log, OffPolicy, OnPolicy, run
from robustmarl.training.fingerprint import fingerprint

SMALL = {"hidden": (8,)}
LEARNED = {
    "ATLA": lambda ball, **how: ObsAdversaryPPO.for_env(Arena(), ball, **how, **SMALL),
    "PAAD": lambda ball, **how: PAAD.for_env(Arena(), stor(ball), **how, **SMALL),
    "RAP": lambda ball, **how: RAP.for_env(Arena(), stor(ball), number=2, **how, **SMALL),
    "ATSA": lambda ball, **how: ATSA.for_env(Arena(), stor(ball), **how, **SMALL),
    "directions": lambda ball, **how: DirectionPAAD.for_env(Arena(), stor(ball), **how, **SMALL),
    "ROMANCE-s": lambda ball, **how: ROMANCE.for_env(
        Arena(), stor(ball), rate=0.7, budget=4, **how, **SMALL
    ),
}
FIXED = {
    "RN": lambda ball, who: ObsPerturber(UniformNoise(ball=ball), agents=who),
    "FGSM": lambda ball, who: ObsPerturber(PGD.fgsm(ball), agents=who),
    "PGD": lambda ball, who: ObsPerturber(PGD(ball=ball, random_start=True), agents=who),
}
EVERY = [*FIXED, *LEARNED]


def attack(name, epsilon=0.4, who=None, **bounds):
    """Return what plays: as it does in training where it learns."""
    ball = LinfBall(epsilon=epsilon, **bounds)
    return FIXED[name](ball, who) if name in FIXED else LEARNED[name](ball, agents=who).perturber()


def team(recurrent=True):
    return QMIX.for_env(Arena(), recurrent=recurrent, last_action=recurrent, **SMALL)


def played(name, victim=None, *, num_envs=3, **how):
    victim = team() if victim is None else victim
    perturb = [] if name is None else [attack(name, **how)]
    return collected(victim, 8, perturb=perturb, num_envs=num_envs).latest(8)


@pytest.mark.parametrize("name", EVERY)
def test_without_radius_it_is_the_identity_bit_for_bit(name):
    nothing, plain = played(name, epsilon=0.0), played(None)
    assert torch.equal(nothing.obs.seen, plain.obs.obs)
    assert torch.equal(nothing.act, plain.act)
    assert torch.equal(nothing.rew, plain.rew)


@pytest.mark.parametrize("name", EVERY)
def test_it_keeps_to_its_ball_and_to_the_range_that_holds_the_truth(name):
    """Arena's first coordinate goes up to 3: outside of the range it may come back only."""
    batch = played(name, low=-1.0, high=1.0)
    obs, seen = batch.obs.obs[:, :-1][batch.living], batch.obs.seen[:, :-1][batch.living]
    assert bool((seen != obs).any())
    assert float((seen - obs).abs().max()) <= 0.4 * (1 + 1e-6)
    assert bool((seen <= obs.clamp(min=1.0) + 1e-6).all())
    assert bool((seen >= obs.clamp(max=-1.0) - 1e-6).all())
    assert bool((obs[:, 0] > 1.0).any())


@pytest.mark.parametrize("name", EVERY)
def test_it_leaves_the_victim_alone(name):
    victim = team()
    perturber, kept = attack(name), weights(victim)
    on_obs, memories = perturber.on_obs, []

    def watched(context):
        before = context.hidden.clone()
        found = on_obs(context)
        memories.append(torch.equal(before, context.hidden))
        return found

    perturber.on_obs = watched
    collected(victim, 4, perturb=[perturber])
    assert len(memories) > 4
    assert all(memories)
    assert all(torch.equal(kept[key], p) for key, p in weights(victim).items())
    assert all(p.grad is None for p in victim.parameters())


@pytest.mark.parametrize("name", EVERY)
def test_the_same_seed_is_the_same_attack(name):
    one, other = played(name), played(name)
    assert torch.equal(one.obs.seen, other.obs.seen)
    assert torch.equal(one.act, other.act)


@pytest.mark.parametrize("name", EVERY)
def test_others_see_the_truth(name):
    batch = played(name, who=["unit_1"])
    moved = (batch.obs.seen != batch.obs.obs).any(-1)[:, :-1] & batch.living
    assert bool(moved[..., 1].any())
    assert not bool(moved[..., [0, 2]].any())


@pytest.mark.parametrize("name", EVERY)
def test_shapes_and_kinds_stay_whatever_is_played_beside(name):
    """The episodes of one environment alone are those of four side by side."""
    alone, together = played(name, num_envs=1), played(name, num_envs=4)
    for batch in (alone, together):
        assert batch.obs.seen.shape == batch.obs.obs.shape
        assert batch.obs.seen.dtype == batch.obs.obs.dtype
        assert batch.obs.seen.device == batch.obs.obs.device
    order = [batch.obs.obs[:, 0, 0, 1].argsort() for batch in (alone, together)]
    valid = [batch.living[index] for batch, index in zip((alone, together), order, strict=True)]
    seen = [
        batch.obs.seen[:, :-1][index] for batch, index in zip((alone, together), order, strict=True)
    ]
    assert torch.equal(valid[0], valid[1])
    torch.testing.assert_close(seen[0][valid[0]], seen[1][valid[1]])


@pytest.mark.parametrize("name", LEARNED)
def test_it_learns_from_the_truth_and_not_from_what_was_shown(name):
    """What agents saw is no part of its update; ATSA's tie to its victim is left out here."""
    made = LEARNED[name](LinfBall(epsilon=0.4))
    if name == "ATSA":
        made.kappa = 0.0
    batch = collected(team(), 8, perturb=[made.perturber()]).latest(8)
    clean, other = copy.deepcopy(made), copy.deepcopy(made)
    shown = copy.deepcopy(batch)
    shown.obs.seen.fill_(7.0)
    assert not torch.equal(batch.obs.obs, batch.obs.seen)
    one, two = (
        twin.learn(Sample(fresh=episodes, drawn=episodes))
        for twin, episodes in ((clean, batch), (other, shown))
    )
    assert one == two
    assert all(
        torch.equal(p, q) for p, q in zip(clean.parameters(), other.parameters(), strict=True)
    )


@pytest.mark.parametrize("explore", [False, True])
@pytest.mark.parametrize("kind", ["forced", "shown", "directed"])
def test_new_perturbers_keep_their_contract(kind, explore):
    """With agents of different sizes, one of which comes late."""

    def make(made_for):
        spec = made_for.spec
        attackers = Attackers(spec, hidden=(8,), rate=0.5, budget=2)
        if kind == "forced":
            return AttackerActions(attackers, explore=explore)
        if kind == "shown":
            return AttackerObs(attackers, stor(LinfBall(epsilon=0.3)), explore=explore)
        sizes = spec.obs_size, spec.num_actions
        actor = DirectionActor(stor(LinfBall(epsilon=0.3)), *sizes, hidden=(8,))
        return LearnedObsPerturber(actor) if explore else ObsPerturber(actor)

    check_perturber(make)


def test_an_actor_of_directions_is_an_attack():
    def make(epsilon):
        return DirectionActor(stor(LinfBall(epsilon=epsilon)), 6, 4, hidden=(8,))

    check_attack(make)


@pytest.mark.parametrize("recurrent", [False, True])
def test_a_greedy_director_names_the_same_action_in_the_same_state(recurrent):
    made = PAAD.for_env(Arena(), stor(LinfBall(epsilon=0.3)), recurrent=recurrent, **SMALL)
    victim = team()
    one, other = (
        collected(victim, 6, perturb=[made.deployed()]).latest(6).record("director")["target"]
        for _ in range(2)
    )
    assert torch.equal(one, other)
    output = made.director.network.unroll(torch.ones(2, 1, 3, 3), -torch.ones(2, 1, 3).long())[0]
    assert torch.equal(output[0], output[1])


@pytest.mark.parametrize("name", LEARNED)
def test_the_radius_follows_what_the_team_has_trained(name):
    """Of 100 steps 30: .12 in place of .4; deployed it is .4, whatever the team has counted."""
    rising = Linear(0.0, 0.4, over=100, unit="env_steps")
    made = LEARNED[name](LinfBall(epsilon=0.4), epsilon=rising)
    victim = team()
    victim.policy.count("env_steps", 30)

    def largest(perturber):
        batch = collected(victim, 4, perturb=[perturber]).latest(4)
        return float((batch.obs.seen - batch.obs.obs).abs().max())

    assert largest(made.perturber()) == pytest.approx(0.12, rel=1e-4)
    greedy = None if name in ("PAAD", "RAP") else False  # these two never draw
    assert largest(made.deployed(greedy)) == pytest.approx(0.4, rel=1e-4)


@pytest.mark.parametrize("name", LEARNED)
def test_without_a_radius_yet_a_team_trains_as_if_alone(name):
    late = Linear(0.0, 0.4, over=100, begin=1_000, unit="env_steps")
    (alone, _), (beside, _) = (
        trained(made) for made in (None, LEARNED[name](LinfBall(epsilon=0.4), epsilon=late))
    )
    assert same_weights(alone, beside)


def test_attackers_without_a_radius_yet_spend_nothing():
    """Neither their budget nor what attacks cost: they are told that nobody was attacked."""
    late = Linear(0.0, 0.4, over=100, begin=1_000, unit="env_steps")
    made = LEARNED["ROMANCE-s"](LinfBall(epsilon=0.4), epsilon=late)
    now = LEARNED["ROMANCE-s"](LinfBall(epsilon=0.4))
    for one, spent in ((made, False), (now, True)):
        batch = collected(team(), 4, perturb=[one.perturber()]).latest(4)
        record = one.recorded(batch)
        assert bool((record["agent"][batch.valid] < 3).any()) == spent
        assert bool(record["used"][batch.valid].any()) == spent


@pytest.mark.parametrize("name", LEARNED)
def test_against_a_team_that_stands_still_a_radius_must_not_wait(name):
    """Its counts stand still, too: an attack would be without radius for ever."""
    made = LEARNED[name](LinfBall(epsilon=0.4), epsilon=Linear(0.0, 0.4, over=50, unit="env_steps"))
    rule = r"AdversarialTraining\.adversaries\.epsilon must be > 0 against a team that stands still"
    with pytest.raises(ValueError, match=rule):
        trained(made, team_every=None)
    victim = QMIX.for_env(Arena(), seed=1, **SMALL)
    victim.policy.count("env_steps", 60)
    assert len(AdversarialTraining(victim, made, team_every=None).perturbers()) == 1


def test_radii_by_coordinate_cannot_rise_together():
    ball = LinfBall(epsilon=(0.4, *[0.0] * 5))
    rule = r"DirectedObsPerturber\.epsilon|PAAD\.epsilon must be None where the ball has a radius"
    with pytest.raises(ValueError, match=rule):
        LEARNED["PAAD"](ball, epsilon=Linear(0.0, 0.4, over=50))


@pytest.mark.parametrize("name", LEARNED)
def test_a_radius_that_rises_is_a_setting_of_the_run(name):
    rising = Linear(0.0, 0.4, over=50, unit="env_steps")
    one, other = (LEARNED[name](LinfBall(epsilon=0.4), epsilon=e) for e in (None, rising))
    assert any("epsilon.stop" in key for key in fingerprint(adversary=other))
    assert not any("epsilon.stop" in key for key in fingerprint(adversary=one))


def test_forced_actions_have_no_radius():
    with pytest.raises(ValueError, match=r"ROMANCE\.epsilon must be None where actions are forced"):
        ROMANCE.for_env(Arena(), epsilon=0.1, **SMALL)


LEARNERS = [
    *LEARNED,
    "ROMANCE-p",
]


def adversary(name, epsilon=0.4):
    if name == "ROMANCE-p":  # forces actions: without attacks in its budget it does nothing
        budget = 4 if epsilon else 0
        return ROMANCE.for_env(Arena(), rate=0.7, budget=budget, rounds=3, **SMALL)
    return LEARNED[name](LinfBall(epsilon=epsilon))


def trained(made, steps=160, folder=None, *, resume=False, **how):
    """Return a team, and what was trained: it, or both."""
    victim = QMIX.for_env(Arena(), seed=1, **SMALL)
    learner = victim if made is None else AdversarialTraining(victim, made, **how)
    log = Log(folder, resume=resume, progress=False)
    off = OffPolicy(batch_size=4, learning_starts=4)
    learn = off if learner.off_policy else OnPolicy(episodes_per_round=4)
    told = run(learner, Arena, env_steps=steps, num_envs=2, learn=learn, log=log)
    assert told.resumed == resume
    return victim, learner


@pytest.mark.parametrize("name", LEARNERS)
def test_trained_beside_it_without_budget_a_team_is_as_if_alone(name):
    (alone, _), (beside, _) = trained(None), trained(adversary(name, 0.0))
    assert same_weights(alone, beside)
    assert not same_weights(alone, trained(adversary(name))[0])


@pytest.mark.parametrize("name", LEARNERS)
def test_a_team_that_stands_still_does_not_move_and_it_learns(name):
    made = adversary(name)
    before = copy.deepcopy(made)
    victim, _ = trained(made, team_every=None)
    assert same_weights(victim, QMIX.for_env(Arena(), seed=1, **SMALL))
    assert not same_weights(made, before)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_run_beside_it_resumes_bit_for_bit(name, tmp_path):
    trained(adversary(name), 100, tmp_path)
    _, cut = trained(adversary(name), 220, tmp_path, resume=True)
    _, through = trained(adversary(name), 220)
    one, other = cut.state_dict(), through.state_dict()
    tensors = [key for key, value in one.items() if isinstance(value, torch.Tensor)]
    assert tensors
    assert all(torch.equal(one[key], other[key]) for key in tensors)
    assert same_weights(cut, through)
