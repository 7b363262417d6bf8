"""The decoder of a model as numbers that the page's script reads, if it is small, known layer by layer, and proved.

What is written is read back here, without torch, and compared with the model itself on latents of rows: a network that
is something else than it looks (an own module, another order of features) is then not written at all.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import erf, expit, softmax
from torch import Tensor, nn

from ppl_vae.data import Field
from ppl_vae.decoders import Decoder
from ppl_vae.decoders.dense import Dense
from ppl_vae.likelihoods import (
    Bernoulli,
    Binomial,
    Categorical,
    Columns,
    Laplace,
    Likelihood,
    LogNormal,
    NegativeBinomial,
    Normal,
    Poisson,
    StudentT,
)
from ppl_vae.nn.networks import MLP, GatedLinear
from ppl_vae.prediction.latents import Latents
from ppl_vae.reporting.view import View

__all__ = ["MOST", "Unsupported", "network_of", "read"]

MOST = 500_000
"""Numbers of a network that a page may hold: two megabytes."""

TOLERANCE = 1e-4
"""Means of the page and of the model agree to this, in units of the range or deviation of the data."""

LEVELS = 50
"""Of a label that is decoded beside the latents, at most."""

Network = dict[str, Any]


class Unsupported(Exception):
    """Why a page cannot decode by itself, as the end of a sentence."""


def network_of(view: View, latents: Latents, rows: Sequence[int]) -> Network:
    """The decoder from these latents to the means of all fields, as JSON; proved on the latents of some rows.

    Raises:
        Unsupported: if anything but these latents, or a layer or likelihood that the script does not know, makes them.
    """
    model: Any = view.pair.model.public
    label = _label(view, model, latents)
    parts = [(getattr(model, "decoder", None), getattr(model, "likelihood", None))]
    if (response := getattr(model, "response", None)) is not None:
        parts.append((getattr(response, "network", None), getattr(response, "likelihood", None)))
    known = [(n, lik) for n, lik in parts if isinstance(n, nn.Module) and isinstance(lik, Likelihood | Columns)]
    if len(known) < len(parts):
        raise Unsupported("the decoder is not a part of the model that is known")
    if (size := sum(p.numel() for n, _ in known for p in n.parameters())) > MOST:
        raise Unsupported(f"the decoder has {size:,} parameters")
    network: Network = {"parts": [_part(n, lik) for n, lik in known]}
    if label is not None:
        network["choice"] = _choice(model, label, latents)
    levels = range(1 if label is None else label.cardinality or 2)
    for level in levels:
        _prove(network, view, latents, list(rows), label, level)
    return network


def _label(view: View, model: Any, latents: Latents) -> Field | None:
    """The label that is decoded beside the latents, if one is."""
    decoded = getattr(model, "decoded", None)
    if decoded is None or latents.site not in decoded:
        raise Unsupported("the model decodes other things than these latents, too")
    if view.shared or len(decoded) > 2:
        raise Unsupported("the model decodes other things than these latents, too")
    others = [name for name in decoded if name != latents.site]
    if not others:
        return None
    if others[0] not in view.schema:
        raise Unsupported(f"the model decodes {others[0]}, too")
    field = view.schema[others[0]]
    if field.kind != "categorical" or field.shape or not 2 <= (field.cardinality or 0) <= LEVELS:
        raise Unsupported(f"the model decodes {others[0]}, too")
    return field


def _choice(model: Any, label: Field, latents: Latents) -> Network:
    """What the decoder gets at every level of a label when the latents are 0, and where among it the latents stand."""
    count, size = label.cardinality or 2, latents.mean.shape[1]
    like = next(model.decoder.parameters())
    levels, none = torch.arange(count, device=like.device), like.new_zeros(count, size)
    with torch.no_grad():
        begin, end = (model.decoder_input({latents.site: z, label.name: levels}) for z in (none, none + 1))
    moved = (end - begin)[0].nonzero().flatten().tolist()
    if begin.shape != (count, begin.shape[-1]) or moved != [*range(moved[0], moved[0] + size)]:
        raise Unsupported(f"{label.name} and {latents.site} are decoded together in another way")
    names = [str(n) for n in label.names or range(count)]
    return {"name": label.name, "names": names, "at": moved[0], "width": begin.shape[1], "inputs": _text(begin)}


def _part(network: nn.Module, likelihood: Likelihood | Columns) -> Network:
    found: Network = {"beside": None, "offset": None}
    if isinstance(network, Decoder):
        if not isinstance(network, Dense):
            raise Unsupported(f"the decoder is {type(network).__name__}, not fully connected layers")
        found["offset"], network = _text(network.offset), network.network
    if isinstance(network, MLP) and network.beside is not None:
        found["beside"] = _linear(network.beside)
    each = [*likelihood.each] if isinstance(likelihood, Columns) else [likelihood]
    heads = [_head(part) for part in each if isinstance(part, Likelihood)]
    return {**found, "layers": list(_layers(network)), "heads": heads}


def _layers(module: nn.Module) -> Iterator[Network]:
    ops = {nn.GELU: "gelu", nn.ReLU: "relu", nn.Softplus: "softplus", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"}
    if isinstance(module, MLP):
        yield from _layers(module.layers)
        yield _linear(module.last)
    elif isinstance(module, nn.Sequential):
        for layer in module:
            yield from _layers(layer)
    elif isinstance(module, GatedLinear):
        yield _linear(module.both)
        yield {"op": "gated"}
    elif type(module) is nn.Linear:
        yield _linear(module)
    elif type(module) in ops:
        yield {"op": ops[type(module)]}
    elif type(module) not in (nn.Identity, nn.Dropout):  # dropout is off when a page is written
        inner = getattr(module, "network", None)
        if not isinstance(inner, nn.Module):
            raise Unsupported(f"the decoder has a layer {type(module).__name__}")
        yield from _layers(inner)


def _linear(layer: nn.Linear) -> Network:
    bias = None if layer.bias is None else _text(layer.bias)
    sizes = {"inputs": layer.in_features, "outputs": layer.out_features}
    return {"op": "linear", "weight": _text(layer.weight), "bias": bias, **sizes}


def _head(likelihood: Likelihood) -> Network:
    """How features become means: `count` entries, of `width` features each."""
    field = likelihood.field
    head: Network = {"field": field.name, "count": field.size, "width": likelihood.width}
    of: Any = likelihood
    if isinstance(likelihood, LogNormal) and not likelihood.per_row:
        half = of._scale(torch.zeros(*field.shape, 1)).detach().square() / 2
        return head | {"op": "logarithm", "shift": _text(of.shift), "unit": _text(of.unit), "more": _text(half)}
    if isinstance(likelihood, Normal | Laplace | StudentT):
        return head | {"op": "location", "shift": _text(of.shift), "unit": _text(of.unit)}
    if isinstance(likelihood, Bernoulli):
        return head | {"op": "trials", "unit": _text(torch.ones(field.size))}
    if isinstance(likelihood, Binomial):
        return head | {"op": "trials", "unit": _text(torch.full((field.size,), float(_trials(of))))}
    if isinstance(likelihood, Poisson | NegativeBinomial):
        return head | {"op": "count", "unit": _text(of.unit)}
    if isinstance(likelihood, Categorical):
        nominal = field.shape == () and field.kind == "categorical" and not field.ordered
        return head | {"op": "probabilities" if nominal else "levels"}
    raise Unsupported(f"the likelihood of {field.name} is {type(likelihood).__name__}")


def _trials(likelihood: Any) -> float:
    return float(likelihood.entries(torch.zeros(*likelihood.field.shape, 1)).total_count.max())


def _text(values: Tensor) -> str:
    return base64.b64encode(values.detach().cpu().float().contiguous().numpy().astype("<f4").tobytes()).decode()


# Reading it back, as the script does.


def read(network: Network, z: np.ndarray, level: int = 0) -> dict[str, np.ndarray]:
    """Means by field, [row, |S|], or probabilities [row, C] of a category, of latents z [row, d] and a label."""
    found = {}
    if (choice := network.get("choice")) is not None:
        inputs = _numbers(choice["inputs"]).reshape(-1, choice["width"])[[level] * len(z)]
        inputs[:, choice["at"] : choice["at"] + z.shape[1]] += z
        z = inputs
    for part in network["parts"]:
        x = z.astype(float)
        for layer in part["layers"]:
            x = _apply(layer, x)
        if part["beside"] is not None:
            x = x + _apply(part["beside"], z.astype(float))
        if part["offset"] is not None:
            x = x + _numbers(part["offset"])
        at = 0
        for head in part["heads"]:
            end = at + head["count"] * head["width"]
            found[head["field"]] = _means(head, x[:, at:end].reshape(len(x), head["count"], head["width"]))
            at = end
    return found


_ACTIVATIONS: Mapping[str, Callable[[Any], Any]] = {
    "gelu": lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2))),
    "relu": lambda x: np.maximum(x, 0),
    "softplus": lambda x: np.logaddexp(x, 0),
    "tanh": np.tanh,
    "sigmoid": expit,
}


def _apply(layer: Network, x: np.ndarray) -> np.ndarray:
    if layer["op"] == "linear":
        weight = _numbers(layer["weight"]).reshape(layer["outputs"], layer["inputs"])
        return x @ weight.T + (0.0 if layer["bias"] is None else _numbers(layer["bias"]))
    if layer["op"] == "gated":
        value, gate = np.split(x, 2, axis=1)
        return value * expit(gate)
    return np.asarray(_ACTIVATIONS[layer["op"]](x))


def _means(head: Network, x: np.ndarray) -> np.ndarray:
    numbers = {k: _numbers(head[k]) for k in ("shift", "unit", "more") if k in head}
    first = x[..., 0]
    match head["op"]:
        case "location":
            return numbers["shift"] + numbers["unit"] * first
        case "logarithm":
            return np.exp(numbers["shift"] + numbers["unit"] * first + numbers["more"])
        case "trials":
            return numbers["unit"] * expit(first)
        case "count":
            return np.logaddexp(numbers["unit"] * first, 0) + 1e-6
        case "levels":
            return np.asarray(softmax(x, -1) @ np.arange(head["width"]))
    return np.asarray(softmax(x[:, 0], -1))


def _numbers(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4").astype(float)


def _prove(
    network: Network, view: View, latents: Latents, rows: list[int], label: Field | None = None, level: int = 0
) -> None:
    """Raise Unsupported unless the network says what the model does of the latents of these rows."""
    z = latents.mean[rows]
    given = {} if label is None else {label.name: torch.full((len(rows),), level)}
    said = view.decode({latents.site: latents.shaped(z)}, rows, given=given).numpy().reshape(len(rows), -1)
    found = read(network, z.cpu().numpy(), level)
    names = [column.name for column in view.columns] or [view.site]
    if any(name not in found for name in names):
        raise Unsupported(f"the model makes {', '.join(names)} in another way")
    nominal = {h["field"] for part in network["parts"] for h in part["heads"] if h["op"] == "probabilities"}
    mine = np.concatenate([found[n].argmax(1)[:, None] if n in nominal else found[n] for n in names], axis=1)
    scale = np.nanmax(np.abs(view.values.numpy().reshape(len(view), -1)), axis=0, initial=1.0)
    if mine.shape != said.shape or not np.abs((mine - said) / scale).max() < TOLERANCE:
        raise Unsupported("its layers alone do not give the means of the model")
