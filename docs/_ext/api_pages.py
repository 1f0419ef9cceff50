"""What the templates of API pages need to know: who offers what.

docs/api.md lists the packages. Their pages are made of ``_templates/tables/<package>.rst``; what
these leave out is told after them, and a package without such a file has one table of all.
"""

import importlib
import pkgutil
import re
from pathlib import Path

from sphinx.pycode import ModuleAnalyzer

import robustmarl

DOCS = Path(__file__).parent.parent
PACKAGES = [f"robustmarl.{name}" for name in robustmarl.__all__]
MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(robustmarl.__path__, "robustmarl.")
    if not any(part.startswith("_") for part in name.split("."))
]


def offered(module):
    """Return the names in the module's ``__all__``."""
    return importlib.import_module(module).__all__


def elsewhere(module):
    """Return what ``module`` offers and packages above it do, too: it has its page there."""
    parts = module.split(".")
    above = [".".join(parts[:depth]) for depth in range(2, len(parts))]
    known = {name for package in above for name in offered(package)}
    return [name for name in offered(module) if name in known]


def told(package):
    """Return what is in the tables of ``package``."""
    tables = DOCS / "_templates/tables" / f"{package.rpartition('.')[2]}.rst"
    lines = tables.read_text("utf-8") if tables.exists() else ""
    return re.findall(r"^   (\w[\w.]*)$", lines, re.M)


def context():
    """Return what ``autosummary_context`` holds."""
    return {
        "elsewhere": {module: elsewhere(module) for module in MODULES},
        "untold": {
            package: [name for name in offered(package) if name not in told(package)]
            for package in PACKAGES
        },
        "tables": [
            f"{package}.{name}"
            for package in PACKAGES
            for name in offered(package)
            if isinstance(getattr(importlib.import_module(package), name), dict)
        ],
    }


def filenames():
    """Return the pages of functions that a class is named like: one file where case is ignored."""
    names = [f"{package}.{name}" for package in PACKAGES for name in offered(package)]
    lower = [name.lower() for name in names]
    return {
        name: f"{name}-function"
        for name in names
        if lower.count(name.lower()) > 1 and name.islower()
    }


def forget(folder):
    """Remove pages of what is no longer there; the others are written anew if they change."""
    names = {*MODULES, *(f"{module}.{name}" for module in MODULES for name in offered(module))}
    for page in folder.glob("robustmarl.*.rst"):
        if page.stem.removesuffix("-function") not in names:
            page.unlink()


def setup(app):
    """Connect what is below; Sphinx calls it."""
    forget(DOCS / "api")
    app.connect("autodoc-process-docstring", describe_data)
    app.connect("html-page-context", collapse, priority=400)  # before furo asks for the tree
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def collapse(app, page, template, context, doctree):
    """Show in the sidebar only the branch that ``page`` is on: hundreds of objects have a page."""
    if whole := context.get("toctree"):
        context["toctree"] = lambda **settings: whole(**{**settings, "collapse": True})


def describe_data(app, what, name, obj, options, lines):
    """Take what is said of a constant or an alias from the module that defines it.

    A package imports it, and all that autodoc finds there is the docstring of its type.
    """
    if what != "data":
        return
    package, _, short = name.rpartition(".")
    below = [module for module in MODULES if module == package or module.startswith(f"{package}.")]
    for module in below:
        if found := ModuleAnalyzer.for_module(module).find_attr_docs().get(("", short)):
            lines[:] = found
            return
    if lines == (type(obj).__doc__ or "").splitlines():
        lines.clear()
