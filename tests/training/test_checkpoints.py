"""Files that are whole or not there, and that load without running code."""

import contextlib
import enum
import multiprocessing
import os
import pickle
import socket

import numpy as np
import pytest
import torch
from doubles import Scripted

from robustmarl.adversaries import ObsAdversaryPPO
from robustmarl.algorithms import IPPO, QMIX
from robustmarl.budgets import LinfBall
from robustmarl.training import files, load_checkpoint, load_weights, save_weights
from robustmarl.training.checkpoints import FORMAT, save_checkpoint
from robustmarl.training.files import LOCK, locked

CONTENT = {"weights": torch.arange(5.0), "count": 3, "names": ["a", "b"], "nested": {"x": 0.5}}


def qmix(seed=0, width=8):
    return QMIX.for_env(Scripted(), hidden=(width,), embed=4, hyper_hidden=4, seed=seed)


class Harmful:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_what_is_written_is_read(tmp_path):
    save_checkpoint(tmp_path / "deep" / "er" / "file.pt", CONTENT)
    found = load_checkpoint(tmp_path / "deep" / "er" / "file.pt")
    assert torch.equal(found.pop("weights"), CONTENT["weights"])
    assert found == {"format": FORMAT, "count": 3, "names": ["a", "b"], "nested": {"x": 0.5}}
    assert [p.name for p in (tmp_path / "deep" / "er").iterdir()] == ["file.pt"]


def test_a_failure_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.pt"
    save_checkpoint(path, CONTENT)
    before = path.read_bytes()

    def disk_is_full(content, file):
        file.write(before[:100])
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", disk_is_full)
        with pytest.raises(OSError, match="no space left"):
            save_checkpoint(path, {"count": 4})
    assert path.read_bytes() == before
    assert load_checkpoint(path)["count"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["file.pt"]
    save_checkpoint(path, {"count": 5})
    assert load_checkpoint(path)["count"] == 5


def test_numbers_of_numpy_become_plain_ones(tmp_path):
    group = {"lr": np.float64(0.1), "betas": (np.float32(0.5), 0.9), np.int64(3): [np.bool_(True)]}
    save_checkpoint(tmp_path / "file.pt", {"groups": [group]})
    (found,) = load_checkpoint(tmp_path / "file.pt")["groups"]
    assert found == {"lr": 0.1, "betas": (0.5, 0.9), 3: [True]}
    assert {type(v) for v in (found["lr"], found["betas"][0], found[3][0])} == {float, bool}


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize("bad", [np.ones(2), Harmful(), Colour.RED, lambda: 0])
def test_what_could_not_be_read_is_refused_by_its_path(tmp_path, bad):
    path = tmp_path / "file.pt"
    save_checkpoint(path, CONTENT)
    before = path.read_bytes()
    with pytest.raises(TypeError, match=r"content: schedulers\[0\]\['base'\] must be tensors"):
        save_checkpoint(path, {"schedulers": [{"last": 1, "base": bad}]})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["file.pt"]


def test_the_versions_in_a_modules_state_are_kept(tmp_path):
    state = torch.nn.Sequential(torch.nn.BatchNorm1d(2)).state_dict()
    save_checkpoint(tmp_path / "file.pt", {"state": state})
    found = load_checkpoint(tmp_path / "file.pt")["state"]
    assert found._metadata == state._metadata
    assert all(torch.equal(found[key], values) for key, values in state.items())


def test_weights_that_are_not_finite_do_not_replace_good_ones(tmp_path):
    path, team = tmp_path / "team.pt", qmix()
    save_weights(team, path)
    before = path.read_bytes()
    next(team.policy.parameters()).data.view(-1)[0] = float("nan")
    with pytest.raises(ValueError, match=r"finite weights, got 1 of \d+ not finite in 'policy\."):
        save_weights(team, path)
    assert path.read_bytes() == before


def test_a_locked_folder_is_refused_until_its_owner_is_gone(tmp_path):
    with locked("Log.logdir", tmp_path):
        rule = rf"no other run writes to, got one locked by process {os.getpid()} on .*remove '"
        with pytest.raises(ValueError, match=rule), locked("Log.logdir", tmp_path):
            pass
        assert (tmp_path / LOCK).exists()
    assert not (tmp_path / LOCK).exists()
    with pytest.raises(KeyError), locked("Log.logdir", tmp_path):
        raise KeyError
    assert not (tmp_path / LOCK).exists()


def holding(folder, held, enough, together=None):
    """Hold a folder if it is free, say so, and let go of it when all have tried."""
    if together is not None:
        kill, os.kill = os.kill, lambda *args: agreed(kill, together, *args)
    with contextlib.suppress(ValueError), locked("Log.logdir", folder):
        held.release()
        enough.wait()
        return
    enough.wait()


def agreed(kill, together, *args):
    """Ask whether a process lives, and wait until all have asked for the first time."""
    os.kill = kill
    try:
        return kill(*args)
    finally:
        together.wait()


def test_a_lock_of_another_process(tmp_path):
    context = multiprocessing.get_context("fork")
    held, enough = context.Semaphore(0), context.Barrier(2)
    other = context.Process(target=holding, args=(tmp_path, held, enough))
    other.start()
    held.acquire()
    with pytest.raises(ValueError, match="no other run"), locked("Log.logdir", tmp_path):
        pass
    other.kill()
    other.join()
    (tmp_path / "file.pt.1-ab.part").touch()
    (tmp_path / "mine.part").touch()
    assert (tmp_path / LOCK).exists()
    with locked("Log.logdir", tmp_path, ["file.pt"]):  # it is dead now
        assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.part", LOCK]
    for text in ("", f"{os.getpid()} {socket.gethostname()}\n"):  # killed; we have got its number
        (tmp_path / LOCK).write_text(text)
        with locked("Log.logdir", tmp_path):
            pass
    (tmp_path / LOCK).write_text("17 elsewhere\n")
    with pytest.raises(ValueError, match="no other run"), locked("Log.logdir", tmp_path):
        pass


def test_of_several_that_find_a_dead_ones_lock_one_gets_it(tmp_path):
    context = multiprocessing.get_context("fork")
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / LOCK).write_text(f"999999999 {socket.gethostname()}\n")
        held = context.Semaphore(0)
        shared = held, context.Barrier(4), context.Barrier(4)
        tried = [context.Process(target=holding, args=(folder, *shared)) for _ in range(4)]
        for one in tried:
            one.start()
        for one in tried:
            one.join()
        assert held.acquire(block=False)
        assert not held.acquire(block=False)
        assert not (folder / LOCK).exists()


def test_a_folder_is_free_again_for_who_opened_the_file_of_its_last_holder(tmp_path, monkeypatch):
    with contextlib.ExitStack() as last:
        last.enter_context(locked("Log.logdir", tmp_path))
        grab = files._grabbed

        def late(file):
            last.close()  # between opening the file and asking for its lock
            monkeypatch.setattr(files, "_grabbed", grab)
            return grab(file)

        monkeypatch.setattr(files, "_grabbed", late)
        with locked("Log.logdir", tmp_path):
            assert (tmp_path / LOCK).read_text().startswith(f"{os.getpid()} ")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, share):
    path = tmp_path / "file.pt"
    save_checkpoint(path, CONTENT)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=r"whole robustmarl checkpoint.*file\.pt.*truncated"):
        load_checkpoint(path)


def test_a_foreign_file_is_refused(tmp_path):
    path = tmp_path / "file.pt"
    for content in ({"weights": torch.ones(2)}, [1, 2], torch.ones(3), {"format": "robustmarl/0"}):
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"load_checkpoint\.path must be of format 'robustm"):
            load_checkpoint(path)
    path.write_text("hello")
    with pytest.raises(ValueError, match="whole robustmarl checkpoint"):
        load_checkpoint(path)
    with pytest.raises(
        FileNotFoundError, match=r"load_checkpoint\.path must be a file, got '.*absent"
    ):
        load_checkpoint(tmp_path / "absent.pt")


def test_a_file_that_wants_to_run_code_is_refused(tmp_path, capsys):
    path = tmp_path / "file.pt"
    torch.save({"format": FORMAT, "algorithm": Harmful()}, path)
    with pytest.raises(ValueError, match="UnpicklingError"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Harmful(), protocol=2))
    with pytest.raises(ValueError, match="whole robustmarl checkpoint"):
        load_checkpoint(path)
    assert capsys.readouterr().out == ""


def test_weights_travel(tmp_path):
    one, two = qmix(seed=1), qmix(seed=2)
    one.policy.count("episodes", 7)
    save_weights(one, tmp_path / "team.pt")
    load_weights(two, tmp_path / "team.pt")
    for (name, a), b in zip(
        one.policy.state_dict().items(), two.policy.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    assert two.policy.counted("episodes") == 7


def test_an_adversarys_weights_travel(tmp_path):
    one, two = (
        ObsAdversaryPPO.for_env(Scripted(), LinfBall(epsilon=0.1), hidden=(8,), seed=seed)
        for seed in (1, 2)
    )
    save_weights(one, tmp_path / "adversary.pt")
    load_weights(two, tmp_path / "adversary.pt")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_weights_that_do_not_fit_are_refused(tmp_path):
    save_weights(qmix(), tmp_path / "team.pt")
    with pytest.raises(ValueError, match=r"weights of QMIX with these sizes, got a QMIX"):
        load_weights(qmix(width=9), tmp_path / "team.pt")
    with pytest.raises(ValueError, match=r"load_weights\.algorithm must be a QMIX"):
        load_weights(IPPO.for_env(Scripted(), hidden=(8,)), tmp_path / "team.pt")
    save_checkpoint(tmp_path / "other.pt", {"count": 3})
    with pytest.raises(ValueError, match="load_weights"):
        load_weights(qmix(), tmp_path / "other.pt")
