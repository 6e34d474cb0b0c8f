"""The exact posterior of r, given a map of part of the sky, and of the coefficients behind it.

A map comes as v = R (p + c + f) + g, see `sky.masked`: p are the primordial coefficients, of power
r S, c Gaussian contaminants of power N, f a foreground that all maps share, g is N(0, 1). With
C = 1 + R N R^T one eigendecomposition serves all r,
    S^(1/2) R^T C^-1 R S^(1/2) = V diag(s2) V^T,  q = V^T S^(1/2) R^T C^-1 (v - R f):
p = (r S)^(1/2) V w, where the entries of w are independent, N(0, 1) before the map and
    w | q ~ N(r^(1/2) q, 1) / (1 + r s2) in mean and variance
after it. What the map does not see has s2 = 0 and stays as the prior has it. The tilt lets
S = D_ell / r vary with r, slowly: what depends on r is interpolated between a few decompositions.
"""

import dataclasses
import functools
from typing import Self

import numpy as np
from scipy import linalg
from scipy.interpolate import BarycentricInterpolator

from checks.exact_r import GridPosterior, even_grid
from checks.noncentral import degrees
from runtime.priors import FloatArray, SignalTemplate

NUM_NODES = 3  # decompositions over a range of r: the tilt bends S by 1 % up to r = 0.01
UNSEEN = 1e-13  # of the largest eigenvalue of R R^T: directions that say nothing of the sky


@dataclasses.dataclass(frozen=True, eq=False)
class MapLaw:
    """Law of v, but for the primordial power; powers are D_ell in uK^2 from ell = 2 on.

    Attributes:
        response: R, shape (n_data, n_modes): the 2 ell + 1 coefficients of each ell in turn, 1/uK.
        dl_contaminant: N, shape (n_ell,).
        fixed_modes: f, shape (n_modes,), uK; 0 without.
    """

    response: FloatArray
    dl_contaminant: FloatArray
    fixed_modes: FloatArray | float = 0.0

    @property
    def nu(self) -> FloatArray:
        """Coefficients of each ell, 2 ell + 1, shape (n_ell,)."""
        return degrees(len(self.dl_contaminant)).astype(float)

    def per_mode(self, dl: FloatArray) -> FloatArray:
        """C_ell of each coefficient, shape (n_modes,), of D_ell."""
        ell = (self.nu - 1) / 2
        return np.repeat(2 * np.pi * dl / (ell * (ell + 1)), self.nu.astype(int))

    @functools.cached_property
    def fixed(self) -> FloatArray:
        """R f, what the foreground makes of v, shape (n_data,)."""
        return self.response @ np.broadcast_to(self.fixed_modes, self.response.shape[1])

    @functools.cached_property
    def filtered(self) -> FloatArray:
        """C^-1 R, shape (n_data, n_modes)."""
        contaminant = self.response * np.sqrt(self.per_mode(self.dl_contaminant))
        covariance = np.eye(len(self.response)) + contaminant @ contaminant.T
        return linalg.cho_solve(linalg.cho_factor(covariance, overwrite_a=True), self.response)

    @functools.cached_property
    def fisher(self) -> FloatArray:
        """R^T C^-1 R, what a map says of p, shape (n_modes, n_modes), 1/uK^2."""
        return self.response.T @ self.filtered


@dataclasses.dataclass(frozen=True, eq=False)
class Decomposition:
    """What is known of r and p, for one shape S of the signal.

    Attributes:
        to_q: S^(1/2) V and all else that makes q of v, shape (n_modes, n_data).
        offset: q of the fixed foreground, shape (n_modes,).
        s2: Shape (n_modes,), >= 0.
        vectors: V, shape (n_modes, n_modes).
        root: S^(1/2), shape (n_modes,), uK.
    """

    to_q: FloatArray
    offset: FloatArray
    s2: FloatArray
    vectors: FloatArray
    root: FloatArray

    @classmethod
    def of(cls, law: MapLaw, dl_shape: FloatArray) -> Self:
        """That of a signal of power r S, with S of shape (n_ell,), D_ell in uK^2."""
        root = np.sqrt(law.per_mode(dl_shape))
        s2, vectors = linalg.eigh(root[:, None] * law.fisher * root, overwrite_a=True, driver="evd")
        to_q = (vectors.T * root) @ law.filtered.T
        return cls(to_q, to_q @ law.fixed, np.maximum(s2, 0), vectors, root)

    def reduce(self, v: FloatArray) -> FloatArray:
        """q of v, shape (n, n_data): all that it says of r and p, shape (n, n_modes)."""
        return v @ self.to_q.T - self.offset

    def log_likelihood(self, q: FloatArray, r: FloatArray) -> FloatArray:
        """log p(v | r) but for a term without r and S, shape (n, k); q (n, n_modes), r (k,)."""
        power = 1 + r[:, None] * self.s2
        return (q**2 @ (r[:, None] / power).T - np.log(power).sum(1)) / 2

    def information(self, r: FloatArray) -> FloatArray:
        """Fisher information about r in a map, shape (k,), at r of shape (k,)."""
        return ((self.s2 / (1 + r[:, None] * self.s2)) ** 2).sum(1) / 2

    def draw(
        self, q: FloatArray, r: FloatArray, num_modes: int, rng: np.random.Generator
    ) -> FloatArray:
        """The first coefficients p given q, shape (n, n_modes), and r, (n,): one draw of each.

        Returns:
            Shape (n, num_modes), uK.
        """
        r = r[:, None]
        power = 1 + r * self.s2
        w = (np.sqrt(r) * q + np.sqrt(power) * rng.standard_normal(q.shape)) / power
        return np.sqrt(r) * self.root[:num_modes] * (w @ self.vectors[:num_modes].T)


@dataclasses.dataclass(frozen=True, eq=False)
class MapModel:
    """Law of v given r, and the prior of r.

    Attributes:
        law: Of v, but for the primordial power.
        signal: Primordial power of r, of n_ell multipoles.
        r_range: (r_min, r_max), r is uniform between.
    """

    law: MapLaw
    signal: SignalTemplate
    r_range: tuple[float, float]

    @functools.cached_property
    def nodes(self) -> FloatArray:
        """r of the decompositions, shape (k,): one where S does not vary with r."""
        if (self.signal.dl_per_r == self.signal.dl_per_r[0]).all():
            return np.mean(self.r_range, keepdims=True)
        return np.linspace(*self.r_range, NUM_NODES)

    @functools.cached_property
    def decompositions(self) -> list[Decomposition]:
        """Those of `nodes`."""
        per_r = BarycentricInterpolator(self.signal.r_nodes, self.signal.dl_per_r)(self.nodes)
        return [Decomposition.of(self.law, dl) for dl in per_r]

    def shares(self, r: FloatArray) -> FloatArray:
        """Weight of each decomposition in what is interpolated to r, shape (num_nodes, k)."""
        if len(self.nodes) == 1:
            return np.ones((1, len(r)))
        return BarycentricInterpolator(self.nodes, np.eye(len(self.nodes)))(r).T

    def information(self, r: FloatArray) -> FloatArray:
        """Fisher information about r in a map, shape (k,), at r of shape (k,)."""
        each = np.array([decomposition.information(r) for decomposition in self.decompositions])
        return (self.shares(r) * each).sum(0)

    def reduce(self, v: FloatArray) -> list[FloatArray]:
        """q of each decomposition, shape (n, n_modes) each; v of shape (n, n_data)."""
        return [decomposition.reduce(v) for decomposition in self.decompositions]

    def log_likelihood(self, q: list[FloatArray], r: FloatArray) -> FloatArray:
        """log p(v | r) but for a constant of each map, shape (n, k); q of `reduce`, r (k,)."""
        parts = zip(self.decompositions, q, self.shares(r), strict=True)
        return np.asarray(sum(part.log_likelihood(each, r) * share for part, each, share in parts))


class MapPosterior(GridPosterior):
    """p(r | map).

    Args:
        v: Reduced maps, shape (n, n_data).
        model: Law of v given r, and prior of r.
        num_grid: Points of the grid; more where that makes less than 10 to a Fisher error.

    Attributes:
        q: What the maps say, of each decomposition of the model, shape (n, n_modes) each.
    """

    def __init__(self, v: FloatArray, model: MapModel, num_grid: int = 1000) -> None:
        self.model, self.q = model, model.reduce(v)
        r = even_grid(model.information, model.r_range, num_grid)
        super().__init__(r, model.log_likelihood(self.q, r))


def recover(u: FloatArray, response: FloatArray) -> FloatArray:
    """Reduced maps of their sufficient statistic u = R^T v, which does not depend on a basis of v.

    Where the singular value of R is above 3e-7 of the largest, the result is v itself; elsewhere,
    where v is noise alone, it goes to 0. If R stands for Q R, as from another machine's pivoting,
    so does v for Q v.

    Args:
        u: Shape (n, n_modes), double precision.
        response: R, shape (n_data, n_modes).

    Returns:
        v, shape (n, n_data).
    """
    gram = response @ response.T
    ridge = UNSEEN * linalg.eigvalsh(gram, subset_by_index=(len(gram) - 1, len(gram) - 1))
    factor = linalg.cho_factor(gram + ridge * np.eye(len(gram)), overwrite_a=True)
    return linalg.cho_solve(factor, response @ u.T).T
