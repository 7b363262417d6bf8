"""Where a pair for a table begins: at factor analysis, whose evidence and posterior are closed forms."""

from __future__ import annotations

import pytest
import torch

import ppl_vae
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from ppl_vae.nn.factors import factor_analysis
from ppl_vae.nn.networks import Beside
from ppl_vae.training._optimizers import optimizer_of
from ppl_vae.training.settings import Settings


def correlated(rows, columns=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(2, columns, generator=torch.Generator().manual_seed(99))
    z = torch.randn(rows, 2, generator=generator)
    return 10 + 3 * (z @ mix + 0.5 * torch.randn(rows, columns, generator=generator))


def begun(x, latent_dim=2, **options):
    data = ppl_vae.load(x, **options)
    torch.manual_seed(0)
    model = VAE(data, latent_dim=latent_dim, hidden=(8,))
    return data, model.eval(), MeanField(model, hidden=(8,)).eval()


def test_a_pair_begins_at_the_evidence_of_factor_analysis_and_its_bound_is_tight():
    from sklearn.decomposition import FactorAnalysis

    data, model, guide = begun(correlated(600))
    assert guide.begun
    found = ppl_vae.evaluate(model, guide, data.test, particles=500)
    peer = FactorAnalysis(2, tol=1e-6, max_iter=5000).fit(data.train["x"].double().numpy())
    exact = peer.score(data.test["x"].double().numpy())
    assert float(found.log_evidence.mean()) == pytest.approx(exact, abs=0.03)
    assert float((found.log_evidence - found.elbo).mean()) < 0.01  # the linear mean field is the exact posterior


def test_missing_entries_take_part_in_the_start():
    """The covariance that is found from rows with holes is that of the whole rows, within its error."""
    whole = correlated(1500, 4)
    holes = whole.clone()
    holes[torch.rand(holes.shape, generator=torch.manual_seed(1)) < 0.3] = torch.nan
    first, second = (factor_analysis(x, 2) for x in (whole, holes))
    covariances = [f.loadings @ f.loadings.T + torch.diag(f.noise**2) for f in (first, second)]
    scale = whole.std(0)
    torch.testing.assert_close(
        covariances[0] / scale / scale[:, None], covariances[1] / scale / scale[:, None], atol=0.1, rtol=0
    )
    data, model, guide = begun(holes, missing="allow")
    found = ppl_vae.evaluate(model, guide, data.test, particles=300)
    assert float(found.ess.mean()) > 30  # the guide reads rows with holes nearly as it should


@pytest.mark.parametrize("name", ["count", "log", "mixed"])
def test_other_columns_begin_better_than_independent_ones(name):
    x = correlated(400)
    table = {f"c{i}": x[:, i].numpy() for i in range(5)}
    if name == "count":
        table = {n: (4 * v + 100).round().clip(0).astype(int) for n, v in table.items()}
    if name == "log":
        import numpy as np

        table = {n: np.exp(v / 10) for n, v in table.items()}
    if name == "mixed":
        table["level"] = ["low" if v < 10 else "high" for v in x[:, 0].tolist()]
    from ppl_vae.evaluation.baselines import baselines

    data, model, guide = begun(table)
    found = ppl_vae.evaluate(model, guide, data.test, particles=500).log_evidence
    alone = baselines(model, model.observes, data.train, data.test)[0].log_density
    assert float((found - alone).mean()) > 0.5


def test_weight_decay_pulls_to_the_linear_model():
    _, model, guide = begun(correlated(60))
    from ppl_vae.programs.program import Pair

    optimizer = optimizer_of(Pair(model, guide), Settings(weight_decay=1.0))
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    beside = [m for m in (*model.modules(), *guide.modules()) if isinstance(m, Beside)]
    assert len(beside) == 2
    assert not any(id(m.weight) in decayed for m in beside)
    assert id(model.decoder.last.weight) in decayed


def test_pictures_and_constant_columns_begin_as_ever():
    data = ppl_vae.load("digits")
    assert not MeanField(VAE(data, latent_dim=2)).begun
    _, model, guide = begun(torch.ones(40, 2) * torch.tensor([2.5, 3.5]))
    assert not guide.begun
    assert torch.isfinite(model.decoder(torch.zeros(2))).all()


def test_a_scale_has_a_floor_where_values_were_rounded():
    """Ages in whole years cannot have a density above that of a cell."""
    from ppl_vae.data import Field
    from ppl_vae.likelihoods import Normal

    values = torch.randn(500, generator=torch.manual_seed(0)).mul(10).round()
    built = Normal().build(Field("age", "real"), values)
    torch.testing.assert_close(built.least * built.unit, torch.tensor(1 / 12**0.5))
    with torch.no_grad():
        built.log_scale.fill_(-50.0)
    assert float(built(torch.zeros(1)).stddev.detach()) >= 0.28
    fine = Normal().build(Field("x", "real"), torch.randn(500, generator=torch.manual_seed(0)))
    assert float(fine.least) == pytest.approx(1e-3)


def test_whole_numbers_far_from_0_are_trained_from_their_start():
    """A step of the optimizer moves years by a share of their deviation, not by a share of the years since 0."""
    x = correlated(400, 3)
    table = {f"c{i}": x[:, i].numpy() for i in range(2)} | {"year": (2000 + 2 * x[:, 2]).round().int().numpy()}
    data, model, guide = begun(table)
    before = ppl_vae.evaluate(model, guide, data.test, particles=200).log_evidence
    result = ppl_vae.fit(model, guide, data, epochs=3, lr=1e-3)
    after = ppl_vae.evaluate(model, guide, data.test, particles=200).log_evidence
    assert "DiscretisedLogistic" in repr(model.likelihood)
    assert result.history[0]["validation"] > float(before.mean()) - 1.0
    assert float((after - before).mean()) > -0.1
