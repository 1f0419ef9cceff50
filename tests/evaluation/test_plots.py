"""What is drawn, read back from the figure's artists."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from scipy import stats

from robustmarl.evaluation import Cell, CrossTable, curve_panels, heatmap, learning_curves


@pytest.fixture
def table():
    return CrossTable(
        metric="success",
        cells={
            "QMIX": {"none": Cell({0: [1.0]}), "PGD": Cell({0: [0.0]})},
            "random": {"none": Cell({0: [0.25]})},
        },
        baselines=["random"],
    )


def test_heatmap_shows_every_cell_and_leaves_missing_ones_blank(table):
    axes = heatmap(table).axes[0]
    shown = [text.get_text() for text in axes.texts]
    assert shown == ["1.00", "[0.03, 1.00]", "0.00", "[0.00, 0.97]", "0.25", "[-inf, inf]", "-"]
    assert len([p for p in axes.patches if isinstance(p, Rectangle)]) == 3
    assert [t.get_text() for t in axes.get_xticklabels()] == ["none", "PGD"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["QMIX", "random"]


def test_heatmap_separates_baselines(table):
    both = heatmap(table).axes[0]
    assert len(both.lines) == 1
    assert [t.get_style() for t in both.get_yticklabels()] == ["normal", "italic"]
    table.baselines = ()
    assert len(heatmap(table).axes[0].lines) == 0


def test_heatmap_of_shares_uses_the_unit_scale(table):
    bar = heatmap(table).axes[1]
    assert bar.get_ylim() == (0.0, 1.0)


def test_heatmap_of_equal_returns(tmp_path):
    one = CrossTable(cells={"a": {"x": Cell({0: [-7.0]}), "y": Cell({0: [-7.0]})}})
    one.plot(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_curves_draw_mean_seeds_and_band():
    x = np.arange(4)
    seeds = [(x, np.zeros(4)), (x, np.full(4, 2.0))]
    figure = learning_curves({"QMIX": seeds, "VDN": seeds[:1]})
    axes = figure.axes[0]
    drawn = [line.get_ydata().tolist() for line in axes.lines]
    assert drawn == [[0.0] * 4, [2.0] * 4, [1.0] * 4, [0.0] * 4]
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    reach = stats.t.ppf(0.975, 1)  # times a deviation of sqrt 2 by the root of 2 seeds
    assert (heights.min(), heights.max()) == pytest.approx((1.0 - reach, 1.0 + reach))
    assert axes.get_ylim() == pytest.approx((-2.0, 4.0))  # curves are not squeezed by a wide band
    labels = [t.get_text() for t in figure.legends[0].get_texts()]  # beside the curves
    assert labels == ["QMIX (2 seeds)", "VDN (1 seed)"]


def test_bands_of_shares_stay_in_their_range():
    x = np.arange(4)
    curves = {"QMIX": [(x, np.zeros(4)), (x, np.ones(4))]}
    drawn = learning_curves(curves, limits=(0.0, 1.0)), curve_panels({"a": curves}, limits=(0, 1))
    one = curve_panels({"a": curves, "b": curves}, limits={"a": (0.0, 1.0)})
    for axes in (drawn[0].axes[0], drawn[1].axes[0], one.axes[0]):
        heights = axes.collections[0].get_paths()[0].vertices[:, 1]
        assert (heights.min(), heights.max()) == (0.0, 1.0)
    assert one.axes[1].collections[0].get_paths()[0].vertices[:, 1].max() > 1.0


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_what_is_never_or_always_is_shown_among_all_shares(share):
    (axes,) = learning_curves({"QMIX": [([0, 1], [share, share])]}).axes
    assert axes.get_ylim() == (-0.03, 1.03)


def test_curves_meet_on_a_common_range():
    seeds = [([0, 10, 20], [0.0, 1.0, 2.0]), ([5, 15], [1.5, 2.5])]
    axes = learning_curves({"a": seeds}).axes[0]
    mean = axes.lines[-1]
    assert mean.get_xdata().tolist() == [10.0]
    assert mean.get_ydata().tolist() == [1.5]


def test_many_curves_are_told_apart():
    curves = {str(i): [([0, 1], [i, i])] for i in range(10)}
    lines = learning_curves(curves).axes[0].lines
    assert len({(to_hex(line.get_color()), line.get_linestyle()) for line in lines}) == 10


@pytest.mark.parametrize(
    ("curves", "text"),
    [
        ({}, r"learning_curves\.curves must be non-empty"),
        ({"a": []}, r"curves\['a'\] must be one pair of arrays per seed"),
        ({"a": [([0, 1], [0.0])]}, r"must be pairs of arrays \(P,\)"),
        ({"a": [([1, 1], [0, 0])]}, "must be given x that increases"),
        ({"a": [([0, 1], [0, 0]), ([2, 3], [0, 0])]}, "a range of x in common"),
    ],
)
def test_curves_refuse(curves, text):
    with pytest.raises(ValueError, match=text):
        learning_curves(curves)


def test_panels_share_styles_and_one_legend():
    line = [([0, 1], [0.0, 1.0])]
    panels = {"a": {"QMIX": line, "VDN": line}, "b": {"VDN": line}, "c": {"VDN": line, "IQL": line}}
    figure = curve_panels(panels, columns=2, ylabel={"a": "wins", "b": "return"}, title="all")
    one, two, three = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a", "b", "c"]
    assert one.lines[1].get_color() == two.lines[0].get_color() == three.lines[0].get_color()
    assert three.lines[1].get_color() not in {line.get_color() for line in one.lines}
    assert [axes.get_ylabel() for axes in figure.axes] == ["wins", "return", ""]
    assert [axes.get_xlabel() for axes in figure.axes] == ["", *["environment steps"] * 2]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["QMIX", "VDN", "IQL"]
    with pytest.raises(ValueError, match=r"curve_panels\.panels must be non-empty"):
        curve_panels({})
    with pytest.raises(ValueError, match=r"panels\['a'\] must be non-empty"):
        curve_panels({"a": {}})


def test_plotting_touches_no_global_state():
    code = (
        "import sys; import robustmarl.evaluation as e;"
        "e.learning_curves({'a': [([0, 1], [0, 1])]});"
        "e.CrossTable(cells={'a': {'b': e.Cell({0: [1.0]})}}).plot();"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
