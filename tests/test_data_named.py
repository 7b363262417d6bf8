"""The named data sets: their fixed splits and protocols, local copies, failed downloads."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

import ppl_vae
from ppl_vae.data import Field, load, names, rebuild
from ppl_vae.data import named as named_module
from ppl_vae.errors import UserError
from ppl_vae.guides import MeanField
from ppl_vae.likelihoods import Normal
from ppl_vae.models import VAE

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
needs_fashion = pytest.mark.skipif(not DEBIAN.exists(), reason="Debian package dataset-fashion-mnist is not installed")


def parts(data):
    return [s for s in (data.train, data.validation, data.test) if s is not None]


# named ----------------------------------------------------------------------------------------------------


def test_digits_is_tomczaks_split():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    data = load()
    assert [len(s) for s in parts(data)] == [1000, 350, 447]
    assert torch.cat([s["x"] for s in parts(data)]).tolist() == bunch.images.astype(int).tolist()
    assert torch.cat([s["y"] for s in parts(data)]).tolist() == bunch.target.tolist()
    assert data.schema["x"] == Field("x", "categorical", (8, 8), cardinality=17)
    assert data.schema["y"].cardinality == 10
    assert data.train["x"].dtype == torch.int64
    assert torch.equal(load("digits", seed=5).test["x"], data.test["x"])
    assert torch.equal(rebuild(data.source).test["x"], data.test["x"])
    assert load(data) is data
    assert "1000 train, 350 validation, 447 test" in repr(data)
    assert all("\n" not in repr(s) for s in parts(data))


def test_pairs_are_of_one_class_and_of_one_split_and_never_twice_the_same():
    data, digits = load("digit-pairs"), load("digits")
    for name in ("train", "validation", "test"):
        pairs, rows = getattr(data, name), getattr(digits, name)
        assert torch.equal(pairs["a"], rows["x"])
        assert torch.equal(pairs["y"], rows["y"])
        binary = (rows["x"] >= 8).float().flatten(1)
        equal = (pairs["b"].flatten(1)[:, None] == binary[None]).all(-1)  # [pair, row of the split]
        assert bool((equal & (pairs["y"][:, None] == rows["y"][None])).any(1).all())
        alone = equal.sum(1) == 1
        assert not bool(equal.diagonal()[alone].any())
    assert torch.equal(rebuild(data.source).test["b"], data.test["b"])
    with pytest.raises(UserError, match="fixed fields and splits"):
        load("digit-pairs", label="a")


def test_names_describe_the_named_sets():
    assert {"digits", "digit-pairs", "mnist", "fashion-mnist", "sprites", "dsprites"} < set(names)
    assert all(len(line) > 10 for line in names.values())


def grey(file):
    content = gzip.decompress((DEBIAN / file).read_bytes())
    return np.frombuffer(content, np.uint8, offset=16).reshape(-1, 784) / 255.0


@pytest.mark.slow
@needs_fashion
def test_fashion_mnist_follows_the_exemplar_protocol():
    data = load("fashion-mnist")
    assert [len(s) for s in parts(data)] == [50000, 10000, 10000]
    assert data.schema["x"] == Field("x", "binary", (28, 28))
    assert data.schema["y"].names[0] == "T-shirt/top"
    assert data.train.draws == {"x"}
    assert not data.test.draws
    assert not data.validation.draws
    train, test = grey("train-images-idx3-ubyte.gz"), grey("t10k-images-idx3-ubyte.gz")
    np.testing.assert_allclose(data.train["x"][:100].reshape(-1, 784), train[:100], rtol=1e-6)
    stream = np.random.RandomState(777)
    assert (data.validation["x"][:500].reshape(-1, 784).numpy() == stream.binomial(1, train[50000:50500])).all()
    assert abs(float(data.test["x"].mean()) - test.mean()) < 4 * 0.5 / test.size**0.5
    assert data.source["binarise"] == "dynamic"


@pytest.mark.slow
@needs_fashion
def test_fashion_mnist_is_binarised_by_one_stream_to_its_last_test_row():
    data = load("fashion-mnist")
    train, test = grey("train-images-idx3-ubyte.gz"), grey("t10k-images-idx3-ubyte.gz")
    stream = np.random.RandomState(777)
    assert (data.validation["x"].reshape(-1, 784).numpy() == stream.binomial(1, train[50000:])).all()
    assert (data.test["x"].reshape(-1, 784).numpy() == stream.binomial(1, test)).all()


@needs_fashion
def test_fashion_mnist_grey_from_a_given_folder():
    data = load("fashion-mnist", binarise="none", root=DEBIAN)
    assert data.schema["x"].kind == "unit"
    assert not data.train.draws
    assert 0 < data.test["x"].mean() < 1
    assert data.source["root"] == str(DEBIAN)
    with pytest.raises(UserError, match="not those of 'mnist'"):
        load("mnist", root=DEBIAN)


def idx(path, values):
    header = np.array([0x800 + values.ndim, *values.shape], dtype=">i4").tobytes()
    path.write_bytes(gzip.compress(header + values.tobytes(), compresslevel=1))


def test_mnist_in_torchvisions_layout(tmp_path, monkeypatch):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, rows in (("train", 60000), ("t10k", 10000)):
        labels = np.zeros(rows, np.uint8)
        labels[:5] = (5, 0, 4, 1, 9)
        idx(folder / f"{part}-labels-idx1-ubyte.gz", labels)
        idx(folder / f"{part}-images-idx3-ubyte.gz", np.full((rows, 28, 28), 255, np.uint8))
    monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path))
    data = load("mnist", binarise="none")
    assert data.train["y"][:5].tolist() == [5, 0, 4, 1, 9]
    assert data.train["x"].min() == 1
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot read .*t10k-images-idx3-ubyte.gz"):
        load("mnist")


def test_failed_download_names_the_remedies(tmp_path, monkeypatch):
    from torchvision import datasets

    def refuse(root, download):
        raise RuntimeError("no\nnetwork")

    monkeypatch.setattr(datasets, "MNIST", refuse)
    monkeypatch.setattr(datasets, "FashionMNIST", refuse)
    monkeypatch.setitem(named_module._IDX, "fashion-mnist", named_module._IDX["fashion-mnist"]._replace(system=None))
    with pytest.raises(UserError, match=r"no network.*root=folder.*PPL_VAE_DATA") as caught:
        load("mnist", root=tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="Debian package dataset-fashion-mnist"):
        load("fashion-mnist", root=tmp_path)


def test_a_data_set_says_how_it_was_binarised_and_a_run_records_it(tmp_path):
    """Numbers on thresholded, static and dynamic binarisations of one data set are not comparable."""
    file = tmp_path / "grey.npy"
    np.save(file, np.random.default_rng(0).uniform(size=(60, 4)))
    said = {}
    for mode in ("dynamic", "static", "none"):
        data = load(file, binarise=mode)
        assert data.schema["x"].kind == ("unit" if mode == "none" else "binary")
        assert data.train.draws == (frozenset({"x"}) if mode == "dynamic" else frozenset())
        assert ("drawn at every use" in repr(data)) == (mode == "dynamic")
        assert data.source["options"]["binarise"] == mode
        likelihood = Normal() if mode == "none" else None
        model = VAE(data, latent_dim=2, hidden=(4,), likelihood=likelihood)
        result = ppl_vae.fit(model, MeanField(model, hidden=(4,)), data, epochs=1)
        run = ppl_vae.open_run(result.save(tmp_path / mode))
        said[mode] = run.info["data"]["source"]["options"]["binarise"]
    assert said == {"dynamic": "dynamic", "static": "static", "none": "none"}
