"""The options of `ppl-vae fit`, and what can be refused before anything is imported or read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ppl_vae.cli import options as o
from ppl_vae.cli.inputs import ProgramWords
from ppl_vae.errors import UserError
from ppl_vae.registry import catalog, construction, user_files

if TYPE_CHECKING:
    pass

__all__ = ["Request", "fit"]


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
        str | None, typer.Option(help="p(z): NAME, or as mixture:components=50.", show_default="the model's own")
    ] = None,
    likelihood: Annotated[
        str | None, typer.Option(help="p(x | z), by name.", show_default="what fits the data")
    ] = None,
    bound: Annotated[
        str, typer.Option(help="What is maximised: NAME, or as iwae:particles=16; trace_elbo is Pyro's own.")
    ] = "elbo",
    particles: Annotated[
        int | None, typer.Option(help="Draws per row of the bound.", show_default="the bound's own")
    ] = None,
    data: Annotated[str, typer.Option(help="A data set, or a .npz .npy .csv .parquet file.")] = "digits",
    label: o.LabelOption = None,
    labels: o.LabelsOption = None,
    outliers: o.OutliersOption = None,
    columns: o.ColumnsOption = None,
    field: o.FieldsOption = None,
    kind: o.KindsOption = None,
    missing: o.MissingOption = "refuse",
    binarise: Annotated[
        str | None,
        typer.Option(
            metavar="dynamic|static|none",
            help="How grey levels become 0 and 1.",
            show_default="dynamic for mnist and fashion-mnist",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training rows, at most.")] = 300,
    batch_size: Annotated[int, typer.Option(help="Rows per step.")] = 64,
    lr: Annotated[float, typer.Option(help="Adam's learning rate.")] = 1e-3,
    lr_schedule: Annotated[
        str, typer.Option(metavar="constant|cosine", help="cosine lets it fall to 0 over the epochs.")
    ] = "constant",
    weight_decay: Annotated[
        float | None,
        typer.Option(
            help="AdamW's decoupled weight decay on matrices: a pull to 0 that fades as rows grow.",
            show_default="1000 / training rows, at most 1; 0 for your own file",
        ),
    ] = None,
    warm_up: Annotated[
        float | None,
        typer.Option(
            help="Epochs in which the KL weight grows from 0; none for Pyro's own bounds.",
            show_default="10, or a fifth of the epochs if that is less",
        ),
    ] = None,
    beta: Annotated[
        float | None, typer.Option(help="The KL weight after that.", show_default="1; 0.01 for information_bottleneck")
    ] = None,
    label_weight: Annotated[
        float | None,
        typer.Option(
            help="Weight of the classifier's log q(y | x), of models with a label that may be missing.",
            show_default="training rows / labelled ones",
        ),
    ] = None,
    label_share: Annotated[
        float | None,
        typer.Option(
            help="Of the rows of a batch, how many have a label, where some have none: 0.5 where hardly any has.",
            show_default="as it happens",
        ),
    ] = None,
    patience: Annotated[
        int, typer.Option(help="Epochs without a better validation bound before stopping; 0 for never.")
    ] = 40,
    latent_dim: Annotated[
        int | None, typer.Option(help="Latent dimensions.", show_default="the model's own; 16 for vae")
    ] = None,
    hidden: Annotated[
        str | None,
        typer.Option(metavar="N,N", help="Widths of hidden layers, of both networks.", show_default="256 for vae"),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Begin with the networks of another run, as far as they fit: another prior or bound, M1M2 with a VAE.",
            show_default="begin anew",
        ),
    ] = None,
    freeze: Annotated[bool, typer.Option("--freeze", help="Do not train the networks of --start any further.")] = False,
    given: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="The fields that a conditional model is given.", show_default="y for cvae"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all random numbers; the split of a file is fixed.")] = 0,
    device: o.DeviceOption = "auto",
    compile: Annotated[
        str,
        typer.Option(
            metavar="auto|on|off", help="Capture and compile the training step: when that pays, at once, never."
        ),
    ] = "auto",
    precision: Annotated[
        str, typer.Option(metavar="float32|tf32|bfloat16", help="Of the matrix products of a training step.")
    ] = "float32",
    evaluate_particles: Annotated[int, typer.Option(help="Draws per row of the final evaluation.")] = 1000,
    out: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="The run folder.", show_default="runs/DATA-MODEL-GUIDE, -2, ..."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue an interrupted run: repeat its other options."),
    ] = False,
    as_json: o.JsonOption = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no figures, no report.")] = False,
) -> None:
    """Train a model and its guide.

    Evaluates them on held-out rows and writes a run folder with a report. Without any argument: a VAE with a
    mean-field guide on the handwritten digits that come with scikit-learn.
    """
    request = Request(**locals() | _where_nobody_said(model, guide, beta))
    request.check()
    from ppl_vae.cli.train import train

    train(request)


def _where_nobody_said(model: str, guide: str | None, beta: float | None) -> dict[str, Any]:
    """The guide and the KL weight that a model is trained with if nobody says others."""
    name, _ = catalog.split_options(model)
    return {
        "guide": guide or catalog.default_of(name, "default_guide", "mean_field"),
        "beta": catalog.default_of(name, "default_beta", None) if beta is None else beta,
    }


@dataclass(frozen=True)
class Request:
    """The options of `fit`."""

    model: str
    guide: str
    prior: str | None
    likelihood: str | None
    bound: str
    particles: int | None
    data: str
    label: str | None
    labels: int | None
    outliers: str | None
    columns: str | None
    field: list[str] | None
    kind: list[str] | None
    missing: str
    binarise: str | None
    epochs: int
    batch_size: int
    lr: float
    lr_schedule: str
    weight_decay: float | None
    warm_up: float | None
    beta: float | None
    label_weight: float | None
    label_share: float | None
    patience: int
    latent_dim: int | None
    hidden: str | None
    start: Path | None
    freeze: bool
    given: str | None
    seed: int
    device: str
    compile: Literal["auto", "on", "off"]
    precision: Literal["float32", "tf32", "bfloat16"]
    evaluate_particles: int
    out: Path | None
    resume: bool
    as_json: bool
    no_report: bool

    def check(self) -> None:
        """Refuse what can be refused before anything is imported or read."""
        for name in ("epochs", "batch_size", "particles", "latent_dim", "evaluate_particles", "labels"):
            o.check_whole(f"--{name.replace('_', '-')}", getattr(self, name), 1)
        o.check_whole("--seed", self.seed, 0)
        o.check_whole("--patience", self.patience, 0)
        o.check_number("--lr", self.lr, positive=True)
        for name in ("weight_decay", "warm_up", "beta", "label_weight"):
            o.check_number(f"--{name.replace('_', '-')}", getattr(self, name))
        if self.label_share is not None and not 0 < self.label_share < 1:
            raise UserError(f"--label-share must be between 0 and 1, got {self.label_share:g}")
        if self.freeze and self.start is None:
            raise UserError("--freeze keeps the networks of another run as they are: name the run, --start RUN")
        o.check_choice("--lr-schedule", self.lr_schedule, ("constant", "cosine"))
        o.check_choice("--compile", self.compile, ("auto", "on", "off"))
        o.check_choice("--precision", self.precision, ("float32", "tf32", "bfloat16"))
        o.check_choice("--missing", self.missing, ("refuse", "allow"))
        if self.binarise is not None:
            o.check_choice("--binarise", self.binarise, ("dynamic", "static", "none"))
        o.split_words("--columns", self.columns)
        o.split_words("--outliers", self.outliers)
        o.kind_words(self.kind)
        if o.field_columns(self.field) and self.columns:
            raise UserError("--columns and --field both say which columns are used: give one of them")
        o.whole_numbers("--hidden", self.hidden)
        o.split_words("--given", self.given)
        ProgramWords(self.model, self.guide).check()
        for kind in ("priors", "likelihoods"):
            word = getattr(self, kind.removesuffix("s"))
            if word is not None:
                catalog.find(kind, catalog.split_options(word)[0])
        if self.is_pyro:
            for option, value, only in (("--warm-up", self.warm_up, 0), ("--beta", self.beta, 1)):
                if value is not None and value != only:
                    raise UserError(f"{option} {value:g}: Pyro's own bounds have no KL weight, use --bound elbo")

    @property
    def is_pyro(self) -> bool:
        """Whether the bound is one of Pyro's own."""
        return catalog.find("bounds", catalog.split_options(self.bound)[0]).is_pyro

    @property
    def is_own(self) -> bool:
        """Whether a program is of a user's file."""
        return user_files.is_file(self.model) or user_files.is_file(self.guide)

    def program_options(self) -> dict[str, Any]:
        """What was asked of the programs, by argument name."""
        found: dict[str, Any] = {}
        for kind in ("prior", "likelihood"):
            if (word := getattr(self, kind)) is not None:
                name, options = catalog.split_options(word)
                entry = catalog.find(f"{kind}s", name)
                found[kind] = construction.construct(entry.load(), {}, options, f"{kind} {entry.name}")[0]
        found |= {"latent_dim": self.latent_dim, "hidden": o.whole_numbers("--hidden", self.hidden)}
        found |= {"given": o.split_words("--given", self.given)}
        return {name: value for name, value in found.items() if value is not None}

    def schedule(self, *, points: bool = False) -> Any:
        """The KL weight; where the guide draws points there is no KL, and only a warm-up that was asked for."""
        from ppl_vae.schedules import WarmUp

        beta = 1.0 if self.beta is None else self.beta
        usual = 0.0 if points else min(10.0, self.epochs / 5)
        epochs = usual if self.warm_up is None else self.warm_up
        return beta if self.is_pyro or epochs == 0 else WarmUp(epochs, beta)
