"""The deterministic autoencoder: what it finds, what its penalties do, and that it never reports an evidence.

Point is not in the table of guides: their properties are those of densities, which it does not have.
"""

from __future__ import annotations

import json
import math
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import F64, PROGRAMS, X, fields_of, linear_gaussian, posterior_mean, t
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

import ppl_vae
from ppl_vae import UserError, log_weights
from ppl_vae.bounds import ELBO, IWAE
from ppl_vae.checks.analysis import analyse
from ppl_vae.cli import main
from ppl_vae.errors import NoDensity
from ppl_vae.guides import FullRank, MeanField, Point
from ppl_vae.likelihoods import Normal
from ppl_vae.models import VAE, AutoEncoder
from ppl_vae.prediction.coding import decode, encode
from ppl_vae.priors.flat import Flat
from ppl_vae.programs.program import Pair
from ppl_vae.programs.structure import sample_sites
from ppl_vae.reporting import write_report
from ppl_vae.schedules import Cosine


@pytest.fixture(scope="module")
def digits():
    return ppl_vae.load("digits")


@pytest.fixture
def doubles():
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(torch.float32)


def small(digits, **options):
    model = AutoEncoder(digits, latent_dim=4, hidden=(16,))
    return model, Point(model, hidden=(16,), **options)


# -- what it is ----------------------------------------------------------------------------------------------


def converge(model, guide, batch, steps=60):
    """Train on all rows at once, to convergence."""
    pair = Pair(model, guide)
    structure = analyse(pair, batch)
    optimizer = torch.optim.LBFGS([*pair.parameters()], line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        found = -ELBO().weigh(pair, structure, batch).log_weight.mean()
        found.backward()
        return found

    for _ in range(steps):
        optimizer.step(loss)


def linear_map(model, guide, size):
    """The matrix by which a linear autoencoder carries rows x to E[x | f(x)]."""
    x = torch.cat([torch.zeros(1, size), torch.eye(size)])
    made = decode(model, encode(guide.eval(), {"x": x}), {"x": x})
    return (made[1:] - made[0]).T


def test_a_linear_autoencoder_finds_the_principal_subspace_and_its_error(doubles):
    """Baldi & Hornik 1989: the global optimum of the squared error projects on the principal axes."""
    torch.manual_seed(0)
    x = torch.randn(60, 2) @ torch.randn(2, 5) * 2 + 0.3 * torch.randn(60, 5) + torch.arange(5.0)
    data = ppl_vae.load(x, test=0, validation=0)
    model = AutoEncoder(data, likelihood=Normal(scale=1.0), latent_dim=2, hidden=())
    guide, x = Point(model, hidden=()), data.train["x"]
    converge(model, guide, {"x": x})
    _, sizes, axes = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    best = sizes[2:].square().sum() / x.numel()
    found = ppl_vae.reconstruct(model, guide, {"x": x})
    torch.testing.assert_close(found.error["x"].mean(), best, rtol=1e-6, atol=0)
    torch.testing.assert_close(linear_map(model, guide, 5), axes[:2].T @ axes[:2], atol=1e-4, rtol=0)
    normaliser = 0.5 * 5 * math.log(2 * math.pi)
    assert float(found.log_likelihood.mean()) == pytest.approx(float(-0.5 * 5 * best - normaliser), rel=1e-6)


def test_the_history_is_of_reconstructions_and_validation_sees_neither_noise_nor_penalties(digits):
    torch.manual_seed(0)
    model, guide = small(digits, corruption=0.3, sparsity=0.05, contraction=0.02)
    record = ppl_vae.fit(model, guide, digits, epochs=1).history[0]
    assert record["rate"] > 0
    assert record["train"] == pytest.approx(-record["distortion"] - record["rate"])
    found = ppl_vae.reconstruct(model, guide, digits.validation).log_likelihood.mean()
    assert record["validation"] == pytest.approx(float(found), rel=1e-5)
    assert guide.training


def test_a_point_under_a_proper_prior_is_the_mode_of_the_posterior():
    """A linear encoder of the linear-Gaussian model, trained, is its posterior mean, which is its mode."""
    guide = Point(linear_gaussian, {"x": X}, hidden=()).to(F64)
    assert [f.severity for f in ppl_vae.check(linear_gaussian, guide, X)] == ["warning"]
    converge(linear_gaussian, guide, {"x": X}, steps=20)
    torch.testing.assert_close(encode(guide, {"x": X})["z"], posterior_mean(X), atol=1e-5, rtol=0)


@pytest.mark.parametrize("model", PROGRAMS.values(), ids=PROGRAMS)
def test_a_point_is_drawn_for_latents_of_every_kind(model):
    """In the support, the same at every draw where nothing is random, trained through every parameter."""
    fields = fields_of(model)
    guide = Point(model, fields, hidden=(8,), sparsity=0.1)
    findings = ppl_vae.check(model, guide, fields)
    assert all(f.severity == "warning" for f in findings)
    assert sum("is a point in the guide" in f.problem for f in findings) == any(
        site.classified is None for site in guide.sites.values()
    )
    structure = analyse(Pair(model, guide), fields)
    guided = poutine.trace(guide).get_trace(**fields)
    truth = sample_sites(poutine.trace(poutine.replay(model, guided)).get_trace(**fields))
    for name, site in sample_sites(guided).items():
        if site["is_observed"] or name not in guide.sites:
            continue
        assert truth[name]["fn"].support.check(site["value"]).all()
        assert (name in structure.points) == (guide.sites[name].classified is None)
    log_w = ELBO().weigh(Pair(model, guide), structure, fields).log_weight
    assert torch.isfinite(log_w).all()
    log_w.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in guide.parameters())


def test_a_positive_point_is_carried_to_its_support_without_the_jacobian():
    """exp of the code, weighed by the prior's density at it: the mode in the model's own coordinates."""
    model, fields = PROGRAMS["positive"], fields_of(PROGRAMS["positive"])
    guide = Point(model, fields, hidden=(8,))
    pair = Pair(model, guide)
    z = guide(**fields)["z"]
    found = ELBO().weigh(pair, analyse(pair, fields), fields)
    torch.testing.assert_close(found.rate[0], -dist.Gamma(2.0, 1.0).log_prob(z))


# -- the penalties -------------------------------------------------------------------------------------------


def rate_of(model, guide, batch):
    pair = Pair(model, guide)
    return ELBO().weigh(pair, analyse(pair, batch), batch).rate[0].detach()


def test_sparsity_takes_off_the_absolute_code(digits):
    model, guide = small(digits, sparsity=0.7)
    batch = digits.test.batch(slice(0, 5))
    torch.testing.assert_close(rate_of(model, guide, batch), 0.7 * guide(**batch)["z"].abs().sum(-1))
    guide.eval()
    pair = Pair(model, guide)
    pair.eval()
    assert (ELBO().weigh(pair, analyse(pair, batch), batch).rate == 0).all()


def test_contraction_is_an_unbiased_estimate_of_the_derivative(doubles):
    torch.manual_seed(0)
    data = ppl_vae.load(torch.randn(50, 4) * t([1.0, 5.0, 0.1, 2.0]), test=0, validation=0)
    model = AutoEncoder(data, latent_dim=3, hidden=(8,))
    guide = Point(model, hidden=(6,), contraction=0.5)
    x, scale = data.train["x"][:3], data.train["x"].std(0, correction=0)
    code = lambda row: guide.heads[0](guide.encoder({"x": row.unsqueeze(0)})).v[0]  # noqa: E731
    exact = torch.stack([(torch.autograd.functional.jacobian(code, row) * scale).square().sum() for row in x])
    batch = {"x": x.repeat(4000, 1)}
    found = rate_of(model, guide, batch).reshape(4000, 3)
    error = (found.mean(0) - 0.5 * exact) / (found.std(0) / 4000**0.5)
    assert error.abs().max() < 4
    assert found.std(0).min() > 0


def test_contraction_gives_the_gradient_of_the_exact_norm(doubles):
    """Of a linear encoder with one code the norm is |w|^2 whatever the signs, and its gradient 2 w."""
    data = ppl_vae.load(torch.randn(20, 3), test=0, validation=0)
    model = AutoEncoder(data, latent_dim=1, hidden=())
    guide = Point(model, hidden=(), contraction=1.0)
    batch = data.train.batch()
    pair = Pair(model, guide)
    weight = guide.heads[0].linear.weight
    rate = ELBO().weigh(pair, analyse(pair, batch), batch).rate.mean()
    torch.testing.assert_close(rate, weight.square().sum())
    torch.testing.assert_close(torch.autograd.grad(rate, weight)[0], 2 * weight)


def test_corruption_hides_its_share_of_entries_and_puts_the_mean_there():
    x = torch.randn(4000, 5) + 3
    x[::2, 0] = torch.nan
    data = ppl_vae.load(x, missing="allow", test=0, validation=0)
    guide = Point(AutoEncoder(data, latent_dim=2, hidden=()), corruption=0.3)
    x = data.train["x"]
    seen = guide._corrupted("x", x)
    there = ~x.isnan()
    assert torch.equal(seen.isnan(), x.isnan())
    changed = (seen != x)[there]
    assert abs(float(changed.float().mean()) - 0.3) < 4 * (0.21 / changed.numel()) ** 0.5
    means = x.nanmean(0).expand_as(x)
    torch.testing.assert_close(seen[there][changed], means[there][changed])


def test_a_linear_denoising_autoencoder_is_the_regression_on_corrupted_rows(doubles):
    """Reduced-rank regression of x on x': the risk of the trained map is the least there is, that of PCA is not."""
    torch.manual_seed(0)
    x = torch.randn(1000, 2) @ torch.randn(2, 6) + torch.randn(6) * torch.randn(1000, 6) * 0.5
    data = ppl_vae.load(x - x.mean(0), test=0, validation=0)
    model = AutoEncoder(data, likelihood=Normal(scale=1.0), latent_dim=2, hidden=())
    guide = Point(model, hidden=(), corruption=0.4)
    ppl_vae.fit(model, guide, data, epochs=50, batch_size=100, lr=Cosine(0.03, 50))
    whole = torch.cov(data.train["x"].T, correction=0)
    both = 0.6 * whole
    corrupted = 0.36 * whole + 0.24 * whole.diagonal().diag()

    def risk(a):
        """E |x - A x'|^2."""
        return float((whole - 2 * a @ both + a @ corrupted @ a.T).trace())

    full = both @ torch.linalg.inv(corrupted)
    axes = torch.linalg.eigh(full @ both)[1][:, -2:]
    principal = torch.linalg.eigh(whole)[1][:, -2:]
    best, plain = risk(axes @ axes.T @ full), risk(principal @ principal.T)
    found = risk(linear_map(model, guide, 6))
    assert best * (1 - 1e-9) < found < best + 0.02 * (plain - best)


def trained(digits, seed=0, epochs=15, **options):
    torch.manual_seed(seed)
    model = AutoEncoder(digits, latent_dim=8, hidden=(64,))
    guide = Point(model, hidden=(64,), **options)
    ppl_vae.fit(model, guide, digits, epochs=epochs, patience=None)
    return model, guide.eval()


@pytest.mark.slow
def test_penalties_do_on_digits_what_they_say(digits):
    """Smaller codes and flatter encoders than those of the plain autoencoder."""
    plain, sparse, flat = trained(digits), trained(digits, sparsity=1.0), trained(digits, contraction=1.0)
    batch = digits.test.batch()

    def better(of, a, b):
        """By rows: how many standard errors the first is smaller."""
        gap = of(*b) - of(*a)
        return float(gap.mean() / (gap.std() / len(gap) ** 0.5))

    def size(_, guide):
        return guide(**batch)["z"].detach().abs().sum(-1)

    def slope(_, guide):
        x = batch["x"].float().requires_grad_()
        code = guide(x=x)["z"]
        parts = [torch.autograd.grad(c.sum(), x, retain_graph=True)[0] for c in code.unbind(-1)]
        return torch.stack(parts).square().flatten(2).sum((0, 2))

    assert better(size, sparse, plain) > 4
    assert better(slope, flat, plain) > 4


# -- that it never reports an evidence -------------------------------------------------------------------------


def test_evidence_and_weights_are_refused_with_the_site_and_the_remedy(digits):
    model, guide = small(digits)
    assert ppl_vae.check(model, guide, digits) == []
    for ask in (
        lambda: ppl_vae.evaluate(model, guide, digits),
        lambda: log_weights(model, guide, digits.test.batch(slice(0, 3))),
    ):
        with pytest.raises(NoDensity, match=r"^no .*: site 'z' is a point .* is not a density: see .*reconstruct"):
            ask()
    vae = VAE(digits, latent_dim=2)
    with pytest.raises(NoDensity, match=r"site 'z' is a point in the guide, .* such as MeanField\(model\)"):
        ppl_vae.evaluate(vae, Point(vae), digits)
    with pytest.raises(NoDensity, match="Point has no density"):
        guide.log_prob({}, x=digits.test["x"][:3])


def test_a_prior_that_is_improper_needs_points(digits):
    model, _ = small(digits)
    for guide in (MeanField(model), FullRank(model)):
        findings = ppl_vae.check(model, guide, digits)
        assert [(f.site, f.severity) for f in findings] == [("z", "error")]
        with pytest.raises(
            UserError, match=r"site 'z' has an improper prior .*: use a guide of points, Point\(model\)"
        ):
            ppl_vae.fit(model, guide, digits, epochs=1)


def test_points_and_improper_priors_of_other_programs_are_known_too():
    """In programs written by hand, also through transforms; a discrete point has a mass, and is none of these."""

    def flat(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Flat().build(1)())
            pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)

    def point(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(x.unsqueeze(-1) / 2).to_event(1))

    def normal(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.unsqueeze(-1) / 2, 1.0).to_event(1))

    def proper(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def positive_point(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(dist.Delta(x), dist.transforms.ExpTransform()))

    def counted(x=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Poisson(2.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def rounded(x=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(x.round().clamp(min=0)))

    x = t([0.3, 1.2])
    assert analyse(Pair(flat, point), {"x": x}).points == analyse(Pair(flat, point), {"x": x}).improper == {"z"}
    assert analyse(Pair(proper, positive_point), {"x": x}).points == {"z"}
    with pytest.raises(UserError, match="site 'z' has an improper prior"):
        ppl_vae.evaluate(flat, normal, x)
    # the best point's log p(x, z): a true lower bound of the log of the sum
    with pytest.raises(NoDensity):
        ppl_vae.evaluate(flat, point, x)
    found = ppl_vae.evaluate(counted, rounded, x, particles=1).elbo
    expected = dist.Poisson(t(2.0)).log_prob(x.round()) + dist.Normal(x.round(), 1.0).log_prob(x)
    torch.testing.assert_close(found, expected)


def test_bounds_that_need_several_particles_or_a_kl_are_refused(digits):
    model, guide = small(digits, sparsity=0.1)
    with pytest.raises(UserError, match=r"IWAE with 4 particles: site z is a point .*: use one particle"):
        ppl_vae.fit(model, guide, digits, IWAE(4), epochs=1)
    with pytest.raises(UserError, match="whose penalties TraceMeanField_ELBO leaves out"):
        ppl_vae.fit(model, guide, digits, TraceMeanField_ELBO(), epochs=1)
    batch, pair = digits.test.batch(slice(0, 4)), Pair(model, guide)
    plain, analytic = (b.weigh(pair, analyse(pair, batch), batch).log_weight for b in (ELBO(), ELBO(analytic_kl=True)))
    torch.testing.assert_close(plain, analytic)
    assert float(plain.detach().sum()) == pytest.approx(-Trace_ELBO().loss(model, guide, **batch), rel=1e-5)


def test_options_out_of_range_are_refused(digits):
    model, _ = small(digits)
    for name in ("corruption", "sparsity", "contraction"):
        with pytest.raises(UserError, match=f"{name} must be at least 0 and finite, got -0.1"):
            Point(model, **{name: -0.1})
    with pytest.raises(UserError, match="corruption must be below 1"):
        Point(model, corruption=1.0)
    with pytest.raises(UserError, match=r"of a whole guide: write Point\(model, ...\)"):
        MeanField(VAE(digits), z=Point(sparsity=1.0))
    label = PROGRAMS["label, then two"]
    with pytest.raises(UserError, match="contraction takes the derivative of one code"):
        ppl_vae.fit(label, Point(label, fields_of(label), contraction=1.0), fields_of(label), epochs=1)


# -- runs and the command line -----------------------------------------------------------------------------------


def test_a_run_is_reopened_and_its_report_speaks_of_no_bound(digits, tmp_path):
    model, guide = small(digits, corruption=0.2, contraction=0.1)
    result = ppl_vae.fit(model, guide, digits, epochs=2)
    run = ppl_vae.open_run(result.save(tmp_path / "run"))
    assert (run.guide.corruption, run.guide.contraction) == (0.2, 0.1)
    batch = digits.test.batch(slice(0, 5))
    again, first = (g.eval()(**batch)["z"] for g in (run.guide, guide))
    assert torch.equal(again, first)
    summary = ppl_vae.reconstruct(run.model, run.guide, digits).summary()
    page = write_report(run, digits, summary).read_text()
    page = re.sub(r'src="data:[^"]*"|<script type="application/json".*?</script>', "", page, flags=re.DOTALL)
    assert "No evidence: a deterministic autoencoder is not a density." in page
    assert "Not samples: decoding N(0, I)" in page
    for word in ("ELBO, nats", "NLL", "Samples from the prior", "best bound", "KL weight", "nats per validation row"):
        assert word not in page


def test_the_command_line_fits_it_out_of_the_box(tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["fit", "auto_encoder", "--epochs", "2", "--hidden", "16", "--out", str(run), "--no-report"]) == 0
    told = capsys.readouterr()
    assert "no evidence: a guide of points is not a density" in told.out
    assert "auto_encoder with point on digits" in told.err
    assert "bound train" not in told.err
    found = json.loads((run / "evaluation.json").read_text())["test"]
    assert {"reconstruction_log_likelihood", "error x"} <= found.keys()
    assert not {"nll", "negative_elbo", "elbo"} & found.keys()
    assert main(["evaluate", str(run), "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["evaluation"]["reconstruction_log_likelihood"] == found["reconstruction_log_likelihood"]
    assert told.err.startswith("ppl-vae: no evidence: site 'z' is a point")
    assert main(["encode", str(run)]) == 0
    assert main(["sample", str(run)]) == 2
    assert "no samples: the prior of site z is improper" in capsys.readouterr().err
    assert main(["fit", "auto_encoder", "--guide", "mean_field", "--out", str(tmp_path / "other")]) == 2
    assert "use a guide of points, Point(model)" in capsys.readouterr().err


def test_reconstruction_of_a_density_is_its_distortion():
    """For a VAE: E_q log p(x | z), the same as evaluate's, and missing entries have no error."""
    x = torch.randn(40, 3)
    x[0, 1] = torch.nan
    data = ppl_vae.load(x, missing="allow", test=0, validation=0)
    model = VAE(data, latent_dim=2, hidden=(8,))
    guide = MeanField(model, hidden=(8,))
    found = ppl_vae.reconstruct(model, guide, data.train, draws=100)
    exact = ppl_vae.evaluate(model, guide, data.train, particles=4000)
    pair, batch = Pair(model, guide), data.train.batch()
    spread = ELBO(400).weigh(pair, analyse(pair, batch), batch).log_likelihood.detach().std(0)
    assert ((found.log_likelihood + exact.distortion).abs() < 4 * spread * (1 / 100 + 1 / 4000) ** 0.5).all()
    assert torch.isfinite(found.error["x"]).all()
