"""States that are summed out: smoothed probabilities and likeliest paths, against sums over all paths."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases.pyro_series import captures, constant, songs, vectorised
from pyro import poutine

import ppl_vae
from ppl_vae.checks.analysis import analyse
from ppl_vae.errors import UserError
from ppl_vae.guides import FullRank, Point
from ppl_vae.programs.program import Pair
from ppl_vae.weights.completion import completed

F64 = torch.float64
MOVES = torch.tensor([[0.7, 0.3, 0.0], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]], dtype=F64)
CENTRES = torch.tensor([-1.0, 0.2, 1.5], dtype=F64)
ROWS, STEPS = 4, 5


def hidden(x=None, length=None):
    with pyro.plate("data", len(x)):
        h = 0
        for t in pyro.markov(range(x.shape[1])):
            with poutine.mask(mask=t < length):
                h = pyro.sample(f"h{t}", dist.Categorical(MOVES[h]), infer={"enumerate": "parallel"})
                pyro.sample(f"x{t}", dist.Normal(CENTRES[h], 0.8), obs=x[:, t])


def rows():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, STEPS, generator=generator, dtype=F64)
    return {"x": x, "length": torch.tensor([5, 3, 4, 1])}


def all_paths(x):
    """Every path of states of a row, and its log p together with the row's observations."""
    paths = torch.tensor([*itertools.product(range(3), repeat=len(x))])
    before = torch.cat([torch.zeros(len(paths), 1, dtype=torch.long), paths[:, :-1]], 1)
    return paths, (MOVES[before, paths].log() + dist.Normal(CENTRES[paths], 0.8).log_prob(x)).sum(1)


def test_smoothed_probabilities_and_paths_are_those_of_all_paths():
    batch = rows()
    guide = Point(hidden, batch, hidden=(4,))
    found = ppl_vae.predict(hidden, guide, batch, "h*", draws=400)
    assert (found.probs.shape, found.path.shape, found.draws.shape) == ((4, 5, 3), (4, 5), (400, 4, 5))
    for row, length in enumerate(batch["length"].tolist()):
        paths, log_p = all_paths(batch["x"][row, :length])
        weights = log_p.softmax(0)
        exact = torch.stack([(weights.unsqueeze(1) * (paths == k)).sum(0) for k in range(3)], 1)
        torch.testing.assert_close(found.probs[row, :length], exact, atol=1e-6, rtol=0)
        assert found.path[row, :length].tolist() == paths[log_p.argmax()].tolist()
        drawn = torch.stack([(found.draws[:, row, :length] == k).double().mean(0) for k in range(3)], 1)
        assert ((drawn - exact).abs() <= 4.5 * (exact * (1 - exact) / 400).sqrt() + 1e-9).all()
        assert found.probs[row, length:].isnan().all()
        for padded in (found.path[row, length:], found.labels[row, length:], found.draws[:, row, length:]):
            assert (padded == -1).all()


def test_one_state_alone_has_no_dim_of_steps():
    batch = rows()
    guide = Point(hidden, batch, hidden=(4,))
    every, one = (ppl_vae.predict(hidden, guide, batch, name, draws=2).probs for name in ("h*", "h2"))
    torch.testing.assert_close(one, every[:, 2], equal_nan=True)


def test_a_long_chain_is_smoothed_as_forwards_and_backwards():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 120, generator=generator, dtype=F64)
    batch = {"x": x, "length": torch.full((3,), 120)}
    log_p = dist.Normal(CENTRES, 0.8).log_prob(x.unsqueeze(-1))
    ahead, back = [MOVES[0].log() + log_p[:, 0]], [torch.zeros(3, 3, dtype=F64)]
    best, came = ahead[0], []
    for t in range(1, 120):
        ahead.append((ahead[-1].unsqueeze(2) + MOVES.log()).logsumexp(1) + log_p[:, t])
        back.insert(0, (MOVES.log() + (log_p[:, -t] + back[0]).unsqueeze(1)).logsumexp(2))
        best, place = (best.unsqueeze(2) + MOVES.log()).max(1)
        best, came = best + log_p[:, t], [*came, place]
    path = [best.argmax(1)]
    for place in reversed(came):
        path.insert(0, place.gather(1, path[0].unsqueeze(1)).squeeze(1))
    found = ppl_vae.predict(hidden, Point(hidden, batch, hidden=(4,)), batch, "h*", draws=1)
    exact = (torch.stack(ahead, 1) + torch.stack(back, 1)).softmax(-1)
    torch.testing.assert_close(found.probs, exact, atol=1e-6, rtol=0)
    assert torch.equal(found.path, torch.stack(path, 1))


def test_with_drawn_tables_paths_are_of_each_draw():
    batch = songs()
    guide = FullRank(vectorised, batch, hidden=(4,))
    found = ppl_vae.predict(vectorised, guide, batch, "x_*", draws=6)
    assert found.probs.shape == (6, 5, 4)
    there = torch.arange(5) < batch["lengths"].unsqueeze(1)
    assert torch.equal(found.probs.isnan().any(-1), ~there)
    torch.testing.assert_close(found.probs[there].sum(-1), torch.ones(int(there.sum())))
    assert found.paths.shape == (6, 6, 5)
    other = replace(found, paths=torch.cat([found.paths, 3 - found.paths]))
    with pytest.raises(UserError, match="depends on latents that are drawn"):
        other.path
    assert ppl_vae.predict(vectorised, Point(vectorised, batch), batch, "x_*", draws=2).path.shape == (6, 5)


def test_animals_that_are_seen_again_were_alive_in_between():
    batch = captures()
    caught = batch["capture_history"]
    found = ppl_vae.predict(constant, FullRank(constant, batch, hidden=(4,)), batch, "z_*", draws=3)
    later = caught.flip(1).cumsum(1).flip(1) > 0
    assert (found.probs[later][:, 1] > 0.999).all()
    assert (found.draws[:, later] == 1).all()
    never = caught[:, :-1].sum(1) == 0  # nothing of them counts before their first capture
    assert torch.equal(found.probs[:, -1].isnan().any(1), never)
    assert (found.probs[:, -1, 1][~never & (caught[:, -1] == 0)] < 0.9).all()


def test_joint_draws_of_a_chain_have_the_smoothed_probabilities():
    """States of one chain share a dim for their values, and are states of their own all the same."""
    batch = {n: v[:1] for n, v in rows().items()}
    pair = Pair(hidden, Point(hidden, batch, hidden=(4,)))
    torch.manual_seed(0)
    latents = completed(pair, analyse(pair, batch), batch, 2000).latents
    drawn = torch.stack([latents[f"h{t}"][:, 0] for t in range(5)], 1)
    paths, log_p = all_paths(batch["x"][0])
    weights = log_p.softmax(0)
    for a in range(4):
        for k in range(3):
            exact = weights[(paths[:, a] == k) & (paths[:, a + 1] == k)].sum()
            share = ((drawn[:, a] == k) & (drawn[:, a + 1] == k)).double().mean()
            assert abs(share - exact) <= 4.5 * (exact * (1 - exact) / 2000).sqrt() + 1e-9


def test_what_is_no_state_is_refused():
    batch = rows()
    guide = Point(hidden, batch, hidden=(4,))
    with pytest.raises(UserError, match=r"unknown latent that is summed out 'g\*'"):
        ppl_vae.predict(hidden, guide, batch, "g*")
    with pytest.raises(UserError, match="has no path: ask for"):
        replace(ppl_vae.predict(hidden, guide, batch, "h*", draws=1), paths=None).path
