"""What the command line's tests share: a folder of their own, and what reports were given."""

import sys

import pytest

from robustmarl import evaluation


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to type in; modules that are found there are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_envs", raising=False)
    yield tmp_path
    sys.modules.pop("my_envs", None)


@pytest.fixture
def reported(monkeypatch):
    """What the last report was made of: findings and keywords."""
    told, report = {}, evaluation.report

    def spy(found, path, **keywords):
        told.update(keywords, found=found)
        return report(found, path, **keywords)

    monkeypatch.setattr(evaluation, "report", spy)
    return told
