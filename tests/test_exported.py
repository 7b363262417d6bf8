"""What is exported says what the pair says, for any number of rows, and runs without this package."""

import json
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import torch

import ppl_vae
from ppl_vae.errors import UserError
from ppl_vae.guides import IAF, FullRank, MeanField
from ppl_vae.models import CVAE, GMVAE, M1M2, M2, VAE, Hierarchical, Regression
from ppl_vae.prediction._networks import Encoder
from ppl_vae.prediction.coding import decode, encode
from ppl_vae.programs.program import Pair


def table(rows=80):
    draw = np.random.default_rng(0)
    first = draw.normal(size=rows)
    return pd.DataFrame(
        {
            "a": first + draw.normal(size=rows),
            "visits": draw.poisson(np.exp(1 + first / 2)),
            "kind": np.where(first > 0, "x", "o"),
            "y": 2 * first + draw.normal(size=rows),
        }
    )


FAMILIES = {
    "flow": lambda data: (VAE(data, latent_dim=3, hidden=(8,)), IAF),
    "labels": lambda data: (M2(data, latent_dim=3, hidden=(8,)), MeanField),
    "labels and a flow": lambda data: (M2(data, latent_dim=3, hidden=(8,)), IAF),
    "hierarchy": lambda data: (Hierarchical(data, latent_dims=(3, 2), hidden=(8,)), MeanField),
    "hierarchy at once": lambda data: (Hierarchical(data, latent_dims=(3, 2), hidden=(8,)), FullRank),
    "labels and a hierarchy": lambda data: (M1M2(data, latent_dims=(3, 2), hidden=(8,)), MeanField),
    "clusters": lambda data: (GMVAE(data, latent_dim=3, hidden=(8,)), MeanField),
    "conditions": lambda data: (CVAE(data, latent_dim=3, hidden=(8,)), MeanField),
}


def pair(kind):
    torch.manual_seed(0)
    if kind in FAMILIES:
        data = ppl_vae.load("digits", labels=100 if kind.startswith("labels") else None)
        model, guide = FAMILIES[kind](data)
        return Pair(model, guide(model, hidden=(8,))), data
    if kind == "digits":
        data = ppl_vae.load("digits")
        model = VAE(data, latent_dim=3, hidden=(8,))
    elif kind == "table":
        data = ppl_vae.load(table().drop(columns="y"))
        model = VAE(data, latent_dim=3, hidden=(8,))
    elif kind == "pictures":
        data = ppl_vae.load("digits")
        model = VAE(data, latent_dim=3, decoder="conv:width=4")
    else:
        data = ppl_vae.load(table(), label="y", kinds={"y": "real"})
        model = Regression(data, latent_dim=3, hidden=(8,))
    return Pair(model, MeanField(model, hidden=(8,))), data


def expected(found, programs, batch):
    """The codes of rows and the means of their fields, by the pair itself."""
    codes = encode(programs.guide, batch)["z"]
    means = {n: decode(programs.model, {"z": codes}, batch, n) for n in found.outputs if n != "kind"}
    return codes, means


KINDS = ["digits", "table", "regression", "pictures"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_torch_programs_are_the_pair(kind, tmp_path):
    programs, data = pair(kind)
    found = ppl_vae.export(programs.model, programs.guide, data, tmp_path / "out")
    programs.eval()
    for rows in (1, 13):
        batch = {n: v[:rows] for n, v in data.train.batch().items()}
        codes, means = expected(found, programs, batch)
        encoder, decoder = (torch.export.load(f).module() for f in (found.encoder, found.decoder))
        coded = encoder({n: batch[n] for n in found.inputs})
        assert torch.allclose(coded["z"], codes, atol=1e-5)
        assert (coded["z_sd"] > 0).all()
        made = decoder(codes)
        for name, mean in means.items():
            assert torch.allclose(made[name], mean.float(), atol=1e-4, rtol=1e-4)
    about = json.loads(found.description.read_text())
    assert about["outputs"] == list(found.outputs)
    if kind == "table":
        assert next(f for f in about["fields"] if f["name"] == "kind")["names"] == ["o", "x"]
        assert torch.allclose(made["kind"].sum(-1), torch.ones(13))
    again = ppl_vae.export(programs.model, programs.guide, data, tmp_path / "out")
    assert (found.decoder.name, again.decoder.name) == ("decoder.pt2", "decoder-2.pt2")


def programs_of(found):
    """The encoder and the decoder as functions of tensors by name."""
    if found.encoder.suffix == ".pt2":
        encoder, decoder = (torch.export.load(f).module() for f in (found.encoder, found.decoder))
        return encoder, lambda values: decoder(values if len(values) > 1 else next(iter(values.values())))
    import onnxruntime

    sessions = [onnxruntime.InferenceSession(str(f)) for f in (found.encoder, found.decoder)]

    def ran(session, values):
        names = [o.name for o in session.get_outputs()]
        made = session.run(names, {n: v.detach().numpy() for n, v in values.items()})
        return dict(zip(names, map(torch.as_tensor, made), strict=True))

    return [lambda values, s=s: ran(s, values) for s in sessions]


LACKS_ONNX = any(find_spec(n) is None for n in ("onnx", "onnxscript", "onnxruntime"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "format", ["torch", pytest.param("onnx", marks=pytest.mark.skipif(LACKS_ONNX, reason="needs the extra onnx"))]
)
@pytest.mark.parametrize("kind", FAMILIES)
def test_flows_labels_hierarchies_and_conditions_are_the_pair(kind, format, tmp_path):
    programs, data = pair(kind)
    found = ppl_vae.export(programs.model, programs.guide, data, tmp_path / "out", format=format)
    programs.eval()
    encoder, decoder = programs_of(found)
    own, draws = Encoder(programs.guide.public), 400
    for rows in (1, 13):
        batch = {n: v[:rows] for n, v in data.test.batch().items()}
        read = {n: batch[n] for n in found.inputs}
        codes, mine = encoder(read), own(read)
        for name, values in mine.items():
            torch.testing.assert_close(codes[name], values, atol=1e-5, rtol=1e-5)
        for name, mean in encode(programs.guide, batch, draws=draws).items():
            spread = codes.get(f"{name}_sd", (codes[name] * (1 - codes[name])).clamp(min=0).sqrt())
            assert ((codes[name] - mean).abs() <= 1e-3 + 5 * spread / draws**0.5).all(), name
        values = {n: codes.get(n, batch.get(n)) for n in found.decoded}
        if kind.startswith("labels") and "y" in values:
            values["y"] = codes["y"].argmax(-1)
        made = decoder(values)["x"]
        given = {**batch, **{n: v for n, v in values.items() if n in batch}}
        mean = decode(programs.model, {n: v for n, v in values.items() if n not in batch}, given)
        torch.testing.assert_close(made, mean.float(), atol=1e-4, rtol=1e-4)


def test_labels_are_summed_out_by_the_law_of_total_variance():
    programs, data = pair("labels")
    programs.eval()
    guide, batch = programs.guide.public, {n: v[:3] for n, v in data.test.batch().items()}
    encoder = Encoder(guide)
    with torch.no_grad():
        found = encoder({"x": batch["x"]})
        row = guide.encoder(batch)
        each = []
        for label in torch.eye(10):
            q = guide.heads[1](guide.mixers[1]([row, label.expand(3, 10)]))
            each.append((q.mean, q.stddev))
        means, deviations = (torch.stack(v) for v in zip(*each, strict=True))
        weights = found["y"].T.unsqueeze(-1)
        mean = (weights * means).sum(0)
        variance = (weights * (deviations**2 + (means - mean) ** 2)).sum(0)
    torch.testing.assert_close(found["y"].sum(-1), torch.ones(3))
    torch.testing.assert_close(found["z"], mean)
    torch.testing.assert_close(found["z_sd"], variance.sqrt())


@pytest.mark.slow
@pytest.mark.skipif(
    any(find_spec(n) is None for n in ("onnx", "onnxscript", "onnxruntime")), reason="needs the extra onnx"
)
@pytest.mark.parametrize("kind", KINDS)
def test_onnx_programs_are_the_pair(kind, tmp_path):
    import onnxruntime

    programs, data = pair(kind)
    found = ppl_vae.export(programs.model, programs.guide, data, tmp_path / "out", format="onnx")
    programs.eval()
    encoder, decoder = (onnxruntime.InferenceSession(str(f)) for f in (found.encoder, found.decoder))
    assert [i.name for i in encoder.get_inputs()] == list(found.inputs)
    for rows in (1, 13):
        batch = {n: v[:rows] for n, v in data.train.batch().items()}
        codes, means = expected(found, programs, batch)
        z, deviation = encoder.run(["z", "z_sd"], {n: batch[n].numpy() for n in found.inputs})
        np.testing.assert_allclose(z, codes.detach().numpy(), atol=1e-5)
        assert (deviation > 0).all()
        for name, mean in means.items():
            (made,) = decoder.run([name], {"z": z})
            np.testing.assert_allclose(made, mean.detach().numpy(), atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(find_spec("onnxscript") is not None, reason="the extra onnx is there")
def test_a_format_that_is_not_installed_is_refused(tmp_path):
    programs, data = pair("table")
    with pytest.raises(UserError, match=r"needs onnx and onnxscript: pip install|needs onnxscript: pip install"):
        ppl_vae.export(programs.model, programs.guide, data, tmp_path, format="onnx")
    assert not list(tmp_path.iterdir())


def test_what_is_more_than_an_encoder_and_a_decoder_is_refused(tmp_path):
    data = ppl_vae.load("digits")
    flow = VAE(data, latent_dim=2, hidden=(8,))
    cases = [(flow, lambda x: None, "export is of generated guides")]
    for model, guide, why in cases:
        with pytest.raises(UserError, match=why):
            ppl_vae.export(model, guide, data, tmp_path)
    with pytest.raises(UserError, match="format"):
        ppl_vae.export(flow, MeanField(flow, hidden=(8,)), data, tmp_path, format="pickle")
    assert not list(tmp_path.iterdir())
