"""What a table of information says, in a sentence for each factor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ppl_vae.diagnostics._common.sentences import listed

if TYPE_CHECKING:
    from ppl_vae.diagnostics._factors.meaning import Factors

__all__ = ["verdict"]

IS, READ = 0.5, 0.1
"""Of a factor's entropy: a latent that tells as much is that factor if no other tells half of it; less is a trace."""


def verdict(found: Factors) -> str:
    """Each factor in words, then what is told by chance."""
    told = [_factor(found, j) for j in range(len(found.names))]
    gap = found.scores["mig"]
    known = gap.se == gap.se
    sense = "above" if known and gap.value - 2 * gap.se > gap.random else "not above"
    error = f" ± {gap.se:.2f}" if known else ", too few rows of a value for an error"
    chance = float((found.null / found.entropy).max())
    return (
        f"{'; '.join(told)}. Of {found.rows:,} rows chance alone tells up to {_percent(chance)} of a factor. "
        f"MIG {gap.value:.2f}{error}, {sense} that of random latents ({gap.random:.2f})."
    )


def _factor(found: Factors, j: int) -> str:
    name, nats = found.names[j], found.information[:, j]
    share = nats / found.entropy[j]
    order = np.argsort(-nats, kind="stable")
    best = int(order[0])
    latent, much = found.latents[best], f"({_percent(share[best])} of it)"
    if nats[best] <= found.null[j]:
        return f"no latent tells of {name}"
    near = [int(i) for i in order if nats[i] > max(found.null[j], nats[best] / 2)]
    if len(near) > 1:
        return f"{name} is spread over {listed([found.latents[i] for i in near])}, {latent} tells most {much}"
    others = found.information[best] / found.entropy
    if share[best] >= IS and int(others.argmax()) == j:
        return f"{latent} is {name} {much}"
    verb = "can be read from" if share[best] >= READ else "leaves a trace in"
    return f"{name} {verb} {latent} {much}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
