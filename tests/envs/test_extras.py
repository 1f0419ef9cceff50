"""Optional packages stay optional."""

import builtins
import subprocess
import sys

import pytest

from robustmarl import envs


def test_importing_the_package_imports_no_extra():
    code = (
        "import sys, robustmarl.envs;"
        "extras = {'mpe2', 'lbforaging', 'highway_env', 'magent2', 'pygame', 'pyglet', 'smac'};"
        "print(sorted(extras & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("make", "package", "extra"),
    [
        (envs.spread, "mpe2", "mpe"),
        (envs.gather, "mpe2", "mpe"),
        (envs.foraging, "lbforaging", "foraging"),
        (envs.merge, "highway_env", "highway"),
        (envs.battle, "magent2", "magent"),
        (envs.pursuit, "magent2", "magent"),
    ],
)
def test_missing_extra_names_the_command(monkeypatch, make, package, extra):
    for name in [n for n in sys.modules if n.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=rf'{package}.*pip install "robustmarl\[{extra}\]"'):
        make()


def test_names_are_sorted_and_exist():
    assert envs.__all__ == sorted(envs.__all__)
    assert all(hasattr(envs, name) for name in envs.__all__)
