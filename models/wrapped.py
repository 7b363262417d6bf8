"""A pair of programs made of any torch encoder and decoder, so that a VAE from elsewhere is judged like one of ours."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.errors import UserError, check_choice, check_number, shown
from ppl_vae.programs.local_module import LocalModule
from ppl_vae.programs.modes import evaluating

__all__ = ["Spread", "Wrapped", "WrappedGuide", "WrappedModel", "wrap"]

Spread = Literal["log_variance", "variance", "log_scale", "scale"]
"""What a network's second output is."""

LIKELIHOODS = ("bernoulli", "bernoulli_logits", "normal")

_SCALES: dict[str, Callable[[Tensor], Tensor]] = {
    "log_variance": lambda v: (v / 2).exp(),
    "variance": torch.sqrt,
    "log_scale": torch.exp,
    "scale": lambda v: v,
}

_PAIRS = (("embedding", "log_covariance"), ("loc", "scale"), ("mean", "log_variance"), ("mu", "log_var"))


class Wrapped(NamedTuple):
    """A model and its guide, for everything that takes such a pair."""

    model: WrappedModel
    guide: WrappedGuide


def wrap(
    encoder: Callable[[Tensor], Any],
    decoder: Callable[[Tensor], Any],
    likelihood: str | Callable[[Any], Any] = "normal",
    *,
    prior: Any = None,
    spread: Spread = "log_variance",
    scale: float = 1.0,
) -> Wrapped:
    """A model p(z) p(x | z) and a guide q(z | x) = N(mean(x), scale(x)^2) of any torch encoder and decoder.

    Nothing is trained or changed: `ppl_vae.evaluate`, `diagnostics`, `certify` and all else then say of a VAE that was
    written and trained elsewhere what they say of ours. Both are modules with the parameters of the networks, so that
    `ppl_vae.fit` trains them on, with any bound.

    Args:
        encoder: from rows x [n, *S] to (mean, second output) of q(z | x), each [n, d]: a pair, a tensor [n, 2 d], or
            an object with `embedding` and `log_covariance` (pythae), `loc` and `scale`, or `mu` and `log_var`.
        decoder: from latents [n, d] to what the likelihood takes, [n, *S]; of "normal" a pair with the second output as
            well. The `reconstruction` of an object (pythae) is read.
        likelihood: "bernoulli" (the decoder gives probabilities), "bernoulli_logits", "normal" (it gives the mean), or
            a function of its output that makes a distribution over rows.
        prior: of z, a distribution over vectors [d]; by default N(0, I).
        spread: what the second output is: "log_variance", "variance", "log_scale" or "scale".
        scale: of "normal" with a mean alone. The squared error of most training code is that of scale 1 (its sum over
            entries, halved) up to a constant, which is added here.

    Raises:
        UserError: for an unknown likelihood or spread, and in the first run for outputs that are none of these.

    Example:
        >>> encoder, decoder = nn.Linear(3, 4), nn.Linear(2, 3)
        >>> model, guide = wrap(encoder, decoder, "normal")
        >>> import ppl_vae
        >>> ppl_vae.evaluate(model, guide, torch.zeros(5, 3), particles=100).elbo.shape
        torch.Size([5])
    """
    if isinstance(likelihood, str):
        check_choice("likelihood", likelihood, LIKELIHOODS)
    elif not callable(likelihood):
        raise UserError(f"likelihood must be one of {', '.join(LIKELIHOODS)} or a function, got {shown(likelihood)}")
    check_choice("spread", spread, get_args(Spread))
    for name, network in (("encoder", encoder), ("decoder", decoder)):
        if not callable(network):
            raise UserError(f"{name} must be a module or a function of a tensor, got {shown(network)}")
    if prior is not None and not (isinstance(prior, torch.distributions.Distribution) and len(prior.event_shape) == 1):
        raise UserError(
            f"prior must be a distribution over vectors [d], such as .to_event(1) gives, got {shown(prior)}"
        )
    model = WrappedModel(decoder, likelihood, prior, spread, float(check_number("scale", scale, positive=True)))
    guide = WrappedGuide(encoder, spread)
    object.__setattr__(model, "_guide", guide)  # it knows how many latents there are; no part of the model
    return Wrapped(model, guide)


class _Networks(LocalModule):
    """A function of tensors with the modules that it uses, so that their parameters and modes are this module's."""

    holds_own_code: ClassVar[bool] = True
    """A run folder has the weights; the networks have to be passed again, `ppl_vae.open_run(path, *wrap(...))`."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        if isinstance(function, nn.Module):
            self.network = function
        else:
            self.parts = nn.ModuleList(_modules_in(function))
            object.__setattr__(self, "function", function)

    def run(self, value: Tensor) -> Any:
        """What the function gives."""
        return self.network(value) if hasattr(self, "network") else self.function(value)


class WrappedModel(_Networks):
    """p(z) p(x | z) with somebody's decoder; see `wrap`."""

    def __init__(
        self, decoder: Callable[[Tensor], Any], likelihood: Any, prior: Any, spread: Spread, scale: float
    ) -> None:
        super().__init__(decoder)
        self.spread, self.scale = spread, scale
        object.__setattr__(self, "likelihood", likelihood)
        object.__setattr__(self, "prior", prior)

    def forward(self, x: Tensor) -> Tensor:
        """Observe rows x [n, *S]."""
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", self._prior(x))
            leading = z.shape[:-1]
            likelihood = self._likelihood(self.run(z.reshape(-1, z.shape[-1])))
            batch = likelihood.batch_shape + likelihood.event_shape
            if tuple(batch[1:]) != tuple(x.shape[1:]):
                raise UserError(
                    f"the decoder's likelihood has rows of shape {tuple(batch[1:])}, and those of the data have "
                    f"{tuple(x.shape[1:])}: reshape its output, decoder=lambda z: net(z).reshape(-1, {_sizes(x)})"
                )
            rows = _by_rows(likelihood, leading)
            pyro.sample("x", rows, obs=x)
        return z

    def _prior(self, x: Tensor) -> Any:
        if self.prior is not None:
            return self.prior.expand([len(x)])
        d = self._guide.size(x)
        return dist.Normal(x.new_zeros(len(x), d), 1.0).to_event(1)

    def _likelihood(self, output: Any) -> Any:
        output = getattr(output, "reconstruction", output)
        if isinstance(output, torch.distributions.Distribution):
            return output
        if callable(self.likelihood):
            found = self.likelihood(output)
            if not isinstance(found, torch.distributions.Distribution):
                raise UserError(
                    f"likelihood= must make a distribution of the decoder's output, and made {shown(found)}"
                )
            return found
        if self.likelihood == "normal":
            if isinstance(output, Tensor):
                return dist.Normal(output, self.scale)
            mean, second = _pair("decoder", output)
            return dist.Normal(mean, _SCALES[self.spread](second))
        if not isinstance(output, Tensor):
            raise UserError(f"the decoder of {self.likelihood!r} gives {type(output).__name__}: expected one tensor")
        if self.likelihood == "bernoulli":
            low, high = (float(v) for v in torch.aminmax(output.detach()))
            if low < 0 or high > 1:
                raise UserError(
                    f"the decoder gives values from {low:.3g} to {high:.3g}, which are no probabilities: take "
                    "likelihood='bernoulli_logits', or end it with a sigmoid"
                )
            return dist.Bernoulli(probs=output)
        return dist.Bernoulli(logits=output)


class WrappedGuide(_Networks):
    """q(z | x) with somebody's encoder; see `wrap`."""

    def __init__(self, encoder: Callable[[Tensor], Any], spread: Spread) -> None:
        super().__init__(encoder)
        self.spread = spread
        self._size: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Draw the latents of rows x [n, *S]."""
        q = self._posterior(x)
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", q)

    def size(self, x: Tensor) -> int:
        """How many latents there are, d."""
        if self._size is None:
            with torch.no_grad(), evaluating(self):  # running means of its layers do not see this look
                self._size = int(self._posterior(x[:2]).event_shape[0])
        return self._size

    def _posterior(self, x: Tensor) -> Any:
        output = self.run(x)
        if isinstance(output, torch.distributions.Distribution):
            return output if output.event_shape else output.to_event(1)  # type: ignore[attr-defined]
        mean, second = _pair("encoder", output)
        named = isinstance(output, Mapping) or hasattr(output, "loc")
        scale = second if named and hasattr(output, "loc") else _SCALES[self.spread](second)
        return dist.Normal(mean.flatten(1), scale.flatten(1)).to_event(1)


def _pair(of: str, output: Any) -> tuple[Tensor, Tensor]:
    """The two outputs of a network, however it gives them."""
    if isinstance(output, Tensor) and output.dim() > 1 and output.shape[1] % 2 == 0 and of == "encoder":
        first, second = output.chunk(2, dim=1)
        return first, second
    if isinstance(output, tuple | list) and len(output) >= 2 and all(isinstance(v, Tensor) for v in output[:2]):
        return output[0], output[1]
    for names in _PAIRS:
        values = [output.get(n) if isinstance(output, Mapping) else getattr(output, n, None) for n in names]
        if all(isinstance(v, Tensor) for v in values):
            return values[0], values[1]  # type: ignore[return-value]
    raise UserError(
        f"the {of} gives {type(output).__name__}: expected a pair (mean, second output), so wrap it, "
        f"{of}=lambda v: (net(v).mean, net(v).log_variance)"
    )


def _by_rows(likelihood: Any, leading: torch.Size) -> Any:
    """A distribution over flattened particles and rows [n, *S] as one with particles and rows as its batch dims."""
    inner = likelihood.to_event(len(likelihood.batch_shape) - 1) if len(likelihood.batch_shape) > 1 else likelihood
    if len(leading) == 1:
        return inner
    flat = inner
    return _Folded(flat, leading)


class _Folded(dist.TorchDistribution):
    """A distribution of n = particles x rows elements with these as batch dims, whatever its parameters are."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = False

    def __init__(self, flat: Any, leading: torch.Size) -> None:
        self.flat = flat
        super().__init__(leading, flat.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.flat.support

    @property
    def mean(self) -> Tensor:
        """Of every element."""
        return self.flat.mean.reshape(*self.batch_shape, *self.event_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        if torch.Size(batch_shape) == self.batch_shape:
            return self
        raise NotImplementedError

    def sample(self, sample_shape: Any = ()) -> Tensor:
        sample_shape = torch.Size(sample_shape)
        return self.flat.sample(sample_shape).reshape(*sample_shape, *self.batch_shape, *self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        whole = value.expand(*self.batch_shape, *self.event_shape)
        return self.flat.log_prob(whole.reshape(-1, *self.event_shape)).reshape(self.batch_shape)


def _modules_in(function: Callable[..., Any]) -> list[nn.Module]:
    """The modules that a function uses: its closure, the globals it names, the object it is a method of."""
    bound = getattr(function, "__self__", None)
    if isinstance(bound, nn.Module):
        return [bound]
    try:
        used = inspect.getclosurevars(inspect.unwrap(function))
    except TypeError:  # a callable object: its attributes are what it uses
        return [v for v in vars(function).values() if isinstance(v, nn.Module)]
    return [v for v in {**used.globals, **used.nonlocals}.values() if isinstance(v, nn.Module)]


def _sizes(x: Tensor) -> str:
    return ", ".join(map(str, x.shape[1:]))
