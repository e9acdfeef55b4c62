"""Sphinx's settings for the site; ``python -m website`` passes the folder of the staged pages."""

project = "Airlock"
copyright = "Airlock's authors"  # noqa: A001  # Sphinx's name
root_doc = "docs/index"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
nitpicky = False  # Airflow's and boto3's own names have no page here

# GitHub gives these anchors to headings, and the pages link to them.
myst_heading_anchors = 6

# The code's docstrings follow numpy's convention. Inherited members are described where they are defined.
napoleon_google_docstring = False
autodoc_typehints = "signature"
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = "Airlock"
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
