"""What a pair made of the same rows at several epochs of its training: codes, reconstructions, maps of them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ppl_vae.display import Displayed
from ppl_vae.errors import UserError, check_choice, check_known, check_whole
from ppl_vae.saving.atomic import write
from ppl_vae.saving.paths import path_of
from ppl_vae.saving.reading import damaged
from ppl_vae.saving.tensors import Stored, pack, read_tensors

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["SNAPSHOTS", "Maps", "Neighbours", "Snapshot", "Snapshots", "read_snapshots"]

SNAPSHOTS = "snapshots.safetensors"
"""The file in a run folder."""

REMEDY = "delete it, or run the fit again"

How = Literal["pca", "tsne"]


class Snapshot(NamedTuple):
    """One epoch, flattened by site: posterior means and deviations [row, latent], reconstructions by field."""

    epoch: int
    means: Mapping[str, Tensor]
    deviations: Mapping[str, Tensor]
    reconstructions: Mapping[str, Tensor]


class Neighbours(NamedTuple):
    """How often the nearest rows name the label of a row, its standard error over rows, and the share of the commonest
    label."""

    accuracy: float
    se: float
    commonest: float


class Maps(NamedTuple):
    """Two coordinates of every row at every epoch [epoch, row, 2]; the covariances [epoch, row, 2, 2] of posteriors in
    the same plane, if there is one; what the axes are."""

    points: NDArray[np.float64]
    covariances: NDArray[np.float64] | None
    axes: tuple[str, str]


@dataclass(frozen=True, repr=False)
class Snapshots(Displayed):
    """What `fit(snapshots=...)` kept of its training: the same rows at several epochs, with the weights of that time.

    Attributes:
        each: one `Snapshot` for each epoch, in their order; epoch 0 is before the first step.
        rows: their numbers in the split `split`: a thousand chosen with the seed, or all there are.
        split: "test", or "validation" or "train" where there is none.
        values: the observed fields in the first of these rows, as many as have reconstructions.
        labels: of the rows, -1 where not known; None where there are no labels.
        label: what the labels are called.
        names: what each label is called.
        limits: black and white of a field that is a picture, by field.

    Example:
        >>> import ppl_vae
        >>> data = ppl_vae.load("digits")
        >>> result = ppl_vae.fit(ppl_vae.VAE(data, latent_dim=4, hidden=(32,)), data, epochs=2, snapshots=[0, 2])
        >>> kept = result.snapshots
        >>> kept.epochs, kept.means().shape, kept.each[1].reconstructions["x"].shape
        ((0, 2), torch.Size([2, 447, 4]), torch.Size([447, 8, 8]))
        >>> kept.neighbours(1).accuracy > kept.neighbours(1).commonest
        True
    """

    each: tuple[Snapshot, ...]
    rows: tuple[int, ...]
    split: str
    values: Mapping[str, Tensor] = field(default_factory=dict)
    labels: Tensor | None = None
    label: str = ""
    names: tuple[str, ...] = ()
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.each)

    @property
    def epochs(self) -> tuple[int, ...]:
        """The epochs after which they were taken."""
        return tuple(one.epoch for one in self.each)

    @property
    def sites(self) -> tuple[str, ...]:
        """The continuous latents of single rows."""
        return tuple(self.each[0].means)

    def means(self, site: str | None = None) -> Tensor:
        """Posterior means [epoch, row, latent] of a site, by default the first.

        Raises:
            UserError: for a site that there is not.
        """
        name = self._site(site)
        return torch.stack([one.means[name] for one in self.each])

    def deviations(self, site: str | None = None) -> Tensor:
        """Posterior standard deviations [epoch, row, latent]; NaN where the family tells none."""
        name = self._site(site)
        return torch.stack([one.deviations[name] for one in self.each])

    def _site(self, site: str | None) -> str:
        return self.sites[0] if site is None else check_known("latent site", site, self.sites)

    def neighbours(self, at: int = -1, *, k: int = 5, site: str | None = None) -> Neighbours | None:
        """How well the k nearest other rows, by posterior means, name the label; None without labels.

        Args:
            at: which snapshot, by its place in `epochs`.
            k: how many neighbours vote.
            site: the latent site, by default the first.
        """
        if self.labels is None:
            return None
        from sklearn.neighbors import KNeighborsClassifier

        known = (self.labels >= 0).numpy()
        points, labels = self.each[at].means[self._site(site)].numpy()[known], self.labels.numpy()[known]
        k = check_whole("k", k)
        if len(labels) <= k or len(np.unique(labels)) < 2:
            return None
        model = KNeighborsClassifier(k).fit(points, labels)
        near = model.kneighbors(return_distance=False)  # without the row itself
        votes = np.stack([(labels[near] == value).sum(1) for value in np.unique(labels)], 1)
        right = np.unique(labels)[votes.argmax(1)] == labels
        commonest = float(np.unique(labels, return_counts=True)[1].max() / len(labels))
        return Neighbours(float(right.mean()), float(right.std(ddof=1) / len(right) ** 0.5), commonest)

    def maps(self, how: How = "pca", *, site: str | None = None, seed: int = 0) -> Maps:
        """The rows in a plane at every epoch.

        "pca": the two principal axes of the last means, the same for all epochs, so that what moves is a row and not
        the plane; two latents are drawn as they are. "tsne" (van der Maaten & Hinton 2008) keeps near rows near; each
        epoch begins at the map of the one before and is turned to it. It has no posterior covariances.

        Raises:
            UserError: for another `how`, a site that there is not or that has one dimension.
        """
        from ppl_vae.runs._maps import principal, t_sne

        check_choice("how", how, ("pca", "tsne"))
        name = self._site(site)
        means, deviations = self.means(name).double().numpy(), self.deviations(name).double().numpy()
        if means.shape[2] < 2 or means.shape[1] < 3:
            raise UserError(
                f"a map needs two dimensions and three rows, and {name} has {means.shape[2]} in {means.shape[1]}"
            )
        if how == "tsne":
            return Maps(t_sne(means, check_whole("seed", seed, 0)), None, ("t-SNE 1", "t-SNE 2"))
        return Maps(*principal(name, means, deviations))

    def summary(self) -> dict[str, Any]:
        """Plain numbers by epoch: the accuracy of neighbours, the mean posterior deviation."""
        found: dict[str, Any] = {"rows": len(self.rows), "epochs": ", ".join(map(str, self.epochs))}
        for record in self.frame().to_dict("records"):
            found |= {f"epoch {record['epoch']} {n}": v for n, v in record.items() if n != "epoch" and v == v}
        return found

    def frame(self) -> Any:
        """A DataFrame with a row for each epoch and site."""
        import pandas

        lines = []
        for i, one in enumerate(self.each):
            for site in self.sites:
                near = self.neighbours(i, site=site)
                told = {} if near is None else {"accuracy": near.accuracy, "accuracy_se": near.se}
                spread = {"spread of means": float(one.means[site].std(0, correction=0).mean())}
                lines.append({"epoch": one.epoch, "site": site} | told | spread | _mean_of(one.deviations[site]))
        frame = pandas.DataFrame(lines)
        return frame if len(self.sites) > 1 else frame.drop(columns="site")

    def figure(self, how: How = "pca", *, site: str | None = None, seed: int = 0) -> Figure:
        """A panel for each epoch, twelve at most: the map with posterior ellipses, and reconstructions below it."""
        from ppl_vae.runs._snapshot_figures import panels

        return panels(self, self.maps(how, site=site, seed=seed), self._site(site))

    def frames(self, how: How = "pca", *, site: str | None = None, seed: int = 0) -> list[Figure]:
        """A figure for each epoch, all of one size and, but for t-SNE, with the same axes."""
        from ppl_vae.runs._snapshot_figures import frame

        maps = self.maps(how, site=site, seed=seed)
        return [frame(self, maps, i, self._site(site)) for i in range(len(self))]

    def save(self, path: str | Path, how: How = "pca", *, site: str | None = None, seed: int = 0) -> Path:
        """Write a .png of all epochs, an animated .gif, an .npz of codes and reconstructions, or a .csv of `frame`.

        Raises:
            UserError: for another ending.
        """
        file = path_of("path", path)
        return write(file, self.content(file.suffix.lower(), how, site=site, seed=seed))

    def content(self, ending: str, how: How = "pca", *, site: str | None = None, seed: int = 0) -> bytes:
        """What `save` writes into a file with this ending."""
        from ppl_vae import plots

        if ending == ".png":
            return plots.to_png_bytes(self.figure(how, site=site, seed=seed))
        if ending == ".gif":
            from ppl_vae.runs._snapshot_figures import animated

            return animated(self.frames(how, site=site, seed=seed))
        if ending == ".npz":
            content = io.BytesIO()
            arrays: dict[str, Any] = {name.replace("/", " "): v.numpy() for name, v in self.tensors().items()}
            np.savez_compressed(content, **arrays)
            return content.getvalue()
        if ending == ".csv":
            return bytes(self.frame().to_csv(index=False, lineterminator="\n").encode())
        raise UserError(f"expected a file with the ending .png, .gif, .npz or .csv, got {ending or 'none'}")

    def until(self, epoch: int) -> Snapshots | None:
        """Those of epochs that were whole; None if there are none."""
        from dataclasses import replace

        kept = tuple(one for one in self.each if one.epoch <= epoch)
        return replace(self, each=kept) if kept else None

    # -- files -----------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name: epochs, rows, labels, values, and of each epoch its codes and reconstructions."""
        found = {"rows": torch.tensor(self.rows)} | {f"values/{n}": v for n, v in self.values.items()}
        found |= {} if self.labels is None else {"labels": self.labels}
        for one in self.each:
            for kind in _KINDS:
                found |= {f"{one.epoch}/{kind}/{name}": v for name, v in getattr(one, kind).items()}
        return found

    def packed(self, of: str) -> bytes:
        """The bytes of their file; `of` names the run that they are of."""
        about: dict[str, Any] = {"split": self.split, "label": self.label, "names": list(self.names), "of": of}
        about |= {"limits": {n: list(v) for n, v in self.limits.items()}}
        return pack(self.tensors(), about)


_KINDS = ("means", "deviations", "reconstructions")


def _mean_of(deviations: Tensor) -> dict[str, float]:
    return {} if bool(deviations.isnan().any()) else {"posterior deviation": float(deviations.mean())}


def read_snapshots(file: Path, of: str | None = None) -> Snapshots | None:
    """What a file holds; None where there is none.

    Raises:
        UserError: it is damaged, or of another run.
    """
    if not file.is_file():
        return None
    stored = read_tensors(file, REMEDY)
    with damaged(file, REMEDY):
        found = _unpacked(stored)
    if of is not None and stored.about["of"] != of:
        raise UserError(f"{file} is of another run: {REMEDY}")
    return found


def _unpacked(stored: Stored) -> Snapshots:
    tensors, about = stored.tensors, stored.about
    each: dict[int, dict[str, dict[str, Tensor]]] = {}
    values: dict[str, Tensor] = {}
    for name, value in tensors.items():
        head, _, rest = name.partition("/")
        if head == "values":
            values[rest] = value
        elif rest:
            kind, _, of = rest.partition("/")
            each.setdefault(int(head), {k: {} for k in _KINDS})[kind][of] = value
    taken = tuple(Snapshot(epoch, **parts) for epoch, parts in sorted(each.items()))
    if not taken or not taken[0].means:
        raise ValueError("it holds no epoch")
    limits = {str(n): (float(v[0]), float(v[1])) for n, v in about["limits"].items()}
    rows, names = tuple(tensors["rows"].tolist()), tuple(map(str, about["names"]))
    if any(len(v) != len(rows) for one in taken for v in one.means.values()):
        raise ValueError("its rows are not those of its codes")
    return Snapshots(
        taken, rows, str(about["split"]), values, tensors.get("labels"), str(about["label"]), names, limits
    )


def in_order(several: Sequence[Snapshot]) -> tuple[Snapshot, ...]:
    """By epoch."""
    return tuple(sorted(several, key=lambda one: one.epoch))
