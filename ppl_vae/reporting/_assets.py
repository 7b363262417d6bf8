"""The style and the script of a page: files of this package, written into the page, the script known by its hash."""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib.resources import files

__all__ = ["policy", "script", "style"]


@functools.cache
def style() -> str:
    """The style sheet."""
    return _read("page.css")


@functools.cache
def script() -> str:
    """The script: what every page does, the decoder, and what moves."""
    return "\n".join(_read(name) for name in ("page.js", "decode.js", "explore.js"))


def policy() -> str:
    """The content security policy: pictures of the page itself, this script and no other, no network, no eval."""
    digest = base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _read(name: str) -> str:
    return files("ppl_vae.reporting").joinpath(name).read_text(encoding="utf-8")
