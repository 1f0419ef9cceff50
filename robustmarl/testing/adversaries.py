"""The contract of what learns against a team."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping

import torch
from tianshou.utils.torch_utils import policy_within_training_step

from robustmarl._checks import check_int
from robustmarl.adversaries import Adversary, Sample
from robustmarl.algorithms.ppo_based import PPOBased
from robustmarl.data import EpisodeBuffer, JointCollector
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import JointBatch, at_actions
from robustmarl.learning import TeamAlgorithm
from robustmarl.perturbers.base import Perturber
from robustmarl.perturbers.obs import ObsPerturber
from robustmarl.testing._compare import same_episodes, same_tensors, weights_of
from robustmarl.testing._error import requirement
from robustmarl.typing import Env

__all__ = ["check_adversary"]

_require = requirement("An adversary")


def check_adversary(
    make_adversary: Callable[[Env], Adversary],
    make_team: Callable[[Env], TeamAlgorithm],
    make_env: Callable[[], Env],
    *,
    episodes: int = 8,
    num_envs: int = 2,
    seed: int = 0,
) -> None:
    """Check an adversary against everything that training, evaluation and checkpoints rely on.

    It plays: within its budget, what agents may do, and with records under its own name, beside
    another of its kind, too. It learns: its weights change and stay finite, the same bits when it
    is done twice, while the team, the episodes and torch's global generator stay as they were.
    What it deploys stays as it is, whatever becomes of the adversary, and plays the same episodes
    again. A copy loaded from its ``state_dict`` learns on as it does.

    Args:
        make_adversary: builds it for an environment, with the same weights each time.
        make_team: builds a team for it, likewise; with advantages (MAPPO) if it needs them.
        make_env: builds one environment, with one team.
        episodes: played between two of its updates, >= 1; it must find something to learn from.
        num_envs: environments side by side, >= 1.
        seed: of the episodes, >= 0.

    Raises:
        ContractError: naming the first promise that is broken.
        TypeError: if an argument is of a wrong kind.
        ValueError: if a number is out of range.

    Example:
        >>> from robustmarl import adversaries, algorithms, budgets, envs
        >>> ball = budgets.LinfBall(epsilon=0.1)
        >>> check_adversary(
        ...     lambda env: adversaries.ObsAdversaryPPO.for_env(env, ball, epochs=1),
        ...     algorithms.VDN.for_env,
        ...     envs.TwoStepGame,
        ... )
    """
    makers = {"make_adversary": make_adversary, "make_team": make_team, "make_env": make_env}
    for name, maker in makers.items():
        if not callable(maker):
            raise TypeError(f"check_adversary.{name} must be callable, got {maker!r}.")
    check_int("check_adversary.episodes", episodes, 1)
    check_int("check_adversary.num_envs", num_envs, 1)
    check_int("check_adversary.seed", seed, 0)
    team, make = make_team(make_env()), _maker(make_adversary, make_env)

    def play(perturb: list[Perturber], number: int, training: bool = True) -> JointBatch:
        buffer = EpisodeBuffer(team.spec, episodes, device=team.device)
        engine = JointVectorEnv(make_env, num_envs)
        collector = JointCollector(team, engine, buffer, perturb=perturb, seed=seed + number)
        counted = team.policy.counts.clone()
        with policy_within_training_step(team.policy, enabled=training):
            collector.collect(n_episode=episodes)
        team.policy.counts.copy_(counted)  # playing for a check is no progress of the team
        collector.close()
        return buffer.latest(episodes)

    one, other = make(), make()
    begun = weights_of(one)
    same = same_tensors(begun, weights_of(other))
    _require(same, "begin with the same weights each time it is made")
    same = one.perturber() is one.perturber()
    _require(same, "return the same perturber each time it is asked for it")
    _check_records(one, other, play)

    kept = weights_of(team)
    for number in range(2):
        batch = play([one.perturber()], number)
        _check_play(one.perturber(), batch, team.spec.continuous)
        _check_learning(one, _sample(team, batch))
        finite = all(bool(weight.isfinite().all()) for weight in one.parameters())
        _require(finite, "keep its weights finite")
        same = same_tensors(kept, weights_of(team))
        _require(same, "leave the team's weights alone when it learns")
    ended = weights_of(one)
    _require(not same_tensors(begun, ended), "change its weights by learning")
    for number in range(2):
        other.learn(_sample(team, play([other.perturber()], number)))
    _require(same_tensors(ended, weights_of(other)), "end with the same bits when it learns twice")

    twin, state = make(), one.state_dict()
    keys = list(state)
    twin.load_state_dict(state)
    _require(list(state) == keys, "leave the dictionary that it loads as it was")
    _require(same_tensors(ended, weights_of(twin)), "load all its weights")
    batch = play([one.perturber()], 2)
    same = same_episodes(batch, play([twin.perturber()], 2))
    _require(same, "play the same after loading")
    for learner in (one, twin):
        learner.learn(_sample(team, batch))
    same = same_tensors(weights_of(one), weights_of(twin))
    _require(same, "learn the same after loading: its optimizers are part of its state")
    _check_deployed(one, play)


def _maker(
    make_adversary: Callable[[Env], Adversary], make_env: Callable[[], Env]
) -> Callable[[], Adversary]:
    def make() -> Adversary:
        before = torch.get_rng_state()
        adversary = make_adversary(make_env())
        kind = type(adversary).__name__
        _require(isinstance(adversary, Adversary), f"be an Adversary, got {kind}")
        untouched = torch.equal(before, torch.get_rng_state())
        _require(untouched, "leave torch's global generator alone when it is made")
        return adversary

    return make


def _sample(team: TeamAlgorithm, batch: JointBatch) -> Sample:
    """Return what :class:`~robustmarl.training.AdversarialTraining` would hand over."""
    advantage = None
    if isinstance(team, PPOBased):
        with torch.no_grad():
            advantage = team.standardized(batch, team.advantages(batch)[0])
    return Sample(fresh=batch, drawn=batch, advantage=advantage)


def _check_records(
    one: Adversary, other: Adversary, play: Callable[[list[Perturber], int], JointBatch]
) -> None:
    batch = play([one.perturber(), other.perturber()], 0)
    names = [adversary.perturber().place.name for adversary in (one, other)]
    _require(len(set(names)) == 2, "have a record of its own beside another of its kind")
    for name, adversary in zip(names, (one, other), strict=True):
        _require(name in batch.records, f"record what it learns from as {name!r}")
        found = adversary.recorded(batch)
        _require(found is batch.records[name], "read its own record and no other's")


def _check_play(perturber: Perturber, batch: JointBatch, continuous: bool) -> None:
    seen = batch.obs.seen[:, :-1][batch.valid]
    _require(bool(seen.isfinite().all()), "show finite observations")
    if isinstance(perturber, ObsPerturber):
        clean = batch.obs.obs[:, :-1][batch.valid]
        inside = perturber.attack.ball.project(seen, clean)
        _require(torch.allclose(seen, inside, atol=1e-6), "stay within its ball")
    act = batch.act if batch.act_exec is None else batch.act_exec
    if continuous:
        _require(bool(act[batch.living].isfinite().all()), "play finite actions")
        return
    legal = at_actions(batch.obs.mask[:, :-1], act)
    _require(bool(legal[batch.living].all()), "play actions that are available")


def _check_learning(adversary: Adversary, sample: Sample) -> None:
    kept, generator = copy.deepcopy(sample.fresh), torch.get_rng_state()
    figures = adversary.learn(sample)
    good = isinstance(figures, Mapping) and all(map(math.isfinite, figures.values()))
    _require(good, "return finite figures by name")
    untouched = torch.equal(generator, torch.get_rng_state())
    _require(untouched, "leave torch's global generator alone when it learns")
    assert sample.fresh is not None  # _sample made it
    assert kept is not None
    _require(same_episodes(sample.fresh, kept), "leave the episodes that it learns from unmodified")


def _check_deployed(
    adversary: Adversary, play: Callable[[list[Perturber], int, bool], JointBatch]
) -> None:
    deployed = adversary.deployed()
    before = play([deployed], 3, False)
    again = play([adversary.deployed()], 3, False)
    _require(same_episodes(before, again), "play the same episodes again when it is deployed")
    with torch.no_grad():
        for weight in adversary.parameters():
            weight.add_(1.0)  # whatever is learned later
    after = play([deployed], 3, False)
    _require(same_episodes(before, after), "deploy a copy, which later learning does not change")
