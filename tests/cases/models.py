"""The table of models: a constructor from a data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ppl_vae.autoguide.generated import GeneratedGuide
from ppl_vae.models import (
    CVAE,
    GMVAE,
    M1,
    M1M2,
    M2,
    VAE,
    AutoEncoder,
    Hierarchical,
    InformationBottleneck,
    Multimodal,
    Regression,
)
from ppl_vae.priors import (
    LabelConditional,
)
from ppl_vae.registry import catalog

MODELS: dict[str, Callable[[Any], Any]] = {
    "VAE": lambda data: VAE(data, latent_dim=3, hidden=(8,)),
    "VAE, convolutions": lambda data: VAE(data, latent_dim=3, decoder="conv:width=4"),
    "VAE, no hidden layer": lambda data: VAE(data, latent_dim=2, hidden=()),
    "Hierarchical": lambda data: Hierarchical(data, latent_dims=(3, 2), hidden=(8,)),
    "Hierarchical, three layers": lambda data: Hierarchical(data, latent_dims=(3, 2, 1), hidden=(8,)),
    "GMVAE": lambda data: GMVAE(data, clusters=3, latent_dim=3, hidden=(8,)),
    "M2": lambda data: M2(data, latent_dim=3, hidden=(8,)),
    "M2, LabelConditional": lambda data: M2(data, prior=LabelConditional(10), latent_dim=3, hidden=(8,)),
    "M1": lambda data: M1(data, latent_dim=3, hidden=(8,)),
    "M1M2": lambda data: M1M2(data, latent_dims=(3, 2), hidden=(8,)),
    "AutoEncoder": lambda data: AutoEncoder(data, latent_dim=3, hidden=(8,)),
    "VAE, tanh": lambda data: VAE(data, latent_dim=3, hidden=(8, 8), activation="tanh"),
    "Multimodal": lambda data: Multimodal(data, private=2, latent_dim=3, hidden=(8,)),
    "Multimodal, convolutions": lambda data: Multimodal(data, decoders="conv:width=4", latent_dim=3, hidden=(8,)),
    "InformationBottleneck": lambda data: InformationBottleneck(data, latent_dim=3),
    "Regression": lambda data: Regression(data, latent_dim=3, hidden=(8,)),
    "CVAE": lambda data: CVAE(data, latent_dim=3, hidden=(8,)),
    "CVAE, learned prior": lambda data: CVAE(data, latent_dim=3, hidden=(8,), learned_prior=True),
    "CVAE, LabelConditional": lambda data: CVAE(data, latent_dim=3, hidden=(8,), prior=LabelConditional(10)),
}


def simulated(model: Any, data: Any, n: int) -> dict[str, Tensor]:
    """n rows of a model by field name; a conditional model is given the conditions of the first test rows."""
    made = model(n=n, **{name: data.test[name][:n] for name in getattr(model, "needs", ())})
    if isinstance(made, dict):
        return made
    return {next(f.name for f in data.schema if f.shape == made.shape[1:]): made}


def own_guide(model: Any) -> GeneratedGuide:
    """The guide that a model is trained with when none is named."""
    return catalog.find("guides", getattr(model, "default_guide", "mean_field")).load()(model, hidden=(8,))
