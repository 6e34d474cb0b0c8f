"""Exact posterior p(x | y) of a full-sky BB spectrum at a known signal power.

At each ell the sky is a vector of nu = 2 ell + 1 harmonic coefficients: the observation is
d = p + n + f with p ~ N(0, S), n ~ N(0, N) and a fixed f, |f|^2 = nu F. Only x = |p|^2 / nu and
y = |d|^2 / nu are kept, as D_ell in uK^2. With W = S / (S + N), V = W N,
    p | d ~ N(W (d - f), V),
so that x given y is a noncentral chi-square, mixed over what y leaves open: the angle between d
and f, and r, for which see `exact_r`. Arrays of draws are of shape (n, num_draws, n_ell).
"""

import functools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import special

from checks.noncentral import degrees, log_bessel, power_cdf
from runtime.priors import FloatArray


def wiener(S: npt.ArrayLike, N: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Weight W = S / (S + N) and variance V = W N of p given d; W = 0 where S = 0.

    Args:
        S, N: Power of signal and contaminant, broadcastable, uK^2, finite.

    Returns:
        W (without unit) and V (uK^2).
    """
    S, N = np.broadcast_arrays(np.asarray(S, float), np.asarray(N, float))
    W = np.divide(S, S + N, out=np.zeros(S.shape), where=S > 0)
    return W, W * N


class GaussianPosterior:
    """p(x | y) for Gaussian contaminants: (V / nu) ncx2(nu, nu W^2 y / V).

    Where S = 0, or N = 0 without a fixed foreground, it is a point mass, at 0 or at y.

    Args:
        y: Observed D_ell, shape (n, n_ell), uK^2; more leading axes are allowed.
        S, N: Power of signal and Gaussian contaminant, broadcastable to y, uK^2, finite.
    """

    def __init__(self, y: npt.ArrayLike, S: npt.ArrayLike, N: npt.ArrayLike) -> None:
        self.y = np.asarray(y, float)
        self.nu = degrees(self.y.shape[-1])
        self.W, self.V = (np.broadcast_to(a, self.y.shape) for a in wiener(S, N))

    @functools.cached_property
    def _nodes(self) -> list[tuple[FloatArray, FloatArray]]:
        """For each ell, |W (d - f)|^2 / nu and its probability, each of shape (n, k), uK^2."""
        return [
            (centre[..., None], np.ones(1)) for centre in np.moveaxis(self.W**2 * self.y, -1, 0)
        ]

    def _draw_centres(self, num_draws: int, rng: np.random.Generator) -> FloatArray:
        """Draws of |W (d - f)|^2 / nu, broadcastable to (n, num_draws, n_ell), uK^2."""
        return (self.W**2 * self.y)[..., None, :]

    def mean(self) -> FloatArray:
        """Posterior mean, shape (n, n_ell), uK^2; W^2 y + V without a fixed foreground."""
        return np.stack([(w * c).sum(-1) for c, w in self._nodes], axis=-1) + self.V

    def std(self) -> FloatArray:
        """Posterior standard deviation, shape (n, n_ell), uK^2."""
        mean = self.mean() - self.V
        between = [(w * (c - m[..., None]) ** 2).sum(-1) for (c, w), m in self._per_ell(mean)]
        within = (2 * self.V**2 + 4 * self.V * mean) / self.nu
        return np.sqrt(within + np.stack(between, axis=-1))

    def cdf(self, x: FloatArray) -> FloatArray:
        """P(truth <= x | y), right-continuous; x and the result of shape (n, num_draws, n_ell)."""
        out = np.zeros(np.shape(x))
        for i, ((centres, weights), V) in enumerate(self._per_ell(self.V)):
            for k in range(centres.shape[-1]):
                one = power_cdf(x[..., i], self.nu[i], centres[..., k, None], V[..., None])
                out[..., i] += weights[..., k, None] * one
        return out

    def logpdf(self, x: FloatArray) -> FloatArray:
        """log p(x | y) of each multipole, shape of x (n, n_ell), uK^-2; x, V > 0."""
        out = np.empty(np.shape(x))
        for i, ((centres, weights), V) in enumerate(self._per_ell(self.V)):
            nu, V = self.nu[i], V[..., None]
            z, k = nu * x[..., i, None] / V, nu * centres / V
            order = nu / 2 - 1
            log_density = order * np.log(z) + log_bessel(order, np.sqrt(z * k))
            log_density += np.log(nu / (2 * V)) - (np.sqrt(z) - np.sqrt(k)) ** 2 / 2
            out[..., i] = special.logsumexp(log_density, axis=-1, b=weights)
        return out

    def rvs(self, num_draws: int, rng: np.random.Generator) -> FloatArray:
        """Draws of x, shape (n, num_draws, n_ell), uK^2, from a `numpy.random.Generator`."""
        shape = (*self.y.shape[:-1], num_draws, len(self.nu))
        V, centres = self.V[..., None, :], self._draw_centres(num_draws, rng)
        along = np.sqrt(V) * rng.standard_normal(shape) + np.sqrt(self.nu * centres)
        return (along**2 + V * rng.chisquare(self.nu - 1, shape)) / self.nu

    def _per_ell(self, values: FloatArray) -> Iterator:
        return zip(self._nodes, np.moveaxis(values, -1, 0), strict=True)


class FixedForegroundPosterior(GaussianPosterior):
    """p(x | y) with a foreground on top whose every coefficient is the same in all skies.

    Given y, the direction of d is von Mises-Fisher about that of f with kappa =
    nu sqrt(y F) / (S + N), and |d - f|^2 = nu ((sqrt y - sqrt F)^2 + 2 sqrt(y F) (1 - cos)).
    The angle is integrated by quadrature, with more nodes the larger rho is, the ratio of the
    spread over angles to that at one angle. The CDF is within 1e-4 up to rho = 60 (S and F
    of 3600 N), and within 0.01 beyond, where it is a staircase at the nodes.

    Args:
        y: Observed D_ell, shape (n, n_ell), uK^2; more leading axes are allowed.
        S, N: Power of signal and Gaussian contaminant, broadcastable to y, uK^2; S + N > 0.
        F: Power of the foreground, broadcastable to y, uK^2.
    """

    def __init__(
        self, y: npt.ArrayLike, S: npt.ArrayLike, N: npt.ArrayLike, F: npt.ArrayLike
    ) -> None:
        super().__init__(y, S, N)
        S, N, self.F = (np.broadcast_to(np.asarray(a, float), self.y.shape) for a in (S, N, F))
        self.kappa = self.nu * np.sqrt(self.y * self.F) / (S + N)
        with np.errstate(divide="ignore", invalid="ignore"):
            rho = np.nan_to_num(np.sqrt(np.minimum(S, self.W * self.F) / N), nan=0.0)
        self._rho = np.minimum(rho.reshape(-1, len(self.nu)).max(axis=0), 60)
        self._nearest = (self.W * (np.sqrt(self.y) - np.sqrt(self.F))) ** 2
        self._slope = 2 * self.W**2 * np.sqrt(self.y * self.F)  # in 1 - cos(angle)

    @functools.cached_property
    def _nodes(self) -> list[tuple[FloatArray, FloatArray]]:
        nodes = []
        for i, (nu, rho) in enumerate(zip(self.nu, self._rho, strict=True)):
            height, weights = _angle_rule(self.kappa[..., i], nu, 16 + int(9 * rho))
            centres = self._nearest[..., i, None] + self._slope[..., i, None] * height
            nodes.append((centres, weights))
        return nodes

    def _draw_centres(self, num_draws: int, rng: np.random.Generator) -> FloatArray:
        kappa = np.repeat(self.kappa[..., None, :], num_draws, axis=-2)
        height = _draw_angles(kappa, self.nu, rng)
        return self._nearest[..., None, :] + self._slope[..., None, :] * height


def _angle_rule(kappa: FloatArray, nu: int, num: int) -> tuple[FloatArray, FloatArray]:
    """Quadrature over the angle to the mean of a von Mises-Fisher law in nu dimensions.

    The density of the angle is proportional to exp(kappa cos) sin^(nu - 2); Gauss-Legendre within
    7 widths of its mode.

    Args:
        kappa: Concentration, shape (n,).
        nu: Dimension.
        num: Nodes.

    Returns:
        1 - cos(angle) and probabilities, each of shape (n, num).
    """
    kappa = kappa[..., None]
    root = nu - 2 + np.hypot(nu - 2, 2 * kappa)
    cosine, sine_squared = 2 * kappa / root, 2 * (nu - 2) / root
    mode, width = np.arctan2(np.sqrt(sine_squared), cosine), 1 / np.sqrt(kappa * cosine + root / 2)
    low, high = np.maximum(mode - 7 * width, 0), np.minimum(mode + 7 * width, np.pi)
    nodes, weights = np.polynomial.legendre.leggauss(num)
    angle = low + (high - low) * (nodes + 1) / 2
    height = 2 * np.sin(angle / 2) ** 2
    log_density = (nu - 2) * np.log(np.sin(angle)) - kappa * height
    weights = weights * np.exp(log_density - log_density.max(-1, keepdims=True))
    return height, weights / weights.sum(-1, keepdims=True)


def _draw_angles(kappa: FloatArray, nu: npt.ArrayLike, rng: np.random.Generator) -> FloatArray:
    """1 - cos(angle) of von Mises-Fisher draws, shape of kappa (..., n_ell).

    Rejection of Wood (1994, Commun. Stat. Simul. Comput. 23, 157), in 1 - cos: nothing cancels
    however large kappa is.
    """
    nu = np.broadcast_to(nu, kappa.shape)
    b = (nu - 1) / (2 * kappa + np.hypot(2 * kappa, nu - 1))
    low = 2 * b / (1 + b)
    height = np.empty(kappa.shape)
    todo = np.ones(kappa.shape, bool)
    while todo.any():
        k, m, shape, lowest = kappa[todo], nu[todo] - 1, b[todo], low[todo]
        beta = rng.beta(m / 2, m / 2)
        trial = 2 * shape * beta / (1 - (1 - shape) * beta)
        ratio = (lowest + (1 - lowest) * trial) / (lowest * (2 - lowest))
        accept = k * (lowest - trial) + m * np.log(ratio) >= -rng.standard_exponential(len(k))
        index = np.flatnonzero(todo)[accept]
        height.flat[index] = trial[accept]
        todo.flat[index] = False
    return height
