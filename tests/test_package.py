"""The package as a whole: cheap import, documented names, one version, no output."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import robustmarl

PACKAGE = Path(robustmarl.__file__).parent
PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
TRIED = ("mpe", "foraging", "highway", "magent", "supersuit", "video", "test")
HEAVY = ("torch", "tianshou", "numpy", "matplotlib", "pettingzoo", "mpe2", "lbforaging")
HEAVY = (*HEAVY, "magent2", "highway_env")
MODULES = sorted(
    name
    for _, name, _ in pkgutil.walk_packages([str(PACKAGE)], "robustmarl.")
    if not any(part.startswith("_") for part in name.split("."))
)


def test_import_is_cheap():
    code = f"import sys, robustmarl; print([m for m in {HEAVY} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


def test_environment_packages_are_imported_on_use_only():
    """Core installs lack them; importing the constructors must not need them."""
    code = (
        "import sys, robustmarl.envs;"
        "extras = ('mpe2', 'lbforaging', 'highway_env', 'magent2', 'supersuit', 'pygame');"
        "print([m for m in extras if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


def test_lazy_subpackages_are_listed_and_exist():
    assert set(robustmarl.__all__) <= set(dir(robustmarl))
    for name in robustmarl.__all__:
        assert getattr(robustmarl, name).__name__ == f"robustmarl.{name}"


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="has no attribute 'atacks'"):
        robustmarl.atacks  # noqa: B018


@pytest.mark.parametrize("name", MODULES)
def test_public_names_exist_and_are_documented(name):
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    public = getattr(module, "__all__", None)
    assert public is not None, f"{name} has no __all__"
    assert len(set(public)) == len(public)
    missing = [n for n in public if not hasattr(module, n)]
    assert missing == []
    objects = {n: getattr(module, n) for n in public}
    documented = (type, type(inspect.getdoc))
    bare = [n for n, o in objects.items() if isinstance(o, documented) and not inspect.getdoc(o)]
    assert bare == [], f"{name}: no docstring"


def test_version():
    project = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]
    assert robustmarl.__version__ == project["version"]


def test_is_typed():
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.name))
def test_never_prints(path):
    calls = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)]
    prints = [n.lineno for n in calls if isinstance(n.func, ast.Name) and n.func.id == "print"]
    assert prints == [], f"{path} prints"


def test_the_lowest_versions_are_those_that_are_tried():
    """What ``make test-lowest`` installs must be what pyproject.toml allows."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(r for extra in TRIED for r in extras[extra])]
    lowest = {}
    for requirement in map(Requirement, wanted):
        (bound,) = [s.version for s in requirement.specifier if s.operator in (">=", "==")]
        lowest[canonicalize_name(requirement.name)] = Version(bound)
    lines = PYPROJECT.with_name("constraints-lowest.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    assert {canonicalize_name(name): Version(version) for name, version in pins} == lowest
