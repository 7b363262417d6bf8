"""The section of a report about training: the bound epoch by epoch."""

from __future__ import annotations

from ppl_vae import plots
from ppl_vae.reporting._album import Album
from ppl_vae.reporting._cards import number
from ppl_vae.reporting._html import Section
from ppl_vae.runs.folder import Run
from ppl_vae.runs.result import Record, unfinished

__all__ = ["reconstruction_training", "training"]


def training(run: Run, album: Album) -> Section:
    """The bound over epochs, and how far the run went."""
    best = run.info.get("best", {}).get("epoch")
    if not run.history:
        return Section("Training curve", "This run has no history: `history.jsonl` is empty.")
    at = next((record for record in run.history if record["epoch"] == best), run.history[-1])
    validated = number(at.get("validation")) is not None
    text = f"At epoch {at['epoch']} the bound was {number(at['train']) or 'not finite'} nats per training row"
    text += f" and {number(at['validation'])} per validation row." if validated else "."
    text += _progress(run)
    caption = "Higher is better; the dashed line marks the epoch whose weights were kept. "
    if validated:
        caption += (
            "While both curves rise, the model learns what all rows have in common; where training goes on "
            "rising and validation falls, it has begun to learn its training rows by heart. "
        )
    if any(record.get("rate") is not None for record in run.history):
        caption += (
            "On the right are the two parts of the bound on training rows: distortion, what z leaves unsaid, "
            "and rate, what z tells; the bound is minus their sum. A rate near 0 would mean unused latents."
        )
    figure = plots.training_curve(run.history, best_epoch=best or None)
    return Section("Training curve", text, figures=(album.add("training", figure, caption, _seen(run, at)),))


def _progress(run: Run) -> str:
    """How many epochs there were, and how long they took."""
    epochs, limit = len(run.history), run.info.get("settings", {}).get("epochs")
    text = f" {epochs:,} epochs were run" if epochs != 1 else " One epoch was run"
    text += f" of at most {limit:,}" if isinstance(limit, int) and limit != epochs else ""
    seconds = [float(r["seconds"]) for r in run.history if r.get("seconds") is not None]
    if seconds and sum(seconds) >= 1:
        text += f" in {sum(seconds):,.0f} seconds, {1000 * sum(seconds) / len(seconds):,.0f} ms each"
    best = run.info.get("best", {}).get("epoch")
    more = unfinished(run.history, best, limit)
    return f"{text}." + (f" **{more.problem[0].upper()}{more.problem[1:]}**: {more.remedy}." if more else "")


def _seen(run: Run, at: Record) -> str:
    """What the curve shows, in words."""
    first, last = run.history[0], run.history[-1]
    words = f"The bound on training rows goes from {number(first['train'])} at epoch 1 to {number(last['train'])} at "
    words += f"epoch {last['epoch']}."
    if number(at.get("validation")) is not None:
        ends = [number(r.get("validation")) or "not finite" for r in (first, at, last)]
        words += f" On validation rows it is {ends[0]}, {ends[1]} at the kept epoch {at['epoch']}, and {ends[2]} last."
    return words


def reconstruction_training(run: Run, album: Album) -> Section:
    """The training curve of a pair that has no bound: how well rows came back, and what the penalties took."""
    best = run.info.get("best", {}).get("epoch")
    told = [r | {"train": -r["distortion"], "distortion": None} for r in run.history if r.get("distortion") is not None]
    if not told:
        return Section("Training curve", "This run has no history of its reconstructions.")
    if all(not r["rate"] for r in told):  # no penalties
        told = [r | {"rate": None} for r in told]
    caption = (
        "Higher is better; the dashed line marks the epoch whose weights were kept. This is no bound of log p(x): it "
        "says how well rows come back from their codes, and a wider code makes it larger without end. "
        "Training rows are those that the encoder saw, corrupted if it denoises; validation rows are whole."
    )
    if told[0]["rate"] is not None:
        caption += " On the right is what the penalties take off, and the log p(z) of a proper prior."
    figure = plots.training_curve(told, best_epoch=best or None, axis="log p(x|f(x)) (nats per row)", rate="penalties")
    return Section(
        "Training curve", "log p(x|f(x)) in nats per row.", figures=(album.add("training", figure, caption),)
    )
