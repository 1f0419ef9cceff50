"""Sphinx configuration: MyST pages, executed tutorials, API pages from docstrings."""

import sys
from pathlib import Path

import robustmarl

sys.path.append(str(Path(__file__).parent / "_ext"))

import api_pages

project = "robustmarl"
author = "The robustmarl developers"
copyright = author
version = release = robustmarl.__version__

extensions = [
    "myst_nb",
    "sphinx-mathjax-offline",  # equations without a network
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "api_pages",
    "notebooks",
]
exclude_patterns = ["_build", "_ext", "_templates", "jupyter_execute"]
templates_path = ["_templates"]

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_render_markdown_format = "myst"  # CommonMark, the default, has no tables

autodoc_default_options = {"members": True, "imported-members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

autosummary_context = api_pages.context()
autosummary_filename_map = api_pages.filenames()

suppress_warnings = ["ref.citation"]  # references that no docstring cites

# Names that have no page here: other packages' classes, type variables, aliases by their short
# names, private bases. Full names of ours must resolve.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!robustmarl\.).*"),
    (r"py:.*", r"robustmarl\.(.+\.)?_.*"),
]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["notebook.css"]
html_title = f"robustmarl {release}"
html_theme_options = {"navigation_with_keys": True}
