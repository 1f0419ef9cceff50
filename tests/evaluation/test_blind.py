"""A team trained blind gets what needs no eyes: chance, or everything where the mask tells."""

import warnings

import numpy as np
import pytest
import torch
from doubles import armies
from gymnasium.spaces import Box, Dict, Discrete
from tianshou.algorithm.optim import TorchOptimizerFactory

from robustmarl.adversaries import ObsAdversaryPPO
from robustmarl.algorithms import IPPO, MAPPO
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.data import ScriptedController
from robustmarl.envs import SignalMatching
from robustmarl.evaluation import (
    Cell,
    CrossTable,
    Suite,
    crossplay,
    quick,
    rollout,
    sweep,
    train_blind,
    worst_case,
)
from robustmarl.evaluation.blind import kept_blind
from robustmarl.joint import spec_of
from robustmarl.perturbers import ByzantinePerturber, TypeDistribution, ZeroedObs
from robustmarl.training import AdversarialTraining, Log, OnPolicy
from robustmarl.typing import RobustnessWarning

BALL = LinfBall(epsilon=0.6)  # enough to turn the signal round
QUIET = Log(progress=False)
SMALL = {"episodes": 20, "num_envs": 20}


class TellingMask(SignalMatching):
    """The signal's action may be played, or a third one, which earns nothing."""

    def __init__(self):
        super().__init__()
        self._action_sizes = (3, 3)
        self.action_spaces = {agent: Discrete(3) for agent in self.possible_agents}
        both = {
            "observation": Box(0.0, 1.0, (2,), np.float32),
            "action_mask": Box(0, 1, (3,), np.int8),
        }
        self.observation_spaces = {agent: Dict(both) for agent in self.possible_agents}

    def _observe(self):
        mask = np.array([self.context == 0, self.context == 1, True], np.int8)
        seen = super()._observe()
        return {agent: {"observation": obs, "action_mask": mask} for agent, obs in seen.items()}


def mappo(make, seed=0):
    optim = TorchOptimizerFactory(torch.optim.Adam, lr=1e-2)
    sizes = {"hidden": (16,), "critic_hidden": (16,)}
    return MAPPO.for_env(make(), **sizes, seed=seed, optim=optim, deterministic_eval=True)


def reader(make):
    """Return a team that acts as the signal says."""
    return ScriptedController(spec_of(make()), lambda context: context.seen.argmax(-1))


def blind_by_seed(make, *seeds):
    kinds = {seed: mappo(make, seed) for seed in seeds}
    return train_blind(kinds, make, env_steps=1_000, learn=OnPolicy(epochs=4), log=QUIET)


@pytest.fixture(scope="module")
def of_the_signal():
    return blind_by_seed(SignalMatching, 3, 5)


@pytest.fixture(scope="module")
def of_the_mask():
    return blind_by_seed(TellingMask, 0)


def test_without_eyes_a_signal_is_a_coin(of_the_signal):
    """Both agents learn to play one action, whatever there is to see: half a point a step."""
    spec = spec_of(SignalMatching())
    coins = [
        rollout(
            ScriptedController(spec, lambda c, side=side: torch.full_like(c.last_act, side)),
            SignalMatching,
            **SMALL,
        ).returns
        for side in (0, 1)
    ]
    assert list(of_the_signal) == [3, 5]
    for team in of_the_signal.values():
        played = rollout(team, SignalMatching, perturb=ZeroedObs(), **SMALL).returns
        assert any(np.array_equal(played, coin) for coin in coins)


def test_a_mask_that_tells_is_read_without_eyes(of_the_mask):
    team = of_the_mask[0]
    np.testing.assert_array_equal(
        rollout(team, TellingMask, perturb=ZeroedObs(), **SMALL).returns, 10.0
    )


def test_it_is_a_baseline_that_no_attack_on_observations_reaches(of_the_signal):
    types = TypeDistribution(1.0, choice="fixed", agents=("agent_0", "agent_1"))
    zero = ByzantinePerturber(lambda context, act: torch.zeros_like(act), types=types)
    attacks = {"none": None, "PGD": PGD(ball=BALL), "zero": zero}
    victims = {"reader": lambda obs: 8.0 * obs}
    table = crossplay(victims, attacks, SignalMatching, trained_blind=of_the_signal, **SMALL)
    assert table.victims == ("random", "trained blind", "reader")
    assert table.baselines == ("random", "trained blind")
    assert table.mean("reader", "PGD") == 0.0
    for seed, team in of_the_signal.items():
        want = rollout(team, SignalMatching, perturb=ZeroedObs(), **SMALL).returns
        for attack in ("none", "PGD"):
            np.testing.assert_array_equal(table.cell("trained blind", attack).scores[seed], want)
        zeros = table.cell("random", "zero").scores[
            0
        ]  # what changes actions reaches the blind, too
        np.testing.assert_array_equal(table.cell("trained blind", "zero").scores[seed], zeros)


def test_a_team_is_warned_of_if_the_task_needs_no_eyes(of_the_mask, of_the_signal):
    """It uses its own, and is lost without them, so that the blindfolded rows say nothing."""
    for make, blind, doubted in (
        (TellingMask, of_the_mask, True),
        (SignalMatching, of_the_signal, False),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            crossplay(
                {"reader": reader(make)},
                {"none": None},
                make,
                blind=make is SignalMatching,  # zeros play an action that the other mask forbids
                trained_blind=blind,
                **SMALL,
            )
        told = [str(one.message) for one in caught if "hardly needs" in str(one.message)]
        assert len(told) == doubted
        if doubted:
            assert told[0].startswith("reader: a team trained blind has return 10.00, itself 10.00")
            assert "the task hardly needs what is attacked" in told[0]


@pytest.mark.parametrize(
    ("clean", "zeroed", "untrained", "doubted"),
    [
        (10.0, 6.0, None, True),
        (10.0, 4.0, None, False),
        (10.0, 6.0, 1.0, True),
        (10.0, 6.0, 6.5, False),  # eyes are what training added
        (10.0, 9.5, 9.2, True),  # to an untrained team hardly anything was added
        (10.0, 9.5, 11.0, True),
        (10.0, 9.4, 8.9, True),  # nearly all is kept
        (10.0, 8.3, 6.5, True),
        (10.0, 8.2, 6.5, False),
    ],
)
def test_eyes_are_missed_if_without_them_a_team_is_no_better_than_untrained(
    clean, zeroed, untrained, doubted
):
    """A random team earns 0."""
    rows = {"it": clean, "it, zeroed": zeroed, "random": 0.0, "untrained": untrained}
    cells = {
        name: {"none": Cell({0: [mean, mean]})} for name, mean in rows.items() if mean is not None
    }
    told = list(kept_blind(CrossTable(cells=cells, metric="return"), "it", "none"))
    assert len(told) == doubted
    if doubted and untrained is not None:
        assert f"(random 0.00, untrained {untrained:.2f})" in told[0]


def test_the_worst_case_has_it_among_its_findings(of_the_mask):
    """Blindfolded the team itself plays what earns nothing: those rows would not tell."""

    def victim(obs):
        return torch.cat([obs, torch.full_like(obs[:, :1], 0.5)], dim=-1)

    noise = Suite(name="noise", version=1, entries=quick().entries[:1])
    with pytest.warns(RobustnessWarning, match="it: a team trained blind has return 10.00, itself"):
        result = worst_case(
            {"it": victim},
            TellingMask,
            BALL,
            suite=noise,
            trained_blind=of_the_mask,
            episodes=10,
            choice_episodes=5,
        )
    assert [finding.check for finding in result.findings] == ["blind"]
    assert set(result.table.cells["trained blind"]) == {"none"}
    assert "trained blind" in result.table.baselines


def test_settings_are_borrowed_and_weights_are_not(tmp_path):
    def weights(team):
        return torch.cat([weight.detach().flatten() for weight in team.policy.parameters()])

    kind = mappo(SignalMatching)
    before = weights(kind)
    log = Log(tmp_path, progress=False)
    found = train_blind(kind, SignalMatching, env_steps=200, log=log)
    again = train_blind([kind], SignalMatching, env_steps=200, log=QUIET)
    assert (tmp_path / "0" / "history.json").exists()
    assert torch.equal(weights(kind), before)
    assert torch.equal(weights(found[0]), weights(again[0]))
    assert not torch.equal(weights(found[0]), before)


def test_one_team_of_two_is_blind():
    def two():
        return armies(2)

    blue, red = (IPPO.for_env(two(), team=name, hidden=(8,)) for name in ("blue", "red"))
    settings = {"team": "blue", "opponents": {"red": red}}
    blind = train_blind(blue, two, env_steps=40, num_envs=2, log=QUIET, **settings)
    settings |= {"baselines": False, "trained_blind": blind}
    table = crossplay({"blue": blue}, {"none": None}, two, **SMALL, **settings)
    assert table.victims == ("trained blind", "blue")


def test_rejects():
    team = mappo(SignalMatching)
    pair = AdversarialTraining(team, ObsAdversaryPPO.for_env(SignalMatching(), BALL, hidden=(8,)))
    for given in (pair, [team, reader(SignalMatching)], 3):
        with pytest.raises(TypeError, match=r"train_blind\.teams must be a TeamAlgorithm, or one"):
            train_blind(given, SignalMatching, env_steps=10)
    with pytest.raises(ValueError, match=r"train_blind\.teams must be at least one algorithm"):
        train_blind([], SignalMatching, env_steps=10)
    with pytest.raises(ValueError, match=r"train_blind\.env_steps must be an int >= 1, got 0"):
        train_blind(team, SignalMatching, env_steps=0)
    with pytest.raises(ValueError, match=r"train_blind\.num_envs must be an int >= 1, got 0"):
        train_blind(team, SignalMatching, env_steps=10, num_envs=0)
    with pytest.raises(TypeError, match=r"train_blind\.log must be Log\(\.\.\.\), or None"):
        train_blind(team, SignalMatching, env_steps=10, log="runs")
    clean = {"none": None}
    with pytest.raises(
        ValueError, match=r"crossplay\.victims must be named unlike 'trained blind'"
    ):
        crossplay({"trained blind": team}, clean, SignalMatching, trained_blind=team, **SMALL)
    with pytest.raises(TypeError, match=r"crossplay\.trained_blind must be a Victim.*got int"):
        crossplay({"it": team}, clean, SignalMatching, trained_blind=3, **SMALL)
    with pytest.raises(ValueError, match=r"worst_case\.trained_blind must be at least one"):
        worst_case({"it": team}, SignalMatching, BALL, trained_blind=[], **SMALL)


@pytest.mark.parametrize("fold", ["zeroed", "another's"])
def test_no_team_is_named_as_another_without_eyes(fold):
    victims = dict.fromkeys(["A", f"A, {fold}"], reader(SignalMatching))
    rule = rf"named unlike the rows of teams without eyes, got \[.A, {fold}.\]\. Rename it"
    with pytest.raises(ValueError, match=rf"crossplay\.victims must be {rule}"):
        crossplay(victims, {"none": None}, SignalMatching, blind=True, **SMALL)
    with pytest.raises(ValueError, match=rf"sweep\.victims must be {rule}"):
        sweep(victims, PGD(ball=BALL), [0.0, 0.1], SignalMatching, blind=True, **SMALL)
    with pytest.raises(ValueError, match=rf"worst_case\.victims must be {rule}"):
        worst_case(victims, SignalMatching, BALL, suite="quick", **SMALL)
    found = crossplay(victims, {"none": None}, SignalMatching, baselines=False, **SMALL)
    assert found.victims == tuple(victims)
