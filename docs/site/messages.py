"""The directive `{messages} ROOM`: every message that a room of the package raises."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from raised import all_messages


def _text(says: str) -> list[nodes.Node]:
    """What a message says, with its values set in italics."""
    pieces = re.split(r"(⟨[^⟨⟩]*⟩)", says)
    return [nodes.emphasis("", p[1:-1]) if p.startswith("⟨") else nodes.Text(p) for p in pieces if p]


class Messages(Directive):
    """`{messages} data`: the messages of ppl_vae.data, each with its module, and its remedy where that stands apart."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """One bullet list."""
        listed = nodes.bullet_list()
        seen = set()
        for message in all_messages():
            if message.room != self.arguments[0] or (message.says, message.remedy) in seen:
                continue
            if not re.sub("⟨[^⟨⟩]*⟩", "", message.says).strip(" :;,."):
                continue  # made elsewhere, and passed on
            seen.add((message.says, message.remedy))
            says = nodes.paragraph("", "", *_text(message.says))
            if message.remedy:
                says += [nodes.Text(" "), nodes.strong("", "Remedy: "), *_text(message.remedy)]
            says += [nodes.Text("  "), nodes.literal("", message.module)]
            listed += nodes.list_item("", says)
        return [listed]


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("messages", Messages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
