"""What is evaluated, what is filmed of it, and what is refused before any work."""

import shlex
import shutil
import sys
from dataclasses import replace

import pytest

from robustmarl import algorithms, envs, evaluation, training, zoo
from robustmarl.cli import main
from robustmarl.zoo import shelf
from robustmarl.zoo.cards import turned

PLAIN = "zoo:3s_vs_3z/qmix-plain/0"


def opening(reported):
    """Return the scores of the episode on which a report opens, clean and attacked."""
    clean, attacked = reported["recordings"]
    return clean.episodes[0].figures["battle_won"], attacked.episodes[0].figures["battle_won"]


@pytest.mark.parametrize("attacks", [["pgd", "noise"], ["noise", "pgd"]])
def test_the_worst_attack_is_filmed_on_an_episode_that_it_loses(here, reported, attacks):
    words = ["evaluate", PLAIN, "--attack", *attacks, "--episodes", "8", "--quiet"]
    assert main([*words, "--report", "f.html"]) == 0
    assert [one.title for one in reported["recordings"]] == [
        "3s_vs_3z/qmix-plain/0, no attack",
        "3s_vs_3z/qmix-plain/0, pgd",
    ]
    assert opening(reported) == (1.0, 0.0)
    assert {len(one.episodes) for one in reported["recordings"]} == {3}
    typed = f"python -m robustmarl {shlex.join([*words, '--report', 'f.html'])}"
    assert reported["command"] == typed


def test_an_episode_is_sought_that_tells_the_two_apart(here, reported):
    """A small FGSM costs this team a battle now and then, which is shown first."""
    weak = ["evaluate", PLAIN, "--attack", "fgsm", "--episodes", "20", "--epsilon", "0.03"]
    assert main([*weak, "--report", "f.html", "--quiet"]) == 0
    cells = reported["found"].cells["3s_vs_3z/qmix-plain/0"]
    clean, attacked = (cells[name].scores[0] for name in ("none", "fgsm"))
    lost = [i for i in range(20) if clean[i] > attacked[i]]
    assert lost
    assert lost[0] > 0  # else nothing is sought
    assert opening(reported) == (1.0, 0.0)


def test_of_a_suite_the_attack_that_was_chosen_is_filmed(here, reported, monkeypatch):
    whole = evaluation.quick()
    some = replace(whole, entries=whole.entries[:2])  # noise, and three of gradients
    monkeypatch.setattr(sys.modules["robustmarl.evaluation.worst_case"], "quick", lambda: some)
    words = ["evaluate", PLAIN, "--suite", "quick", "--episodes", "6", "--quiet"]
    assert main([*words, "--report", "f.html"]) == 0
    ((seed, chosen),) = reported["found"].chosen["3s_vs_3z/qmix-plain/0"].items()
    _, filmed = reported["recordings"]
    assert filmed.title == f"3s_vs_3z/qmix-plain/0, {chosen}"
    attack = reported["found"].attacks["3s_vs_3z/qmix-plain/0"][seed].attack
    assert type(attack).__name__ in filmed.attack
    assert opening(reported) == (1.0, 0.0)


def test_several_sizes_make_a_curve(here, reported, capsys):
    words = ["evaluate", PLAIN, "--attack", "NOISE", "pgd", "--episodes", "6", "--quiet"]
    assert main([*words, "--epsilon", "0.1", "0.02", "--report", "f.html"]) == 0
    assert "battle_won, pgd by size" in capsys.readouterr().out
    noise, pgd = reported["sweeps"]
    assert noise.epsilons == pgd.epsilons == (0.0, 0.02, 0.1)
    assert pgd.scores.mean("3s_vs_3z/qmix-plain/0", "0") > 0.5
    assert pgd.scores.mean("3s_vs_3z/qmix-plain/0", "0.1") == 0.0
    assert reported["recordings"][1].title == "3s_vs_3z/qmix-plain/0, pgd of 0.1"
    assert main([*words, "--epsilon", "0.1", "0.2", "--suite", "quick"]) == 2


def test_a_saved_adversary_plays_again(here, reported, capsys):
    learn = ["attack", PLAIN, "--env-steps", "600", "--episodes", "10", "--quiet"]
    assert main(learn) == 0
    out = capsys.readouterr().out
    assert "The adversary is not kept: --out ADVERSARY.pt keeps it." in out
    assert main([*learn, "--out", "adv.pt", "--report", "adv.html"]) == 0
    out = capsys.readouterr().out
    assert f"Next: python -m robustmarl evaluate {PLAIN} --attack noise pgd adv.pt" in out
    assert "The report is in adv.html." in out
    taught = reported["found"]
    assert main(["evaluate", PLAIN, "--attack", "adv.pt", "--episodes", "10", "--quiet"]) == 0
    assert "attacks of" not in capsys.readouterr().out  # its size is its own
    words = ["evaluate", PLAIN, "--attack", "adv.pt", "noise", "--episodes", "10", "--quiet"]
    assert main([*words, "--report", "again.html"]) == 0
    name = "3s_vs_3z/qmix-plain/0"
    assert reported["found"].mean(name, "adv") == taught.mean(name, "paad")
    assert main(["evaluate", "zoo:3m/qmix-plain/0", "--attack", "adv.pt"]) == 2
    assert "--attack must be made for (agents, obs, actions) =" in capsys.readouterr().err


def test_no_file_takes_the_name_of_another(here, reported):
    for file in ("s0/adv.pt", "s1/adv.pt", "none.pt", "pgd.pt"):
        (here / file).parent.mkdir(exist_ok=True)
        shutil.copy(shelf.SHIPPED / "3s_vs_3z" / "qmix-paad-0-adversary.pt", here / file)
    words = ["evaluate", PLAIN, "--episodes", "4", "--quiet", "--report", "f.html", "--attack"]
    assert main([*words, "s0/adv.pt", "s1/adv.pt", "none.pt", "pgd.pt", "pgd"]) == 0
    name = "3s_vs_3z/qmix-plain/0"
    assert reported["found"].attacks == (
        "none",
        "s0/adv.pt",
        "s1/adv.pt",
        "none.pt",
        "pgd.pt",
        "pgd",
    )
    clean = evaluation.rollout(
        zoo.load(name).learner, zoo.WORLDS["3s_vs_3z"].make_env, episodes=4, num_envs=50, seed=0
    )
    found = reported["found"].cell(name, "none").scores[0]
    assert found.tolist() == clean.figure("battle_won").tolist()


def test_a_size_is_that_of_attacks_by_name(here, capsys):
    words = ["evaluate", PLAIN, "--episodes", "4", "--quiet", "--epsilon", "0.02", "--attack"]
    saved = "zoo:3s_vs_3z/qmix-paad/0"
    assert main([*words, saved]) == 2
    assert "--epsilon must be given with attacks by name, got [0.02]" in capsys.readouterr().err
    assert main([*words, "NOISE", saved]) == 0
    assert "battle_won, noise of 0.02" in capsys.readouterr().out
    assert main([*words, "noise", "NOISE"]) == 2
    assert "--attack must be given each once, got 'NOISE'" in capsys.readouterr().err


def test_adversaries_of_the_zoo_play(here, capsys):
    words = ["evaluate", PLAIN, "--episodes", "6", "--quiet", "--attack"]
    assert main([*words, "zoo:3s_vs_3z/qmix-paad/0"]) == 0
    assert "that of 3s_vs_3z/qmix-paad/0" in capsys.readouterr().out
    assert main([*words, "zoo:3s_vs_3z/qmix-fgsm/0"]) == 2
    assert "must be of a team with an adversary" in capsys.readouterr().err


def test_a_team_is_no_adversary(here, capsys):
    training.save_weights(algorithms.QMIX.for_env(envs.skirmish("3m"), hidden=(8,)), "team.pt")
    assert main(["evaluate", PLAIN, "--attack", "team.pt"]) == 2
    said = capsys.readouterr().err
    assert "--attack must be an adversary's file, got 'team.pt', a team's." in said
    assert main(["evaluate", PLAIN, "--attack", "nobody.pt"]) == 2
    assert "There is no file 'nobody.pt' of an adversary." in capsys.readouterr().err


def test_traitors_learn_where_there_are_some(here, reported, capsys, monkeypatch):
    world = zoo.WORLDS["toy"]
    quick = replace(world, traitor=replace(world.traitor, env_steps=400))
    monkeypatch.setitem(zoo.WORLDS, "toy", quick)
    words = ["evaluate", "zoo:toy/mappo-plain/0", "--episodes", "6", "--quiet"]
    assert main(words) == 2
    assert "one agent acts against the team: evaluate --traitor" in capsys.readouterr().err
    assert main([*words, "--traitor"]) == 0
    out = capsys.readouterr().out
    assert "traitor agent_0" in out
    assert "traitor agent_1" in out
    assert main([*words, "--traitor", "agent_1", "--report", "t.html"]) == 0
    out = capsys.readouterr().out
    assert "traitor agent_0" not in out
    assert reported["found"].attacks == ("none", "traitor agent_1")
    assert main([*words, "--traitor", "agent_7"]) == 2
    assert "--traitor must be one of ['agent_0', 'agent_1']" in capsys.readouterr().err
    assert main([*words, "--epsilon", "0.2"]) == 0  # observations may be attacked there, too
    assert main(["evaluate", PLAIN, "--traitor"]) == 2
    assert "There is one in the worlds toy and 4m_vs_3m" in capsys.readouterr().err


def test_a_traitor_is_that_of_the_card(monkeypatch):
    """The same team, agent and seeds give the same figure."""
    world = zoo.WORLDS["toy"]
    quick = replace(world, traitor=replace(world.traitor, env_steps=400))
    team = zoo.load("toy/mappo-plain/0").learner
    monkeypatch.setitem(zoo.WORLDS, "toy", quick)
    card = zoo.measure(team, "toy", episodes=6)
    traitor = turned(team, quick.traitor, "agent_0", seed=0)
    played = evaluation.rollout(team, quick.make_env, episodes=6, perturb=traitor, num_envs=50)
    assert card.attacks["traitor agent_0"] == pytest.approx(played.returns.mean())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate", PLAIN, "--report", "f.pdf"], "--report must be a file name that ends in"),
        (["evaluate", PLAIN, "--report", "f"], "Write f.html."),
        (["evaluate", PLAIN, "--report", "folder.html"], "--report must be a file, not a folder"),
        (["evaluate", PLAIN, "--report", "taken/f.html"], "--report must be a place that can be"),
        (["attack", PLAIN, "--out", "folder"], "--out must be a file name that ends in .pt"),
        (["attack", "k.pt", "--out", "k.pt"], "--out must be another file than one that is read"),
        (["attack", "k.pt", "--out", "./x/../k.pt"], "--out must be another file than one"),
        (["train", "QMIX", "3m", "--out", "fresh"], "Write fresh.pt."),
        (["train", "QMIX", "3m", "--out", "taken/k.pt"], "--out must be a place that can be"),
        (["evaluate", "3m/qmix-plain/0"], "Did you mean zoo:3m/qmix-plain/0?"),
        (
            ["evaluate", "runs/k", "--world", "3m"],
            "is a folder, no file of the team. Pass runs/",
        ),
        (["evaluate", "nowhere.pt"], "There is no file 'nowhere.pt' of the team."),
        (["evaluate", PLAIN, "--attack", "pgdd"], "--attack must be one of ['pgd', 'apgd'"),
        (
            ["evaluate", "k.pt", "--world", "3s_vs_3z"],
            "k.pt does not fit this environment: obs 30 against ",
        ),
        (
            ["evaluate", PLAIN, "--metric", "wins"],
            "--metric must be one of ['return', 'battle_won'",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(here, words, said, capsys, monkeypatch):
    def worked(*args, **keywords):
        raise AssertionError("it was worked before")

    for name in ("crossplay", "worst_case", "rollout"):
        monkeypatch.setattr(evaluation, name, worked)
    monkeypatch.setattr(training, "run", worked)
    monkeypatch.setattr(evaluation.Case, "trained", worked)
    (here / "folder.html").mkdir()
    (here / "taken").write_text("a file")
    (here / "runs/k").mkdir(parents=True)
    (here / "runs/k/checkpoint.pt").touch()
    team = algorithms.QMIX.for_env(envs.skirmish("3m"), hidden=(8,))
    training.save_weights(team, "k.pt", about={"world": "3m"})
    before = (here / "k.pt").read_bytes()
    assert main(words) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert (here / "k.pt").read_bytes() == before


def test_folders_of_reports_are_made(here, monkeypatch):
    words = ["evaluate", PLAIN, "--attack", "noise", "--episodes", "3", "--quiet"]
    assert main([*words, "--report", "new/place/f.html"]) == 0
    assert (here / "new/place/f.html").exists()
