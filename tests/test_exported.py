"""What is exported says what the pair says, for any number of rows, and runs without this package."""

import json
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import torch

import ppl_vae
from ppl_vae.errors import UserError
from ppl_vae.guides import IAF, MeanField
from ppl_vae.models import M2, VAE, Regression
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


def pair(kind):
    torch.manual_seed(0)
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
    few = M2(data, latent_dim=2, hidden=(8,))
    cases = [
        (flow, IAF(flow, hidden=(8,)), "has no closed form in this family"),
        (few, MeanField(few, hidden=(8,)), "takes more than its latent vector"),
        (flow, lambda x: None, "export is of generated guides"),
    ]
    for model, guide, why in cases:
        with pytest.raises(UserError, match=why):
            ppl_vae.export(model, guide, data, tmp_path)
    with pytest.raises(UserError, match="format"):
        ppl_vae.export(flow, MeanField(flow, hidden=(8,)), data, tmp_path, format="pickle")
    assert not list(tmp_path.iterdir())
