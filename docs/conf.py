"""How Sphinx builds this folder into the site: ``make docs``."""

from evenkeel import __version__

project = "evenkeel"
author = "The evenkeel maintainers"
project_copyright = "The evenkeel maintainers, Apache-2.0"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinxcontrib.katex",
]
exclude_patterns = ["_static"]

# Pages are Markdown as a repository host shows it; docstrings are reStructuredText with formulas.
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4  # links to headings are checked, too

default_role = "py:obj"  # `name` in a docstring links to what it names, where the site has it
autodoc_typehints_format = "short"
autodoc_type_aliases = {"Floats": "Floats"}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
maximum_signature_line_length = 88
napoleon_use_ivar = True
python_use_unqualified_type_names = True

# The style sheet and fonts are those of the KaTeX that sphinxcontrib-katex brings: 0.16.22.
katex_css_path = "katex/katex.min.css"
katex_options = "throwOnError: false"

html_theme = "furo"
html_title = f"evenkeel {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_logo = html_favicon = "../dashboard/assets/icon.svg"
html_copy_source = False
html_show_sphinx = False
