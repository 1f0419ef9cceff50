"""Files that are whole or not there, and that load without running code."""

import pickle

import pytest
import torch
from doubles import Scripted

from robustmarl.adversaries import ObsAdversaryPPO
from robustmarl.algorithms import IPPO, QMIX
from robustmarl.budgets import LinfBall
from robustmarl.training import load_checkpoint, load_weights, save_weights
from robustmarl.training.checkpoints import FORMAT, save_checkpoint

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
    save_checkpoint(path, {"count": 5})  # what was left of the failure is in nobody's way
    assert load_checkpoint(path)["count"] == 5


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
    with pytest.raises(FileNotFoundError):
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
    with pytest.raises(ValueError, match=r"weights of IPPO with these sizes, got a QMIX"):
        load_weights(IPPO.for_env(Scripted(), hidden=(8,)), tmp_path / "team.pt")
    save_checkpoint(tmp_path / "other.pt", {"count": 3})
    with pytest.raises(ValueError, match="load_weights"):
        load_weights(qmix(), tmp_path / "other.pt")
