"""Realised spectra of truth and observation, drawn exactly and without maps."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.priors import FloatArray
from sky import cosmology
from sky.cosmology import IntArray

RealArray = npt.NDArray[np.floating[Any]]
Generators = dict[str, np.random.Generator]


@dataclasses.dataclass(frozen=True, eq=False)
class ExpectedPowers:
    """Expected powers of what is observed; arrays of shape (n_ell,), D_ell in uK^2.

    Attributes:
        ell: Multipoles.
        dl_signal: S, Gaussian primordial B modes through the beam; (n, n_ell) where each of n
            rows has its own.
        dl_contaminant: N, everything else that is Gaussian and drawn anew for each sample; (n,
            n_ell) where each row has its own.
        dl_fixed_foreground: F, realised power of a foreground that is the same in all samples.
    """

    ell: IntArray
    dl_signal: FloatArray
    dl_contaminant: FloatArray
    dl_fixed_foreground: FloatArray


# Each has a stream of random numbers: those of `draw_pairs`, r, and those of all modes and bands
VARIABLES = (
    *("p1", "q", "n1", "n2", "t", "r"),
    *("primordial", "lensing", "noise", "foreground", "parameters"),
)
SPLITS = ("train", "test", "pilot")


def make_generators(seed: int, split: str, *r: float, block: int = 0) -> Generators:
    """One independent random stream for each of `VARIABLES`.

    A variable that has its own stream takes the same numbers whatever the chunk size. The exact
    bits of r are part of the key: a row does not depend on the other r asked for beside it.

    Args:
        seed: Whole number, 0 or above.
        split: One of `SPLITS`; no two share a stream.
        r: Tensor-to-scalar ratio, or the two ends of its range.
        block: Of rows, which no other block shares a number with.

    Returns:
        Dict from the names in `VARIABLES` to `numpy.random.Generator`.
    """
    bits = [int(np.float64(value).view(np.uint64)) for value in r]
    key = (SPLITS.index(split), *(half for b in bits for half in (b >> 32, b & 0xFFFFFFFF)))
    key += (block,) if block else ()  # keys differ in length from those of r alone
    return {
        name: np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(*key, i)))
        for i, name in enumerate(VARIABLES)
    }


def realised_bb(modes: RealArray, ell: IntArray) -> FloatArray:
    """D_ell of harmonic coefficients.

    Args:
        modes: The 2 ell + 1 real coefficients of each ell in turn, shape (..., n_modes), uK.
        ell: Multipoles, shape (n_ell,).

    Returns:
        Shape (..., n_ell), uK^2.
    """
    nu = 2 * ell + 1
    return cosmology.cl_to_dl(np.add.reduceat(modes**2, np.cumsum(nu) - nu, axis=-1) / nu, ell)


def draw_pairs(
    powers: ExpectedPowers, n: int, generators: Generators
) -> tuple[FloatArray, FloatArray]:
    """Draw realised spectra of the primordial B modes, and of what is observed of them.

    At each ell the sky is a vector p of nu = 2 ell + 1 harmonic coefficients, and the observation
    is d = p + n + f. Only lengths matter, so that one axis can be laid along the fixed foreground
    f and the next into the plane of f and p; with p1, n1 along the first, n2 along the second,
    q = |p|^2 - p1^2 and t the rest of |n|^2:
        x = (p1^2 + q) / nu
        y = ((p1 + n1 + |f|)^2 + (sqrt(q) + n2)^2 + t) / nu
    This is exact: no map, no spherical transform.

    Args:
        powers: Of n_ell multipoles.
        n: Number of pairs.
        generators: From `make_generators`; they advance, so that the next call goes on.

    Returns:
        x and y, realised D_ell of truth and observation, each of shape (n, n_ell), uK^2.
    """
    nu = 2 * powers.ell + 1
    shape = (n, len(powers.ell))

    def normal(name: str, power: FloatArray) -> FloatArray:
        return np.sqrt(power) * generators[name].standard_normal(shape)

    def chi_square(name: str, power: FloatArray, degrees: IntArray) -> FloatArray:
        return 2 * power * generators[name].standard_gamma(degrees / 2, shape)

    signal, contaminant = powers.dl_signal, powers.dl_contaminant
    p1 = normal("p1", signal)
    q = chi_square("q", signal, nu - 1)
    x = (p1**2 + q) / nu
    along = p1 + normal("n1", contaminant) + np.sqrt(nu * powers.dl_fixed_foreground)
    across = np.sqrt(q) + normal("n2", contaminant)
    y = (along**2 + across**2 + chi_square("t", contaminant, nu - 2)) / nu
    return x, y
