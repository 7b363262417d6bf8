"""The section of a report that repeats what `ppl-vae diagnose` found: verdicts, and their figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ppl_vae.report._html import Section
from ppl_vae.runs.files import read_diagnostics

__all__ = ["diagnosed"]


def diagnosed(run: Path) -> list[Section]:
    """A section for every diagnosis that was made of a run; nothing where there was none."""
    return [_section(run, kind, said) for kind, said in read_diagnostics(run).items()]


def _section(run: Path, kind: str, said: dict[str, Any]) -> Section:
    title = f"Diagnosis: {kind.replace('-', ' ')}"
    picture = run / "figures" / f"diagnosis-{kind}.png"
    shown = picture.is_file() and said.get("summary")
    figures = ((picture.read_bytes(), str(said.get("rows", "")), title),) if shown else ()
    return Section(title, str(said.get("verdict", "")), figures=figures)
