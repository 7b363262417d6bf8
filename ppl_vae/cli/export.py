"""`ppl-vae export`: a run and its rows as a NetCDF file for ArviZ, or its networks for torch.export and ONNX."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ppl_vae.cli import options as o
from ppl_vae.cli.certify import certified_each
from ppl_vae.cli.files import check_target
from ppl_vae.cli.inputs import AskedRows
from ppl_vae.cli.output import note, say
from ppl_vae.errors import UserError
from ppl_vae.registry.words import check_choice, check_whole

__all__ = ["export"]


@o.on_rows
def export(
    run: o.RunFolder,
    out: Annotated[
        Path | None, typer.Option(metavar="PLACE", show_default="RUN/posterior.nc, or the folder RUN/networks")
    ] = None,
    format: Annotated[
        str,
        typer.Option(metavar="arviz|torch|onnx", help="torch and onnx write encoder and decoder, which need no Pyro."),
    ] = "arviz",
    draws: Annotated[int, typer.Option(help="Draws per row and chain.")] = 100,
    chains: Annotated[int, typer.Option(help="Number of chains.")] = 4,
    particles: Annotated[int, typer.Option(help="Draws per row for the evidence.")] = 1000,
    rows: Annotated[int | None, typer.Option(help="Use only the first N rows.", show_default="at most 1000")] = None,
    resample: Annotated[
        bool,
        typer.Option("--resample", help="Resample draws by their weights: draws of the posterior, not of the guide."),
    ] = False,
    certified: Annotated[
        bool,
        typer.Option(
            "--certified", help="Export the posterior draws and evidence of `ppl-vae certify`; takes minutes."
        ),
    ] = False,
    predictive: Annotated[bool, typer.Option(help="Also write posterior predictive draws.")] = True,
    *,
    asked: AskedRows,
    seed: o.Seed = 0,
) -> None:
    """Write a file for ArviZ, or the networks as programs of their own.

    For ArviZ: posterior, prior and predictive draws of the rows, their log evidence, weights, k-hat and observed
    values, a NetCDF file for arviz.from_netcdf(FILE). With --format torch or onnx: the encoder from rows to means and
    deviations of the latents, and the decoder from latents to E[x|z], for torch.export.load or onnxruntime.
    """
    check_choice("--format", format, ("arviz", "torch", "onnx"))
    if format != "arviz":
        _networks(asked, out or run / "networks", format)
        return
    for option, number, least in (("--draws", draws, 1), ("--chains", chains, 1), ("--particles", particles, 1)):
        check_whole(option, number, least)
    check_whole("--rows", rows, 1)
    check_whole("--seed", seed, 0)
    target = check_target(out, run / "posterior.nc", (".nc",))
    _refuse_without_backend()
    opened = asked.opened()
    given, name = asked.rows(opened)
    sure = certified_each(opened, given, seed=seed) if certified else None
    if sure is not None and chains * draws > (most := len(next(iter(sure.draws.values())))):
        if chains > most:
            raise UserError(f"--chains {chains} are more than the {most} draws of a row that are kept: take fewer")
        draws = most // chains
        note(f"{draws} draws in each chain: {most} of each row are kept when rows are certified")
    import ppl_vae
    from ppl_vae.arviz.netcdf import netcdf_bytes
    from ppl_vae.saving.atomic import write_new

    found = ppl_vae.to_arviz(
        opened.model,
        opened.guide,
        given,
        draws=draws,
        chains=chains,
        particles=particles,
        rows=rows,
        resample=resample,
        certified=sure,
        predictive=predictive,
        seed=seed,
    )
    count = found["posterior"].sizes["row"]
    left = f", the first of {len(given):,} (--rows takes more)" if rows is None and count < len(given) else ""
    say(
        f"{chains * draws:,} draws of {count:,} rows{left} ({name}) written to {write_new(target, netcdf_bytes(found))}"
    )


def _networks(asked: AskedRows, folder: Path, format: str) -> None:
    """The encoder and the decoder of the run."""
    opened = asked.opened()
    given, _ = asked.rows(opened)
    import ppl_vae

    found = ppl_vae.export(opened.model, opened.guide, given, folder, format=format)
    say(f"{', '.join(found.inputs)} to {', '.join(found.latents)}: {found.encoder}")
    say(f"{', '.join(found.latents)} to {', '.join(found.outputs)}: {found.decoder}")
    say(f"what they take and give: {found.description}")


def _refuse_without_backend() -> None:
    if find_spec("netCDF4") is None and (find_spec("h5netcdf") is None or find_spec("h5py") is None):
        raise UserError("writing NetCDF needs a package that is not installed: pip install h5netcdf h5py")
