"""Seeded episodes: paired, complete, and without a trace in the team."""

import numpy as np
import pytest
import torch
from doubles import Scripted, armies

from robustmarl.algorithms import IPPO, QMIX
from robustmarl.attacks import PGD, UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.data import RandomController, ScriptedController
from robustmarl.envs import SignalMatching
from robustmarl.evaluation import rollout
from robustmarl.joint import spec_of
from robustmarl.perturbers import ObsPerturber, Perturber
from robustmarl.typing import RobustnessWarning
from robustmarl.victims import FunctionVictim

NOISE = UniformNoise(ball=LinfBall(epsilon=0.3))
FLIP = PGD.fgsm(LinfBall(epsilon=0.6))


def game():
    return Scripted(lengths=(1, 3, 8), metrics=("u", "steps"))


def qmix(make=game, **settings):
    return QMIX.for_env(make(), hidden=(8,), embed=4, hyper_hidden=4, **settings)


def reader():
    """Return a team that plays the context it sees, and its logits as a victim."""
    script = ScriptedController(spec_of(SignalMatching()), lambda context: context.seen.argmax(-1))
    return script, FunctionVictim(lambda obs: obs)


def test_figures_are_in_the_order_in_which_episodes_began():
    random = RandomController(spec_of(game()))
    want = rollout(random, game, episodes=20, num_envs=1)
    assert len(set(want.lengths)) > 1
    for num_envs in (3, 20, 50):
        got = rollout(random, game, episodes=20, num_envs=num_envs)
        np.testing.assert_array_equal(got.returns, want.returns)
        np.testing.assert_array_equal(got.lengths, want.lengths)
        np.testing.assert_array_equal(got.metrics["u"], want.metrics["u"])
    np.testing.assert_array_equal(want.figure("steps"), want.lengths)
    assert want.figure("return") is want.returns


def test_teams_and_attacks_are_paired():
    team = qmix()
    runs = [
        rollout(t, game, episodes=9, num_envs=4, perturb=p)
        for t in (team, RandomController(spec_of(game())), team.untrained(seed=3))
        for p in (None, NOISE)
    ]
    for other in runs[1:]:
        np.testing.assert_array_equal(other.metrics["u"], runs[0].metrics["u"])
    assert (rollout(team, game, episodes=9, seed=1).metrics["u"] != runs[0].metrics["u"]).all()
    first = rollout(team, game, episodes=4, num_envs=2)
    np.testing.assert_array_equal(first.returns, runs[0].returns[:4])


def test_an_attack_does_what_it_says():
    script, victim = reader()
    clean = rollout(script, SignalMatching, episodes=5)
    assert clean.returns.tolist() == [10.0] * 5
    assert clean.counters == {}
    attacked = rollout(
        script, SignalMatching, episodes=5, perturb=ObsPerturber(FLIP, victim=victim)
    )
    assert attacked.returns.tolist() == [0.0] * 5
    assert attacked.counters == {"0/attacked": 100.0, "0/unchanged": 0.0}
    small = ObsPerturber(FLIP.with_epsilon(0.4), victim=victim)
    assert rollout(script, SignalMatching, episodes=5, perturb=[small]).returns.min() == 10.0
    half = ObsPerturber(FLIP, victim=victim, every=2)
    assert rollout(script, SignalMatching, episodes=5, perturb=half).returns.tolist() == [5.0] * 5
    both = [ObsPerturber(FLIP, victim=victim), ObsPerturber(FLIP, victim=victim)]
    twice = rollout(script, SignalMatching, episodes=5, perturb=both)
    assert twice.returns.tolist() == [10.0] * 5  # the second asks about what the first left
    assert set(twice.counters) == {"0/attacked", "0/unchanged", "1/attacked", "1/unchanged"}


def test_random_play_earns_what_chance_earns():
    random = RandomController(spec_of(SignalMatching()))
    returns = rollout(random, SignalMatching, episodes=400, num_envs=40).returns
    assert abs(returns.mean() - 2.5) < 5 * (10 * 0.1875 / 400) ** 0.5


@pytest.mark.parametrize("kind", [QMIX, IPPO])
def test_nothing_of_the_team_changes(kind):
    team = kind.for_env(game(), hidden=(8,))
    before = {k: v.clone() for k, v in team.policy.state_dict().items()}
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    team.train()
    rollout(team, game, episodes=6, perturb=[NOISE, PGD(ball=LinfBall(epsilon=0.1))])
    assert all(torch.equal(before[k], v) for k, v in team.policy.state_dict().items())
    assert all(p.grad is None for p in team.parameters())
    assert team.training
    assert not team.policy.is_within_training_step
    assert torch.equal(state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()  # noqa: NPY002


def test_policies_act_as_they_were_trained():
    team = IPPO.for_env(game(), hidden=(8,))
    lengths = {tuple(rollout(team, game, episodes=5, seed=s).returns) for s in range(4)}
    assert len(lengths) == 4
    greedy = IPPO.for_env(game(), hidden=(8,), deterministic_eval=True)
    assert not np.array_equal(
        rollout(greedy, game, episodes=5).returns, rollout(team, game, episodes=5).returns
    )


def test_teams_against_teams():
    spec = spec_of(armies(2))
    red, blue = RandomController(spec.of_team("red")), RandomController(spec.of_team("blue"))
    one = rollout(red, lambda: armies(2), episodes=3, team="red", opponents={"blue": blue})
    two = rollout(blue, lambda: armies(2), episodes=3, team="blue", opponents={"red": red})
    assert one.returns.max() < two.returns.min()  # higher numbers earn more


def test_warnings():
    script, _ = reader()
    flat = FunctionVictim(lambda obs: obs * 0.0)
    with pytest.warns(RobustnessWarning, match="changed none of 40 observations"):
        rollout(script, SignalMatching, episodes=2, perturb=ObsPerturber(FLIP, victim=flat))
    with pytest.warns(RobustnessWarning, match="has no budget"):
        rollout(script, SignalMatching, episodes=2, perturb=NOISE.with_epsilon(0.0))


def test_environments_are_closed_even_after_an_error():
    made = []

    def make():
        made.append(Scripted())
        return made[-1]

    class Broken(Perturber):
        def on_act(self, context, act):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        rollout(RandomController(spec_of(Scripted())), make, episodes=3, perturb=Broken())
    assert len(made) == 3
    assert all(env.closed for env in made)


@pytest.mark.parametrize(("name", "value"), [("episodes", 0), ("num_envs", 0), ("seed", -1)])
def test_bad_numbers(name, value):
    with pytest.raises(ValueError, match=rf"rollout\.{name} must be an int"):
        rollout(qmix(), game, **{name: value})


def test_bad_kinds():
    with pytest.raises(TypeError, match=r"rollout\.policy must be a Victim, a robustmarl or"):
        rollout("policy", game)
    with pytest.raises(ValueError, match=r"rollout\.policy must be a policy with outputs of shape"):
        rollout(lambda obs: obs, game)
    with pytest.raises(TypeError, match="make_env must be a function"):
        rollout(qmix(), game())
    with pytest.raises(
        TypeError, match=r"rollout\.perturb must be an attack, a perturber, several.*3"
    ):
        rollout(qmix(), game, perturb=[3])
