"""What `ppl-vae compare` does: runs that are there, or a grid that is trained; what was found is told and written."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ppl_vae.cli.files import as_json
from ppl_vae.cli.inputs import SPLITS, open_words, rows_of
from ppl_vae.cli.output import Interrupted, note, print_table, say, spared, terminal_width
from ppl_vae.errors import UserError, unknown_name
from ppl_vae.registry.rows import DataWords, folder_word

if TYPE_CHECKING:
    from ppl_vae.comparison.compare import Comparison
    from ppl_vae.comparison.grid import Grid
    from ppl_vae.runs.folder import Run

__all__ = ["compare_grid", "compare_runs"]


def compare_runs(
    paths: list[Path],
    words: DataWords,
    split: str | None,
    judged: Mapping[str, Any],
    device: str,
    own: tuple[str | None, str | None],
    out: Path | None,
    json_: bool,
    figure_format: str = "png",
) -> None:
    """Compare runs that are there, on the same rows."""
    if split is not None and split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    names = _names(paths)
    out = None if out is None else out.expanduser()
    _refuse_folder(out)
    opened = {name: _open(path, own, device) for name, path in names.items()}
    if words.data is None:
        _same_data(opened)
    import ppl_vae

    rows, where = rows_of(next(iter(opened.values())), words, split)
    if judged["certified"] is not None:
        note(f"certifies log p(x) of {len(rows):,} rows of {len(opened)} runs, which takes minutes for each")
    found = ppl_vae.compare(opened, rows, **judged)
    found = _renamed(found, f"{where} rows" if words.data is None else f"rows: {where}")
    _tell(found, {name: [path] for name, path in names.items()}, out, json_, figure_format)


def _renamed(found: Comparison, where: str) -> Comparison:
    from dataclasses import replace

    return replace(found, where=where)


def _names(paths: list[Path]) -> dict[str, Path]:
    """Runs by the last part of their path, or by all of it where that is not enough."""
    short = [path.resolve().name for path in paths]
    names = short if len(set(short)) == len(short) else [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise UserError("a run folder is there twice: name each once")
    return dict(zip(names, paths, strict=True))


def _open(path: Path, own: tuple[str | None, str | None], device: str) -> Run:
    """A run; a user's program is passed on to those that were trained with one."""
    from ppl_vae.runs.files import read_run

    info = read_run(path)
    theirs = ["file" in info[role] for role in ("model", "guide")]
    words = [word if is_own else None for word, is_own in zip(own, theirs, strict=True)]
    return open_words(path, words[0], words[1], device)


def _same_data(opened: Mapping[str, Run]) -> None:
    (first, one), *others = opened.items()
    a = one.info["data"]["source"]
    for name, run in others:
        b = run.info["data"]["source"]
        if a.get("sha256", a.get("name")) != b.get("sha256", b.get("name")):
            raise UserError(
                f"{first} was trained on {one.info['data']['name']}, {name} on {run.info['data']['name']}: say with "
                "--data on which rows to compare them"
            )


def compare_grid(
    grid: Grid,
    judged: Mapping[str, Any],
    jobs: int | None,
    out: Path | None,
    resume: bool,
    json_: bool,
    figure_format: str = "png",
) -> None:
    """Train a grid, or go on with it, and compare its cells."""
    from ppl_vae.runs.place import last_numbered, made

    base = Path("runs") / f"compare-{folder_word(str(grid.training['data']))}" if out is None else out.expanduser()
    place = last_numbered(base) if out is None and resume else base
    if resume and not (place / "grid.json").is_file():
        raise UserError(f"there is nothing to continue in {place} (it has no grid.json): leave --resume out")
    with made(place, numbered=out is None and not resume) as place:
        _train_grid(grid, judged, jobs, place, resume, json_, figure_format)


def _train_grid(
    grid: Grid, judged: Mapping[str, Any], jobs: int | None, out: Path, resume: bool, json_: bool, figure_format: str
) -> None:
    from ppl_vae.cli.progress import CellsDisplay
    from ppl_vae.comparison.cells import train_grid

    headline = (
        f"{len(grid.cells)} cells: {' x '.join(f'{len(w)} {f}s' for f, w in grid.levels.items()) or '1 pair'}, "
        f"{grid.seeds} seed{'s' * (grid.seeds > 1)}, on {grid.training['data']}; runs in {out}"
    )
    try:
        found = train_grid(
            grid, out, **judged, jobs=jobs, resume=resume, watch=lambda n, done: CellsDisplay(n, done, headline)
        )
    except KeyboardInterrupt as stop:
        then = f"go on with the same options and --resume --out {out}"
        raise Interrupted(then if (out / "grid.json").is_file() else "nothing was written") from stop
    if found.comparison is not None:
        _tell(found.comparison, found.runs, out, json_, figure_format)
    elif json_:
        typer.echo(json.dumps(as_json({"out": out, "failed": found.failed}), indent=2, ensure_ascii=False))
    if found.failed:
        for name, reason in found.failed.items():
            note(f"{name} failed: {reason}")
        raise typer.Exit(1)


def say_commands(grid: Grid, judged: Mapping[str, Any], out: Path) -> None:
    """Make the folder of a grid and print a command for every cell, to be run anywhere where that folder is."""
    from ppl_vae.comparison.cells import claim_grid
    from ppl_vae.comparison.grid import FACTORS

    claim_grid(grid, out, judged["particles"])
    words = ["ppl-vae", "compare", "--seeds", str(grid.seeds)]
    words += [word for f in FACTORS for word in (f"--{f}s", ",".join(getattr(grid, f"{f}s")))]
    told = {**grid.training, "particles": judged["particles"], "seed": judged["seed"]}
    if judged["iwae"] is not None:
        told["iwae"] = ",".join(map(str, judged["iwae"]))
    if judged["certified"] is not None:
        told["certified"] = judged["certified"]
    words += [word for name, value in told.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    for cell in grid.cells:
        typer.echo(shlex.join([*words, "--out", str(out), "--cell", cell.folder]))
    note(f"{len(grid.cells)} commands; when they are done: {shlex.join([*words, '--out', str(out), '--resume'])}")


def compare_cell_of(grid: Grid, judged: Mapping[str, Any], out: Path, cell: str) -> None:
    """Train and judge one cell of a grid whose folder is there, or go on with it."""
    from ppl_vae.cli.progress import CellsDisplay
    from ppl_vae.comparison.cells import judged_by, train_cell

    if not (out / "grid.json").is_file():
        raise UserError(f"{out} has no grid.json: print the commands anew, --print-commands")
    try:
        with CellsDisplay(1, 0, f"{cell} of {out}") as watcher:
            reason = train_cell(grid, cell, out, judged_by(**judged), watcher)
    except KeyboardInterrupt as stop:
        raise Interrupted("the same command goes on with it") from stop
    if reason is not None:
        raise typer.Exit(1)


def _refuse_folder(out: Path | None) -> None:
    from ppl_vae.runs.place import refuse_existing

    if out is not None:
        refuse_existing(out)


def _tell(found: Comparison, runs: Mapping[str, list[Path]], out: Path | None, json_: bool, figure_format: str) -> None:
    """Print and write what was found."""
    record = found.summary() | {"runs": runs}
    if json_:
        typer.echo(json.dumps(as_json({"out": out, **record}), indent=2, ensure_ascii=False))
    else:
        print_table(found.table(terminal_width()))
        say(found.verdict)
    if out is not None:
        with spared("the comparison"):
            written = _write(found, record, out, figure_format)
            if not json_:
                say(f"written: {', '.join(map(str, written))}")


def _write(found: Comparison, record: Mapping[str, Any], out: Path, ending: str) -> list[Path]:
    from ppl_vae import plots
    from ppl_vae.saving.atomic import write_json

    figure = found.figure()
    written = [write_json(out / "compare.json", as_json(record)), plots.save(figure, out / f"compare.{ending}")]
    if "beta" in found.levels:
        written.append(plots.save(found.rate_distortion(), out / f"rate-distortion.{ending}"))
    return written
