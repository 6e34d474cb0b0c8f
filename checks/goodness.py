"""Does a map follow the model? Chi-squares of its modes: overall, per multipole, of templates.

A reduced map v, see `sky.masked`, is N(0, C) with C = 1 + R S R^T under a model of power S. Then
v^T C^-1 v is a chi-square with as many degrees of freedom as v has numbers; so is, with fewer, the
part of it in the span of C^(-1/2) R of one multipole, and with one along a template. Another noise
shows most where there is little sky: v^T C^-2 v, the score of its level. A map that is not what the
model knows (another noise, another mask, E modes in the place of B) shows it here,
before any r is inferred from it.
"""

import dataclasses
import functools
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import linalg, stats

from runtime.priors import FloatArray

REFUSED = 1e-3  # of the smallest p-value, over all that was looked at


@dataclasses.dataclass(frozen=True, eq=False)
class ChiSquares:
    """Chi-squares of k maps.

    Attributes:
        value: Shape (k,).
        degrees: Of freedom.
    """

    value: FloatArray
    degrees: float

    @property
    def per_mode(self) -> FloatArray:
        """1 on average where the model holds, shape (k,)."""
        return self.value / self.degrees

    @property
    def p_value(self) -> FloatArray:
        """Two-sided: too little power is as odd as too much. Shape (k,)."""
        law = stats.chi2(self.degrees)
        return 2 * np.minimum(law.cdf(self.value), law.sf(self.value))


@dataclasses.dataclass(frozen=True, eq=False)
class Goodness:
    """Chi-squares of maps under a model.

    Attributes:
        overall: Of all numbers of a reduced map.
        noise: Of those that are noise rather than sky: a weighted sum of squares, scaled to the
            chi-square of its mean and variance.
        per_ell: Of the modes of each of `ell`.
        ell: Multipoles that have modes in the map, shape (n_ell,).
        templates: Of the amplitude of each template; empty without any.
    """

    overall: ChiSquares
    noise: ChiSquares
    per_ell: tuple[ChiSquares, ...]
    ell: npt.NDArray[np.intp]
    templates: tuple[ChiSquares, ...]

    @property
    def p_value(self) -> FloatArray:
        """The smallest of all, times their number (Bonferroni), at most 1; shape (k,).

        All of one kind, the multipoles say, count together as much as the one of another. They are
        not independent: it errs on the side of believing a map.
        """
        kinds = [(self.overall,), (self.noise,), self.per_ell, self.templates]
        kinds = [kind for kind in kinds if kind]
        smallest = [len(kind) * np.min([c.p_value for c in kind], axis=0) for kind in kinds]
        return np.minimum(1, len(kinds) * np.min(smallest, axis=0))

    @property
    def refused(self) -> npt.NDArray[np.bool_]:
        """Whether a map is not what the model knows, shape (k,)."""
        return self.p_value < REFUSED

    @property
    def worst_ell(self) -> npt.NDArray[np.intp]:
        """Multipole that is most of its standard deviations off, shape (k,).

        Not that of the smallest p-value: where a map is far off, many are 0.
        """
        off = [(each.per_mode - 1) * (each.degrees / 2) ** 0.5 for each in self.per_ell]
        return self.ell[np.abs(off).argmax(0)]


@dataclasses.dataclass(frozen=True, eq=False)
class MapTest:
    """Chi-squares of reduced maps under one model, made once for any number of maps.

    Attributes:
        lower: L of C = L L^T, shape (n_data, n_data).
        ell: Multipoles that have modes in the map, shape (n_ell,).
        spans: Orthonormal directions of each of them, shapes (n_data, k), of L^-1 v.
        templates: Directions of templates, shape (n_data, n_templates), of length 1.
    """

    lower: FloatArray
    ell: npt.NDArray[np.intp]
    spans: tuple[FloatArray, ...]
    templates: FloatArray

    @classmethod
    def of(
        cls, response: FloatArray, cl_per_mode: FloatArray, templates: FloatArray | None = None
    ) -> Self:
        """Test of the model in which each coefficient has its power.

        Args:
            response: R, shape (n_data, n_modes), the 2 ell + 1 coefficients of each ell in turn
                from ell = 2 on, 1/uK.
            cl_per_mode: Power of each, shape (n_modes,), uK^2.
            templates: Reduced maps of templates, shape (n_templates, n_data), of any amplitude.
        """
        covariance = np.eye(len(response)) + (response * cl_per_mode) @ response.T
        lower = linalg.cholesky(covariance, lower=True, overwrite_a=True)
        white = linalg.solve_triangular(lower, response, lower=True)
        ell = np.arange(2, round((response.shape[1] + 4) ** 0.5))
        columns = np.split(white, np.cumsum(2 * ell + 1)[:-1], axis=1)
        spans = [linalg.orth(part) for part in columns]
        seen = np.array([span.shape[1] > 0 for span in spans])
        directions = np.zeros((len(response), 0))
        if templates is not None:
            directions = linalg.solve_triangular(lower, templates.T, lower=True)
            directions /= np.linalg.norm(directions, axis=0)
        return cls(lower, ell[seen], tuple(span for span in spans if span.shape[1]), directions)

    @functools.cached_property
    def score_moments(self) -> tuple[float, float]:
        """Mean, and half of the variance, of v^T C^-2 v: the traces of C^-1 and C^-2."""
        inverse = linalg.solve_triangular(self.lower, np.eye(len(self.lower)), lower=True)
        return float((inverse**2).sum()), float(((inverse.T @ inverse) ** 2).sum())

    def __call__(self, v: FloatArray) -> Goodness:
        """Chi-squares of reduced maps, shape (k, n_data)."""
        white = linalg.solve_triangular(self.lower, v.T, lower=True)
        per_ell = tuple(
            ChiSquares(((span.T @ white) ** 2).sum(0), span.shape[1]) for span in self.spans
        )
        along = tuple(ChiSquares(row**2, 1) for row in self.templates.T @ white)
        score = (linalg.solve_triangular(self.lower, white, lower=True, trans="T") ** 2).sum(0)
        mean, half_variance = self.score_moments
        return Goodness(
            overall=ChiSquares((white**2).sum(0), len(white)),
            noise=ChiSquares(score * mean / half_variance, mean**2 / half_variance),
            per_ell=per_ell,
            ell=self.ell,
            templates=along,
        )
