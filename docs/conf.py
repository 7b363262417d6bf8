"""Settings of the documentation site: `pip install -e ".[docs]" && make -C docs html`.

The Markdown pages of this folder are the pages of the site. A build executes nothing: pages hold what they printed when
`docs/execute.py` or `docs/notebooks.py` ran them, and tests run them again. Inventories of other projects are the only
thing that a build reads from the network, with `PPL_VAE_INVENTORIES=1`; without it links to other projects stay plain
text, so that a build without network has no warnings.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "site"))

project = "ppl-vae"
author = "the ppl-vae authors"
project_copyright = author
version = release = importlib.metadata.version("ppl-vae")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "commands",
    "docstrings",
    "messages",
    "outside",
]
exclude_patterns = ["_build", "data/*", "site/*", "**/.ipynb_checkpoints"]

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
myst_links_external_new_tab = True
nb_execution_mode = "off"  # notebooks hold what they printed; a slow test runs them
nb_merge_streams = True

autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings say shapes and units, which annotations do not
napoleon_numpy_docstring = False
default_role = "literal"  # docstrings write `code` with one backtick, as Markdown does

intersphinx_mapping = (
    {
        "python": ("https://docs.python.org/3", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "pyro": ("https://docs.pyro.ai/en/stable", None),
        "sklearn": ("https://scikit-learn.org/stable", None),
        "arviz": ("https://python.arviz.org/en/stable", None),
        "pandas": ("https://pandas.pydata.org/docs", None),
    }
    if os.environ.get("PPL_VAE_INVENTORIES")
    else {}
)
intersphinx_timeout = 20

html_theme = "furo"
html_title = "ppl-vae"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_extra_path = ["llms.txt"]
html_show_sphinx = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

linkcheck_timeout = 20
linkcheck_retries = 2
