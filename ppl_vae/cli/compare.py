"""`ppl-vae compare`: runs that are there, or a grid that is trained for the purpose, on the same held-out rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppl_vae.cli import options as o
from ppl_vae.cli.comparing import compare_cell_of, compare_grid, compare_runs, say_commands
from ppl_vae.cli.inputs import data_words
from ppl_vae.errors import UserError
from ppl_vae.registry.words import check_choice, check_number, check_whole, split_words, whole_numbers

if TYPE_CHECKING:
    from ppl_vae.comparison.grid import Grid

__all__ = ["compare", "rungs_of", "words_of"]


Words = Annotated[str | None, typer.Option(metavar="A,B")]


@o.with_settings(before="warm_up", without=("seed", "device", "distributed"), unsaid=True)
def compare(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Run folders. Without any, a grid is trained.")
    ] = None,
    models: Annotated[str | None, typer.Option(metavar="A,B", help="Models to train.", show_default="vae")] = None,
    guides: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Guides to train, e.g. iaf,spline:flows=2.", show_default="the model's"),
    ] = None,
    bounds: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Bounds to train, e.g. trace_elbo,iwae:particles=16.", show_default="elbo"),
    ] = None,
    priors: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Priors to train, e.g. own,mixture:components=50.", show_default="own, the model's"
        ),
    ] = None,
    objectives: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Objectives to train, e.g. beta,decomposed,factor.", show_default="beta, the bound"
        ),
    ] = None,
    betas: Annotated[
        str | None,
        typer.Option(
            metavar="N,N",
            help="KL weights to train; of another objective its tc, gamma, off or weight.",
            show_default="as for fit",
        ),
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds to train of each combination.", show_default="3")] = None,
    particles: Annotated[int, typer.Option(help="Draws per row for the evaluation.")] = 1000,
    iwae: Annotated[
        str | None,
        typer.Option(metavar="K,K", help="Values of K for which IWAE-K is reported.", show_default="1,5,10,50,100,500"),
    ] = None,
    certified: Annotated[
        float | None,
        typer.Option(
            metavar="NATS",
            help="Certify log p(x) of every row to this accuracy, e.g. 0.05; takes minutes for each pair.",
            show_default="no",
        ),
    ] = None,
    latents: Annotated[
        bool,
        typer.Option(
            "--latents",
            help="For runs: tell active units, total correlation, and MIG (of known factors) or a probe of labels; a "
            "grid of betas or objectives tells them anyway.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Random seed of the evaluation; a grid trains with seeds 0, 1, ....")] = 0,
    data: Annotated[
        str | None,
        typer.Option(help="A data set or a file.", show_default="digits; for runs their own data"),
    ] = None,
    split: o.SplitName = None,
    label: o.LabelOption = None,
    columns: o.ColumnsOption = None,
    missing: o.MissingOption = "refuse",
    binarise: Annotated[
        str | None, typer.Option(metavar="dynamic|static|none", help="How grey levels become 0 and 1.")
    ] = None,
    likelihood: Annotated[str | None, typer.Option(help="p(x | z) of all cells, by name.")] = None,
    objective: Annotated[str | None, typer.Option(help="Training objective of all cells, by name.")] = None,
    latent_dim: Annotated[int | None, typer.Option(help="Number of latent dimensions.")] = None,
    hidden: Annotated[str | None, typer.Option(metavar="N,N", help="Widths of the hidden layers.")] = None,
    warm_up: Annotated[
        float | None,
        typer.Option(
            help="Epochs in which the KL weight grows from 0.",
            show_default="as for fit; 0 for all if one of the bounds is Pyro's",
        ),
    ] = None,
    device: o.DeviceOption = "auto",
    jobs: Annotated[
        str, typer.Option(metavar="auto|N", help="Parallel processes: auto is one per core, on CUDA one.")
    ] = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder for compare.json, figures and runs.",
            show_default="runs/compare-DATA, -2, ...",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue in this folder; finished cells are kept.")] = False,
    print_commands: Annotated[
        bool,
        typer.Option(
            "--print-commands", help="Only print one command per cell, to run on a cluster; then use --resume."
        ),
    ] = False,
    cell: Annotated[
        str | None, typer.Option(metavar="NAME", help="Train only this cell (see --print-commands).")
    ] = None,
    model: o.OwnModel = None,
    guide: o.OwnGuide = None,
    figure_format: o.FigureFormat = "png",
    json_: o.JsonOption = False,
    **settings: Any,
) -> None:
    """Compare runs, or train a grid and compare it.

    All pairs are evaluated on the same held-out rows with the same number of particles: ELBO, IWAE-K, log evidence,
    paired differences with standard errors, and a verdict. A grid writes compare.json, its figures and a run
    folder for each cell.
    """
    check_whole("--particles", particles, 1)
    check_whole("--seed", seed, 0)
    check_choice("--missing", missing, ("refuse", "allow"))
    check_choice("--figure-format", figure_format, o.FIGURES)
    rungs = rungs_of(iwae, particles)
    factors = {"models": models, "guides": guides, "bounds": bounds, "priors": priors}
    factors |= {"objectives": objectives, "betas": betas}
    training: dict[str, Any] = {
        "label": label,
        "columns": columns,
        "binarise": binarise,
        "likelihood": likelihood,
        "objective": objective,
        "latent_dim": latent_dim,
        "hidden": hidden,
        "warm_up": warm_up,
        **settings,
    }
    if certified is not None:
        check_number("--certified", certified, positive=True)
    judged = {"particles": particles, "iwae": rungs, "seed": seed, "certified": certified}
    if runs:
        _refuse_both(
            {**factors, "seeds": seeds, **{k: v for k, v in training.items() if k not in ("label", "columns")}}
        )
        for option, value in (("--resume", resume), ("--print-commands", print_commands), ("--cell", cell)):
            if value:
                raise UserError(f"{option} is for a grid: leave it out, runs are there already")
        words = data_words(data, label, columns, missing)
        asked = judged | {"latents": latents}
        compare_runs(runs, words, split, asked, device, (model, guide), out, json_, figure_format)
        return
    of_runs: dict[str, Any] = {"--split": split, "--model": model, "--guide": guide, "--latents": latents or None}
    for option, value in of_runs.items():
        if value is not None:
            raise UserError(f"{option} is for run folders: a grid takes --models and --guides, and its test split")
    training |= {"missing": None if missing == "refuse" else missing, "data": data}
    training["device"] = None if device == "auto" else device
    grid = _grid(factors, seeds, {name: value for name, value in training.items() if value is not None})
    if print_commands or cell is not None:
        if out is None:
            raise UserError("commands for single cells need the folder that they share: give --out")
        if print_commands:
            say_commands(grid, judged, out)
        else:
            compare_cell_of(grid, judged, out, str(cell))
        return
    compare_grid(grid, judged, _jobs(jobs), out, resume, json_, figure_format)


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


def rungs_of(text: str | None, particles: int) -> tuple[int, ...] | None:
    """The numbers of particles of the bounds that are told, none above the particles that there are."""
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
