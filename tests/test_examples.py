"""Examples in docstrings: they run, print what they say, and no part of the API lacks one."""

import doctest
import importlib
import pkgutil

import pytest
from matplotlib import pyplot as plt

import robustmarl

MODULES = [
    importlib.import_module(name)
    for _, name, _ in pkgutil.walk_packages(robustmarl.__path__, "robustmarl.")
    if not name.endswith("__main__")
]
FINDER = doctest.DocTestFinder(exclude_empty=True)
EXAMPLES = {
    example.name: example
    for module in MODULES
    for example in FINDER.find(module, module.__name__)
    if example.examples
}


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_example(name, tmp_path, monkeypatch):
    """In an empty folder, that examples which write may; warnings are errors here as elsewhere."""
    monkeypatch.chdir(tmp_path)
    found = []
    runner = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST)
    try:
        runner.run(EXAMPLES[name], out=found.append)
    finally:
        plt.close("all")
    assert runner.failures == 0, "".join(found)
