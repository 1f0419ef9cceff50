"""Random, scripted and slowly following teams."""

import pytest
import torch
from doubles import Scripted, armies

from robustmarl._seeding import Draws
from robustmarl.algorithms import IPPO, QMIX
from robustmarl.data import RandomController, ScriptedController, SlowCopy
from robustmarl.data.controllers import categorical
from robustmarl.evaluation import rollout
from robustmarl.joint import spec_of
from robustmarl.training import Log, load_checkpoint, run


def twins():
    """Two teams of equal spaces."""
    teams = {"red": ("a0", "a1"), "blue": ("a2", "a3")}
    return Scripted(4, teams=teams, state="joint", masks="info")


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


def test_self_play_resumes_bit_for_bit(tmp_path):
    settings = {"num_envs": 2, "interval": 16, "team": "red"}

    def go(where, steps, seed, resume=False):
        team = learner(seed)
        copy = SlowCopy(team, 0.1)
        run(
            team,
            twins,
            env_steps=steps,
            opponents={"blue": copy},
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
