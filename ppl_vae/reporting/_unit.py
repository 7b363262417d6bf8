"""The report of a run whose data are one unit: no rows to draw, but a bound, an evidence and a posterior."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import metadata

from ppl_vae import plots
from ppl_vae.arviz import Posterior
from ppl_vae.data import OneUnit
from ppl_vae.reporting._album import Album
from ppl_vae.reporting._cards import Card, number
from ppl_vae.reporting._descriptions import drawn_pair, name_of
from ppl_vae.reporting._diagnosed import diagnosed
from ppl_vae.reporting._html import Section, render
from ppl_vae.reporting._shared import posterior_of, shared_latents, verdicts_of_posterior
from ppl_vae.reporting._verdicts import verdicts_of_unit
from ppl_vae.runs.folder import Run

__all__ = ["page_of_unit"]

Numbers = Mapping[str, float | int]


def page_of_unit(
    run: Run, unit: OneUnit, evaluation: Numbers | None, posterior: Posterior | None, album: Album, seed: int
) -> str:
    """The page of a run that took all data as one unit."""
    model, guide = (name_of(run.info.get(r), p) for r, p in (("model", run.model), ("guide", run.guide)))
    found = posterior_of(run.pair, unit, posterior, seed)
    sections = [
        _trained(run, unit, model, guide, album),
        _curve(run, album),
        *shared_latents(unit, found, album),
        *diagnosed(run.path),
    ]
    short = (name.partition("(")[0].strip() for name in (model, guide))
    return render(
        f"{' with '.join(short)} on {run.info['data']['name']}",
        f"Run {run.path.name}. All data are one unit: every number is of all data together.",
        _cards(run, evaluation),
        sections,
        f"Made by ppl-vae {metadata.version('ppl-vae')}. Draws were made with seed {seed}. "
        "Every figure is also a file in the folder `figures` beside this page. 1 nat = 1.44 bits.",
        verdicts_of_unit(run, evaluation, verdicts_of_posterior(unit, found)),
    )


def _cards(run: Run, evaluation: Numbers | None) -> list[Card]:
    if evaluation is None:
        bound = number(run.info.get("best", {}).get("bound")) or "not finite"
        words = f"At epoch {run.info.get('best', {}).get('epoch')}, whose weights were kept. Not evaluated."
        return [("Bound of all data, nats", bound, words)]
    elbo, evidence = (-float(evaluation.get(key, math.nan)) for key in ("negative_elbo", "nll"))
    particles, se = number(evaluation.get("particles")), number(evaluation.get("nll_mc_se"))
    khat, limit = number(evaluation.get("khat_max")), number(evaluation.get("khat_limit"))
    return [
        ("ELBO of all data, nats", number(elbo) or "not finite", "A lower bound on log p(all data)."),
        (
            "Log evidence, nats",
            f"{number(evidence) or 'not finite'}{f' ± {se}' if se else ''}",
            f"log p(all data), importance sampled with {particles} draws; ± is the Monte Carlo standard error.",
        ),
        (
            "k-hat",
            khat or "too few draws",
            f"How heavy the tail of the weights is; above {limit} their error is not known.",
        ),
        ("Rate, nats", number(evaluation.get("rate")) or "not finite", "KL(q(z) ‖ p(z)): what the data told."),
    ]


def _trained(run: Run, unit: OneUnit, model: str, guide: str, album: Album) -> Section:
    info, best = run.info, run.info.get("best", {})
    sizes = [sum(p.numel() for p in part.parameters()) for part in (run.pair.model, run.pair.guide)]
    fields = "; ".join(f"{name} {' x '.join(map(str, v.shape)) or 'one number'}" for name, v in unit.fields.items())
    rows: list[tuple[str, object]] = [
        ("model", model),
        ("guide", guide),
        ("bound", name_of(info.get("bound"), None)),
        ("data", f"{info['data']['name']}: {fields}"),
        ("best epoch", f"{best.get('epoch')} of {len(run.history)}"),
        ("parameters", f"{sizes[0]:,} in the model, {sizes[1]:,} in the guide"),
        ("versions", ", ".join(f"{k} {v}" for k, v in info.get("versions", {}).items())),
    ]
    words = "The **guide** q(z) is a distribution over all latents of the **model** p(z) p(x|z), for these data alone."
    figures = (drawn_pair(run.pair, unit, album),)
    return Section("What was trained", words, (("part", "in this run"), rows), figures)


def _curve(run: Run, album: Album) -> Section:
    figure = plots.training_curve(run.history, best_epoch=run.info.get("best", {}).get("epoch"))
    caption = "Higher is better; the dashed line marks the epoch whose weights were kept."
    return Section("Training curve", "The bound of all data.", figures=(album.add("training", figure, caption),))
