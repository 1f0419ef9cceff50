"""The worst of a suite: chosen honestly, and found where gradients are masked."""

import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from doubles import Scripted, armies

from robustmarl.adversaries import ObsAdversaryPPO
from robustmarl.algorithms import IPPO, QMIX
from robustmarl.attacks import PGD, UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.data import RandomController, ScriptedController
from robustmarl.envs import SignalMatching
from robustmarl.evaluation import (
    Case,
    Cell,
    CrossTable,
    Entry,
    Measured,
    Suite,
    WorstCase,
    quick,
    rollout,
    standard,
    worst_case,
)
from robustmarl.evaluation.threats import worst_agents
from robustmarl.evaluation.validity import findings_of
from robustmarl.joint import spec_of
from robustmarl.typing import RobustnessWarning

BALL = LinfBall(epsilon=0.6)  # enough to turn the signal round
SMALL = {"episodes": 10, "choice_episodes": 4, "num_envs": 10}


def game(agents=1):
    return SignalMatching(agents, horizon=4)


def saturated(obs):
    """Answer with +-1 in float32, whose derivative is 0 in all places but the middle."""
    gap = torch.tanh(100.0 * (obs[:, :1] - obs[:, 1:]))
    return torch.cat([gap, -gap], dim=-1)


def quantised(obs):
    return torch.round(obs * 8.0) / 8.0


def stochastic(obs):
    """Add what is small and steep, with a sign of its own in each answer."""
    return 8.0 * obs + 0.05 * torch.randn_like(obs) * torch.sin(2_000.0 * obs)


def plain(obs):
    return 8.0 * obs


def deaf(obs):
    return torch.tensor([1.0, 0.0]) + 0.0 * obs


def found(victims, ball=BALL, suite="quick", make=game, **settings):
    """Return the worst case with its warnings silenced: the findings are looked at instead."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RobustnessWarning)
        return worst_case(victims, make, ball, suite=suite, **{**SMALL, **settings})


def checks(result):
    return {finding.check for finding in result.findings}


@pytest.mark.parametrize("victim", [saturated, quantised, stochastic])
def test_masked_gradients_do_not_hide_the_truth(victim):
    """The signal can be turned round, so that the return is 0: the suite sees it, PGD does not."""
    torch.manual_seed(0)
    result = found({"it": victim})
    assert result.table.mean("it", "none") == 4.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RobustnessWarning)  # it may find no gradient at all
        pgd = rollout(victim, game, episodes=12, perturb=PGD(ball=BALL)).returns
    assert pgd.mean() > 2.0
    assert result.table.mean("it", "worst") < 0.4
    if victim is not stochastic:  # that one is asked several times for each answer
        assert result.families[result.chosen["it"][0]] == "black box"
        assert checks(result) == {"black box", "no gradient"}


def test_a_team_with_a_gradient_is_not_suspected():
    result = found({"it": plain})
    assert result.table.mean("it", "worst") == 0.0
    assert result.table.mean("it", "PGD-10") == 0.0
    assert checks(result) == set()
    assert result.measured["it"]["none"].flipped == 0.0
    assert result.measured["it"]["PGD-10"].flipped == 1.0
    assert result.measured["it"]["noise"].changed == 1.0


def test_a_ball_too_small_is_said_to_be():
    result = found({"it": plain}, LinfBall(epsilon=0.1))
    assert checks(result) == {"no flips"}
    assert result.table.mean("it", "worst") == 4.0


def test_warnings_are_the_findings():
    with pytest.warns(
        RobustnessWarning, match="no attack changed more than 0.000 of the actions that it could"
    ):
        worst_case({"it": plain}, game, LinfBall(epsilon=0.1), suite="quick", **SMALL)


def test_a_team_that_does_not_look_is_found_out():
    """It plays 0 and is right half of the time, as a random one of two agents is not."""
    result = found({"it": deaf}, make=partial(game, 2))
    assert {"blind", "ignores", "no flips"} <= checks(result)
    assert result.table.mean("it, zeroed", "none") == result.table.mean("it", "none")


def test_the_worst_is_one_attack_chosen_on_other_episodes():
    """Of attacks that are alike the lowest of many means would be too low; the choice's is not."""
    noise = {f"noise {i}": UniformNoise(ball=BALL) for i in range(4)}
    entry = Entry(family="noise", build=lambda case: {n: case.on(a) for n, a in noise.items()})
    result = found(
        {"it": {3: plain, 4: plain}}, suite=Suite(name="own", version=1, entries=(entry,))
    )
    table, choices = result.table, result.choices
    for seed in (3, 4):
        name = result.chosen["it"][seed]
        means = {n: choices.cell("it", n).scores[seed].mean() for n in noise}
        assert means[name] == min(means.values())
        np.testing.assert_array_equal(
            table.cell("it", "worst").scores[seed], table.cell("it", name).scores[seed]
        )
    shared = rollout(plain, game, episodes=10, perturb=noise["noise 0"])
    np.testing.assert_array_equal(table.cell("it", "noise 0").scores[3], shared.returns)
    assert len(choices.cell("it", "noise 0").scores[3]) == 4
    assert not np.array_equal(choices.cell("it", "noise 0").scores[3], shared.returns[:4])


@pytest.fixture(scope="module")
def learned():
    teams = {s: QMIX.for_env(game(), hidden=(16,), embed=4, seed=s) for s in (0, 1)}
    return teams, found({"QMIX": teams}, suite=standard(learning_steps=64))


def test_standard_has_all_families(learned):
    _, result = learned
    families = {"noise", "gradient", "targeted", "black box", "learned", "transfer"}
    assert set(result.families.values()) == families
    assert result.suite == "standard/64-2"
    assert result.table.baselines == ("random", "QMIX, zeroed", "QMIX, another's", "untrained")
    for name in ("director", "ATLA", "transfer", "target 1", "APGD dlr, 60 steps"):
        assert set(result.table.cell("QMIX", name).scores) == {0, 1}
        assert result.measured["QMIX"][name].seconds > 0.0
    assert result.longer == ("APGD dlr, 60 steps",)


def test_the_teams_are_left_as_they_were_and_figures_repeat(learned):
    teams, result = learned
    fresh = {s: QMIX.for_env(game(), hidden=(16,), embed=4, seed=s) for s in (0, 1)}
    for seed, team in fresh.items():
        for name, values in team.policy.state_dict().items():
            assert torch.equal(values, teams[seed].policy.state_dict()[name])
    few = [e for e in standard(learning_steps=64).entries if e.family in ("noise", "learned")]
    suite = Suite(name="few", version=1, entries=tuple(few))
    again = found({"QMIX": fresh}, suite=suite, num_envs=4)
    for name, cell in again.table.cells["QMIX"].items():
        assert name == "worst" or cell == result.table.cell("QMIX", name)


def test_the_worst_attacks_themselves_can_be_played_again(learned):
    """As deployed, those that learned, too; with the same figures on the episodes reported."""
    teams, result = learned
    assert {*result.attacks["QMIX"]} == {0, 1}
    for seed, attack in result.attacks["QMIX"].items():
        again = rollout(teams[seed], game, episodes=SMALL["episodes"], perturb=attack)
        scores = result.table.cell("QMIX", "worst").scores[seed]
        assert again.returns.tolist() == scores.tolist()
    assert WorstCase.from_json(result.to_json()).attacks == {}


def test_it_is_written_and_read(learned, tmp_path):
    _, result = learned
    result.to_json(tmp_path / "worst.json")
    assert WorstCase.from_json(tmp_path / "worst.json") == result
    assert WorstCase.from_json(result.to_json()) == result
    for text in (str(result), result.to_markdown()):
        assert all(name in text for name in (*result.families, "worst", "QMIX, zeroed"))
    assert result.summary().attacks == ("none", "noise", "worst")


def test_what_does_not_apply_is_left_out():
    """A script answers no attack's questions: noise is left, and what was learned on another."""
    script = ScriptedController(spec_of(game()), lambda context: context.seen.argmax(-1))
    result = found({"script": script, "net": plain}, suite=standard(learning_steps=64))
    assert set(result.table.cells["script"]) == {"none", "noise", "transfer", "worst"}
    assert result.chosen["script"] == {0: "transfer"}
    assert result.table.mean("script", "worst") == 0.0
    assert "director" not in result.table.cells["net"]


def test_attacks_are_transferred_from_a_source():
    transfer = standard().entries[-1]
    script = ScriptedController(spec_of(game()), lambda context: context.seen.argmax(-1))
    suite = Suite(name="transfer", version=1, entries=(transfer,))
    result = found({"it": script}, suite=suite, sources=[plain])
    assert result.chosen["it"] == {0: "transfer"}
    assert result.table.mean("it", "worst") == 0.0


def test_one_team_of_two_is_attacked():
    """Also by what learns against it, on two of its agents and beside the other team."""

    def two():
        return armies(2)

    spec = spec_of(two())
    blue, red = (IPPO.for_env(spec, team=name, hidden=(8,)) for name in ("blue", "red"))
    few = [e for e in standard(learning_steps=40).entries if e.family in ("noise", "learned")]
    result = found(
        {"IPPO": blue},
        make=two,
        suite=Suite(name="few", version=1, entries=tuple(few)),
        team="blue",
        opponents={"red": red},
        agents=1,
    )
    assert set(result.families) == {"noise", "director", "ATLA"}
    assert result.attacked["IPPO"][0] in {("a2",), ("a3",)}
    noise, atla = (result.measured["IPPO"][name].changed for name in ("noise", "ATLA"))
    assert noise == atla == 0.5


def test_suites_extend():
    mine = Entry(family="noise", build=lambda case: {"mine": case.on(UniformNoise(ball=case.ball))})
    suite = quick().extended(mine, name="quick and mine")
    assert suite.title == "quick and mine-1"
    assert suite.entries[-1] is mine
    assert len(suite.entries) == len(quick().entries) + 1
    with pytest.raises(ValueError, match=r"Suite\.extended\.name must be a new name"):
        quick().extended(mine, name="quick")
    two = Suite(name="two", version=1, entries=(mine, replace(mine, family="gradient")))
    with pytest.raises(ValueError, match=r"Entry\.build must be of one family, noise"):
        found({"it": plain}, suite=two)


def test_what_cannot_be_trained_on_is_named():
    spec = spec_of(game())
    case = Case(policy=RandomController(spec), spec=spec, make_env=game, ball=BALL)
    adversary = ObsAdversaryPPO.for_env(spec, BALL, hidden=(8,))
    with pytest.raises(TypeError, match=r"AdversarialTraining\.team must be a robustmarl algori"):
        case.trained(adversary, 40)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"worst_case\.suite must be one of \['standard'"):
        worst_case({"it": plain}, game, BALL, suite="auto")
    with pytest.raises(TypeError, match=r"worst_case\.ball must be a LinfBall, got 0\.6"):
        worst_case({"it": plain}, game, 0.6)
    with pytest.raises(ValueError, match=r"worst_case\.ball must be larger than nothing"):
        worst_case({"it": plain}, game, LinfBall(epsilon=0.0))
    with pytest.raises(TypeError, match=r"worst_case\.sources must be a sequence of teams"):
        worst_case({"it": plain}, game, BALL, sources=plain, **SMALL)
    with pytest.raises(TypeError, match=r"worst_case\.victims must be a mapping from names"):
        worst_case(plain, game, BALL)
    with pytest.raises(ValueError, match=r"worst_case\.choice_episodes must be an int >= 1"):
        worst_case({"it": plain}, game, BALL, choice_episodes=0)


def test_the_worst_agents_are_found():
    """Agent 0 is told the signal otherwise: what agents 1 and 2 see is worth attacking."""

    def half_deaf(context):
        truth, act = context.state.argmax(-1), context.seen.argmax(-1)
        return torch.cat([truth[:, None], act[:, 1:]], dim=-1)

    script = ScriptedController(spec_of(game(3)), half_deaf)
    one_or_two, both = {("agent_1",), ("agent_2",)}, {("agent_1", "agent_2")}
    for count, attacked in ((1, one_or_two), (2, both)):
        result = found(
            {"it": script},
            LinfBall(epsilon=9.0),
            agents=count,
            make=partial(game, 3),
            choice_episodes=20,
        )
        assert result.attacked["it"][0] in attacked
        assert result.table.mean("it", "worst") < 4.0
        assert f"the worst {count} of 3 agents at every step" in result.threat


@pytest.mark.parametrize(("count", "tried"), [(1, 8), (3, 8 + 7 + 6), (7, 8)])
def test_many_subsets_are_searched_one_agent_after_the_other(count, tried):
    """Of 8 agents the last ones matter most; 8 subsets of 1 or 7 agents are tried all."""
    spec = spec_of(SignalMatching(agents=8))
    case = Case(policy=RandomController(spec), spec=spec, make_env=game, ball=BALL)
    asked = []

    def score(attack):
        asked.append(attack.agents)
        return -sum(spec.agents.index(name) for name in attack.agents)

    assert worst_agents(case, count, score) == spec.agents[8 - count :]
    assert len(asked) == tried


def test_a_budget_of_steps():
    """The team is sure of itself in proportion to the signal: two steps of four are turned."""
    result = found({"it": plain}, steps=2)
    assert result.table.mean("it", "worst") == 2.0
    assert result.measured["it"]["PGD-10"].changed == 0.5
    assert "all agents at 2 steps of an episode" in result.threat


def test_continuous_teams():
    """Means are pushed from where they are, and to both ends; there are no actions to name."""

    def make():
        return Scripted(2, continuous=True, lengths=(3,), obs_sizes=(3, 3), action_sizes=(3, 3))

    result = found({"it": torch.nn.Tanh()}, make=make, suite=standard())
    names = {"noise", "APGD mse", "APGD mse, 60 steps", "target low", "target high"}
    assert set(result.families) == names | {"random search", "square search"}
    assert result.measured["it"]["target low"].flipped > 0.5
    assert result.measured["it"]["none"].vanished == 0.0
    low, high = (result.table.mean("it", f"target {end}") for end in ("low", "high"))
    assert low < result.table.mean("it", "none") < high


def judged(clean=1.0, vanished=0.0, flipped=0.5, zeroed=0.0, seen=0.5, episodes=100, **left):
    """Return the findings on a team of which attacks left these shares of its episodes."""

    def cell(share):
        won = round(episodes * share)
        return Cell({0: [1.0] * won + [0.0] * (episodes - won)})

    families = {
        "noise": "noise",
        "short": "gradient",
        "long": "gradient",
        "search": "black box",
        "director": "learned",
    }
    scores = {name: cell(left.get(name, clean)) for name in ("none", *families, "worst")}
    cells = {
        "random": {"none": cell(0.0)},
        "it, zeroed": {"none": cell(zeroed)},
        "it, another's": {"none": cell(0.1)},
        "it": scores,
    }
    measured = {name: Measured(changed=1.0, flipped=flipped) for name in families}
    measured["none"] = Measured(changed=0.0, flipped=0.0, vanished=vanished)
    measured["zeroed"] = Measured(changed=1.0, flipped=seen)
    result = WorstCase(
        suite="own-1",
        threat="",
        table=CrossTable(cells=cells, baselines=[*cells][:3]),
        choices=CrossTable(cells={"it": scores}),
        chosen={"it": {0: "short"}},
        families=families,
        measured={"it": measured},
        longer=("long",),
    )
    return [finding.check for finding in findings_of(result)]


@pytest.mark.parametrize(
    ("figures", "doubts"),
    [
        ({}, []),
        ({"short": 0.2, "long": 0.2, "search": 0.3, "noise": 0.8}, []),
        ({"flipped": 0.005}, ["no flips"]),
        ({"vanished": 0.9, "short": 0.1, "long": 0.1}, ["no gradient"]),
        ({"vanished": None}, ["no gradient"]),
        ({"short": 0.9, "long": 0.9, "search": 0.4}, ["black box"]),
        ({"short": 0.9, "long": 0.9, "search": 0.4, "director": 0.1}, ["black box"]),
        ({"short": 0.4, "long": 0.4, "search": 0.5, "director": 0.9}, []),
        ({"short": 0.5, "long": 0.5, "search": 0.49}, []),  # not beyond chance
        ({"noise": 0.6, "short": 0.6, "long": 0.6}, ["noise"]),
        ({"noise": 0.6, "short": 0.2, "long": 0.2}, []),
        ({"short": 0.5, "long": 0.2}, ["steps"]),
        ({"seen": 0.001}, ["ignores"]),
        ({"zeroed": 0.6}, ["blind"]),
        ({"zeroed": 0.6, "worst": 0.05}, []),  # it withstands nothing
        ({"clean": 0.0, "zeroed": 0.0}, ["unlearned"]),  # nothing to keep
        ({"clean": 0.5, "short": 0.2, "search": 0.8}, ["helps"]),
        ({"clean": 0.5, "search": 0.52}, []),  # not beyond chance
    ],
)
def test_findings(figures, doubts):
    assert judged(**figures) == doubts


def test_nothing_is_beyond_chance_in_few_episodes():
    """One episode has no spread, and that of two which happen to agree is no spread either."""
    for episodes in (1, 2, 4):
        assert judged(short=0.0, long=0.0, noise=0.0, search=0.0, episodes=episodes) == []
        assert judged(short=1.0, long=1.0, search=0.0, episodes=episodes) == []
    assert judged(short=1.0, long=1.0, search=0.0, episodes=10) == ["black box"]


def test_attacks_are_transferred_from_a_team_with_a_gradient():
    """The first other team answers without one; that of the second is zero, of the third not."""

    def blank(obs):
        return quantised(obs).detach()

    teams = {"it": plain, "blank": blank, "flat": quantised, "third": plain}
    suite = Suite(name="own", version=1, entries=standard().entries[-1:])
    assert suite.entries[0].family == "transfer"
    result = found(teams, suite=suite)
    assert result.table.mean("it", "transfer") == 0.0
    assert result.table.mean("third", "transfer") == 0.0


def test_a_suite_without_an_attack_for_a_team_is_refused():
    suite = Suite(name="own", version=1, entries=quick().entries[1:2])  # gradients alone
    match = r"worst_case\.suite must be a suite with an attack that applies to 'it', training"
    with pytest.raises(ValueError, match=match):
        found({"it": lambda obs: quantised(obs).detach()}, suite=suite)


def test_errors_of_what_is_handed_on_name_the_worst_case():
    with pytest.raises(ValueError, match=r"worst_case\.opponents must be a controller for each"):
        found({"it": plain}, make=lambda: armies(1), team="red")
