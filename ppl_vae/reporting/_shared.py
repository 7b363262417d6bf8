"""The section of a report about latents that all rows share: their posterior as a table and two figures."""

from __future__ import annotations

import math

from ppl_vae import plots
from ppl_vae.arviz import Posterior
from ppl_vae.arviz import posterior as draw_posterior
from ppl_vae.data import Data, Split, is_unit
from ppl_vae.evaluation.joint_weights import shares_latents
from ppl_vae.programs.program import Pair
from ppl_vae.reporting._album import Album
from ppl_vae.reporting._cards import number
from ppl_vae.reporting._html import Section, Verdict
from ppl_vae.weights.psis import khat_limit

__all__ = ["posterior_of", "posterior_section", "shared_latents", "verdicts_of_posterior"]

SHOWN = 30

LITTLE = 0.1
"""Below this contraction a number is hardly known better than before the data."""

CONTRACTION = (
    "Contraction is 1 \N{MINUS SIGN} (width of the central 90 % / that of the prior)\N{SUPERSCRIPT TWO}: near 1 the "
    "rows decided, near 0 the prior. "
)


def posterior_of(pair: Pair, data: Data | Split, found: Posterior | None, seed: int) -> Posterior | None:
    """The posterior of what all rows share, or of all latents of one unit; drawn here where it is not given.

    None where rows share nothing.
    """
    if found is not None:
        return found
    if not is_unit(data) and not (isinstance(data, Data) and shares_latents(pair, data.train.to(pair.device))):
        return None
    return draw_posterior(pair.model, pair.guide, data, seed=seed)


def title_of(data: Data | Split) -> str:
    """What the section is called."""
    return "What all rows share" if not is_unit(data) else "Posterior"


def shared_latents(data: Data | Split, found: Posterior | None, album: Album) -> list[Section]:
    """What the training rows say about the latents that all rows share; nothing where there are none."""
    return [] if found is None else [posterior_section(data, found, album)]


def verdicts_of_posterior(data: Data | Split, found: Posterior | None) -> list[Verdict]:
    """Whether the draws of the posterior can be believed, and of what the data say little."""
    if found is None:
        return []
    title, lines = title_of(data), []
    if found.moves is not None:
        rhat = number(float(found.moves.rhat.max()))
        if found.moves.believed:
            words = f"The posterior: draws were moved from the guide to it, and groups of chains agree (R-hat {rhat})."
            lines.append(Verdict("believed", words, title))
    elif math.isfinite(found.khat):
        limit = khat_limit(len(found.weights))
        good = found.khat <= limit
        words = f"The posterior: k-hat of its draws is {number(found.khat)}, {'below' if good else 'above'} {limit:.2f}"
        worth = f"; they are worth {found.ess:,.0f} independent ones" if good else ""
        lines.append(Verdict("believed" if good else "not", f"{words}{worth}.", title))
    lines += [Verdict("not", f"The posterior: {finding.problem}.", title) for finding in found.findings if not lines]
    told = found.summary()["contraction"]
    little = [str(name) for name, share in told.items() if share < LITTLE]
    if little:
        words = f"The data say little about {len(little)} of {len(told)} numbers (contraction below {LITTLE:g}): "
        lines.append(Verdict("read", f"{words}{', '.join(little)}.", title))
    return lines


def posterior_section(data: Data | Split, found: Posterior, album: Album) -> Section:
    """The posterior as a table and two figures."""
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
    return Section(title_of(data), words, table, tuple(figures))
