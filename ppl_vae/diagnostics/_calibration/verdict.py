"""What a calibration means, in plain words, and what to try."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ppl_vae.diagnostics._common.sentences import LONGER, listed

if TYPE_CHECKING:
    from ppl_vae.diagnostics._calibration.sbc import Calibration

__all__ = ["Fault", "calibration_verdict"]


def calibration_verdict(found: Calibration) -> str:
    """What a calibration means."""
    about = f"{len(found.ranks):,} simulated {found.of}, {len(found.tests)} tests at 5 % together"
    if found.calibrated:
        return f"Calibrated: no test speaks against the guide's posterior ({about})."
    faults = [fault for fault in (_shifted(found), *_spread(found), *_classes(found)) if fault]
    faults = faults or [fault for fault in (_shape(found), _together(found)) if fault]
    said = "; ".join(words for words, _ in faults)
    tried = list(dict.fromkeys(remedy for _, remedy in faults))
    noted = "".join(f" {note[0].upper()}{note[1:]}." for note in found.notes) if found.of != "rows" else ""
    return f"Not calibrated: {said} ({about}). Try {', '.join(tried)}.{noted}"


Fault = tuple[str, str]


def _of(found: Calibration, *tests: str) -> list[str]:
    """The latents of which one of these tests is rejected, most significant first."""
    return list(dict.fromkeys(t.latent for t in found.rejected if t.name in tests and t.latent not in found.quantities))


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
            richer = "a richer guide (FullRank, IAF)" + (" or bound=IWAE(16)" if found.of == "rows" else "")
            remedy = richer if narrow else LONGER
            faults.append((words, remedy))
    return faults


def _shape(found: Calibration) -> Fault | None:
    told = {*_of(found, "symmetric", "spread")}
    names = [name for name in _of(found, "uniform") if name not in told]
    return (f"{listed(names)} of the wrong shape", "a richer guide (IAF, Spline, Mixture)") if names else None


def _together(found: Calibration) -> Fault | None:
    wrong = [name for name in found.quantities if any(t.latent == name for t in found.rejected)]
    if not wrong:
        return None
    by = f" (by {listed(wrong)})"
    if len(found.names) - len(found.quantities) + len(found.classes) > 1:
        words = "each latent is right on average over rows, but not all together: their dependence on each other"
        remedy = "a guide with dependence (FullRank, LowRank, IAF) or a larger encoder"
        return f"{words} or on the row is wrong{by}", remedy
    return f"the latent is right on average over rows, but not for every row{by}", LONGER


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
