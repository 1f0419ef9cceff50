"""A study declared once: its cells, its folder, its tables."""

import json
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from doubles import Scripted

from robustmarl.adversaries import ObsAdversaryPPO
from robustmarl.algorithms import IPPO, QMIX, VDN
from robustmarl.attacks import PGD, UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.evaluation import (
    CellsError,
    CrossTable,
    Defence,
    Grid,
    GridKey,
    Learned,
    Recipe,
    crossplay,
    read_tables,
    report_tables,
)
from robustmarl.evaluation.grid_cells import defended
from robustmarl.learning import adam
from robustmarl.losses import ActionLoss, ActionLossRegularizer, PolicyRegularizer
from robustmarl.perturbers import ByzantinePerturber, ObsPerturber, TypeDistribution
from robustmarl.training import OffPolicy, OnPolicy, load_weights

BALL = LinfBall(epsilon=0.5)
PGD_2 = PGD(ball=BALL, steps=2)
OFF = OffPolicy(batch_size=2, learning_starts=2, buffer_episodes=8)
TINY = {"hidden": (4,)}
TRAITOR = ByzantinePerturber("random", types=TypeDistribution(1.0))


def recipe(algorithm=VDN, **settings):
    return Recipe(
        algorithm=algorithm,
        env_steps=12,
        num_envs=2,
        learn=OFF if algorithm in (VDN, QMIX) else OnPolicy(epochs=1),
        settings=TINY | settings,
    )


def grid(**changed):
    settings = {
        "victims": {"VDN": recipe(), "IPPO": recipe(IPPO, optim=adam(1e-3))},
        "attacks": {"none": None, "PGD": PGD_2, "traitor": TRAITOR},
        "environments": {"game": partial(Scripted, lengths=(1, 4), metrics=("u",))},
        "seeds": (3, 5),
        "episodes": 4,
        "num_envs": 2,
    }
    return Grid(**(settings | changed))


def quiet(study, folder, executor="serial", **how):
    return study.run(folder, executor=executor, progress=False, **how)


def test_tables_are_those_of_crossplay(tmp_path):
    study = grid(seeds=(0, 1))
    found = quiet(study, tmp_path)
    teams = {}
    for name, made in study.victims.items():
        for seed in study.seeds:
            team = made.algorithm.for_env(Scripted(metrics=("u",)), seed=seed, **made.settings)
            load_weights(
                team, tmp_path / "teams" / "game" / name / "none" / str(seed) / "weights.pt"
            )
            teams.setdefault(name, {})[seed] = team
    make_env = study.environments["game"]
    want = crossplay(teams, study.attacks, make_env, episodes=4, num_envs=2, title="game")
    assert found == {"game": want}
    fresh = crossplay({"VDN": [VDN.for_env(make_env(), **TINY)]}, {"none": None}, make_env)
    assert fresh.victims[:2] == want.victims[:2]


def test_defences_change_the_training(tmp_path):
    defences = {
        "none": Defence(),
        "PGD training": Defence(perturb=ObsPerturber(PGD_2)),
        "action loss": Defence(
            mixins=[ActionLossRegularizer],
            settings={"action_loss": ActionLoss(attack=PGD_2, weight=1.0)},
        ),
        "ATLA": Defence(adversary=partial(ObsAdversaryPPO.for_env, ball=BALL)),
    }
    study = grid(victims={"VDN": recipe()}, defences=defences, seeds=[0], baselines=False)
    table = quiet(study, tmp_path)["game"]
    assert table.victims == ("VDN", "VDN, PGD training", "VDN, action loss", "VDN, ATLA")
    weights = {
        name: torch.load(tmp_path / f"teams/game/VDN/{name}/0/weights.pt", weights_only=True)
        for name in defences
    }
    kinds = {name: content["class"] for name, content in weights.items()}
    assert kinds == dict.fromkeys(defences, "VDN") | {"action loss": "ActionLossRegularizerVDN"}
    flat = {
        name: torch.cat([v.flatten() for k, v in content["algorithm"].items() if "network" in k])
        for name, content in weights.items()
    }
    plain = flat.pop("none")
    assert not any(torch.equal(plain, other[: len(plain)]) for other in flat.values())
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_an_attack_learns_against_every_team(tmp_path):
    learned = Learned(
        adversary=partial(ObsAdversaryPPO.for_env, ball=BALL, hidden=(4,)), env_steps=8, num_envs=2
    )
    study = grid(victims={"VDN": recipe()}, attacks={"none": None, "ATLA": learned}, seeds=[0])
    table = quiet(study, tmp_path)["game"]
    assert table.attacks == ("none", "ATLA")
    assert table.victims == ("random", "untrained", "VDN")
    paths = sorted(p.parent.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("weights.pt"))
    assert paths == [
        "scores/game/VDN/none/ATLA/0",
        "scores/game/untrained/ATLA/0",
        "teams/game/VDN/none/0",
    ]


@pytest.mark.parametrize("executor", ["processes", "ray"])
def test_other_processes_find_the_same(executor, tmp_path):
    if executor == "ray":
        pytest.importorskip("ray")
    study = grid(seeds=[0])
    assert quiet(study, tmp_path / "here") == quiet(study, tmp_path / "there", executor, jobs=2)


def test_a_study_grows_but_its_names_mean_what_they_meant(tmp_path):
    study = grid(victims={"VDN": recipe()}, seeds=[0])
    before = quiet(study, tmp_path)["game"]
    played = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    noise = UniformNoise(ball=BALL)
    grown = replace(study, attacks=study.attacks | {"noise": noise}, seeds=[0, 1])
    table = quiet(grown, tmp_path)["game"]
    assert table.attacks == ("none", "PGD", "traitor", "noise")
    for victim in before.victims:
        for attack in before.attacks:
            old = before.cell(victim, attack).scores[0]
            assert table.cell(victim, attack).scores[0].tolist() == old.tolist()
    same = [path for path, time in played.items() if path.stat().st_mtime_ns == time]
    assert {path.name for path in played.keys() - set(same)} == {"manifest.json"}
    for changed, text in (
        ({"attacks": {"PGD": PGD(ball=BALL, steps=3)}}, r"attacks\.PGD=.*'PGD\.steps': 3.*was"),
        ({"victims": {"VDN": recipe(gamma=0.5)}}, r"victims\.VDN=.*'VDN\.settings\.gamma': 0\.5"),
        ({"environments": {"game": Scripted}}, r"environments\.game="),
        ({"environments": {"game": partial(Scripted, lengths=(1, 4))}}, r"'game\.metrics': 'u'"),
        ({"episodes": 5}, r"episodes=5 \(was 4\)"),
        ({"victims": {"IPPO": recipe(IPPO)} | study.victims}, r"untrained='IPPO' \(was 'VDN'\)"),
    ):
        with pytest.raises(ValueError, match=text):
            quiet(replace(study, **changed), tmp_path)


def test_a_study_that_grows_is_the_one_in_one_go(tmp_path):
    study = grid(victims={"VDN": recipe()}, attacks={"none": None}, seeds=[1], episodes=8)
    quiet(study, tmp_path / "grown")
    whole = replace(study, seeds=[0, 1])
    found = quiet(whole, tmp_path / "grown")
    assert found == quiet(whole, tmp_path / "once")
    one, other = found["game"].cell("random", "none").scores.values()
    assert one.tolist() != other.tolist()


def test_a_team_that_fails_costs_its_own_cells(tmp_path):
    study = grid(victims={"VDN": recipe(), "bad": recipe(gama=0.5)}, seeds=[0])
    with pytest.raises(CellsError, match=r"4 of 14 cells failed.*") as caught:
        quiet(study, tmp_path)
    bad = GridKey("game", "bad", "none")
    assert "Did you mean 'gamma'?" in caught.value.failures[bad].error
    assert "not begun" in caught.value.failures[replace(bad, attack="PGD")].error
    assert read_tables(tmp_path)["game"].victims == ("random", "untrained", "VDN")


def test_a_training_that_was_killed_after_its_weights_is_not_repeated(tmp_path):
    study = grid(victims={"VDN": recipe()}, attacks={"none": None}, seeds=[0], baselines=False)
    first = quiet(study, tmp_path)
    (tmp_path / "teams/game/VDN/none/0.json").unlink()
    (tmp_path / "scores/game/VDN/none/none/0.json").unlink()
    weights = tmp_path / "teams/game/VDN/none/0/weights.pt"
    before = weights.stat().st_mtime_ns
    assert quiet(study, tmp_path) == first
    assert weights.stat().st_mtime_ns == before


def test_what_perturbs_begins_anew_in_every_cell(tmp_path):
    counting = ObsPerturber(PGD_2, episodes=0.5)
    study = grid(
        attacks={"none": None, "PGD": counting}, defences={"AT": Defence(perturb=counting)}
    )
    quiet(study, tmp_path)
    assert counting.counters() == ObsPerturber(PGD_2, episodes=0.5).counters()


def test_warnings_are_kept_with_their_cell(tmp_path):
    idle = PGD(ball=LinfBall(epsilon=0.0))
    study = grid(victims={"VDN": recipe()}, attacks={"idle": idle}, seeds=[0], baselines=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quiet(study, tmp_path)
    cell = json.loads((tmp_path / "scores/game/VDN/none/idle/0.json").read_text())
    assert any("has no budget" in text for text in cell["warnings"])
    assert cell["scores"].keys() == {"return", "u"}


def test_another_metric(tmp_path):
    study = grid(victims={"VDN": recipe()}, seeds=[0])
    assert quiet(study, tmp_path)["game"].metric == "u"
    returns = read_tables(tmp_path, "return")["game"]
    assert returns.metric == "return"
    assert returns.cell("VDN", "none").limits == (-np.inf, np.inf)
    cell = read_tables(tmp_path, "return", (-100.0, 100.0))["game"].cell("VDN", "none")
    assert cell.limits == (-100.0, 100.0)
    with pytest.raises(ValueError, match=r"read_tables\.metric must be one of \['return', 'u'\]"):
        read_tables(tmp_path, "won")
    with pytest.raises(ValueError, match=r"read_tables\.folder must be one with a manifest\.json"):
        read_tables(tmp_path / "teams")


def test_report(tmp_path):
    table = CrossTable.from_json(
        '{"metric": "won", "title": "t", "baselines": [], "cells": '
        '{"VDN": {"none": {"level": 0.95, "scores": {"0": [1.0, 0.0]}}}}}'
    )
    text = report_tables({"my game": table}, tmp_path / "out", ["idle"])
    assert (tmp_path / "out" / "report.md").read_text() == text
    assert table.to_markdown() in text
    assert "- idle" in text
    assert CrossTable.from_json(tmp_path / "out" / "my game.json") == table
    assert (tmp_path / "out" / "my game.png").stat().st_size > 1000


def test_mixins_are_to_the_left():
    both = [ActionLossRegularizer, PolicyRegularizer]
    cls = defended(VDN, Defence(mixins=both))
    assert cls.__bases__ == (*both, VDN)
    assert defended(VDN, Defence()) is VDN


@pytest.mark.parametrize(
    ("changed", "error", "text"),
    [
        ({"victims": {}}, ValueError, r"Grid\.victims must be non-empty"),
        ({"victims": {"VDN": VDN}}, TypeError, r"Grid\.victims\['VDN'\] must be a Recipe"),
        ({"victims": {"random": recipe()}}, ValueError, r"named unlike the baselines"),
        (
            {
                "victims": {"A": recipe(), "A, PGD": recipe()},
                "defences": {"none": Defence(), "PGD": Defence()},
            },
            ValueError,
            r"Grid\.victims must be named unlike other .*, got \['A, PGD'\]\. Rename",
        ),
        ({"victims": {"a/b": recipe()}}, ValueError, r"named as files can be, got 'a/b'"),
        ({"attacks": {"..": None}}, ValueError, r"named as files can be, got '\.\.'"),
        ({"attacks": {"PGD": 3}}, TypeError, r"Grid\.attacks\['PGD'\] must"),
        ({"attacks": [None]}, TypeError, r"Grid\.attacks must be a mapping from names"),
        ({"environments": {"x": 3}}, TypeError, r"Grid\.environments\['x'\] must be what builds"),
        ({"defences": {"x": PGD_2}}, TypeError, r"Grid\.defences\['x'\] must be a Defence"),
        ({"seeds": [1, 1]}, ValueError, r"Grid\.seeds must be different"),
        ({"seeds": ["1"]}, TypeError, r"Grid\.seeds must be an int"),
        ({"episodes": 0}, ValueError, r"Grid\.episodes must be an int >= 1"),
    ],
)
def test_bad_declarations_are_refused(changed, error, text):
    with pytest.raises(error, match=text):
        grid(**changed)
