"""Teams of continuous actions on the command line: whatever it names works on them."""

import pytest

from robustmarl import evaluation, training
from robustmarl.adversaries import Adversary, ContinuousATSA, ObsAdversaryPPO, TeamPAAD
from robustmarl.cli import main
from robustmarl.cli.attacks import CONTINUOUS, CRITIC, FIXED
from robustmarl.cli.parser import ADVERSARIES, ATTACKS
from robustmarl.perturbers import CriticObsPerturber

OWN = """
from functools import partial
from robustmarl import envs
make = partial(envs.spread, 2, max_cycles=5, continuous_actions=True)
"""
PLACE = ["--env", "my_envs:make", "--epsilon", "0.3"]
FEW = ["--episodes", "4", "--quiet"]
GRADIENTS = [name for name in ATTACKS if name != "noise"]


def trained(algorithm="MADDPG", under=(), out="team.pt"):
    words = ["train", algorithm, *PLACE, "--out", out, "--env-steps", "640", "--quiet"]
    return main([*words, *(["--under", *under] if under else [])])


@pytest.fixture
def own(here):
    (here / "my_envs.py").write_text(OWN)
    return here


def test_every_name_stands_for_an_attack():
    assert FIXED.keys() == CONTINUOUS.keys() == {*ATTACKS} - {CRITIC}


@pytest.mark.parametrize(("algorithm", "left"), [("FACMAC", []), ("IPPO", [CRITIC])])
def test_every_attack_moves_them(own, reported, capsys, algorithm, left):
    assert trained(algorithm) == 0
    assert "evaluate team.pt --env my_envs:make --attack noise pgd" in capsys.readouterr().out
    names = [name for name in ATTACKS if name not in left]
    words = ["evaluate", "team.pt", *PLACE, "--attack", *names, *FEW, "--report", "f.html"]
    assert main(words) == 0
    table = reported["found"]
    clean = table.cell("team", "none").scores[0].tolist()
    for name in names:
        assert table.cell("team", name).scores[0].tolist() != clean, name


def test_the_critics_has_a_curve(own, reported):
    assert trained() == 0
    words = ["evaluate", "team.pt", "--env", "my_envs:make", "--attack", "critic", "pgd", *FEW]
    assert main([*words, "--epsilon", "0.2", "0.4", "--report", "f.html"]) == 0
    critic, pgd = reported["sweeps"]
    of = [critic.scores.cell("team", size).scores[0].tolist() for size in ("0", "0.2", "0.4")]
    assert of[0] == pgd.scores.cell("team", "0").scores[0].tolist()
    assert of[0] != of[1] != of[2] != of[0]


def test_a_team_without_a_critic_of_actions_is_told_so(own, capsys):
    assert trained("IPPO", ["critic"]) == 2
    told = "critic must be of a team with a critic of continuous actions, such as MADDPG or FACMAC"
    assert f"--under {told}, got 'IPPO of continuous actions'. Take pgd" in capsys.readouterr().err
    assert not (own / "runs").exists()
    words = ["evaluate", "zoo:3s_vs_3z/qmix-plain/0", "--attack", "critic", *FEW]
    assert main(words) == 2
    assert "got 'QMIX of discrete actions'" in capsys.readouterr().err


@pytest.mark.parametrize("under", GRADIENTS)
def test_they_train_under_every_attack(own, under):
    assert trained(under=[under]) == 0
    assert trained(out="plain.pt") == 0
    attacked, plain = (training.load(f"{name}.pt").learner for name in ("team", "plain"))
    pairs = zip(attacked.parameters(), plain.parameters(), strict=True)
    assert any(not one.equal(other) for one, other in pairs)


@pytest.mark.parametrize(
    ("kind", "cls"), [("paad", TeamPAAD), ("atsa", ContinuousATSA), ("atla", ObsAdversaryPPO)]
)
def test_what_learns_against_them_is_of_their_kind(own, reported, kind, cls):
    assert kind in ADVERSARIES
    assert trained() == 0
    words = ["attack", "team.pt", *PLACE, "--adversary", kind, "--out", "learned.pt", *FEW]
    assert main([*words, "--env-steps", "200"]) == 0
    assert type(training.load("learned.pt", Adversary).learner) is cls
    words = ["evaluate", "team.pt", *PLACE, "--attack", "pgd", "learned.pt", *FEW]
    assert main([*words, "--report", "f.html"]) == 0
    assert len(reported["found"].cell("team", "learned").scores[0]) == 4
    assert trained(under=[kind], out="other.pt") == 0


@pytest.mark.parametrize("attacks", [["noise", "nonsense"], ["noise", "critic"]])
def test_of_several_sizes_what_is_refused_is_refused_before_any_play(own, monkeypatch, attacks):
    assert trained("IPPO") == 0
    monkeypatch.setattr(evaluation, "sweep", None)  # nothing is played
    words = ["evaluate", "team.pt", "--env", "my_envs:make", "--attack", *attacks, *FEW]
    assert main([*words, "--epsilon", "0.1", "0.2"]) == 2


def test_the_critic_that_attacks_in_training_is_the_teams_own(own, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "run", lambda learner, *args, **how: seen.append((learner, how)))
    assert trained(under=["critic"]) == 0
    ((learner, how),) = seen
    assert isinstance(how["perturb"], CriticObsPerturber)
    assert how["perturb"].critic is learner
    assert how["perturb"].episodes == 0.5
