"""Q and U of every harmonic coefficient in the pixels of a map: what makes a masked sky linear.

Coefficients are real: of each ell in turn a_l0, then sqrt(2) Re a_lm of m = 1 ... ell, then
sqrt(2) Im a_lm. Each has the variance C_ell; `realisations.realised_bb` takes them in this order.
"""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from runtime.priors import FloatArray
from sky.cosmology import IntArray

Number = TypeVar("Number", bound=np.generic)
ComplexArray = npt.NDArray[np.complex128]


def mode_ell(ell_max: int) -> IntArray:
    """ell of each coefficient of ell = 2 ... ell_max, shape (n_modes,)."""
    ell = np.arange(2, ell_max + 1)
    return np.repeat(ell, 2 * ell + 1)


def per_mode(values: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """Values at ell = 2, 3, ..., shape (..., n_ell), of each coefficient, shape (..., n_modes)."""
    return values[..., mode_ell(values.shape[-1] + 1) - 2]


def sum_modes(values: FloatArray, ell: IntArray) -> FloatArray:
    """Sums over the coefficients of each ell, shape (n_ell, k), of values, shape (n_modes, k)."""
    nu = 2 * ell + 1
    return np.add.reduceat(values, np.cumsum(nu) - nu, axis=0)


def alm_places(ell_max: int) -> tuple[IntArray, ComplexArray]:
    """Where each real coefficient stands among healpy's, and by what it is multiplied there.

    Args:
        ell_max: Largest multipole.

    Returns:
        Numbers of healpy's a_lm, shape (n_modes,), and 1, 1/sqrt(2) or i/sqrt(2), likewise: a_lm is
        the sum of its coefficients times these.
    """
    import healpy

    places, factors = [], []
    for ell in range(2, ell_max + 1):
        m = np.arange(ell + 1)
        places.append(healpy.Alm.getidx(ell_max, ell, np.concatenate([m, m[1:]])))
        factors.append(2**-0.5 * np.where(np.arange(2 * ell + 1) <= ell, 1, 1j))
        factors[-1][0] = 1
    return np.concatenate(places), np.concatenate(factors)


def to_alm(modes: FloatArray, ell_max: int) -> ComplexArray:
    """healpy's a_lm, shape (size,), of real coefficients, shape (n_modes,)."""
    import healpy

    places, factors = alm_places(ell_max)
    alm = np.zeros(healpy.Alm.getsize(ell_max), complex)
    np.add.at(alm, places, factors * modes)
    return alm


def from_alm(alm: ComplexArray, ell_max: int) -> FloatArray:
    """Real coefficients, shape (..., n_modes), of healpy's a_lm, shape (..., size)."""
    places, factors = alm_places(ell_max)
    return (alm[..., places] * factors.conj()).real / np.abs(factors) ** 2


def polarisation_modes(nside: int, ell_max: int, pixels: IntArray) -> FloatArray:
    """Q and U of B modes of unit coefficients; `as_e_modes` makes those of E modes of them.

    Args:
        nside: HEALPix NSIDE.
        ell_max: Largest multipole.
        pixels: RING numbers of the pixels that are seen, shape (n_pix,).

    Returns:
        Shape (2 n_pix, n_modes): Q in these pixels, then U, in the COSMO convention.
    """
    import healpy

    theta, phi = healpy.pix2ang(nside, pixels)
    rings, ring = np.unique(theta, return_inverse=True)
    columns = np.empty(((ell_max + 1) ** 2 - 4, 2, len(pixels)))
    for m in range(ell_max + 1):
        ell = np.arange(max(m, 2), ell_max + 1)
        plus, minus = (_wigner_d(ell, m, spin, rings) for spin in (2, -2))
        norm = np.sqrt((2 * ell[:, None] + 1) / (8 * np.pi if m else 16 * np.pi))
        even, odd = (norm * (plus + minus))[:, ring], (norm * (minus - plus))[:, ring]
        cosine, sine = np.cos(m * phi), np.sin(m * phi)
        real = ell**2 - 4 + m  # where a_lm stands, sqrt(2) Re a_lm for m > 0
        columns[real, 0], columns[real, 1] = odd * sine, -even * cosine
        if m:
            columns[real + ell, 0], columns[real + ell, 1] = odd * cosine, even * sine
    return columns.reshape(len(columns), -1).T


def _wigner_d(ell: IntArray, m: int, spin: int, theta: FloatArray) -> FloatArray:
    """Wigner's d^ell_(m spin), with Jacobi polynomials, shape (n_ell, n_theta).

    Args:
        ell: From max(m, 2) on.
        m: 0 or above.
        spin: 2 or -2.
        theta: Colatitudes, shape (n_theta,).
    """
    from scipy import special

    a, b, k = abs(m - spin), abs(m + spin), (ell - max(m, 2))[:, None]
    log = special.gammaln
    scale = np.exp((log(k + 1) + log(k + a + b + 1) - log(k + a + 1) - log(k + b + 1)) / 2)
    sign = -1 if m % 2 and (m > 1 or spin < 0) else 1
    powers = np.sin(theta / 2) ** a * np.cos(theta / 2) ** b
    return sign * scale * powers * special.eval_jacobi(k, a, b, np.cos(theta))


def as_e_modes(b_modes: FloatArray) -> FloatArray:
    """Q and U of E modes, shape (2 n_pix, n_modes), of those of B modes: turned by 45 degrees."""
    q, u = np.split(b_modes, 2)
    return np.concatenate([u, -q])
