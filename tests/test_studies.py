"""What the studies in ``examples`` take for done, and what they run again."""

import importlib.util
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def study(monkeypatch):
    """Return what imports an example, and what returns its arguments as typed."""

    def imported(name):
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)

        def typed(*words):
            monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
            return module.parsed()

        return module, typed

    return imported


def settings(cells):
    return {cell.name: cell.settings for cell in cells}


@pytest.mark.parametrize("option", ["--episodes", "--tests", "--test-episodes"])
def test_tram_runs_again_what_was_tested_otherwise(study, option):
    tram, typed = study("tram")
    usual, other = settings(tram.cells(typed())), settings(tram.cells(typed(option, "5")))
    assert usual.keys() == other.keys()
    same = {name for name in usual if usual[name] == other[name]}
    tested = {name for name in usual if "random-none" in name or "untrained-none" in name}
    assert same == (set() if option == "--episodes" else tested)


def test_tram_keeps_trainings_of_other_lengths_apart(study):
    tram, typed = study("tram")
    usual, short = typed(), typed("--env-steps", "900")
    assert usual.out != short.out
    name = "3m-DOP-none-f1-k6-s0"
    steps = [settings(tram.cells(args))[name]["lengths"]["env_steps"] for args in (usual, short)]
    assert steps == [80_000, 900]


def test_byzantine_runs_again_what_was_tested_otherwise(study):
    byzantine, typed = study("byzantine")
    usual, other = typed(), typed("--episodes", "5")
    before, after = settings(byzantine.planned(usual)), settings(byzantine.planned(other))
    assert before.keys() == after.keys()
    assert all(before[name] != after[name] for name in before)


def test_byzantine_keeps_no_transfers_of_other_lengths(study, tmp_path):
    byzantine, typed = study("byzantine")
    run = byzantine.Run(task="toy", method="MAPPO", seed=0)
    (tmp_path / "transfers").mkdir()
    file = tmp_path / "transfers" / f"{run.name}.json"
    usual, other = (byzantine.asked(typed(*words)) for words in ((), ("--episodes", "5")))
    told = {"transfer": {"agent_0": [1.0]}, "group": ["MAPPO"], "asked": usual}
    file.write_text(byzantine.json.dumps(told))
    known = {"transfer": {"agent_0": [1.0]}}
    assert byzantine.moved(tmp_path, run) == byzantine.moved(tmp_path, run, usual) == known
    assert byzantine.moved(tmp_path, run, other) == {}
