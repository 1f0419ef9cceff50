"""Recorded episodes: those of an evaluation, with what is there, believed and done."""

import numpy as np
import pytest
import torch
from pettingzoo.utils import BaseParallelWrapper
from report_doubles import Drawn, pictures

from robustmarl import envs
from robustmarl.algorithms import VDN
from robustmarl.attacks import PGD, UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.data import RandomController
from robustmarl.envs.scenes import Entity, Scene, Stage, stage_of
from robustmarl.envs.vector import vector_env
from robustmarl.evaluation import record, rollout
from robustmarl.evaluation.recordings import MOST_CHANGED
from robustmarl.joint import spec_of
from robustmarl.perturbers import ObsPerturber, Perturber

BALL = LinfBall(epsilon=0.5)


def battle():
    return envs.skirmish("3m")


def meeting():
    return envs.gather(horizon=6)


MAKERS = {
    "skirmish": battle,
    "shielded": lambda: envs.skirmish("2s3z"),
    "gather": meeting,
    "cells": lambda: envs.tram_spread(grid=True, horizon=6),
    "spread": lambda: envs.spread(max_cycles=6),
    "merge": lambda: envs.merge(horizon=12),
    "foraging": lambda: envs.foraging(5, 3, 2, horizon=12),
    "near foraging": lambda: envs.foraging(6, 3, 3, sight=2, horizon=12),
    "unlevelled": lambda: envs.foraging(5, 2, 2, observe_agent_levels=False, horizon=12),
}


class Told(Perturber):
    """Says that another observation is shown, one that is as good as the same."""

    def on_obs(self, context):
        return context.seen + 1e-6


@pytest.mark.parametrize("name", MAKERS)
def test_who_sees_the_truth_believes_it(name):
    """Ghosts lie where their entities are, whoever looks."""
    team = RandomController(spec_of(MAKERS[name]()))
    recording = record(team, MAKERS[name], perturb=Told(), episodes=2)
    count = 0
    for step in (step for episode in recording.episodes for step in episode.steps):
        places = {entity.name: (entity.x, entity.y) for entity in step.scene.entities}
        for ghost in (ghost for ghosts in step.ghosts.values() for ghost in ghosts):
            assert places[ghost.name] == pytest.approx((ghost.x, ghost.y), abs=1e-3)
            count += 1
    assert count > 20
    assert all(name in recording.agents for name in recording.episodes[0].steps[0].ghosts)


def test_health_is_believed_too():
    recording = record(RandomController(spec_of(battle())), battle, perturb=Told(), episodes=1)
    for step in recording.episodes[0].steps:
        healths = {entity.name: entity.health for entity in step.scene.entities}
        for ghost in (ghost for ghosts in step.ghosts.values() for ghost in ghosts):
            assert healths[ghost.name] == pytest.approx(ghost.health, abs=1e-3)


@pytest.mark.parametrize("attack", [None, PGD(ball=BALL, steps=2)])
def test_the_episodes_are_those_of_an_evaluation(attack):
    team = VDN.for_env(battle(), hidden=(8,))
    recording = record(team, battle, perturb=attack, episodes=2)
    played = rollout(team, battle, episodes=2, num_envs=2, perturb=attack)

    lengths = [len(episode.steps) - 1 for episode in recording.episodes]
    assert lengths == played.lengths.tolist()
    won = [episode.figures["battle_won"] for episode in recording.episodes]
    assert won == played.metrics["battle_won"].tolist()
    earned = [sum(step.reward for step in episode.steps) for episode in recording.episodes]
    np.testing.assert_allclose(earned, played.returns, rtol=1e-5)
    fooled = [bool(step.ghosts) for episode in recording.episodes for step in episode.steps]
    assert any(fooled) is (attack is not None)
    shots = [
        shot
        for episode in recording.episodes
        for step in episode.steps
        for shot in step.scene.shots
    ]
    assert {shot.name.partition("_")[0] for shot in shots} >= {"enemy"}


def test_what_would_have_been_done_is_told_where_it_differs():
    """Noise that is shown changes what is liked best, or it does not: both are asked again."""
    team = VDN.for_env(battle(), hidden=(8,))
    noise = UniformNoise(ball=BALL)
    recording = record(team, battle, perturb=noise, episodes=1)
    meant = [step.intended for step in recording.episodes[0].steps]
    acts = [step.acts for step in recording.episodes[0].steps]
    assert any(meant)
    assert acts[-1] == {}
    for done, instead in zip(acts, meant, strict=True):
        assert all(done[agent] != act for agent, act in instead.items())
    clean = record(team, battle, episodes=1)
    assert not any(step.intended for step in clean.episodes[0].steps)


class Standstill(Perturber):
    """Has the first agent do nothing, whatever it wants."""

    def on_act(self, context, act):
        executed = act.clone()
        executed[:, 0] = 0
        return executed


def test_actions_that_are_changed_themselves_are_told():
    def left(context):
        return torch.ones(context.obs.shape[:2], dtype=torch.int64)

    recording = record(left, meeting, perturb=Standstill(), episodes=1)
    step = recording.episodes[0].steps[0]
    assert step.acts == {"agent_0": 0, "agent_1": 1, "agent_2": 1}
    assert step.intended == {"agent_0": 1}
    assert recording.actions[:2] == ("stay", "left")
    places = [[one.x for one in s.scene.entities[:3]] for s in recording.episodes[0].steps]
    assert places[-1][1] < places[0][1]


def test_continuous_actions_are_vectors():
    def make():
        return envs.spread(continuous_actions=True, max_cycles=4)

    spec = spec_of(make())

    def still(context):
        return torch.zeros(*context.obs.shape[:2], spec.num_actions)

    recording = record(still, make, perturb=UniformNoise(ball=BALL), episodes=1)
    assert recording.episodes[0].steps[0].acts["agent_0"] == (0.0,) * 5
    assert recording.actions == ()


@pytest.mark.parametrize(
    ("make", "team"),
    [
        (lambda: envs.battle(12, horizon=40), "red"),
        (lambda: envs.pursuit(12, horizon=20), "predator"),
    ],
)
def test_games_of_two_teams(make, team):
    spec = vector_env(make, 1).spec
    players = {name: RandomController(spec.of_team(name)) for name in spec.teams}
    opponents = {name: player for name, player in players.items() if name != team}
    recording = record(players[team], make, team=team, opponents=opponents, episodes=1)
    first, *_, last = recording.episodes[0].steps
    assert recording.downward
    assert {entity.team for entity in first.scene.entities} == set(spec.teams)
    assert first.scene.walls
    assert any(step.scene.shots for step in recording.episodes[0].steps)
    assert all(0.0 < entity.x < 12.0 for entity in last.scene.entities)
    assert set(first.acts) == set(spec.of_team(team).agents)


def test_an_engine_tells_what_its_environment_tells():
    for make in (meeting, battle):
        env, engine = make(), vector_env(make, 1)
        env.reset(seed=3)
        engine.begin(torch.ones(1, dtype=torch.bool), torch.tensor([3]))
        assert engine.stage().scene() == env.stage().scene()
        assert engine.stage().bounds == env.stage().bounds


def test_cars_that_have_crashed_are_marked():
    """By the environment and by the engine, and none before; who always speeds up crashes."""
    pytest.importorskip("highway_env")
    env, engine = envs.merge(), vector_env(envs.merge, 1)
    env.reset(seed=3)
    engine.begin(torch.ones(1, dtype=torch.bool), torch.tensor([3]))
    labels, crashed = ["0", "1", "2"], []
    for _ in range(100):
        names = [one.label for one in engine.stage().scene().entities[:3]]
        assert names == [one.label for one in env.stage().scene().entities[:3]]
        if crashed:
            break
        assert names == labels
        env.step(dict.fromkeys(env.agents, 3))
        engine.advance(torch.full((1, 3), 3), torch.ones(1, dtype=torch.bool))
        crashed = [car.crashed for car in env.world.controlled_vehicles] if not env.agents else []
    expected = ["X" if hit else label for hit, label in zip(crashed, labels, strict=True)]
    assert "X" in expected
    assert names == expected


def test_wrapped_environments_are_asked():
    def wrapped():
        return BaseParallelWrapper(meeting())

    recording = record(RandomController(spec_of(meeting())), wrapped, episodes=1)
    assert len(recording.episodes[0].steps[0].scene.entities) == 4


class Line(envs.SignalMatching):
    """An environment of a user's, which tells where things are."""

    def stage(self):
        return OnALine()


class OnALine(Stage):
    bounds = (0.0, 0.0, 1.0, 1.0)

    def scene(self):
        return Scene(entities=(Entity(name="lamp", x=0.5, y=0.5),))


def test_environments_of_ones_own_tell_too():
    recording = record(RandomController(spec_of(Line())), Line, episodes=1, title="a lamp")
    step = recording.episodes[0].steps[0]
    assert (recording.title, recording.attack) == ("a lamp", "no attack")
    assert step.scene.entities[0].name == "lamp"
    assert OnALine().ghosts("lamp", np.zeros(1, np.float32)) == ()


def test_pictures_where_nothing_is_told():
    assert stage_of(Drawn()) is None
    recording = pictures()
    step = recording.episodes[0].steps[-1]
    assert recording.bounds is None
    assert step.scene is None
    assert step.picture.shape == (4, 6, 3)


def test_attacks_are_told_by_what_is_unusual():
    pgd = PGD(ball=LinfBall(epsilon=0.25), target=4)
    recording = record(
        VDN.for_env(battle(), hidden=(8,)), battle, perturb=[ObsPerturber(pgd)], episodes=1
    )
    assert recording.attack == "PGD(ball=LinfBall(epsilon=0.25), target=4)"
    assert recording.title == "under attack"


@pytest.mark.parametrize(
    ("entities", "rule"),
    [
        ([("lamp", 0.0), ("lamp", 1.0)], "telling of each name once"),
        ([("lamp", float("nan"))], "telling finite places"),
    ],
)
def test_scenes_that_cannot_be_drawn_are_refused(monkeypatch, entities, rule):
    scene = Scene(entities=tuple(Entity(name=name, x=x, y=0.0) for name, x in entities))
    monkeypatch.setattr(OnALine, "scene", lambda self: scene)
    with pytest.raises(ValueError, match=rf"Stage\.scene must be {rule}"):
        record(RandomController(spec_of(Line())), Line, episodes=1)


def test_refuses():
    team = RandomController(spec_of(envs.SignalMatching()))
    with pytest.raises(ValueError, match=r"record\.make_env must be an environment with stage\(\)"):
        record(team, envs.SignalMatching)
    with pytest.raises(ValueError, match=r"record\.episodes must be an int >= 1"):
        record(team, Line, episodes=0)


@pytest.mark.parametrize("make", [battle, Drawn])
def test_steps_tell_what_was_changed_most(make):
    """The coordinates of the largest changes, the largest first, of agents that are attacked."""
    team = RandomController(spec_of(make()))
    attacked = team.spec.agents[0]
    noise = ObsPerturber(UniformNoise(ball=BALL), agents=[attacked])
    steps = record(team, make, perturb=noise, episodes=1).episodes[0].steps
    assert all(step.shown.keys() <= {attacked} for step in steps)
    changes = steps[0].shown[attacked]
    sizes = [abs(seen - true) for _, true, seen in changes]
    assert sizes == sorted(sizes, reverse=True)
    assert 0 < len({k for k, _, _ in changes}) == len(changes) <= MOST_CHANGED
    assert max(sizes) <= BALL.epsilon + 1e-6
    clean = record(team, make, episodes=1).episodes[0].steps
    assert not any(step.shown for step in clean)
