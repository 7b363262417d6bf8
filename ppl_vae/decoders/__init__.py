"""Decoders, one idea per file: networks from a latent vector to the features of a likelihood."""

from typing import TYPE_CHECKING

from ppl_vae.registry.lazy import lazily

if TYPE_CHECKING:
    from ppl_vae.decoders.base import Decoder as Decoder
    from ppl_vae.decoders.conv import Conv as Conv
    from ppl_vae.decoders.dense import Dense as Dense
    from ppl_vae.decoders.gru import GRU as GRU

NAMES = {
    "conv": "ppl_vae.decoders.conv:Conv",
    "dense": "ppl_vae.decoders.dense:Dense",
    "gru": "ppl_vae.decoders.gru:GRU",
}
"""The words for `decoder=` and where each class is; it is imported when it is first used."""

__getattr__, __dir__, __all__ = lazily(__name__, [*NAMES.values(), "ppl_vae.decoders.base:Decoder"])
