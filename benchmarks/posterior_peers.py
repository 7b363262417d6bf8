"""The same posteriors by the guides of Pyro and NumPyro, with their defaults, for given seconds of one processor each.

Pyro's guides fit the very programs of `benchmarks/posteriors/`; NumPyro's those of `nuts.py` and `_jax_models.py`, in
which group effects stand apart from their scale (but for eight schools). One particle and Adam at 0.01, as in the
introductions of both, as many steps as the time allows, then 4,000 draws; limits and answers as in `posteriors.py`.

    python benchmarks/posterior_peers.py AutoNormal,AutoMultivariateNormal,AutoIAFNormal [NAME ...] [--seconds 30]
    python benchmarks/posterior_peers.py AutoDAIS [NAME ...]                 (pip install numpyro)
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from posteriors._answers import compared, posteriors, program, table

PYRO = ("AutoNormal", "AutoMultivariateNormal", "AutoIAFNormal")
DRAWS = 4000


class Drawn(dict):  # type: ignore[type-arg]
    """Draws by name, as a posterior of ours has them."""

    @property
    def draws(self) -> dict[str, Any]:
        return dict(self)


def by_pyro(peer: str, file: Path, raw: Any, seconds: float, seed: int) -> tuple[Mapping[str, Any], int]:
    """Draws by name in the answer's order, and how many steps there were."""
    import pyro
    import torch
    from pyro.infer import SVI, Trace_ELBO, autoguide

    module = program(file)
    data = module.data(raw)
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    guide = getattr(autoguide, peer)(module.model)
    svi = SVI(module.model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    until, steps = time.process_time() + seconds, 0
    while time.process_time() < until:
        svi.step(**data)
        steps += 1
    drawn: dict[str, list[Any]] = {}
    with torch.no_grad():
        for _ in range(DRAWS):  # one by one: not every program has room for particles
            for name, value in guide(**data).items():
                drawn.setdefault(name, []).append(value.detach())
    found = Drawn({n: torch.stack(v) for n, v in drawn.items()})
    if hasattr(module, "frame"):
        return module.frame(found, data), steps
    return {n: found[n] for n in getattr(module, "ORDER", found)}, steps


def by_numpyro(peer: str, name: str, raw: Any, seconds: float, seed: int) -> tuple[Mapping[str, Any], int]:
    import jax
    import numpyro
    from numpyro.infer import SVI, Predictive, Trace_ELBO, autoguide
    from posteriors._jax_models import ALL, ORDERS

    model, data = ALL[name], {n: np.asarray(v) if isinstance(v, list) else v for n, v in raw.items()}
    guide = getattr(autoguide, peer)(model)
    svi = SVI(model, guide, numpyro.optim.Adam(0.01), Trace_ELBO())
    state = svi.init(jax.random.PRNGKey(seed), data)
    update = jax.jit(lambda s: jax.lax.fori_loop(0, 50, lambda _, t: svi.update(t, data)[0], s))
    state, steps = jax.block_until_ready(update(state)), 50  # compiled before the clock starts
    until = time.process_time() + seconds
    while time.process_time() < until:
        state = jax.block_until_ready(update(state))
        steps += 50
    drawn = guide.sample_posterior(jax.random.PRNGKey(seed + 1), svi.get_params(state), data, sample_shape=(DRAWS,))
    made = Predictive(model, dict(drawn))(jax.random.PRNGKey(0), data)
    held = numpyro.handlers.substitute(numpyro.handlers.seed(model, 0), {n: v[0] for n, v in drawn.items()})
    order = ORDERS.get(name) or list(numpyro.handlers.trace(held).get_trace(data))
    every = {**made, **drawn}
    return {n: every[n] for n in order if n in every and n != "y" and not n.startswith("_")}, steps


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peers")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gold", type=Path, help="posteriordb's file, for data too large to keep here")
    ask = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| posterior | guide | steps | largest shift, sd | sd ratios | correlation error | verdict |")
    print("|---|---|---|---|---|---|---|")
    for file, name, answer, raw in posteriors(ask.names, ask.gold):
        for peer in ask.peers.split(",") if raw else ():
            try:
                if peer in PYRO:
                    drawn, steps = by_pyro(peer, file, raw, ask.seconds, ask.seed)
                else:
                    drawn, steps = by_numpyro(peer, name, raw, ask.seconds, ask.seed)
                found = compared(table(drawn, answer), answer)
                numbers = f"{steps:,} | {found.words} | {'inside' if found.inside else 'outside'}"
            except Exception as error:  # whatever a peer raises is its result
                numbers = f"| | | | {type(error).__name__}: {str(error).splitlines()[0][:80] if str(error) else ''}"
            print(f"| {name} | {peer} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
