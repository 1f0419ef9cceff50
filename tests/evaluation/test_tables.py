"""Rendering, exact text, and the round trip of raw scores."""

import csv
import io
import json
import sys

import numpy as np
import pytest

from robustmarl.evaluation import Cell, CrossTable, marl_eval


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
        "<tr><th>QMIX</th><td>1.00 [0.16, 1.00]</td><td>0.00 [0.00, 0.84]</td></tr>",
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
        "QMIX    1.00 [0.16, 1.00]  0.00 [0.00, 0.84]",
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
        "| QMIX | 1.00 [0.16, 1.00] | 0.00 [0.00, 0.84] |",
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
        metric="return",
        title="t",
        cells={"a": {"x": Cell(scores, level=0.9, limits=(-9.0, 9.0))}},
        baselines=["a"],
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
    assert Cell({0: [1.0]}) != Cell({0: [1.0]}, limits=(0.0, 2.0))


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


SIX = {
    "plain": (0.99, 0.23, 0.0, 0.02, 0.0, 0.0),
    "ours": (0.99, 0.95, 0.9, 0.8, 0.8, 0.7),
    "tied": (0.99, 0.94, 0.89, 0.79, 0.79, 0.69),
    "worse": (0.98, 0.94, 0.89, 0.79, 0.79, 0.69),
}


class TestAverage:
    """Six attacks: the figures of ATSA's tables for an undefended row, and a better one."""

    @pytest.fixture
    def six(self):
        rows = {
            victim: {f"attack {k}": cell(value) for k, value in enumerate(row)}
            for victim, row in SIX.items()
        }
        rows["ours"]["other"] = cell(0.0)
        return CrossTable(cells=rows).with_average([f"attack {k}" for k in range(6)], "ours")

    def test_is_the_mean_and_the_population_deviation(self, six):
        found = six.average("plain")
        assert (found.mean, found.deviation) == pytest.approx((0.2067, 0.3599), abs=5e-5)

    def test_a_star_needs_six_wins(self, six):
        stars = {victim: six.average(victim).star for victim in six.victims}
        assert stars == {"plain": False, "ours": False, "tied": False, "worse": True}

    def test_is_printed(self, six):
        head, _, *rows = str(six).splitlines()[:6]
        assert head.endswith("  AVG")
        assert [row.rsplit("  ", 1)[1] for row in rows] == [
            "0.21 ± 0.36",
            "0.86 ± 0.10",
            "0.85 ± 0.10",
            "0.85 ± 0.10*",
        ]
        assert six.footer.endswith(
            "AVG: mean ± population deviation over 6 attacks; *: ours is better (signed-rank test "
            "over them, exact, p < .05)"
        )

    def test_survives_json(self, six):
        found = CrossTable.from_json(six.to_json())
        assert found == six
        assert str(found) == str(six)

    def test_a_row_that_lacks_a_cell_has_none(self, table):
        shown = table.with_average()
        assert shown.average("random") is None
        assert shown.average("QMIX").mean == 0.5
        assert str(shown).splitlines()[5].endswith("-")
        assert table.average("QMIX") is None
        with pytest.raises(ValueError, match=r"CrossTable\.reference must be a row with all"):
            table.with_average(reference="random")
        with pytest.raises(ValueError, match=r"CrossTable\.averaged must be among"):
            table.with_average(["CW"])


class TestWithAll:
    def test_an_episode_counts_if_it_is_won_under_every_attack(self):
        cells = {
            "a": {
                "x": Cell({0: [1, 1, 0, 0], 1: [1, 1, 1, 1]}),
                "y": Cell({0: [1, 0, 1, 0], 1: [0, 1, 1, 1]}),
            },
            "b": {"x": Cell({0: [1.0]})},
        }
        found = CrossTable(cells=cells).with_all()
        assert found.attacks == ("x", "y", "all")
        scores = found.cell("a", "all").scores
        assert {s: v.tolist() for s, v in scores.items()} == {0: [1, 0, 0, 0], 1: [0, 1, 1, 1]}
        assert found.mean("a", "all") == 0.5
        assert "all" not in found.cells["b"]
        one = CrossTable(cells=cells).with_all(["x"], name="only x")
        assert one.cell("a", "only x") == one.cell("a", "x")

    def test_refuses(self, table):
        with pytest.raises(ValueError, match=r"with_all\.name must be a new one, got 'PGD'"):
            table.with_all(name="PGD")
        with pytest.raises(ValueError, match=r"with_all\.attacks must be at least one"):
            table.with_all([])
        cells = {"a": {"x": cell(1.0, 0.0), "y": cell(1.0)}}
        with pytest.raises(ValueError, match=r"row 'a', must be cells of the same episodes"):
            CrossTable(cells=cells).with_all()


class TestLatex:
    def test_bare(self, table, tmp_path):
        text = table.to_latex(tmp_path / "t.tex")
        assert (tmp_path / "t.tex").read_text() == text
        assert text.splitlines() == [
            r"% success: 2 seeds x 2 episodes, 95 \% intervals by Student t over training seeds",
            r"\begin{tabular}{lll}",
            r"\toprule",
            r"victim & none & PGD \\",
            r"\midrule",
            r"QMIX & \textbf{1.00} {\scriptsize [0.16, 1.00]} & "
            r"\textbf{0.00} {\scriptsize [0.00, 0.84]} \\",
            r"\midrule",
            r"\textit{random} & 0.50 {\scriptsize [0.50, 0.50]} & -- \\",
            r"\bottomrule",
            r"\end{tabular}",
        ]

    def test_with_a_caption_and_averages(self, table):
        text = table.with_average().to_latex(caption="Ours.", label="tab:ours")
        head = text.splitlines()
        assert head[:2] == [r"\begin{table}", r"\centering"]
        assert head[2].startswith(r"\caption{Ours. success: 2 seeds x 2 episodes, 95 \% intervals")
        assert head[3] == r"\label{tab:ours}"
        assert r"& AVG \\" in text
        assert r"0.50 $\pm$ 0.50 \\" in text
        with pytest.raises(ValueError, match=r"to_latex\.label must be given with a caption"):
            table.to_latex(label="tab:ours")

    def test_names_are_escaped_and_equal_figures_share_the_best(self):
        cells = {"a_1 & 50%": {r"x\{2}": cell(0.504)}, "b": {r"x\{2}": cell(0.496)}}
        text = CrossTable(cells=cells).to_latex()
        assert r"a\_1 \& 50\% & \textbf{0.50}" in text
        assert r"b & \textbf{0.50}" in text
        assert r"x\textbackslash{}\{2\}" in text


class TestMarlEval:
    def test_layout(self, table, tmp_path):
        del table.cells["QMIX"]["PGD"]
        one = CrossTable(metric="success", cells=table.cells)
        text = one.to_marl_eval("smac", "3m", tmp_path / "t.json")
        assert (tmp_path / "t.json").read_text() == text
        run = {
            "step_1": {"step_count": 0, "success": [0.5, 0.5]},
            "absolute_metrics": {"success": [0.5, 0.5]},
        }
        found = json.loads(text)
        assert found["smac"]["3m, none"]["random"] == {"seed_0": run, "seed_1": run}
        several = json.loads(marl_eval("smac", {"3m": one, "8m": one}, env_steps=7))
        assert list(several["smac"]) == ["3m, none", "8m, none"]
        assert several["smac"]["8m, none"]["QMIX"]["seed_1"]["step_1"]["step_count"] == 7

    def test_refuses(self, table):
        with pytest.raises(ValueError, match=r"given a cell of 'random' under 'PGD', got '3m'"):
            table.to_marl_eval("smac", "3m")
        one, two = ({"a": {"x": cell(1.0, seeds=n)}} for n in (1, 2))
        with pytest.raises(ValueError, match="of as many seeds everywhere"):
            marl_eval("smac", {"3m": CrossTable(cells=one), "8m": CrossTable(cells=two)})
        other = CrossTable(cells={"b": {"x": cell(1.0)}})
        with pytest.raises(ValueError, match="of the same victims"):
            marl_eval("smac", {"3m": CrossTable(cells=one), "8m": other})
        with pytest.raises(ValueError, match=r"marl_eval\.tables must be non-empty"):
            marl_eval("smac", {})
