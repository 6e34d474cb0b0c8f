"""Decoupled spectrum of part of the sky, for people: unbiased bandpowers and their covariance.

Sums of squares q of the estimator have the mean M C + b and, at the fiducial sky, the covariance
2 M: h = R^T C_v^-1 v has the covariance G = R^T C_v^-1 R there, and M holds the sums of G^2. With
C = P d, d the bandpowers and P the fiducial shape in each bin, generalised least squares give
    d = (P^T M P)^-1 P^T (q - b),   covariance 2 (P^T M P)^-1
(Tegmark & de Oliveira-Costa 2001, astro-ph/0012120). On the full sky d is the mean of y - N.
"""

from collections.abc import Sequence

import numpy as np

from runtime.decoupled import DecoupledSpectrum
from runtime.priors import FloatArray
from sky import cleaning, cosmology
from sky.masked import QuadraticEstimator

MAX_OVERLAP = 0.5  # of neighbours in the information: above, a mask does not tell them apart


def first_edges(nside: int) -> list[int]:
    """Edges of bins up to 3 nside: those of a cleaning, and one beyond."""
    return [*cleaning.default_bins(nside), 3 * nside]


def decoupled_spectrum(
    estimator: QuadraticEstimator, edges: Sequence[int] | None = None
) -> DecoupledSpectrum:
    """Decoupled spectrum of an estimator's y.

    Args:
        estimator: Of y.
        edges: Of the bins, from 2 to 3 nside; those of `first_edges` when None. Neighbours that
            the mask does not tell apart become one bin.
    """
    ell = estimator.ell
    edges = list(edges or first_edges((int(ell[-1]) + 1) // 3))
    per_dl = cosmology.dl_to_cl(np.ones(len(ell)), ell)
    while True:
        shapes = _shapes(estimator, edges)
        information = shapes.T @ estimator.mixing @ shapes
        scale = np.sqrt(np.diagonal(information))
        overlaps = np.diagonal(information, 1) / (scale[1:] * scale[:-1])
        if not len(overlaps) or overlaps.max() < MAX_OVERLAP:
            break
        del edges[1 + overlaps.argmax()]
    inverse = np.linalg.inv(information / np.outer(scale, scale)) / np.outer(scale, scale)
    weights = inverse @ shapes.T * per_dl / estimator.scale
    return DecoupledSpectrum(
        edges=tuple(edges),
        weights=weights,
        offset=weights @ estimator.dl_noise,
        covariance=2 * inverse,
        windows=inverse @ shapes.T @ estimator.mixing * per_dl,
    )


def _shapes(estimator: QuadraticEstimator, edges: Sequence[int]) -> FloatArray:
    """C_ell of bandpowers of 1 uK^2, one a column, shape (n_ell, n_bins)."""
    ell = estimator.ell
    dl = cosmology.cl_to_dl(estimator.cl_fiducial, ell)
    inside = (ell[:, None] >= edges[:-1]) & (ell[:, None] < edges[1:])
    means = (inside * dl[:, None]).sum(0) / inside.sum(0)
    return inside * estimator.cl_fiducial[:, None] / means
