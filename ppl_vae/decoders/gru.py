"""The decoder of sequences: every entry given those before it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ppl_vae.data import Field
from ppl_vae.decoders.base import Decoder
from ppl_vae.decoders.sequences import Recurrent
from ppl_vae.errors import UserError
from ppl_vae.likelihoods import Columns, Likelihood
from ppl_vae.nn.networks import MLP, widths

__all__ = ["GRU"]


class GRU(Decoder):
    """A recurrent network over the steps of a row of tokens or numbers: x_t ~ p(x_t | x_1, ..., x_t-1, z).

    c = f(z); h_0 = tanh(V c), h_t = GRU(h_t-1; x_t-1, c), x_t ~ p(x_t | W h_t + b), so that
    log p(x | z) = sum_t log p(x_t | x_1, ..., x_t-1, z), in nats. The entries before are the row's own where a row is
    given (teacher forcing), and those that were drawn where one is drawn. The likelihood of the model is that of one
    entry: categorical for tokens, normal for numbers, and any other. Shapes: z [..., d], x [..., T] or [..., T, *S].

    Rows end early where their last entries are missing (-1, NaN): these have no part in anything, and the evidence is
    that of rows of this length. With `end` tokens may say where a row ends, and how long it is is modelled, too. A hole
    before an observed entry is refused. A guide that is generated for the model reads the field by a GRU as well.

    A network that sees the entries before can do without z (the latents collapse). `forget` hides a share of
    them in training, so that z has to say more; what is evaluated hides none.

    Args:
        state: numbers in h_t.
        hidden: widths of hidden layers between z and c.
        activation: of these layers, see `ppl_vae.nn.networks.MLP`.
        end: the level that ends a row, of tokens.
        forget: the share of the entries before that is hidden in training.

    Raises:
        UserError: for a field without steps, several fields at once, or rows with holes.

    Source: Cho et al. 2014, arXiv 1406.1078; Bowman et al. 2016, arXiv 1511.06349 (texts from latents; hidden words).

    Example:
        >>> import torch, ppl_vae
        >>> from ppl_vae.models import VAE
        >>> rows = torch.randint(0, 5, (60, 7))
        >>> model = VAE(ppl_vae.load(rows, kinds={"x": "categorical"}), decoder=GRU(state=8), latent_dim=2)
        >>> model(n=3).shape
        torch.Size([3, 7])
    """

    def __init__(
        self,
        state: int = 64,
        hidden: Sequence[int] = (),
        activation: str = "gelu",
        end: int | None = None,
        forget: float = 0.0,
    ) -> None:
        super().__init__()
        self.hidden, self.activation = widths((hidden,) if isinstance(hidden, int) else hidden), activation
        self.state, self.end, self.forget = state, end, forget

    @classmethod
    def suits(cls, field: Field) -> bool:
        """Rows of several steps, of tokens or numbers; pictures are not meant."""
        return len(field.shape) == 1 and field.size > 1

    def over(self, likelihood: Likelihood | Columns) -> Likelihood | Columns:
        """Of single entries one of rows."""
        if isinstance(likelihood, Columns):
            raise UserError("decoder GRU makes rows of several steps, got a table: use Dense")
        if isinstance(likelihood, Recurrent):
            return likelihood
        return Recurrent(likelihood, self.state, self.end, self.forget)

    def setup(self, likelihood: Likelihood | Columns) -> None:
        """The network from z to c."""
        if not isinstance(likelihood, Recurrent):
            raise UserError("decoder GRU is of a model that takes it as decoder=, with its likelihood of one entry")
        self.network = MLP(self.inputs, self.hidden, likelihood.size, self.activation)

    def features(self, z: Tensor) -> Tensor:
        """Apply it."""
        return self.network(z)
