"""Random, scripted and slowly following teams."""

import re

import numpy as np
import pytest
import torch
from doubles import Scripted, armies

from robustmarl._seeding import Draws
from robustmarl.algorithms import IPPO, MFAC, QMIX
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.data import (
    EpisodeBuffer,
    JointCollector,
    PerturbedController,
    RandomController,
    ScriptedController,
    SlowCopy,
)
from robustmarl.data.controllers import categorical
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.evaluation import rollout
from robustmarl.joint import at_actions, spec_of
from robustmarl.training import Log, load_checkpoint, run


def twins():
    """Two teams of equal spaces."""
    teams = {"red": ("a0", "a1"), "blue": ("a2", "a3")}
    return Scripted(4, teams=teams, state="joint", masks="info")


class Lifted(Scripted):
    """Red earns as much as blue but for what they do: now one is ahead, now the other."""

    def step(self, actions):
        obs, rewards, *rest = super().step(actions)
        rewards = {
            agent: reward + 20.0 * (agent in ("a0", "a1")) for agent, reward in rewards.items()
        }
        return obs, rewards, *rest


def lifted():
    teams = {"red": ("a0", "a1"), "blue": ("a2", "a3")}
    return Lifted(4, teams=teams, state="joint", masks="info")


def learner(seed=0, **settings):
    return IPPO.for_env(twins(), team="red", hidden=(8,), seed=seed, **settings)


def test_draws_follow_the_distribution():
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(4000, 2, 3)
    act = categorical(logits, Draws(torch.arange(4000)))
    share = torch.nn.functional.one_hot(act, 3).float().mean(0)
    assert (share - torch.tensor([0.5, 0.3, 0.2])).abs().max() < 5 * 0.5 / 4000**0.5
    assert (act[:, 0] != act[:, 1]).any()


def test_what_has_no_mass_is_never_drawn():
    logits = torch.tensor([-1e9, 0.0, -1e9, 1.0, -1e9]).expand(2000, 1, 5)
    act = categorical(logits, Draws(torch.arange(2000)))
    assert set(act.unique().tolist()) == {1, 3}


def test_controllers_for_another_team_are_refused():
    spec = spec_of(armies(2))
    for controller in (
        RandomController(spec.of_team("red")),
        ScriptedController(spec.of_team("red"), lambda context: context.last_act),
    ):
        controller.check_spec(spec.of_team("red"))
        with pytest.raises(ValueError, match=r"Controller\.spec must be the team's"):
            controller.check_spec(spec.of_team("blue"))
        assert controller.victim() is None
    with pytest.raises(ValueError, match=r"SlowCopy\.learner must have this team's spaces"):
        SlowCopy(IPPO.for_env(spec, team="red")).check_spec(spec.of_team("blue"))
    with pytest.raises(ValueError, match=r"SlowCopy\.tau must be a number in \[0, 1\], got 1\.5"):
        SlowCopy(learner(), tau=1.5)


@pytest.mark.parametrize("tau", [0.0, 0.25, 1.0])
def test_a_copy_follows_at_its_pace(tau):
    team = learner()
    copy = SlowCopy(team, tau)
    before = [p.clone() for p in team.policy.parameters()]
    with torch.no_grad():
        for p in team.policy.parameters():
            p += 1.0
    assert all(torch.equal(a, b) for a, b in zip(copy.policy.parameters(), before, strict=True))
    copy.follow()
    for own, old in zip(copy.policy.parameters(), before, strict=True):
        torch.testing.assert_close(own, old + tau)
    assert not any(p.requires_grad for p in copy.parameters())


@pytest.mark.parametrize("recurrent", [False, True])
def test_a_copy_plays_the_other_side(recurrent):
    team = learner(recurrent=recurrent)
    copy = SlowCopy(team)
    one = rollout(team, twins, episodes=4, team="red", opponents={"blue": copy})
    assert one.returns.shape == (4,)
    with torch.no_grad():
        for p in copy.policy.parameters():
            p.zero_()
    rollout(copy, twins, episodes=4, team="blue", opponents={"red": team})


def scripted(found, make=None, num_envs=2):
    """Play an episode in which the script returns ``found``, or what it makes of the step."""
    make = make or (lambda: Scripted(masks="info", lengths=(3,), action_sizes=(4, 3)))
    spec = spec_of(make())
    script = found if callable(found) else lambda context: found
    store = EpisodeBuffer(spec, num_envs)
    engine = JointVectorEnv(make, num_envs)
    JointCollector(ScriptedController(spec, script), engine, store).collect(n_episode=num_envs)
    return store.latest(num_envs)


def boxes():
    return Scripted(continuous=True)


@pytest.mark.parametrize(
    ("found", "make", "error", "told"),
    [
        (torch.full((2, 2), 9), None, ValueError, "available actions, got 9 of agent 'a0' in en"),
        (torch.full((2, 2), 3), None, ValueError, "available actions, got 3 of agent 'a1'"),
        (torch.full((2, 2), -1), None, ValueError, "available actions, got -1 of agent 'a0'"),
        (torch.ones(1, 2).long(), None, ValueError, r"of shape (2, 2), got (1, 2). Make them"),
        (torch.ones(2).long(), None, ValueError, r"of shape (2, 2), got (2,)"),
        (torch.ones(2, 2), None, TypeError, "must return integers, got torch.float32"),
        (torch.ones(2, 2).bool(), None, TypeError, "must return integers, got torch.bool"),
        (0, None, TypeError, "must be a function of a step that returns a tensor, got 0"),
        (torch.ones(2, 2, 2), boxes, ValueError, "of shape (2, 2, 3), got (2, 2, 2)"),
        (torch.ones(2, 2).long(), boxes, TypeError, "must return floats, got torch.int64"),
    ],
)
def test_scripts_that_name_no_joint_action_are_refused(found, make, error, told):
    with pytest.raises(error, match=re.escape("ScriptedController.script must")) as caught:
        scripted(found, make)
    assert told in str(caught.value)


def test_an_unavailable_action_is_refused_with_those_that_are_available():
    asked = []

    def script(context):
        asked.append(context.mask[1, 1].nonzero()[:, 0].tolist())
        act = context.mask.int().argmax(-1)
        act[1, 1] = torch.where(
            context.step[1] == 2, (~context.mask[1, 1]).int().argmax(), act[1, 1]
        )
        return act

    with pytest.raises(ValueError, match=r"of agent 'a1' in environment 1, step 2, of ") as caught:
        scripted(script)
    assert f"of {asked[2]}. Look at context.mask." in str(caught.value)


def test_what_scripts_say_of_the_dead_means_nothing():
    make = lambda: Scripted(3, masks="info", deaths={1: 2}, arrivals={2: 2}, lengths=(4,))  # noqa: E731

    def script(context):
        act = context.mask.int().argmax(-1)
        return torch.where(context.alive, act, 99).numpy().astype(np.int32)

    batch = scripted(script, make)
    assert int(batch.living.sum()) < batch.living.numel()
    legal = at_actions(batch.obs.mask[:, :-1], batch.act)
    assert bool((legal | ~batch.living).all())


def idle(context):
    """The least that anybody earns."""
    return torch.zeros_like(context.last_act)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_teams_earnings_are_told_where_a_copy_goes_by_them(num_envs):
    """Agent i earns 1 + t + 10 i + its action in step t; episodes are of four steps."""
    spec, copy = spec_of(twins()), SlowCopy(learner(), when="ahead")
    copy.policy.select = lambda output, mask, *_: (torch.zeros_like(mask[..., 0]).long(), None)
    red = ScriptedController(spec.of_team("red"), idle)
    for blue, earned in ((copy, {"red": 60.0, "blue": 220.0}), (SlowCopy(learner()), {})):
        engine = JointVectorEnv(twins, num_envs)
        collector = JointCollector(red, engine, team="red", opponents={"blue": blue})
        for _ in range(2):
            assert collector.collect(n_episode=5).earned == earned


def test_a_copy_follows_who_is_ahead_only():
    team = learner()
    copy = SlowCopy(team, 0.99, when="ahead")
    before = [p.clone() for p in team.policy.parameters()]
    with torch.no_grad():
        for p in team.policy.parameters():
            p += 1.0
    copy.follow(ahead=False)
    assert all(torch.equal(a, b) for a, b in zip(copy.policy.parameters(), before, strict=True))
    copy.follow(ahead=True)
    for own, old in zip(copy.policy.parameters(), before, strict=True):
        torch.testing.assert_close(own, old + 0.99)


@pytest.mark.parametrize(("team", "moves"), [("red", False), ("blue", True)])
def test_self_play_goes_by_the_rounds_rewards(team, moves):
    """Blue earns more in this game, whatever both do."""
    algorithm = MFAC.for_env(twins(), team=team, hidden=(8,))
    copy = SlowCopy(algorithm, 0.99, when="ahead")
    before = [p.clone() for p in copy.policy.parameters()]
    other = {"red": "blue", "blue": "red"}[team]
    run(
        algorithm,
        twins,
        env_steps=16,
        num_envs=2,
        team=team,
        opponents={other: PerturbedController(copy, PGD(ball=LinfBall(epsilon=0.1), steps=2))},
        log=Log(progress=False),
    )
    after = list(copy.policy.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True)) == moves


def test_a_start_against_a_script_and_then_self_play():
    """Two runs: the copy of the second one is made of what was learned in the first."""
    team, spec = learner(), spec_of(twins())
    settings = {"env_steps": 16, "num_envs": 2, "team": "red", "log": Log(progress=False)}
    run(team, twins, opponents={"blue": ScriptedController(spec.of_team("blue"), idle)}, **settings)
    copy = SlowCopy(team, 0.99)
    for own, live in zip(copy.policy.parameters(), team.policy.parameters(), strict=True):
        assert torch.equal(own, live)
    updates = team.policy.counted("updates")
    run(team, twins, opponents={"blue": copy}, **settings)
    assert team.policy.counted("updates") > updates > 0  # schedules go on


@pytest.mark.parametrize("perturbed", [False, True])
def test_self_play_resumes_bit_for_bit(tmp_path, perturbed):
    settings = {"num_envs": 2, "interval": 16, "team": "red"}

    def go(where, steps, seed, resume=False):
        team = learner(seed)
        copy = SlowCopy(team, 0.1, when="ahead" if perturbed else "always")
        attack = PGD(ball=LinfBall(epsilon=0.3), steps=2, random_start=True)
        run(
            team,
            lifted if perturbed else twins,
            env_steps=steps,
            opponents={"blue": PerturbedController(copy, attack) if perturbed else copy},
            log=Log(tmp_path / where, resume=resume, progress=False),
            **settings,
        )
        saved = load_checkpoint(tmp_path / where / "checkpoint.pt")
        return team, copy, saved

    whole = go("whole", 64, 0)
    go("parts", 32, 0)
    parts = go("parts", 64, 3, resume=True)
    for one, two in zip(whole[:2], parts[:2], strict=True):
        for a, b in zip(one.policy.parameters(), two.policy.parameters(), strict=True):
            assert torch.equal(a, b)
    assert set(parts[2]["opponents"]) == {"blue"}
    fresh = learner(0)
    moved = zip(whole[1].policy.parameters(), fresh.policy.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in moved)


def test_a_copy_does_not_explore():
    team = QMIX.for_env(Scripted(), hidden=(8,), exploration=1.0)
    copy = SlowCopy(team)
    one, two = (rollout(t, Scripted, episodes=4) for t in (team, copy))
    assert one.returns.tolist() == two.returns.tolist()
