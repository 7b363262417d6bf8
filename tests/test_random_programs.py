"""Random programs: their weights are those of a slow reference, or they are refused in one line. No third outcome."""

from __future__ import annotations

import itertools

import pyro
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from random_pairs import PARTICLES, Known, Style, by_hand, generate, with_shared_values_summed, write

import ppl_vae
from ppl_vae.bounds import ELBO
from ppl_vae.errors import UserError
from ppl_vae.guides import IAF, FullRank, MeanField

SEEDS = 300
FAST = 20
"""Seeds of the fast suite; the others are slow tests."""
REFUSED = 0.2
"""The share of pairs that may be refused, at most: a package that refuses everything would pass every other test."""


def seeds():
    """All seeds, those after the first ones slow."""
    return [pytest.param(s, marks=[pytest.mark.slow] if s >= FAST else []) for s in range(SEEDS)]


def same(found, expected):
    return found.shape == expected.shape and torch.allclose(found.double(), expected, rtol=1e-7, atol=1e-7)


def styles(pair, scales):
    """The ways of treating masks on latents: both densities of one count, or neither, or which do is said by entry."""
    masked = pair.writer.masked()
    if masked:
        yield Style(frozenset(), scales, pair.counting())
    for kept in itertools.product([False, True], repeat=len(masked)):
        yield Style(frozenset(n for n, k in zip(masked, kept, strict=True) if not k), scales)


def total(weights):
    """The ELBO of all rows, from what `by_hand` or the engine says."""
    return (weights.expectation.sum(1) + weights.shared).mean()


def refusal(error):
    """What a refusal has to be: one line."""
    assert "\n" not in str(error), error
    return str(error)


def weighed(pair, particles, fields, discrete):
    w = ppl_vae.log_weights(pair.model, pair.guide, fields, particles=particles, discrete=discrete)
    shared = torch.zeros(particles, dtype=torch.float64) if w.log_global is None else w.log_global
    return w.log_weight, shared


def outcome(pair):
    """None where all numbers are right, the words of the refusal, or an AssertionError."""
    try:
        weights = {d: weighed(pair, PARTICLES, pair.fields, d) for d in ("marginal", "expectation")}
    except UserError as error:
        return refusal(error)
    assert not pair.has(lambda s: summed_in_model(s) and not s.is_local), "rows that a shared value couples"
    right = [by_hand(pair, style) for style in styles(pair, scales=False)]
    for discrete, (log_weight, shared) in weights.items():
        assert any(same(shared, r.shared) for r in right), (discrete, "shared")
        for row in range(pair.writer.rows):  # whether a masked entry counts may differ from row to row
            assert any(same(log_weight[:, row], getattr(r, discrete)[:, row]) for r in right), (discrete, row)
    check_alone(pair, weights["marginal"])
    check_minibatch(pair, weights["marginal"])
    check_elbo(pair)
    return None


def check_alone(pair, weights):
    """One particle has the weights that it has among others."""
    log_weight, shared = weighed(pair, 1, pair.fields, "marginal")
    assert same(log_weight, weights[0][:1])
    assert same(shared, weights[1][:1])


def check_minibatch(pair, weights):
    """A row has in a minibatch the weights that it has among all rows; so minibatches average to the full batch."""
    for rows in (slice(0, 1), slice(1, None)):
        part = {name: values[rows] for name, values in pair.fields.items()}
        try:
            log_weight, shared = weighed(pair, PARTICLES, part, "marginal")
        except UserError as error:
            refusal(error)
            continue
        assert same(log_weight, weights[0][:, rows])
        assert same(shared, weights[1])


def check_elbo(pair):
    """ELBO as Pyro calls it, which counts the programs' own scales."""
    model, guide = pair.both
    try:
        loss = ELBO(PARTICLES).loss(model, guide, **pair.fields)
    except UserError as error:
        refusal(error)
        return
    # Pyro refuses a sum in the model beside one of the guide in another plate, so what is right is said by hand, too;
    # programs that are run one particle at a time draw the first one again
    ways = itertools.product(styles(pair, scales=True), ("none", "local", "all"), (None, 0))
    right = [r for r in (by_pyro(pair, *way) for way in ways) if r is not None]
    right += [-float(total(by_hand(pair, style))) for style in styles(pair, scales=True)]
    if pair.has(lambda s: s.discrete and not s.observed and s.in_guide and not s.is_local):
        if pair.has(lambda s: s.mask and not s.observed):
            return  # whether a masked entry counts may differ from entry to entry, which no style says
        right += [-float(with_shared_values_summed(pair, style)) for style in styles(pair, scales=True)]
    assert any(loss == pytest.approx(r, rel=1e-7) for r in right), (loss, right)


def summed_in_model(site):
    return site.is_label or (site.discrete and not site.observed and not site.in_guide)


def by_pyro(pair, style, which="local", particle=None):
    """Pyro's own ELBO of a pair that is written in a style; None where it has no right one.

    Discrete latents of the rows are summed out, or "all", or "none" of those that the guide draws.
    """
    pair = pair.written(style, particle)
    if pair.has(lambda s: s.is_label) or pair.mixes:
        return None
    if pair.has(lambda s: summed_in_model(s) and not s.is_local):
        return None
    chosen = {"none": lambda s: not s.in_guide, "local": lambda s: s.is_local, "all": lambda s: True}[which]
    summed = {s.name for s in pair.sites if s.discrete and not s.observed and chosen(s)}
    model, guide = (
        pyro.poutine.infer_config(p, lambda m: {"enumerate": "parallel"} if m["name"] in summed else {})
        for p in pair.both
    )
    count = PARTICLES if particle is None else 1
    elbo = TraceEnum_ELBO(count, max_plate_nesting=pair.writer.depth, vectorize_particles=True)
    try:
        return elbo.loss(Known({})(model), guide, **pair.fields)
    except (NotImplementedError, ValueError):
        return None
    except RuntimeError as error:  # its own zeros of a flat prior are in single precision
        if "same dtype" not in str(error):
            raise
        return None
    except AttributeError as error:  # a cost that is a plain zero has no tree to sum over
        if "_pyro_backward" not in str(error):
            raise
        return None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", seeds())
def test_right_or_refused(seed):
    pair = write(seed)
    outcome(pair)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", seeds())
def test_programs_of_more_kinds_are_right_or_refused(seed):
    """With chains (`pyro.markov`), factors, flat priors, chosen items of a plate, and two plates of the rows."""
    outcome(write(seed, more=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("more", [False, True])
def test_few_are_refused(more):
    words = [w for w in (outcome(write(seed, more=more)) for seed in range(3 * FAST)) if w is not None]
    # among the further kinds are latents with a flat prior, which a guide with a density cannot have
    assert len(words) <= (REFUSED + 0.05 if more else REFUSED) * 3 * FAST, words


@pytest.mark.filterwarnings("ignore")
def test_the_reference_is_pyros_elbo():
    """Where Pyro computes the ELBO too."""
    compared = 0
    for seed in range(2 * FAST):
        pair = write(seed)
        style = Style(frozenset(pair.writer.masked()))
        loss = None if pair.has(lambda s: s.scale) and pair.has(summed_in_model) else by_pyro(pair, style)
        if loss is not None:
            assert loss == pytest.approx(-float(total(by_hand(pair, style))), rel=1e-7), pair.source
            compared += 1
    assert compared > FAST


FAMILIES = (MeanField, FullRank, lambda *given, **options: IAF(*given, flows=1, **options))
"""Sites apart, joint blocks, and a flow over them."""


def outcome_generated(pair, family):
    """As `outcome`, with a guide that is generated from the model; None where all numbers are right."""
    if pair.has(lambda s: s.is_label):
        return "a label that some rows have, which the reference sums out in the model"
    try:
        pair = generate(pair, family)
        guide = pair.held()
        weights = {
            d: ppl_vae.log_weights(pair.model, guide, pair.fields, discrete=d) for d in ("marginal", "expectation")
        }
    except UserError as error:
        return refusal(error)
    right = [by_hand(pair, style) for style in styles(pair, scales=False)]
    for discrete, w in weights.items():
        shared = torch.zeros(1, dtype=torch.float64) if w.log_global is None else w.log_global
        assert any(same(shared, r.shared[:1]) for r in right), (discrete, "shared")
        for row in range(pair.writer.rows):
            assert any(same(w.log_weight[:, row], getattr(r, discrete)[:1, row]) for r in right), (discrete, row)
    return None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", seeds())
def test_generated_guides_are_right_or_refused(seed):
    outcome_generated(write(seed), FAMILIES[seed % len(FAMILIES)])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(SEEDS))
def test_generated_guides_of_more_kinds_are_right_or_refused(seed):
    outcome_generated(write(seed, more=True), FAMILIES[seed % len(FAMILIES)])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES)
def test_most_generated_guides_are_weighed(family):
    words = [w for w in (outcome_generated(write(seed), family) for seed in range(3 * FAST)) if w is not None]
    assert len(words) <= 0.5 * 3 * FAST, words
