"""`ppl-vae fit`: train a pair, judge it on held-out rows, write its run folder."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppl_vae import catalog
from ppl_vae.cli import options as o
from ppl_vae.cli.inputs import DataWords, Program, ProgramWords, build, make_bound
from ppl_vae.cli.output import as_json, evaluation_table, note, print_table, update_evaluation
from ppl_vae.errors import UserError

if TYPE_CHECKING:
    from ppl_vae.data import Data
    from ppl_vae.training import Result

__all__ = ["Interrupted", "fit"]

_OPTIMISATION, _DATA, _OUTPUT = "Optimisation", "Data", "Output"


class Interrupted(Exception):
    """The user stopped a training run; says how to continue it."""


def fit(
    model: Annotated[str, typer.Argument(help="A model by name, or FILE.py:NAME.")] = "vae",
    guide: Annotated[str, typer.Option(help="A guide by name, or FILE.py:NAME.")] = "mean_field",
    prior: Annotated[str | None, typer.Option(help="p(z), by name.", show_default="the model's own")] = None,
    likelihood: Annotated[
        str | None, typer.Option(help="p(x | z), by name.", show_default="what fits the data")
    ] = None,
    bound: Annotated[str, typer.Option(help="What is maximised, by name; trace_elbo is Pyro's own.")] = "elbo",
    particles: Annotated[
        int | None, typer.Option(help="Draws per row of the bound.", show_default="the bound's own")
    ] = None,
    data: Annotated[str, typer.Option(help="A data set by name, or a .npz .npy .csv .parquet file.")] = "digits",
    label: o.Label = None,
    columns: o.Columns = None,
    missing: o.Missing = "refuse",
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
    weight_decay: Annotated[
        float | None,
        typer.Option(
            help="AdamW's decoupled weight decay on matrices: a pull to 0 that fades as rows grow.",
            show_default="1000 / training rows; 0 for your own file",
        ),
    ] = None,
    warm_up: Annotated[
        float | None,
        typer.Option(
            help="Epochs over which the KL weight grows from 0. Pyro's own bounds have none.", show_default="10"
        ),
    ] = None,
    beta: Annotated[float | None, typer.Option(help="The KL weight after that.", show_default="1")] = None,
    patience: Annotated[
        int, typer.Option(help="Epochs without a better validation bound before stopping; 0 for never.")
    ] = 40,
    latent_dim: Annotated[
        int | None, typer.Option(help="Latent dimensions.", show_default="the model's own; 16 for vae")
    ] = None,
    hidden: Annotated[
        str | None,
        typer.Option(metavar="N,N", help="Widths of hidden layers of model and guide.", show_default="256 for vae"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all random numbers but the split of a file, which is fixed.")] = 0,
    device: o.Device = "auto",
    evaluate_particles: Annotated[int, typer.Option(help="Draws per row of the final evaluation.")] = 1000,
    out: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="The run folder.", show_default="runs/DATA-MODEL-GUIDE, then -2, -3 ..."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue an interrupted run; give its other options again as they were."),
    ] = False,
    as_json: o.Json = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no figures and no report.html.")] = False,
) -> None:
    """Train a model and its guide, evaluate them on held-out rows, and write a run folder with a report.

    Without any argument: a VAE with a mean-field guide on the handwritten digits that come with scikit-learn.
    """
    request = _Request(**locals())
    request.check()
    _run(request)


@dataclass(frozen=True)
class _Request:
    """The options of `fit`."""

    model: str
    guide: str
    prior: str | None
    likelihood: str | None
    bound: str
    particles: int | None
    data: str
    label: str | None
    columns: str | None
    missing: str
    binarise: str | None
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float | None
    warm_up: float | None
    beta: float | None
    patience: int
    latent_dim: int | None
    hidden: str | None
    seed: int
    device: str
    evaluate_particles: int
    out: Path | None
    resume: bool
    as_json: bool
    no_report: bool

    def check(self) -> None:
        """Refuse what can be refused before anything is imported or read."""
        for name in ("epochs", "batch_size", "particles", "latent_dim", "evaluate_particles"):
            o.check_whole(f"--{name.replace('_', '-')}", getattr(self, name), 1)
        o.check_whole("--seed", self.seed, 0)
        o.check_whole("--patience", self.patience, 0)
        o.check_number("--lr", self.lr, positive=True)
        for name in ("weight_decay", "warm_up", "beta"):
            o.check_number(f"--{name.replace('_', '-')}", getattr(self, name))
        o.check_choice("--missing", self.missing, ("refuse", "allow"))
        if self.binarise is not None:
            o.check_choice("--binarise", self.binarise, ("dynamic", "static", "none"))
        o.split_words("--columns", self.columns)
        o.whole_numbers("--hidden", self.hidden)
        ProgramWords(self.model, self.guide).check()
        for kind in ("priors", "likelihoods"):
            word = getattr(self, kind.removesuffix("s"))
            if word is not None:
                catalog.find(kind, word)
        if self.is_pyro:
            for option, value, only in (("--warm-up", self.warm_up, 0), ("--beta", self.beta, 1)):
                if value is not None and value != only:
                    raise UserError(f"{option} {value:g}: Pyro's own {self.bound} has no KL weight; use --bound elbo")

    @property
    def is_pyro(self) -> bool:
        """Whether the bound is one of Pyro's own."""
        return catalog.find("bounds", self.bound).is_pyro

    @property
    def is_own(self) -> bool:
        """Whether a program is of a user's file."""
        return catalog.is_file(self.model) or catalog.is_file(self.guide)

    def program_options(self) -> dict[str, Any]:
        """What was asked of the programs, by argument name."""
        found: dict[str, Any] = {}
        for kind in ("prior", "likelihood"):
            if (word := getattr(self, kind)) is not None:
                entry = catalog.find(f"{kind}s", word)
                found[kind] = catalog.construct(entry.load(), {}, {}, f"{kind} {entry.name}")[0]
        found |= {"latent_dim": self.latent_dim, "hidden": o.whole_numbers("--hidden", self.hidden)}
        return {name: value for name, value in found.items() if value is not None}

    def schedule(self) -> Any:
        """The KL weight."""
        from ppl_vae.schedules import WarmUp

        beta = 1.0 if self.beta is None else self.beta
        epochs = 10.0 if self.warm_up is None else self.warm_up
        return beta if self.is_pyro or epochs == 0 else WarmUp(epochs, beta)


# -- the run folder ----------------------------------------------------------------------------------------------


def _folder(ask: _Request) -> Path:
    """Where the run goes; a folder that is there is refused before anything is trained."""
    from ppl_vae.runs import refuse_existing

    if ask.out is not None:
        if ask.resume:
            _need_checkpoint(ask.out)
        else:
            refuse_existing(ask.out)
        return ask.out
    words = [Path(ask.data).stem, ask.model.rpartition(":")[2], ask.guide.rpartition(":")[2]]
    base = Path("runs") / "-".join(re.sub(r"[^\w.]+", "_", w) if w != ask.data else w for w in words)
    taken = [base] if base.exists() else []
    while taken and (following := base.with_name(f"{base.name}-{len(taken) + 1}")).exists():
        taken.append(following)
    if ask.resume:
        last = taken[-1] if taken else base
        _need_checkpoint(last)
        return last
    return base.with_name(f"{base.name}-{len(taken) + 1}") if taken else base


def _need_checkpoint(out: Path) -> None:
    if not (out / "checkpoint").is_dir():
        raise UserError(f"there is nothing to continue in {out} (it has no checkpoint): leave --resume out")


@contextmanager
def _reserved(out: Path) -> Iterator[None]:
    """Make the folder before training, so that a place that cannot be written costs no time; an error leaves nothing."""
    made = []
    for folder in (out, *out.parents):
        if folder.exists():
            break
        made.append(folder)
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for folder in made:
            if any(folder.iterdir()):
                break
            folder.rmdir()
        raise


# -- training ----------------------------------------------------------------------------------------------------


def _run(ask: _Request) -> None:
    out = _folder(ask)
    import pyro

    from ppl_vae.training import pick_device

    started = time.monotonic()
    device = pick_device(ask.device)
    words = DataWords(ask.data, ask.label, o.split_words("--columns", ask.columns), ask.missing)
    data = words.load(binarise=ask.binarise)
    pyro.set_rng_seed(ask.seed)
    model, guide = build(ProgramWords(ask.model, ask.guide), data, ask.program_options())
    bound = make_bound(ask.bound, ask.particles)
    decay = ask.weight_decay
    if decay is None:
        decay = 0.0 if ask.is_own else 1000 / len(data.train)
    headline = _headline(ask, model, guide, data, bound, decay, str(device))
    with _reserved(out):
        result = _train(ask, model.value, guide.value, data, bound, decay, device, out, headline)
        extra = {role: p.record for role, p in (("model", model), ("guide", guide)) if p.record is not None}
        _save(result, out, extra, ask.resume)
    split, summary = _evaluate(ask, result, data)
    if summary is not None:
        update_evaluation(out, split, summary)
    report = None if ask.no_report else _report(result, data, summary, out, ask.seed)
    _finish(ask, result, split, summary, out, report, time.monotonic() - started)


def _headline(
    ask: _Request, model: Program, guide: Program, data: Data, bound: Any, decay: float, device: str
) -> str:
    rows = [f"{len(s):,} {n}" for n in ("train", "validation", "test") if (s := getattr(data, n)) is not None]
    particles = getattr(bound, "particles", getattr(bound, "num_particles", 1))
    schedule = ask.schedule()
    if ask.is_pyro:
        weight = "KL weight 1 (Pyro's own bounds have no warm-up)"
    elif callable(schedule):
        weight = f"KL weight 0 to {schedule.beta:g} over {schedule.epochs:g} epochs"
    else:
        weight = f"KL weight {schedule:g}"
    return (
        f"{model.name} with {guide.name} on {data.name} ({', '.join(rows)} rows): {type(bound).__name__}, "
        f"{particles} particle{'s' * (particles != 1)}; {weight}; lr {ask.lr:g}, weight decay {decay:g}; "
        f"batches of {ask.batch_size}; seed {ask.seed}; on {device}"
    )


def _train(
    ask: _Request,
    model: Any,
    guide: Any,
    data: Data,
    bound: Any,
    decay: float,
    device: Any,
    out: Path,
    headline: str,
) -> Result:
    import ppl_vae
    from ppl_vae.progress import Display

    try:
        with Display(ask.epochs, headline) as display:
            result = ppl_vae.fit(
                model,
                guide,
                data,
                bound,
                epochs=ask.epochs,
                batch_size=ask.batch_size,
                lr=ask.lr,
                weight_decay=decay,
                beta=ask.schedule(),
                patience=ask.patience or None,
                seed=ask.seed,
                device=device,
                on_epoch=display,
                checkpoint=out / "checkpoint",
                resume=ask.resume,
            )
    except KeyboardInterrupt as stop:
        kept = (out / "checkpoint").is_dir()
        then = f"continue with the same options and --resume --out {out}" if kept else "nothing was written"
        raise Interrupted(f"interrupted: {then}") from stop
    return result


def _save(result: Result, out: Path, extra: dict[str, Any], resumed: bool) -> None:
    from ppl_vae.runs import save_run

    save_run(result, out, extra=extra)


def _evaluate(ask: _Request, result: Result, data: Data) -> tuple[str, dict[str, Any] | None]:
    """The held-out numbers; none for a pair that has no evidence per row, whose run is kept all the same."""
    import ppl_vae

    split = next(n for n in ("test", "validation", "train") if getattr(data, n) is not None)
    try:
        found = ppl_vae.evaluate(
            result.model, result.guide, getattr(data, split), particles=ask.evaluate_particles, seed=ask.seed
        )
    except UserError as error:
        note(f"the run is saved, but not evaluated: {error}")
        return split, None
    return split, found.summary() | {"seed": ask.seed}


def _report(result: Result, data: Data, summary: dict[str, Any] | None, out: Path, seed: int) -> Path | None:
    from ppl_vae.report import write_report
    from ppl_vae.runs import Run

    info = json.loads((out / "run.json").read_text(encoding="utf-8"))
    run = Run(out, result.model, result.guide, result.schema, result.history, info)
    try:
        return write_report(run, data, summary, seed=seed)
    except UserError as error:
        note(f"the run is saved, but without a report: {error}")
        return None


def _finish(
    ask: _Request,
    result: Result,
    split: str,
    summary: dict[str, Any] | None,
    out: Path,
    report: Path | None,
    seconds: float,
) -> None:
    if ask.as_json:
        found = {
            "run": out,
            "report": report,
            "settings": result.settings,
            "epochs": len(result.history),
            "best": {"epoch": result.best.epoch, "bound": result.best.bound},
            "evaluation": {} if summary is None else {split: summary},
            "seconds": round(seconds, 2),
        }
        typer.echo(json.dumps(as_json(found), indent=2, ensure_ascii=False))
        return
    early = ", stopped early" if len(result.history) < ask.epochs else ""
    note(f"{len(result.history)} epochs in {seconds:.0f} s{early}; kept epoch {result.best.epoch}")
    if summary is not None:
        print_table(evaluation_table(f"{summary['rows']:,} {split} rows of {Path(ask.data).name}", summary))
    own = [f"--{r} {w}" for r, w in (("model", ask.model), ("guide", ask.guide)) if catalog.is_file(w)]
    more = " ".join(["", *own])
    typer.echo(f"run:    {out}")
    if report is not None:
        typer.echo(f"report: {report}")
    typer.echo(f"next:   ppl-vae evaluate {out} --particles 5000{more}")
    typer.echo(f"        ppl-vae sample {out} -n 64{more}")
    typer.echo(f"        ppl-vae encode {out}{more}")
