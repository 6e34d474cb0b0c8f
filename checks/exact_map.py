"""The exact posterior of r, and of the spectrum, given a map of part of the sky.

A map comes as v = R (p + c) + g, see `sky.masked`: p are the primordial coefficients, of power
r S, c Gaussian contaminants of power N, g is N(0, 1). One singular value decomposition serves all
r: with L L^T = 1 + R N R^T and L^-1 R S^(1/2) = U diag(s) V^T, the entries of z = U^T L^-1 v are
independent, N(0, 1 + r s^2), and
    p = (r S)^(1/2) V w,  w | z ~ N(r^(1/2) s z, 1) / (1 + r s^2) in mean and variance,
while what V leaves out stays as its prior has it. The tilt lets S = D_ell / r vary with r, slowly:
log p(v | r) is interpolated between a few decompositions.
"""

import dataclasses
import functools
from typing import Self

import numpy as np
from scipy import linalg
from scipy.interpolate import BarycentricInterpolator

from checks.exact_r import GridPosterior, even_grid
from runtime.priors import FloatArray, SignalTemplate

NUM_NODES = 3  # decompositions over a range of r: the tilt bends S by 1 % up to r = 0.01


@dataclasses.dataclass(frozen=True, eq=False)
class MapModel:
    """Law of v given r, and the prior of r; powers are D_ell in uK^2 from ell = 2 on.

    Attributes:
        response: R, shape (n_data, n_modes): the 2 ell + 1 coefficients of each ell in turn, 1/uK.
        signal: Primordial power of r, of n_ell multipoles.
        dl_contaminant: N, shape (n_ell,).
        r_range: (r_min, r_max), r is uniform between.
    """

    response: FloatArray
    signal: SignalTemplate
    dl_contaminant: FloatArray
    r_range: tuple[float, float]

    @property
    def nu(self) -> FloatArray:
        """Coefficients of each ell, 2 ell + 1, shape (n_ell,)."""
        return 2 * np.arange(2.0, 2 + len(self.dl_contaminant)) + 1

    def per_mode(self, dl: FloatArray) -> FloatArray:
        """C_ell of each coefficient, shape (n_modes,), of D_ell."""
        ell = (self.nu - 1) / 2
        return np.repeat(2 * np.pi * dl / (ell * (ell + 1)), self.nu.astype(int))

    @functools.cached_property
    def nodes(self) -> FloatArray:
        """r of the decompositions, shape (k,): one where S does not vary with r."""
        if (self.signal.dl_per_r == self.signal.dl_per_r[0]).all():
            return np.mean(self.r_range, keepdims=True)
        return np.linspace(*self.r_range, NUM_NODES)

    @functools.cached_property
    def decompositions(self) -> list["Decomposition"]:
        """Those of `nodes`."""
        per_r = BarycentricInterpolator(self.signal.r_nodes, self.signal.dl_per_r)(self.nodes)
        contaminant = self.response * self.per_mode(self.dl_contaminant)
        noise = np.eye(len(self.response)) + contaminant @ self.response.T
        lower = linalg.cholesky(noise, lower=True, overwrite_a=True)
        return [Decomposition.of(self.response, lower, self.per_mode(dl)) for dl in per_r]

    def information(self, r: FloatArray) -> FloatArray:
        """Fisher information about r in a map, shape (k,), at r of shape (k,)."""
        s2 = self.decompositions[len(self.nodes) // 2].s ** 2
        return ((s2 / (1 + r[:, None] * s2)) ** 2).sum(1) / 2

    def log_likelihood(self, v: FloatArray, r: FloatArray) -> FloatArray:
        """log p(v | r) but for a constant, shape (n, k); v (n, n_data), r (k,)."""
        if len(self.nodes) == 1:
            return self.decompositions[0].log_likelihood(v, r)
        shares = BarycentricInterpolator(self.nodes, np.eye(len(self.nodes)))(r)
        each = [decomposition.log_likelihood(v, r) for decomposition in self.decompositions]
        return sum(part * share for part, share in zip(each, shares.T, strict=True))


@dataclasses.dataclass(frozen=True, eq=False)
class Decomposition:
    """What is known of r and p, for one shape S of the signal.

    Attributes:
        to_z: U^T L^-1, shape (k, n_data).
        s: Shape (k,).
        vectors: V, shape (n_modes, k).
        root: S^(1/2), shape (n_modes,).
    """

    to_z: FloatArray
    s: FloatArray
    vectors: FloatArray
    root: FloatArray

    @classmethod
    def of(cls, response: FloatArray, lower: FloatArray, cl_per_r: FloatArray) -> Self:
        """Decomposition of R, shape (n_data, n_modes), with L and S of each coefficient."""
        root = np.sqrt(cl_per_r)
        signal = linalg.solve_triangular(lower, response * root, lower=True)
        u, s, vt = linalg.svd(signal, full_matrices=False, overwrite_a=True)
        to_z = linalg.solve_triangular(lower, u, lower=True, trans="T").T
        return cls(to_z, s, vt.T, root)

    def log_likelihood(self, v: FloatArray, r: FloatArray) -> FloatArray:
        """log p(v | r) but for a constant, shape (n, k)."""
        power = 1 + r[:, None] * self.s**2
        return -((v @ self.to_z.T) ** 2 @ (1 / power).T + np.log(power).sum(1)) / 2

    def draw(self, v: FloatArray, r: FloatArray, rng: np.random.Generator) -> FloatArray:
        """p given v, shape (n, n_data), and r, (n,): one draw of each, shape (n, n_modes), uK."""
        weight = np.sqrt(r)[:, None] * self.s
        e = rng.standard_normal((len(v), len(self.root)))
        prior = e @ self.vectors
        w = (weight * (v @ self.to_z.T) + np.sqrt(1 + weight**2) * prior) / (1 + weight**2)
        return np.sqrt(r)[:, None] * self.root * (e + (w - prior) @ self.vectors.T)


class MapPosterior(GridPosterior):
    """p(r | map), and draws of spectra from p(x, r | map).

    Args:
        v: Reduced maps, shape (n, n_data).
        model: Law of v given r, and prior of r.
        num_grid: Points of the grid; more where that makes less than 10 to a Fisher error.
    """

    def __init__(self, v: FloatArray, model: MapModel, num_grid: int = 1000) -> None:
        self.v, self.model = v, model
        r = even_grid(model.information, model.r_range, num_grid)
        super().__init__(r, model.log_likelihood(v, r))

    def draw_spectra(self, r: FloatArray, rng: np.random.Generator) -> FloatArray:
        """x given the map and r, shape (n, m, n_ell), D_ell in uK^2; r of shape (n, m).

        The shape of the signal is that of the node nearest to r, which is within 0.3 % of r's up
        to r = 0.01.
        """
        model, nu = self.model, self.model.nu
        nearest = np.abs(r[..., None] - model.nodes).argmin(-1)
        starts = (np.cumsum(nu) - nu).astype(int)
        ell = (nu - 1) / 2
        x = np.empty((*r.shape, len(nu)))
        for k, decomposition in enumerate(model.decompositions):
            for column in range(r.shape[1]):
                rows = np.flatnonzero(nearest[:, column] == k)
                modes = decomposition.draw(self.v[rows], r[rows, column], rng)
                powers = np.add.reduceat(modes**2, starts, axis=1) / nu
                x[rows, column] = powers * ell * (ell + 1) / (2 * np.pi)
        return x
