"""Rendering, exact text, and the round trip of raw scores."""

import csv
import io
import sys

import numpy as np
import pytest

from robustmarl.evaluation import Cell, CrossTable


def cell(*values, seeds=1, level=0.95):
    return Cell({seed: np.array(values) for seed in range(seeds)}, level=level)


@pytest.fixture
def table():
    return CrossTable(
        metric="success",
        title="matrix game",
        cells={
            "QMIX": {"none": cell(1.0, 1.0, seeds=2), "PGD": cell(0.0, 0.0, seeds=2)},
            "random": {"none": cell(0.5, 0.5, seeds=2)},
        },
        baselines=["random"],
    )


def test_html(table):
    table.title = "a <b> game"
    assert table._repr_html_().splitlines()[:4] == [
        "<table><caption>a &lt;b&gt; game</caption>",
        "<tr><th>victim</th><th>none</th><th>PGD</th></tr>",
        "<tr><th>QMIX</th><td>1.00 [0.40, 1.00]</td><td>0.00 [0.00, 0.60]</td></tr>",
        "<tr><th><em>random</em></th><td>0.50 [0.50, 0.50]</td><td>-</td></tr>",
    ]
    assert table._repr_html_().endswith(f"</table>\n<p>{table.footer}</p>")


def test_frame(table):
    pandas = pytest.importorskip("pandas")
    frame = table.to_frame()
    read = pandas.read_csv(io.StringIO(table.to_csv()))
    assert list(frame.columns) == list(read.columns)
    assert frame["mean"].tolist() == [1.0, 0.0, 0.5]
    assert frame["baseline"].tolist() == [False, False, True]
    assert frame.pivot(index="victim", columns="attack", values="mean").loc["QMIX", "PGD"] == 0.0


def test_frame_without_pandas(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"to_frame must find pandas.*pip install pandas"):
        table.to_frame()


def test_text(table):
    assert str(table).splitlines() == [
        "matrix game",
        "victim  none               PGD",
        "-" * 44,
        "QMIX    1.00 [0.40, 1.00]  0.00 [0.00, 0.60]",
        "-" * 44,
        "random  0.50 [0.50, 0.50]  -",
        "-" * 44,
        "success: 2 seeds x 2 episodes, 95 % intervals by Student t over training seeds",
    ]


def test_markdown(table):
    lines = table.to_markdown().splitlines()
    assert lines[:4] == [
        "| victim | none | PGD |",
        "| --- | --- | --- |",
        "| QMIX | 1.00 [0.40, 1.00] | 0.00 [0.00, 0.60] |",
        "| *random* | 0.50 [0.50, 0.50] | - |",
    ]


def test_markdown_escapes_bars():
    table = CrossTable(cells={"a|b": {"none": cell(1.0)}})
    assert r"| a\|b |" in table.to_markdown()


def test_csv_has_a_line_per_cell(table, tmp_path):
    text = table.to_csv(tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(r["victim"], r["attack"], r["baseline"]) for r in rows] == [
        ("QMIX", "none", "0"),
        ("QMIX", "PGD", "0"),
        ("random", "none", "1"),
    ]
    assert (rows[2]["mean"], rows[2]["seeds"], rows[2]["episodes"]) == ("0.5", "2", "4")


def test_json_round_trip_keeps_raw_scores_bit_for_bit(tmp_path):
    scores = {7: np.random.default_rng(0).normal(size=5), 11: [1 / 3]}
    table = CrossTable(
        metric="return", title="t", cells={"a": {"x": Cell(scores, level=0.9)}}, baselines=["a"]
    )
    text = table.to_json(tmp_path / "t.json")
    for found in (CrossTable.from_json(tmp_path / "t.json"), CrossTable.from_json(text)):
        assert found == table
        assert found.cell("a", "x").scores[7].tobytes() == scores[7].tobytes()
        assert str(found) == str(table)


def test_cells_differ_by_one_score():
    assert cell(1.0, 0.0) == cell(1.0, 0.0)
    assert cell(1.0, 0.0) != cell(0.0, 1.0)
    assert cell(1.0) != cell(1.0, seeds=2)
    assert cell(1.0) != cell(1.0, level=0.9)


def test_a_cell_keeps_its_own_copy():
    scores = np.ones(3)
    one = Cell({0: scores})
    scores[:] = 0.0
    assert one.scores[0].tolist() == [1.0, 1.0, 1.0]


def test_looks_up(table):
    assert table.victims == ("QMIX", "random")
    assert table.attacks == ("none", "PGD")
    assert table.mean("random", "none") == 0.5
    assert table.cell("QMIX", "PGD").estimate.n_episodes == 4
    assert table.is_baseline("random")
    assert not table.is_baseline("QMIX")


def test_footer_names_unequal_counts():
    cells = {"a": {"x": cell(1.0, 0.0), "y": cell(1.0, seeds=3, level=0.9)}}
    footer = CrossTable(cells=cells).footer
    assert footer.startswith("return: 1-3 seeds x 1-2 episodes, 90 / 95 % intervals by ")
    assert "of that team only" in footer


@pytest.mark.parametrize(
    ("victim", "attack", "text"),
    [
        ("DQN", "none", r"CrossTable\.cell\.victim must be one of \['QMIX', 'random'\], got 'DQN'"),
        ("QMIX", "CW", r"CrossTable\.cell\.attack must be one of \['none', 'PGD'\], got 'CW'"),
        ("random", "PGD", r"of 'random' must be one of \['none'\], got 'PGD'"),
    ],
)
def test_refuses_unknown_names(table, victim, attack, text):
    with pytest.raises(ValueError, match=text):
        table.cell(victim, attack)


def test_refuses_bad_contents():
    with pytest.raises(ValueError, match=r"CrossTable\.cells must be given at least one cell"):
        CrossTable(cells={})
    with pytest.raises(ValueError, match=r"CrossTable\.baselines must be among \['a'\]"):
        CrossTable(cells={"a": {"x": cell(1.0)}}, baselines=["b"])
    with pytest.raises(ValueError, match="must be finite"):
        Cell({0: [np.nan]})
