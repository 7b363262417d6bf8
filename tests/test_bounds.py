"""Every bound over every exact problem: never above the evidence, right in value, monotone, equal to Pyro's."""

from __future__ import annotations

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import BOUNDS, F64, LOWER_BOUNDS, PROBLEMS, Problem, is_defined, t
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, config_enumerate

from ppl_vae import UserError, log_weights
from ppl_vae.bounds import CIWAE, CUBO, ELBO, IWAE, MIWAE, PIWAE, TVO, Renyi
from ppl_vae.checks.analysis import analyse
from ppl_vae.programs.program import Pair

REPLICATES = 1500
by_problem = pytest.mark.parametrize("problem", PROBLEMS, ids=str)


def estimates(bound, problem: Problem, replicates: int = REPLICATES, guide=None) -> torch.Tensor:
    """Independent estimates of each row's bound, [replicate, row]."""
    batch = problem.tiled(replicates)
    pair = Pair(problem.model, guide or problem.guide)
    structure = problem.structure if guide is None else analyse(pair, problem.batch)
    bound.refuse(structure)
    with torch.no_grad():
        rows = bound.reduce(bound.weigh(pair, structure, batch))
    return rows.reshape(replicates, -1)


def mean_and_error(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return values.mean(0), values.std(0) / math.sqrt(len(values)) + 1e-9


@by_problem
@pytest.mark.parametrize("name", LOWER_BOUNDS)
def test_a_lower_bound_is_never_above_the_evidence(name, problem):
    bound = LOWER_BOUNDS[name](8)
    if not is_defined(bound, problem):
        with pytest.raises(UserError, match=r"discrete|reparameterised"):
            estimates(bound, problem)
        return
    mean, error = mean_and_error(estimates(bound, problem))
    assert (mean <= problem.log_evidence + 4 * error).all()


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p.exact], ids=str)
@pytest.mark.parametrize("name", [n for n in BOUNDS if n != "ELBO, analytic KL"])  # it is so in expectation only
def test_every_bound_is_the_evidence_at_the_exact_posterior(name, problem):
    bound = BOUNDS[name](4)
    values = estimates(bound, problem, 10, guide=problem.exact)
    torch.testing.assert_close(values, problem.log_evidence.expand_as(values), atol=1e-6, rtol=0)


@by_problem
def test_iwae_grows_with_particles_to_the_evidence(problem):
    results = [mean_and_error(estimates(IWAE(k), problem, 400 if k < 512 else 100)) for k in (2, 8, 64, 512)]
    for (lower, error), (upper, other) in itertools.pairwise(results):
        assert (lower <= upper + 4 * (error + other)).all()
    mean, error = results[-1]
    # Bias of IWAE-K is about var(w) / (2 K mean(w)^2); a tenth of a nat covers it at K = 512 in all problems.
    assert ((mean - problem.log_evidence).abs() <= 4 * error + 0.03).all()


@by_problem
def test_iwae_mean_weight_is_unbiased(problem):
    """E[w] = p(x) exactly: the strongest statement about weights there is."""
    weights = log_weights(problem.model, problem.guide, problem.tiled(100), particles=400).log_weight
    ratio = (weights.reshape(400 * 100, -1) - problem.log_evidence).exp()
    mean, error = mean_and_error(ratio)
    assert ((mean - 1).abs() <= 4 * error).all()


@by_problem
def test_bounds_keep_their_order_draw_by_draw(problem):
    weights = log_weights(problem.model, problem.guide, problem.tiled(100), particles=8).log_weight
    elbo, iwae, cubo = ELBO(8).of(weights), IWAE(8).of(weights), CUBO(2.0, 8).of(weights)
    chain = [Renyi(2.0, 8).of(weights), elbo, TVO(5, 8).of(weights), iwae, cubo]
    for lower, upper in itertools.pairwise(chain):
        assert (lower <= upper + 1e-9).all()
    for between in (CIWAE(0.3, 8), MIWAE(2, 4), Renyi(0.5, 8)):
        assert (elbo <= between.of(weights) + 1e-9).all()
        assert (between.of(weights) <= iwae + 1e-9).all()


@pytest.mark.parametrize("analytic_kl", [False, True])
def test_elbo_is_its_closed_form(analytic_kl):
    problem = PROBLEMS[0]
    mean, error = mean_and_error(estimates(ELBO(4, analytic_kl=analytic_kl), problem, 20_000))
    assert ((mean - problem.elbo).abs() <= 4 * error).all()


def test_analytic_kl_has_the_same_expectation():

    def prior(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2, dtype=F64), t([1.0, 0.4])).to_event(1))

    problem = PROBLEMS[0]
    sampled, analytic = (estimates(ELBO(1, analytic_kl=a), problem, guide=prior) for a in (False, True))
    difference = sampled.mean(0) - analytic.mean(0)
    assert (difference.abs() <= 4 * (sampled.std(0) + analytic.std(0)) / math.sqrt(REPLICATES)).all()
    assert not torch.equal(sampled, analytic)


def test_cubo_is_an_upper_bound_with_many_particles():
    mean, error = mean_and_error(estimates(CUBO(2.0, 2000), PROBLEMS[0], 50))
    assert (mean >= PROBLEMS[0].log_evidence - 4 * error).all()


# -- equality with Pyro ----------------------------------------------------------------------------------------

PARAMETERS = {"shift": t(0.2), "scale": t([0.8, 0.6]), "noise": t(0.7)}


def trainable(x):
    noise = pyro.param("noise", PARAMETERS["noise"].clone(), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), noise), obs=x)


def trainable_guide(x):
    shift = pyro.param("shift", PARAMETERS["shift"].clone())
    scale = pyro.param("scale", PARAMETERS["scale"].clone(), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(shift * x.unsqueeze(-1), scale).to_event(1))


def labelled(x):
    weights = pyro.param("weights", t([0.2, 0.3, 0.5]), constraint=dist.constraints.simplex)
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(weights))
        z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
        pyro.sample("x", dist.Normal(z + t([-1.0, 0.4, 2.0])[y], 0.6), obs=x)


def labelled_guide(x):
    slope = pyro.param("slope", t([-1.0, 0.2, 1.0]))
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(logits=x.unsqueeze(-1) * slope))
        pyro.sample("z", dist.Normal(0.5 * (x - t([-1.0, 0.4, 2.0])[y]), 0.7))


def collapsed_guide(x):
    slope = pyro.param("slope1", t(0.4))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(slope * x, 0.7))


def value_and_gradient(bound, model, guide, x, seed=1):
    with pyro.get_param_store().scope():
        model(x), guide(x)
        pyro.set_rng_seed(seed)
        loss = bound.loss_and_grads(model, guide, x)
        gradients = {n: p.grad.clone() for n, p in pyro.get_param_store().named_parameters()}
    return loss, gradients


@pytest.mark.parametrize(
    ("ours", "theirs", "model", "guide", "rows"),
    [
        (ELBO(), Trace_ELBO(), trainable, trainable_guide, 5),
        (
            ELBO(4),
            Trace_ELBO(4, vectorize_particles=True, max_plate_nesting=1),
            trainable,
            trainable_guide,
            5,
        ),
        (ELBO(), TraceEnum_ELBO(max_plate_nesting=1), labelled, labelled_guide, 5),
        (ELBO(), TraceEnum_ELBO(max_plate_nesting=1), labelled, collapsed_guide, 5),
        (
            ELBO(3),
            TraceEnum_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
            labelled,
            labelled_guide,
            5,
        ),
        (
            IWAE(6),
            RenyiELBO(alpha=0, num_particles=6, vectorize_particles=True, max_plate_nesting=1),
            trainable,
            trainable_guide,
            5,
        ),
        (
            Renyi(0.5, 6),
            RenyiELBO(alpha=0.5, num_particles=6, vectorize_particles=True, max_plate_nesting=1),
            trainable,
            trainable_guide,
            5,
        ),
    ],
    ids=[
        "Trace_ELBO",
        "Trace_ELBO-4",
        "TraceEnum_ELBO",
        "TraceEnum_ELBO collapsed",
        "TraceEnum-3",
        "RenyiELBO(0)",
        "RenyiELBO(0.5)",
    ],
)
def test_equal_to_pyro_in_value_and_gradient(ours, theirs, model, guide, rows):
    x = torch.linspace(-1, 2, rows, dtype=F64)
    if isinstance(theirs, TraceEnum_ELBO):
        reference = value_and_gradient(theirs, config_enumerate(model), config_enumerate(guide), x)
    else:
        reference = value_and_gradient(theirs, model, guide, x)
    loss, gradients = value_and_gradient(ours, model, guide, x)
    assert loss == pytest.approx(reference[0], abs=1e-10)
    assert gradients.keys() == reference[1].keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, reference[1][name], atol=1e-9, rtol=1e-9)


def test_pyro_svi_and_a_torch_loop_take_our_bounds():
    x = torch.randn(20, dtype=F64)
    with pyro.get_param_store().scope():
        svi = pyro.infer.SVI(trainable, trainable_guide, pyro.optim.Adam({"lr": 0.05}), loss=IWAE(5))
        losses = [svi.step(x) for _ in range(200)]
    assert sum(losses[-20:]) < sum(losses[:20])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ELBO(0), "particles must be"),
        (lambda: IWAE(-1), "particles must be"),
        (lambda: Renyi(1.0), "use ELBO"),
        (lambda: Renyi(-0.5), "CUBO"),
        (lambda: CIWAE(1.5), "between 0"),
        (lambda: CUBO(1.0), "greater than 1"),
        (lambda: MIWAE(0, 4), "at least 1"),
        (lambda: PIWAE(4, 0), "at least 1"),
        (lambda: TVO([0.2, 0.5]), "start at 0"),
        (lambda: ELBO(estimator="dreg"), "reparameterised or stl"),
        (lambda: IWAE(estimator="stl"), "reparameterised or dreg"),
    ],
)
def test_impossible_arguments_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
