"""Training an attack in a learned model of the environment, on a budget of real steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tianshou.utils.torch_utils import policy_within_training_step

from robustmarl._checks import check, check_int, check_kind, speaking_for
from robustmarl._seeding import mix, stream_id
from robustmarl.adversaries import Adversary
from robustmarl.data import EpisodeBuffer, JointCollector
from robustmarl.envs.vector import EnvMaker, vector_env
from robustmarl.learning import TeamAlgorithm
from robustmarl.learning.world import Fitted, WorldModel
from robustmarl.policies import TeamPolicy
from robustmarl.training.adversarial import AdversarialTraining
from robustmarl.training.run import run
from robustmarl.training.settings import Log, OffPolicy, OnPolicy

__all__ = ["ModelRound", "attack_in_model"]


@dataclass(frozen=True)
class ModelRound:
    """One round of :func:`attack_in_model`.

    Attributes:
        real_steps: real steps played until now, all rounds together.
        fitted: how well the model foretells held-out real steps.
        real_return: mean return of the team in this round's real episodes, under the attack as it
            was before the round, exploring.
        imagined_return: the same in the model's last imagined episodes, under the attack as it
            became. Where it is far below what the attack then does in truth, it exploits the model.
    """

    real_steps: int
    fitted: Fitted
    real_return: float
    imagined_return: float


def attack_in_model(
    team: TeamAlgorithm | TeamPolicy,
    adversaries: Adversary | Sequence[Adversary],
    make_env: EnvMaker,
    model: WorldModel,
    *,
    real_steps: int,
    imagined_steps: int,
    rounds: int = 3,
    updates: int = 1_000,
    num_envs: int = 8,
    seed: int = 0,
    learn: OffPolicy | OnPolicy | None = None,
) -> list[ModelRound]:
    """Train an attack against a team that stands still, in a model of its environment.

    In a round the attack plays at most ``real_steps / rounds`` real steps, in whole episodes as
    long as the horizon allows, and learns nothing from them; the model is fitted to all real steps
    so far; the attack learns from ``imagined_steps / rounds`` steps in it. The team is what it is
    in both: it is played, not learned, and generators go through its network. Two runs of the same
    seed are the same.

    Args:
        team: who is attacked; left as it is.
        adversaries: what learns, one or several; changed in place.
        make_env: builds the real environment.
        model: of the same team; fitted in place, and can be played in afterwards.
        real_steps: the budget, never exceeded; an episode per round at least.
        imagined_steps: in the model, >= ``rounds``.
        rounds: >= 1.
        updates: optimizer steps of the model per round, >= 1.
        num_envs: environments side by side, >= 1.
        seed: of everything that is drawn, >= 0.
        learn: how the adversary learns in the model, as of :func:`run`.

    Raises:
        TypeError: for a model or team of another kind.
        ValueError: for bad numbers, a model of another team, or an environment that
            :class:`~robustmarl.learning.world.WorldModel` does not model.

    Example:
        >>> from functools import partial
        >>> from robustmarl import adversaries, algorithms, budgets, envs, learning, perturbers
        >>> from robustmarl.training import OffPolicy
        >>> make = partial(envs.SignalMatching, agents=2, horizon=4, noise=0.1)
        >>> team = algorithms.QMIX.for_env(make(), hidden=(8,), seed=0)
        >>> generator = perturbers.stor(budgets.LinfBall(epsilon=0.5))
        >>> adversary = adversaries.PAAD.for_env(make(), generator, hidden=(8,), seed=1)
        >>> model = learning.WorldModel(team.spec, members=2, hidden=(8,), seed=0)
        >>> steps = {"real_steps": 80, "imagined_steps": 80, "rounds": 1, "updates": 10}
        >>> few = OffPolicy(batch_size=8, learning_starts=8)
        >>> rounds = attack_in_model(team, adversary, make, model, learn=few, **steps)
        >>> rounds[0].real_steps
        80
    """
    name = "attack_in_model"
    check_kind(f"{name}.model", model, WorldModel, "a WorldModel", "Write WorldModel(team.spec).")
    rounds = check_int(f"{name}.rounds", rounds, 1)
    real_steps = check_int(f"{name}.real_steps", real_steps, rounds)
    imagined_steps = check_int(f"{name}.imagined_steps", imagined_steps, rounds)
    updates = check_int(f"{name}.updates", updates, 1)
    num_envs = check_int(f"{name}.num_envs", num_envs, 1)
    seed = check_int(f"{name}.seed", seed, 0)
    rule = "OffPolicy(...), OnPolicy(...) or None"
    check_kind(f"{name}.learn", learn, OffPolicy | OnPolicy | None, rule)
    with speaking_for(name, AdversarialTraining):
        attack = AdversarialTraining(team, adversaries, team_every=None)
    difference = model.spec.describe_difference(attack.spec)
    check(not difference, f"{name}.model", "of the team's environment", difference)
    with speaking_for(name, vector_env):
        engine = vector_env(make_env, num_envs)
    episodes, found, played = real_steps // rounds // attack.spec.horizon, [], 0
    try:
        rule = f">= {rounds * attack.spec.horizon}, an episode per round"
        check(episodes > 0, f"{name}.real_steps", rule, real_steps)
        kept = EpisodeBuffer(attack.spec, episodes * rounds, device=attack.policy.device)
        for number in range(rounds):
            collector = JointCollector(
                attack.policy,
                engine,
                kept,
                perturb=attack.perturbers(),
                seed=_stream(seed, f"real/{number}"),
            )
            counted = attack.policy.counts.clone()
            with policy_within_training_step(attack.policy):  # directors explore
                stats = collector.collect(n_episode=episodes)
            attack.policy.counts.copy_(counted)  # the attack's schedules go by what it learns from
            played += int(stats.n_collected_steps)
            fitted = model.fit(kept.latest(len(kept)), updates=updates)
            with speaking_for(name, run):
                history = run(
                    attack,
                    model,
                    env_steps=-(-imagined_steps // rounds),
                    num_envs=num_envs,
                    seed=_stream(seed, f"imagined/{number}"),
                    learn=learn,
                    log=Log(progress=False),
                )
            imagined = history.curve("return")[1][-1]
            found.append(ModelRound(played, fitted, float(stats.returns.mean()), float(imagined)))
    finally:
        engine.close()
    return found


def _stream(seed: int, name: str) -> int:
    return mix(seed, stream_id(name)) & (2**62 - 1)
