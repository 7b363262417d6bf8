"""`ppl-vae fit` from its words to the numbers that it tells: train, save, evaluate, report."""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ppl_vae.cli.decisions import Decided, decide, headline_of
from ppl_vae.cli.evaluation_tables import evaluation_table, title_of
from ppl_vae.cli.files import as_json, update_evaluation
from ppl_vae.cli.inputs import open_start
from ppl_vae.cli.judging import Judged, judge
from ppl_vae.cli.output import Interrupted, listen, note, print_table, read_rows, say, spared
from ppl_vae.cli.run_place import place_of, warm_up_of
from ppl_vae.distributed.launcher import has_launcher
from ppl_vae.errors import UserError
from ppl_vae.registry import user_files
from ppl_vae.registry.programs import NamedProgram, ProgramWords, build
from ppl_vae.registry.resolve import resolve_bound

if TYPE_CHECKING:
    from ppl_vae.arviz import Posterior
    from ppl_vae.cli.fit import Command
    from ppl_vae.data import Data
    from ppl_vae.distributed.group import Group
    from ppl_vae.runs.result import Best, Result

__all__ = ["train"]

JUDGED = 10_000
"""Of streamed rows so many are evaluated and reported at once."""


def train(ask: Command) -> None:
    """Train, save, evaluate, report; of several processes of one run the first does all but a part of the training."""
    group = _group(ask)
    if not group.leads:
        _follow(ask, group)
        return
    place = place_of(ask)
    if ask.resume and ask.warm_up is None:
        ask = replace(ask, warm_up=warm_up_of(place.folder))
    import pyro

    from ppl_vae.runs.files import read_evaluation
    from ppl_vae.speed.device import pick_device

    started = time.monotonic()
    device = pick_device(ask.settings["device"])
    data = ask.load(read_rows())
    ask = ask.settled(len(data.train))
    pyro.set_rng_seed(ask.settings["seed"])
    words = ask.programs
    model, guide = build(words, data, ask.program_options())
    start = _begin(ask, words, model, guide)
    bound = resolve_bound(ask.bound, ask.particles)
    decided = decide(ask, model, guide, data)
    headline = headline_of(ask, model, guide, data, bound, decided, str(device))
    headline = "\n".join([headline, *(f"  {line}" for line in _columns(model, data))])
    extra = {role: p.record for role, p in (("model", model), ("guide", guide)) if p.record is not None}
    extra |= {} if start is None else {"start": start}
    extra |= {"options": _as_said(ask, decided).said}
    with place.taken(resume=ask.resume) as out:
        read_evaluation(out)  # a damaged one is refused before the work
        group.told(json.dumps({"out": str(out), "warm_up": ask.warm_up}).encode())
        result = _fit(ask, model.value, guide.value, data, bound, decided, device, out, headline)
        unsaved = _save(result, out, extra)
        for finding in result.findings:
            note(str(finding))
        epochs = result.settings["epochs"]
        early = ", stopped early" if len(result.history) < epochs else ""
        seconds = time.monotonic() - started
        note(f"{len(result.history)} epochs in {seconds:.0f} s{early}; kept {_kept(result.best)}")
        _judge(ask, result, data, decided, out, None if unsaved else started)
    if unsaved is not None:
        raise unsaved


def _kept(best: Best) -> str:
    return f"the mean of the last weights of {best.epoch} epochs" if best.averaged else f"epoch {best.epoch}"


def _as_said(ask: Command, decided: Decided) -> Command:
    """The request of a run that was continued as its first one was: without a warm-up that is the usual one."""
    usual = replace(ask, warm_up=None)
    about = {"points": decided.points, "begun": decided.begun}
    return usual if usual.weight(**about) == ask.weight(**about) else ask


def _group(ask: Command) -> Group:
    """The processes of this run, which torchrun started."""
    from ppl_vae.distributed.group import ALONE, joined

    return joined(ask.settings["distributed"]) if has_launcher() else ALONE


def _follow(ask: Command, group: Group) -> None:
    """Train beside the first process, which says how, writes and speaks."""
    listen()
    import pyro

    from ppl_vae.speed.device import pick_device

    device, data = pick_device(ask.settings["device"]), ask.load(read_rows())
    ask = ask.settled(len(data.train))
    pyro.set_rng_seed(ask.settings["seed"])
    model, guide = build(ask.programs, data, ask.program_options())
    _begin(ask, ask.programs, model, guide)
    bound, decided = resolve_bound(ask.bound, ask.particles), decide(ask, model, guide, data)
    told = json.loads(group.told())
    ask = replace(ask, warm_up=told["warm_up"])
    _fit(ask, model.value, guide.value, data, bound, decided, device, Path(told["out"]), None)


def _columns(model: NamedProgram, data: Data) -> list[str]:
    """What every column was read as, before anything is trained on it."""
    from ppl_vae.data.summary import aligned
    from ppl_vae.likelihoods.columns import column_table

    return aligned(*column_table(model.value, data.train.head))


def _save(result: Result, out: Path, extra: dict[str, Any]) -> UserError | None:
    """Write the run; where that fails its numbers are still told, and then the error."""
    from ppl_vae.runs.folder import save_run
    from ppl_vae.training.checkpoint import has_checkpoint

    try:
        save_run(result, out, extra=extra, own_folder=True)
        return None
    except OSError as error:
        then = f"write it with the same options and --resume --out {out}"
        kept = then if has_checkpoint(out / "checkpoint") else "its weights are lost, train it anew"
        return UserError(f"the run is not written ({error.strerror}: {error.filename}): make room, then {kept}")


def _judge(ask: Command, result: Result, data: Data, decided: Decided, out: Path, started: float | None) -> None:
    """Evaluate, tell the numbers, then write them; of a run that is not saved (no `started`) nothing is written."""
    split = next(n for n in ("test", "validation", "train") if getattr(data, n) is not None)
    if data.train.is_streamed:
        if len(getattr(data, split)) > JUDGED:
            note(f"the first {JUDGED:,} rows of a split are judged; ppl-vae evaluate {out} --parts FOLDER judges all")
        data = data.first(JUDGED)
    with_particles = "" if decided.points else f" with {ask.evaluate_particles:,} particles each"
    saved = "" if started is None else f"the run is saved in {out}, `ppl-vae report` and `evaluate` work on it; "
    unit = data.train.is_one_unit
    note(f"{saved}now {'all data' if unit else f'{len(getattr(data, split)):,} {split} rows'}{with_particles}")
    report = None
    try:
        judged = _evaluate(ask, result, data, split)
        summary = None if judged is None else judged.summary
        if summary is not None and not ask.as_json:
            split = "train" if "joint_elbo" in summary else split  # rows that share latents are weighed together
            title = f"{summary['rows']:,} {split} rows of {Path(ask.data).name}"
            print_table(evaluation_table(title_of(summary, Path(ask.data).name) if unit else title, summary))
        shares = summary is not None and (unit or "joint_elbo" in summary)
        drawn = _posterior(ask, result, data) if shares else None
        if started is None:
            return
        if judged is not None:
            with spared("the evaluation"):
                update_evaluation(out, split, judged)
        if not ask.no_report:
            with spared("the report"):
                report = _report(result, data, judged, out, ask.settings["seed"], drawn, ask.figure_format)
    except KeyboardInterrupt as stop:
        if started is None:
            raise
        raise Interrupted(f"the run is saved, go on with ppl-vae evaluate {out}") from stop
    _finish(ask, result, split, summary, out, report, time.monotonic() - started)


def _begin(ask: Command, words: ProgramWords, model: NamedProgram, guide: NamedProgram) -> dict[str, Any] | None:
    """Take the networks of the run that was asked for; what run.json says of it."""
    if ask.start is None:
        return None
    from ppl_vae.saving.specs import file_hash
    from ppl_vae.training import warm_start

    run = open_start(ask.start, words)
    parts = warm_start(model.value, guide.value, run, freeze=ask.freeze)
    note(f"from {ask.start}: {', '.join(parts)}{', which stay as they are' if ask.freeze else ''}")
    weights = file_hash(ask.start / "weights.safetensors")
    told = ask.start.name if ask.start.is_absolute() else str(ask.start)  # run.json tells nobody's home
    return {"run": told, "sha256": weights, "parts": parts, "frozen": ask.freeze}


def _fit(
    ask: Command,
    model: Any,
    guide: Any,
    data: Data,
    bound: Any,
    decided: Decided,
    device: Any,
    out: Path,
    headline: str | None,
) -> Result:
    import ppl_vae
    from ppl_vae.display.training import TrainingDisplay
    from ppl_vae.distributed.group import Lost

    watched: AbstractContextManager[Any] = nullcontext()  # where another process of the run shows it
    if headline is not None:
        watched = TrainingDisplay(ask.passes, headline, points=decided.points)
    try:
        with watched as display:
            result = ppl_vae.fit(
                model,
                guide,
                data,
                bound,
                **ask.chosen(
                    points=decided.points,
                    begun=decided.begun,
                    weight_decay=decided.weight_decay,
                    label_weight=decided.label_weight,
                    device=device,
                ),
                on_epoch=display,
                progress=None if display is None else display.prepare,
                checkpoint=out / "checkpoint",
                resume=ask.resume,
                override=ask.override,
            )
    except KeyboardInterrupt as stop:
        raise _interrupted(out) from stop
    except Lost as error:
        raise Lost(f"{error.__cause__ or error}: {_interrupted(out)}") from error
    if result.stopped == "interrupted":
        raise _interrupted(out)
    return result


def _interrupted(out: Path) -> Interrupted:
    from ppl_vae.training.checkpoint import has_checkpoint

    why = "torchrun ends all processes of a run when one is gone; " if has_launcher() else ""
    if has_checkpoint(out / "checkpoint"):
        return Interrupted(f"{why}continue with the same options and --resume --out {out}")
    return Interrupted(f"{why}nothing was written")


def _evaluate(ask: Command, result: Result, data: Data, split: str) -> Judged | None:
    """The held-out numbers; none for a pair that has no evidence per row, whose run is kept all the same."""
    try:
        return judge(
            result.model, result.guide, getattr(data, split), ask.evaluate_particles, ask.settings["seed"], data.train
        )
    except UserError as error:
        note(f"the run is saved, but not evaluated: {error}")
        return None


def _posterior(ask: Command, result: Result, data: Data) -> Posterior | None:
    """What the rows say about the latents that they share; it is told at once."""
    from ppl_vae.cli.posterior import posterior_table, shared_posterior

    draws = 1000
    found = shared_posterior(result.model, result.guide, data, draws, ask.evaluate_particles, ask.settings["seed"])
    if found is not None and not ask.as_json:
        print_table(posterior_table(found))
    return found


def _report(
    result: Result,
    data: Data,
    judged: Judged | None,
    out: Path,
    seed: int,
    drawn: Posterior | None,
    figure_format: str,
) -> Path | None:
    from ppl_vae.reporting import write_report
    from ppl_vae.runs.files import read_run
    from ppl_vae.runs.folder import Run

    run = Run(out, result.model, result.guide, result.schema, result.history, read_run(out))
    try:
        summary, row_by_row = judged or (None, None)
        return write_report(run, data, summary, row_by_row, seed=seed, posterior=drawn, figure_format=figure_format)
    except UserError as error:
        note(f"the run is saved, but without a report: {error}")
        return None


def _finish(
    ask: Command,
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
            "best": asdict(result.best),
            "evaluation": {} if summary is None else {split: summary},
            "seconds": round(seconds, 2),
        }
        typer.echo(json.dumps(as_json(found), indent=2, ensure_ascii=False))
        return
    own = [f"--{r} {w}" for r, w in (("model", ask.model), ("guide", ask.guide or "")) if user_files.is_file(w)]
    more = " ".join(["", *own])
    say(f"run:    {out}")
    if report is not None:
        say(f"report: {report}")
    if summary is not None and "particles" not in summary:  # it has no evidence to sharpen, and may have no samples
        say(f"next:   ppl-vae encode {out}{more}")
        return
    say(f"next:   ppl-vae evaluate {out} --particles 5000{more}")
    unit = result.data.train.is_one_unit
    if not unit:
        say(f"        ppl-vae sample {out} -n 64{more}")
    if unit or (summary is not None and "joint_elbo" in summary):
        say(f"        ppl-vae posterior {out}{more}")
    else:
        say(f"        ppl-vae encode {out}{more}")
