"""Decoupled spectrum of part of the sky: bandpowers without noise, linear in the observation."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from runtime.jsonfiles import Json, to_json
from runtime.priors import FloatArray, field_names


@dataclasses.dataclass(frozen=True, eq=False)
class DecoupledSpectrum:
    """What makes unbiased bandpowers of an observation y: d = weights y - offset.

    A bandpower is the mean D_ell of its bin, through beam and window, of a sky that has the
    fiducial shape in it. Of any other Gaussian sky the mean of d is windows D_ell. Without noise
    in it, d may be negative.

    Attributes:
        edges: Of the bins, edges[b] <= ell < edges[b + 1], shape (n_bins + 1,).
        weights: Act on y, shape (n_bins, n_ell).
        offset: What noise adds to weights y, shape (n_bins,), uK^2.
        covariance: Of d at the fiducial sky, shape (n_bins, n_bins), uK^4.
        windows: Of the bandpowers in ell, shape (n_bins, n_ell).
    """

    edges: tuple[int, ...]
    weights: FloatArray
    offset: FloatArray
    covariance: FloatArray
    windows: FloatArray

    def __call__(self, y: FloatArray) -> FloatArray:
        """Bandpowers, D_ell in uK^2, shape (k, n_bins), of y of shape (k, n_ell), uK^2."""
        return y @ self.weights.T - self.offset

    @property
    def errors(self) -> FloatArray:
        """Standard deviations at the fiducial sky, shape (n_bins,), uK^2."""
        return np.sqrt(np.diagonal(self.covariance))

    @property
    def centres(self) -> FloatArray:
        """Middle of each bin, shape (n_bins,)."""
        edges = np.array(self.edges)
        return (edges[:-1] + edges[1:] - 1) / 2

    @classmethod
    def from_json(cls, content: Mapping[str, Any] | None) -> Self | None:
        """From the entry of a sidecar; None where there is none.

        Raises:
            ValueError: If the entry is damaged.
        """
        if content is None:
            return None
        try:
            edges = tuple(map(int, content["edges"]))
            arrays = [np.array(content[name], float) for name in field_names(cls)[1:]]
        except (KeyError, TypeError, ValueError, OverflowError):
            raise ValueError("decoupled is damaged") from None
        n_bins, n_ell = len(edges) - 1, arrays[0].shape[-1] if arrays[0].ndim else 0
        shapes = [(n_bins, n_ell), (n_bins,), (n_bins, n_bins), (n_bins, n_ell)]
        if (
            not (n_bins > 0 and n_ell > 0 and (np.diff(edges) > 0).all())
            or [array.shape for array in arrays] != shapes
            or not all(np.isfinite(array).all() for array in arrays)
            or not (np.diagonal(arrays[2]) >= 0).all()
        ):
            raise ValueError("decoupled is damaged")
        return cls(edges, *arrays)

    def to_json(self) -> Json:
        """Entry of a sidecar."""
        return {"bandpowers": "weights y - offset, D_ell in uK^2", **to_json(self)}
