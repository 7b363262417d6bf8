"""The report of a run: its numbers in plain words and its figures, as one self-contained page.

`page` puts it together; every other file is one section, or what sections share: `view` (the rows that are shown and
what the pair makes of them), `album` (their figures), `words`, `html`.
"""

from ppl_vae.reporting._page import write_report
from ppl_vae.reporting._report import report, show

__all__ = ["report", "show", "write_report"]
