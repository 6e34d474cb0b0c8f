"""The law of a power: |p|^2 / nu of p ~ N(c, V) in nu dimensions, a noncentral chi-square.

Its CDF at any noncentrality, its density through Bessel functions of any size, and the information
about V in it.
"""

import numpy as np
import numpy.typing as npt
from scipy import special

from runtime.priors import FloatArray


def degrees(n_ell: int) -> npt.NDArray[np.int64]:
    """nu = 2 ell + 1 of ell = 2, 3, ..., shape (n_ell,)."""
    return 2 * np.arange(2, 2 + n_ell) + 1


def power_cdf(
    x: npt.ArrayLike, nu: npt.ArrayLike, centre: npt.ArrayLike, V: npt.ArrayLike
) -> FloatArray:
    """CDF of |p|^2 / nu for p ~ N(c, V) of nu dimensions, |c|^2 = nu centre; broadcasts.

    V = 0 is a point mass at centre. Above a noncentrality of 1000 it is the approximation of
    Sankaran (1963, Biometrika 50, 199), within 3e-6, as the series takes sqrt(noncentrality) terms.
    """
    x, centre, V = np.broadcast_arrays(np.maximum(x, 0), centre, V)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        z, noncentrality = nu * x / V, nu * centre / V
    moderate = noncentrality <= 1000
    cdf = special.chndtr(z, nu, noncentrality, where=moderate, out=(x >= centre).astype(float))
    far = (noncentrality > 1000) & (noncentrality < 1e20)  # beyond, a point mass as well
    if far.any():
        k, s = noncentrality[far], nu + noncentrality[far]
        h = 1 - 2 * s * (nu + 3 * k) / (3 * (nu + 2 * k) ** 2)
        p, m = (nu + 2 * k) / s**2, (h - 1) * (1 - 3 * h)
        mean = 1 + h * p * (h - 1 - (2 - h) * m * p / 2)
        cdf[far] = special.ndtr(((z[far] / s) ** h - mean) / (h * np.sqrt(2 * p) * (1 + m * p / 2)))
    return cdf


def log_bessel(order: npt.ArrayLike, z: npt.ArrayLike) -> FloatArray:
    """log(exp(-z) I_order(z) z^-order), finite for any z >= 0; broadcasts."""
    order, z = np.broadcast_arrays(order, z)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = special.ive(order, z)
        out = np.log(scaled) - order * np.log(z)
    far = z > 1e8  # where ive gives up; DLMF 10.40.1
    v, big = order[far], z[far]
    out[far] = -np.log(2 * np.pi * big) / 2 - (4 * v**2 - 1) / (8 * big) - v * np.log(big)
    near = scaled == 0  # underflow; DLMF 10.25.2
    v, small = order[near], z[near]
    u = small**2 / 4 / (v + 1)
    out[near] = u - u**2 / (2 * v + 4) - small - special.gammaln(v + 1) - v * np.log(2)
    return out


def log_likelihood(y: FloatArray, C: FloatArray, F: FloatArray, nu: npt.NDArray) -> FloatArray:
    """log p(y | C) of y ~ (C / nu) ncx2(nu, nu F / C) but for terms without C; broadcasts.

    Args:
        y, C, F: Observed power, total Gaussian power, fixed power, uK^2; C > 0.
        nu: Dimensions.
    """
    gap = nu * (np.sqrt(y) - np.sqrt(F)) ** 2 / (2 * C)
    return log_bessel(nu / 2 - 1, nu * np.sqrt(y * F) / C) - gap - nu / 2 * np.log(C)


def power_information(C: FloatArray, F: npt.ArrayLike, num: int = 256) -> FloatArray:
    """Fisher information about C in y ~ (C / nu) ncx2(nu, nu F / C), shape of C (n_ell,), uK^-4.

    Variance of the score by Gauss-Legendre quadrature in sqrt(y): that is a length, of which no
    law of this kind holds more than 1e-16 farther than 9 sqrt(C / nu) from sqrt(C + F).
    """
    nodes, weights = np.polynomial.legendre.leggauss(num)
    C, F, nu = (np.broadcast_to(a, C.shape)[:, None] for a in (C, F, degrees(len(C))))
    middle, reach = np.sqrt(C + F), 9 * np.sqrt(C / nu)
    low, high = np.maximum(middle - reach, 0), middle + reach
    y = (low + (high - low) * (nodes + 1) / 2) ** 2
    log_density = log_likelihood(y, C, F, nu) + (nu - 1) / 2 * np.log(y)
    weights = weights * np.exp(log_density - log_density.max(axis=1, keepdims=True))
    z = nu * np.sqrt(y * F) / C
    # d log(I_v(z) / z^v) / dz = I_(v+1)(z) / I_v(z) (DLMF 10.29.4), here times z
    bessel = z**2 * np.exp(log_bessel(nu / 2, z) - log_bessel(nu / 2 - 1, z))
    score = (nu * (y + F) / (2 * C) - nu / 2 - bessel) / C
    return (weights * score**2).sum(axis=1) / weights.sum(axis=1)
