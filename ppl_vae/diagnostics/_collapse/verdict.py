"""What the use of latents means, in plain words, and what to try."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ppl_vae.diagnostics._common.sentences import listed

if TYPE_CHECKING:
    from ppl_vae.diagnostics._collapse.posterior_collapse import Collapse

__all__ = ["AWAY", "LITTLE", "NARROW", "REMEDIES", "WIDE", "collapse_verdict"]


LITTLE = 0.5
"""Nats, of all latents together, with which rows are hardly told apart."""


AWAY, NARROW, WIDE = 0.5, 0.67, 1.5
"""How far an aggregate posterior may be from its prior, in prior deviations, and how wide."""


REMEDIES = "a KL warm-up (beta=WarmUp(50)), free bits (beta=FreeBits(0.5)), a smaller beta or a weaker decoder"


def collapse_verdict(found: Collapse) -> str:
    """What the use of the latents means."""
    parts = [_activity(found), *_usage(found), *_hole(found), *_place(found)]
    if found.collapsed:
        silent = listed(found.collapsed)
        verb = "says" if len(found.collapsed) == 1 else "say"
        said = f"Collapsed: {silent} {verb} nothing about a row, and the model does without."
        return " ".join([said, *parts, f"Try {REMEDIES}."])
    return " ".join(parts)


def _activity(found: Collapse) -> str:
    active, count, information = int(found.active.sum()), len(found.names), found.mutual_information.value
    said = f"{active} of {count} latents {'is' if active == 1 else 'are'} active"
    if not count:
        said = "The latents are classes"
    if information == information:
        near = information > found.ceiling - 0.5
        tell = f"tell {found.rows:,} rows apart almost perfectly and say" if near else "say"
        said += f"; together they {tell} {_between(*found.information)} nats about a row"
    idle = count - active
    if found.collapsed:
        return f"{said}."
    if information < LITTLE:
        return f"{said}, which is little: not far from collapse; try longer training, {REMEDIES}."
    if idle > active:
        return f"{said}; the other {idle} are idle, which costs nothing; if rows come back poorly, try {REMEDIES}."
    return f"{said}; nothing is wrong with that."


def _between(low: float, high: float) -> str:
    """A bracket in words; its ends where they are told apart.

    Example:
        >>> _between(5.24, 9.81), _between(0.5, 0.501), _between(2.0, float("inf"))
        ('between 5.2 and 9.8', '0.5', 'at least 2.0')
    """
    low, high = max(0.0, low), max(0.0, low, high)
    if not math.isfinite(high):
        return f"at least {low:.1f}"
    return f"{low:.1f}" if f"{low:.1f}" == f"{high:.1f}" else f"between {low:.1f} and {high:.1f}"


def _hole(found: Collapse) -> list[str]:
    """What of the KL is no information: the aggregate posterior is not the prior, so that samples are no codes."""
    low, high = found.marginal_kl_least.value, found.marginal_kl.value
    if not found.site_kl or not high > LITTLE:
        return []
    said = f"Of the KL of {found.rate:.1f} nats, {_between(low, high)} are KL(q(z) || p(z)), which samples lack"
    return [f"{said}." if low > LITTLE else f"{said}: more rows would tell."]


def _usage(found: Collapse) -> list[str]:
    return [
        f"{name} uses {c.used} of {len(c.usage)} classes and says {c.information:.2f} nats about a row."
        for name, c in found.classes.items()
        if name not in found.collapsed
    ]


def _place(found: Collapse) -> list[str]:
    """Where the aggregate posterior is not the prior."""
    off = [
        name
        for name, on, shift, spread in zip(found.names, found.active, found.shift, found.spread, strict=True)
        if on and (abs(shift) > AWAY or not NARROW < spread < WIDE)
    ]
    if not off:
        return []
    words = f"Over all rows {listed(off)} lies elsewhere than the prior, so that samples are worse than reconstructions"
    return [f"{words}: try a learned prior (VampPrior, FlowPrior) or longer training."]
