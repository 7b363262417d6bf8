"""What a trained pair says about one field of a row, from the row's other fields alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn
from torch.nn import functional as F

from ppl_vae.autoguide.inversion import ancestors
from ppl_vae.data import Field, Split
from ppl_vae.distributions import OneByOne, log_density, mixture_moments, probabilities, unwrapped
from ppl_vae.errors import ProgramError, UserError, check_flag, check_whole, shown, unknown_name
from ppl_vae.evaluation.means import standard_error
from ppl_vae.evaluation.passes import refuse_endless, some_rows
from ppl_vae.evaluation.rows import fields_of_guide, fields_of_model, reads_any_subset, rows_of, with_holes
from ppl_vae.nn.encoders import FieldEncoder
from ppl_vae.nn.experts import FieldByField, of_all_given
from ppl_vae.prediction._forecast import forecast
from ppl_vae.prediction._other_fields import without_and_with
from ppl_vae.prediction._prediction import Prediction, joined
from ppl_vae.prediction._states import find_states
from ppl_vae.prediction.sharing import HasShared, held_guide, shared_names, shared_traces
from ppl_vae.programs.dependencies import dependencies
from ppl_vae.programs.execution import traced
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.missing import Holes, can_enumerate
from ppl_vae.programs.program import Batch, Pair, Program
from ppl_vae.programs.randomness import preserved_randomness, seed_draws
from ppl_vae.programs.structure import frames, sample_sites
from ppl_vae.programs.trained import takes_results

__all__ = ["label_scores", "predict"]

ROWS_AT_ONCE = 2000
"""How many rows are predicted in one pass: enough to be fast, few enough for a small machine."""


@takes_results
@exclusive
def predict(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    field: str = "y",
    *,
    draws: int = 64,
    horizon: int = 0,
    held_out: bool = False,
    posterior: HasShared | None = None,
    seed: int = 0,
) -> Prediction:
    """What a pair says about one field of each row, from its other fields x alone.

    p(y | x) is the average over z ~ q(z | x) of p(y | z), if the model observes the field given latents, or of
    q(y | x, z), if the guide draws it (a label that may be missing, a cluster). The field itself is hidden from the
    guide even if the data have it. The draws are not importance-weighted: what is averaged is the guide's posterior,
    and the prediction is as good as that is. Latents that all rows share are drawn too, once for each draw and the same
    for all rows: by the guide, or from `posterior`, what `ppl_vae.posterior(model, guide, fitted rows)` gave, whose
    draws have been chosen by their weights.

    Of a state that the model sums out, or of all whose names fit a pattern (`"h*"`, in the order of the model along a
    dim of their own), it is what all fields of the row say together, averaged over the guide's draws of the other
    latents and exact given each: smoothed probabilities, joint draws, and in `.path` the likeliest states together.

    With a `horizon` it is the field at so many steps after the end of each row, of a program that goes through time:
    the guide's draws of a row's states are carried on by the model. With `held_out` a row ends so many steps earlier,
    and what it has there is scored, step by step.

    Args:
        model: p(z) p(x, y | z).
        guide: q(z | x).
        data: rows: a data set (its test split), a split, a dict of arrays by field name, or one array (field `x`).
        field: the field (or discrete latent) that is asked for, or a pattern of states.
        draws: how many z of each row.
        horizon: how many steps to forecast; 0 for what the rows have.
        held_out: whether the last steps of the rows are hidden and forecast; otherwise those after them are.
        posterior: draws of what all rows share, from `ppl_vae.posterior`.
        seed: of the draws; the global generators are left alone.

    Raises:
        UserError: for a field that the pair does not know, one that the model only conditions on or makes other
            fields from, or one that the guide's encoder needs and has never seen missing.

    Example:
        >>> import pyro.distributions as dist
        >>> def model(x=None, y=None):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        ...         pyro.sample("y", dist.Normal(2 * z, 0.5), obs=y)
        >>> def posterior(x=None):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5 ** 0.5))
        >>> found = predict(model, posterior, {"x": torch.tensor([-3.0, 3.0])}, draws=1000)
        >>> found.mean.round(), bool(((found.sd - 1.5).abs() < 0.1).all())
        (tensor([-3.,  3.]), True)
    """
    draws, seed = check_whole("draws", draws), check_whole("seed", seed, 0)
    pair = Pair(model, guide)
    if not isinstance(field, str):
        raise UserError(f"field expects the name of a field or a discrete latent, got {shown(field)}")
    horizon = check_whole("horizon", horizon, 0)
    if horizon:
        split = rows_of(model, guide, data, rows_for="horizon=").to(pair.device)
        hide = check_flag("held_out", held_out)
        return forecast(pair, split, field, horizon, draws, held_out=hide, posterior=posterior, seed=seed)
    if held_out:
        raise UserError("held_out= hides the last steps of rows from a forecast: give horizon=, how many")
    known, hints = fields_of_model(model), fields_of_guide(guide)
    if known is not None and reads_any_subset(guide):
        known = with_holes(known)
    split, truth = without_and_with(data, field, known, hints)
    about = [*(known or (split if truth is None else truth).schema), *(hints or ())]
    asked = _Asked(pair, field, next((f for f in about if f.name == field), None), draws, seed)
    split, truth = split.to(pair.device), None if truth is None else truth.to(pair.device)
    refuse_endless("draws", draws, len(split))
    was_training = pair.training
    pair.eval()
    try:
        with preserved_randomness(), torch.no_grad(), pyro.validation_enabled(False):
            states = find_states(pair, some_rows(split), field, draws) if asked.is_state(split) else None
            some = asked.refuse(split) if states is None else some_rows(split)
            seed_draws(seed)
            count = draws if states is None or states.structure.latents else 1
            held = shared_traces(pair, shared_names(pair, some), some, count, posterior)
            values = repeat(None) if truth is None else truth.stored(field, ROWS_AT_ONCE)
            parts = [
                asked.some(held, batch, value) if states is None else states.some(held, batch)
                for batch, value in zip(split.scan(ROWS_AT_ONCE), values, strict=False)
            ]
    finally:
        pair.train(was_training)
    return joined(parts)


def label_scores(
    model: Callable[..., Any], guide: Callable[..., Any], split: Split, field: str = "y"
) -> dict[str, float | int]:
    """How often the likeliest label is the true one, also where it was hidden on purpose, and its standard error.

    Nothing where no label is known, or the pair says nothing about it.
    """
    if field not in split.schema or split.schema[field].kind != "categorical" or split.schema[field].shape:
        return {}
    truth = split.truth(field).cpu()
    try:
        found = predict(model, guide, split, field).labels.cpu()
    except UserError:
        return {}
    right = (found == truth)[truth >= 0].double()
    if len(right) < 2:
        return {}
    error = float(standard_error(right))
    return {"accuracy": float(right.mean()), "accuracy_se": error, "labelled_rows": len(right)}


@dataclass(frozen=True)
class _Asked:
    """A field that is asked of a pair, and how."""

    pair: Pair
    name: str
    field: Field | None
    draws: int
    seed: int

    # -- what the programs are given -------------------------------------------------------------------------

    def batches(self, others: Batch) -> tuple[Batch, Batch]:
        """What the guide and the model are given: the field with all its entries missing, where they ask for it."""
        hidden = dict(others)
        if self.field is not None:
            rows = next(iter(others.values()))
            shape = (len(rows), *self.field.shape)
            codes = self.field.kind == "categorical"
            empty = torch.full(shape, -1) if codes else torch.full(shape, torch.nan)
            hidden[self.name] = empty.to(rows.device)
        by_hand = _encoder_of(self.pair.guide) is None and not self.pair.guide.arguments.get(self.name, False)
        return (others if by_hand else hidden), hidden

    def is_state(self, split: Split) -> bool:
        """Whether it is a latent, or a pattern of some, that the guide leaves to the model."""
        if "*" in self.name or self.name in self.pair.model.arguments:
            return "*" in self.name
        guide, model = self.batches(split.batch(slice(0, 4)))
        drawn = self._guide(guide)
        site = None if self.name in drawn else self._model(model, drawn).get(self.name)
        return site is not None and not site["is_observed"]

    def refuse(self, split: Split) -> Batch:
        """Refuse what cannot be predicted, on a few rows, which are returned as the guide is given them.

        Raises:
            UserError: naming the field, and the remedy.
        """
        batches = self.batches(split.batch(slice(0, 4)))
        guide = self._guide(batches[0])
        if self.name in guide and not can_enumerate(guide[self.name]["fn"]):
            raise UserError(f"{self.name!r} is a continuous latent: ask for its posterior mean, ppl-vae encode")
        model = guide if self.name in guide else self._model(batches[1], guide)
        if self.name not in model:
            if self.name in self.pair.model.arguments:
                raise UserError(f"the model conditions on field {self.name!r} and does not predict it: ask for another")
            raise unknown_name("field or discrete latent", self.name, [n for n in model if n in batches[1]] or model)
        encoder = _encoder_of(self.pair.guide)
        if encoder is not None and self.name in encoder.names and not encoder.sees_holes(self.name):
            raise UserError(
                f"the guide's encoder sees field {self.name!r} and has never seen it missing: train with rows that "
                "miss it (-1 or NaN, load(..., missing='allow')), or with a guide that does not see it"
            )
        if self.name not in guide:
            self._refuse_causes(batches[1], guide, model)
        return batches[0]

    def _refuse_causes(self, batch: Batch, guide: Mapping[str, Any], model: Mapping[str, Any]) -> None:
        """p(y | z) is what z says of y only if nothing observed depends on y itself."""
        site = model[self.name]
        if len(frames(site)) > 1:
            raise UserError(f"field {self.name!r} is in a plate of measurements: no single value of a row to predict")
        holes = Holes(None, [self.name], batch)
        parents = dependencies(holes(self.pair.model), batch, [*model])
        for other, seen in model.items():
            if seen["is_observed"] and other not in guide and self.name in ancestors(other, parents):
                raise ProgramError(
                    self.name,
                    f"site {other!r} of the model depends on {self.name!r}, which the guide does not draw, so that "
                    f"p({self.name} | z) leaves out what {other!r} says about it",
                    f"use a guide that draws {self.name!r}: generate it from data in which some rows miss it",
                )

    # -- one draw --------------------------------------------------------------------------------------------

    def _guide(self, batch: Batch, held: Trace | None = None) -> dict[str, dict[str, Any]]:
        guide = self.pair.guide if held is None else held_guide(self.pair, held)
        with of_all_given():
            trace = traced(Holes(None, batch=batch)(guide), batch)
        return {n: s for n, s in sample_sites(trace).items() if not s["is_observed"]}

    def _model(self, batch: Batch, guide: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        drawn = Trace()
        for name, site in guide.items():
            drawn.add_node(name, **site)
        holes = Holes(None, [*guide, self.name], batch)  # held: the field is drawn, as all its entries are missing
        return sample_sites(traced(poutine.replay(holes(self.pair.model), trace=drawn), batch))

    def some(self, held: list[Trace], others: Batch, truth: Tensor | None) -> Prediction:
        """The prediction of a batch of rows."""
        seed_draws(self.seed)
        batches = self.batches(others)
        rows = len(next(iter(others.values())))
        fns, values = [], []
        for shared in held:
            guide = self._guide(batches[0], shared)
            site = guide[self.name] if self.name in guide else self._model(batches[1], guide)[self.name]
            fn, value = site["fn"].expand((rows,)), site["value"]
            if not bool(torch.isfinite(value).all()):
                raise UserError(
                    f"the programs cannot do without field {self.name!r} (they give values that are not finite when "
                    "it is missing): make them skip missing entries, or not see it"
                )
            fns.append(fn)
            values.append(value.expand(fn.batch_shape + fn.event_shape))
        log_prob = None if truth is None else torch.stack([log_density(fn, truth) for fn in fns]).logsumexp(0)
        log_prob = None if log_prob is None else log_prob - torch.tensor(float(self.draws)).log()
        drawn = torch.stack(values)
        if self._is_category(fns[0]):
            names = () if self.field is None else self.field.names
            probs = torch.stack([probabilities(fn) for fn in fns]).mean(0)
            return Prediction(self.name, drawn, probs=probs, log_prob=log_prob, names=names)
        if isinstance(base := unwrapped(fns[0]), OneByOne) and base.levels:  # of rows of tokens as often as drawn
            probs = F.one_hot(drawn.long(), base.levels).to(torch.get_default_dtype()).mean(0)
            return Prediction(self.name, drawn, probs=probs, log_prob=log_prob)
        mean, sd = mixture_moments(fns, drawn)
        return Prediction(self.name, drawn, mean=mean, sd=sd, log_prob=log_prob)

    def _is_category(self, fn: Any) -> bool:
        nominal = self.field is None or self.field.kind in ("categorical", "binary")
        return nominal and can_enumerate(unwrapped(fn))


def _encoder_of(guide: Program) -> FieldEncoder | FieldByField | None:
    """The encoder that the guide was generated with, also where another guide is around it."""
    body = guide.program if isinstance(guide.program, nn.Module) else guide
    return next((part for part in body.modules() if isinstance(part, FieldEncoder | FieldByField)), None)
