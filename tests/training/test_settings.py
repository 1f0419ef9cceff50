"""What a run is told: good values are kept as plain numbers, bad ones named."""

from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest

from robustmarl.algorithms import VDN
from robustmarl.attacks import PGD, UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.envs import climbing
from robustmarl.perturbers import ObsPerturber
from robustmarl.training import Log, OffPolicy, OnPolicy, Tests, run
from robustmarl.training.settings import listed

BALL = LinfBall(epsilon=0.1)
PGD10, NOISE = PGD(ball=BALL), UniformNoise(ball=BALL)


@pytest.mark.parametrize(
    ("kind", "name", "value", "rule"),
    [
        (OffPolicy, "updates_per_episode", 0.0, "a number > 0"),
        (OffPolicy, "updates_per_episode", "1", "a number > 0"),
        (OffPolicy, "updates_per_episode", float("nan"), "a number > 0"),
        (OffPolicy, "batch_size", 0, "an int >= 1"),
        (OffPolicy, "batch_size", -3, "an int >= 1"),
        (OffPolicy, "batch_size", None, "an int >= 1"),
        (OffPolicy, "episodes_per_round", 0, "an int >= 1"),
        (OffPolicy, "buffer_episodes", 0, "an int >= 1"),
        (OffPolicy, "buffer_bytes", 0, "an int >= 1"),
        (OffPolicy, "buffer_bytes", 1e9, "an int >= 1"),
        (OffPolicy, "learning_starts", 0, "an int >= 1"),
        (OffPolicy, "learning_starts", True, "an int >= 1"),
        (OnPolicy, "epochs", 0, "an int >= 1"),
        (OnPolicy, "epochs", None, "an int >= 1"),
        (OnPolicy, "batch_size", 2.5, "an int >= 1"),
        (OnPolicy, "episodes_per_round", 0, "an int >= 1"),
        (OnPolicy, "steps_per_round", 0, "an int >= 1"),
        (OnPolicy, "segment_length", 0, "an int >= 1"),
        (OnPolicy, "rounds", 0, "an int >= 1"),
        (Tests, "episodes", 0, "an int >= 1"),
        (Log, "bar_position", -1, "an int >= 0"),
        (Log, "logdir", 3, "a path or None"),
        (Log, "resume", 1, "a bool"),
        (Log, "progress", None, "a bool, or the bar's name"),
    ],
)
def test_bad_values_are_named(kind, name, value, rule):
    with pytest.raises(
        (ValueError, TypeError), match=rf"^{kind.__name__}\.{name} must be {rule}, got"
    ):
        kind(**{name: value})


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (OffPolicy, ("batch_size", "episodes_per_round", "buffer_episodes", "buffer_bytes")),
        (OffPolicy, ("learning_starts",)),
        (OnPolicy, ("epochs", "batch_size", "steps_per_round", "rounds")),
        (OnPolicy, ("episodes_per_round",)),
        (OnPolicy, ("segment_length",)),
        (Tests, ("episodes",)),
        (Log, ("bar_position",)),
    ],
)
def test_integers_of_numpy_become_plain(kind, names):
    for number in (np.int64(40), np.uint8(40), np.int32(40)):
        made = kind(**dict.fromkeys(names, number))
        assert made == kind(**dict.fromkeys(names, 40))
        assert all(type(getattr(made, name)) is int for name in names)


def test_numbers_of_numpy_become_plain():
    for number in (np.float32(0.5), np.float64(0.5)):
        assert repr(OffPolicy(updates_per_episode=number)) == repr(
            OffPolicy(updates_per_episode=0.5)
        )
    assert type(OffPolicy(updates_per_episode=2).updates_per_episode) is float


def test_settings_are_values():
    assert OffPolicy(batch_size=8) == replace(OffPolicy(), batch_size=8)
    assert len({OffPolicy(), OffPolicy(), OnPolicy(), Log("a"), Log("a")}) == 3
    for settings in (OffPolicy(), OnPolicy(), Tests(), Log()):
        with pytest.raises(FrozenInstanceError):
            settings.episodes = 3
    with pytest.raises(ValueError, match=r"OnPolicy\.epochs"):
        replace(OnPolicy(), epochs=0)


def test_a_round_is_counted_one_way():
    assert OnPolicy(steps_per_round=12).episodes_per_round is None
    with pytest.raises(ValueError, match=r"OnPolicy\.steps_per_round must be given without episod"):
        OnPolicy(steps_per_round=12, episodes_per_round=3)


def test_a_buffer_that_never_holds_enough_is_refused():
    text = (
        r"OffPolicy\.learning_starts must be at most 5, the episodes that the buffer holds, got 6"
    )
    with pytest.raises(ValueError, match=text):
        OffPolicy(buffer_episodes=5, learning_starts=6)
    OffPolicy(buffer_episodes=5, buffer_bytes=10**9, learning_starts=6)  # bytes count, not these


def test_a_buffer_that_does_not_hold_a_round_is_refused():
    rule = r"OffPolicy\.episodes_per_round must be at most 5, the episodes that the buffer holds, "
    small = {"buffer_episodes": 5, "learning_starts": 2}
    with pytest.raises(ValueError, match=rf"{rule}got 6\.$"):
        OffPolicy(episodes_per_round=6, **small)
    OffPolicy(episodes_per_round=5, **small)
    team = VDN.for_env(climbing(), hidden=(4,))
    with pytest.raises(ValueError, match=rf"{rule}got 6\. It is num_envs where it is left out\."):
        run(team, climbing, env_steps=12, num_envs=6, learn=OffPolicy(**small), log=Log())


def test_tests_are_attacks_by_name():
    perturber = ObsPerturber(PGD10)
    Tests({"none": None, "none too": (), "one": NOISE, "both": [NOISE, perturber]})
    assert list(Tests().attacks) == ["clean"]
    with pytest.raises(TypeError, match=r"Tests\.attacks must be a mapping from names to attacks"):
        Tests([NOISE])
    with pytest.raises(TypeError, match=r"Tests\.attacks must be a mapping from names to attacks"):
        Tests({3: NOISE})
    with pytest.raises(TypeError, match=r"Tests\.attacks\['pgd'\] must be an attack, a perturber"):
        Tests({"pgd": [NOISE, "PGD"]})
    with pytest.raises(TypeError, match=r"must be an attack.* got <class '.*PGD'>"):
        Tests({"pgd": PGD})  # the class, without a ball


def test_one_attack_is_a_list_of_one():
    assert listed("here", None) == listed("here", ()) == []
    assert listed("here", NOISE) == listed("here", (NOISE,)) == [NOISE]
    for wrong in ("PGD", 3, {"pgd": NOISE}):
        with pytest.raises(
            TypeError, match="here must be an attack, a perturber, several of them or"
        ):
            listed("here", wrong)


def test_the_folder_of_a_log(tmp_path):
    assert Log().folder is None
    assert Log("runs/a").folder == Path("runs/a")
    assert Log(tmp_path, resume=True).folder == tmp_path
    with pytest.raises(ValueError, match=r"Log\.logdir must be given to resume, got None"):
        Log(resume=True)
