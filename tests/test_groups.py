"""Groups: the members of a row are read and drawn by one network for all, in whatever order they come."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases.belonging import XG, groups, groups_evidence
from cases.programs import PROGRAMS

import ppl_vae
from ppl_vae.guides import IAF, FullRank, MeanField

F64 = torch.float64


def with_inputs(x, dose, age):
    """Names say nothing; the dose is of a member, the age of the row; a state of each member is summed out."""
    with pyro.plate("data", len(x), dim=-1):
        a = pyro.sample("a", dist.Normal(age, 1.0))
        b = pyro.sample("b", dist.Normal(a, 1.0))
        with pyro.plate("visit", x.shape[1], dim=-2):
            c = pyro.sample("c", dist.Normal(torch.stack([a, b], -1), 1.0).to_event(1))
            d = pyro.sample("d", dist.Gamma(x.new_tensor(2.0), 1.0))
            s = pyro.sample("s", dist.Bernoulli(torch.tensor(0.3, dtype=F64)))
            pyro.sample("seen", dist.Normal(c.sum(-1) * d.log() + dose.T, 1.0 + s), obs=x.T)


def numbered(x):
    """Each member has a place of its own: they are not alike."""
    with pyro.plate("data", len(x), dim=-2):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("visits", x.shape[1], dim=-1):
            v = pyro.sample("v", dist.Normal(z + torch.arange(x.shape[1]), 1.0))
            pyro.sample("x", dist.Normal(v, 1.0), obs=x)


def three_levels(x):
    with pyro.plate("schools", len(x), dim=-3):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("classes", x.shape[1], dim=-2):
            b = pyro.sample("b", dist.Normal(a, 1.0))
            with pyro.plate("pupils", x.shape[2], dim=-1):
                c = pyro.sample("c", dist.Normal(b, 1.0))
                pyro.sample("x", dist.Normal(c, 1.0), obs=x)


def inputs(n=5, members=4):
    generator = torch.Generator().manual_seed(0)
    x, dose = torch.randn(2, n, members, dtype=F64, generator=generator)
    return {"x": x, "dose": dose, "age": torch.randn(n, dtype=F64, generator=generator)}


CASES = {
    "groups": (groups, {"x": XG}, [("level",)], [("member",)]),
    "inputs": (with_inputs, inputs(), [("a", "b")], [("s",), ("c", "d")]),
    "three levels": (three_levels, {"x": torch.randn(5, 3, 4, dtype=F64)}, [("a",)], [("b", "c")]),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.mark.parametrize("family", [FullRank, IAF])
def test_members_are_recognised_and_drawn_by_one_network(case, family):
    model, batch, of_rows, of_members = case
    guide = family(model, batch, hidden=(8,)).double()
    assert [b.sites for b in guide.drawn if not b.each] == of_rows
    assert [b.sites for b in guide.drawn if b.each] == of_members
    assert ppl_vae.check(model, guide, batch) == []
    more = {n: torch.cat([v, v], 1) if v.dim() > 1 else v for n, v in batch.items()}
    if model is not three_levels:  # there the pupils of a class are in one vector
        count = sum(p.numel() for p in family(model, more, hidden=(8,)).parameters())
        assert count == sum(p.numel() for p in guide.parameters())


def test_the_order_of_members_is_not_looked_at(case):
    model, batch, *_ = case
    torch.manual_seed(0)
    guide = MeanField(model, batch, hidden=(8,)).double()
    turned = {n: v.flip(1) if v.dim() > 1 else v for n, v in batch.items()}
    row, members = guide.encoder.of_steps(batch)
    again = guide.encoder.of_steps(turned)
    torch.testing.assert_close(again[0], row)
    torch.testing.assert_close(again[1].flip(0), members)


def test_the_density_of_its_own_draws_is_that_of_the_weights():
    batch = {"x": torch.randn(5, 4, dtype=F64)}
    guide = FullRank(groups, batch, hidden=(8,)).double()
    torch.manual_seed(1)
    w = ppl_vae.log_weights(groups, guide, batch)
    torch.manual_seed(1)
    drawn = guide(**batch)
    torch.testing.assert_close(w.log_guide[0], guide.log_prob(drawn, **batch))


@pytest.mark.parametrize("program", [numbered, PROGRAMS["items"]])
def test_members_that_are_not_alike_have_heads_of_their_own(program):
    guide = MeanField(program, {"x": torch.randn(6, 3)}, hidden=(4,))
    assert not any(block.each for block in guide.drawn)


def test_the_weights_have_the_exact_evidence():
    torch.manual_seed(0)
    guide = FullRank(groups, {"x": XG}, hidden=(8,), init_scale=0.7).double()
    w = ppl_vae.log_weights(groups, guide, {"x": XG}, particles=20_000).log_weight
    ratio = (w - groups_evidence(XG)).exp()
    error = ratio.std(0) / len(ratio) ** 0.5
    assert ((ratio.mean(0) - 1).abs() < 5 * error).all()


def test_minibatches_of_groups_are_unbiased():
    """N/B times the bound of a part is, on average over the parts, the bound of all."""
    torch.manual_seed(0)
    guide = FullRank(groups, {"x": XG}, hidden=(8,)).double()
    with torch.no_grad():
        whole = ppl_vae.log_weights(groups, guide, {"x": XG}, particles=4000).log_weight.sum(1)
        parts = [
            3 * ppl_vae.log_weights(groups, guide, {"x": XG[i : i + 2]}, particles=4000).log_weight.sum(1)
            for i in (0, 2, 4)
        ]
    difference = torch.stack(parts).mean(0) - whole
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / 4000**0.5
