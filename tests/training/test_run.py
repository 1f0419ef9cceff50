"""A run as a whole: what it leaves behind, and that nothing but its seed decides it."""

import enum
import importlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from doubles import Scripted, armies
from tianshou.algorithm.optim import LRSchedulerFactoryLinear
from tianshou.utils import LazyLogger

from robustmarl.adversaries import ATSA, PAAD, ObsAdversaryPPO
from robustmarl.algorithms import COMA, DOP, FACMAC, IPPO, MADDPG, QMIX
from robustmarl.attacks import PGD, JAttack, UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.data import RandomController
from robustmarl.envs import SignalMatching
from robustmarl.joint import spec_of
from robustmarl.learning.optim import adam
from robustmarl.losses import ActionLoss, ActionLossRegularizer
from robustmarl.perturbers import ActionPoisonPerturber, ObsPerturber, stor
from robustmarl.schedules import Linear
from robustmarl.training import (
    AdversarialTraining,
    Log,
    OffPolicy,
    OnPolicy,
    Tests,
    is_trainable,
    load_checkpoint,
    run,
)
from robustmarl.training.fingerprint import check_same_settings, fingerprint
from robustmarl.training.resume import RunState
from robustmarl.training.trainers import EpisodeTrainer
from robustmarl.typing import RobustnessWarning

module = importlib.import_module("robustmarl.training.run")  # `run` the function hides it

BALL = LinfBall(epsilon=0.25)
ATTACK = PGD(ball=BALL, steps=2)
SETTINGS = {"env_steps": 120, "interval": 30, "num_envs": 3}
QUIET = Log(progress=False)
FALLING = Linear(1e-2, 1e-3, over=60, begin=30, unit="env_steps")


class RobustQMIX(ActionLossRegularizer, QMIX):
    pass


def game():
    return Scripted(lengths=(3, 6), masks="info", metrics=("u",), team_reward="mean")


def train(algorithm, make=game, *, tests=None, logdir=None, resume=False, **more):
    """Run shortly, with settings of the algorithm's kind."""
    off = OffPolicy(learning_starts=4, batch_size=4, buffer_episodes=12)
    on = OnPolicy(batch_size=None if isinstance(algorithm, COMA) else 4)
    return run(
        algorithm,
        make,
        learn=off if algorithm.off_policy else on,
        tests=None if tests is None else Tests(tests, episodes=3),
        log=Log(logdir, resume=resume, progress=False),
        **SETTINGS | more,
    )


def qmix(seed=0, kind=QMIX, width=8, **settings):
    ramp = Linear(1.0, 0.1, over=100, unit="env_steps")
    return kind.for_env(
        game(),
        hidden=(width,),
        embed=4,
        hyper_hidden=4,
        exploration=ramp,
        target_update=5,
        seed=seed,
        **settings,
    )


def ippo(seed=0, **settings):
    return IPPO.for_env(game(), hidden=(8,), seed=seed, **settings)


def adversarial(seed=0, epsilon=0.25, team=ippo):
    ball = LinfBall(epsilon=epsilon)
    adversary = ObsAdversaryPPO.for_env(game(), ball, hidden=(8,), seed=seed, epochs=2)
    return AdversarialTraining(team(seed), adversary)


MAKERS = {
    "qmix": qmix,
    "recurrent qmix": lambda seed=0: qmix(seed, recurrent=True, last_action=True),
    "ippo": ippo,
    "recurrent ippo": lambda seed=0: ippo(seed, recurrent=True, last_action=True),
    "maddpg": lambda seed=0: MADDPG.for_env(game(), hidden=(8,), seed=seed),
    "recurrent facmac": lambda seed=0: FACMAC.for_env(
        game(), hidden=(8,), recurrent=True, last_action=True, seed=seed
    ),
    "loss mixin": lambda seed=0: qmix(
        seed, RobustQMIX, action_loss=ActionLoss(attack=ATTACK, weight=0.5, max_rows=9)
    ),
    "falling rate": lambda seed=0: qmix(seed, optim=adam(FALLING)),
    "falling rates": lambda seed=0: AdversarialTraining(
        qmix(seed, optim=adam(FALLING)),
        PAAD.for_env(game(), stor(BALL), hidden=(8,), optim=adam(FALLING), seed=seed),
    ),
    "adversarial": adversarial,
    "adversarial qmix": lambda seed=0: adversarial(seed, team=qmix),
}


def weights(algorithm):
    return {k: v.clone() for k, v in algorithm.state_dict().items() if isinstance(v, torch.Tensor)}


def assert_equal(a, b, where="", skip=()):
    """Compare nested checkpoints bit for bit."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            if key not in skip:
                assert_equal(a[key], b[key], f"{where}/{key}", skip)
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}/{i}", skip)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b or (a != a and b != b), where


def assert_same_run(one, two):
    """Compare two checkpoints: everything but what lies behind the end of an episode."""
    one, two = load_checkpoint(one / "checkpoint.pt"), load_checkpoint(two / "checkpoint.pt")
    assert_equal(one, two, skip=("data", "resumed"))
    lengths = one["buffer"]["lengths"]
    left, right = one["buffer"]["data"], two["buffer"]["data"]
    assert left.keys() == right.keys()
    for key, values in left.items():
        extra = key in ("obs", "seen", "mask", "state", "alive")
        real = torch.arange(values.shape[1]) < (lengths + extra)[:, None]
        assert torch.equal(values[real], right[key][real]), key


@pytest.mark.parametrize("kind", ["qmix", "ippo"])
def test_a_run_leaves_history_logs_and_checkpoint(kind, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    algorithm = MAKERS[kind]()
    before = weights(algorithm)
    tests = {"clean": [], "noise": [UniformNoise(ball=BALL)], "pgd": [ATTACK]}
    history = train(algorithm, tests=tests, logdir=tmp_path)
    after = weights(algorithm)
    assert any(not torch.equal(before[k], after[k]) for k in before if "network" in k)
    assert history.env_steps[0] == 0
    assert history.env_steps[-1] >= 120
    assert len(history.env_steps) == 5
    assert (np.diff(history.env_steps)[:-1] >= 30).all()
    assert np.isnan(history.train["return"][0])
    assert np.isfinite(history.train["return"][1:]).all()
    assert set(history.tests) == {f"{t}/{f}" for t in tests for f in ("return", "u")}
    steps, values = history.curve("pgd/return")
    assert steps.tolist() == history.env_steps
    assert values.shape == (5,)
    assert history.tests["clean/u"] == history.tests["noise/u"]  # the same episodes
    assert len(set(history.tests["clean/u"])) == 1  # and each time
    assert json.loads((tmp_path / "history.json").read_text())["env_steps"] == history.env_steps
    assert algorithm.policy.counted("env_steps") == history.env_steps[-1]
    assert algorithm.policy.counted("episodes") == history.episodes
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert any("clean/return" in tag for tag in tags)
    assert any("loss" in tag for tag in tags)
    played = events.Scalars("training/means/u")  # of the environment's own figures, by its steps
    assert played
    assert all(0 < event.step <= history.env_steps[-1] for event in played)
    assert not list(tmp_path.glob("*.part"))


def test_without_a_logdir_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    history = train(qmix())
    assert not list(tmp_path.iterdir())
    assert not history.tests
    with pytest.raises(ValueError, match=r"curve\.name must be one of \['return', 'u'\]"):
        history.curve("loss")


def test_a_team_learns_to_read_its_context():
    algorithm = IPPO.for_env(SignalMatching(2), hidden=(16,), optim=adam(5e-3))
    history = run(
        algorithm,
        lambda: SignalMatching(2),
        env_steps=4000,
        interval=4000,
        learn=OnPolicy(episodes_per_round=10),
        tests={"clean": None},
        log=QUIET,
    )
    first, last = history.tests["clean/return"]
    assert first < 4.5  # chance is 2.5
    assert last > 8.0


@pytest.mark.parametrize("kind", ["qmix", "ippo", "adversarial"])
def test_only_the_seed_decides(kind):
    states = []
    for seed, world in ((1, 0), (1, 7), (2, 0)):
        torch.manual_seed(world)  # global generators have no say
        np.random.seed(world)  # noqa: NPY002
        algorithm = MAKERS[kind]()
        train(algorithm, seed=seed)
        states.append(weights(algorithm))
    assert_equal(states[0], states[1])
    assert any(not torch.equal(states[0][k], states[2][k]) for k in states[0])


@pytest.mark.parametrize("kind", ["qmix", "recurrent ippo", "loss mixin", "adversarial"])
def test_testing_does_not_change_training(kind):
    plain, tested = MAKERS[kind](), MAKERS[kind]()
    one = train(plain)
    noise = UniformNoise(ball=BALL)
    two = train(tested, tests={"clean": [], "both": [noise, ATTACK]})
    assert_equal(plain.state_dict(), tested.state_dict())
    assert_equal(one.train, two.train)


@pytest.mark.parametrize("kind", ["qmix", "ippo", "recurrent ippo"])
def test_training_against_no_budget_is_plain_training(kind):
    plain, against = MAKERS[kind](), MAKERS[kind]()
    train(plain)
    train(against, perturb=[ATTACK.with_epsilon(0.0)])
    assert_equal(plain.state_dict(), against.state_dict())


@pytest.mark.parametrize("team", [qmix, ippo])
def test_an_adversary_without_budget_leaves_plain_training(team):
    plain, pair = team(), adversarial(epsilon=0.0, team=team)
    train(plain)
    train(pair)
    assert_equal(plain.state_dict(), pair.team.state_dict(), skip=("_optimizers",))


def test_training_against_an_attack_is_different_training():
    plain, against = qmix(), qmix()
    train(plain)
    train(against, perturb=[ATTACK])
    a, b = weights(plain), weights(against)
    assert any(not torch.equal(a[k], b[k]) for k in a)


@contextmanager
def interrupted(monkeypatch):
    """Interrupt what runs within after its second checkpoint."""
    saves, save = [], RunState.save

    def save_twice_and_die(state, folder):
        save(state, folder)
        saves.append(1)
        if len(saves) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunState, "save", save_twice_and_die)
        with pytest.raises(KeyboardInterrupt):
            yield


@pytest.mark.parametrize("kind", MAKERS)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(kind, tmp_path, monkeypatch):
    more = {"perturb": [UniformNoise(ball=BALL)], "tests": {"pgd": [ATTACK]}}
    train(MAKERS[kind](), **more, logdir=tmp_path / "whole")
    with interrupted(monkeypatch):
        train(MAKERS[kind](), **more, logdir=tmp_path / "parts")
    again = MAKERS[kind]()
    with torch.no_grad():
        for parameter in again.parameters():  # all of them are replaced
            parameter.fill_(7.0)
    torch.manual_seed(123)
    history = train(again, **more, logdir=tmp_path / "parts", resume=True)
    assert history.resumed
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("cls", [COMA, DOP])
def test_so_is_a_run_whose_gradients_are_looked_at(cls, tmp_path, monkeypatch):
    """The return attack needs the last gradient of the learner, so checkpoints have it."""

    def start():
        team = cls.for_env(game(), hidden=(8,), critic_hidden=(8,), exploration=0.1)
        agent = team.spec.agents[0]
        return team, [ActionPoisonPerturber(JAttack(), learner=team, agent=agent, kl_budget=1.0)]

    team, poison = start()
    train(team, perturb=poison, logdir=tmp_path / "whole")
    team, poison = start()
    with interrupted(monkeypatch):
        train(team, perturb=poison, logdir=tmp_path / "parts")
    team, poison = start()
    train(team, perturb=poison, logdir=tmp_path / "parts", resume=True)
    assert poison[0].counters()["kl"] > 0.0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_finished_run_is_returned_when_resumed(tmp_path):
    one = train(qmix(), logdir=tmp_path)
    algorithm = qmix(seed=3)
    two = train(algorithm, logdir=tmp_path, resume=True)
    assert one.env_steps == two.env_steps
    saved = load_checkpoint(tmp_path / "checkpoint.pt")["algorithm"]
    assert_equal(weights(algorithm), {k: saved[k] for k in weights(algorithm)})
    longer = train(algorithm, env_steps=150, logdir=tmp_path, resume=True)
    assert longer.env_steps[: len(one.env_steps)] == one.env_steps
    assert longer.env_steps[-1] >= 150


def test_tests_may_change_when_a_run_is_resumed(tmp_path):
    train(qmix(), tests={"old": []}, logdir=tmp_path)
    more = {"env_steps": 180, "logdir": tmp_path, "resume": True}
    history = train(qmix(), **more, tests={"new": [ATTACK]})
    assert all(len(v) == len(history.env_steps) for v in history.tests.values())
    assert history.curve("old/return")[0].max() < 150 < history.curve("new/return")[0].min()


def test_resuming_where_nothing_is_begins(tmp_path):
    history = train(qmix(), logdir=tmp_path / "new", resume=True)
    assert not history.resumed


CHILD = """
import sys
from test_run import MAKERS, game, train

def blocking():
    env, reset = game(), None
    reset = env.reset
    def counted(seed=None, options=None):
        blocking.resets += 1
        if blocking.resets == 25:
            print("in the middle", flush=True)
            sys.stdin.read()
        return reset(seed=seed, options=options)
    env.reset = counted
    return env

blocking.resets = 0
train(MAKERS["qmix"](), blocking, logdir=sys.argv[1])
"""


def test_a_killed_process_is_continued_with_the_same_result(tmp_path):
    here = Path(__file__).parent
    paths = [str(here), str(here.parent), str(here.parent.parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "parts")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    with child:
        assert child.stdout.readline().strip() == b"in the middle"
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    steps = load_checkpoint(tmp_path / "parts" / "checkpoint.pt")["history"]["env_steps"]
    assert 0 < steps[-1] < 120
    train(qmix(seed=9), logdir=tmp_path / "parts", resume=True)
    train(qmix(), logdir=tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_settings_that_differ_are_named(tmp_path):
    train(qmix(), logdir=tmp_path)
    more = {"logdir": tmp_path, "resume": True}

    def refused(algorithm, *names, **settings):
        with pytest.raises(ValueError, match=r"with the settings of the run to resume") as error:
            train(algorithm, **more, **settings)
        assert re.findall(r"([\w.\[\]]+)=\S+ \(was", str(error.value)) == list(names)
        assert "Give it the former ones, or another logdir." in str(error.value)

    refused(qmix(), "seed", seed=7)
    refused(qmix(), "num_envs", num_envs=4)
    refused(qmix(gamma=0.5, optim=adam(0.1)), "algorithm.optim.lr", "algorithm.gamma")
    more["env_steps"] = 200
    noise = UniformNoise(ball=BALL)
    with pytest.raises(ValueError, match=r"perturb='UniformNoise' \(was None\)"):
        train(qmix(), perturb=noise, **more)
    with pytest.raises(ValueError, match=r"schedules='LambdaLR' \(was None\)"):
        train(qmix(optim=linear(5e-4)), **more)


def test_a_learning_rate_over_time_is_a_setting(tmp_path):
    train(qmix(optim=adam(FALLING)), logdir=tmp_path)
    later = Linear(1e-2, 1e-3, over=60, begin=40, unit="env_steps")
    for other in (later, 1e-2):
        with pytest.raises(ValueError, match=r"schedules"):
            train(qmix(optim=adam(other)), logdir=tmp_path, resume=True)


def test_how_an_adversary_plays_is_a_setting_also_of_one_made_by_its_class(tmp_path):
    def of(episodes):
        made = PAAD.for_env(game(), stor(BALL), hidden=(8,), seed=0)
        adversary = PAAD(made.director, stor(BALL), made.mixer, episodes=episodes)
        return AdversarialTraining(qmix(), adversary)

    train(of(0.5), logdir=tmp_path)
    with pytest.raises(ValueError, match=r"plays\.episodes=0\.25 \(was 0\.5\)"):
        train(of(0.25), logdir=tmp_path, resume=True)
    settings = fingerprint(plays=of(0.5).perturbers(), seed=0)
    check_same_settings({"seed": 0}, settings)  # of an older run


def test_a_temperature_over_time_is_a_setting_its_present_value_is_none():
    def of(over):
        alpha = Linear(0.5, 0.05, over=over, unit="env_steps")
        return ATSA.for_env(game(), stor(BALL), hidden=(8,), seed=0, alpha=alpha)

    one, other, before = of(100), of(500), of(100)
    one.director.count("env_steps", 50)
    check_same_settings(fingerprint(algorithm=before), fingerprint(algorithm=one))
    with pytest.raises(ValueError, match=r"algorithm\.alpha\.over=500 \(was 100\)"):
        check_same_settings(fingerprint(algorithm=before), fingerprint(algorithm=other))
    noted = {k: v for k, v in fingerprint(algorithm=before).items() if ".alpha" not in k}
    check_same_settings(noted | {"algorithm.alpha": 0.5}, fingerprint(algorithm=other))


def test_loss_terms_are_settings():
    def of(weight):
        return qmix(kind=RobustQMIX, action_loss=ActionLoss(attack=ATTACK, weight=weight))

    a, b = fingerprint(algorithm=of(0.5)), fingerprint(algorithm=of(0.25))
    assert [name.rpartition(".")[2] for name in a if a[name] != b[name]] == ["value"]


@pytest.mark.parametrize(
    "given",
    [{"width": 9}, {"recurrent": True}, {"max_grad_norm": 1.0}],
    ids=lambda g: next(iter(g)),
)
def test_what_networks_were_made_with_is_a_setting(given):
    plain, other = fingerprint(algorithm=qmix()), fingerprint(algorithm=qmix(**given))
    assert plain != other


def test_runs_that_did_not_note_it_go_on():
    now = fingerprint(algorithm=qmix())
    new = [name for name in now if ".made." in name or name.endswith("max_grad_norm")]
    assert new
    before = {name: value for name, value in now.items() if name not in new}
    check_same_settings(before, now)
    with pytest.raises(ValueError, match=r"got algorithm\.gamma=0\.5 \(was 0\.99\)"):
        check_same_settings(before, fingerprint(algorithm=qmix(gamma=0.5)))


def test_of_a_composition_each_part_says_so():
    def of(width):
        team = qmix(width=width)
        return AdversarialTraining(team, PAAD.for_env(game(), stor(BALL), hidden=(width,)))

    a, b = fingerprint(algorithm=of(8)), fingerprint(algorithm=of(9))
    changed = {name for name in {*a, *b} if a.get(name) != b.get(name)}
    assert "algorithm.team.made.hidden" in changed
    assert any(name.startswith("algorithm.adversaries") for name in changed)


class Colour(enum.IntEnum):
    RED = 1


class Odd:
    """Settings of many kinds; one that is not there yet, and one that refers to its owner."""

    def __init__(self, colour, lr, late, owner, weights, maker, plain=None):
        self.colour, self.lr, self.owner, self.weights = colour, lr, self, weights
        self.maker, self.plain = maker, plain

    @property
    def late(self):
        raise RuntimeError("not bound yet")


def test_settings_are_plain_data():
    odd = Odd(Colour.RED, np.float32(0.5), 0, 0, torch.ones(3), game, plain=(1, "a"))
    found = fingerprint(odd=odd)
    assert found == {
        "odd": "Odd",
        "odd.colour": "1",
        "odd.lr": 0.5,
        "odd.weights": "Tensor",
        "odd.maker": "game",
        "odd.plain[0]": 1,
        "odd.plain[1]": "a",
    }
    assert {type(value) for value in found.values()} == {str, float, int}


def linear(lr):
    """Return Adam with Tianshou's schedule, whose learning rates are numpy's."""
    schedule = LRSchedulerFactoryLinear(
        max_epochs=10, epoch_num_steps=100, collection_step_num_env_steps=10
    )
    return adam(lr).with_lr_scheduler_factory(schedule)


@pytest.mark.parametrize("optim", [lambda: linear(1e-3), lambda: adam(np.logspace(-4, -2, 3)[1])])
def test_numbers_of_numpy_in_optimizers_are_written_as_plain_ones(optim, tmp_path, monkeypatch):
    train(ippo(optim=optim()), logdir=tmp_path / "whole")
    with interrupted(monkeypatch):
        train(ippo(optim=optim()), logdir=tmp_path / "parts")
    again = ippo(optim=optim())
    history = train(again, logdir=tmp_path / "parts", resume=True)
    assert history.resumed
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_good_checkpoint_is_never_replaced_by_broken_weights(tmp_path):
    train(qmix(), logdir=tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    broken, save = qmix(), RunState.save

    def diverged(state, folder):
        next(broken.mixer.parameters()).data.fill_(math.inf)
        save(state, folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunState, "save", diverged)
        with pytest.raises(ValueError, match=r"finite weights, got .* in 'mixer.*lower the learn"):
            train(broken, env_steps=150, logdir=tmp_path, resume=True)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert train(qmix(), env_steps=150, logdir=tmp_path, resume=True).env_steps[-1] >= 150


def test_an_interrupted_run_says_how_to_go_on(tmp_path, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(EpisodeTrainer, "run_interval", stop)
        with pytest.raises(KeyboardInterrupt, match=r"nothing was kept. Log\(logdir\) keeps"):
            train(qmix())
        with pytest.raises(KeyboardInterrupt, match="before the first checkpoint"):
            train(qmix(), logdir=tmp_path)
    train(qmix(), logdir=tmp_path)
    monkeypatch.setattr(EpisodeTrainer, "run_interval", stop)
    rule = r"go on from .*checkpoint\.pt, pass log=Log\('.*', resume=True\)\.$"
    with pytest.raises(KeyboardInterrupt, match=rule) as caught:
        train(qmix(), env_steps=150, logdir=tmp_path, resume=True)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.lock"))
    load_checkpoint(tmp_path / "checkpoint.pt")


def test_a_callback_sees_the_history_and_may_stop_the_run(tmp_path):
    seen = []

    def second(history):
        assert load_checkpoint(tmp_path / "checkpoint.pt")["history"]["env_steps"][1:]
        seen.append(list(history.env_steps))
        return np.bool_(len(seen) == 2)

    history = train(qmix(), logdir=tmp_path, callback=second)
    assert [len(steps) for steps in seen] == [2, 3]
    assert history.env_steps == seen[-1]
    train(qmix(), logdir=tmp_path, resume=True, callback=lambda history: None)
    train(qmix(), logdir=tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path)
    with pytest.raises(TypeError, match=r"run\.callback must be a function of the history, got 3"):
        train(qmix(), callback=3)


class Kept(LazyLogger):
    """Keeps what it is told."""

    def __init__(self):
        super().__init__()
        self.told, self.update_interval, self.training_interval = [], 1, 1

    def write(self, step_type, step, data):
        self.told.append((step_type, step, data))

    def finalize(self):
        raise AssertionError("it is its owner's to close")


@pytest.mark.parametrize("kind", ["qmix", "ippo"])
def test_any_logger_of_tianshous_is_told_all_figures(kind, tmp_path):
    logger = Kept()
    log = Log(tmp_path, progress=False, logger=logger)
    team = MAKERS[kind]()
    learn = OffPolicy(learning_starts=1, batch_size=4) if team.off_policy else None
    history = run(team, game, **SETTINGS, learn=learn, tests={"clean": None}, log=log)
    by_type = {t: [step for u, step, _ in logger.told if u == t] for t, *_ in logger.told}
    assert by_type["test/env_step"] == history.env_steps
    assert by_type["training/env_step"][-1] == history.env_steps[-1]
    assert by_type["update/update_step"] == by_type["training/env_step"]
    assert not list(tmp_path.glob("events*"))
    with pytest.raises(TypeError, match=r"Log\.logger must be a logger of Tianshou's or None"):
        Log(logger="wandb")


def test_the_history_beside_a_checkpoint_is_whole_after_a_resume(tmp_path):
    history = train(qmix(), logdir=tmp_path)
    (tmp_path / "history.json").unlink()  # killed between the two
    train(qmix(), logdir=tmp_path, resume=True)
    assert json.loads((tmp_path / "history.json").read_text())["env_steps"] == history.env_steps


def test_what_is_logged_after_the_checkpoint_is_not_doubled(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.summary.writer import event_file_writer

    # Files of one second are read by their numbers, as text: 10 before 9.
    numbers = event_file_writer.AtomicCounter(1)
    monkeypatch.setattr(event_file_writer, "_global_uid", numbers)
    tests, save, saves = {"clean": None}, RunState.save, []

    def die_before_the_third(state, folder):
        saves.append(1)
        if len(saves) == 3:
            raise KeyboardInterrupt
        save(state, folder)

    with monkeypatch.context() as patch:
        patch.setattr(RunState, "save", die_before_the_third)
        with pytest.raises(KeyboardInterrupt):
            train(qmix(), tests=tests, logdir=tmp_path)
    train(qmix(), tests=tests, logdir=tmp_path, resume=True)
    history = json.loads((tmp_path / "history.json").read_text())
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    for tag in events.Tags()["scalars"]:
        steps = [event.step for event in events.Scalars(tag)]
        assert steps == sorted(set(steps)), tag
        assert max(steps) == history["env_steps"][-1] or tag.startswith("training"), tag
    assert [e.step for e in events.Scalars("test/clean/return")] == history["env_steps"]


def test_another_runs_folder_is_refused(tmp_path):
    train(qmix(), logdir=tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match=r"Log\.logdir must be without a checkpoint.*resume=True"):
        train(qmix(), logdir=tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    train(qmix(), logdir=tmp_path)
    more = {"logdir": tmp_path, "resume": True}
    with pytest.raises(ValueError, match=r"run\.algorithm must be a QMIX to resume.*'IPPO'"):
        train(ippo(), **more)
    with pytest.raises(ValueError, match=r"run\.make_env must be the environment of the run"):
        train(QMIX.for_env(Scripted(3)), lambda: Scripted(3), **more)
    with pytest.raises(ValueError, match=r"got algorithm\.made\.hidden=9 \(was 8\)"):
        train(qmix(width=9), **more)
    (tmp_path / "checkpoint.pt").write_bytes(b"PK not a checkpoint")
    with pytest.raises(ValueError, match="must be a whole robustmarl checkpoint"):
        train(qmix(), **more)


def test_networks_of_ones_own_must_have_the_same_shape(tmp_path):
    def by_hand(width):
        team = qmix(width=width)
        team.made = None  # as of a team that for_env did not make
        return team

    train(by_hand(8), logdir=tmp_path)
    with pytest.raises(ValueError, match=r"run\.algorithm must have the settings of the run"):
        train(by_hand(9), logdir=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [("env_steps", 0), ("env_steps", 1.5), ("num_envs", 0), ("seed", -1), ("interval", 0)],
)
def test_bad_numbers(name, value):
    with pytest.raises((ValueError, TypeError), match=rf"run\.{name} must be an int >= \d, got"):
        train(qmix(), **{name: value})


def test_numbers_of_numpy_are_numbers():
    one, two = qmix(), qmix()
    early = OffPolicy(learning_starts=4, batch_size=4)
    run(one, game, env_steps=40, num_envs=3, seed=2, interval=20, learn=early, log=QUIET)
    seed, steps = np.uint8(2), np.int64(40)
    run(
        two,
        game,
        env_steps=steps,
        num_envs=np.int32(3),
        seed=seed,
        interval=np.int16(20),
        learn=early,
        log=QUIET,
    )
    assert_equal(weights(one), weights(two))


def test_a_buffer_of_too_few_bytes_is_refused():
    with pytest.raises(
        ValueError, match=r"max_bytes must be >= \d+, one episode of 6 steps, got 10"
    ):
        run(qmix(), game, **SETTINGS, learn=OffPolicy(buffer_bytes=10), log=QUIET)
    with pytest.raises(ValueError, match=r"OffPolicy\.learning_starts must be at most 7, the ep"):
        run(qmix(), game, **SETTINGS, learn=OffPolicy(buffer_bytes=8000), log=QUIET)


def test_bad_kinds():
    with pytest.raises(TypeError, match=r"run\.algorithm must be a robustmarl algorithm, got str"):
        run("QMIX", game, **SETTINGS)
    with pytest.raises(TypeError, match=r"make_env must be a function"):
        run(qmix(), game(), **SETTINGS)
    with pytest.raises(ValueError, match="policy must be made for this environment"):
        run(qmix(), lambda: Scripted(4), **SETTINGS)
    with pytest.raises(TypeError, match=r"run\.perturb must be an attack, a perturber.*got 'PGD'"):
        run(qmix(), game, **SETTINGS, perturb=["PGD"])
    with pytest.raises(TypeError, match=r"run\.log must be Log.*got 'runs'\. Write Log\('runs'\)"):
        run(qmix(), game, **SETTINGS, log="runs")
    with pytest.raises(TypeError, match=r"run\.tests must be Tests.*got \['clean'\]"):
        run(qmix(), game, **SETTINGS, tests=["clean"])


@pytest.mark.parametrize("kind", ["qmix", "ippo", "adversarial", "adversarial qmix"])
def test_settings_of_the_other_kind_are_refused(kind):
    algorithm = MAKERS[kind]()
    off = "qmix" in kind
    right, wrong = (OffPolicy, OnPolicy) if off else (OnPolicy, OffPolicy)
    text = (
        rf"run\.learn must be {right.__name__}\(\.\.\.\) for {type(algorithm).__name__}, which "
        rf"learns {'off' if off else 'on'}-policy, got {wrong.__name__}\(.*batch_size="
    )
    with pytest.raises(TypeError, match=text):
        run(algorithm, game, **SETTINGS, learn=wrong())
    with pytest.raises(TypeError, match=r"run\.learn must be .* got \{'epochs': 3\}"):
        run(algorithm, game, **SETTINGS, learn={"epochs": 3})


def test_keywords_that_moved_are_refused():
    ways = {
        "epochs": "Write learn=OnPolicy",
        "logdir": "Write log=Log",
        "test_episodes": "It takes",
    }
    for name, way in ways.items():
        with pytest.raises(TypeError, match=f"run has no parameter '{name}'. {way}"):
            run(qmix(), game, **SETTINGS, **{name: 3})


def test_one_attack_needs_no_list():
    several, bare = qmix(), qmix()
    one = train(several, perturb=[ATTACK], tests={"pgd": [ATTACK], "clean": ()})
    two = train(bare, perturb=ATTACK, tests={"pgd": ATTACK, "clean": None})
    assert_equal(weights(several), weights(bare))
    assert_equal(one.tests, two.tests)


def test_a_perturber_has_one_place():
    poison = ObsPerturber(ATTACK)
    with pytest.raises(ValueError, match=r"given perturbers of their own.*got 'one object twice'"):
        train(qmix(), perturb=poison, tests={"same": poison})


@pytest.mark.parametrize("kind", ["qmix", "loss mixin", "ippo", "adversarial"])
def test_algorithms_are_trainable(kind):
    algorithm = MAKERS[kind]()
    assert is_trainable(algorithm)
    algorithm.seed = 7
    assert algorithm.seed == 7
    assert len(algorithm.perturbers()) == int(kind == "adversarial")
    assert not is_trainable(algorithm.policy)


def test_the_environment_is_closed_when_a_run_cannot_begin():
    made = []

    def make():
        made.append(game())
        return made[-1]

    with pytest.raises(ValueError, match="policy must be made for this environment"):
        run(IPPO.for_env(Scripted(4)), make, **SETTINGS)
    assert len(made) == 3
    assert all(env.closed for env in made)


def test_a_team_trains_against_another():
    spec = spec_of(armies(2))
    red = QMIX.for_env(spec, team="red", hidden=(8,), embed=4, hyper_hidden=4)
    frozen = IPPO.for_env(spec, team="blue", hidden=(8,))
    before = weights(frozen)
    for blue in (RandomController(spec.of_team("blue")), frozen):
        history = train(
            red,
            lambda: armies(2),
            env_steps=30,
            interval=15,
            team="red",
            opponents={"blue": blue},
            tests={"clean": []},
        )
        assert np.isfinite(history.train["return"][-1])
    assert_equal(before, weights(frozen))


def test_the_bar_shows_name_and_steps(capsys):
    early = OffPolicy(learning_starts=4)
    run(qmix(), game, **SETTINGS, learn=early, log=Log(progress="my team"))
    shown = capsys.readouterr().err
    assert "my team" in shown
    assert "120" in shown


def test_a_finished_run_gives_back_the_memory_of_its_buffer(monkeypatch):
    """The trainer is part of reference cycles: by itself it would go much later."""
    made = []

    class Remembered(module.EpisodeBuffer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(module, "EpisodeBuffer", Remembered)
    train(qmix())
    (buffer,) = made
    assert len(buffer) > 0
    assert not buffer.data


@pytest.mark.parametrize("learning_starts", [4, 1_000])
def test_a_run_that_ends_before_its_first_update_says_so(learning_starts):
    team, kept = qmix(), weights(qmix())
    learn = OffPolicy(learning_starts=learning_starts, batch_size=4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RobustnessWarning)
        history = run(team, game, **SETTINGS, learn=learn, log=QUIET)
    told = [str(one.message) for one in caught if issubclass(one.category, RobustnessWarning)]
    found = weights(team)
    same = all(torch.equal(kept[name], found[name]) for name in found if "network" in name)
    assert same is (learning_starts == 1_000)
    assert len(told) == same
    if same:
        assert caught[0].filename == __file__
        told_of = f"{history.episodes} episodes, and .* OffPolicy.learning_starts=1000"
        assert re.search(told_of, told[0])
