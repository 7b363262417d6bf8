"""The options of `ppl-vae fit`, and what can be refused before anything is imported or read."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ppl_vae.cli import options as o
from ppl_vae.cli.config import options_of
from ppl_vae.errors import UserError
from ppl_vae.registry.words import (
    check_choice,
    check_whole,
)
from ppl_vae.training.request import Request

__all__ = ["Command", "fit"]


def _from_file(context: typer.Context, file: Path | None) -> Path | None:
    """Let the options of a file be the defaults of this command line."""
    if file is not None:
        known = {p.name: p.multiple for p in context.command.params if p.name not in ("config", "help")}
        context.default_map = {**(context.default_map or {}), **options_of(file, known)}
    return file


@o.with_settings(before="lr_schedule")
def fit(
    model: Annotated[str, typer.Argument(help="A model by name, NAME:OPTION=VALUE,..., or FILE.py:NAME.")] = "vae",
    guide: Annotated[
        str | None,
        typer.Option(
            help="A guide: NAME, NAME:OPTION=VALUE,..., or FILE.py:NAME.",
            show_default="mean_field; point for auto_encoder",
        ),
    ] = None,
    prior: Annotated[
        str | None,
        typer.Option(
            help="p(z): NAME or NAME:OPTION=VALUE, e.g. mixture:components=50.", show_default="the model's own"
        ),
    ] = None,
    likelihood: Annotated[
        str | None,
        typer.Option(
            help="p(x | z): NAME, or per column of a table, e.g. age=normal,income=log_normal.",
            show_default="what fits the data",
        ),
    ] = None,
    bound: Annotated[
        str, typer.Option(help="Bound to maximise: NAME or e.g. iwae:particles=16; trace_elbo is Pyro's.")
    ] = "elbo",
    particles: Annotated[
        int | None, typer.Option(help="Draws per row in the bound.", show_default="depends on the bound")
    ] = None,
    data: Annotated[
        str,
        typer.Option(help="A data set, a .csv .tsv .jsonl .parquet .npz .npy file (.csv.gz too), a folder of Parquet."),
    ] = "digits",
    label: o.LabelOption = None,
    labels: o.LabelsOption = None,
    outliers: o.OutliersOption = None,
    columns: o.ColumnsOption = None,
    field: o.FieldsOption = None,
    kind: o.KindsOption = None,
    missing: o.MissingOption = "refuse",
    missing_marks: o.MarksOption = None,
    separator: o.SeparatorOption = None,
    decimal: o.DecimalOption = None,
    encoding: o.EncodingOption = None,
    stream: o.StreamOption = None,
    group: o.GroupOption = None,
    time: o.TimeOption = None,
    lengths: o.LengthsOption = None,
    rows: o.RowsOption = "auto",
    binarise: Annotated[
        str | None,
        typer.Option(
            metavar="dynamic|static|none",
            help="How grey levels become 0 and 1.",
            show_default="dynamic for mnist and fashion-mnist",
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Training objective: decomposed:tc=6, factor:gamma=10, dip:kind=2, mmd:weight=100; see "
            "`ppl-vae list`.",
            show_default="the bound",
        ),
    ] = None,
    lr_schedule: Annotated[
        str, typer.Option(metavar="constant|cosine", help="cosine: the learning rate falls to 0 over the epochs.")
    ] = "constant",
    warm_up: Annotated[
        float | None,
        typer.Option(
            help="Epochs in which the KL weight grows from 0; 0 for Pyro's bounds.",
            show_default="10, or a fifth of the epochs if that is less",
        ),
    ] = None,
    latent_dim: Annotated[
        int | None, typer.Option(help="Number of latent dimensions.", show_default="the model's own; 16 for vae")
    ] = None,
    hidden: Annotated[
        str | None,
        typer.Option(
            metavar="N,N", help="Widths of the hidden layers of encoder and decoder.", show_default="256 for vae"
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Initialise from another run; layers with matching shapes are copied.",
            show_default="begin anew",
        ),
    ] = None,
    freeze: Annotated[bool, typer.Option("--freeze", help="Keep the layers copied by --start fixed.")] = False,
    given: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Fields that a conditional model conditions on.", show_default="y for cvae"),
    ] = None,
    evaluate_particles: Annotated[int, typer.Option(help="Draws per row for the final evaluation.")] = 1000,
    out: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="The run folder.", show_default="runs/DATA-MODEL-GUIDE, -2, ..."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue an interrupted run; repeat its other options."),
    ] = False,
    override: Annotated[
        bool,
        typer.Option("--override", help="With --resume: allow other options or data; run.json records them."),
    ] = False,
    as_json: o.JsonOption = False,
    figure_format: o.FigureFormat = "png",
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no figures and no report.")] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            is_eager=True,
            callback=_from_file,
            help="Options by name in a JSON file, or a run.json; those on the command line win.",
        ),
    ] = None,
    **settings: Any,
) -> None:
    """Train a model and its guide.

    Evaluates them on held-out rows and writes a run folder with a report. Without any argument: a VAE with a
    mean-field guide on the handwritten digits that come with scikit-learn.
    """
    request = Command(**{name: value for name, value in locals().items() if name != "config"})
    request.check()
    from ppl_vae.cli.train import train

    train(request)


def _told(value: Any) -> Any:
    """A value as run.json may tell it: of a whole path the last part, as it tells nobody's home."""
    text = str(value) if isinstance(value, Path) else value
    return Path(text).name if isinstance(text, str) and Path(text).is_absolute() else text


_OF_THIS_CALL = ("out", "resume", "override", "as_json", "no_report", "figure_format")


@dataclass(frozen=True)
class Command(Request):
    """The options of `ppl-vae fit`: what is asked for, where it goes and what is told of it."""

    evaluate_particles: int = 1000
    out: Path | None = None
    resume: bool = False
    override: bool = False
    as_json: bool = False
    no_report: bool = False
    figure_format: str = "png"

    @property
    def said(self) -> dict[str, Any]:
        """The options that are not the defaults, as `--config` reads them.

        What is about this one call is left out, and of a whole path all but its last part.
        """
        usual, found = Command(), {}
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if each.compare and each.name not in (*_OF_THIS_CALL, "settings") and value != getattr(usual, each.name):
                found[each.name] = _told(value)
        given = {n: v for n, v in self.settings.items() if v is not None and v != usual.settings.get(n)}
        return found | {name: value for name, value in given.items() if isinstance(value, str | int | float | bool)}

    def check(self) -> None:
        """Refuse what can be refused before anything is imported or read."""
        check_whole("--evaluate-particles", self.evaluate_particles, 1)
        check_choice("--figure-format", self.figure_format, o.FIGURES)
        if self.override and not self.resume:
            raise UserError("--override is about a run that is continued: give --resume, or leave it out")
        super().check()
