"""Sweeps over a team of which every figure is known, and their pictures read back."""

import numpy as np
import pytest
from doubles import Scripted
from learners import Shift, reader
from matplotlib.colors import to_hex

from robustmarl.algorithms import IPPO, VDN
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.data import RandomController, ScriptedController
from robustmarl.envs import SignalMatching
from robustmarl.evaluation import (
    Curve,
    Estimate,
    crossplay,
    feature_bars,
    rollout,
    size_curves,
    sweep,
)
from robustmarl.joint import spec_of
from robustmarl.perturbers import ObsPerturber
from robustmarl.typing import RobustnessWarning

FGSM = PGD.fgsm(LinfBall(epsilon=1.0))
SMALL = {"episodes": 4, "num_envs": 3}


@pytest.fixture(scope="module")
def swept():
    teams = {"reader": {0: reader(), 1: reader()}}
    return sweep(teams, FGSM, (0, 0.4, 0.6), SignalMatching, title="signals", **SMALL)


def test_scores_fall_where_actions_change(swept):
    assert swept.scores.victims == ("random", "reader")
    assert [swept.scores.mean("reader", size) for size in ("0", "0.4", "0.6")] == [10, 10, 0]
    assert [swept.flips.mean("reader", size) for size in ("0", "0.4", "0.6")] == [0, 0, 1]
    assert set(swept.flips.cell("reader", "0.4").scores) == {0, 1}
    assert swept.flips.cell("reader", "0.4").scores[0].shape == (4,)
    assert swept.scores.is_baseline("random")
    random = swept.scores.cell("random", "0")
    assert random == swept.scores.cell("random", "0.6")
    want = rollout(RandomController(spec_of(SignalMatching())), SignalMatching, **SMALL)
    np.testing.assert_array_equal(random.scores[0], want.returns)


def test_teams_without_eyes_stand_beside():
    teams = {"reader": {0: reader(), 1: reader()}}
    found = sweep(teams, FGSM, (0, 0.6), SignalMatching, blind=True, **SMALL)
    table = crossplay(teams, {"none": None}, SignalMatching, blind=True, **SMALL)
    for row in ("reader, zeroed", "reader, another's"):
        assert found.scores.is_baseline(row)
        assert found.scores.cell(row, "0") == table.cell(row, "none")
        assert found.scores.cell(row, "0.6") == table.cell(row, "none")


def test_a_team_that_needs_no_eyes_is_warned_of():
    zeros = {"zeros": lambda obs: obs * 0.0}  # right in every other step
    with pytest.warns(RobustnessWarning, match="zeros: with (zeroed|another.s) observations"):
        found = sweep(zeros, FGSM, (0,), SignalMatching, blind=True, **SMALL)
    assert found.scores.mean("zeros, zeroed", "0") == found.scores.mean("zeros", "0")


def test_sizes_are_those_of_cross_play(swept):
    attacks = {f"{size:g}": FGSM.with_epsilon(size) for size in (0.4, 0.6)}
    table = crossplay({"reader": [reader()]}, attacks, SignalMatching, **SMALL)
    for size in attacks:
        np.testing.assert_array_equal(
            table.cell("reader", size).scores[0], swept.scores.cell("reader", size).scores[0]
        )


def test_what_is_moved_is_measured_by_agent_and_coordinate():
    """Agent 1 dies after two of four steps; only agent 0 is moved in a function of the size."""

    def make():
        return Scripted(2, obs_sizes=(3, 5), deaths={1: 2})

    team = VDN.for_env(make(), hidden=(4,))
    everybody = sweep({"VDN": team}, Shift(ball=LinfBall(epsilon=1.0)), (0, 0.25), make, **SMALL)
    want = np.zeros((2, 2, 5))
    want[1, 0, :3], want[1, 1] = 0.25, 0.25
    np.testing.assert_allclose(everybody.moved["VDN"], want, atol=1e-6)

    def on_one(size):
        return ObsPerturber(Shift(ball=LinfBall(epsilon=size)), agents=["a0"], every=2)

    half = sweep({"VDN": team}, on_one, (0.5,), make, **SMALL)
    want = np.zeros((1, 2, 5))
    want[0, 0, :3] = 0.25
    np.testing.assert_allclose(half.moved["VDN"], want, atol=1e-6)


def test_flips_are_shares_of_each_episodes_choices():
    """The attack acts at every other of ten steps."""

    def every_other(size):
        return ObsPerturber(FGSM.with_epsilon(size), every=2)

    found = sweep({"reader": reader()}, every_other, (0.6,), SignalMatching, **SMALL)
    assert found.flips.cell("reader", "0.6").scores[0].tolist() == [0.5] * 4


def test_a_team_that_cannot_be_asked_has_no_flips():
    script = ScriptedController(spec_of(SignalMatching()), lambda context: context.seen.argmax(-1))
    noise = Shift(ball=LinfBall(epsilon=1.0))
    noise_alone = sweep({"script": script}, lambda size: [], (0.5,), SignalMatching, **SMALL)
    assert noise_alone.flips is None
    assert noise_alone.scores.mean("script", "0.5") == 10.0
    assert noise.ball.epsilon == 1.0


def test_plots_show_both_figures(swept, tmp_path):
    figure = swept.plot(tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    score, flips = figure.axes
    assert (score.get_ylabel(), flips.get_ylabel()) == ("return", "share of actions changed")
    lines = {tuple(line.get_ydata()) for line in score.lines}
    assert (10.0, 10.0, 0.0) in lines
    assert [line.get_ydata().tolist() for line in flips.lines] == [[0.0, 0.0, 1.0]]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["random", "reader"]
    bars = swept.plot_features(epsilon=0.6, names=["signal is 0", "signal is 1"])
    widths = [bar.get_width() for bar in bars.axes[0].patches]
    assert widths == pytest.approx(swept.moved["reader"][2].mean(0) / 0.6)
    assert [t.get_text() for t in bars.axes[0].get_yticklabels()] == ["signal is 0", "signal is 1"]
    with pytest.raises(ValueError, match=r"plot_features\.epsilon must be in \(0\.0, 0\.4, 0\.6\)"):
        swept.plot_features(epsilon=0.5)
    with pytest.raises(ValueError, match=r"plot_features\.epsilon must be > 0, got 0"):
        swept.plot_features(epsilon=0.0)


def test_curves_share_colours_and_leave_out_what_is_not_known():
    def curve(low, high, **settings):
        ends = [Estimate(mean=0.5, low=low, high=high, n_seeds=1, n_episodes=1) for _ in "ab"]
        return Curve(x=(0.0, 1.0), estimates=ends, **settings)

    panels = {
        "one": {
            "a": curve(0.4, 0.6),
            "b": curve(-np.inf, np.inf),
            "a too": curve(0.4, 0.6, like="a", dashed=True),
            "random": curve(0.4, 0.6, baseline=True),
        },
        "two": {"b": curve(0.4, 0.6)},
    }
    one, two = size_curves(panels).axes
    colours = [to_hex(line.get_color()) for line in one.lines]
    assert colours[0] == colours[2] != colours[1]
    assert to_hex(two.lines[0].get_color()) == colours[1]
    assert [line.get_linestyle() for line in one.lines] == ["-", "-", "--", ":"]
    assert (len(one.collections), len(two.collections)) == (2, 1)


def test_refuses():
    team = {"reader": reader()}
    for bad, text in (
        ((), r"sweep\.epsilons must be at least one size"),
        ((0.2, 0.1), r"sweep\.epsilons must be increasing"),
        ((-0.1,), r"sweep\.epsilons must be a number >= 0"),
        ((0.1, 0.1 + 1e-9), r"sweep\.epsilons must be different in six digits"),
    ):
        with pytest.raises(ValueError, match=text):
            sweep(team, FGSM, bad, SignalMatching)
    with pytest.raises(TypeError, match=r"sweep\.attack must be an attack or a function"):
        sweep(team, "FGSM", (0.1,), SignalMatching)
    with pytest.raises(TypeError, match=r"sweep\.victims must be a mapping from names, got VDN"):
        sweep(reader(), FGSM, (0.1,), SignalMatching)
    with pytest.raises(ValueError, match=r"sweep\.victims must be non-empty"):
        sweep({}, FGSM, (0.1,), SignalMatching)
    with pytest.raises(ValueError, match=r"sweep\.victims must be named unlike the baseline"):
        sweep({"random": reader()}, FGSM, (0.1,), SignalMatching)
    with pytest.raises(ValueError, match=r"sweep\.metric must be one of \['return'\]"):
        sweep(team, FGSM, (0.1,), SignalMatching, metric="won")
    with pytest.raises(ValueError, match=r"size_curves\.panels must be non-empty"):
        size_curves({})
    with pytest.raises(ValueError, match=r"feature_bars\.names must be 2 names, got '1'"):
        feature_bars({"a": np.zeros(2)}, names=["x"])


def test_a_stochastic_team_is_swept_too():
    team = IPPO.for_env(SignalMatching(), hidden=(4,))
    settings = {"baselines": False, "limits": (0.0, 10.0), **SMALL}
    found = sweep({"IPPO": team}, FGSM, (0.1,), SignalMatching, **settings)
    assert found.scores.cell("IPPO", "0.1").limits == (0.0, 10.0)
    assert found.scores.victims == ("IPPO",)
    assert 0.0 <= found.flips.mean("IPPO", "0.1") <= 1.0


def test_bars_stand_side_by_side_where_bands_would_cover_each_other():
    ends = [Estimate(mean=0.5, low=0.1, high=0.9, n_seeds=3, n_episodes=3)] * 2
    curves = {"a": Curve(x=(0, 1), estimates=ends), "b": Curve(x=(0, 1), estimates=ends)}
    (axes,) = size_curves({"by size": curves}, ylabel="success", bars=True).axes
    assert (axes.get_title(loc="left"), axes.get_ylabel()) == ("by size", "success")
    at = [[segment[0][0] for segment in bars.get_segments()] for bars in axes.collections]
    assert at == [pytest.approx([-0.006, 0.994]), pytest.approx([0.006, 1.006])]
    curves |= {name: Curve(x=(0, 1), estimates=ends, baseline=True) for name in ("c", "d")}
    (beside,) = size_curves({"by size": curves}, bars=True).axes
    assert [line.get_linestyle() for line in beside.lines] == ["-", "-", ":", "-."]
    assert beside.lines[2].get_xdata().tolist() == [0.0, 1.0]
    heights = axes.collections[0].get_segments()[0][:, 1]
    assert heights.tolist() == [0.1, 0.9]
