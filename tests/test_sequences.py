"""Sequences of tokens and numbers: p(x | z) entry by entry, ends of rows, draws, and what refuses holes."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import ppl_vae
from ppl_vae.data import Field
from ppl_vae.decoders import GRU
from ppl_vae.decoders.sequences import Recurrent, Sequence
from ppl_vae.guides import MeanField
from ppl_vae.likelihoods import Categorical, Normal
from ppl_vae.models import VAE, Multimodal
from ppl_vae.nn.sequences import SequenceInput


def made(field: Field, entry=None, train: Tensor | None = None, **options) -> tuple[GRU, Recurrent]:
    """A decoder with weights far from where they start, and its likelihood, in double precision."""
    torch.manual_seed(0)
    decoder = GRU(state=5, **options)
    likelihood = decoder.over(entry or Categorical()).build(field, train)
    decoder = decoder.build(2, likelihood)
    for part in (decoder.double(), likelihood.double()):
        for weights in part.parameters():
            weights.data.normal_(0, 0.7)
    return decoder, likelihood


def by_hand(likelihood: Recurrent, context: Tensor, row: Tensor, entry_log_prob) -> Tensor:
    """The sum of the terms of one row, by the formulas of a gated recurrent unit."""
    gru, total, h = likelihood.gru, 0.0, torch.tanh(likelihood.begin(context))
    before = torch.cat([torch.zeros(likelihood.previous.size - 1), torch.ones(1)]).double()
    for x in row:
        u = torch.cat([before, context])
        a, b = gru.weight_ih_l0 @ u + gru.bias_ih_l0, gru.weight_hh_l0 @ h + gru.bias_hh_l0
        (ar, az, an), (br, bz, bn) = a.chunk(3), b.chunk(3)
        r, z = torch.sigmoid(ar + br), torch.sigmoid(az + bz)
        h = (1 - z) * torch.tanh(an + r * bn) + z * h
        total = total + entry_log_prob(likelihood.speak(h), x)
        told = torch.nn.functional.one_hot(x, 3) if not x.is_floating_point() else x.reshape(-1)
        before = torch.cat([told.double(), torch.zeros(1).double()])
    return total


def test_log_p_of_tokens_is_the_product_by_hand():
    decoder, likelihood = made(Field("x", "categorical", (6,), 3))
    z, x = torch.randn(4, 2).double(), torch.randint(0, 3, (4, 6))
    found = likelihood(decoder(z)).log_prob(x)
    for k in range(4):
        hand = by_hand(likelihood, decoder(z[k]), x[k], lambda f, v: f.log_softmax(0)[v])
        assert torch.allclose(found[k], hand, atol=1e-12)


@pytest.mark.parametrize("shape", [(5,), (5, 2)])
def test_log_p_of_numbers_is_the_product_by_hand(shape: tuple[int, ...]):
    decoder, likelihood = made(Field("x", "real", shape), Normal(scale=0.5))
    z, x = torch.randn(3, 2).double(), torch.randn(3, *shape).double()
    found = likelihood(decoder(z)).log_prob(x)

    def term(features: Tensor, value: Tensor) -> Tensor:
        return torch.distributions.Normal(features, 0.5).log_prob(value.reshape(-1)).sum()

    for k in range(3):
        assert torch.allclose(found[k], by_hand(likelihood, decoder(z[k]), x[k], term), atol=1e-12)


@pytest.mark.parametrize("end", [None, 2])
def test_all_rows_together_have_probability_one_for_every_z(end: int | None):
    decoder, likelihood = made(Field("x", "categorical", (4,), 3), end=end)
    everything = torch.tensor([*itertools.product(range(3), repeat=4)])
    z = torch.randn(2, 1, 2).double()
    log_p = likelihood(decoder(z)).log_prob(everything)
    assert log_p.shape == (2, 81)
    assert torch.allclose(log_p.exp().sum(-1), torch.ones(2).double(), atol=1e-12)
    if end is not None:  # nothing but the end comes after it
        assert bool((log_p[:, (everything[:, 0] == end) & (everything[:, 1] != end)] == -torch.inf).all())


def test_draws_have_the_frequencies_that_log_p_says():
    decoder, likelihood = made(Field("x", "categorical", (3,), 3))
    fn = likelihood(decoder(torch.tensor([0.5, -1.0]).double()))
    everything = torch.tensor([*itertools.product(range(3), repeat=3)])
    p, n = fn.log_prob(everything).exp(), 20_000
    drawn = fn.sample((n,))
    code = (drawn * torch.tensor([9, 3, 1])).sum(-1)
    share = code.bincount(minlength=27) / n
    assert bool(((share - p).abs() <= 4 * (p * (1 - p) / n).sqrt() + 1e-9).all())


def test_rows_that_go_on_are_drawn_given_their_beginning():
    decoder, likelihood = made(Field("x", "categorical", (3,), 3, missing=True))
    fn, n = likelihood(decoder(torch.tensor([0.5, -1.0]).double())), 20_000
    known = torch.tensor([1, -1, -1])
    drawn = fn.expand((n,)).given(known.clamp(min=0), known == -1).completed()
    assert bool((drawn[:, 0] == 1).all())
    ends = torch.tensor([[1, a, b] for a in range(3) for b in range(3)])
    p = (fn.log_prob(ends) - fn.log_prob(ends).logsumexp(0)).exp()
    share = (3 * drawn[:, 1] + drawn[:, 2]).bincount(minlength=9) / n
    assert bool(((share - p).abs() <= 4 * (p * (1 - p) / n).sqrt()).all())
    # what was seen counts by itself: the sum over all that may follow
    seen = fn.given(known.clamp(min=0), known == -1).log_prob(known.clamp(min=0))
    assert torch.allclose(seen, fn.log_prob(ends).logsumexp(0), atol=1e-12)


def test_particles_and_rows_broadcast():
    decoder, likelihood = made(Field("x", "categorical", (4,), 3))
    z, x = torch.randn(5, 7, 2).double(), torch.randint(0, 3, (7, 4))
    together = likelihood(decoder(z)).log_prob(x)
    assert together.shape == (5, 7)
    assert torch.allclose(together[3, 2], likelihood(decoder(z[3, 2])).log_prob(x[2]), atol=1e-12)
    assert likelihood(decoder(z)).expand((2, 5, 7)).sample().shape == (2, 5, 7, 4)


@pytest.fixture(scope="module")
def pair():
    """Rows of 6 tokens of three topics, some of which end early."""
    torch.manual_seed(0)
    y = torch.randint(0, 3, (300,))
    x = (y[:, None] + torch.randint(0, 2, (300, 6))) % 4
    x[:60, 4:] = -1
    series = torch.sin(torch.arange(7) * (y[:, None] + 1.0)) + 0.1 * torch.randn(300, 7)
    series[50:90, 5:] = torch.nan
    rows = {"text": x, "series": series, "y": y}
    data = ppl_vae.load(rows, kinds={"text": "categorical"}, missing="allow")
    torch.manual_seed(1)
    model = Multimodal(data, decoders="gru:state=8", private=1, latent_dim=2, hidden=(16,))
    guide = MeanField(model, experts="mixture", hidden=(16,))
    result = ppl_vae.fit(model, guide, data, epochs=15, batch_size=50, lr=1e-2, compile="off")
    return data, model, guide, result


def test_one_name_makes_decoders_and_encoders_of_all_sequences(pair):
    _, model, guide, _ = pair
    assert [isinstance(each.likelihood, Recurrent) for each in model.each] == [True, True, False]
    assert [isinstance(guide.encoder.input_of(n), SequenceInput) for n in ("text", "series")] == [True, True]


def test_what_pads_a_row_has_no_part_in_evidence_or_codes(pair):
    data, model, guide, _ = pair
    text = data.test["text"][:1].clone()
    text[:, 4:] = -1
    seen = []
    for length in (4, 6):  # the same row, cut, and padded
        part = text[:, :length]
        seen.append(guide.encoder.input_of("text")(part)[..., :-1])  # but the share that is there
        fn = Sequence(model.each[0].likelihood, torch.zeros(1, 8))
        terms = fn.given(part.clamp(min=0), part == -1).terms(part.clamp(min=0))
        assert bool((terms[:, 4:] == 0).all())
        seen.append(terms.sum())
    assert torch.allclose(seen[0], seen[2], atol=1e-6)
    assert torch.allclose(seen[1], seen[3], atol=1e-6)


def test_the_chain_rule_holds_for_beginnings(pair):
    """The mass of a beginning is the sum over what may follow, within the error of particles."""
    _, model, guide, _ = pair
    ends = torch.tensor([[1, 2, 1, 2, 1, k] for k in range(4)])
    begun = torch.tensor([[1, 2, 1, 2, 1, -1]])
    whole = ppl_vae.evaluate(model, guide, {"text": ends}, particles=4000)
    some = ppl_vae.evaluate(model, guide, {"text": begun}, particles=4000)
    p = whole.log_evidence.exp()
    error = (p * whole.log_evidence_se).square().sum().sqrt() / p.sum()
    assert abs(p.sum().log() - some.log_evidence[0]) < 4 * (error.square() + some.log_evidence_se[0].square()).sqrt()


@pytest.mark.slow
def test_ways_through_latents_know_sequences(pair):
    data, model, guide, _ = pair
    moved = ppl_vae.traverse(model, guide, data, row=1, steps=3)
    assert set(moved.values["text"].unique().tolist()) <= {0, 1, 2, 3}  # likeliest words, not means of their codes
    why = ppl_vae.explain(model, guide, data, rows=[0], field="text", of="log_prob")
    assert why.strength.shape == (1, 6)
    with pytest.raises(ppl_vae.UserError, match="no closed form"):
        ppl_vae.explain(model, guide, data, rows=[0], field="text")


def test_verbs_know_sequences(pair):
    data, model, guide, _ = pair
    rows = data.test.rows(slice(0, 6))
    assert ppl_vae.sample(model, guide, 4).rows["text"].shape == (4, 6)
    told = ppl_vae.predict(model, guide, {"series": rows["series"], "y": rows["y"]}, "text")
    assert told.probs.shape == (6, 6, 4)
    assert torch.allclose(told.probs.sum(-1), torch.ones(6, 6))
    assert 0 < ppl_vae.reconstruct(model, guide, rows).summary()["error text"] <= 1  # nothing of the row is kept


def test_draws_of_a_site_with_ends_are_of_whole_rows():
    """Replicates are new rows, not the old ones with other ends."""
    decoder, likelihood = made(Field("x", "categorical", (3,), 3, missing=True))
    fn, known = likelihood(decoder(torch.randn(400, 2).double())), torch.tensor([1, 2, -1]).expand(400, 3)
    holed = fn.given(known.clamp(min=0), known == -1)
    assert len(holed.sample()[:, 0].unique()) > 1
    assert torch.equal(holed.path(), fn.path())


def test_holes_at_the_end_are_imputed_given_the_beginning(pair):
    _, model, guide, _ = pair
    rows = {"text": torch.tensor([[1, 2, 1, -1, -1, -1]]), "y": torch.tensor([1])}
    found = ppl_vae.impute(model, guide, rows, draws=5, particles=50)
    assert bool((found.draws["text"][..., :3] == torch.tensor([1, 2, 1])).all())
    assert bool((found.draws["text"] >= 0).all())


def test_a_run_folder_gives_the_same_pair(pair, tmp_path):
    data, model, guide, result = pair
    result.save(tmp_path / "run")
    run = ppl_vae.open_run(tmp_path / "run")
    asked = {"particles": 5, "seed": 0}
    same = [ppl_vae.evaluate(m, g, data.test, **asked) for m, g in ((model, guide), (run.model, run.guide))]
    assert torch.equal(same[0].log_evidence, same[1].log_evidence)


def test_what_is_no_sequence_is_refused_in_a_line(pair):
    _, model, guide, _ = pair
    x = torch.randint(0, 4, (60, 5))
    x[3, 2] = -1
    holed = ppl_vae.load(x, kinds={"x": "categorical"}, missing="allow", validation=0, test=0)
    with pytest.raises(ppl_vae.UserError, match="lacks entry 2 and has a later one"):
        VAE(holed, decoder="gru", latent_dim=2)
    with pytest.raises(ppl_vae.UserError, match="lacks entry 1 and has a later one"):
        ppl_vae.evaluate(model, guide, {"text": torch.tensor([[1, -1, 2, 1, 1, 1]])}, particles=2)
    whole = ppl_vae.load(x.clamp(min=0), kinds={"x": "categorical"}, validation=0, test=0)
    with pytest.raises(ppl_vae.UserError, match="after its end"):
        VAE(whole, decoder=GRU(end=1), latent_dim=2)
    with pytest.raises(ppl_vae.UserError, match="end=9 is a level"):
        VAE(whole, decoder=GRU(end=9), latent_dim=2)
    table = ppl_vae.load({"a": torch.randn(50), "b": torch.randn(50)})
    with pytest.raises(ppl_vae.UserError, match="got a table"):
        VAE(table, decoder="gru")
    with pytest.raises(ppl_vae.UserError, match="forget is a share"):
        VAE(whole, decoder="gru:forget=1.5")


def test_words_that_are_hidden_in_training_are_not_in_evaluation():
    torch.manual_seed(0)
    data = ppl_vae.load(torch.randint(0, 4, (80, 5)), kinds={"x": "categorical"})
    model = VAE(data, decoder=GRU(state=8, forget=0.9), latent_dim=2)
    x, z = data.train["x"][:3], torch.zeros(3, 2)
    for weights in model.likelihood.parameters():
        weights.data.normal_()
    fn = model.likelihood(model.decoder(z))
    assert not torch.equal(fn.log_prob(x), fn.log_prob(x))
    model.eval()
    assert torch.equal(fn.log_prob(x), fn.log_prob(x))


def test_counts_and_truth_values_are_sequences_too():
    torch.manual_seed(0)
    rows = {"binary": torch.randint(0, 2, (60, 4)).float(), "count": torch.poisson(torch.full((60, 4), 3.0))}
    for kind, x in rows.items():
        data = ppl_vae.load(x, kinds={"x": kind})
        model = VAE(data, decoder="gru:state=6", latent_dim=2)
        result = ppl_vae.fit(model, MeanField(model, hidden=(8,)), data, epochs=1)
        assert ppl_vae.evaluate(model, result.guide, data.test, particles=4).log_evidence.isfinite().all()


def test_rows_of_words_are_written_as_sentences():
    from ppl_vae import plots
    from ppl_vae.prediction import Moved

    words = ("a", "small", "heart", "square")
    field = Field("text", "categorical", (3,), 4, names=words)
    codes = torch.tensor([[[0, 2, -1], [0, 2, -1], [0, 3, -1]], [[0, 1, 2], [0, 1, 2], [0, 1, 2]]])
    moved = Moved({"text": codes}, ("z0", "z1"), ("-1", "0", "1"), "value of z", {"text": field})
    told = [text.get_text() for text in moved.figure().axes[0].texts]
    assert told == [
        *("value of z", "z0", "-1 to 0", "a", "heart", "1", "a", "square"),
        *("z1", "-1 to 1", "a", "small", "heart"),
    ]
    with pytest.raises(ppl_vae.UserError, match="steps"):
        plots.sentences(codes, words, ("z0", "z1"), ("-1",))
