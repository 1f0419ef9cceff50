"""The table of victims against attacks."""

import json
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from doubles import Scripted, armies

from robustmarl.adversaries import PAAD, ObsAdversaryPPO
from robustmarl.algorithms import IPPO, QMIX
from robustmarl.attacks import PGD, UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.data import EpisodeBuffer, JointCollector, RandomController, ScriptedController
from robustmarl.envs import SignalMatching
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.evaluation import Cell, crossplay, rollout
from robustmarl.joint import spec_of
from robustmarl.losses import PolicyLoss
from robustmarl.perturbers import ByzantinePerturber, ObsPerturber, TypeDistribution, stor
from robustmarl.training import AdversarialTraining
from robustmarl.typing import RobustnessWarning

NOISE = UniformNoise(ball=LinfBall(epsilon=0.5))
ATTACKS = {"none": None, "noise": NOISE, "pgd": PGD(ball=LinfBall(epsilon=0.5), steps=2)}
SMALL = {"episodes": 5, "num_envs": 3}


def game():
    return Scripted(lengths=(1, 4), metrics=("u", "steps"))


def plain():
    return Scripted(lengths=(2, 3))


def qmix(seed=0, make=game):
    return QMIX.for_env(make(), hidden=(8,), embed=4, hyper_hidden=4, seed=seed)


def test_cells_are_rollouts():
    teams = {"QMIX": {3: qmix(3), 8: qmix(8)}, "IPPO": IPPO.for_env(game(), hidden=(8,))}
    table = crossplay(teams, ATTACKS, game, metric="return", **SMALL, seed=4, title="Scripted")
    assert table.victims == ("random", "untrained", "QMIX", "IPPO")
    assert table.attacks == ("none", "noise", "pgd")
    assert table.title in str(table)
    for seed, team in teams["QMIX"].items():
        for name, attack in ATTACKS.items():
            want = rollout(team, game, **SMALL, seed=4, perturb=attack).returns
            np.testing.assert_array_equal(table.cell("QMIX", name).scores[seed], want)
    assert set(table.cell("IPPO", "pgd").scores) == {0}
    attacked = table.cell("QMIX", "pgd").scores[3], table.cell("QMIX", "none").scores[3]
    assert not np.array_equal(*attacked)


def test_progress_is_shown_where_it_is_asked_for(capsys):
    teams = {"QMIX": [qmix(0), qmix(1)]}
    table = crossplay(teams, ATTACKS, game, **SMALL)
    assert capsys.readouterr().err == ""
    shown = crossplay(teams, ATTACKS, game, **SMALL, progress="my table")
    err = capsys.readouterr().err
    assert "my table: 100%" in err
    assert "14/14" in err  # two seeds of random, and of untrained and QMIX under three attacks
    assert shown == table
    with pytest.raises(TypeError, match=r"crossplay\.progress must be a bool, or the bar's name"):
        crossplay(teams, ATTACKS, game, **SMALL, progress=3)


def test_baselines_are_marked_and_untrained():
    team = qmix(3)
    table = crossplay({"QMIX": {3: team}}, ATTACKS, game, metric="return", **SMALL)
    assert table.is_baseline("random")
    assert table.is_baseline("untrained")
    assert not table.is_baseline("QMIX")
    random = rollout(RandomController(spec_of(game())), game, **SMALL).returns
    for name in ATTACKS:
        np.testing.assert_array_equal(
            next(iter(table.cell("random", name).scores.values())), random
        )
        fresh = table.cell("untrained", name)  # nothing was learned here
        np.testing.assert_array_equal(fresh.scores[3], table.cell("QMIX", name).scores[3])
    bare = crossplay({"QMIX": team}, ATTACKS, game, baselines=False, **SMALL)
    assert bare.victims == ("QMIX",)


@pytest.mark.parametrize("form", ["one", "list", "mapping"])
def test_victims_per_seed(form):
    given = {"one": qmix(), "list": [qmix(0), qmix(1)], "mapping": {5: qmix(0), 7: qmix(1)}}[form]
    table = crossplay({"QMIX": given}, {"none": None}, game, baselines=False, **SMALL)
    seeds = {"one": {0}, "list": {0, 1}, "mapping": {5, 7}}[form]
    assert set(table.cell("QMIX", "none").scores) == seeds
    assert table.cell("QMIX", "none").estimate.n_seeds == len(seeds)


def test_the_metric():
    table = crossplay({"QMIX": qmix()}, {"none": None}, game, **SMALL)
    assert table.metric == "u"  # the environment's first
    steps = crossplay({"QMIX": qmix()}, {"none": None}, game, metric="steps", **SMALL)
    assert set(np.unique(steps.cell("QMIX", "none").scores[0])) <= {1.0, 4.0}
    bare = crossplay({"QMIX": qmix(make=plain)}, {"none": None}, plain, **SMALL)
    assert bare.metric == "return"
    with pytest.raises(ValueError, match=r"metric must be one of \['return', 'u', 'steps'\]"):
        crossplay({"QMIX": qmix()}, {"none": None}, game, metric="won", **SMALL)


def test_all_cells_play_the_same_episodes():
    teams = {"a": [qmix(0)], "b": [qmix(1)]}
    table = crossplay(teams, ATTACKS, game, metric="u", **SMALL)
    scores = [table.cell(v, a).scores[0] for v in ("a", "b", "untrained") for a in ATTACKS]
    assert all(np.array_equal(s, scores[0]) for s in scores)


def test_a_transfer_attack_asks_another_team():
    source, team = qmix(1), qmix(0)
    attacks = {"transfer": ObsPerturber(ATTACKS["pgd"], victim=source), "own": ATTACKS["pgd"]}
    table = crossplay({"QMIX": team}, attacks, game, metric="return", baselines=False, **SMALL)
    want = rollout(team, game, **SMALL, perturb=attacks["transfer"]).returns
    np.testing.assert_array_equal(table.cell("QMIX", "transfer").scores[0], want)


def test_a_director_of_one_training_goes_through_the_team_of_each_row():
    """Its weights stay, bit for bit; what it shows follows from who plays."""
    made = PAAD.for_env(game(), stor(LinfBall(epsilon=0.8)), hidden=(8,))
    kept = {name: p.clone() for name, p in made.state_dict().items() if torch.is_tensor(p)}
    teams = {"a": qmix(0), "b": qmix(1)}
    deployed = made.deployed()
    crossplay(teams, {"PAAD": deployed}, game, metric="return", baselines=False, **SMALL)
    assert all(torch.equal(p, made.state_dict()[name]) for name, p in kept.items())
    weights = zip(made.director.parameters(), deployed.director.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in weights)
    episodes = []
    for victim in teams.values():
        buffer = EpisodeBuffer(victim.spec, 1)
        collector = JointCollector(victim, JointVectorEnv(game, 1), buffer, perturb=[deployed])
        collector.collect(n_episode=1)
        episodes.append(buffer.latest(1))
    one, other = episodes
    assert torch.equal(one.obs.obs[:, 0], other.obs.obs[:, 0])
    targets = [batch.record("director")["target"][:, 0] for batch in episodes]
    assert torch.equal(*targets)
    assert not torch.equal(one.obs.seen[:, 0], other.obs.seen[:, 0])


def test_a_defence_is_no_attack():
    defence = PolicyLoss(attack=ATTACKS["pgd"])
    with pytest.raises(TypeError, match=r"must be an attack, a perturber, .* got PolicyLoss"):
        crossplay({"QMIX": qmix()}, {"PR": defence}, game, **SMALL)


@pytest.mark.parametrize("team", ["red", "blue"])
def test_one_team_of_two_is_attacked(team):
    """Victims, baselines and attacks are of the named team; the other one plays on as it is."""

    def two():
        return armies(2)

    spec, other = spec_of(two()), {"red": "blue", "blue": "red"}[team]
    victims = {s: IPPO.for_env(spec, team=team, hidden=(8,), seed=s) for s in (0, 1)}
    common = {"team": team, "opponents": {other: IPPO.for_env(spec, team=other, hidden=(8,))}}
    table = crossplay({"IPPO": victims}, ATTACKS, two, metric="return", **SMALL, **common)
    assert table.victims == ("random", "untrained", "IPPO")
    for seed, victim in victims.items():
        for name, attack in ATTACKS.items():
            want = rollout(victim, two, **SMALL, **common, perturb=attack).returns
            np.testing.assert_array_equal(table.cell("IPPO", name).scores[seed], want)
    random = rollout(RandomController(spec.of_team(team)), two, **SMALL, **common).returns
    np.testing.assert_array_equal(table.cell("random", "pgd").scores[0], random)
    with pytest.raises(ValueError, match=r"crossplay\.opponents must be a controller for each"):
        crossplay({"IPPO": victims}, ATTACKS, two, team=team, **SMALL)
    of_other = {"team": other, "opponents": {team: victims[0]}, "baselines": False}
    with pytest.raises(ValueError, match="made for this environment"):
        crossplay({"IPPO": victims}, ATTACKS, two, **SMALL, **of_other)


def test_a_team_and_its_adversary_are_a_victim_as_the_team_is():
    adversary = ObsAdversaryPPO.for_env(game(), LinfBall(epsilon=0.5), hidden=(8,))
    pair = AdversarialTraining(qmix(), adversary)
    table = crossplay({"pair": pair, "team": pair.team}, ATTACKS, game, metric="return", **SMALL)
    assert table.victims == ("random", "pair", "team")  # of a pair there is no untrained one
    for name in ATTACKS:
        scores = [table.cell(victim, name).scores[0] for victim in ("pair", "team")]
        np.testing.assert_array_equal(*scores)


def test_an_attack_without_effect_is_reported():
    with pytest.warns(RobustnessWarning, match="no budget"):
        crossplay(
            {"QMIX": qmix()}, {"none": NOISE.with_epsilon(0.0)}, game, baselines=False, **SMALL
        )


def test_bad_arguments():
    none = {"none": None}
    with pytest.raises(TypeError, match=r"crossplay\.victims must be a mapping.*got QMIX\. Write"):
        crossplay(qmix(), none, game)
    with pytest.raises(TypeError, match=r"crossplay\.attacks must be a mapping.*got list"):
        crossplay({"QMIX": qmix()}, [NOISE], game)
    with pytest.raises(ValueError, match=r"crossplay\.victims must be non-empty"):
        crossplay({}, none, game)
    with pytest.raises(ValueError, match=r"crossplay\.attacks must be non-empty"):
        crossplay({"QMIX": qmix()}, {}, game)
    with pytest.raises(ValueError, match=r"crossplay\.episodes must be an int >= 1"):
        crossplay({"QMIX": qmix()}, none, game, episodes=0)
    with pytest.raises(ValueError, match=r"victims\['QMIX'\] must be at least one algorithm"):
        crossplay({"QMIX": []}, none, game)
    with pytest.raises(TypeError, match=r"victims\['QMIX'\] must be a Victim, a robustmarl.*str"):
        crossplay({"QMIX": ["weights.pt"]}, none, game)
    with pytest.raises(ValueError, match=r"named unlike the baselines, got \['random'\].*Rename"):
        crossplay({"random": qmix()}, none, game)


def test_a_random_team_is_hurt_by_what_changes_its_actions():
    """It looks at nothing, so attacks on observations leave it alone; Byzantine play does not."""
    types = TypeDistribution(1.0, choice="fixed", agents=spec_of(game()).agents)

    def zero():
        return ByzantinePerturber(lambda context, act: torch.zeros_like(act), types=types)

    attacks = {"none": None, "noise": NOISE, "zero": [NOISE, zero()]}
    table = crossplay({"QMIX": qmix()}, attacks, game, metric="return", **SMALL)
    clean, noise, replaced = (table.cell("random", name).scores[0] for name in attacks)
    np.testing.assert_array_equal(clean, noise)
    want = rollout(RandomController(spec_of(game())), game, perturb=zero(), **SMALL).returns
    np.testing.assert_array_equal(replaced, want)


def test_blind_rows():
    """A reader of the signal falls to chance without eyes; one that never looked keeps it all."""
    spec = spec_of(SignalMatching())
    reader = ScriptedController(spec, lambda context: context.seen.argmax(-1))
    types = TypeDistribution(1.0, choice="fixed", agents=spec.agents)
    zero = ByzantinePerturber(lambda context, act: torch.zeros_like(act), types=types)
    attacks = {"none": None, "zero": zero}
    given = {"episodes": 40, "num_envs": 20, "metric": "return"}
    table = crossplay({"reader": reader}, attacks, SignalMatching, blind=True, **given)
    assert table.victims == ("random", "reader, zeroed", "reader, another's", "reader")
    assert table.baselines == ("random", "reader, zeroed", "reader, another's")
    assert table.mean("reader", "none") == 10.0
    assert table.mean("reader, zeroed", "none") == pytest.approx(5.0, abs=1.0)  # it plays 0
    assert table.mean("reader, another's", "none") == pytest.approx(5.0, abs=1.0)
    for row in ("random", "reader, zeroed", "reader, another's", "reader"):  # 0 is played anyway
        same = table.cell("reader, zeroed", "none").scores[0]
        np.testing.assert_array_equal(table.cell(row, "zero").scores[0], same)


def test_a_team_that_need_not_look_is_warned_of():
    unseeing = ScriptedController(spec_of(game()), lambda context: context.mask.long().argmax(-1))
    best = ScriptedController(spec_of(game()), lambda context: context.last_act * 0 + 2)
    for team in (unseeing, best):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            table = crossplay({"it": team}, {"none": None}, game, metric="return", blind=True)
        told = [str(one.message) for one in caught if "hardly needs" in str(one.message)]
        assert len(told) == (2 if team is best else 0)
        assert table.mean("it, zeroed", "none") == table.mean("it", "none")


def test_intervals_keep_to_the_range_of_the_metric():
    teams = {"QMIX": [qmix(0), qmix(1)]}
    settings = {"metric": "return", "limits": (0.0, 200.0), **SMALL}
    table = crossplay(teams, {"none": None}, game, **settings)
    free = crossplay(teams, {"none": None}, game, metric="return", **SMALL)
    for victim in table.victims:
        cell = table.cell(victim, "none")
        assert cell.limits == (0.0, 200.0)
        assert 0.0 <= cell.estimate.low <= cell.estimate.high <= 200.0
        assert cell.scores.keys() == free.cell(victim, "none").scores.keys()
    with pytest.raises(ValueError, match=r"crossplay\.limits must be the lowest and the highest"):
        crossplay(teams, {"none": None}, game, limits=(1.0, 0.0), **SMALL)
    with pytest.raises(ValueError, match=r"Cell\.limits must be around all scores"):
        crossplay(teams, {"none": None}, game, metric="return", limits=(0.0, 1.0), **SMALL)


def test_returns_of_0_and_1_are_no_shares():
    coins = partial(SignalMatching, horizon=1)
    zeros = {"zeros": lambda obs: obs * 0.0}
    table = crossplay(zeros, {"none": None}, coins, episodes=8, baselines=False)
    cell = table.cell("zeros", "none")
    assert set(cell.scores[0]) == {0.0, 1.0}
    assert cell.limits == (-np.inf, np.inf)
    assert "Student" in cell.estimate.method
    assert Cell.of_plain(json.loads(json.dumps(cell.plain(), allow_nan=False))) == cell
