"""The section of a report that repeats what `ppl-vae diagnose` found: verdicts, and their figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ppl_vae.errors import UserError
from ppl_vae.report.html import Section

__all__ = ["diagnosed", "read_diagnostics"]


def diagnosed(run: Path) -> list[Section]:
    """A section for every diagnosis that was made of a run; nothing where there was none."""
    return [_section(run, kind, said) for kind, said in read_diagnostics(run).items()]


def _section(run: Path, kind: str, said: dict[str, Any]) -> Section:
    title = f"Diagnosis: {kind.replace('-', ' ')}"
    picture = run / "figures" / f"diagnosis-{kind}.png"
    shown = picture.is_file() and said.get("summary")
    figures = ((picture.read_bytes(), str(said.get("rows", "")), title),) if shown else ()
    return Section(title, str(said.get("verdict", "")), figures=figures)


def read_diagnostics(run: Path) -> dict[str, dict[str, Any]]:
    """What RUN/diagnostics.json holds; nothing if there is none.

    Raises:
        UserError: if it is damaged.

    Example:
        >>> read_diagnostics(Path("nowhere"))
        {}
    """
    file = run / "diagnostics.json"
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {str(kind): dict(said) for kind, said in dict(found).items()}
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} cannot be read ({error}): delete it and run `ppl-vae diagnose` again") from error
