"""Teams to try things on: their names, their files, and what is measured of them."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from robustmarl import adversaries, algorithms, envs, evaluation, zoo
from robustmarl.budgets import LinfBall
from robustmarl.evaluation import Estimate, Suite
from robustmarl.evaluation.suite import Entry as SuiteEntry
from robustmarl.joint import spec_of
from robustmarl.zoo import entries, shelf

MIB = 2**20
TRAININGS = ("plain", "fgsm", "paad", "atsa")
NAMES = zoo.names()
SHIPPED = zoo.names(shipped=True)
WITH_ADVERSARY = [name for name in SHIPPED if zoo.ENTRIES[name].defence.adversary is not None]
TINY = Suite(
    name="tiny",
    version=1,
    entries=tuple(entry for entry in evaluation.quick().entries if entry.family == "noise"),
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory, monkeypatch):
    """Stand where nobody has trained: what is in ``runs/zoo`` comes before what is shipped."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))


def test_names_say_world_method_and_seed():
    for name, entry in zoo.ENTRIES.items():
        world, method, seed = name.split("/")
        assert (entry.world, entry.method, str(entry.seed)) == (world, method, seed)
        assert world in zoo.WORLDS
    assert len({entry.method for entry in zoo.ENTRIES.values()}) >= 12


def test_what_is_shipped_is_small():
    sizes = [path.stat().st_size for path in shelf.SHIPPED.rglob("*") if path.is_file()]
    assert sum(sizes) < 8 * MIB


def test_what_comes_along_is_what_is_promised():
    methods = [f"{kind}-{how}" for kind in ("qmix", "mappo") for how in TRAININGS]
    maps = [
        name for name in zoo.WORLDS if all(f"{name}/{method}/0" in SHIPPED for method in methods)
    ]
    assert len(maps) >= 3
    others = ("toy/eir-mappo/0", "4m_vs_3m/eir-mappo/0", "battle/romfac/0", "foraging/mappo-held/0")
    assert set(others) <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_team_is_made_again_and_plays(name):
    if name.startswith("battle"):
        pytest.importorskip("magent2")
    entry, saved = zoo.ENTRIES[name], zoo.load(name)
    assert isinstance(saved.learner, entry.recipe.algorithm)
    assert saved.about["name"] == name
    assert saved.about["command"] == f"python -m robustmarl zoo train {name}"
    world = zoo.WORLDS[entry.world]
    assert spec_of(saved.make_env()).of_team(world.team) == saved.learner.spec
    found = evaluation.rollout(
        saved.learner, saved.make_env, episodes=2, num_envs=2, **world.playing
    )
    assert np.isfinite(found.figure(world.metric)).all()


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_team_has_a_card_of_itself(name):
    card, entry = zoo.card(name), zoo.ENTRIES[name]
    assert (card.name, card.world, card.about) == (name, entry.world, entry.about)
    assert card.env_steps == entry.recipe.env_steps
    assert card.threat == zoo.WORLDS[entry.world].threat
    assert {"clean", "worst", "random", "untrained"} <= card.figures.keys()
    if zoo.WORLDS[entry.world].ball is not None:
        assert {"zeroed", "another's"} <= card.figures.keys()
        assert card.suite.startswith("standard")
    assert card.worst_attack in card.attacks
    assert card.figures["worst"].mean == pytest.approx(card.attacks[card.worst_attack])
    assert zoo.Card.from_json(card.to_json()) == card
    assert str(card.figures["worst"]) in str(card)


@pytest.mark.parametrize("name", ["3s_vs_3z/qmix-plain/0", "3s_vs_3z/mappo-plain/0"])
def test_clean_figures_are_what_the_team_does(name):
    saved, card = zoo.load(name), zoo.card(name)
    world = zoo.WORLDS[card.world]
    found = evaluation.rollout(saved.learner, world.make_env, episodes=60, num_envs=30, seed=7)
    won = found.figure(card.metric)
    # other episodes: the difference of two shares is within four standard deviations
    share = card.figures["clean"].mean
    spread = math.sqrt(max(share * (1 - share), 0.02) * (1 / len(won) + 1 / card.episodes))
    assert abs(won.mean() - share) < 4 * spread


@pytest.mark.parametrize("name", WITH_ADVERSARY)
def test_adversaries_come_with_the_teams_they_learned_beside(name):
    saved = zoo.load_adversary(name)
    assert isinstance(saved.learner, adversaries.Adversary)
    team = zoo.load(name).learner
    world = zoo.WORLDS[zoo.ENTRIES[name].world]
    attacked = saved.learner.deployed()
    played = evaluation.rollout(team, world.make_env, episodes=2, num_envs=2, perturb=attacked)
    assert np.isfinite(played.returns).all()


@pytest.mark.parametrize("name", ["3m/qmix-paad/1", "foraging/mappo-held/2", "toy/eir-mappo/1"])
def test_a_team_is_trained_kept_and_found(tmp_path, name):
    assert name not in SHIPPED
    with pytest.raises(FileNotFoundError, match=rf"Train it: python -m robustmarl .* {name}$"):
        zoo.load(name, folder=tmp_path)
    saved = zoo.train(name, tmp_path, env_steps=900, progress=False)
    assert saved.learner.seed == zoo.ENTRIES[name].seed
    again = zoo.load(name, folder=tmp_path).learner
    for weight, same in zip(again.parameters(), saved.learner.parameters(), strict=True):
        assert torch.equal(weight, same)
    if zoo.ENTRIES[name].defence.adversary is not None:
        adversary = zoo.load_adversary(name, folder=tmp_path).learner
        assert type(adversary) is adversaries.PAAD


def test_a_card_is_measured_written_and_read(tmp_path):
    name = "foraging/mappo-plain/1"
    zoo.train(name, tmp_path, env_steps=600, progress=False)
    card = zoo.write_card(name, tmp_path, suite=TINY, episodes=8, progress=False)
    assert zoo.card(name, folder=tmp_path) == card
    assert card.suite == "tiny-1"
    assert card.worst_attack == "noise"
    assert card.episodes == 8
    assert set(card.figures) == {"clean", "worst", "random", "zeroed", "another's", "untrained"}
    assert list(card.certified) == ["0.01", "0.02", "0.05", "0.25"]
    assert all(0.0 <= share <= 1.0 for share in card.certified.values())
    shares = list(card.certified.values())
    assert shares == sorted(shares, reverse=True)  # what holds in a ball holds in a smaller one
    assert [one.name for one in zoo.cards(folder=tmp_path)][-1] == name


def test_a_traitor_learns_against_the_very_team(monkeypatch):
    world = zoo.WORLDS["toy"]
    quick = replace(world, traitor=replace(world.traitor, env_steps=400))
    monkeypatch.setitem(zoo.WORLDS, "toy", quick)
    team = algorithms.MAPPO.for_env(envs.ToyGame(), hidden=(8,), seed=3)
    before = [weight.clone() for weight in team.parameters()]
    card = zoo.measure(team, "toy", episodes=6)
    assert all(map(torch.equal, before, team.parameters()))
    assert card.seed == 3
    assert card.certified == {}
    assert list(card.attacks) == [f"traitor {agent}" for agent in team.spec.agents]
    assert card.worst_attack in card.attacks
    assert card.suite == "a traitor that learns for 400 steps, per agent"


def estimate(mean):
    return Estimate(mean=mean, low=mean, high=mean, n_seeds=1, n_episodes=10)


def card_of(name, worst, world="3m", **figures):
    figures = {"clean": 1.0, "worst": worst, **figures}
    return zoo.Card(
        name=name,
        world=world,
        threat="any",
        metric="battle_won",
        figures={key: estimate(value) for key, value in figures.items()},
        worst_attack="PGD-10",
        attacks={"PGD-10": worst},
        suite="standard-1",
        episodes=10,
        certified={"0.1": 0.5} if worst > 0.5 else {},
    )


def test_the_best_at_worst_is_first():
    cards = [card_of("weak", 0.1), card_of("strong", 0.9, zeroed=0.25), card_of("x", 1.0, "toy")]
    head, _, *rows, empty, below = zoo.leaderboard(cards, "3m").splitlines()
    assert empty == ""
    assert below == "Worst under standard-1; 10 episodes behind every figure."
    assert head == "| team | clean | worst | zeroed | worst attack | proven at 0.1 |"
    assert rows == [
        "| `strong` | 1.00 [1.00, 1.00] | 0.90 [0.90, 0.90] | 0.25 [0.25, 0.25] | PGD-10 | 0.50 |",
        "| `weak` | 1.00 [1.00, 1.00] | 0.10 [0.10, 0.10] |  | PGD-10 |  |",
    ]
    with pytest.raises(ValueError, match=r"cards must be with one of 2m_vs_1z"):
        zoo.leaderboard(cards, "2m_vs_1z")


def test_what_was_measured_otherwise_stands_apart():
    cards = [card_of("weak", 0.1), replace(card_of("quick", 1.0), suite="quick-1")]
    cards += [card_of("strong", 0.9), replace(card_of("brief", 0.5), episodes=4)]
    head, _, *rows, _, below = zoo.leaderboard(cards, "3m").splitlines()
    assert head.endswith("| suite | episodes |")
    found = [(row.split("|")[1].strip(), *row.split("|")[-3:-1]) for row in rows]
    assert found == [
        ("`strong`", " standard-1 ", " 10 "),
        ("`weak`", " standard-1 ", " 10 "),
        ("`quick`", " quick-1 ", " 10 "),
        ("`brief`", " standard-1 ", " 4 "),
    ]
    assert "not comparable" in below


def test_what_was_trained_here_is_what_is_loaded(tmp_path):
    name = "2m_vs_1z/qmix-plain/0"
    shipped, known = zoo.load(name, folder=tmp_path).learner, zoo.card(name, folder=tmp_path)
    own = zoo.train(name, tmp_path, env_steps=100, progress=False).learner
    found = zoo.load(name, folder=tmp_path).learner
    same = list(map(torch.equal, found.parameters(), own.parameters()))
    assert all(same)
    assert not all(map(torch.equal, found.parameters(), shipped.parameters()))
    with pytest.raises(FileNotFoundError, match=rf"not measured yet.* zoo measure {name}"):
        zoo.card(name, folder=tmp_path)
    assert name not in [card.name for card in zoo.cards(folder=tmp_path)]
    card = zoo.write_card(name, tmp_path, suite=TINY, episodes=2, progress=False)
    assert zoo.card(name, folder=tmp_path) == card != known
    assert [one for one in zoo.cards(folder=tmp_path) if one.name == name] == [card]
    assert card.env_steps == 100
    assert card.command == f"zoo.train({name!r}, env_steps=100)"
    with pytest.raises(ValueError, match=r"train\.env_steps must be an int >= 1, got 0"):
        zoo.train("2m_vs_1z/qmix-plain/1", tmp_path, env_steps=0, progress=False)


def test_bad_requests_are_answered(tmp_path):
    with pytest.raises(ValueError, match=r"load\.name must be one of zoo\.names\(\), such as 3m"):
        zoo.load("3m/qmix")
    rule = (
        r"load_adversary\.name must be of a team with an adversary, got '3m/qmix-plain/0'\. There"
    )
    with pytest.raises(ValueError, match=rule):
        zoo.load_adversary("3m/qmix-plain/0")
    with pytest.raises(ValueError, match=r"world\.name must be one of"):
        zoo.world("nowhere")
    with pytest.raises(ValueError, match=r"Card\.from_json\.text must be a card's JSON"):
        zoo.Card.from_json(json.dumps({"name": "x"}))
    with pytest.raises(ValueError, match=r"measure\.world must be one of"):
        zoo.measure(algorithms.VDN.for_env(envs.ToyGame()), "nowhere")
    with pytest.raises(TypeError, match=r"measure\.learner must be an algorithm"):
        zoo.measure("team", "toy")


def test_worlds_say_within_which_range_observations_change():
    """The range weakens an attack: a figure without it is of another threat."""
    words = {name: zoo.world(name).threat for name in ("3m", "8m", "battle", "foraging")}
    assert words == {
        "3m": "observations change by up to 0.25, within [-1, 1]",
        "8m": "observations change by up to 0.1, within [-1, 1]",
        "battle": "observations change by up to 0.075, within [0, 2]",
        "foraging": "observations change by up to 0.25",
    }
    ball = LinfBall(epsilon=(0.1, 0.2))
    own = zoo.World(make_env=envs.SignalMatching, metric="return", ball=ball)
    assert own.threat == f"observations change by {ball!r}"


def test_worlds_say_what_threatens():
    for world in zoo.WORLDS.values():
        assert (world.ball is None) != (world.traitor is None)
        assert re.search("observations change by|acts against the team", world.threat)
    eight = zoo.world("8m")
    assert (eight.metric, eight.ball.epsilon) == ("battle_won", 0.1)
    assert zoo.world("toy") is zoo.WORLDS["toy"]
    assert spec_of(zoo.world("spread").make_env()).num_agents == 3


def test_what_the_quick_suite_calls_noise_is_there():
    assert all(isinstance(entry, SuiteEntry) for entry in TINY.entries)
    assert len(TINY.entries) == 1
    assert entries.SEEDS[0] == 0
