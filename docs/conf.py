"""Sphinx configuration of the documentation site: `make docs`."""

from malaria import __version__

project = "malaria-cells"
author = project_copyright = "The malaria-cells authors"
release = __version__
html_theme = "furo"
html_title = f"malaria-cells {release}"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
# docs/README.md is the list of pages for readers on GitHub.
exclude_patterns = ["README.md"]
default_role = "code"  # docstrings are written in Markdown
autodoc_member_order = "bysource"
autodoc_typehints = "description"
myst_heading_anchors = 3
nb_execution_mode = "off"  # tests/test_documentation.py runs the notebook
