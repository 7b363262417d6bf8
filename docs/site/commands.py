"""The directive `{commands}`: the help of every command, as it prints it."""

from __future__ import annotations

import contextlib
import io
import os
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive


def help_of(*words: str) -> str:
    """What `ppl-vae WORDS --help` prints."""
    from ppl_vae.cli import main

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        main([*words, "--help"])
    return said.getvalue().strip("\n")


class Commands(Directive):
    """A section for the program and for each command."""

    def run(self) -> list[nodes.Node]:
        """Sections with a literal block."""
        from ppl_vae.cli import COMMANDS

        os.environ["COLUMNS"] = os.environ["TERMINAL_WIDTH"] = "100"
        sections = []
        for words in [(), *((name,) for name in COMMANDS if name != "compare-cell")]:
            title = " ".join(("ppl-vae", *words))
            section = nodes.section(ids=[nodes.make_id(title)], names=[title])
            block = nodes.literal_block("", help_of(*words), language="text")
            section += [nodes.title("", title), block]
            sections.append(section)
        return sections


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
