"""Sequences whose every entry depends on those before it: p(x | c) = prod_t p(x_t | x_1, ..., x_t-1, c)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from ppl_vae.data.convert import missing_in
from ppl_vae.data.schema import Field
from ppl_vae.distributions import OneByOne
from ppl_vae.errors import UserError, check_number, check_whole
from ppl_vae.likelihoods import Likelihood
from ppl_vae.likelihoods.base import outside
from ppl_vae.nn.networks import concatenate
from ppl_vae.nn.sequences import PreviousEntry

__all__ = ["Recurrent", "Sequence"]


class Recurrent(Likelihood):
    """A likelihood of single entries along the first axis of a field, the features of each from a GRU of those before.

    h_t = GRU(h_t-1; x_t-1, c), x_t ~ p(x_t | W h_t + b), with h_0 = tanh(V c), where c are the features of a decoder.
    A row may end early: its last entries are missing (-1, NaN), and have no part in anything. `ppl_vae.decoders.GRU`
    makes it of the likelihood that fits the entries. Shapes: c [..., state], x [..., T, *S].

    Args:
        entry: p(x_t | ...), one for all steps.
        state: numbers in h and in c.
        end: the level after which a row has nothing but it; a row's length is then part of what is modelled.
        forget: the share of previous entries that the network is not shown, in training mode.

    Raises:
        UserError: for a field without steps, a row with a hole before an observed entry, a value outside the support of
            the entries, or an entry other than `end` after it.
    """

    step_field: Field
    previous: PreviousEntry
    gru: nn.GRU
    begin: nn.Linear
    speak: nn.Linear

    kinds = ("binary", "unit", "real", "positive", "count", "categorical")
    support = constraints.real

    def __init__(self, entry: Likelihood, state: int = 64, end: int | None = None, forget: float = 0.0) -> None:
        super().__init__()
        self.entry, self.state = entry, check_whole("state", state)
        self.end = None if end is None else check_whole("end", end, 0)
        self.forget = check_number("forget", forget)
        if not 0 <= self.forget < 1:
            raise UserError(f"forget is a share of at least 0 and below 1, got {forget}")

    @property
    def size(self) -> int:
        """How many features it wants."""
        return self.state

    @property
    def as_chosen(self) -> Likelihood:
        """The likelihood of the entries: the decoder makes the rest again."""
        return self.entry

    def build(self, field: Field, train: Tensor | None = None) -> Self:
        """A copy for this field; the entries start at the marginal of those of the training rows [n, T, *S]."""
        if not field.shape or field.shape[0] < 2:
            raise UserError(f"decoder GRU makes rows of several steps [T, ...], got {field}: use Dense")
        if self.end is not None and (field.kind != "categorical" or self.end >= (field.cardinality or 0)):
            raise UserError(f"end={self.end} is a level of a field of categories, and {field} has none such")
        step = replace(field, shape=field.shape[1:], names=(), origin=())
        steps = None if train is None else train.flatten(0, 1)
        entry = self.entry.build(step, steps)
        built = type(self)(entry, self.state, self.end, self.forget)
        built.field, built.step_field = field, step
        if train is not None and (problem := built.fault(train)):
            raise UserError(f"field {field.name!r}, training {problem}")
        built.previous = PreviousEntry(step, steps)
        built.gru = nn.GRU(built.previous.size + self.state, self.state, batch_first=True)
        built.begin = nn.Linear(self.state, self.state)
        built.speak = nn.Linear(self.state, entry.size)
        with torch.no_grad():
            built.speak.weight.mul_(0.1)  # an untrained network says little more than the marginal
            built.speak.bias.copy_(torch.zeros(entry.size) if steps is None else entry.initial_bias(steps))
        return built

    def fault(self, rows: Tensor) -> str | None:
        """What keeps rows from being rows of this field; None if nothing does."""
        seen = ~missing_in(self.field.kind, rows).reshape(*rows.shape[:2], -1).all(-1)
        later = seen.flip(1).cummax(1).values.flip(1)
        if bool((bad := later & ~seen).any()):
            row, step = bad.nonzero()[0].tolist()
            return (
                f"row {row} lacks entry {step} and has a later one: a row of a GRU may end early, and has no holes; "
                "fill them, or use another decoder"
            )
        wrong = outside(self.entry.support_of(self.step_field), self.field, rows)
        if wrong is not None and self.field.kind != "binary":  # grey levels may be stored, of which 0 and 1 are drawn
            return f"row {wrong[0][0]}, entry {tuple(wrong[0][1:])}: value {wrong[1]:g} is outside the support"
        if self.end is not None:
            after = (rows[:, :-1] == self.end) & (rows[:, 1:] != self.end) & seen[:, 1:]
            if bool(after.any()):
                row, step = after.nonzero()[0].tolist()
                return f"row {row} has entry {step + 1} after its end ({self.end} at entry {step})"
        return None

    def entries(self, features: Tensor) -> Any:
        """The distribution of a row; it has no independent entries."""
        return Sequence(self, features)

    def forward(self, features: Tensor) -> Sequence:
        """The distribution of rows: batch shape [...], event shape [T, *S]."""
        return Sequence(self, features)

    def run(self, context: Tensor, before: Tensor, state: Tensor | None) -> tuple[Any, Tensor]:
        """The distribution of entries, given what was before each [..., t, *] and the state before the first.

        Shapes: context [..., H], before [..., t, E] -> entries with batch shape [..., t, *S].
        """
        inputs = concatenate([before, context.unsqueeze(-2)])
        lead, steps = inputs.shape[:-2], inputs.shape[-2]
        if state is None:
            state = self.begin(context).tanh().expand(*lead, self.state)
        # what is the same for all rows or particles is one tensor until here
        hidden, last = self.gru(inputs.reshape(-1, *inputs.shape[-2:]), state.reshape(1, -1, self.state))
        features = self.speak(hidden).reshape(*lead, steps, *self.step_field.shape, self.entry.width)
        return self.entry.entries(features), last.reshape(*lead, self.state)


class Sequence(OneByOne):
    """x_1, x_2, ... in turn, each from the network of a `Recurrent` likelihood: normalised over rows [T, *S].

    `given` rows their missing entries do not count in `log_prob`, and `completed` draws how they go on.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self, network: Recurrent, context: Tensor, known: Tensor | None = None, missing: Tensor | None = None
    ) -> None:
        self.network, self.context, self.known, self.missing = network, context, known, missing
        shape, step = torch.Size(network.field.shape), network.step_field
        self.levels = int(step.cardinality or 0) if step.kind == "categorical" else 0
        self.entry_support = network.entry.support_of(step)
        lead = torch.Size() if missing is None else missing.shape[: missing.dim() - len(shape)]
        super().__init__(torch.broadcast_shapes(context.shape[:-1], lead), shape, validate_args=False)

    @property
    def support(self) -> Any:
        """Where rows may lie."""
        return constraints.independent(self.entry_support, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Sequence:
        """The same for more particles or rows."""
        context = self.context.expand(*batch_shape, self.context.shape[-1])
        return Sequence(self.network, context, self.known, self.missing)

    def given(self, value: Tensor, missing: Tensor) -> Sequence:
        """The same distribution, of rows some of whose last entries are missing."""
        return Sequence(self.network, self.context, value, missing)

    def fault(self, rows: Tensor) -> str | None:
        """What keeps rows from being values; None if nothing does."""
        return self.network.fault(rows)

    def terms(self, value: Tensor) -> Tensor:
        """log p(x_t | x_1, ..., x_t-1) of every entry, [..., T, *S]."""
        net, time = self.network, -len(self.event_shape)
        before = net.previous(value, time)
        if net.forget and net.training:
            kept = torch.rand(*before.shape[:-1], 1, dtype=before.dtype, device=before.device) >= net.forget
            before = before * kept
        found, _ = net.run(self.context, before, None)
        log_p: Tensor = found.log_prob(value)
        if net.end is not None:
            ended = torch.cat([torch.zeros_like(value[..., :1], dtype=torch.bool), value[..., :-1] == net.end], -1)
            stays = torch.where(value == net.end, 0.0, -torch.inf).to(log_p.dtype)
            log_p = torch.where(ended, stays, log_p)
        if self.missing is not None:
            log_p = log_p.masked_fill(self.missing, 0.0)
        return log_p

    def log_prob(self, value: Tensor) -> Tensor:
        """The sum of the terms, [...]."""
        terms = self.terms(value)
        return terms.flatten(-len(self.event_shape)).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Entry after entry, each given those that were drawn before it."""
        return self._walk(torch.Size(sample_shape))

    @torch.no_grad()
    def completed(self) -> Tensor:
        """The given rows, their missing entries drawn in turn, each given all before it."""
        return self._walk(torch.Size(), going_on=True)

    @torch.no_grad()
    def path(self) -> Tensor:
        """Entry after entry the likeliest level, or of numbers the mean, given those before it."""
        return self._walk(torch.Size(), likeliest=True)

    def _walk(self, sample_shape: torch.Size, *, likeliest: bool = False, going_on: bool = False) -> Tensor:
        net, time = self.network, -len(self.event_shape)
        shape = sample_shape + self.batch_shape
        context = self.context.expand(*shape, self.context.shape[-1])
        before, state, steps, ended = net.previous.first(context), None, [], None
        for t in range(self.event_shape[0]):
            found, state = net.run(context, before.unsqueeze(-2), state)
            drawn = (_likeliest(found) if likeliest else found.sample()).select(time, 0)
            if net.end is not None:
                ended = torch.zeros_like(drawn, dtype=torch.bool) if ended is None else ended | (steps[-1] == net.end)
                drawn = drawn.masked_fill(ended, net.end)
            if going_on and self.missing is not None and self.known is not None:
                drawn = torch.where(self.missing.select(time, t), drawn, self.known.select(time, t).to(drawn.dtype))
            steps.append(drawn)
            before = net.previous.of(drawn)
        return torch.stack(steps, time if time < -1 else -1)


def _likeliest(fn: Any) -> Tensor:
    if hasattr(fn, "logits") and fn.has_enumerate_support and fn.logits.dim() > len(fn.batch_shape):
        return fn.logits.argmax(-1)
    return fn.mean
