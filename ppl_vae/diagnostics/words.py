"""Verdicts in plain words, and what to try."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ppl_vae.diagnostics._calibration.sbc import Calibration
    from ppl_vae.diagnostics._collapse.posterior_collapse import Collapse

__all__ = ["calibration_verdict", "collapse_verdict", "listed"]

LONGER = "a larger encoder or longer training"
SHOWN = 4
"""Names in a list, at most: the others are counted."""


def listed(names: Sequence[str]) -> str:
    """Names in a sentence.

    Example:
        >>> listed(["a"]), listed(["a", "b"]), listed([f"z[{i}]" for i in range(9)])
        ('a', 'a and b', 'z[0], z[1], z[2], z[3] and 5 more')
    """
    names = list(names)
    if len(names) > SHOWN + 1:
        return f"{', '.join(names[:SHOWN])} and {len(names) - SHOWN} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


# -- calibration ---------------------------------------------------------------------------------------------------


def calibration_verdict(found: Calibration) -> str:
    """What a calibration means."""
    about = f"{len(found.ranks):,} simulated rows, {len(found.tests)} tests at 5 % together"
    if found.calibrated:
        return f"Calibrated: no test speaks against the guide's posterior ({about})."
    faults = [fault for fault in (_shifted(found), *_spread(found), *_classes(found)) if fault]
    faults = faults or [fault for fault in (_shape(found), _together(found)) if fault]
    said = "; ".join(words for words, _ in faults)
    tried = list(dict.fromkeys(remedy for _, remedy in faults))
    return f"Not calibrated: {said} ({about}). Try {', '.join(tried)}."


Fault = tuple[str, str]


def _of(found: Calibration, *tests: str) -> list[str]:
    """The latents of which one of these tests is rejected, most significant first."""
    from ppl_vae.diagnostics._calibration.sbc import JOINT

    return list(dict.fromkeys(t.latent for t in found.rejected if t.name in tests and t.latent != JOINT))


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _shifted(found: Calibration) -> Fault | None:
    names = _of(found, "symmetric")
    if not names:
        return None
    by = [abs(found.shift[name]) for name in names]
    ways = {"low" if found.shift[name] > 0 else "high" for name in names}
    way = f"too {ways.pop()}" if len(ways) == 1 else "too low or too high"
    words = f"{listed(names)} shifted, {way} by about {_range(by)} of the guide's deviations"
    return words, LONGER


def _spread(found: Calibration) -> list[Fault]:
    faults = []
    for narrow in (True, False):
        names = [name for name in _of(found, "spread") if (found.width[name] < 1) == narrow]
        if names:
            width = _range([found.width[name] for name in names])
            words = f"{listed(names)} too {'narrow' if narrow else 'wide'}, about {width} times the right deviation"
            remedy = "a richer guide (FullRank, IAF) or bound=IWAE(16)" if narrow else LONGER
            faults.append((words, remedy))
    return faults


def _shape(found: Calibration) -> Fault | None:
    told = {*_of(found, "symmetric", "spread")}
    names = [name for name in _of(found, "uniform") if name not in told]
    return (f"{listed(names)} of the wrong shape", "a richer guide (IAF, Spline, Mixture)") if names else None


def _together(found: Calibration) -> Fault | None:
    from ppl_vae.diagnostics._calibration.sbc import JOINT

    if all(t.latent != JOINT for t in found.rejected):
        return None
    if len(found.names) + len(found.classes) > 2:
        words = "each latent is right on average over rows, but not all together: their dependence on each other"
        return f"{words} or on the row is wrong", "a guide with dependence (FullRank, LowRank, IAF) or a larger encoder"
    return "the latent is right on average over rows, but not for every row", LONGER


def _classes(found: Calibration) -> list[Fault]:
    faults, sure = [], _of(found, "confidence")
    for name in sure:
        factor = found.classes[name].sharpness
        how = "overconfident" if factor > 1 else "too unsure"
        remedy = "early stopping or weight_decay" if factor > 1 else LONGER
        faults.append((f"{name} {how}, log-odds about {factor:.2g} times what they should be", remedy))
    if often := [name for name in _of(found, "frequency") if name not in sure]:
        words = f"{listed(often)} with classes that come up more or less often than their probabilities say"
        faults.append((words, LONGER))
    return faults


# -- collapse ------------------------------------------------------------------------------------------------------

LITTLE = 0.5
"""Nats, of all latents together, with which rows are hardly told apart."""

AWAY, NARROW, WIDE = 0.5, 0.67, 1.5
"""How far an aggregate posterior may be from its prior, in prior deviations, and how wide."""

REMEDIES = "a KL warm-up (beta=WarmUp(50)), free bits (beta=FreeBits(0.5)), a smaller beta or a weaker decoder"


def collapse_verdict(found: Collapse) -> str:
    """What the use of the latents means."""
    parts = [_activity(found), *_usage(found), *_place(found)]
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
        tell = f"tell {found.rows:,} rows apart almost perfectly" if near else f"say {information:.1f} nats about a row"
        said += f"; together they {tell}"
    idle = count - active
    if found.collapsed:
        return f"{said}."
    if information < LITTLE:
        return f"{said}, which is little: not far from collapse; try longer training, {REMEDIES}."
    if idle > active:
        return f"{said}; the other {idle} are idle, which costs nothing; if rows come back poorly, try {REMEDIES}."
    return f"{said}; nothing is wrong with that."


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
