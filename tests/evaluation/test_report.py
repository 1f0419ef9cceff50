"""A report's file: whole in itself, and what it says is what was found."""

import json
import math
import re

import numpy as np
import pytest
from report_doubles import full_report, pictures, recordings, swept, table

from robustmarl.evaluation import Cell, CrossTable, Finding, Measured, WorstCase, report
from robustmarl.training import History

NAMESPACE = '"http://www.w3.org/2000/svg"'  # a name, which nobody looks up
DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def told(path):
    """Return what a report holds."""
    return json.loads(DATA.search(path.read_text("utf-8"))[1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return full_report(tmp_path_factory.mktemp("report") / "report.html")


def test_asks_for_nothing_from_elsewhere(whole):
    text = whole.read_text("utf-8")
    assert not re.findall(r"(?:https?:)?//[a-z]", text.replace(NAMESPACE, ""))
    assert not re.findall(r"@import|<link(?! rel=\"icon\" href=\"data:,\")|<img|<iframe", text)
    assert "default-src 'none'" in text


def test_names_are_texts(tmp_path):
    name = "<script>alert(1)</script>"
    cells = {name: {"</script><b>": Cell({0: [1.0, 0.0]})}}
    path = report(CrossTable(cells=cells), tmp_path / "r.html", title=name, command=name)
    text = path.read_text("utf-8")
    assert len(re.findall("<script", text)) == len(re.findall("</script>", text)) == 2
    assert name not in text
    data = told(path)
    assert data["title"] == data["command"] == data["tables"][0]["rows"][0]["name"] == name


def test_figures_are_the_tables(tmp_path):
    found = table()
    (shown,) = told(report(found, tmp_path / "r.html"))["tables"]
    assert [column["name"] for column in shown["columns"]] == list(found.attacks)
    assert [row["baseline"] for row in shown["rows"]] == [True, False, False]
    for row in shown["rows"]:
        for column, cell in zip(shown["columns"], row["cells"], strict=True):
            if cell is None:
                assert column["name"] not in found.cells[row["name"]]
                continue
            estimate = found.cells[row["name"]][column["name"]].estimate
            assert (cell["mean"], cell["low"], cell["high"]) == (
                estimate.mean,
                estimate.low,
                estimate.high,
            )
            assert cell["text"] == str(estimate)
            assert f"{estimate.n_seeds} training seeds" in cell["about"]
            assert f"{estimate.n_episodes} episodes" in cell["about"]
    assert any(None in row["cells"] for row in shown["rows"])
    assert [column["apart"] for column in shown["columns"]] == [False, False, True]


def test_what_is_not_there_is_left_out(tmp_path):
    data = told(report(table(), tmp_path / "r.html"))
    assert (data["groups"], data["films"], data["command"]) == ([], [], "")
    assert data["title"] == table().title


def test_a_command_for_every_cell(tmp_path):
    path = report(table(), tmp_path / "r.html", command=lambda victim, attack: f"{victim}|{attack}")
    data = told(path)
    rows = data["tables"][0]["rows"]
    assert rows[1]["cells"][0]["command"] == "QMIX|none"
    assert data["command"] == ""


def test_ends_that_are_not_finite_are_null(tmp_path):
    lone = CrossTable(cells={"QMIX": {"none": Cell({0: [2.0]})}})
    assert not math.isfinite(lone.cell("QMIX", "none").estimate.low)
    (shown,) = told(report(lone, tmp_path / "r.html"))["tables"]
    assert shown["rows"][0]["cells"][0]["low"] is None


def test_averages(tmp_path):
    averaged = table().with_average(["none"])
    (shown,) = told(report(averaged, tmp_path / "r.html"))["tables"]
    assert shown["averaged"]
    assert [row["average"] for row in shown["rows"]] == [
        str(averaged.average(victim)) for victim in averaged.victims
    ]


def test_a_worst_case_tells_what_was_chosen(tmp_path):
    cells = {"QMIX": {name: Cell({0: [1.0, 0.0]}) for name in ("none", "PGD", "worst")}}
    found = WorstCase(
        suite="a suite",
        threat="a ball",
        table=CrossTable(cells=cells),
        choices=CrossTable(cells=cells),
        chosen={"QMIX": {0: "PGD"}},
        families={"PGD": "gradient"},
        measured={"QMIX": {"PGD": Measured(flipped=0.25, seconds=2.0)}},
        findings=(Finding(victim="QMIX", check="steps", text="more steps did better"),),
    )
    (shown,) = told(report(found, tmp_path / "r.html"))["tables"]
    cells = dict(zip(found.table.attacks, shown["rows"][0]["cells"], strict=True))
    assert cells["PGD"]["notes"] == ["gradient", "25 % of actions changed", "2 CPU seconds"]
    assert cells["worst"]["notes"] == ["worst of all: PGD (1)"]
    assert shown["findings"] == ["QMIX: more steps did better"]
    assert shown["about"][:2] == ["a suite", "a ball"]


def test_curves_are_those_of_histories(tmp_path):
    def history(scale):
        train = {"return": [math.nan, scale, 2.0 * scale], "won": [math.nan, 0.0, 1.0]}
        return History(env_steps=[0, 10, 20], train=train)

    curves = {"one": history(1.0), "two": [history(1.0), history(3.0)]}
    (group,) = told(report([], tmp_path / "r.html", curves=curves))["groups"]
    returns, won = group["charts"]
    assert (returns["title"], returns["share"]) == ("return", False)
    assert (won["title"], won["share"]) == ("won", True)
    one, two = returns["lines"]
    assert (one["x"], one["mean"], one["low"]) == ([10.0, 20.0], [1.0, 2.0], [None, None])
    assert two["mean"] == [2.0, 4.0]
    assert two["seeds"] == [[1.0, 2.0], [3.0, 6.0]]
    assert two["count"] == "2 training seeds"

    arrays = {"three": [(np.arange(1000), np.arange(1000) / 2.0)]}
    (group,) = told(report([], tmp_path / "r.html", curves=arrays))["groups"]
    (line,) = group["charts"][0]["lines"]
    assert (line["x"][0], line["x"][-1], line["mean"][-1]) == (0.0, 999.0, 499.5)
    assert len(line["x"]) <= 400


def test_bands_of_shares_keep_within_them_and_a_return_is_none(tmp_path):
    def history(won):
        tests = {"none/return": won, "none/won": won}
        return History(env_steps=[10, 20], train={"won": won}, tests=tests)

    seeds = [history([0.9, 1.0]), history([1.0, 0.8])]
    (group,) = told(report([], tmp_path / "r.html", curves={"QMIX": seeds}))["groups"]
    charts = {chart["title"]: chart for chart in group["charts"]}
    assert {title: chart["share"] for title, chart in charts.items()} == {
        "won": True,
        "none/return": False,
        "none/won": True,
    }
    (cut,), (whole,) = charts["none/won"]["lines"], charts["none/return"]["lines"]
    assert cut["mean"] == whole["mean"]
    assert max(whole["high"]) > 1.0
    assert cut["high"] == [min(end, 1.0) for end in whole["high"]]
    assert cut["low"] == [max(end, 0.0) for end in whole["low"]]


def test_what_one_seed_has_outside_is_no_share(tmp_path):
    curves = {"one": [([1, 2], [0.5, 0.5]), ([1, 2], [0.5, 1.5])]}
    (group,) = told(report([], tmp_path / "r.html", curves=curves))["groups"]
    assert not group["charts"][0]["share"]


def test_sweeps_and_certificates_are_those_drawn_elsewhere(tmp_path):
    sweep, certificates = swept()
    groups = told(report([], tmp_path / "r.html", sweeps=[sweep, certificates]))["groups"]
    assert [group["title"] for group in groups] == ["3m", "3m: what is proven"]
    for group, panels in zip(groups, (sweep.panels(), certificates.panels()), strict=True):
        assert [chart["title"] for chart in group["charts"]] == list(panels)
        for chart, curves in zip(group["charts"], panels.values(), strict=True):
            for line, curve in zip(chart["lines"], curves.values(), strict=True):
                assert line["x"] == list(curve.x)
                assert line["mean"] == [estimate.mean for estimate in curve.estimates]
    decisions = groups[1]["charts"][0]["lines"]
    assert [line["dashed"] for line in decisions] == [False, True]
    assert decisions[0]["colour"] == decisions[1]["colour"]
    assert [line["dotted"] for line in groups[0]["charts"][0]["lines"]] == [0, None]


def test_films_are_the_recordings(tmp_path):
    kept = recordings()
    films = told(report([], tmp_path / "r.html", recordings=kept))["films"]
    for film, recording in zip(films, kept, strict=True):
        assert film["title"] == recording.title
        for shown, episode in zip(film["episodes"], recording.episodes, strict=True):
            assert len(shown["steps"]) == len(episode.steps)
            names = [thing["name"] for thing in shown["things"]]
            for data, step in zip(shown["steps"], episode.steps, strict=True):
                there = {names[at[0]]: (at[1], at[2]) for at in data["at"]}
                for entity in step.scene.entities:
                    assert there[entity.name] == pytest.approx((entity.x, entity.y), abs=1e-3)
                assert len(there) == len(step.scene.entities)
                assert set(data.get("ghosts", {})) == set(step.ghosts)
                acts = data.get("acts", [])
                changed = {film["agents"][agent] for agent, _, *instead in acts if instead}
                assert changed == set(step.intended)
                done = {film["agents"][agent]: film["acts"][act] for agent, act, *_ in acts}
                assert done == {agent: recording.actions[act] for agent, act in step.acts.items()}
    assert any("ghosts" in step for step in films[1]["episodes"][0]["steps"])


def test_pictures_are_held_in_the_file(tmp_path):
    (film,) = told(report([], tmp_path / "r.html", recordings=pictures()))["films"]
    assert film["bounds"] is None
    assert film["episodes"][0]["steps"][0]["picture"].startswith("data:image/png;base64,")


def test_refuses(tmp_path):
    with pytest.raises(ValueError, match=r"report\.path must be a file name that ends in \.html"):
        report(table(), tmp_path / "r.pdf")
    with pytest.raises(ValueError, match=r"report\.findings must be something to show"):
        report([], tmp_path / "r.html")
    with pytest.raises(TypeError, match=r"report\.findings must be tables or worst cases"):
        report("table", tmp_path / "r.html")
    with pytest.raises(TypeError, match=r"report\.recordings must be recordings"):
        report(table(), tmp_path / "r.html", recordings=[3])
    with pytest.raises(ValueError, match=r"report\.curves\['a'\] must be at least one"):
        report(table(), tmp_path / "r.html", curves={"a": []})
    one, other = (History(env_steps=[1], train={name: [1.0]}) for name in ("a", "b"))
    with pytest.raises(ValueError, match=r"report\.curves must be histories with a figure"):
        report(table(), tmp_path / "r.html", curves={"a": [one, other]})
