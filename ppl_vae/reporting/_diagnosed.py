"""The section of a report that repeats what `ppl-vae diagnose` found: verdicts, and their figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ppl_vae.reporting._html import Picture, Section, Verdict
from ppl_vae.runs.files import read_diagnostics

__all__ = ["diagnosed", "verdicts_of"]


def diagnosed(run: Path) -> list[Section]:
    """A section for every diagnosis that was made of a run; nothing where there was none."""
    return [_section(run, kind, said) for kind, said in read_diagnostics(run).items()]


def title_of(kind: str) -> str:
    """What the section of a diagnosis is called."""
    return f"Diagnosis: {kind.replace('-', ' ')}"


def verdicts_of(run: Path) -> list[Verdict]:
    """A line for every diagnosis: what those say that know yes and no, and of the others their first sentence."""
    return [_line(kind, said) for kind, said in read_diagnostics(run).items() if said.get("summary")]


def _line(kind: str, said: dict[str, Any]) -> Verdict:
    summary = said["summary"]
    words = f"{kind.replace('-', ' ')}: {str(said['verdict']).split('. ')[0].rstrip('.')}"
    sure = summary.get("calibrated") if "calibrated" in summary else None
    if "collapsed" in summary:
        sure = not summary["collapsed"]
    return Verdict("read" if sure is None else "believed" if sure else "not", words, title_of(kind))


def _section(run: Path, kind: str, said: dict[str, Any]) -> Section:
    title = title_of(kind)
    picture = run / "figures" / f"diagnosis-{kind}.png"
    shown = picture.is_file() and said.get("summary")
    words = f"{title}: {said.get('verdict', '')}"
    figures = (Picture(picture.read_bytes(), str(said.get("rows", "")), words),) if shown else ()
    return Section(title, str(said.get("verdict", "")), figures=figures)
