"""Style transfer on digits: is the wanted class read, and are slant and ink those of the style row?

A conditional VAE writes the classes of some test rows with the latents of others (`ppl_vae.transfer`). A support vector
classifier of the training rows reads the results; slant (from image moments) and ink (mean grey level) of result and
style row are correlated after the mean of each one's own class is taken away, since classes differ in both; for
comparison those of result and content row.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.svm import SVC
from torch import Tensor

import ppl_vae
from ppl_vae.guides import MeanField
from ppl_vae.models import CVAE


def ink(x: Tensor) -> Tensor:
    """Mean grey level of pictures [n, H, W]."""
    return x.float().mean((1, 2))


def slant(x: Tensor) -> Tensor:
    """mu_11 / mu_02 of pictures [n, H, W]: how far the strokes lean."""
    x = x.float()
    rows, columns = torch.meshgrid(torch.arange(x.shape[1]), torch.arange(x.shape[2]), indexing="ij")
    mass = x.sum((1, 2)).clamp(min=1e-6)
    middle = [(x * place).sum((1, 2)) / mass for place in (rows, columns)]
    down, across = rows - middle[0][:, None, None], columns - middle[1][:, None, None]
    return (x * down * across).sum((1, 2)) / (x * down.square()).sum((1, 2)).clamp(min=1e-6)


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's."""
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def without_class(values: Tensor, labels: Tensor) -> Tensor:
    """Values minus the mean of their class."""
    sums = torch.zeros(10).index_add(0, labels, values)
    return values - (sums / labels.bincount(minlength=10).clamp(min=1))[labels]


def main() -> None:
    """Print the share of results that are read as wanted, and the correlations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--latent-dim", type=int, default=8)
    parser.add_argument("--data", default="digits", help="or mnist-5k, mnist-5k:side=14")
    parser.add_argument("--batch-size", type=int, default=64)
    asked = parser.parse_args()
    data = ppl_vae.load(asked.data)
    torch.manual_seed(0)
    model = CVAE(data, given="y", latent_dim=asked.latent_dim, hidden=(128,))
    guide = MeanField(model, hidden=(128,))
    ppl_vae.fit(model, guide, data, epochs=asked.epochs, lr=2e-3, batch_size=asked.batch_size, seed=0, compile="off")
    contents, styles = range(asked.rows), range(asked.rows, 2 * asked.rows)
    made = ppl_vae.transfer(model, guide, data, contents, styles, keep=("y",)).values["x"]
    wanted = data.test["y"][: asked.rows].repeat_interleave(asked.rows)
    train, test = data.train, data.test
    judge = SVC(C=10.0).fit(train["x"].flatten(1).numpy(), train["y"].numpy())
    flat = made.reshape(-1, *data.schema["x"].shape)
    right = (torch.as_tensor(judge.predict(flat.flatten(1).numpy())) == wanted).double()
    print(f"read as wanted: {100 * float(right.mean()):.1f} % of {len(right):,}")
    of_style = test.rows(slice(asked.rows, 2 * asked.rows))
    of_content = test.rows(slice(0, asked.rows))
    for name, measure in (("ink", ink), ("slant", slant)):
        result = without_class(measure(flat), wanted)
        style = without_class(measure(of_style["x"]), of_style["y"]).repeat(asked.rows)
        content = without_class(measure(of_content["x"]), of_content["y"]).repeat_interleave(asked.rows)
        r = correlation(result, style), correlation(result, content)
        print(f"{name}: r = {r[0]:.2f} with the style row, {r[1]:.2f} with the content row")


if __name__ == "__main__":
    main()
