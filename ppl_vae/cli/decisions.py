"""What depends on the pair and its data where nobody said it, and the line that tells all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ppl_vae.errors import UserError
from ppl_vae.registry.programs import NamedProgram

if TYPE_CHECKING:
    from ppl_vae.cli.fit import Command
    from ppl_vae.data import Data

__all__ = ["Decided", "decide", "headline_of"]


class Decided(NamedTuple):
    """What depends on the pair and its data where nobody said it."""

    weight_decay: float
    label_weight: float
    points: bool
    begun: bool = False


def decide(ask: Command, model: NamedProgram, guide: NamedProgram, data: Data) -> Decided:
    """Weight decay, label weight, whether the guide draws points, and whether the pair begins at a linear model."""
    from ppl_vae.training.settings import usual_decay

    decay = ask.settings["weight_decay"]
    if decay is None:
        decay = 0.0 if ask.is_own else usual_decay(len(data.train))
    weight = (
        _label_weight(ask, guide.value, data) if ask.settings["label_weight"] is None else ask.settings["label_weight"]
    )
    begun = bool(getattr(guide.value, "begun", False))
    return Decided(decay, weight, _has_points(model, guide, data), begun)


def _label_weight(ask: Command, guide: Any, data: Data) -> float:
    """Rows over labelled rows, where the guide has a classifier for labels that some rows miss; else 0.

    Ten times what Kingma et al. (2014, arXiv 1406.5298) take, whose data sets were larger.
    """
    site = getattr(guide, "sites", {}).get("y")
    if ask.is_pyro or site is None or not site.classified or "y" not in data.schema:
        return 0.0
    labelled = int((data.train["y"] >= 0).sum())
    return len(data.train) / labelled if labelled else 0.0


def _has_points(model: NamedProgram, guide: NamedProgram, data: Data) -> bool:
    """Whether the guide draws points, so that what is trained is no bound."""
    import torch

    from ppl_vae.checks.analysis import observe, read
    from ppl_vae.data.example import example
    from ppl_vae.programs.program import Pair
    from ppl_vae.programs.randomness import preserved_randomness

    pair = Pair(model.value, guide.value)
    try:
        with preserved_randomness(), torch.no_grad():
            batch = example(data.schema, data.train)
            structure = read(pair, batch, observe(pair, batch))
    except UserError:
        return False  # `fit` says what is wrong
    return bool(structure.points - structure.global_latents)


def headline_of(
    ask: Command, model: NamedProgram, guide: NamedProgram, data: Data, bound: Any, decided: Decided, device: str
) -> str:
    """What is trained on which rows and how, in one line."""
    rows = [f"{len(s):,} {n}" for n in ("train", "validation", "test") if (s := getattr(data, n)) is not None]
    told = "all data as one unit" if data.train.is_one_unit else f"{', '.join(rows)} rows"
    particles = getattr(bound, "particles", getattr(bound, "num_particles", 1))
    schedule = ask.weight(points=decided.points, begun=decided.begun)
    if ask.is_pyro:
        weight = "KL weight 1 (Pyro's own bounds have no warm-up)"
    elif callable(schedule):
        weight = f"KL weight 0 to {schedule.beta:g} over {schedule.epochs:g} epochs"
    else:
        weight = f"KL weight {schedule:g}"
    if decided.points:
        weight = weight.replace("KL weight", "penalty weight") + "; no bound: the guide draws points"
    weight += "" if ask.objective is None else f", objective {ask.objective}"
    rate = "" if ask.lr_schedule == "constant" else f" ({ask.lr_schedule})"
    labels = f", label weight {decided.label_weight:g}" if decided.label_weight else ""
    if ask.settings["label_share"] is not None:
        labels += f", labels in {ask.settings['label_share']:g} of the rows of a batch"
    return (
        f"{model.name} with {guide.name} on {data.name} ({told}): {type(bound).__name__}, "
        f"{particles} particle{'s' * (particles != 1)}; {weight}{labels}; lr {ask.settings['lr']:g}{rate}, "
        f"weight decay {decided.weight_decay:g}; batches of {ask.settings['batch_size']}; "
        f"seed {ask.settings['seed']}; on {device}"
    )
