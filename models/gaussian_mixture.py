"""A mixture of normals: the model that a VAE extends, with an exact likelihood."""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar, Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.data import Data, Field, Schema
from ppl_vae.errors import UserError, check_choice, check_whole
from ppl_vae.likelihoods import Normal
from ppl_vae.likelihoods.location import LEAST
from ppl_vae.models._rows import RowModel, rows_of

__all__ = ["GaussianMixture"]

Covariance = Literal["full", "diagonal"]

ROWS = 5000
"""Training rows from which the start is made, at most."""


class GaussianMixture(RowModel):
    """Clusters of rows: c ~ Categorical(w), x ~ N(m_c, S_c), with the cluster of a row summed out.

    log p(x) = log sum_c w_c N(x; m_c, S_c), in nats, exactly: there is no other latent, so that the evidence of any
    guide, and bounds that sum inside the weight (IWAE), are the log likelihood, whatever its classifier q(c | x) says.
    The ELBO is below by KL(q(c | x) || p(c | x)), and trains the classifier too. Shapes: c [...], x [..., d] (with
    diagonal covariances [..., *S]). Missing entries are marginalised exactly. Training starts at k-means clusters of
    the training rows. Scales are at least a thousandth of the data's, without which the likelihood has no maximum.

    Args:
        data: the data set (or its schema) whose field `x`, of numbers, is modelled.
        components: number of clusters K.
        covariance: "full" or "diagonal".

    Raises:
        UserError: for a field that is not of numbers, one that is no vector with full covariances, or fewer than one
            component.

    Source: Dempster, Laird & Rubin 1977, J. R. Stat. Soc. B 39 (fitted by EM); here by gradients.

    Example:
        >>> import ppl_vae
        >>> data = ppl_vae.load(torch.randn(200, 2, generator=torch.manual_seed(0)))
        >>> model = GaussianMixture(data, components=3)
        >>> model(n=4).shape, model.log_prob(data.test["x"]).shape
        (torch.Size([4, 2]), torch.Size([40]))
        >>> model.responsibilities(data.test["x"]).shape
        torch.Size([40, 3])
    """

    kinds: ClassVar[tuple[str, ...]] = Normal.kinds
    shift: Tensor
    unit: Tensor

    def __init__(self, data: Data | Schema, *, components: int = 5, covariance: Covariance = "full") -> None:
        super().__init__(data)
        check_choice("covariance", covariance, ("full", "diagonal"))
        components = check_whole("components", components)
        self.field = _field(self.schema, self.kinds, covariance)
        self.components, self.is_full = components, covariance == "full"
        rows = None if self.train_rows is None else self.train_rows["x"]
        shape, dtype = self.field.shape, torch.get_default_dtype() if rows is None else rows.dtype
        shift, unit = torch.zeros(shape, dtype=dtype), torch.ones(shape, dtype=dtype)
        if rows is not None:
            shift = rows.nanmean(0).nan_to_num()
            unit = (rows - shift).square().nanmean(0).nan_to_num().sqrt()
            unit = torch.where(unit > 0, unit, torch.ones_like(unit))
        self.register_buffer("shift", shift)
        self.register_buffer("unit", unit)
        self.logits = nn.Parameter(torch.zeros(components, dtype=dtype))
        self.loc = nn.Parameter(torch.randn(components, *shape, dtype=dtype))
        square = (*shape, *shape) if self.is_full else shape
        self.raw = nn.Parameter(torch.zeros(components, *square, dtype=dtype))
        if rows is not None:
            self._start(rows[torch.randperm(len(rows))[:ROWS]])

    # -- parameters ------------------------------------------------------------------------------------------

    @property
    def weights(self) -> Tensor:
        """w, [K]."""
        return self.logits.softmax(-1)

    @property
    def means(self) -> Tensor:
        """m, [K, *S]."""
        return self.shift + self.unit * self.loc

    @property
    def factors(self) -> Tensor:
        """Cholesky factors of S, [K, d, d]; with diagonal covariances the deviations, [K, *S]."""
        if not self.is_full:
            return self.unit * (LEAST + self.raw.exp())
        diagonal = LEAST + self.raw.diagonal(dim1=-2, dim2=-1).exp()
        return self.unit.unsqueeze(-1) * (self.raw.tril(-1) + torch.diag_embed(diagonal))

    @torch.no_grad()
    def assign(self, weights: Any, means: Any, covariances: Any) -> None:
        """Take parameters from elsewhere, such as from scikit-learn's `GaussianMixture`, in the units of the data.

        Args:
            weights: w, [K].
            means: m, [K, *S].
            covariances: S, [K, d, d]; with diagonal covariances the variances, [K, *S].
        """
        w, m, s = (torch.as_tensor(v).to(self.unit) for v in (weights, means, covariances))
        for name, value, target in (("weights", w, self.logits), ("means", m, self.loc), ("covariances", s, self.raw)):
            if value.shape != target.shape:
                raise UserError(f"{name} must have shape {tuple(target.shape)}, got {tuple(value.shape)}")
        self.logits.copy_(w.log())
        self.loc.copy_((m - self.shift) / self.unit)
        factor = (torch.linalg.cholesky(s) if self.is_full else s.sqrt()) / (
            self.unit.unsqueeze(-1) if self.is_full else self.unit
        )
        scale = factor.diagonal(dim1=-2, dim2=-1) if self.is_full else factor
        raw = (scale - LEAST).clamp(min=LEAST).log()
        self.raw.copy_(factor.tril(-1) + torch.diag_embed(raw) if self.is_full else raw)

    def _start(self, rows: Tensor) -> None:
        """Clusters of k-means, with missing entries at the mean; covariances shrunk to that of all rows."""
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning

        flat = ((rows - self.shift) / self.unit).nan_to_num().reshape(len(rows), -1)
        if len(flat) < self.components:
            raise UserError(f"components={self.components} are more than the {len(flat)} training rows: use fewer")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of clusters left empty by rows that are alike
            seed = int(torch.randint(2**31, ()))
            found = KMeans(self.components, n_init=1, random_state=seed).fit(flat.cpu().numpy())
        each = torch.nn.functional.one_hot(torch.from_numpy(found.labels_).long(), self.components).to(flat)
        counts, d = each.sum(0), flat.shape[1]
        means = each.T @ flat / counts.clamp(min=1).unsqueeze(-1)
        within = flat - each @ means
        prior = within.square().mean().clamp(min=0.01)
        if self.is_full:
            scatter = torch.einsum("nk,ni,nj->kij", each, within, within) + d * prior * torch.eye(d).to(flat)
        else:
            scatter = each.T @ within.square() + d * prior
        scatter = scatter / (counts + d).reshape(-1, *(1,) * (scatter.dim() - 1))
        unit, shape = self.unit.reshape(-1), (self.components, *self.field.shape)
        spread = scatter * (unit.unsqueeze(-1) * unit if self.is_full else unit.square())
        means = self.shift + self.unit * means.reshape(shape)
        self.assign((counts + 1) / (counts + 1).sum(), means, spread if self.is_full else spread.reshape(shape))

    # -- the program -----------------------------------------------------------------------------------------

    def forward(self, x: Tensor | None = None, n: int = 1) -> Tensor:
        """Observe rows x, or simulate n rows."""
        given = rows_of(x=x)
        with self.rows(given, n):
            cluster = pyro.sample("cluster", dist.Categorical(logits=self.logits))
            fn, value = self._of(cluster, x)
            return pyro.sample("x", fn, obs=value, infer={"leaf": True})

    def _of(self, cluster: Tensor, x: Tensor | None) -> tuple[Any, Tensor | None]:
        """p(x | c), and the value that it observes."""
        if not self.is_full:
            return dist.Normal(self.means[cluster], self.factors[cluster]).to_event(len(self.field.shape)), x
        fn = dist.MultivariateNormal(self.means[cluster], scale_tril=self.factors[cluster])
        if x is None or not self.field.missing:
            return fn, x
        return _Seen(fn, ~torch.isnan(x)), torch.nan_to_num(x)

    def joint(self, x: Tensor) -> Tensor:
        """log w_c + log N(x; m_c, S_c) of every cluster, [row, K], in nats; missing entries are left out."""
        clusters = torch.arange(self.components, device=x.device).unsqueeze(-1)
        seen = ~torch.isnan(x)
        if self.is_full:
            log_p = _Seen(self._of(clusters, None)[0], seen).log_prob(torch.nan_to_num(x))
        else:
            each = dist.Normal(self.means[clusters], self.factors[clusters]).log_prob(torch.nan_to_num(x))
            log_p = torch.where(seen, each, torch.zeros_like(each)).flatten(2).sum(-1)
        return self.logits.log_softmax(-1) + log_p.T

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), [row], in nats: exact."""
        return self.joint(x).logsumexp(-1)

    def responsibilities(self, x: Tensor) -> Tensor:
        """p(c | x), [row, K]: exact, what a guide's classifier approximates."""
        return self.joint(x).softmax(-1)


class _Seen(dist.TorchDistribution):
    """A normal vector of which only some entries were seen: log p is that of those entries, N(x_o; m_o, S_oo)."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True

    def __init__(self, whole: dist.MultivariateNormal, seen: Tensor) -> None:
        self.whole, self.seen = whole, seen
        batch = torch.broadcast_shapes(whole.batch_shape, seen.shape[:-1])
        super().__init__(batch, whole.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """That of the whole vector."""
        return self.whole.support

    @property
    def mean(self) -> Tensor:
        """Of the whole vector."""
        return self.whole.mean.expand(self.batch_shape + self.event_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Seen:
        """The same normals for more rows."""
        return _Seen(self.whole.expand(batch_shape), self.seen)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Whole vectors."""
        return self.whole.expand(self.batch_shape).rsample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """With unseen entries made standard normals of their own, whose density at 0 is taken away again."""
        seen = self.seen.to(self.whole.loc.dtype)
        both = seen.unsqueeze(-1) * seen.unsqueeze(-2)
        covariance = self.whole.covariance_matrix * both + torch.diag_embed(1 - seen)
        apart = dist.MultivariateNormal(self.whole.loc * seen, covariance, validate_args=False)
        return apart.log_prob(value * seen) + 0.5 * math.log(2 * math.pi) * (1 - seen).sum(-1)


def _field(schema: Schema, kinds: tuple[str, ...], covariance: str) -> Field:
    if "x" not in schema:
        raise UserError(
            f"GaussianMixture models field 'x', a vector of numbers, but the data has {', '.join(schema.names)}: name "
            "the columns that it is made of, load(..., fields={'x': [...]}) or --field x=A,B"
        )
    field = schema["x"]
    if field.kind not in kinds:
        raise UserError(
            f"field 'x' is {field.kind}, which a mixture of normals is no density over: use GMVAE, or load it as "
            "numbers, kinds={'x': 'real'}"
        )
    if covariance == "full" and len(field.shape) != 1:
        raise UserError(f"full covariances are of vectors, got rows of shape {field.shape}: use covariance='diagonal'")
    return field
