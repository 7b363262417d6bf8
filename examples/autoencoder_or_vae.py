"""An autoencoder or a VAE: the same networks on digits, with and without a prior.

    python examples/autoencoder_or_vae.py

Both bring rows back; only one knows where its codes are. The last two columns are about rows made of draws of N(0, I):
how far they are from the nearest real row (that of other real rows is printed below), and how often a classifier can
tell them from real rows (0.5: not at all). The sparse one's do no worse than the VAE's: its penalty is the log density
of a Laplace prior but for a constant, which keeps codes where N(0, I) looks. It still has no evidence.
"""

import pandas as pd
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score

import ppl_vae
from ppl_vae.guides import MeanField, Point
from ppl_vae.models import VAE, AutoEncoder


def pairs(data):
    """The pairs to compare, by name: a model, and the guide for it."""
    model = VAE(data)
    yield "VAE", model, MeanField(model)
    for name, options in {
        "AutoEncoder": {},
        "denoising": {"corruption": 0.3},
        "sparse": {"sparsity": 0.5},
        "contractive": {"contraction": 0.5},
    }.items():
        model = AutoEncoder(data)
        yield name, model, Point(model, **options)


def evidence(model, guide, data):
    """Minus log p(x) of test rows in nats, or that there is none."""
    try:
        return f"{ppl_vae.evaluate(model, guide, data, particles=300).summary()['nll']:.1f}"
    except ppl_vae.UserError:
        return "none"


def nearest(made, real):
    """Mean distance from a row to the nearest other row."""
    return float(torch.cdist(made, real).min(1).values.mean())


def told_apart(made, real):
    """Cross-validated accuracy of a classifier of made and real rows."""
    labels = [0] * len(made) + [1] * len(real)
    forest = RandomForestClassifier(200, random_state=0)
    return cross_val_score(forest, torch.cat([made, real]).numpy(), labels, cv=5).mean()


def main(epochs=60):
    data = ppl_vae.load("digits")
    real = data.test["x"].float().flatten(1)
    found = {}
    torch.manual_seed(0)
    for name, model, guide in pairs(data):
        ppl_vae.fit(model, guide, data, epochs=epochs, weight_decay=1.0)
        with torch.no_grad():
            made = model(n=len(real)).float().flatten(1)
        back = ppl_vae.reconstruct(model, guide, data, draws=4).summary()
        found[name] = {
            "NLL": evidence(model, guide, data),
            "E log p(x|z)": round(back["reconstruction_log_likelihood"], 1),
            "squared error": round(back["error x"], 2),
            "nearest row": round(nearest(made, real), 1),
            "told apart": round(told_apart(made, real), 2),
        }
    table = pd.DataFrame(found).T
    print(table)
    print(f"nearest row of training rows: {nearest(data.train['x'].float().flatten(1), real):.1f}")
    return table


if __name__ == "__main__":
    main()
