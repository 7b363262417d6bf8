"""ppl_vae.check: what is wrong with a pair, before it is trained, by site, problem and remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ppl_vae.checks.reading import read_pair
from ppl_vae.data import Data, Split, as_one_unit, as_split, is_unit
from ppl_vae.errors import Finding
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Pair, prepare
from ppl_vae.programs.trained import takes_results

__all__ = ["check"]


@takes_results
@exclusive
def check(
    model: Callable[..., Any], guide: Callable[..., Any], data: Any, *, rows: str | None = "auto"
) -> list[Finding]:
    """Lint a pair on a few rows of its data: everything that is wrong with it, or an empty list.

    Looks for missing and extra sites, event dims and supports that differ, a forgotten `.to_event`, statements in
    no plate or in the wrong one, a data plate whose size does not follow the rows, code that does not broadcast
    over particles, a KL weight on one side only, data outside the support, parameters that several modules
    register under one name, and parameters that get no gradient. Costs a batch or two; trains nothing.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        data: a data set, a split, a dict of arrays by field name, or one array (field `x`).
        rows: None takes all data as one unit, as for `fit`.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> def model(x=None):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
        ...         pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)
        >>> def guide(x=None):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        >>> for finding in check(model, guide, torch.zeros(5)):
        ...     print(finding)
        error: site 'z' has event dims 0 in the guide and 1 in the model: add .to_event(1) in the guide
    """
    if is_unit(data, rows):
        split: Split = as_one_unit(data)
    else:
        split = data.train if isinstance(data, Data) else as_split(data)
    prepare(guide, split)
    pair = Pair(model, guide)
    return list(read_pair(pair, split.to(pair.device)).findings)
