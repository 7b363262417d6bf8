"""The encoder and the decoder of a trained pair as programs that run without this package: torch.export, ONNX."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from ppl_vae.data import Field, Split
from ppl_vae.display import Displayed
from ppl_vae.distributions import unwrapped
from ppl_vae.errors import UserError, check_choice
from ppl_vae.evaluation.rows import rows_of
from ppl_vae.prediction._networks import Decoder, Encoder
from ppl_vae.prediction.coding import decode, encode
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.trained import takes_results
from ppl_vae.saving.atomic import write_new
from ppl_vae.saving.paths import path_of

__all__ = ["FORMATS", "Exported", "export"]

FORMATS = ("torch", "onnx")

ROWS = 5
"""So many rows an exported program is made with, and compared on; it takes any number."""

CLOSE = 1e-4
"""Outputs of the exported program and of the pair differ by no more, in units of the largest of each."""

PROVED = 128
"""Draws of the guide that the codes are compared with, where these are an average."""


@dataclass(frozen=True, repr=False)
class Exported(Displayed):
    """The files of an exported pair, and what goes in and comes out of each program, by name."""

    encoder: Path
    decoder: Path
    description: Path
    inputs: tuple[str, ...]
    latents: tuple[str, ...]
    decoded: tuple[str, ...]
    outputs: tuple[str, ...]

    def display_lines(self) -> list[tuple[str, str]]:
        """The files, and the names of what goes in and comes out."""
        files = [(name, str(getattr(self, name))) for name in ("encoder", "decoder", "description")]
        return [
            *files,
            *((name, ", ".join(getattr(self, name))) for name in ("inputs", "latents", "decoded", "outputs")),
        ]


@takes_results
@exclusive
def export(
    model: Callable[..., Any], guide: Callable[..., Any], data: Any, folder: str | Path, *, format: str = "torch"
) -> Exported:
    """Write the encoder x -> (mean and sd of q(z | x)) and the decoder z -> E[x | z] as programs of their own.

    encoder: fields [row, *S], by name -> `z` [row, *D], the mean of each latent, and `z_sd`, its standard deviation
    (of a label its probabilities [row, C], without a deviation). decoder: z [row, *D] -> E[x | z] [row, *S] of each
    field (of a category without an order its probabilities [row, C]); if a label or a condition is decoded too, it
    takes all of them by name. Any number of rows.

    Labels are summed out of the latents that depend on them. The mean and deviation of a flow, and of a latent that
    depends on another one, are averages over 64 points of a Sobol sequence, which are the same for every row.
    `networks.json` beside them says what the fields and the names of their values are.

    Both are compared with the pair on some rows before they are written.

    Args:
        model: p(z) p(x | z), a model of this package with a decoder.
        guide: q(z | x), generated.
        data: rows: a data set (its test split), a split, a dict of arrays by field name, or one array (field `x`).
        folder: where the files go; those that are there stay, and the new ones are called `encoder-2.pt2`.
        format: "torch" for `encoder.pt2` and `decoder.pt2` (`torch.export.load(file).module()`), "onnx" for
            `encoder.onnx` and `decoder.onnx` (for onnxruntime; needs `pip install "ppl-vae[onnx]"`).

    Raises:
        UserError: for a pair that is more than an encoder and a decoder, a format that is not known or not installed,
            and networks of your own that torch.export cannot follow.

    Example:
        >>> import tempfile, ppl_vae
        >>> from ppl_vae.models import VAE
        >>> data = ppl_vae.load(torch.randn(60, 3))
        >>> result = ppl_vae.fit(VAE(data, latent_dim=2), data, epochs=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = export(result, folder=folder)
        ...     decoder = torch.export.load(found.decoder).module()
        ...     decoder(torch.zeros(4, 2))["x"].shape
        torch.Size([4, 3])
    """
    check_choice("format", format, FORMATS)
    if format == "onnx" and (lacking := [n for n in ("onnx", "onnxscript") if find_spec(n) is None]):
        raise UserError(f"format='onnx' needs {' and '.join(lacking)}: pip install \"ppl-vae[onnx]\"")
    place = path_of("folder", folder)
    pair = Pair(model, guide)
    split = rows_of(model, guide, data, rows_for="export")
    was_training, device = pair.training, pair.device
    pair.eval()
    try:
        with pyro.validation_enabled(False), torch.no_grad():
            pair.to("cpu")
            return _written(pair, split.to("cpu"), place, format)
    finally:
        pair.to(device)
        pair.train(was_training)


def _written(pair: Pair, split: Split, place: Path, kind: str) -> Exported:
    batch = {name: values[:ROWS] for name, values in split.rows(slice(0, ROWS)).batch().items()}
    encoder, decoder = Encoder(pair.guide.public), Decoder(pair.model.public)
    read = {name: batch[name] for name in encoder.names if name in batch}
    means = _prove_encoder(encoder, pair, batch, read)
    values = _values(decoder, pair, batch, means)
    _prove_decoder(decoder, pair, batch, values)
    ending = {"torch": "pt2", "onnx": "onnx"}[kind]
    files = {"encoder": (encoder, (read,)), "decoder": (decoder, (decoder.given(values),))}
    programs = {name: _program(module, given, kind) for name, (module, given) in files.items()}
    place.mkdir(parents=True, exist_ok=True)
    written = {name: write_new(place / f"{name}.{ending}", content) for name, content in programs.items()}
    fields = [field for field in split.schema if field.name in {*read, *decoder.inputs, *decoder.fields}]
    about = {
        "inputs": [*read],
        "latents": {name: list(values.shape[1:]) for name, values in means.items()},
        "decoded": list(decoder.inputs),
        "outputs": list(decoder.fields),
        "fields": [_about(field) for field in fields],
    }
    words = write_new(place / "networks.json", json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    return Exported(
        written["encoder"], written["decoder"], words, tuple(read), tuple(means), decoder.inputs, decoder.fields
    )


def _about(field: Field) -> dict[str, Any]:
    known = {"cardinality": field.cardinality, "names": list(field.names), "ordered": field.ordered}
    return {"name": field.name, "kind": field.kind, "shape": list(field.shape)} | {k: v for k, v in known.items() if v}


def _prove_encoder(encoder: Encoder, pair: Pair, batch: Batch, read: dict[str, Tensor]) -> dict[str, Tensor]:
    """The means of the latents of some rows, which are those of the guide as far as its draws tell."""
    found, expected = encoder(read), encode(pair.guide, batch, draws=PROVED)
    for name, values in expected.items():
        if name not in found or not _close(found[name], values, _error(encoder, found, name)):
            raise UserError(
                f"the encoder of this guide alone does not give the codes of {name}: ppl_vae.encode does; train a "
                "guide with a closed mean, such as FullRank"
            )
    return {name: found[name] for name in expected}


def _error(encoder: Encoder, found: dict[str, Tensor], name: str) -> Tensor | float:
    """How far the average of the guide's draws may be from the mean; 0 where no draws are averaged."""
    if encoder.exact:
        return 0.0
    spread = found.get(f"{name}_sd")
    spread = (found[name] * (1 - found[name])).sqrt() if spread is None else spread
    return 8 * spread / PROVED**0.5


def _values(decoder: Decoder, pair: Pair, batch: Batch, means: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the decoder takes, for some rows: codes, labels at their likeliest, conditions."""
    return {n: _value(n, batch, means, pair) for n in decoder.inputs}


def _value(name: str, batch: Batch, means: dict[str, Tensor], pair: Pair) -> Tensor:
    if name not in means:
        return batch[name]
    model: Any = pair.model.public
    known = model.schema
    return means[name].argmax(-1) if name in known and known[name].kind == "categorical" else means[name]


def _prove_decoder(decoder: Decoder, pair: Pair, batch: Batch, values: dict[str, Tensor]) -> None:
    """Refuse a model in which something else than these values makes the rows."""
    names = [name for name in decoder.fields if name in batch]
    try:
        found = decoder(decoder.given(values))
        same = all(_close(found[name], _said(pair, decoder, batch, name, values)) for name in names)
    except (RuntimeError, KeyError, ValueError) as error:
        raise UserError(f"the decoder of this model takes more than its latent vector ({error})") from error
    if not same:
        raise UserError("the decoder of this model alone does not give E[x | z]: ppl_vae.decode does")


def _said(pair: Pair, decoder: Decoder, batch: Batch, name: str, values: dict[str, Tensor]) -> Tensor:
    """What the model itself says of a field."""
    batch = {**batch, **{n: v for n, v in values.items() if n in batch}}
    latents = {n: v for n, v in values.items() if n not in batch}
    if name not in decoder.nominal:
        return decode(pair.model, latents, batch, name)
    with poutine.condition(data=latents):
        trace = poutine.trace(pair.model).get_trace(**{n: v for n, v in batch.items() if n in pair.model.arguments})
    return unwrapped(trace.nodes[name]["fn"]).probs


def _close(one: Tensor, other: Tensor, error: Tensor | float = 0.0) -> bool:
    scale = float(other.abs().max()) or 1.0
    return one.shape == other.shape and bool(((one - other).abs() <= CLOSE * scale + error).all())


def _program(module: nn.Module, given: tuple[Any, ...], kind: str) -> bytes:
    """The bytes of a program for any number of rows, which says the same of the given ones."""
    rows = torch.export.Dim("row", min=1)
    shapes = tuple({n: {0: rows} for n in each} if isinstance(each, Mapping) else {0: rows} for each in given)
    with _quiet():
        try:
            program = torch.export.export(module.eval(), given, dynamic_shapes=shapes, strict=False)
        except RuntimeError as error:
            said = next((line for line in map(str.strip, str(error).split("\n")) if line), type(error).__name__)
            raise UserError(f"torch.export cannot follow these networks for any number of rows: {said}") from error
        if kind == "onnx":
            fields = [*given[0]] if isinstance(given[0], Mapping) else [*getattr(module, "inputs", ())]
            names = [*module(*given)]
            try:
                made = torch.onnx.export(program, dynamo=True, verbose=False, input_names=fields, output_names=names)
            except RuntimeError as error:
                said = next((line for line in map(str.strip, str(error).split("\n")) if line), type(error).__name__)
                raise UserError(f"ONNX has no way to say these networks: {said}; format='torch' does") from error
            return made.model_proto.SerializeToString()  # type: ignore[union-attr]
        found, expected = program.module()(*given), module(*given)
        if not all(_close(found[name], expected[name]) for name in expected):
            raise UserError("torch.export gives other numbers than the network that it is made of: report it to torch")
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
    return buffer.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """What the exporters of torch say of themselves is nothing that a user could change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
