"""What is trained, how it goes on, and environments of one's own."""

import json
import re

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict

from robustmarl import algorithms, training, zoo
from robustmarl.budgets import LinfBall
from robustmarl.cli import main
from robustmarl.cli.main import _compiles
from robustmarl.cli.parser import parser_of
from robustmarl.cli.teams import _ball_within, told_world
from robustmarl.joint import spec_of
from robustmarl.training.fingerprint import fingerprint
from robustmarl.zoo.entries import entry_for
from robustmarl.zoo.shelf import learners

SHORT = ["--env-steps", "200", "--quiet"]
OWN = """
from robustmarl import envs
def make():
    return envs.SignalMatching(agents=2, horizon=4)
number = 3
"""


def test_the_recipe_of_the_zoo_is_taken_and_said(here, capsys):
    words = ["train", "qmix", "3s_vs_3z", "--under", "FGSM", "--out", "mine.pt", *SHORT]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "under FGSM in half of its episodes: the zoo's recipe of 3s_vs_3z/qmix-fgsm; 200" in out
    assert "The team is in mine.pt. Checkpoint and curves are in runs/mine/." in out
    assert re.search(r"Without attack: battle_won 0\.\d\d \[.*\] over 100 episodes\.", out)
    assert "Next: python -m robustmarl evaluate mine.pt --attack noise pgd" in out
    recipe = zoo.ENTRIES["3s_vs_3z/qmix-fgsm/0"].recipe
    team = training.load("mine.pt").learner
    spec = spec_of(zoo.WORLDS["3s_vs_3z"].make_env())
    wanted, _ = learners(recipe, zoo.ENTRIES["3s_vs_3z/qmix-fgsm/0"].defence, spec, 0)
    assert fingerprint(team=team) == fingerprint(team=wanted)
    assert team.gamma == 0.97


@pytest.mark.parametrize(
    ("option", "name"), [("--env-steps", "env_steps"), ("--num-envs", "num_envs")]
)
def test_none_of_something_is_not_as_much_as_the_recipe_has(here, capsys, option, name):
    assert main(["train", "QMIX", "3m", "--out", "mine.pt", "--quiet", option, "0"]) == 2
    assert f"{name} must be an int >= 1, got 0" in capsys.readouterr().err


def test_the_recipe_can_be_left(here, capsys):
    words = ["train", "QMIX", "3m", "--no-recipe", "--out", "mine.pt", *SHORT]
    assert main(words) == 0
    assert "QMIX with its defaults, under no attack; 200 steps in 16" in capsys.readouterr().out
    team = training.load("mine.pt").learner
    plain = algorithms.QMIX.for_env(zoo.WORLDS["3m"].make_env())
    assert fingerprint(team=team) == fingerprint(team=plain)


def test_recipes_are_found_by_what_they_are():
    for world, algorithm, under, method in (
        ("3s_vs_3z", "QMIX", None, "qmix-plain"),
        ("3s_vs_3z", "MAPPO", "paad", "mappo-paad"),
        ("battle", "MFAC", None, "mfac"),
        ("battle", "RoMFAC", None, "romfac"),
        ("toy", "EIRMAPPO", None, "eir-mappo"),
        ("toy", "MAPPO", None, "mappo-plain"),
    ):
        assert entry_for(world, algorithm, under).name == f"{world}/{method}/0"
    assert entry_for("3s_vs_3z", "QMIX", "noise") is None
    assert entry_for("3s_vs_3z", "VDN", None) is None
    assert entry_for("8m", "QMIX", None) is None
    ball = zoo.WORLDS["3m"].ball.with_epsilon(0.5)
    held = entry_for("3m", "QMIX", "fgsm", ball)
    assert held.defence.perturb.attack.ball.epsilon == 0.5


def test_a_training_goes_on_and_says_so(here, capsys):
    words = ["train", "QMIX", "3m", "--out", "mine.pt", "--quiet"]
    assert main([*words, "--env-steps", "200"]) == 0
    assert "Resumed" not in capsys.readouterr().out
    played = json.loads((here / "runs/mine/history.json").read_text())
    assert main([*words, "--env-steps", "900"]) == 0
    out = capsys.readouterr().out
    said = re.search(r"Resumed from runs/mine/checkpoint\.pt at step (\d+)\.", out)
    assert 200 <= int(said[1]) < 900
    longer = json.loads((here / "runs/mine/history.json").read_text())
    assert longer["env_steps"][: len(played["env_steps"])] == played["env_steps"]
    assert main([*words, "--env-steps", "200", "--fresh"]) == 0
    assert "Resumed" not in capsys.readouterr().out
    assert json.loads((here / "runs/mine/history.json").read_text())["env_steps"][0] == 0
    assert sorted(path.name for path in here.iterdir()) == ["mine.pt", "runs"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["QMIX", "3m", "--seed", "1"], "seed 0, not 1"),
        (["QMIX", "3m", "--under", "pgd"], "under None, not pgd"),
        (["QMIX", "3s_vs_3z"], "world 3m, not 3s_vs_3z, obs"),
        (["VDN", "3m"], "algorithm QMIX, not VDN"),
    ],
)
def test_another_training_is_not_gone_on_with(here, capsys, words, said):
    assert main(["train", "QMIX", "3m", "--out", "mine.pt", *SHORT]) == 0
    before = (here / "mine.pt").read_bytes()
    capsys.readouterr()
    assert main(["train", *words, "--out", "mine.pt", *SHORT]) == 2
    err = capsys.readouterr().err
    assert f"runs/mine/ holds another training: {said}" in err
    assert "Pass --fresh to begin anew, or another --out." in err
    assert "TeamSpec" not in err
    assert "logdir" not in err
    assert (here / "mine.pt").read_bytes() == before


def test_what_follows_from_other_settings_is_refused_in_words(here, capsys):
    """An adversary's schedule follows from the number of steps."""
    words = ["train", "VDN", "3m", "--under", "paad", "--out", "mine.pt", "--quiet"]
    assert main([*words, "--env-steps", "200"]) == 0
    capsys.readouterr()
    assert main([*words, "--env-steps", "400"]) == 2
    err = capsys.readouterr().err
    assert "such as another --env-steps. Pass --fresh to begin anew, or another --out." in err


def test_a_team_that_is_there_is_not_replaced(here, capsys):
    training.save_weights(algorithms.QMIX.for_env(zoo.WORLDS["3m"].make_env()), "mine.pt")
    words = ["train", "QMIX", "3m", "--out", "mine.pt", *SHORT]
    assert main(words) == 2
    assert "--out must be a file that is not there yet, got 'mine.pt'" in capsys.readouterr().err
    assert main([*words, "--fresh"]) == 0
    (here / "runs/mine/settings.json").unlink()
    assert main(words) == 2
    assert "which was not trained by this command" in capsys.readouterr().err


def test_an_environment_of_ones_own_is_trained_evaluated_and_attacked(here, capsys):
    (here / "my_envs.py").write_text(OWN)
    own = ["--env", "my_envs:make"]
    assert main(["train", "VDN", *own, "--out", "mine.pt", *SHORT]) == 0
    out = capsys.readouterr().out
    assert "VDN with its defaults, under no attack" in out
    assert "Without attack: return" in out
    assert "evaluate mine.pt --env my_envs:make --attack noise pgd --epsilon 0.05 0.1 0.2" in out
    assert main(["evaluate", "mine.pt", "--epsilon", "0.6"]) == 2
    err = capsys.readouterr().err
    assert "an environment of your own, which files do not bring along. Pass --env my_envs" in err
    evaluate = ["evaluate", "mine.pt", *own, "--episodes", "5", "--quiet"]
    assert main(evaluate) == 2
    assert "--epsilon must be given" in capsys.readouterr().err
    sized = ["--epsilon", "0.6", "--low", "-1", "--high", "1"]
    assert main([*evaluate, *sized, "--metric", "return", "--report", "f.html"]) == 0
    shown = capsys.readouterr()
    assert "mine: return, attacks of 0.6" in shown.out
    assert (here / "f.html").exists()
    attack = ["attack", "mine.pt", *own, *sized, "--episodes", "5", *SHORT, "--out", "adv.pt"]
    assert main(attack) == 0
    assert "--env my_envs:make" in capsys.readouterr().out.partition("Next: ")[2]
    assert main([*evaluate, "--attack", "adv.pt"]) == 0


def test_sizes_go_along_with_a_team_of_ones_own(here, capsys):
    (here / "my_envs.py").write_text(OWN)
    train = ["train", "VDN", "--env", "my_envs:make", "--under", "fgsm", "--out", "mine.pt", *SHORT]
    assert main(train) == 2
    assert "--epsilon must be given" in capsys.readouterr().err
    assert main([*train, "--epsilon", "0.3", "--low", "0", "--high", "1"]) == 0
    about = training.load("mine.pt").about
    assert about["env"] == "my_envs:make"
    assert (about["epsilon"], about["low"], about["high"]) == (0.3, 0.0, 1.0)
    capsys.readouterr()
    assert main(["evaluate", "mine.pt", "--env", "my_envs:make", "--episodes", "5"]) == 0
    assert "attacks of 0.3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("my_envs", "--env must be MODULE:FUNCTION, such as my_envs:make"),
        ("your_envs:make", "--env must be of a module that is installed or in"),
        ("my_envs:makes", "--env must be of something that my_envs has"),
        ("my_envs:number", "--env must be of a function or class without arguments"),
        ("robustmarl.envs:climbing", ""),
        ("collections:OrderedDict", "must be a PettingZoo ParallelEnv"),
    ],
)
def test_environments_that_are_none_are_refused(here, capsys, text, said):
    (here / "my_envs.py").write_text(OWN)
    code = main(["train", "VDN", "--env", text, "--out", "mine.pt", *SHORT])
    assert code == (2 if said else 0)
    assert said in capsys.readouterr().err


def test_a_world_or_an_environment_is_told(here, capsys):
    assert main(["train", "VDN", "--out", "mine.pt"]) == 2
    assert "train must be told a world, such as 3m, or --env" in capsys.readouterr().err
    assert main(["train", "VDN", "3m", "--env", "x:y", "--out", "mine.pt"]) == 2
    assert "--env must be given without the name of a world" in capsys.readouterr().err


def test_what_observations_may_be_is_asked_of_the_environment(here):
    """SignalMatching shows numbers in [0, 1]: an attack that knows stays there."""
    (here / "my_envs.py").write_text(OWN)
    words = ["evaluate", "mine.pt", "--env", "my_envs:make", "--epsilon", "0.6"]
    for told, low in (([], 0.0), (["--low", "-2"], -2.0)):
        args = parser_of("robustmarl").parse_args([*words, *told])
        assert told_world(args, None).ball == LinfBall(0.6, low=low, high=1.0)


def test_spaces_of_several_ranges_are_kept_to_by_coordinate():
    def space(low, high):
        return Box(np.float32(low), np.float32(high))

    class Uneven:
        possible_agents = ("a", "b")

        def observation_space(self, agent):
            if agent == "a":
                return Dict({"observation": space([0, -1], [1, 1]), "action_mask": Box(0, 1, (2,))})
            return space([-3, 0, -np.inf], [0, 5, np.inf])

    ball = _ball_within(Uneven(), 0.1)
    assert ball.low == (-3.0, -1.0, -np.inf)
    assert ball.high == (1.0, 5.0, np.inf)


def test_a_module_in_the_place_of_a_world_is_noticed(here, capsys):
    assert main(["train", "QMIX", "my_envs:make", "--out", "mine.pt", *SHORT]) == 2
    assert "Did you mean --env my_envs:make?" in capsys.readouterr().err


def test_the_first_run_says_that_it_compiles(here, capsys, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(here / "cache"))
    assert _compiles()
    (here / "cache" / "some").mkdir(parents=True)
    (here / "cache" / "some" / "kernel.nbi").touch()
    assert not _compiles()
