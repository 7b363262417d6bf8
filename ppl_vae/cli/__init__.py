"""The command line, `ppl-vae`: fit, evaluate, diagnose, certify, compare, sample, encode, decode,
traverse, interpolate, transfer, explain, coherence, factors, snapshots, posterior, predict, impute, export, report,
list.

Nothing heavy is imported before a command needs it, so that `--help` answers at once. Bad input is one line
on stderr and exit status 2, whatever part of the package found it.
"""

from __future__ import annotations

import functools
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ppl_vae.cli.certify import certify
from ppl_vae.cli.coherence import coherence
from ppl_vae.cli.compare import compare
from ppl_vae.cli.compare_cell import compare_cell
from ppl_vae.cli.decode import decode
from ppl_vae.cli.diagnose import diagnose
from ppl_vae.cli.encode import encode
from ppl_vae.cli.evaluate import evaluate
from ppl_vae.cli.explain import explain
from ppl_vae.cli.export import export
from ppl_vae.cli.factors import factors
from ppl_vae.cli.fit import fit
from ppl_vae.cli.impute import impute
from ppl_vae.cli.interpolate import interpolate
from ppl_vae.cli.listing import list_names
from ppl_vae.cli.output import Interrupted, last_word, told_warnings
from ppl_vae.cli.posterior import posterior
from ppl_vae.cli.predict import predict
from ppl_vae.cli.report import report
from ppl_vae.cli.sample import sample
from ppl_vae.cli.signals import as_interrupts, exit_status, ignore_further, what_ended
from ppl_vae.cli.snapshots import snapshots
from ppl_vae.cli.transfer import transfer
from ppl_vae.cli.traverse import traverse
from ppl_vae.distributed.launcher import has_launcher
from ppl_vae.errors import UserError, is_memory, on_command_line
from ppl_vae.saving.paths import path_of

__all__ = ["app", "main"]

HELP = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="ppl-vae",
    help="Variational autoencoders as probabilistic programs, on Pyro. `ppl-vae fit` alone trains one on "
    "handwritten digits and writes a report.",
    add_completion=True,
    context_settings=HELP,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: no import of rich, and it reads well in a pipe
)


def _at_home(command: Callable[..., None]) -> Callable[..., None]:
    """The same command; ~ is the home folder in every path that it is given, whatever the shell left of it."""

    def meant(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [meant(name, each) for each in value]
        return path_of(name, value) if isinstance(value, Path) else value

    @functools.wraps(command)
    def with_home(**given: Any) -> None:
        if command is not fit and has_launcher():
            name = next(n for n, c in COMMANDS.items() if c is command)
            raise UserError(f"torchrun is for fit, and every process would do all of {name}: run ppl-vae {name} alone")
        command(**{name: meant(name, value) for name, value in given.items()})

    return with_home


COMMANDS: dict[str, Callable[..., None]] = {
    "fit": fit,
    "evaluate": evaluate,
    "diagnose": diagnose,
    "certify": certify,
    "compare": compare,
    "compare-cell": compare_cell,
    "sample": sample,
    "encode": encode,
    "decode": decode,
    "traverse": traverse,
    "interpolate": interpolate,
    "transfer": transfer,
    "explain": explain,
    "coherence": coherence,
    "factors": factors,
    "snapshots": snapshots,
    "posterior": posterior,
    "impute": impute,
    "predict": predict,
    "export": export,
    "report": report,
    "list": list_names,
}

for _name, _command in COMMANDS.items():
    app.command(_name, hidden=_command is compare_cell, context_settings=HELP)(_at_home(_command))

# Typer brings its own click in new versions and uses the installed one in old ones; this is right for both.
_UsageProblem: type[Exception] = [
    c for c in typer.BadParameter.__mro__ if c.__name__ in ("TyperException", "ClickException")
][-1]


def _version(wanted: bool) -> None:
    if wanted:
        from ppl_vae import __version__

        typer.echo(f"ppl-vae {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit status: 0, 2 for bad input, 130 when interrupted (143 by SIGTERM).

    A traceback is left only for what is a fault of this package. PPL_VAE_TRACEBACK=1 shows it always.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter that a terminal cannot show is no reason to lose a result
            stream.reconfigure(errors="backslashreplace")
    with as_interrupts(), told_warnings(), on_command_line():
        return _run(argv)


@functools.cache
def _commands() -> Callable[..., Any]:
    """The options of all commands, read from their signatures once: it takes 40 ms, at every call if Typer is asked."""
    return typer.main.get_command(app)


def _run(argv: Sequence[str] | None) -> int:
    try:
        status = _commands()(args=None if argv is None else list(argv), prog_name="ppl-vae", standalone_mode=False)
    except BaseException as error:
        ignore_further()
        if os.environ.get("PPL_VAE_TRACEBACK"):
            raise
        found = _explain(error)
        if found is None:
            raise
        message, status = found
        last_word(message)
    else:
        status = status if isinstance(status, int) else 0
        if status == 130:  # Typer's own answer to KeyboardInterrupt
            last_word(what_ended())
            status = exit_status()
    return status


def _explain(error: BaseException) -> tuple[str, int] | None:
    """The line and the exit status for what went wrong; None for a fault of this package."""
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, _UsageProblem):
        return str(error.format_message()), 2  # type: ignore[attr-defined]
    if isinstance(error, Interrupted):
        return f"{what_ended()}: {error}", exit_status()
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return what_ended(), exit_status()
    if isinstance(error, OSError):
        place = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{place}", 2
    if is_memory(error):
        return f"not enough memory ({error}): use a smaller batch, fewer particles or smaller networks", 2
    return _in_user_file(error)


def _in_user_file(error: BaseException) -> tuple[str, int] | None:
    """An error that a user's own program raised, with the line of the file."""
    if not isinstance(error, Exception):
        return None
    import traceback

    from ppl_vae.registry.user_files import USER_MODULE, where

    own = {Path(m.__file__) for n, m in list(sys.modules.items()) if n.startswith(USER_MODULE) and m.__file__}
    through = [Path(f.filename) for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) in own]
    if not through:
        return None
    return f"{through[-1]}: {where(error, through[-1])}; PPL_VAE_TRACEBACK=1 shows the whole traceback", 2
