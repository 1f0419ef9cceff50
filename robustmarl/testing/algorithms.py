"""The contract of learners of teams."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tianshou.algorithm.algorithm_base import OffPolicyAlgorithm
from tianshou.utils.torch_utils import policy_within_training_step

from robustmarl._checks import check_int
from robustmarl.data import EpisodeBuffer, JointCollector, RandomController
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import MASKED, JointBatch, StepContext
from robustmarl.learning import TeamAlgorithm
from robustmarl.testing._compare import same_episodes, same_tensors, weights_of
from robustmarl.testing._error import requirement
from robustmarl.typing import Env
from robustmarl.victims import Rows

__all__ = ["check_algorithm"]

_require = requirement("A learner")


def check_algorithm(
    make_algorithm: Callable[[Env], Any],
    make_env: Callable[[], Env],
    *,
    env_steps: int = 100,
    num_envs: int = 2,
    seed: int = 0,
) -> None:
    """Check a learner against everything that training, attacks and checkpoints rely on.

    It trains for a few steps on whole episodes: weights change and stay finite; made and
    trained twice it ends with the same bits; a copy loaded from its ``state_dict`` acts and
    learns on as the original does, and the dictionary is left as it was; an update leaves
    torch's global generator and the sampled batch alone; the victim that attacks query gives
    what the policy acts on; from pieces of episodes, if it takes them, it learns by the memory
    that came before.

    Args:
        make_algorithm: builds the learner for an environment, with the same weights each time,
            e.g. ``QMIX.for_env`` or ``lambda env: QMIX.for_env(env, recurrent=True)``.
        make_env: builds one environment; of several teams the others play at random.
        env_steps: train for at least so many steps, >= 1.
        num_envs: environments side by side, >= 1.
        seed: of the episodes, >= 0.

    Raises:
        ContractError: naming the first promise that is broken.
        TypeError: if an argument is of a wrong kind.
        ValueError: if a number is out of range.

    Example:
        >>> from robustmarl import algorithms, envs
        >>> check_algorithm(algorithms.VDN.for_env, envs.TwoStepGame, env_steps=20)
    """
    for name, builder in {"make_algorithm": make_algorithm, "make_env": make_env}.items():
        if not callable(builder):
            raise TypeError(f"check_algorithm.{name} must be callable, got {builder!r}.")
    check_int("check_algorithm.env_steps", env_steps, 1)
    check_int("check_algorithm.num_envs", num_envs, 1)
    check_int("check_algorithm.seed", seed, 0)

    def make() -> TeamAlgorithm:
        before = torch.get_rng_state()
        algorithm = make_algorithm(make_env())
        kind = isinstance(algorithm, TeamAlgorithm)
        _require(kind, f"be a TeamAlgorithm, got {type(algorithm).__name__}")
        untouched = torch.equal(before, torch.get_rng_state())
        _require(untouched, "leave torch's global generator alone when it is made")
        return algorithm

    one, other = make(), make()
    begun = weights_of(one)
    same = same_tensors(begun, weights_of(other))
    _require(same, "begin with the same weights each time it is made")
    buffer = _train(one, make_env, env_steps, num_envs, seed)
    ended = weights_of(one)
    _require(not same_tensors(begun, ended), "change its weights by learning")
    finite = all(bool(weight.isfinite().all()) for weight in ended.values())
    _require(finite, "keep its weights finite")
    _require(one.policy.counted("updates") > 0, "count its updates by policy.count")
    _train(other, make_env, env_steps, num_envs, seed)
    _require(same_tensors(ended, weights_of(other)), "end with the same bits when trained twice")
    _check_victim(one, buffer)

    twin = make()
    state = one.state_dict()
    keys = list(state)
    twin.load_state_dict(state)
    _require(list(state) == keys, "leave the dictionary that it loads as it was")
    _require(same_tensors(ended, weights_of(twin)), "load all its weights")
    played = [
        _play(algorithm, make_env, num_envs, seed + 1, training=False).latest(num_envs)
        for algorithm in (one, twin)
    ]
    _require(same_episodes(*played), "act the same after loading")
    batch = _Fixed(buffer.get_episodes(buffer.sample_indices(0)))
    kept = copy.deepcopy(batch.batch)
    generator = torch.get_rng_state()
    _update(one, batch)
    untouched = torch.equal(generator, torch.get_rng_state())
    _require(untouched, "leave torch's global generator alone when it learns")
    _require(same_episodes(batch.batch, kept), "leave the batch that it learns from unmodified")
    _update(twin, batch)
    _require(same_tensors(weights_of(one), weights_of(twin)), "learn the same after loading")
    if one.takes_segments and one.policy.hidden_size:
        _check_segments(make(), make(), make_env, num_envs, seed)


class _Fixed:
    """Stands for a buffer, and samples the same batch again and again."""

    def __init__(self, batch: JointBatch) -> None:
        self.batch = batch

    def sample(self, batch_size: int | None) -> tuple[JointBatch, NDArray[np.int64]]:
        return self.batch, np.arange(len(self.batch.valid))


def _collector(
    algorithm: TeamAlgorithm,
    buffer: EpisodeBuffer,
    make_env: Callable[[], Env],
    num_envs: int,
    seed: int,
    segments: bool = False,
) -> JointCollector:
    engine = JointVectorEnv(make_env, num_envs)
    (team,) = algorithm.spec.teams
    opponents = {
        name: RandomController(engine.spec.of_team(name), algorithm.device)
        for name in engine.spec.teams
        if name != team
    }
    return JointCollector(
        algorithm, engine, buffer, team=team, opponents=opponents, seed=seed, segments=segments
    )


def _play(
    algorithm: TeamAlgorithm, make_env: Callable[[], Env], num_envs: int, seed: int, training: bool
) -> EpisodeBuffer:
    """Return a buffer with one episode of each environment."""
    buffer = EpisodeBuffer(algorithm.spec, num_envs, device=algorithm.device)
    collector = _collector(algorithm, buffer, make_env, num_envs, seed)
    with policy_within_training_step(algorithm.policy, enabled=training):
        collector.collect(n_episode=num_envs)
    collector.close()
    return buffer


def _train(
    algorithm: TeamAlgorithm,
    make_env: Callable[[], Env],
    env_steps: int,
    num_envs: int,
    seed: int,
) -> EpisodeBuffer:
    """Collect and update in turn; return a buffer that holds the last episodes."""
    off_policy = isinstance(algorithm, OffPolicyAlgorithm)
    buffer = EpisodeBuffer(algorithm.spec, 8 * num_envs, device=algorithm.device, seed=seed)
    collector = _collector(algorithm, buffer, make_env, num_envs, seed)
    while True:
        with policy_within_training_step(algorithm.policy):
            collector.collect(n_episode=num_envs)
        _update(algorithm, buffer, num_envs)
        if collector.collect_step >= env_steps:
            break
        if not off_policy:
            buffer.reset()
    collector.close()
    return buffer


def _check_segments(
    one: TeamAlgorithm,
    other: TeamAlgorithm,
    make_env: Callable[[], Env],
    num_envs: int,
    seed: int,
) -> None:
    """Let equal learners learn from the second steps of episodes, one without their memory."""
    buffer = EpisodeBuffer(one.spec, 2 * num_envs, device=one.device)
    collector = _collector(one, buffer, make_env, num_envs, seed, segments=True)
    with policy_within_training_step(one.policy):
        for _ in range(2):
            collector.collect(n_step=num_envs)
    collector.close()
    other.policy.counts.copy_(one.policy.counts)
    batch = buffer.latest(num_envs)
    assert batch.hidden_before is not None  # its policy remembers
    if not bool(batch.hidden_before.any()):
        return  # episodes of one step: nothing goes on
    forgetting = batch.replace(hidden_before=torch.zeros_like(batch.hidden_before))
    _update(one, _Fixed(batch))
    _update(other, _Fixed(forgetting))
    differ = not same_tensors(weights_of(one), weights_of(other))
    _require(differ, "go on from hidden_before, or have takes_segments = False")


def _update(algorithm: Any, buffer: Any, sample_size: int | None = None) -> None:
    off_policy = isinstance(algorithm, OffPolicyAlgorithm)
    how = {"sample_size": sample_size} if off_policy else {"batch_size": None, "repeat": 2}
    with policy_within_training_step(algorithm.policy):
        algorithm.update(buffer=buffer, **how)


@torch.no_grad()
def _check_victim(algorithm: TeamAlgorithm, buffer: EpisodeBuffer) -> None:
    """Step through the beginning of episodes as policy and as victim."""
    batch = buffer.get_episodes(buffer.sample_indices(0))
    policy, victim = algorithm.policy, algorithm.victim()
    size, agents = batch.valid.shape[0], algorithm.spec.num_agents
    ids = torch.arange(agents, device=algorithm.device).repeat(size)
    last_act = torch.zeros_like(batch.act[:, 0])
    if not algorithm.spec.continuous:
        last_act -= 1
    width = policy.hidden_size
    hidden = torch.zeros(size, agents, width, device=algorithm.device) if width else None
    _require(victim.hidden_size == width, "have a victim with the policy's hidden_size")
    yes = torch.ones(size, dtype=torch.bool, device=algorithm.device)
    for step in range(min(2, batch.valid.shape[1])):
        obs, mask = batch.obs.seen[:, step], batch.obs.mask[:, step]
        context = StepContext(
            obs=obs,
            seen=obs,
            mask=mask,
            state=batch.obs.state[:, step],
            alive=batch.obs.alive[:, step],
            observed=batch.obs.alive[:, step],
            last_act=last_act,
            hidden=hidden,
            step=torch.full_like(yes, step, dtype=torch.int64),
            keys=torch.zeros_like(yes, dtype=torch.int64),
            live=yes,
            terminal=~yes,
        )
        output, after = policy.infer(context)
        if not algorithm.spec.continuous:
            output = output.masked_fill(~mask, MASKED)
        rows = obs.flatten(0, 1)
        view = victim.at(
            Rows(
                mask=mask.flatten(0, 1),
                hidden=None if hidden is None else hidden.flatten(0, 1),
                last_act=last_act.flatten(0, 1),
                agents=ids,
                side={name: part.flatten(0, 1) for name, part in victim.side(context).items()},
            )
        )
        same = torch.allclose(view.output(rows), output.flatten(0, 1), rtol=1e-4, atol=1e-5)
        _require(same, "have a victim that gives what the policy acts on")
        advanced = view.advance(rows)
        if hidden is not None and after is not None:
            good = advanced is not None and torch.allclose(
                advanced, after.flatten(0, 1), rtol=1e-4, atol=1e-5
            )
            _require(good, "have a victim whose memory advances as the policy's")
        hidden, last_act = after if width else None, batch.act[:, step]
