"""What Tianshou's own multi-agent part gets wrong is right here: one test per complaint."""

import pytest
import torch
from doubles import Scripted
from tianshou.data import Batch, ReplayBuffer
from tianshou.utils.torch_utils import policy_within_training_step

from robustmarl.algorithms import IPPO, QMIX
from robustmarl.data import EpisodeBuffer, JointCollector, RandomController
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import spec_of
from robustmarl.perturbers import Perturber
from robustmarl.training import AdversarialTraining, Log, OffPolicy, run


def collect(policy, make, episodes=3, num_envs=2, perturb=()):
    env = JointVectorEnv(make, num_envs)
    store = EpisodeBuffer(env.spec, episodes)
    JointCollector(policy, env, store, perturb=perturb).collect(n_episode=episodes)
    return store


def qmix(**settings):
    return QMIX.for_env(Scripted(), hidden=(8,), embed=4, hyper_hidden=4, **settings)


def test_every_agents_reward_is_kept():
    """There, every agent but the last mover is stored with reward 0."""
    batch = collect(RandomController(spec_of(Scripted(3))), lambda: Scripted(3)).latest(3)
    assert (batch.rew_agents > 0).all()
    t, i = torch.arange(4).view(1, -1, 1), torch.arange(3)
    assert torch.equal(batch.rew_agents, 1.0 + t + 10.0 * i + batch.act)


def test_the_next_observation_is_the_same_agents():
    """There, ``obs_next`` belongs to another agent."""
    batch = collect(RandomController(spec_of(Scripted(3))), lambda: Scripted(3)).latest(3)
    agents = batch.obs.obs[..., 2]
    assert torch.equal(agents, torch.arange(3.0).expand_as(agents))
    assert torch.equal(batch.obs.obs[:, 1:, :, 3], batch.act.float())  # shows the last action


def test_an_episode_goes_on_after_the_first_death():
    """There, it is done at the first death, and stepping on raises."""
    make = lambda: Scripted(3, deaths={0: 1, 2: 2}, lengths=(5,))  # noqa: E731
    batch = collect(RandomController(spec_of(make())), make).latest(3)
    assert batch.valid.all()
    assert batch.valid.shape == (3, 5)
    done = batch.terminated | batch.truncated
    assert done.tolist() == [[False] * 4 + [True]] * 3
    assert batch.obs.alive[0, :5].sum(0).tolist() == [1, 5, 2]
    assert batch.rew_agents[0, :, 1].min() > 0


def test_hidden_states_are_plain_tensors_and_reset():
    """There, a collector resets no hidden state that is a tensor."""
    hidden = []

    class Watch(Perturber):
        def shown(self, context):
            hidden.append((context.step.clone(), context.hidden.clone()))

    make = lambda: Scripted(lengths=(2, 5))  # noqa: E731
    team = IPPO.for_env(make(), hidden=(8,), recurrent=True)
    collect(team, make, episodes=6, num_envs=2, perturb=[Watch()])
    assert all(isinstance(h, torch.Tensor) for _, h in hidden)
    begun = [h[e] for step, h in hidden for e in (step == 0).nonzero()[:, 0]]
    later = [h[e] for step, h in hidden for e in (step > 0).nonzero()[:, 0]]
    assert len(begun) >= 6
    assert not torch.stack(begun).any()
    assert torch.stack(later).flatten(1).any(1).all()


def test_loading_leaves_the_callers_dictionary():
    """There, ``load_state_dict`` takes the optimizers out of it."""
    for algorithm in (qmix(), IPPO.for_env(Scripted(), hidden=(8,))):
        state = algorithm.state_dict()
        keys = set(state)
        assert "_optimizers" in keys
        algorithm.load_state_dict(state)
        algorithm.load_state_dict(state)
        assert set(state) == keys


def test_a_nested_algorithm_loads():
    """There, the state of an algorithm within an algorithm does not load."""
    from robustmarl.adversaries import ObsAdversaryPPO
    from robustmarl.budgets import LinfBall

    def pair(seed):
        ball = LinfBall(epsilon=0.1)
        adversary = ObsAdversaryPPO.for_env(Scripted(), ball, hidden=(8,), seed=seed)
        return AdversarialTraining(qmix(seed=seed), adversary)

    one, two = pair(0), pair(1)
    state = one.state_dict()
    keys = set(state)
    two.load_state_dict(state)
    assert set(state) == keys
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_a_training_step_scans_no_buffer(monkeypatch):
    """There, the online trainer looks through the whole buffer for NaN in every step."""
    calls = []
    monkeypatch.setattr(Batch, "hasnull", lambda self: calls.append(1) or False)
    monkeypatch.setattr(ReplayBuffer, "hasnull", lambda self: calls.append(1) or False)
    learn, log = OffPolicy(learning_starts=1), Log(progress=False)
    run(qmix(), Scripted, env_steps=48, num_envs=2, learn=learn, log=log)
    assert not calls


@pytest.mark.parametrize("length", [1, 20])
def test_updates_are_per_episode_and_never_none(length):
    """There, an episode of 20 steps at 1/50 updates a step is no update and an error."""
    make = lambda: Scripted(lengths=(length,))  # noqa: E731
    team = QMIX.for_env(make(), hidden=(4,), embed=4, hyper_hidden=4)
    run(
        team,
        make,
        env_steps=3 * length,
        num_envs=1,
        learn=OffPolicy(learning_starts=1, updates_per_episode=1 / 50),
        log=Log(progress=False),
    )
    assert team.policy.counted("updates") == team.policy.counted("episodes") == 3


def test_rewards_of_several_agents_have_returns():
    """There, ``compute_episodic_return`` refuses rewards (T, N)."""
    batch = collect(RandomController(spec_of(Scripted(3))), lambda: Scripted(3)).latest(3)
    team = IPPO.for_env(
        Scripted(3), hidden=(8,), reward="agents", gamma=0.5, gae_lambda=1.0, normalize_value=False
    )
    with torch.no_grad():
        _, returns = team.advantages(batch)
        last = team.values(batch.obs)[:, -1]  # a time limit bootstraps
    want = last
    for t in reversed(range(4)):
        want = batch.rew_agents[:, t] + 0.5 * want
        torch.testing.assert_close(returns[:, t], want)


def test_observations_are_not_each_others_memory():
    """There, shared memory makes ``obs`` equal ``obs_next`` for Dict observations."""
    make = lambda: Scripted(masks="dict", lengths=(6,))  # noqa: E731
    for num_envs in (1, 4):
        store = collect(RandomController(spec_of(make())), make, 8, num_envs)
        batch = store.latest(8)
        steps = batch.obs.obs[..., 0, 1]
        torch.testing.assert_close(steps, (torch.arange(7) / 10).expand(8, 7))
        assert (batch.obs.obs[:, 1:] != batch.obs.obs[:, :-1]).flatten(2).any(-1).all()
        assert len(batch.obs.obs[:, 0, 0, 0].unique()) == 8


def test_any_key_is_kept_and_sequences_are_sampled():
    """There, a vector buffer drops keys it does not know, and samples single steps."""

    class Extra(Perturber):
        def record(self):
            return {"type": torch.ones(2, 2, 5)}

    store = collect(RandomController(spec_of(Scripted())), Scripted, 3, 2, perturb=[Extra()])
    assert store.sample(2)[0].records["perturber"]["type"].shape == (2, 4, 2, 5)


def test_an_update_outside_of_training_is_still_refused():
    """Tianshou's own guard is kept."""
    team, store = qmix(), collect(qmix(), Scripted)
    with pytest.raises(RuntimeError, match="outside of a training step"):
        team.update(buffer=store, sample_size=2)
    with policy_within_training_step(team.policy):
        team.update(buffer=store, sample_size=2)
    assert team.policy.counted("updates") == 1
