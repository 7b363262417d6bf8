"""What models of a data set share: they keep it, decode latents to its rows, and observe or simulate them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ppl_vae.data import Data, Field, Schema
from ppl_vae.data.dataset import Split
from ppl_vae.decoders import Decoder
from ppl_vae.decoders.own import likelihood_over, network_of
from ppl_vae.decoders.sequences import Recurrent
from ppl_vae.errors import UserError, check_whole, within_memory
from ppl_vae.likelihoods import Columns, Likelihood, default_likelihood
from ppl_vae.nn.factors import ROWS, factor_analysis
from ppl_vae.nn.networks import MLP
from ppl_vae.priors import Prior, StandardNormal
from ppl_vae.programs.local_module import LocalModule
from ppl_vae.programs.randomness import preserved_randomness, seed_draws
from ppl_vae.registry.resolve import resolve
from ppl_vae.saving.recorded import Recorded

__all__ = ["RowModel", "label_of", "prior_of", "rows_of"]


LARGEST = 300
"""A linear map beside the network is for tables of at most so many features."""


class RowModel(Recorded, LocalModule):
    """A generative model of the rows of a data set: a subclass says `decodes(...)` and writes its sample statements.

    Args:
        data: the data set (or its schema); a generated guide reads it as `model.data`.

    Raises:
        UserError: where `data` is neither.

    Example:
        >>> import pyro.distributions as dist
        >>> from ppl_vae.data import load
        >>> class Line(RowModel):
        ...     def __init__(self, data):
        ...         super().__init__(data)
        ...         self.decodes(1, None, (8,), "gated", taken=("z",))
        ...     def forward(self, x=None, n=1):
        ...         with self.rows(rows_of(x=x), n):
        ...             z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
        ...             return self.observe(z, rows_of(x=x))
        >>> Line(load("digits"))(n=3).shape
        torch.Size([3, 8, 8])
    """

    likelihood: Likelihood | Columns
    decoder: nn.Module
    observes: tuple[str, ...]
    needs: tuple[str, ...] = ()
    linear: bool = False
    decoded: tuple[str, ...] = ("z",)
    """The latents and conditions of which the decoder makes rows."""
    reads: Mapping[str, str] = {}
    begun: Mapping[str, tuple[Tensor, Tensor]]
    """Of the first training rows, by site: the means and deviations [n, d] of the latents where the model begins."""

    def __init__(self, data: Data | Schema) -> None:
        super().__init__()
        if not isinstance(data, Data | Schema):
            raise UserError(
                f"{type(self).__name__} expects data of ppl_vae.load(...) or their schema, got {type(data).__name__}: "
                "load it first, and give the whole of it (the model reads its training rows)"
            )
        self.begun = {}
        self.data = data
        self.schema: Schema = data if isinstance(data, Schema) else data.schema

    @property
    def train_rows(self) -> Split | None:
        """The training rows, or the first of very many, where the model was given any."""
        return None if isinstance(self.data, Schema) else self.data.train.head

    def sample(self, n: int = 1, seed: int | None = None) -> dict[str, Tensor]:
        """n rows x ~ p(x), by field; the latents are drawn from the prior.

        Args:
            n: how many rows.
            seed: of the draws; without one they go on from torch's global generator.

        Raises:
            UserError: for a model with conditions, which `ppl_vae.sample(model, guide, n, given=...)` is told.
        """
        n = check_whole("n", n)
        if self.needs:
            raise UserError(
                f"{type(self).__name__} draws rows given {', '.join(self.needs)}: call it, model(n=..., ...)"
            )
        training = self.training
        self.eval()
        try:
            with (
                torch.no_grad(),
                within_memory("sample"),
                preserved_randomness() if seed is not None else nullcontext(),
            ):
                if seed is not None:
                    seed_draws(check_whole("seed", seed, 0))
                drawn = self(n=n)
        finally:
            self.train(training)
        return drawn if isinstance(drawn, dict) else {self.observes[0]: drawn}

    def log_prob(self, *_: Any, **__: Any) -> Tensor:
        """Not known: a model without a guide has no evidence.

        Raises:
            UserError: always, saying what has it.
        """
        raise UserError("log p(x) is an integral over latents: ppl_vae.evaluate(model, guide, data) estimates it")

    def fit(self, *_: Any, **__: Any) -> Any:
        """Not here: a model is trained with a guide.

        Raises:
            UserError: always, saying what trains it.
        """
        raise UserError("a model is trained with a guide: ppl_vae.fit(model, data), or fit(model, guide, data)")

    def decodes(
        self,
        inputs: int,
        likelihood: Likelihood | Columns | str | type[Likelihood] | None,
        hidden: Sequence[int],
        activation: str,
        *,
        taken: Collection[str],
        starts: str | None = None,
        also: Sequence[str] = (),
        without: Collection[str] = (),
        decoder: Any = None,
    ) -> None:
        """Choose the likelihood and make the network from [..., inputs] to its features.

        By default the likelihood fits field `x`, or every column if there is no x, and the network is an `MLP` of
        `hidden` layers; a `decoder` is taken in its place (`ppl_vae.decoders.own.decoder_of` says what it may be). All
        but a user's own module start at the marginals of the training rows. Where `starts` names the normal latents
        that are decoded and the rows are those of a table, the layers have a linear map beside them, and start at the
        factor analysis. `taken` are the names of the model's own sites; `also` the further fields it asks for;
        `without` fields that are no part of the row that is decoded.

        Raises:
            UserError: for a column with a name that the model has taken for a site or an argument.
        """
        default = default_likelihood(self.schema["x"]) if "x" in self.schema else Columns()
        schema = Schema(tuple(field for field in self.schema if field.name not in without))
        chosen = resolve("likelihood", likelihood, of=(Likelihood, Columns)) or default
        self.likelihood = likelihood_over(decoder, chosen).of(schema, self.train_rows)
        self.reads = {"x": "gru"} if isinstance(self.likelihood, Recurrent) else {}
        for field in self.likelihood.fields if isinstance(self.likelihood, Columns) else ():
            if field.name in {"n", "data", "self", *taken}:
                raise UserError(f"column {field.name!r} has the name of a site or argument of the model: rename it")
        self.observes = (*(field.name for field in self.likelihood.fields), *also)
        if isinstance(self.likelihood, Columns):
            self.recorded["likelihood"] = self.likelihood  # as it was chosen from the rows
        tabular = all(len(field.shape) < 2 for field in self.likelihood.fields)
        plain = starts is not None and decoder is None
        self.linear = plain and self.likelihood.linear and tabular and self.likelihood.size <= LARGEST
        self.decoder = network_of(decoder, inputs, self.likelihood, hidden, activation, beside=self.linear)
        if self.train_rows is not None and isinstance(self.decoder, MLP | Decoder):
            self.decoder.start_at(self.likelihood.bias(self.train_rows))
        if self.linear and starts is not None and isinstance(self.decoder, MLP):
            self.begin(starts, (self.decoder, self.likelihood))

    def begin(self, site: str, *parts: tuple[MLP, Likelihood | Columns]) -> None:
        """Begin at the factor analysis of the features that are nearly linear in a row, of all networks from a latent.

        The guide is told the codes of the first training rows, in `begun`.
        """
        if self.train_rows is None:
            return
        each = [likelihood.targets(self.train_rows)[:ROWS].cpu() for _, likelihood in parts]
        targets = torch.cat(each, 1)
        varies = (targets - targets.nanmean(0)).square().nanmean(0) > 0
        if not bool(varies.any()) or len(targets) < 3:
            return
        found = factor_analysis(targets[:, varies], parts[0][0].inputs)
        noise, mean = torch.ones_like(targets[0]), torch.full_like(targets[0], torch.nan)
        loadings = targets.new_zeros(len(noise), parts[0][0].inputs)
        noise[varies], mean[varies], loadings[varies] = found.noise, found.mean, found.loadings
        sizes = [part.shape[1] for part in each]
        split = (found.split(sizes) for found in (noise, mean, loadings))
        for (network, likelihood), spread, bias, weight in zip(parts, *split, strict=True):
            network.begin_at(torch.where(bias.isnan(), likelihood.start_noise(spread), bias), weight)
        self.begun = {site: (found.codes, found.spread)}

    def decoder_input(self, values: Mapping[str, Tensor]) -> Tensor:
        """What the decoder gets of the latents and conditions that `decoded` names, [..., inputs]."""
        return values[self.decoded[0]]

    def rows(self, given: Mapping[str, Tensor], n: int) -> Any:
        """The data plate: as wide as the rows that are given, else `n`."""
        return pyro.plate("data", len(next(iter(given.values()))) if given else n)

    def observe(self, latents: Tensor, given: Mapping[str, Tensor]) -> Tensor | dict[str, Tensor]:
        """The statements of p(x | latents), observed where rows are given; their values, by column if several."""
        found = {
            name: pyro.sample(name, fn, obs=given.get(name), infer={"leaf": True})
            for name, fn in self.likelihood.sites(self.decoder(latents)).items()
        }
        return found if isinstance(self.likelihood, Columns) else found["x"]


def prior_of(prior: Prior | str | type[Prior] | None) -> Prior:
    """A prior, by its name with options, of its class, or as it is; the standard normal where there is none.

    Example:
        >>> prior_of("mixture:components=3").components
        3
    """
    return resolve("prior", prior, of=Prior) or StandardNormal()


def rows_of(**fields: Tensor | None) -> dict[str, Tensor]:
    """The fields that were given.

    Example:
        >>> import torch
        >>> sorted(rows_of(x=torch.zeros(2), y=None))
        ['x']
    """
    return {name: value for name, value in fields.items() if value is not None}


def label_of(schema: Schema, model: str) -> Field:
    """The field y of a model with a label.

    Raises:
        UserError: if there is none, or it is no single category.
    """
    if "y" in schema and schema["y"].kind == "categorical" and schema["y"].shape == ():
        return schema["y"]
    raise UserError(
        f"{model} needs a label y with categories, got {', '.join(map(str, schema))}: name its column "
        "(label='species'; command line --label), -1 or empty where there is none"
    )
