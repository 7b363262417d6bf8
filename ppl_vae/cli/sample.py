"""`ppl-vae sample`: rows drawn from the model of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppl_vae.cli import options as o
from ppl_vae.cli.conditions import conditions_of, given_words
from ppl_vae.cli.files import check_target, column_names, write_rows
from ppl_vae.cli.inputs import open_words
from ppl_vae.cli.output import note, say
from ppl_vae.errors import UserError
from ppl_vae.registry.words import check_whole

if TYPE_CHECKING:
    from torch import Tensor

    from ppl_vae.data import Field
    from ppl_vae.runs.folder import Run

__all__ = ["sample"]


def sample(
    run: o.RunFolder,
    n: Annotated[int, typer.Option("-n", help="How many rows.")] = 64,
    seed: o.Seed = 0,
    mean: Annotated[bool, typer.Option("--mean", help="Write E[x | z] instead of a draw.")] = False,
    given: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=A,B",
            help="Conditions of a conditional model, in turn over the rows; or columns of a table, age=40,sex=F: rows "
            "given these values, by importance resampling.",
            show_default="those of training rows",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="An .npz with latents and rows, a .csv of rows, or a .png, .pdf or .svg.",
            show_default="RUN/samples.npz, and RUN/figures/samples.png for images",
        ),
    ] = None,
    model: o.OwnModel = None,
    guide: o.OwnGuide = None,
    device: o.DeviceOption = "auto",
) -> None:
    """Draw rows from the model."""
    check_whole("-n", n, 1)
    check_whole("--seed", seed, 0)
    target = check_target(out, run / "samples.npz", (".npz", ".csv", *o.DRAWN))
    values = given_words(given)
    opened = open_words(run, model, guide, device)
    from ppl_vae.prediction.coding import simulate

    fields, wanted = _observed(opened)
    if values and not {*values} & {*wanted}:
        _write_given(opened, values, n, seed, target if out is not None else run / "samples.csv")
        return
    under = conditions_of(opened, wanted, values, n)
    drawn = simulate(opened.pair, opened.schema, n, seed=seed, draw=not mean, given=under)
    if target.suffix.lower() in o.DRAWN:
        written = [_picture(opened, fields, drawn, target)]
    else:
        shown = {name: opened.schema[name] for name in under} | fields
        arrays = drawn | under
        table = {name: column for site, field in shown.items() for name, column in _table(site, field, arrays).items()}
        written = [write_rows(target, arrays, table)]
        if out is None and any(field.is_image for field in fields.values()):
            written.append(_picture(opened, fields, drawn, run / "figures" / "samples.png"))
    say(f"{n} rows written to {' and '.join(map(str, written))}")


def _write_given(run: Run, values: Mapping[str, list[str]], n: int, seed: int, target: Path) -> None:
    """Rows in which some columns have the values that were given, as a table."""
    import io

    import ppl_vae
    from ppl_vae.saving.atomic import write_new

    several = next((name for name, words in values.items() if len(words) != 1), None)
    if several is not None:
        raise UserError(f"--given {several} expects one value, which every row has: sample once for each")
    if target.suffix.lower() != ".csv":
        raise UserError(f"--given of columns writes a table, got {target.name}: name a .csv")
    drawn = ppl_vae.sample(run.model, run.guide, n, given={k: words[0] for k, words in values.items()}, seed=seed)
    content = io.BytesIO()
    drawn.frame().to_csv(content, index=False)
    written = write_new(target, content.getvalue())
    if drawn.doubt is not None:
        note(f"warning: {drawn.doubt}")
    found = f"{drawn.log_evidence:.2f} ± {drawn.log_evidence_se:.2f} nats"
    effective = f"{drawn.ess:,.0f} effective particles of {drawn.particles:,}"
    say(f"{n} rows written to {written} (log p of what was given {found}, {effective})")


def _observed(run: Run) -> tuple[dict[str, Field], tuple[str, ...]]:
    """The fields that the model generates, by site (x where there is one), and the names of those it is given."""
    from ppl_vae.checks.analysis import analyse
    from ppl_vae.data.example import example

    batch = {name: value.to(run.pair.device) for name, value in example(run.schema, None).items()}
    structure = analyse(run.pair, batch)
    sites, model = structure.observed, run.pair.model
    known = {*sites, *structure.latents, *structure.summed_model}
    wanted = tuple(n for n, needed in model.arguments.items() if needed and n in run.schema and n not in known)
    if "x" in sites:
        return {"x": run.schema["x"]}, wanted
    fields = {s: run.schema[s] for s in sites if s in run.schema} or {sites[0] if sites else "x": run.schema["x"]}
    return fields, wanted


def _table(site: str, field: Field, drawn: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """The values of a field by column: of a single category its name, unless it is a mean."""
    x = drawn[site]
    if field.shape == () and field.kind == "categorical" and field.names and not x.is_floating_point():
        return {site: [field.names[i] for i in x.tolist()]}
    if field.unit and field.shape == ():
        from ppl_vae.data.frames import in_words

        return {site: in_words(field, x)}
    if field.origin:
        from ppl_vae.data.frames import restored

        x = restored(field, x)
    flat = x.reshape(len(x), -1)
    names = [site] if field.shape == () and site != "x" else column_names(site, flat.shape[1], field.names)
    return dict(zip(names, flat.T.tolist(), strict=True))


def _picture(run: Run, fields: Mapping[str, Field], drawn: Mapping[str, Tensor], out: Path) -> Path:
    import torch

    from ppl_vae import plots
    from ppl_vae.saving.atomic import write_new

    kind = out.suffix.lower()[1:]
    picture = next((site for site, field in fields.items() if field.is_image), None)
    if picture is not None:
        return write_new(out, plots.to_bytes(plots.samples(drawn[picture][:256]), kind))
    train = run.data().train
    rows = torch.cat([train[field.name].reshape(len(train), -1).float() for field in fields.values()], dim=-1)
    made = torch.cat([drawn[site].reshape(len(drawn[site]), -1).float() for site in fields], dim=-1)
    names = None if len(fields) == 1 else [name for s, f in fields.items() for name in _table(s, f, drawn)]
    return write_new(out, plots.to_bytes(plots.table_samples(rows, made, names=names), kind))
