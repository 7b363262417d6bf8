"""The section of a report about latents that all rows share: their posterior as a table and two figures."""

from __future__ import annotations

from ppl_vae import plots
from ppl_vae.arviz import Posterior
from ppl_vae.arviz import posterior as draw_posterior
from ppl_vae.data import Data, Split, is_unit
from ppl_vae.evaluation.joint_weights import shares_latents
from ppl_vae.programs.program import Pair
from ppl_vae.reporting._album import Album
from ppl_vae.reporting._cards import number
from ppl_vae.reporting._html import Section

__all__ = ["posterior_section", "shared_latents"]

SHOWN = 30

CONTRACTION = (
    "Contraction is 1 \N{MINUS SIGN} (width of the central 90 % / that of the prior)\N{SUPERSCRIPT TWO}: near 1 the "
    "rows decided, near 0 the prior. "
)


def shared_latents(pair: Pair, data: Data | Split, found: Posterior | None, album: Album, seed: int) -> list[Section]:
    """What the training rows say about the latents that all rows share; nothing where there are none."""
    if found is None and (not isinstance(data, Data) or not shares_latents(pair, data.train.to(pair.device))):
        return []
    return [posterior_section(pair, data, found, album, seed)]


def posterior_section(pair: Pair, data: Data | Split, found: Posterior | None, album: Album, seed: int) -> Section:
    """The posterior of what all rows share, or of all latents of one unit; drawn here where it is not given."""
    found = draw_posterior(pair.model, pair.guide, data, seed=seed) if found is None else found
    lines = found.summary().iloc[:SHOWN]
    words = (
        f"Means, deviations and quantiles come from {len(found.weights):,} draws of the guide, weighted by how well "
        f"each explains all training rows together. {CONTRACTION}"
    )
    for finding in found.findings:
        words += f"\n\n**{finding.problem}**: {finding.remedy}."
    table = (
        ("", "mean", "sd", "5%", "median", "95%", "ESS", "k-hat", "contraction"),
        [[str(name), *(number(float(value)) or "" for value in line)] for name, line in lines.iterrows()],
    )
    names = [str(name) for name in lines.index]
    figures = [
        album.add(
            "shared-forest",
            plots.forest(lines["5%"].tolist(), lines["50%"].tolist(), lines["95%"].tolist(), names),
            "Each line holds a number with probability 0.9; the point is its median.",
        )
    ]
    if len(names) > 1:
        caption = "Draws of the posterior, two numbers at a time. A slanted cloud: the rows tell a sum or difference."
        figures.append(album.add("shared-pairs", plots.pairs(found.frame()[names]), caption))
    return Section("What all rows share" if not is_unit(data) else "Posterior", words, table, tuple(figures))
