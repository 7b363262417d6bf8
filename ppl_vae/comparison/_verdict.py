"""What a comparison says: its table, and a verdict in a few sentences."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from ppl_vae.comparison._pairs import Compared, Difference, difference
from ppl_vae.evaluation.means import standard_error
from ppl_vae.weights.psis import khat_limit

if TYPE_CHECKING:
    from rich.table import Table

    from ppl_vae.comparison.compare import Comparison

__all__ = ["Effect", "effects", "shown_rungs", "table", "text", "verdict"]

USES = {"total_correlation": "TC", "mig": "MIG", "probe": "label read"}
"""What is told of latents, and the heads of its columns."""

LISTED = 4
"""So many pairs are named one by one in a sentence."""


# -- the table ---------------------------------------------------------------------------------------------


def table(found: Comparison, width: int | None = None) -> Table:
    """One line a pair, best first; where `width` letters are not enough, without the columns that matter least."""
    without: tuple[str, ...] = ()
    made = _table(found, without)
    for column in ("parameters", "s/epoch", "MC error", "IWAE", "between seeds", "k-hat"):
        if width is None or _width(made) <= width:
            break
        without += (column,)
        made = _table(found, without)
    return made


def _width(made: Table) -> int:
    """How many letters a line of a table has; its title and caption are folded."""
    from rich.console import Console
    from rich.measure import Measurement

    console = Console(width=10_000)
    return Measurement.get(console, console.options, made).maximum


def _table(found: Comparison, without: Sequence[str]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(
        title=f"nats per row, {found.rows:,} {found.where}, {found.particles:,} particles{_certified(found)}",
        caption=_caption(found, without),
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    made.add_column("", no_wrap=True)
    lines = [_cells(found, pair) for pair in found.pairs]
    heads = [head for head in lines[0] if not head.startswith(tuple(without))]
    for head in heads:
        made.add_column(head, justify="right", no_wrap=True)
    for pair, cells in zip(found.pairs, lines, strict=True):
        made.add_row(pair.name, *(cells[head] for head in heads))
    return made


def _certified(found: Comparison) -> str:
    return "" if found.accuracy is None else f"; log p(x) certified to {found.accuracy:g} nats"


def _cells(found: Comparison, pair: Compared) -> dict[str, str]:
    """The cells of a line by the heads of their columns."""
    evidence = pair.estimate()
    gap = difference(pair, found.best)
    cells = {"ELBO": _with_error(*pair.estimate("elbo")[:2])}
    cells |= {f"IWAE-{k}": _number(pair.estimate(k).value) for k in shown_rungs(found)}
    cells |= {"log p(x)": _with_error(*evidence[:2]), "MC error": _number(evidence.mc_se, 3)}
    if any(len(each.evaluations) > 1 for each in found.pairs):
        cells["between seeds"] = _number(evidence.seed_se)
    cells |= _use_cells(found, pair)
    cells["to the best"] = "best" if pair is found.best else _with_error(gap.value, gap.total_se)
    if found.accuracy is not None:
        cells["not certain"] = f"{pair.unreliable_rows:.0f}"
    elif found.particles > 1:
        cells[f"k-hat > {khat_limit(found.particles):.2f}"] = f"{pair.unreliable_rows:.0f}"
    cells["parameters"] = " + ".join(f"{n:,}" for n in pair.parameters)
    cells["s/epoch"] = "-" if pair.seconds_per_epoch is None else f"{pair.seconds_per_epoch:.2g}"
    return cells


def _use_cells(found: Comparison, pair: Compared) -> dict[str, str]:
    """The parts of the ELBO and what latents are used for, where that was asked for: means and errors over seeds."""
    if not any(each.latents for each in found.pairs):
        return {}
    rates = torch.stack([each.rate.double().mean().cpu() for each in pair.evaluations])
    cells = {"rate": _seeds(float(rates.mean()), float(standard_error(rates)))}
    active, units = pair.use("active")[0], max((int(use.units) for use in pair.latents), default=0)
    cells["active"] = f"{active:.3g} of {units}" if pair.latents else "-"
    for what, head in USES.items():
        if any(not math.isnan(each.use(what)[0]) for each in found.pairs):
            cells[head] = _seeds(*pair.use(what))
    return cells


def _seeds(value: float, se: float) -> str:
    return _number(value) if math.isnan(se) else f"{_number(value)} ± {_number(se)}"


def _caption(found: Comparison, without: Sequence[str]) -> str:
    """What stands after the ±, and what the columns are."""
    seeds = sorted({len(pair.evaluations) for pair in found.pairs})
    words = "± standard error over rows; to the best: log p(x), paired row by row"
    if seeds[-1] > 1:
        counts = " to ".join(map(str, [seeds[0], seeds[-1]] if len(seeds) > 1 else seeds))
        words += f", error of rows and of {counts} seeds"
    if any(pair.latents for pair in found.pairs):
        words += "; rate, TC in nats, MIG: of training rows, ± over seeds"
    doubts = "k-hat: rows where it is too large" if found.accuracy is None else "not certain: rows whose log p(x) is"
    words += f"; {doubts}"
    return words if "parameters" in without else f"{words}; parameters of model + guide"


def shown_rungs(found: Comparison) -> list[int]:
    """At most three of the numbers of particles, spread over all."""
    rungs = [k for k in found.ladder if 1 < k < found.particles]
    if len(rungs) <= 3:
        return rungs
    return [rungs[0], rungs[len(rungs) // 2], rungs[-1]]


def text(found: Comparison) -> str:
    """The table and the verdict as plain text."""
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=200, color_system=None, markup=False, emoji=False).print(
        table(found), verdict(found), highlight=False, soft_wrap=True
    )
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _number(value: float, digits: int = 2) -> str:
    return "-" if math.isnan(value) else f"{round(value, digits) + 0.0:,.{digits}f}"  # + 0.0: there is no -0.00


def _with_error(value: float, se: float) -> str:
    """Both with two decimals, with more where the error is smaller than these show."""
    digits = 2 if not 0 < se < 0.05 else min(5, 1 - math.floor(math.log10(se)))
    return f"{_number(value, digits)} ± {_number(se, digits)}"


# -- what one thing does, whatever the others are ----------------------------------------------------------


class Effect(NamedTuple):
    """What one level of a grid's factor gains over another, the mean over `contexts` choices of all the rest."""

    factor: str
    level: str
    reference: str
    difference: Difference
    contexts: int


def effects(found: Comparison) -> list[Effect]:
    """Of every factor that a grid varied, each level against the first, in nats of log evidence per row."""
    made = []
    for factor, (reference, *others) in found.levels.items():
        for level in others:
            pairs = _matched(found, factor, level, reference)
            if pairs:
                made.append(Effect(factor, level, reference, _mean_difference(pairs), len(pairs)))
    return made


def _matched(found: Comparison, factor: str, level: str, reference: str) -> list[tuple[Compared, Compared]]:
    """Pairs of pairs that differ in nothing but this factor."""

    def rest(pair: Compared) -> tuple[str, ...]:
        return tuple(v for k, v in sorted(pair.factors.items()) if k != factor)

    plain = {rest(pair): pair for pair in found.pairs if pair.factors.get(factor) == reference}
    return [(p, plain[rest(p)]) for p in found.pairs if p.factors.get(factor) == level and rest(p) in plain]


def _mean_difference(pairs: Sequence[tuple[Compared, Compared]]) -> Difference:
    rows = sum((a.rows() - b.rows() for a, b in pairs), start=0 * pairs[0][0].rows()) / len(pairs)
    each = [difference(a, b) for a, b in pairs]
    seeds = math.hypot(*(d.seed_se for d in each)) / len(each)
    unpaired = math.hypot(*(d.unpaired_se for d in each)) / len(each)
    return Difference(float(rows.mean()), float(standard_error(rows)), seeds, unpaired)


# -- the verdict -------------------------------------------------------------------------------------------


def verdict(found: Comparison) -> str:
    """The best pair, which others differ from it, what guides cost, which numbers are unreliable."""
    sentences = [*_against_the_best(found), *_factors(found), _gaps(found), *_doubts(found)]
    if len(found.pairs) > 1:
        sentences.append(_scope(found))
    return " ".join(sentences)


def _against_the_best(found: Comparison) -> list[str]:
    best, others = found.best, found.pairs[1:]
    if not others:
        value, se, *_ = best.estimate()
        return [f"{best.name} has a log evidence of {_with_error(value, se)} nats per row."]
    gaps = {pair.name: difference(best, pair) for pair in others}
    worse = {name: gap for name, gap in gaps.items() if gap.told_apart}
    level = {name: gap for name, gap in gaps.items() if not gap.told_apart}
    said = []
    if worse:
        named = [f"{name} by {_with_error(gap.value, gap.total_se)}" for name, gap in worse.items()]
        said.append(f"{best.name} is better than {_listed(named, 'others')} nats per row.")
    if level:
        named = [f"{name} ({_with_error(gap.value, gap.total_se)})" for name, gap in level.items()]
        said.append(f"The difference between {best.name} and {_listed(named, 'others')} is not significant.")
    gap = max((difference(pair, best, "elbo") for pair in others), key=lambda d: d.value)
    if gap.value > 0 and gap.told_apart:
        ahead = max(others, key=lambda pair: pair.estimate("elbo").value)
        said.append(
            f"By the ELBO {ahead.name} is better than {best.name}, by {_with_error(gap.value, gap.total_se)}: its "
            "guide is closer to its posterior."
        )
    return said


def _listed(words: Sequence[str], rest: str) -> str:
    """ "a, b and c"; of many the first few."""
    if len(words) > LISTED:
        words = [*words[: LISTED - 1], f"{len(words) - LISTED + 1} {rest}"]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _factors(found: Comparison) -> list[str]:
    """What each factor gains, where more than one was varied (else it has been said)."""
    if len(found.levels) < 2:
        return []
    said = []
    for effect in effects(found):
        gap, over = effect.difference, f"over {effect.contexts} pairs of cells" if effect.contexts > 1 else ""
        change = f"{effect.factor} {effect.level} instead of {effect.reference}"
        words = "gains" if gap.value > 0 else "loses"
        number = _with_error(abs(gap.value), gap.total_se)
        outcome = f"{words} {number} nats" if gap.told_apart else f"makes no significant difference ({number})"
        said.append(f"{change} {outcome} {over}".strip() + ".")
    return [f"{sentence[0].upper()}{sentence[1:]}" for sentence in said]


def _gaps(found: Comparison) -> str:
    """How far the ELBO is below the evidence: what the guide costs, and what more particles get back."""
    named = []
    for pair in sorted(found.pairs, key=lambda p: -float((p.rows("elbo") - p.rows()).mean())):
        gap = pair.rows() - pair.rows("elbo")
        named.append(f"{_with_error(float(gap.mean()), float(standard_error(gap)))} nats for {pair.name}")
    if found.accuracy is not None:
        return f"Certified log evidence is above the ELBO by {_listed(named, 'more')}."
    k = f"{found.particles:,}"
    return f"The bound with {k} particles is tighter than the ELBO by {_listed(named, 'more')}."


def _doubts(found: Comparison) -> list[str]:
    said = []
    limit = khat_limit(found.particles)
    bad = [pair for pair in found.pairs if pair.unreliable_rows >= 0.5]
    if bad:
        bad = sorted(bad, key=lambda pair: -pair.unreliable_rows)
        named = [f"{pair.unreliable_rows:.0f} rows of {pair.name}" for pair in bad]
    if bad and found.accuracy is not None:
        said.append(f"Not certain to {found.accuracy:g} nats are {_listed(named, 'more')} (of {found.rows:,}).")
    elif bad:
        said.append(
            f"k-hat is above {limit:.2f} in {_listed(named, 'more')} (of {found.rows:,}): there the guide misses part "
            "of the posterior, and the log evidence is likely too low; more particles or a richer guide may help."
        )
    if not found.order.holds:
        said.append(found.order.verdict)
    said += [f"{name} failed: {reason}." for name, reason in found.failed.items()]
    return said


def _scope(found: Comparison) -> str:
    words = "Differences below two standard errors are not significant"
    if all(len(pair.evaluations) > 1 for pair in found.pairs):
        return f"{words}; ± includes the error over rows and the error between seeds."
    return f"{words}; ± is the error over rows and does not include the variation between seeds."
