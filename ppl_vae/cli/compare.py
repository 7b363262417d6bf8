"""`ppl-vae compare`: runs that are there, or a grid that is trained for the purpose, on the same held-out rows."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppl_vae.cli import options as o
from ppl_vae.cli.inputs import SPLITS, open_words, rows_of
from ppl_vae.cli.output import Interrupted, as_json, note, print_table, say, spared, terminal_width
from ppl_vae.errors import UserError, unknown_name
from ppl_vae.registry.rows import DataWords
from ppl_vae.registry.words import check_choice, check_whole, split_words, whole_numbers

if TYPE_CHECKING:
    from ppl_vae.comparison.compare import Comparison
    from ppl_vae.comparison.grid import Grid
    from ppl_vae.runs.folder import Run

__all__ = ["compare", "compare_cell", "words_of"]

Words = Annotated[str | None, typer.Option(metavar="A,B")]


@o.with_settings(before="warm_up", without=("seed", "device"), unsaid=True)
def compare(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Run folders; without any, a grid is trained.")
    ] = None,
    models: Annotated[str | None, typer.Option(metavar="A,B", help="Of the grid.", show_default="vae")] = None,
    guides: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Of the grid, with options as spline:flows=2.", show_default="the model's"),
    ] = None,
    bounds: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Of the grid, as trace_elbo,iwae:particles=16.", show_default="elbo"),
    ] = None,
    priors: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Of the grid, as own,mixture:components=50.", show_default="own, the model's"),
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Trainings of each combination.", show_default="3")] = None,
    particles: Annotated[int, typer.Option(help="Draws per row of the evaluation.")] = 1000,
    iwae: Annotated[
        str | None,
        typer.Option(metavar="K,K", help="Particles of the bounds that are told.", show_default="1,5,10,50,100,500"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the evaluation; a grid trains with seeds 0, 1, ....")] = 0,
    data: Annotated[
        str | None,
        typer.Option(help="A data set or a file.", show_default="digits; of runs their own"),
    ] = None,
    split: o.SplitName = None,
    label: o.LabelOption = None,
    columns: o.ColumnsOption = None,
    missing: o.MissingOption = "refuse",
    binarise: Annotated[
        str | None, typer.Option(metavar="dynamic|static|none", help="As for fit; so are the options that follow.")
    ] = None,
    likelihood: Annotated[str | None, typer.Option()] = None,
    latent_dim: Annotated[int | None, typer.Option()] = None,
    hidden: Annotated[str | None, typer.Option(metavar="N,N")] = None,
    warm_up: Annotated[
        float | None, typer.Option(show_default="as for fit; 0 for all if a bound is Pyro's own")
    ] = None,
    device: o.DeviceOption = "auto",
    jobs: Annotated[
        str, typer.Option(metavar="auto|N", help="Processes at once: one for each core; on CUDA one.")
    ] = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="compare.json, figures and runs.", show_default="runs/compare-DATA, -2, ..."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on in the folder: what is finished is kept.")] = False,
    model: o.OwnModel = None,
    guide: o.OwnGuide = None,
    json_: o.JsonOption = False,
    **settings: Any,
) -> None:
    """Compare runs, or train a grid and compare it.

    On the same held-out rows with as many particles: ELBO, IWAE-K, log evidence, paired differences with their
    errors, and a verdict. A grid writes compare.json, compare.png and a run folder for each cell.
    """
    check_whole("--particles", particles, 1)
    check_whole("--seed", seed, 0)
    check_choice("--missing", missing, ("refuse", "allow"))
    rungs = _rungs(iwae, particles)
    factors = {"models": models, "guides": guides, "bounds": bounds, "priors": priors}
    training: dict[str, Any] = {
        "label": label,
        "columns": columns,
        "binarise": binarise,
        "likelihood": likelihood,
        "latent_dim": latent_dim,
        "hidden": hidden,
        "warm_up": warm_up,
        **settings,
    }
    judged = {"particles": particles, "iwae": rungs, "seed": seed}
    if runs:
        _refuse_both(
            {**factors, "seeds": seeds, **{k: v for k, v in training.items() if k not in ("label", "columns")}}
        )
        if resume:
            raise UserError("--resume is for a grid: leave it out, runs are there already")
        words = DataWords(data, label, split_words("--columns", columns), missing)
        _compare_runs(runs, words, split, judged, device, (model, guide), out, json_)
        return
    for option, value in (("--split", split), ("--model", model), ("--guide", guide)):
        if value is not None:
            raise UserError(f"{option} is for run folders: a grid takes --models and --guides, and its test split")
    training |= {"missing": None if missing == "refuse" else missing, "data": data}
    training["device"] = None if device == "auto" else device
    grid = _grid(factors, seeds, {name: value for name, value in training.items() if value is not None})
    _compare_grid(grid, judged, _jobs(jobs), out, resume, json_)


# -- words -------------------------------------------------------------------------------------------------


def words_of(option: str, text: str | None) -> tuple[str, ...] | None:
    """The names of "a,b", where a name may have options with commas of their own.

    Example:
        >>> words_of("--priors", "own,mixture:components=50,learn=false,vamp_prior")
        ('own', 'mixture:components=50,learn=false', 'vamp_prior')
    """
    if text is None:
        return None
    found: list[str] = []
    for part in split_words(option, text) or ():
        if re.match(r"\w+\s*=", part) and found and ":" in found[-1]:
            found[-1] += f",{part}"
        else:
            found.append(part)
    return tuple(found)


def _rungs(text: str | None, particles: int) -> tuple[int, ...] | None:
    rungs = whole_numbers("--iwae", text)
    for k in rungs or ():
        if k > particles:
            raise UserError(f"--iwae {k} is more than --particles {particles}: draw more particles")
    return rungs


def _jobs(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--jobs must be auto or a whole number of at least 1, got {text!r}")
    return int(text)


def _refuse_both(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if value is not None:
            raise UserError(f"--{name.replace('_', '-')} is for a grid, which is trained: give that or run folders")


def _grid(factors: Mapping[str, str | None], seeds: int | None, training: Mapping[str, Any]) -> Grid:
    if all(text is None for text in factors.values()) and seeds is None:
        raise UserError("expected run folders, or a grid such as --guides mean_field,iaf or --bounds trace_elbo,iwae")
    check_whole("--seeds", seeds, 1)
    words = {name: words_of(f"--{name}", text) for name, text in factors.items()}
    from ppl_vae.comparison.grid import Grid

    given: dict[str, Any] = {name: found for name, found in words.items() if found is not None}
    return Grid(**given, seeds=3 if seeds is None else seeds, training=training)


# -- runs that are there -----------------------------------------------------------------------------------


def _compare_runs(
    paths: list[Path],
    words: DataWords,
    split: str | None,
    judged: Mapping[str, Any],
    device: str,
    own: tuple[str | None, str | None],
    out: Path | None,
    json_: bool,
) -> None:
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
    found = ppl_vae.compare(opened, rows, **judged)
    found = _renamed(found, f"{where} rows" if words.data is None else f"rows: {where}")
    _tell(found, {name: [path] for name, path in names.items()}, out, json_)


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


# -- a grid ------------------------------------------------------------------------------------------------


def _compare_grid(
    grid: Grid, judged: Mapping[str, Any], jobs: int | None, out: Path | None, resume: bool, json_: bool
) -> None:
    from ppl_vae.runs.place import last_numbered, made

    base = Path("runs") / f"compare-{Path(str(grid.training['data'])).stem}" if out is None else out.expanduser()
    place = last_numbered(base) if out is None and resume else base
    if resume and not (place / "grid.json").is_file():
        raise UserError(f"there is nothing to continue in {place} (it has no grid.json): leave --resume out")
    with made(place, numbered=out is None and not resume) as place:
        _train_grid(grid, judged, jobs, place, resume, json_)


def _train_grid(grid: Grid, judged: Mapping[str, Any], jobs: int | None, out: Path, resume: bool, json_: bool) -> None:
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
        _tell(found.comparison, found.runs, out, json_)
    elif json_:
        typer.echo(json.dumps(as_json({"out": out, "failed": found.failed}), indent=2, ensure_ascii=False))
    if found.failed:
        for name, reason in found.failed.items():
            note(f"{name} failed: {reason}")
        raise typer.Exit(1)


def _refuse_folder(out: Path | None) -> None:
    from ppl_vae.runs.place import refuse_existing

    if out is not None:
        refuse_existing(out)


def _tell(found: Comparison, runs: Mapping[str, list[Path]], out: Path | None, json_: bool) -> None:
    """Print and write what was found."""
    record = found.summary() | {"runs": runs}
    if json_:
        typer.echo(json.dumps(as_json({"out": out, **record}), indent=2, ensure_ascii=False))
    else:
        print_table(found.table(terminal_width()))
        say(found.verdict)
    if out is not None:
        with spared("the comparison"):
            written = _write(found, record, out)
            if not json_:
                say(f"written: {', '.join(map(str, written))}")


def _write(found: Comparison, record: Mapping[str, Any], out: Path) -> list[Path]:
    from ppl_vae import plots
    from ppl_vae.saving.atomic import write_json

    figure = found.figure()
    return [write_json(out / "compare.json", as_json(record)), plots.save(figure, out / "compare.png")]


# -- one cell ----------------------------------------------------------------------------------------------


def compare_cell(
    run: o.RunFolder,
    particles: Annotated[int, typer.Option()] = 1000,
    iwae: Annotated[str, typer.Option()] = "1",
    seed: o.Seed = 0,
    model: o.OwnModel = None,
    guide: o.OwnGuide = None,
    device: o.DeviceOption = "auto",
) -> None:
    """Judge a cell of a grid row by row and keep that beside the run (used by `compare`)."""
    rungs = list(_rungs(iwae, particles) or ())
    opened = open_words(run, model, guide, device)
    from statistics import median

    from ppl_vae.cli.output import Judged, update_evaluation, writing
    from ppl_vae.comparison.cache import write_cache
    from ppl_vae.comparison.comparable import observed, preparation
    from ppl_vae.comparison.compare import size_of
    from ppl_vae.evaluation import evaluate_rows

    rows, where = rows_of(opened, DataWords(None), None)
    found = evaluate_rows(opened.model, opened.guide, rows, particles, iwae=rungs, seed=seed)
    with writing(run, "ppl-vae compare"):
        update_evaluation(run, where, Judged(found.summary() | {"seed": seed}, found))
    seconds = [record["seconds"] for record in opened.history if record.get("seconds") is not None]
    about = {
        "where": f"{where} rows of {opened.info['data']['name']}",
        "parameters": size_of(opened.model, opened.guide),
        "seconds_per_epoch": median(seconds) if seconds else None,
        "epochs": len(opened.history),
        "observed": observed(opened.pair, rows, preparation(opened)).to_json(),
    }
    write_cache(run, found, {"particles": particles, "iwae": rungs, "seed": seed}, about)
