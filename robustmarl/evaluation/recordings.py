"""Episodes kept step by step: what is there, what is believed, and what is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustmarl._checks import check, check_choice, check_int, check_kind, check_text, speaking_for
from robustmarl.data import AnyPolicy, Controller, as_controller
from robustmarl.envs.scenes import Bounds, Ghost, Line, Scene, stage_of
from robustmarl.envs.skirmish import save_replay
from robustmarl.envs.vector import EnvMaker, JointVectorEnv, vector_env
from robustmarl.evaluation.drawings import draw
from robustmarl.evaluation.meter import MOVED
from robustmarl.evaluation.rollouts import Playing, rollout
from robustmarl.joint import MASKED, StepContext, TeamSpec, VectorEngine
from robustmarl.perturbers import ObsPerturber, Perturber
from robustmarl.training import Attacks
from robustmarl.training.settings import listed
from robustmarl.typing import Env

__all__ = ["RecordedEpisode", "RecordedStep", "Recording", "record"]

Picture: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]
Act: TypeAlias = int | tuple[float, ...]
Change: TypeAlias = tuple[int, float, float]

MOST_CHANGED = 4
"""Coordinates of an observation that a step tells of: as many as can be read in passing."""


@dataclass(frozen=True, kw_only=True)
class RecordedStep:
    """One step of an episode; the last one is what its actions have led to.

    Attributes:
        scene: what is there, None where the environment does not tell it.
        picture: of it, uint8 (H, W, 3), where there is no scene.
        ghosts: per agent whose observation is not the true one, what it believes is there.
        acts: per living agent what it does: a number, or numbers; empty in the last step.
        intended: of agents that do something else because of what they are shown, what they like
            best on the true observation; of those whose action itself is changed, what they chose.
        reward: the team's, earned by the step that led here.
        shown: per agent whose observation is not the true one, the coordinates that are changed
            most: which, what is true and what it is shown instead.
    """

    scene: Scene | None = None
    picture: Picture | None = None
    ghosts: Mapping[str, tuple[Ghost, ...]] = field(default_factory=dict)
    acts: Mapping[str, Act] = field(default_factory=dict)
    intended: Mapping[str, Act] = field(default_factory=dict)
    reward: float = 0.0
    shown: Mapping[str, tuple[Change, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RecordedEpisode:
    """An episode.

    Attributes:
        steps: one more than were played.
        figures: the environment's own.
    """

    steps: tuple[RecordedStep, ...]
    figures: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What :func:`record` returns.

    Attributes:
        title: what is shown.
        attack: what the team was under, in words.
        agents: names of the team's agents.
        actions: names of the actions, by number; empty where they are not told.
        bounds: of what can be seen, None where there are pictures only.
        downward: whether y grows downwards.
        episodes: in the order in which they began.
        lines: what is painted on the ground.
    """

    title: str
    attack: str
    agents: tuple[str, ...]
    actions: tuple[str, ...]
    bounds: Bounds | None
    downward: bool
    episodes: tuple[RecordedEpisode, ...]
    lines: tuple[Line, ...] = ()

    def save(
        self, path: str | Path, *, believer: str | None = None, fps: float = 4.0
    ) -> list[Picture]:
        """Write the episodes as an animation; return its pictures, uint8 (H, W, 3).

        Solid is what is there, hollow and tied to it what one agent sees; under attack they come
        apart. Thick lines are shots, a yellow ring is around agents whose action was changed;
        steps and the figures of the ending are written.

        Args:
            path: ends in ``.gif``, or in ``.mp4`` with the extra ``[video]``.
            believer: the agent whose beliefs are drawn; None is, step by step, the first whose
                action is another because of them, or else the first that does not see the truth.
            fps: pictures per second, > 0.

        Raises:
            ValueError: for an unknown agent, another file type or a bad number.
        """
        if believer is not None:
            check_choice("Recording.save.believer", believer, self.agents)
        with speaking_for("Recording.save", save_replay):
            frames = draw(self, believer)
            save_replay(path, frames, fps=fps)
        return frames


def record(
    policy: Playing,
    make_env: EnvMaker,
    *,
    perturb: Attacks = None,
    episodes: int = 3,
    seed: int = 0,
    team: str | None = None,
    opponents: Mapping[str, AnyPolicy] | None = None,
    title: str = "",
) -> Recording:
    """Play episodes and keep them step by step, to be watched in a :func:`report`.

    They are the first episodes of an evaluation with the same seed, so that recordings of one seed
    begin alike. What is there is told by the environment
    (:class:`~robustmarl.envs.scenes.Stage`), or is its pictures where it does not tell.

    Args:
        policy: plays, as of :func:`~robustmarl.evaluation.rollout`.
        make_env: builds one environment; one that does not tell where things are has to be made
            with ``render_mode="rgb_array"``.
        perturb: attacks or perturbers; None is clean.
        episodes: how many, >= 1.
        seed: of the episodes, >= 0.
        team: name of the team that it plays, where there are several.
        opponents: what plays the other teams.
        title: what is shown, such as ``"defended, under attack"``.

    Raises:
        TypeError: for what cannot play.
        ValueError: for an environment that neither tells where things are nor draws pictures, or
            bad numbers.

    Example:
        >>> from robustmarl import algorithms, envs
        >>> team = algorithms.VDN.for_env(envs.skirmish("3m"), seed=0)
        >>> recording = record(team, envs.skirmish, episodes=1)
        >>> recording.agents, len(recording.episodes)
        (('agent_0', 'agent_1', 'agent_2'), 1)
    """
    episodes = check_int("record.episodes", episodes, 1)
    seed = check_int("record.seed", seed, 0)
    title = check_text("record.title", title)
    perturbers = listed("record.perturb", perturb)
    with speaking_for("record", vector_env):
        engine = _showing(make_env)
    with speaking_for("record", TeamSpec):
        indices = engine.spec.team_indices(team)
        spec = engine.spec.of_team(team)
    controller = as_controller("record.policy", cast(AnyPolicy, policy), spec)
    camera = _Camera(engine, controller, spec, indices)
    with speaking_for("record", rollout):
        rollout(
            controller,
            _OneEngine(camera.filmed),
            episodes=episodes,
            perturb=[*perturbers, camera],
            num_envs=1,
            seed=seed,
            team=team,
            opponents=opponents,
        )
    stage = camera.filmed.stage
    return Recording(
        title=title or ("clean" if not perturbers else "under attack"),
        attack=", ".join(map(_described, perturbers)) or "no attack",
        agents=spec.agents,
        actions=stage.actions if stage is not None else (),
        bounds=stage.bounds if stage is not None else None,
        downward=stage is not None and stage.downward,
        episodes=tuple(camera.episodes()),
        lines=stage.lines if stage is not None else (),
    )


def _described(one: object) -> str:
    """Return settings that are not as they are by default, and whose they are."""
    if isinstance(one, ObsPerturber):
        directed = type(one) is not ObsPerturber  # who aims the attack says more than its target
        ball = _described(one.attack.ball)
        return f"{type(one).__name__}(ball={ball})" if directed else _described(one.attack)
    if not is_dataclass(one):
        return repr(one) if type(one).__repr__ is not object.__repr__ else type(one).__name__
    settings = {part.name: getattr(one, part.name) for part in fields(one) if part.repr}
    usual = {part.name: part.default for part in fields(one)}
    told = [f"{k}={_described(v)}" for k, v in settings.items() if not _same(v, usual[k])]
    return f"{type(one).__name__}({', '.join(told)})"


def _same(value: object, usual: object) -> bool:
    """Return whether a setting is the usual one; arrays never are."""
    return type(value) is type(usual) and bool(np.all(value == usual))


def _showing(make_env: EnvMaker) -> VectorEngine:
    """Return one environment that tells where things are, or one that draws."""
    engine = vector_env(make_env, 1)
    if stage_of(_first(engine)) is not None:
        return engine
    if not isinstance(engine, JointVectorEnv) and callable(make_env):
        engine.close()
        engine = JointVectorEnv(make_env, 1)
    drawing = getattr(_first(engine), "render_mode", None) == "rgb_array"
    rule = "an environment with stage(), or one that is made with render_mode='rgb_array'"
    check(drawing, "record.make_env", rule, _first(engine))
    return engine


def _first(engine: VectorEngine) -> object:
    """Return the engine's one environment, or the engine where it steps them together."""
    return engine.joint[0].env if isinstance(engine, JointVectorEnv) else engine


def _whole(scene: Scene) -> Scene:
    """Return a scene that names everything once, with a place that is one."""
    check_kind("Stage.scene", scene, Scene, "a Scene")
    names = [entity.name for entity in scene.entities]
    check(len(set(names)) == len(names), "Stage.scene", "telling of each name once", names)
    places = [(entity.x, entity.y) for entity in scene.entities]
    check(bool(np.isfinite(places).all()), "Stage.scene", "telling finite places", places)
    return scene


def _most_changed(true: Floats, seen: Floats) -> tuple[Change, ...]:
    """Return the coordinates that differ most, the largest change first."""
    order = np.argsort(-np.abs(seen - true), kind="stable")[:MOST_CHANGED]
    return tuple((int(k), float(true[k]), float(seen[k])) for k in order if seen[k] != true[k])


class _Filmed:
    """An engine of one environment, and what was done and earned in its last step.

    Attributes:
        stage: tells where things are; None where only pictures do.
        act: of all agents, (N,) or (N, A).
    """

    def __init__(self, engine: VectorEngine) -> None:
        self._engine = engine
        self.spec, self.stage = engine.spec, stage_of(_first(engine))
        self.act = torch.zeros(0)

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return self._engine.tensors

    def __len__(self) -> int:
        return 1

    def begin(self, mask: Tensor, seeds: Tensor) -> None:
        self._engine.begin(mask, seeds)

    def advance(self, act: Tensor, active: Tensor) -> None:
        self.act = act[0].clone()
        self._engine.advance(act, active)

    def close(self) -> None:
        self._engine.close()

    def picture(self) -> Picture:
        """Return the environment's own drawing."""
        picture = cast(Env, _first(self._engine)).render()
        check(picture is not None, "record.make_env", "drawing pictures", picture)
        return np.array(picture, np.uint8)


@dataclass(frozen=True)
class _OneEngine:
    """What makes an engine out of the one there is."""

    engine: _Filmed

    def make_engine(self, num_envs: int) -> _Filmed:
        """Return it."""
        return self.engine


class _Camera(Perturber):
    """Keeps every step of every episode; changes nothing.

    Args:
        engine: what is played.
        policy: the team's.
        spec: likewise.
        indices: of its agents among all.
    """

    kind = "camera"

    def __init__(
        self, engine: VectorEngine, policy: Controller, spec: TeamSpec, indices: Sequence[int]
    ) -> None:
        self.filmed = _Filmed(engine)
        self._policy, self._team, self._indices = policy, spec, list(indices)
        self._episodes: list[list[RecordedStep]] = []
        self._figures: list[dict[str, float]] = []
        self._alive: list[bool] = []
        self._chosen = torch.zeros(0)
        self._truthful: dict[int, Act] = {}

    @property
    def changes_actions(self) -> bool:
        """Whether it does: it only looks at them."""
        return False

    def episodes(self) -> list[RecordedEpisode]:
        """Return what was kept."""
        return [
            RecordedEpisode(steps=tuple(steps), figures=figures)
            for steps, figures in zip(self._episodes, self._figures, strict=True)
        ]

    @torch.no_grad()
    def shown(self, context: StepContext) -> None:
        ends = bool(context.terminal[0])
        if not ends and not bool(context.live[0]):
            return
        begins = int(context.step[0]) == 0
        if begins:
            self._episodes.append([])
        steps = self._episodes[-1]
        if not begins:
            steps[-1] = self._acted(steps[-1])
        steps.append(self._look(context, 0.0 if begins else self._earned()))
        self._alive = context.alive[0].tolist()
        self._truthful = {} if ends else self._on_truth(context)
        if ends:
            values = self.filmed.tensors["metrics"][0].tolist()
            self._figures.append(dict(zip(self._team.metrics, values, strict=True)))

    def on_act(self, context: StepContext, act: Tensor) -> Tensor:
        self._chosen = act[0].clone()  # before others change it
        return act

    def _look(self, context: StepContext, reward: float) -> RecordedStep:
        """Return a step as far as it is known before anybody acts."""
        stage = self.filmed.stage
        moved = (context.seen != context.obs)[0].any(dim=-1) & context.alive[0]
        seen, true = {}, {}
        for i in moved.nonzero().flatten().tolist():
            agent, size = self._team.agents[i], self._team.obs_sizes[i]
            seen[agent] = context.seen[0, i, :size].cpu().numpy()
            true[agent] = context.obs[0, i, :size].cpu().numpy()
        shown = {agent: _most_changed(true[agent], row) for agent, row in seen.items()}
        if stage is None:
            return RecordedStep(picture=self.filmed.picture(), reward=reward, shown=shown)
        scene = _whole(stage.scene())
        ghosts = {agent: tuple(stage.ghosts(agent, row)) for agent, row in seen.items()}
        return RecordedStep(scene=scene, ghosts=ghosts, reward=reward, shown=shown)

    def _earned(self) -> float:
        """Return what the team earned in the last step."""
        rewards = self.filmed.tensors["rew_agents"][0, self._indices]
        return float(rewards.sum() if self._team.team_reward == "sum" else rewards.mean())

    def _acted(self, step: RecordedStep) -> RecordedStep:
        """Return a step with what was done in it."""
        executed = self.filmed.act[self._indices].cpu()
        chosen = self._chosen.cpu()
        acts: dict[str, Act] = {}
        intended: dict[str, Act] = {}
        for i, agent in enumerate(self._team.agents):
            if not self._alive[i]:
                continue
            acts[agent] = self._told(i, executed[i])
            if not torch.equal(executed[i], chosen[i]):
                intended[agent] = self._told(i, chosen[i])
            elif self._truthful.get(i, acts[agent]) != acts[agent]:  # drawn, it may be the same
                intended[agent] = self._truthful[i]
        return replace(step, acts=acts, intended=intended)

    def _on_truth(self, context: StepContext) -> dict[int, Act]:
        """Return what agents like best on the truth, of those that like another thing now."""
        if torch.equal(context.seen, context.obs):
            return {}
        clean, seen = (self._liked(context, obs) for obs in (context.obs, context.seen))
        other = (clean - seen).abs() > MOVED if self._team.continuous else clean != seen
        other = other.any(dim=-1) if self._team.continuous else other
        changed = (other & context.alive[0]).nonzero().flatten().tolist()
        return {i: self._told(i, clean[i]) for i in changed}

    def _liked(self, context: StepContext, obs: Tensor) -> Tensor:
        """Return the team's favourite actions, (N,), or means, (N, A), if it sees ``obs``."""
        output, _ = self._policy.infer(replace(context, seen=obs))
        if self._team.continuous:
            return output[0]
        return output.masked_fill(~context.mask, MASKED).argmax(dim=-1)[0]

    def _told(self, agent: int, act: Tensor) -> Act:
        if not self._team.continuous:
            return int(act)
        return tuple(act[: self._team.action_sizes[agent]].tolist())
