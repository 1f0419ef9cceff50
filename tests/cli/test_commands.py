"""What the command line does with teams; studies are in evaluation/test_grid_yaml.py."""

import re
import sys
import tomllib
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from robustmarl import adversaries, algorithms, envs, evaluation, training, zoo
from robustmarl.cli import main
from robustmarl.zoo import shelf

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def team_file(tmp_path, **kept):
    path = tmp_path / "mine.pt"
    team = algorithms.QMIX.for_env(envs.skirmish("3m"), hidden=(8,))
    training.save_weights(team, path, **kept)
    return str(path)


@pytest.mark.parametrize("under", [None, "pgd", "paad"])
def test_train_keeps_a_team_that_says_what_it_plays(tmp_path, capsys, under):
    path = tmp_path / "team.pt"
    words = ["train", "QMIX", "3m", "--env-steps", "400", "--out", str(path), "--quiet"]
    assert main([*words, *(["--under", under] if under else [])]) == 0
    assert f"The team is in {path}." in capsys.readouterr().out
    saved = training.load(path)
    assert type(saved.learner) is algorithms.QMIX
    assert saved.about["world"] == "3m"
    assert saved.about["command"].startswith("python -m robustmarl train QMIX 3m --env-steps 400")
    assert ("--under" in saved.about["command"]) == (under is not None)
    assert (tmp_path / "runs" / "team" / "history.json").exists()


def test_train_learns_on_policy_and_in_games_of_two_teams(tmp_path):
    pytest.importorskip("magent2")
    path = str(tmp_path / "team.pt")
    words = ["train", "MFAC", "battle", "--env-steps", "400", "--num-envs", "2", "--quiet"]
    assert main([*words, "--out", path]) == 0
    assert training.load(path).learner.spec.num_agents == 12


def test_evaluate_prints_a_table_and_writes_a_report(tmp_path, capsys):
    report = tmp_path / "out.html"
    words = ["evaluate", team_file(tmp_path), "--world", "3m", "--attack", "fgsm", "noise"]
    assert main([*words, "--episodes", "4", "--report", str(report)]) == 0
    out = capsys.readouterr().out
    assert "battle_won, attacks of 0.25" in out
    assert "fgsm" in out
    assert "mine, zeroed" in out
    assert "python -m robustmarl evaluate" in report.read_text()


def test_evaluate_takes_a_suite(tmp_path, capsys):
    path = team_file(tmp_path, make_env=envs.ToyGame, about={"world": "3m"})
    words = ["evaluate", path, "--suite", "quick", "--episodes", "4", "--epsilon", "0.05"]
    assert main([*words, "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "worst" in out
    assert "quick-1" in out
    assert "0.05" in out


@pytest.mark.parametrize("kind", ["paad", "atsa", "atla"])
def test_attack_trains_an_adversary_against_a_team_that_stands_still(tmp_path, capsys, kind):
    path, out = team_file(tmp_path), tmp_path / "adversary.pt"
    words = ["attack", path, "--world", "3m", "--adversary", kind, "--env-steps", "400"]
    assert main([*words, "--episodes", "4", "--out", str(out), "--quiet"]) == 0
    assert f"{kind} after 400 steps" in capsys.readouterr().out
    adversary = training.load(out, adversaries.Adversary).learner
    assert type(adversary).__name__ in ("PAAD", "ATSA", "ObsAdversaryPPO")


def test_the_zoo_lists_tells_trains_measures_and_ranks(here, capsys):
    assert main(["zoo"]) == 0
    listed = capsys.readouterr().out
    assert re.search(r"^3s_vs_3z/qmix-plain/0 +0\.99 +0\.01 +QMIX, trained without", listed, re.M)
    assert "3s_vs_3z/qmix-plain/1" not in listed
    assert main(["zoo", "--all"]) == 0
    listed = capsys.readouterr().out
    assert re.search(r"^3s_vs_3z/qmix-plain/1 +QMIX, trained without attack$", listed, re.M)
    assert main(["zoo", "card", "3s_vs_3z/qmix-plain/0"]) == 0
    card = capsys.readouterr().out
    assert card.startswith("3s_vs_3z/qmix-plain/0: QMIX, trained without attack\n")
    assert main(["zoo", "leaderboard", "3s_vs_3z", "--markdown"]) == 0
    assert "| `3s_vs_3z/qmix-plain/0` |" in capsys.readouterr().out
    assert main(["zoo", "leaderboard", "3s_vs_3z"]) == 0
    ranked = capsys.readouterr().out
    assert "|" not in ranked
    worst = re.findall(r"^3s_vs_3z/\S+ +[\d.]+ +([\d.]+)", ranked, re.M)
    assert worst == sorted(worst, reverse=True)
    assert len(worst) >= 8
    assert main(["zoo", "card"]) == 2
    assert "must be told a name" in capsys.readouterr().err


def test_the_program_has_a_name_of_its_own(here, monkeypatch, capsys):
    scripts = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]["scripts"]
    assert scripts == {"robustmarl": "robustmarl.cli:main"}
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/robustmarl", "zoo", "card"])
    assert main() == 2
    assert capsys.readouterr().err.startswith("robustmarl: zoo card must be told a name. robustm")
    assert (capsys.readouterr().out, main(["train", "mapo", "3m", "--out", "x.pt"])) == ("", 2)
    assert "train.algorithm must be one of ['MAPPO', " in capsys.readouterr().err


def test_a_leaderboard_asks_for_worlds_and_for_cards(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    card = replace(zoo.card("3m/qmix-plain/0"), name="battle/mfac/0", world="battle")
    assert main(["zoo", "leaderboard"]) == 2
    assert "must be told a world: 3s_vs_3z, 2m_vs_1z, 3m" in capsys.readouterr().err
    monkeypatch.setattr(shelf, "SHIPPED", tmp_path / "none")
    assert main(["zoo", "leaderboard", "battle"]) == 2
    said = capsys.readouterr().err
    assert "No team of battle was measured yet." in said
    assert "zoo train battle/mfac/0, then zoo measure battle/mfac/0" in said
    (tmp_path / "runs/zoo/battle").mkdir(parents=True)
    card.to_json(tmp_path / "runs/zoo/battle/mfac-0.json")
    assert main(["zoo", "leaderboard", "battle"]) == 0  # what is measured here counts
    assert "battle/mfac/0" in capsys.readouterr().out


def test_the_zoo_trains_and_measures(tmp_path, capsys, monkeypatch):
    called = {}
    monkeypatch.setattr("robustmarl.zoo.train", lambda name, **how: called.update(how, name=name))
    assert main(["zoo", "train", "3m/qmix-plain/1", "--folder", str(tmp_path), "--quiet"]) == 0
    assert called == {"name": "3m/qmix-plain/1", "progress": False, "folder": tmp_path}
    assert "zoo measure 3m/qmix-plain/1" in capsys.readouterr().out
    monkeypatch.setattr("robustmarl.zoo.write_card", lambda name, **how: f"{name} {how['suite']}\n")
    assert main(["zoo", "measure", "3m/qmix-plain/1", "--suite", "quick"]) == 0
    assert capsys.readouterr().out == "3m/qmix-plain/1 quick\n"


def test_the_first_thing_that_the_readme_says_works(tmp_path, capsys):
    words = ["evaluate", "zoo:3s_vs_3z/qmix-plain/0", "--attack", "pgd", "--epsilon", "0.1"]
    assert main([*words, "--episodes", "10", "--report", str(tmp_path / "out.html")]) == 0
    assert "3s_vs_3z/qmix-plain/0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "QMIX", "3m", "--out", "x.pt"], "interrupted; the same command goes on."),
        (
            ["train", "QMIX", "3m", "--out", "x.pt", "--fresh"],
            "interrupted; the same command without --fresh goes on.",
        ),
        (["zoo", "train", "3m/qmix-plain/1"], "interrupted; the same command goes on."),
        (["evaluate", "zoo:3m/qmix-plain/0"], "interrupted."),
    ],
)
def test_who_interrupts_hears_how_to_go_on(here, monkeypatch, capsys, words, said):
    def interrupted(*args, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "run", interrupted)
    monkeypatch.setattr(zoo, "train", interrupted)
    monkeypatch.setattr(evaluation, "crossplay", interrupted)
    assert main(words) == 130
    assert capsys.readouterr().err == f"\n{said}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "QMIXX", "3m", "--out", "x.pt"], "must be one of ['QMIX'"),
        (["train", "QMIX", "4m", "--out", "x.pt"], "world.name must be one of"),
        (["evaluate", "nowhere.pt"], "There is no file 'nowhere.pt' of the team. "),
        (["evaluate", "zoo:3m/qmix"], "such as 3m/"),
        (["evaluate", "zoo:3m/qmix-plain/2"], "does not come with the package"),
        (["zoo", "leaderboard", "nowhere"], "must be one of"),
    ],
)
def test_bad_requests_are_answered_in_a_line(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_a_team_of_an_unknown_world_needs_to_be_told(tmp_path, capsys):
    path = team_file(tmp_path)
    assert main(["evaluate", path]) == 2
    assert (
        "does not say what its team plays. Pass --env MODULE:FUNCTION, or --world."
        in capsys.readouterr().err
    )
    path = team_file(tmp_path, make_env=partial(envs.skirmish, "3m"))
    assert main(["evaluate", path]) == 2
    assert "--epsilon must be given" in capsys.readouterr().err


def test_a_file_brings_its_own_environment(tmp_path, capsys):
    path, make_env = tmp_path / "pair.pt", partial(envs.SignalMatching, agents=2, horizon=4)
    training.save_weights(algorithms.VDN.for_env(make_env()), path, make_env=make_env)
    words = ["evaluate", str(path), "--attack", "pgd", "--episodes", "4", "--epsilon", "0.1"]
    assert main(words) == 0
    assert "pair: return, attacks of 0.1" in capsys.readouterr().out
