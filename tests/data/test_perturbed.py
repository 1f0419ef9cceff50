"""Opponents whose observations are perturbed."""

import pytest
import torch
from doubles import Scripted
from learners import NoAttack

from robustmarl.algorithms import IPPO, MFAC
from robustmarl.attacks import PGD, UniformNoise
from robustmarl.attacks.poison import RandomAttack
from robustmarl.budgets import LinfBall
from robustmarl.data import (
    EpisodeBuffer,
    JointCollector,
    PerturbedController,
    RandomController,
    SlowCopy,
)
from robustmarl.data.perturbed import follower_of
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.evaluation import crossplay, rollout
from robustmarl.joint import spec_of
from robustmarl.perturbers import ActionPoisonPerturber, ObsPerturber, RandomAgents
from robustmarl.training import Log, Tests, run

BALL = LinfBall(epsilon=0.3)
NOISE = UniformNoise(ball=BALL)


def twins():
    """Two teams of equal spaces."""
    return Scripted(4, teams={"red": ("a0", "a1"), "blue": ("a2", "a3")}, lengths=(3, 5))


RED, BLUE = (spec_of(twins()).of_team(team) for team in ("red", "blue"))


class Watching(RandomController):
    """A random team that keeps what it saw, by episode and step."""

    def __init__(self, spec):
        super().__init__(spec)
        self.saw = {}

    def infer(self, context):
        for row in (context.live & ~context.terminal).nonzero()[:, 0].tolist():
            where = int(context.keys[row]), int(context.step[row])
            self.saw[where] = context.obs[row].clone(), context.seen[row].clone()
        return super().infer(context)


def saw(perturb, *, num_envs=2, perturb_red=()):
    watching = Watching(BLUE)
    buffer = EpisodeBuffer(RED, 4)
    JointCollector(
        RandomController(RED),
        JointVectorEnv(twins, num_envs),
        buffer,
        team="red",
        opponents={"blue": PerturbedController(watching, perturb)},
        perturb=perturb_red,
    ).collect(n_episode=4)
    return watching.saw, buffer.latest(4)


def test_it_is_shown_what_an_attack_makes_of_its_observations_and_its_enemy_is_not():
    shown, batch = saw(NOISE)
    moved = torch.stack([(seen - clean).abs().amax() for clean, seen in shown.values()])
    assert bool((moved > 0.0).all())
    assert float(moved.max()) <= 0.3 + 1e-6
    assert torch.equal(batch.obs.seen, batch.obs.obs)


def test_draws_are_the_episodes_and_other_than_those_on_the_team_that_it_plays():
    one, other = saw(NOISE, num_envs=1)[0], saw(NOISE, num_envs=3)[0]
    assert all(torch.equal(seen, other[where][1]) for where, (_, seen) in one.items())
    shown, batch = saw(NOISE, perturb_red=[NOISE])
    (key, _), (clean, seen) = next(iter(shown.items()))
    noise = (batch.obs.seen - batch.obs.obs)[0, 0]
    assert key
    assert not torch.allclose(seen - clean, noise, atol=1e-4)


def test_who_is_attacked_may_be_named_or_drawn():
    for agents in (["a3"], RandomAgents(1, ["a2", "a3"])):
        shown, _ = saw(ObsPerturber(NOISE, agents=agents))
        for clean, seen in shown.values():
            assert int((clean != seen).any(-1).sum()) == 1


def test_without_budget_it_plays_as_the_policy_does():
    team = MFAC.for_env(twins(), team="red", hidden=(8,))
    nobody = NoAttack(LinfBall(epsilon=0.0))
    others = [SlowCopy(team), PerturbedController(SlowCopy(team), nobody)]
    plain, perturbed = (
        rollout(team, twins, episodes=4, team="red", opponents={"blue": one}) for one in others
    )
    assert plain.returns.tolist() == perturbed.returns.tolist()


@pytest.mark.parametrize("kind", [IPPO, MFAC])
def test_attacks_query_the_opponent_itself(kind):
    blue = kind.for_env(twins(), team="blue", hidden=(8,), seed=3)
    with torch.no_grad():
        blue.policy.network.first.weight.mul_(20)
    opponents = {
        "clean": blue,
        "attacked": PerturbedController(blue, PGD(ball=LinfBall(epsilon=2.0), steps=3)),
    }
    spec, acted = spec_of(twins()), {}
    for name, one in opponents.items():
        engine = JointVectorEnv(twins, 2)
        received, advance = [], engine.advance

        def noted(act, mask, advance=advance, received=received):
            received.append(act[:, 2:].clone())
            advance(act, mask)

        engine.advance = noted
        red = RandomController(spec.of_team("red"))
        collector = JointCollector(red, engine, team="red", opponents={"blue": one})
        collector.collect(n_episode=6)
        acted[name] = torch.cat(received)
    assert acted["clean"].shape == acted["attacked"].shape
    assert not torch.equal(acted["clean"], acted["attacked"])


def test_victims_that_remember_are_served_in_collections_of_several_sizes(tmp_path):
    """Two environments play the tests of four that train; and a table is made of it."""
    other = IPPO.for_env(twins(), team="blue", recurrent=True, hidden=(8,))
    team = IPPO.for_env(twins(), team="red", hidden=(8,))
    attack = ObsPerturber(PGD(ball=BALL, steps=2), victim=other)
    blue = PerturbedController(SlowCopy(team), attack)
    run(
        team,
        twins,
        env_steps=30,
        num_envs=4,
        team="red",
        opponents={"blue": blue},
        tests=Tests(episodes=2),
        log=Log(progress=False),
    )
    table = crossplay(
        {"red": team},
        {"clean": None, "noise": NOISE},
        twins,
        episodes=3,
        team="red",
        opponents={"blue": blue},
        baselines=False,
    )
    assert set(table.cells["red"]) == {"clean", "noise"}


def test_a_copy_is_found_beneath():
    copy = SlowCopy(IPPO.for_env(twins(), team="red", hidden=(8,)))
    assert follower_of(PerturbedController(copy, NOISE)) is follower_of(copy) is copy
    assert follower_of(RandomController(BLUE)) is None


def test_bad_input():
    team = IPPO.for_env(twins(), team="red", hidden=(8,))
    with pytest.raises(TypeError, match=r"PerturbedController\.policy must be an algorithm"):
        PerturbedController(len, NOISE)
    with pytest.raises(TypeError, match=r"PerturbedController\.perturb must be an attack"):
        PerturbedController(team, "noise")
    poison = ActionPoisonPerturber(RandomAttack(), learner=team, agent="a0")
    with pytest.raises(ValueError, match=r"PerturbedController\.perturb must be perturbers of obs"):
        PerturbedController(team, poison)
    red = PerturbedController(SlowCopy(team), ObsPerturber(NOISE, agents=["a0"]))
    with pytest.raises(ValueError, match=r"ObsPerturber\.agents must be among"):
        rollout(team, twins, team="red", opponents={"blue": red})  # an agent of the other team
