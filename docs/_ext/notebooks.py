"""Executed pages as notebooks to download: written into the build, linked in the page's header."""

import re
from pathlib import Path

import nbformat
from myst_nb.core.read import is_myst_markdown_notebook, read_myst_markdown_notebook

FOLDER = "_downloads/notebooks"
DIRECTIVE = re.compile(r"^```\{eval-rst\}\n.*?^```\n?", re.M | re.S)
FIGURE = re.compile(r"!\[(.+?)\]\(.+?\)")
PAGE = re.compile(r"\{doc\}`(?:([^<`]+?) *<)?([^<`>]+?)>?`")
ROLE = re.compile(r"\{\w+\}`(~?)([^`]+)`")


def setup(app):
    """Connect what is below; Sphinx calls it."""
    app.connect("html-page-context", offer)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def offer(app, page, template, context, doctree):
    """Write ``page`` as a notebook if it has code that is executed, and tell its template where."""
    if doctree is None or not page_text(app, page):
        return
    path = Path(app.outdir, FOLDER, f"{page}.ipynb")
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook(app, page), path)
    context["notebook"] = f"{FOLDER}/{page}.ipynb"


def page_text(app, page):
    """Return the source of an executed page, or nothing."""
    source = Path(app.env.doc2path(page))
    text = source.read_text("utf-8") if source.suffix == ".md" else ""
    return text if is_myst_markdown_notebook(text) else ""


def notebook(app, page):
    """Return the page's cells without outputs, with roles as plain text: Jupyter knows none."""
    found = read_myst_markdown_notebook(page_text(app, page))
    found.metadata = {"kernelspec": found.metadata["kernelspec"]}

    def title(match):
        said, target = match.groups()
        return f"*{said or app.env.titles[app.env.relfn2path(target, page)[0]].astext()}*"

    for i, cell in enumerate(found.cells):
        cell.id = f"cell-{i}"  # the same in every build
        if cell.cell_type == "markdown":
            text = FIGURE.sub(r"*Figure: \1*", DIRECTIVE.sub("", cell.source))
            cell.source = ROLE.sub(short, PAGE.sub(title, text))
    nbformat.validate(found)
    return found


def short(match):
    """Return what a role shows: the last part of a name where it begins with a tilde."""
    tilde, name = match.groups()
    return f"`{name.rpartition('.')[2] if tilde else name}`"
