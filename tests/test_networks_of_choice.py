"""Decoders and encoders that a user chooses: by name, an object, any module, a function; laid out and sized right."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import ppl_vae
from ppl_vae import UserError
from ppl_vae.bounds import IWAE
from ppl_vae.data import Field
from ppl_vae.decoders import Conv, Dense
from ppl_vae.decoders.conv import laid_out
from ppl_vae.decoders.own import decoder_of
from ppl_vae.guides import IAF, MeanField
from ppl_vae.likelihoods import Bernoulli, DiscretisedLogistic, Normal
from ppl_vae.models import CVAE, M2, VAE
from ppl_vae.nn.inputs import channels_of

SHAPES = [(28, 28), (8, 8), (5, 9), (3, 32, 32), (32, 32, 3), (1, 64, 64), (4, 17, 30)]


@pytest.fixture(scope="module")
def digits():
    return ppl_vae.load("digits")


def pictures(shape, rows=30, kinds=None):
    x = torch.rand(rows, *shape, generator=torch.Generator().manual_seed(0))
    return ppl_vae.load({"x": (x > 0.5).float()} if kinds is None else {"x": (255 * x).round()}, kinds=kinds)


# -- layouts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_planes_are_laid_out_as_the_likelihood_reads_them(shape):
    """Entry e of channel c of pixel (i, j) is plane c * entry + e at (i, j)."""
    entry, (channels, sides) = 3, channels_of(shape)
    planes = torch.arange(2 * channels * entry * math.prod(sides), dtype=torch.float32)
    planes = planes.reshape(2, channels * entry, *sides)
    each = laid_out(planes, shape, entry).reshape(2, *shape, entry)
    for c in range(channels):
        for e in range(entry):
            here = each[..., e] if len(shape) == 2 else each[:, c, ..., e] if shape[0] <= 4 else each[..., c, e]
            assert torch.equal(here, planes[:, c * entry + e])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_convolutional_decoder_fits_any_picture(shape):
    likelihood = Bernoulli().build(Field("x", "binary", shape))
    decoder = Conv(width=4, most=8).build(3, likelihood)
    features = decoder(torch.randn(2, 5, 3))
    assert features.shape == (2, 5, math.prod(shape))
    assert decoder.sizes[-1] == channels_of(shape)[1]
    assert min(decoder.sizes[0]) <= 7
    log_p = likelihood(features).log_prob(torch.ones(2, 5, *shape))
    torch.testing.assert_close(log_p, nn.functional.logsigmoid(features).sum(-1), rtol=1e-4, atol=1e-3)


def test_a_pixel_depends_on_features_near_it_alone():
    """A convolution of one picture: what a feature of the smallest picture says stays in its corner."""
    decoder = Conv(width=4).build(3, Bernoulli().build(Field("x", "binary", (28, 28))))
    with torch.no_grad():
        decoder.first.weight.zero_()
        decoder.first.bias.zero_()
        silent = decoder(torch.zeros(1, 3)).reshape(28, 28)
        decoder.first.bias[0] = 5.0  # one channel of the pixel (0, 0) of 7 x 7
        there = (decoder(torch.zeros(1, 3)).reshape(28, 28) - silent).abs() > 1e-6
    assert there[0, 0]
    assert not there[16:, :].any()
    assert not there[:, 16:].any()


# -- every model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "decoder", ["conv:width=4", Dense((8,)), Conv(4), Dense], ids=["word", "dense", "conv", "class"]
)
def test_all_but_a_users_own_start_at_the_marginals(digits, decoder):
    model = VAE(digits, decoder=decoder, latent_dim=3)
    with torch.no_grad():
        for module in model.decoder.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.weight.zero_()
                module.bias.zero_()
        probs = model.likelihood(model.decoder(torch.randn(1, 3))).base_dist.probs[0]
    share = (digits.train["x"].unsqueeze(-1) == torch.arange(17)).float().mean(0)
    torch.testing.assert_close(probs, share, atol=0.01, rtol=0)


@pytest.mark.parametrize("make", [VAE, M2, CVAE])
def test_particles_and_enumerated_labels_go_through_any_decoder(digits, make):
    data = ppl_vae.load("digits", labels=50) if make is M2 else digits
    torch.manual_seed(0)

    def own(inputs, likelihood):
        return nn.Sequential(nn.Linear(inputs, 16), nn.Unflatten(1, (4, 2, 2)), nn.ConvTranspose2d(4, 17, 4, 4))

    model = make(data, decoder=own, latent_dim=3, hidden=(8,))
    guide = IAF(model, flows=1, width=8, hidden=(8,))
    result = ppl_vae.fit(model, guide, data, bound=IWAE(3) if make is not M2 else None, epochs=1, compile="off")
    assert math.isfinite(result.history[-1]["train"])
    assert bool(ppl_vae.evaluate(model, guide, data.test.rows(slice(0, 60)), particles=7).log_evidence.isfinite().all())


def test_a_decoder_of_ours_goes_into_the_run_folder_and_a_users_does_not(digits, tmp_path):
    model = VAE(digits, decoder=Conv(width=4), latent_dim=2)
    result = ppl_vae.fit(model, MeanField(model, hidden=(8,)), digits, epochs=1, compile="off")
    run = ppl_vae.open_run(result.save(tmp_path / "ours"))
    z = torch.randn(4, 2)
    assert torch.equal(run.model.decoder(z), model.decoder(z))
    model = VAE(digits, decoder=nn.Linear(2, 64 * 17), latent_dim=2)
    result = ppl_vae.fit(model, MeanField(model, hidden=(8,)), digits, epochs=1, compile="off")
    with pytest.raises(UserError, match="pass the object"):
        ppl_vae.open_run(result.save(tmp_path / "theirs"))
    again = VAE(digits, decoder=nn.Linear(2, 64 * 17), latent_dim=2)
    opened = ppl_vae.open_run(tmp_path / "theirs", again)
    assert torch.equal(opened.model.decoder(z), model.decoder(z))


def test_bytes_in_colour():
    data = pictures((3, 16, 16), kinds={"x": "count"})
    model = VAE(data, decoder="conv:width=4", latent_dim=2)
    assert isinstance(model.likelihood, DiscretisedLogistic)
    assert model(n=2).shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    ("decoder", "words"),
    [
        ("cnov", "unknown decoder 'cnov': did you mean 'conv'"),
        (nn.Linear(2, 5), r"to features \(2, 1088\) or pictures \(2, 17, 8, 8\), got \(2, 5\)"),
        (nn.Linear(3, 1088), "got an error"),
        (lambda inputs, likelihood: 3, "must make a module, and made int"),
        (7, "decoder must be a name"),
    ],
    ids=["name", "width", "inputs", "function", "number"],
)
def test_what_is_no_decoder_is_refused(digits, decoder, words):
    with pytest.raises(UserError, match=words):
        VAE(digits, decoder=decoder, latent_dim=2)


def test_a_table_has_no_convolutions():
    data = ppl_vae.load({"a": [0.5, 1.5, 2.5], "b": ["x", "y", "x"]}, test=0, validation=0)
    with pytest.raises(UserError, match="got a table: use Dense"):
        VAE(data, decoder=Conv())
    with pytest.raises(UserError, match=r"got rows of shape \(4,\)"):
        decoder_of(Conv(), 2, Normal().build(Field("x", "real", (4,))))
    with pytest.raises(UserError, match="kernel must be odd"):
        Conv(kernel=4)


# -- encoders ----------------------------------------------------------------------------------------------------------


class Words(nn.Module):
    """The mean of the embeddings of a row's tokens."""

    def __init__(self, words):
        super().__init__()
        self.embedding = nn.Embedding(words, 6)

    def forward(self, tokens):
        return self.embedding(tokens).mean(1)


def sentences(rows=40):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 9, (rows, 5), generator=generator)
    tokens[::7] = -1
    return ppl_vae.load({"x": torch.randn(rows, 3), "text": tokens}, kinds={"text": "categorical"}, missing="allow")


class Both(nn.Module):
    def forward(self, x=None, text=None):
        import pyro
        import pyro.distributions as dist

        with pyro.plate("data", len(x if x is not None else text)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z[..., :1].expand(*z.shape[:-1], 3), 1.0).to_event(1), obs=x)
            logits = z[..., None, :1] * torch.arange(9.0)
            pyro.sample("text", dist.Categorical(logits=logits.expand(*z.shape[:-1], 5, 9)).to_event(1), obs=text)


def test_a_module_for_one_field_and_the_usual_layer_for_the_others():
    data = sentences()
    torch.manual_seed(0)
    own = Words(9)
    guide = MeanField(Both(), data, encoder={"text": own}, hidden=(8,))
    layer = guide.encoder.input_of("text")
    assert layer.network is own
    assert layer.size == 7  # six features, and the share of tokens that are there
    batch = data.train.batch(slice(0, 8))
    missing = batch["text"][:, 0] < 0
    assert missing.any()
    assert torch.equal(layer(batch["text"])[:, -1], (~missing).float())
    torch.testing.assert_close(layer(batch["text"])[~missing, :6], own(batch["text"][~missing]))
    result = ppl_vae.fit(guide.program.program, guide, data, epochs=1, compile="off")
    assert math.isfinite(result.history[-1]["train"])
    assert ppl_vae.evaluate(guide.program.program, guide, {"x": batch["x"]}, particles=5).log_evidence.isfinite().all()


def test_a_function_makes_the_encoder_once_the_fields_are_known(digits):
    made = []

    def encoder(fields, train):
        made.append(([f.name for f in fields], len(train)))
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 5))

    class Floats(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x.float())

    model = VAE(digits, latent_dim=2, hidden=(8,))
    guide = MeanField(model, encoder=lambda fields, train: Floats(encoder(fields, train)))
    assert made == [(["x"], 1000)]
    assert guide(x=digits.test["x"][:4])["z"].shape == (4, 2)


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        ({"y": nn.Linear(3, 2)}, "unknown field of the encoder 'y'"),
        ({"x": nn.Linear(9, 2)}, r"encoder of field 'x' must go from rows \(2, 8, 8\) to features \(2, H\)"),
        (3, "encoder must be a module from the fields"),
        (lambda fields, train: nn.Linear(9, 2), "encoder must be a module from the dict of observed fields"),
    ],
    ids=["name", "width", "number", "function"],
)
def test_what_is_no_encoder_is_refused(digits, encoder, words):
    with pytest.raises(UserError, match=words):
        MeanField(VAE(digits, latent_dim=2, hidden=(8,)), encoder=encoder)
