"""Cells that run side by side into a folder, in this process and in others."""

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from functools import partial

import cells as work
import numpy as np
import pytest
import torch

from robustmarl.evaluation import CellsError, Job, read_cells, run_cells
from robustmarl.evaluation.executors import Died, SerialPool, Workplace, how
from robustmarl.training.files import locked


def job(key, what=None, **settings):
    return Job(key=key, name=f"cell-{key}", work=what or partial(work.draw, 3), settings=settings)


def quiet(cells, folder, executor="serial", **how):
    return run_cells(cells, folder, executor=executor, progress=False, **how)


EVERY = ("serial", "processes", "ray")


@pytest.fixture(params=EVERY)
def executor(request):
    if request.param == "ray":
        pytest.importorskip("ray")
    return request.param


@pytest.fixture(params=EVERY[1:])
def others(request):
    """Executors whose workers can die."""
    if request.param == "ray":
        pytest.importorskip("ray")
    return request.param


def test_results_are_those_of_one_process(executor, tmp_path):
    cells = [*(job(i, size=i) for i in range(3)), job(3, work.refuse), job(4, work.leave)]
    cells += [Job(key=i, name=f"many/cell {i}", work=work.where) for i in (5, 6)]
    with pytest.raises(CellsError, match=r"2 of 7 cells failed; the others are done:") as caught:
        quiet(cells, tmp_path, executor, jobs=2)
    found, failure = caught.value.results, caught.value.failures[3]
    assert list(found) == [0, 1, 2, 5, 6]
    assert quiet([job(2, size=2)], tmp_path / "alone")[2] == found[2]
    assert found[1]["torch"] != found[2]["torch"]
    for i in range(3):
        assert json.loads((tmp_path / f"cell-{i}.json").read_text()) == found[i]
        assert found[i]["size"] == i
    assert read_cells(cells, tmp_path) == found
    assert found[6]["folder"] == str(tmp_path / "many" / "cell 6")
    assert (found[6]["pid"] == os.getpid()) == (executor == "serial")

    assert "cell-3: ValueError: no such thing" in str(caught.value)
    assert (failure.error, failure.tries) == ("ValueError: no such thing", 1)
    assert 'raise ValueError("no such thing")' in failure.traceback
    assert (tmp_path / "cell-3.error.txt").read_text() == failure.traceback
    assert caught.value.failures[4].error == "SystemExit: enough"
    quiet([job(3)], tmp_path)
    assert not (tmp_path / "cell-3.error.txt").exists()


def test_bars_of_trainings_have_lines_of_their_own(tmp_path):
    assert run_cells([job(0, work.where)], tmp_path, executor="serial")[0]["position"] == 1
    assert quiet([job(1, work.where)], tmp_path)[1]["position"] is None


def test_what_is_done_is_read_not_run(tmp_path):
    quiet([job(0), job(1)], tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("cell-*")}
    found = quiet([job(0, work.refuse), job(1, work.refuse), job(2)], tmp_path)
    assert list(found) == [0, 1, 2]
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("cell-[01]*")}
    assert before == after


def test_a_cell_of_other_settings_is_run_again(tmp_path):
    quiet([job(0, episodes=(3, 4))], tmp_path)
    assert quiet([job(0, work.refuse, episodes=(3, 4))], tmp_path)[0]["episodes"] == [3, 4]
    assert read_cells([job(0, episodes=5)], tmp_path) == {}
    assert quiet([job(0, work.where, episodes=5)], tmp_path)[0]["pid"] == os.getpid()


def test_global_generators_are_left_as_they_were(tmp_path):
    def states():
        numbers = np.random.get_state()[1].tolist()  # noqa: NPY002
        return random.getstate(), numbers, torch.get_rng_state().tolist()

    before = states()
    quiet([job(0)], tmp_path)
    assert states() == before


def test_half_a_file_is_no_result(tmp_path):
    left = [tmp_path / f"cell-0{ending}.12-ab.part" for ending in (".json", ".error.txt")]
    for path in left:
        path.touch()
    (tmp_path / "cell-0.json").write_text('{"python": [0.')
    assert quiet([job(0)], tmp_path) == quiet([job(0)], tmp_path / "fresh")
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (work.no_json, r"ValueError: Out of range float values"),
        (work.no_mapping, r"TypeError: Job\.work must return a mapping of raw scores, got 3\.0"),
    ],
)
def test_results_must_be_json(what, text, tmp_path):
    with pytest.raises(CellsError, match=text):
        quiet([job(0, what)], tmp_path)


def test_a_killed_worker_costs_its_cell(others, tmp_path):
    """A training that is killed goes on from its checkpoint and ends as if nothing had been."""
    cells = [job(0, partial(work.train, 1)), job(1)]
    found = quiet(cells, tmp_path, others, retries=1)
    here = quiet([job(0, partial(work.train, 0)), job(1)], tmp_path / "here")
    assert found[0] == here[0] | {"tries": 2}
    assert found[1] == here[1]


class Mortal(SerialPool):
    """Loses the worker of each cell as often as it is told."""

    def __init__(self, deaths):
        super().__init__(bars=False)
        self.deaths, self.begun = deaths, []

    def start(self, order):
        self.begun.append(order.name)
        if self.deaths.get(order.name, 0):
            self.deaths[order.name] -= 1
            self._ended.append((order.name, Died("it was killed by SIGKILL")))
        else:
            super().start(order)


def test_a_cell_is_begun_again_behind_the_others_and_given_up_in_the_end(tmp_path, monkeypatch):
    pool = Mortal({"cell-0": 2, "cell-1": 9})
    monkeypatch.setattr("robustmarl.evaluation.jobs.pool_of", lambda *a, **k: pool)
    text = r"its worker died 3 times, the last time it was killed by SIGKILL \("
    with pytest.raises(CellsError, match=text) as caught:
        quiet([job(0), job(1), job(2)], tmp_path, retries=2)
    assert pool.begun == [f"cell-{i}" for i in (0, 1, 2, 0, 1, 0, 1)]
    assert caught.value.results == quiet([job(0), job(2)], tmp_path)
    assert {key: failure.tries for key, failure in caught.value.failures.items()} == {1: 3}
    assert "SIGKILL" in (tmp_path / "cell-1.error.txt").read_text()


@pytest.mark.parametrize(
    ("code", "text"),
    [(7, "it ended with exit code 7"), (-9, "by SIGKILL, as the system"), (-15, "by SIGTERM")],
)
def test_how_a_worker_died_is_told(code, text):
    assert text in how(code)


def test_a_cluster_that_is_there_is_used_and_left(tmp_path):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        found = quiet([job(0, work.where)], tmp_path, "ray")
        assert found[0]["pid"] != os.getpid()
        assert found[0]["position"] is None
        assert ray.is_initialized()
    finally:
        ray.shutdown()


@pytest.mark.parametrize(("name", "codes"), [("SIGKILL", (-9,)), ("SIGINT", (-2, 1))])
def test_workers_end_with_a_run_that_ends_and_another_goes_on(name, codes, tmp_path):
    """The script's output is whole only when its worker has let go of it, too."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(signal=name, folder=str(tmp_path / "study")))
    found = subprocess.run(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode in codes, found.stderr
    assert ("KeyboardInterrupt" in found.stderr) == (name == "SIGINT")
    cells = [job(0), job(1)]
    assert list(read_cells(cells, tmp_path / "study")) == [0]
    assert quiet(cells, tmp_path / "study") == quiet(cells, tmp_path / "other")


SCRIPT = """
import signal
from functools import partial
import cells as work
from robustmarl.evaluation import Job, run_cells

if __name__ == "__main__":
    # where the tests run in the background interrupts are ignored, and that is inherited
    signal.signal(signal.SIGINT, signal.default_int_handler)
    what = partial(work.draw, 3), partial(work.end_parent, {signal!r})
    cells = [Job(key=i, name=f"cell-{{i}}", work=what[i]) for i in range(2)]
    run_cells(cells, {folder!r}, progress=False)
"""


def test_cells_wait_for_those_before_them(tmp_path):
    order = tmp_path / "order"
    order.mkdir()
    first = [job(i, partial(work.follow, order)) for i in range(2)]
    last = [
        Job(key="both", name="both", work=partial(work.follow, order), after=(0, 1)),
        Job(key="none", name="none", work=partial(work.follow, order)),
    ]
    found = quiet([*first, *last], tmp_path, "serial")
    assert [found[key]["number"] for key in (0, 1)] == [0, 1]
    assert found["both"]["number"] > 1
    bad = [job(0, work.refuse), replace(last[0], after=(0,)), replace(last[1], after=("both",))]
    with pytest.raises(CellsError, match=r"not begun, as cells before it failed: \['both'\]") as e:
        quiet([*bad, job(7)], tmp_path / "bad")
    assert list(e.value.results) == [7]
    with pytest.raises(ValueError, match=r"'both' is behind all of its after, got \[0, 1\]"):
        quiet([last[0], *first], tmp_path)


def weighed(lr, place):
    place.folder_for({"lr": lr})
    weights = place.folder / "weights"
    if not weights.exists():
        weights.write_text(str(lr))
    return {"lr_found": float(weights.read_text())}


def used(place):
    return {"lr_tested": float((place.study / "train" / "weights").read_text())}


def of_rate(lr, episodes=1):
    """Return a training, its test and what comes after that."""
    train = partial(weighed, lr)
    return [
        Job(key="train", name="train", work=train, settings={"lr": lr, "episodes": episodes}),
        Job(key="test", name="test", work=used, after=["train"]),
        Job(key="last", name="last", work=used, after=["test"]),
    ]


def test_what_comes_after_a_cell_of_other_settings_is_run_again(tmp_path):
    for lr in (0.1, 0.9, 0.1):
        found = quiet(of_rate(lr), tmp_path)
        assert found["train"]["lr_found"] == found["test"]["lr_tested"] == lr
        assert found["last"] == {"lr_tested": lr}
        assert read_cells(of_rate(lr), tmp_path) == found


def test_so_it_is_where_that_was_interrupted(tmp_path):
    quiet(of_rate(0.1), tmp_path)
    quiet(of_rate(0.9)[:1], tmp_path)
    assert list(read_cells(of_rate(0.9), tmp_path)) == ["train"]
    assert quiet(of_rate(0.9), tmp_path)["last"] == {"lr_tested": 0.9}


def test_files_that_do_not_tell_what_they_came_after_are_of_what_is_there(tmp_path):
    (tmp_path / "last.json").write_text('{"lr_tested": 0.1}')
    assert list(read_cells(of_rate(0.1), tmp_path)) == ["last"]
    (tmp_path / "train.json").write_text('{"lr": 0.1, "episodes": 1}')
    assert list(read_cells(of_rate(0.1), tmp_path)) == ["train", "last"]
    assert read_cells(of_rate(0.9), tmp_path) == {}


def test_a_result_stays_where_only_that_of_what_was_before_is_gone(tmp_path):
    found = quiet(of_rate(0.1), tmp_path)
    (tmp_path / "train.json").unlink()
    assert read_cells(of_rate(0.1), tmp_path) == {key: found[key] for key in ("test", "last")}
    assert quiet(of_rate(0.1), tmp_path) == found


def test_what_a_cell_left_under_other_settings_is_moved_aside(tmp_path):
    quiet(of_rate(0.1), tmp_path)
    kept = tmp_path / "train" / "weights"
    kept.write_text("0.25")
    assert quiet(of_rate(0.1, episodes=2), tmp_path)["train"]["lr_found"] == 0.25
    assert quiet(of_rate(0.9, episodes=2), tmp_path)["train"]["lr_found"] == 0.9
    assert quiet(of_rate(0.5, episodes=2), tmp_path)["train"]["lr_found"] == 0.5
    former = [tmp_path / f"train.former-{number}" / "weights" for number in (1, 2)]
    assert [file.read_text() for file in former] == ["0.25", "0.9"]


def test_progress_is_shown_where_it_is_asked_for(tmp_path, capsys):
    cells = [job(0), job(1)]
    quiet(cells[:1], tmp_path)
    assert capsys.readouterr().err == ""
    run_cells(cells, tmp_path, executor="serial", progress="my study")
    assert "my study: 100%" in (err := capsys.readouterr().err)
    assert "2/2" in err


def test_a_folder_has_one_writer(tmp_path):
    with (
        locked("x", tmp_path),
        pytest.raises(ValueError, match=r"run_cells\.folder must be a folder that no other run"),
    ):
        quiet([job(0)], tmp_path)
    quiet([job(0)], tmp_path)


def test_a_folder_of_another_study_is_refused(tmp_path):
    quiet([job(0)], tmp_path, settings={"episodes": 3, "sizes": (1, 2)})
    quiet([job(0)], tmp_path, settings={"sizes": [1, 2], "more": "new"})
    with pytest.raises(ValueError, match=r"of one with others: episodes=4 \(was 3\)\. Give it"):
        quiet([job(0)], tmp_path, settings={"episodes": 4})
    assert json.loads((tmp_path / "manifest.json").read_text()) == {
        "episodes": 3,
        "sizes": [1, 2],
        "more": "new",
    }


def test_an_interrupted_run_is_gone_on_with(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        quiet([job(0), job(1, work.interrupted), job(2)], tmp_path)
    assert list(read_cells([job(0), job(1), job(2)], tmp_path)) == [0]
    assert list(quiet([job(0, work.refuse), job(1), job(2)], tmp_path)) == [0, 1, 2]


def test_what_others_cannot_import_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(TypeError, match=r"Job\.work must be something that other processes can"):
        quiet([job(0), job(1, lambda place: {})], tmp_path, "processes")
    assert quiet([job(0, lambda place: {"a": 1})], tmp_path)[0] == {"a": 1}


@pytest.mark.parametrize("name", ["", ".", "../x", "/x", "a//b", "a/../b"])
def test_names_stay_in_the_folder(name):
    with pytest.raises(ValueError, match=r"Job\.name must be a path inside the folder"):
        Job(key=0, name=name, work=work.refuse)


def test_cells_differ(tmp_path):
    with pytest.raises(ValueError, match=r"run_cells\.cells must be cells of different keys"):
        quiet([job(0), job(0)], tmp_path)
    same = [Job(key=key, name="one", work=work.refuse) for key in range(2)]
    with pytest.raises(ValueError, match=r"run_cells\.cells must be cells of different names"):
        quiet(same, tmp_path)
    with pytest.raises(TypeError, match=r"run_cells\.cells must be Jobs"):
        quiet([work.refuse], tmp_path)


def test_a_log_goes_on(tmp_path):
    log = Workplace(folder=tmp_path, study=tmp_path, position=2).log("QMIX 0")
    assert (log.folder, log.resume, log.progress, log.bar_position) == (tmp_path, True, "QMIX 0", 2)
    assert Workplace(folder=tmp_path, study=tmp_path).log("QMIX 0").progress is False
