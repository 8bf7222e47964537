"""How the manual is built: ``make docs`` writes it to build/docs."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE / "_extensions"))
os.environ.setdefault("CHAINER_WARN_VERSION_MISMATCH", "0")

import chainrob  # noqa: E402

project = "chainrob"
author = "the chainrob developers"
copyright = "the chainrob developers, MIT license"
release = version = chainrob.__version__

extensions = [
    "mathml",
    "picture_texts",
    "reference_pages",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
# What is included in other pages is no page itself.
exclude_patterns = ["_extensions", "_extra", "_static", "results", "examples"]
suppress_warnings = ["mystnb.unknown_mime_type"]

# -- text

myst_enable_extensions = ["colon_fence", "dollarmath", "deflist", "attrs_block"]
myst_heading_anchors = 3
# As Jupyter makes anchors of headings, so that the links in notebooks work here, too.
myst_heading_slug_func = "reference_pages.jupyter_anchor"
# Notebooks hold their outputs: `make notebooks` executes them, and the tests execute them again.
nb_execution_mode = "off"
nb_merge_streams = True

# -- reference

autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True, "inherited-members": False}
napoleon_numpy_docstring = False
napoleon_use_ivar = True
add_module_names = False
python_display_short_literal_types = True
toc_object_entries_show_parents = "hide"

# -- the report of `chainrob reproduce`, where one is kept

REPORT = HERE.parent / "benchmarks" / "results" / "reproduce" / "report.html"
if REPORT.exists():
    tags.add("report")  # noqa: F821 (Sphinx defines it)

# -- look

WIDE_PAGES = (
    "experiment/many_machines",
    "experiment/report",
    "how_it_works/cost",
    "reference/robustifiers",
    "start/five_minutes",
)
html_theme = "pydata_sphinx_theme"
html_title = "chainrob"
html_static_path = ["_static"]
html_css_files = ["chainrob.css"]
html_extra_path = ["_extra"]
html_math_renderer = "mathml"
html_show_sourcelink = False
html_copy_source = False
# A page of a folder may not fetch other pages, of which the summaries are made.
html_show_search_summary = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": True,
    # Wide tables and long lines of code get the room of the contents.
    "secondary_sidebar_items": {
        "**": ["page-toc"],
        **{page: [] for page in WIDE_PAGES},
    },
    "navbar_align": "left",
    "show_nav_level": 2,
    "header_links_before_dropdown": 8,
    "footer_start": ["copyright"],
    "footer_end": [],
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def copy_from_repository(app: Any, config: Any) -> None:
    """Bring in what stands elsewhere in the repository: notebooks, figures and results."""
    (HERE / "_extra").mkdir(exist_ok=True)
    for source, target in (("notebooks", "tutorials"), ("benchmarks/results", "results")):
        for path in sorted((HERE.parent / source).rglob("*")):
            if path.suffix in {".ipynb", ".png", ".svg", ".md", ".html"}:
                copy(path, HERE / target / path.relative_to(HERE.parent / source))
    if REPORT.exists():
        copy(REPORT, HERE / "_extra" / "report" / "report.html")
    copy(HERE.parent / "CHANGELOG.md", HERE / "contributing" / "changes.md")


def copy(source: Path, target: Path) -> None:
    """Copy a file unless it is there: an unchanged file is not built again."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists() or target.read_bytes() != source.read_bytes():
        shutil.copyfile(source, target)


def setup(app: Any) -> None:
    app.connect("config-inited", copy_from_repository)
