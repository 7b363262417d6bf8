"""The posterior of latents shared by all rows: the guide's own family, without features."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases.guides import GUIDES
from pyro.infer import config_enumerate

import ppl_vae
from ppl_vae import UserError
from ppl_vae.bounds import ELBO
from ppl_vae.guides import IAF, FullRank, LowRank, MeanField, Spline
from ppl_vae.schedules import Cosine

F64 = torch.float64
GROUPS = 5


def design() -> dict[str, torch.Tensor]:
    """Two columns that say nearly the same, and a constant."""
    torch.manual_seed(1)
    z = torch.randn(200, 1, dtype=F64)
    noisy = [z + 0.3 * torch.randn(200, 1, dtype=F64) for _ in range(2)]
    x = torch.cat([*noisy, torch.ones(200, 1, dtype=F64)], 1)
    return {"x": x, "y": x @ torch.tensor([1.0, -0.5, 2.0], dtype=F64) + 0.7 * torch.randn(200, dtype=F64)}


def regression(x, y=None):
    beta = pyro.sample("beta", dist.Normal(torch.zeros(3, dtype=F64), 5.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal((x * beta).sum(-1), 0.7), obs=y)


def exact(data):
    """Mean and covariance of the coefficients."""
    covariance = torch.linalg.inv(data["x"].T @ data["x"] / 0.49 + torch.eye(3, dtype=F64) / 25)
    return covariance @ data["x"].T @ data["y"] / 0.49, covariance


def grouped(g, y=None):
    """A plate of groups beside that of the rows, both at Pyro's default dim."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("groups", GROUPS):
        effect = pyro.sample("effect", dist.Normal(mu, 1.0))
    with pyro.plate("data", len(g)):
        pyro.sample("y", dist.Normal(effect[..., g.long()], 0.5), obs=y)


@config_enumerate
def mixture(x):
    """Pyro's tutorial of a Gaussian mixture, but for two dots."""
    weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(2)))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
    with pyro.plate("components", 2):
        locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(locs[..., k], scale), obs=x)


@pytest.fixture
def doubles():
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "tolerance"), [(FullRank, 0.02), (IAF, 0.05), (MeanField, None)])
def test_the_posterior_of_a_regression_is_the_exact_one(family, tolerance, doubles):
    """Correlation -0.93: a joint family finds it, and mean field is known to be too narrow by sqrt(1 - r^2)."""
    data = design()
    mean, covariance = exact(data)
    guide = family(regression, data)
    assert ppl_vae.check(regression, guide, data) == []
    bound, epochs = ELBO(16, estimator="stl"), 3000
    ppl_vae.fit(regression, guide, data, bound, epochs=epochs, batch_size=200, lr=Cosine(0.03, epochs), patience=None)
    drawn = guide.shared.sample((40000,))["beta"]
    scales = covariance.diagonal().sqrt()
    assert ((drawn.mean(0) - mean) / scales).abs().max() < 0.05
    if tolerance is not None:
        assert (torch.cov(drawn.T) - covariance).norm() < (tolerance + 0.01) * covariance.norm()  # 0.01: of 40000 draws
    else:
        narrow = torch.linalg.inv(covariance).diagonal() ** -0.5
        torch.testing.assert_close(drawn.std(0), narrow, rtol=0.03, atol=0)


def test_a_closed_form_marginal_is_that_of_the_joint_draws(doubles):
    data = design()
    for guide in (FullRank(regression, data), MeanField(regression, data, shared_rank=2)):
        alone, drawn = guide.shared["beta"], guide.shared.sample((20000,))["beta"]
        torch.testing.assert_close(torch.cov(drawn.T), alone.covariance_matrix, rtol=0.1, atol=3e-4)
        assert (drawn.mean(0) - alone.mean).abs().max() < 0.02
    flow = IAF(regression, data).shared["beta"]
    assert flow.sample((7,)).shape == (7, 3)
    with pytest.raises(UserError, match=r"posterior of 'beta' alone has no density.*guide.shared\['beta'\].sample"):
        flow.log_prob(torch.zeros(3))


@pytest.mark.parametrize("name", [name for name in GUIDES if "experts" not in name])  # these are of the rows' fields
def test_every_family_draws_shared_latents_together_and_has_no_dead_parameter(name):
    g, y = torch.arange(12) % GROUPS, torch.randn(12)
    data = {"g": g.float(), "y": y}
    guide = GUIDES[name](grouped, data, hidden=(4,))
    assert ppl_vae.check(grouped, guide, data) == []
    assert not hasattr(guide, "encoder")
    drawn = guide.shared.sample((6,))
    assert {n: tuple(v.shape) for n, v in drawn.items()} == {"mu": (6,), "effect": (6, GROUPS)}
    assert guide.shared["effect"].sample((6,)).shape == (6, GROUPS)
    weights = ppl_vae.log_weights(grouped, guide, data, particles=3)
    assert torch.isfinite(weights.log_global).all()
    blocks = [("mu",), ("effect",)] if name.startswith("MeanField") else [("mu", "effect")]
    assert [b.sites for b in guide.shared.blocks] == blocks


def test_groups_as_many_as_rows_are_no_rows():
    """The bound of a program does not depend on which sizes coincide: each against its own sum of log densities."""
    for rows in (GROUPS, GROUPS + 2):
        g = torch.arange(rows) % GROUPS
        data = {"g": g.float(), "y": torch.linspace(-1, 1, rows)}
        guide = MeanField(grouped, data)
        torch.manual_seed(0)
        found = ppl_vae.log_weights(grouped, guide, data, particles=2)
        torch.manual_seed(0)
        losses = pyro.infer.Trace_ELBO(2, vectorize_particles=True, max_plate_nesting=1).loss(grouped, guide, **data)
        ours = float((found.log_global + found.log_weight.sum(1)).mean().detach())
        assert ours == pytest.approx(-losses, abs=1e-3)


def test_one_shared_site_may_have_a_covariance_and_sites_families_of_their_own():
    data = {n: v.float() for n, v in design().items()}

    def plain(x, y=None):
        beta = pyro.sample("beta", dist.Normal(torch.zeros(3), 5.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal((x * beta).sum(-1), 0.7), obs=y)

    assert ppl_vae.check(plain, MeanField(plain, data, shared_rank=2), data) == []
    g = {"g": torch.arange(12.0) % GROUPS, "y": torch.randn(12)}
    own = IAF(grouped, g, mu=MeanField)
    assert [b.sites for b in own.shared.blocks] == [("mu",), ("effect",)]
    assert ppl_vae.check(grouped, own, g) == []
    spread = Spline(grouped, g, shared=LowRank(rank=1))
    assert "shared: mu, effect by LowRank(rank=1)" in repr(spread)
    with pytest.raises(UserError, match="shared_rank is short for"):
        FullRank(grouped, g, shared=MeanField, shared_rank=2)


def test_many_shared_numbers_are_of_low_rank_and_the_guide_says_so():
    def wide(x=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(600), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w.mean(-1), 1.0), obs=x)

    x = torch.randn(5)
    assert "w by LowRank(rank=10)" in repr(FullRank(wide, x))
    assert "w by MeanField" in repr(MeanField(wide, x))
    assert "w by FullRank" in repr(FullRank(wide, x, shared=FullRank))


# -- starts ------------------------------------------------------------------------------------------------------


def test_a_shared_latent_starts_at_the_median_of_its_prior():
    def far(x=None):
        level = pyro.sample("level", dist.Normal(100.0, 0.1))
        rate = pyro.sample("rate", dist.LogNormal(3.0, 0.01))
        flat = pyro.sample("flat", dist.ImproperUniform(dist.constraints.real, (), ()))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(level + flat, rate), obs=x)

    shared = MeanField(far, torch.randn(5)).requires_grad_(False).shared
    assert float(shared["level"].mean) == pytest.approx(100, abs=0.2)
    assert float(shared["rate"].base_dist.mean) == pytest.approx(3, abs=0.02)
    assert float(shared["flat"].mean) == 0


def test_components_of_a_mixture_start_apart():
    guide = MeanField(mixture, torch.cat([3 + torch.randn(130), 10 + torch.randn(70)]))
    assert guide.blocks[-1].summed  # config_enumerate says that k is summed out
    assert guide.shared["locs"].mean.diff().abs() > 1


def test_weights_of_a_layer_start_apart():
    def layered(x=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(3, 4), 1.0).to_event(2))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w.sum((-1, -2)), 1.0), obs=x)

    start = MeanField(layered, torch.randn(5)).shared.centre
    assert start.unique().numel() == 12
    assert start.isfinite().all()
