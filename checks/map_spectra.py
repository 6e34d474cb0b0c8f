"""The exact posterior of the spectrum x, given a map of part of the sky: at one r, and unknown r.

x is the realised primordial D_ell of the full sky at ell = 2 ... n_x + 1. Given a map and r the
coefficients of an ell are Gaussian, with mean m and covariance Sigma, see `exact_map`, and
x = |p|^2 / nu has
    E x = (|m|^2 + tr Sigma) / nu,  Var x = (2 tr Sigma^2 + 4 m^T Sigma m) / nu^2.
"""

import functools

import numpy as np
from scipy.interpolate import BarycentricInterpolator

from checks.exact_map import Decomposition, MapLaw, MapPosterior
from checks.noncentral import degrees
from runtime.priors import FloatArray

PANEL, PANEL_NODES = 4.0, 15  # length in t, and nodes of r: exp(-15 arcsinh(2 pi / 4)) = 1e-8


def power(modes: FloatArray) -> FloatArray:
    """D_ell of coefficients, shape (n, n_modes): (n, n_x), uK^2."""
    nu = degrees(round((modes.shape[-1] + 4) ** 0.5) - 2)
    cl = np.add.reduceat(modes**2, np.cumsum(nu) - nu, axis=-1) / nu
    return cl * (nu**2 - 1) / (8 * np.pi)


def moments(
    decomposition: Decomposition, q: FloatArray, r: float, n_x: int
) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of x given maps and r.

    Args:
        decomposition: Of the signal's shape.
        q: What the maps say, shape (n, n_modes).
        r: A number; of `Decomposition.of` a power itself it is 1.
        n_x: Multipoles.

    Returns:
        uK^2 and uK^4, shape (n, n_x) each.
    """
    nu = degrees(n_x)
    gain = r / (1 + r * decomposition.s2)
    vectors, root = decomposition.vectors[: nu.sum()], decomposition.root[: nu.sum()]
    modes = root * ((gain * q) @ vectors.T)
    mean, variance = np.empty((2, len(q), n_x))
    for i, stop in enumerate(np.cumsum(nu)):
        block = slice(stop - nu[i], stop)
        seen = (vectors[block] * (gain * decomposition.s2)) @ vectors[block].T
        sigma = r * root[block, None] * (np.eye(nu[i]) - seen) * root[block]
        m = modes[:, block]
        mean[:, i] = (m**2).sum(1) + np.trace(sigma)
        variance[:, i] = 2 * (sigma**2).sum() + 4 * ((m @ sigma) * m).sum(1)
    to_dl = (nu**2 - 1) / (8 * np.pi * nu)  # ell (ell + 1) = (nu^2 - 1) / 4
    return mean * to_dl, variance * to_dl**2


def mean_moments(decomposition: Decomposition, r: float, n_x: int) -> tuple[FloatArray, FloatArray]:
    """Over maps of one r, variance of E[x | map, r] and mean variance of p(x | map, r).

    Args:
        decomposition, r, n_x: As for `moments`.

    Returns:
        uK^4, shape (n_x,) each; together the variance of x.
    """
    nu = degrees(n_x)
    vectors, root = decomposition.vectors[: nu.sum()], decomposition.root[: nu.sum()]
    share = r * decomposition.s2 / (1 + r * decomposition.s2)
    of_mean, of_x = np.empty((2, n_x))
    for i, stop in enumerate(np.cumsum(nu)):
        block = slice(stop - nu[i], stop)
        modes = r * root[block, None] * ((vectors[block] * share) @ vectors[block].T) * root[block]
        of_mean[i], of_x[i] = 2 * (modes**2).sum(), 2 * (r**2 * root[block] ** 4).sum()
    to_dl = (nu**2 - 1) / (8 * np.pi * nu)
    return of_mean * to_dl**2, (of_x - of_mean) * to_dl**2


class SpectrumPosterior:
    """p(x | map) at a known power of the signal.

    Args:
        v: Reduced maps, shape (n, n_data).
        law: Of v, but for the signal.
        dl_signal: Power of the signal, shape (n_ell,), D_ell in uK^2, above 0.
        n_x: Multipoles of x, at most n_ell.
    """

    def __init__(self, v: FloatArray, law: MapLaw, dl_signal: FloatArray, n_x: int) -> None:
        self.n_x = n_x
        self._decomposition = Decomposition.of(law, dl_signal)
        self._q = self._decomposition.reduce(v)

    @functools.cached_property
    def _moments(self) -> tuple[FloatArray, FloatArray]:
        return moments(self._decomposition, self._q, 1.0, self.n_x)

    def mean(self) -> FloatArray:
        """Posterior mean, shape (n, n_x), uK^2."""
        return self._moments[0]

    def std(self) -> FloatArray:
        """Posterior standard deviation, shape (n, n_x), uK^2."""
        return np.sqrt(self._moments[1])

    def rvs(self, num_draws: int, rng: np.random.Generator) -> FloatArray:
        """Draws of x, shape (n, num_draws, n_x), uK^2, from a `numpy.random.Generator`."""
        r, num_modes = np.ones(len(self._q)), int(degrees(self.n_x).sum())
        draws = (self._decomposition.draw(self._q, r, num_modes, rng) for _ in range(num_draws))
        return np.stack([power(modes) for modes in draws], axis=1)

    def draw_row(self, row: int, num_draws: int, rng: np.random.Generator) -> FloatArray:
        """Draws of x of one map, shape (num_draws, n_x), uK^2."""
        q = np.broadcast_to(self._q[row], (num_draws, self._q.shape[1]))
        num_modes = int(degrees(self.n_x).sum())
        return power(self._decomposition.draw(q, np.ones(num_draws), num_modes, rng))


class MarginalSpectrumPosterior:
    """p(x | map) for unknown r: p(x | map, r) mixed over p(r | map).

    All maps share the nodes of r between which moments are interpolated, by polynomials in
    t = log(1 + r max s2). Moments are smooth functions of r / (1 + r s2), so that in t they are
    analytic as far as pi from the real axis, and the error of k Chebyshev nodes over a length T of
    t goes down as exp(-k arcsinh(2 pi / T)). Panels keep it small beside the moments themselves,
    however small these are at one end of the range.

    Args:
        r_posterior: p(r | map) of the same maps.
        n_x: Multipoles of x, at most those of the signal.
    """

    def __init__(self, r_posterior: MapPosterior, n_x: int) -> None:
        self.r_posterior, self.n_x = r_posterior, n_x

    @functools.cached_property
    def _moments(self) -> tuple[FloatArray, FloatArray]:
        """Mean of x and mean of x^2, shape (n, n_x) each."""
        posterior, model = self.r_posterior, self.r_posterior.model
        nodes, basis = self._nodes()
        first = second = np.zeros(())
        for weight, r, shares in zip(
            posterior.expect(basis).T, nodes, model.shares(nodes).T, strict=True
        ):
            mean, variance = self._at(r, shares)
            first = first + weight[:, None] * mean
            second = second + weight[:, None] * (variance + mean**2)
        return first, second

    def _nodes(self) -> tuple[FloatArray, FloatArray]:
        """Nodes of r, shape (k,), and their polynomials on the grid of r, shape (num_grid, k)."""
        posterior, model = self.r_posterior, self.r_posterior.model
        scale = max(decomposition.s2.max() for decomposition in model.decompositions)
        t = np.log1p(scale * posterior.r)
        edges = np.linspace(t[0], t[-1], 1 + max(1, int(np.ceil((t[-1] - t[0]) / PANEL))))
        panel = np.clip(np.searchsorted(edges, t, side="right") - 1, 0, len(edges) - 2)
        cosine = np.cos(np.pi * (np.arange(PANEL_NODES) + 0.5) / PANEL_NODES)
        nodes = edges[:-1, None] + np.diff(edges)[:, None] * (1 + cosine) / 2
        basis = np.zeros((len(t), *nodes.shape))
        for k, part in enumerate(nodes):
            inside = panel == k
            basis[inside, k] = BarycentricInterpolator(part, np.eye(PANEL_NODES))(t[inside])
        return np.expm1(nodes.ravel()) / scale, basis.reshape(len(t), -1)

    def _at(self, r: float, shares: FloatArray) -> FloatArray:
        """Mean and variance given r, shape (2, n, n_x)."""
        parts = zip(self.r_posterior.model.decompositions, self.r_posterior.q, shares, strict=True)
        return np.asarray(
            sum(share * np.array(moments(part, q, r, self.n_x)) for part, q, share in parts)
        )

    def mean(self) -> FloatArray:
        """Posterior mean, shape (n, n_x), uK^2."""
        return self._moments[0]

    def std(self) -> FloatArray:
        """Posterior standard deviation, shape (n, n_x), uK^2."""
        first, second = self._moments
        return np.sqrt(second - first**2)

    def rvs(self, num_draws: int, rng: np.random.Generator) -> FloatArray:
        """Draws of x, shape (n, num_draws, n_x), uK^2: r first, then x given r."""
        return self.given(self.r_posterior.rvs(num_draws, rng), rng)

    def given(self, r: FloatArray, rng: np.random.Generator) -> FloatArray:
        """x given the map and r, shape (n, m, n_x), uK^2: one draw for each r of shape (n, m).

        The shape of the signal is that of the node nearest to r, which is within 0.3 % of r's up
        to r = 0.01.
        """
        model, q = self.r_posterior.model, self.r_posterior.q
        nearest = np.abs(r[..., None] - model.nodes).argmin(-1)
        x = np.empty((*r.shape, self.n_x))
        num_modes = int(degrees(self.n_x).sum())
        for k, decomposition in enumerate(model.decompositions):
            for column in range(r.shape[1]):
                rows = np.flatnonzero(nearest[:, column] == k)
                modes = decomposition.draw(q[k][rows], r[rows, column], num_modes, rng)
                x[rows, column] = power(modes)
        return x

    def draw_row(self, row: int, num_draws: int, rng: np.random.Generator) -> FloatArray:
        """Draws of x of one map, shape (num_draws, n_x), uK^2: r first, then x given r."""
        model, num_modes = self.r_posterior.model, int(degrees(self.n_x).sum())
        r = self.r_posterior.quantile(rng.random(num_draws))[row]
        nearest = np.abs(r[:, None] - model.nodes).argmin(-1)
        x = np.empty((num_draws, self.n_x))
        for k, decomposition in enumerate(model.decompositions):
            q = self.r_posterior.q[k][row]
            of_node = nearest == k
            same = np.broadcast_to(q, (int(of_node.sum()), len(q)))
            x[of_node] = power(decomposition.draw(same, r[of_node], num_modes, rng))
        return x
