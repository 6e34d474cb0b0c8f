"""The microwave background: tensor and lensing BB, and draws of realised spectra.

All spectra are D_ell = ell (ell + 1) C_ell / 2 pi in uK^2 of CMB temperature, on the full sky,
through the beam where a function says so. Nothing here knows about files or flags.
"""

import dataclasses

import numpy as np

# Planck 2018, TT,TE,EE+lowE+lensing (arXiv:1807.06209, Table 2), under CAMB's names; A_s and n_s
# at 0.05/Mpc. All are given to CAMB explicitly: none of its defaults may move our spectra.
COSMOLOGY = {
    "H0": 67.36,
    "ombh2": 0.02237,
    "omch2": 0.1200,
    "omk": 0.0,
    "mnu": 0.06,
    "tau": 0.0544,
    "As": 2.1e-9,
    "ns": 0.9649,
    "pivot_scalar": 0.05,
    "pivot_tensor": 0.05,
}


def multipoles(nside):
    """ell = 2 ... 2 nside - 1, shape (2 nside - 2,): what an NSIDE map resolves cleanly."""
    return np.arange(2, 2 * nside)


def cl_to_dl(cl, ell):
    """D_ell = ell (ell + 1) C_ell / 2 pi; cl of shape (..., n_ell), ell of shape (n_ell,)."""
    return cl * ell * (ell + 1) / (2 * np.pi)


def dl_to_cl(dl, ell):
    """C_ell = 2 pi D_ell / ell (ell + 1); dl of shape (..., n_ell), ell of shape (n_ell,)."""
    return dl * 2 * np.pi / (ell * (ell + 1))


# --- the cosmic microwave background ---------------------------------------------------------


def lensing_bb(ell):
    """BB that lensing makes of E modes, without beam.

    Args:
        ell: Multipoles, shape (n_ell,).

    Returns:
        D_ell, shape (n_ell,), uK^2. It comes from E and phi at high ell, so that CAMB's lmax has a
        floor of 2500 whatever ell is: within 0.05 % of a converged run.
    """
    import camb

    lmax = max(2500, int(ell[-1]) + 1501)
    params = camb.set_params(lmax=lmax, lens_potential_accuracy=2, **COSMOLOGY)
    return camb.get_results(params).get_lensed_scalar_cls(ell[-1], CMB_unit="muK")[ell, 2]


def tensor_bb(r, ell):
    """Primordial BB of gravitational waves, without beam.

    The tensor tilt follows r (nt = -r/8, single-field consistency), so BB is not quite
    proportional to r.

    Args:
        r: Tensor-to-scalar ratio at 0.05/Mpc.
        ell: Multipoles, shape (n_ell,).

    Returns:
        D_ell, shape (n_ell,), uK^2.
    """
    if r == 0:
        return np.zeros(len(ell))
    import camb

    params = camb.set_params(r=r, WantTensors=True, **COSMOLOGY)
    params.WantScalars = False
    # CAMB's power sags as ell nears its own maxima: these keep it within 0.5 % at ell = 1023.
    params.max_l_tensor = max(600, int(ell[-1]) + 100)
    params.max_eta_k_tensor = 4 * params.max_l_tensor
    return camb.get_results(params).get_tensor_cls(ell[-1], CMB_unit="muK")[ell, 2]


@dataclasses.dataclass(frozen=True)
class SignalTemplate:
    """Primordial BB at any r of a range, from its values at a few.

    D_ell / r varies with r through the tilt alone, so slowly that the polynomial through six
    Chebyshev nodes is as good as CAMB (1e-4, up to r_max = 1).

    Attributes:
        r_nodes: Tensor-to-scalar ratios, shape (k,).
        dl_per_r: D_ell / r there, shape (k, n_ell), uK^2.
    """

    r_nodes: np.ndarray
    dl_per_r: np.ndarray

    def __call__(self, r):
        """D_ell at each r, shape (n, n_ell), uK^2; r of shape (n,)."""
        from scipy.interpolate import BarycentricInterpolator

        return r[:, None] * BarycentricInterpolator(self.r_nodes, self.dl_per_r, rng=0)(r)


def signal_template(r_min, r_max, ell, num_nodes=6):
    """`SignalTemplate` of the primordial BB for r_min <= r <= r_max, without beam."""
    angles = np.pi * (np.arange(num_nodes) + 0.5) / num_nodes
    r_nodes = (r_min + r_max) / 2 - (r_max - r_min) / 2 * np.cos(angles)
    return SignalTemplate(r_nodes, np.array([tensor_bb(r, ell) / r for r in r_nodes]))


# --- realised spectra ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Sky:
    """Expected powers of what is observed; arrays of shape (n_ell,), D_ell in uK^2.

    Attributes:
        ell: Multipoles.
        dl_signal: S, Gaussian primordial B modes through the beam; (n, n_ell) where each of n
            rows has its own.
        dl_contaminant: N, everything else that is Gaussian and drawn anew for each sample; (n,
            n_ell) where each row has its own.
        dl_fixed_foreground: F, realised power of a foreground that is the same in all samples.
    """

    ell: np.ndarray
    dl_signal: np.ndarray
    dl_contaminant: np.ndarray
    dl_fixed_foreground: np.ndarray


# Each has a stream of random numbers: those of `draw_pairs`, r, and those of all modes and bands
VARIABLES = ("p1", "q", "n1", "n2", "t", "r")
VARIABLES += ("primordial", "lensing", "noise", "foreground", "parameters")
SPLITS = ("train", "test", "pilot")


def make_generators(seed, split, *r):
    """One independent random stream for each of `VARIABLES`.

    A variable that has its own stream takes the same numbers whatever the chunk size. The exact
    bits of r are part of the key: a row does not depend on the other r asked for beside it.

    Args:
        seed: Whole number, 0 or above.
        split: One of `SPLITS`; no two share a stream.
        r: Tensor-to-scalar ratio, or the two ends of its range.

    Returns:
        Dict from the names in `VARIABLES` to `numpy.random.Generator`.
    """
    bits = [int(np.float64(value).view(np.uint64)) for value in r]
    key = (SPLITS.index(split), *(half for b in bits for half in (b >> 32, b & 0xFFFFFFFF)))
    return {
        name: np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(*key, i)))
        for i, name in enumerate(VARIABLES)
    }


def draw_pairs(sky, n, generators):
    """Draw realised spectra of the primordial B modes, and of what is observed of them.

    At each ell the sky is a vector p of nu = 2 ell + 1 harmonic coefficients, and the observation
    is d = p + n + f. Only lengths matter, so that one axis can be laid along the fixed foreground
    f and the next into the plane of f and p; with p1, n1 along the first, n2 along the second,
    q = |p|^2 - p1^2 and t the rest of |n|^2:
        x = (p1^2 + q) / nu
        y = ((p1 + n1 + |f|)^2 + (sqrt(q) + n2)^2 + t) / nu
    This is exact: no map, no spherical transform.

    Args:
        sky: A `Sky` with n_ell multipoles.
        n: Number of pairs.
        generators: From `make_generators`; they advance, so that the next call goes on.

    Returns:
        x and y, realised D_ell of truth and observation, each of shape (n, n_ell), uK^2.
    """
    nu = 2 * sky.ell + 1
    shape = (n, len(sky.ell))

    def normal(name, power):
        return np.sqrt(power) * generators[name].standard_normal(shape)

    def chi_square(name, power, degrees):
        return 2 * power * generators[name].standard_gamma(degrees / 2, shape)

    signal, contaminant = sky.dl_signal, sky.dl_contaminant
    p1 = normal("p1", signal)
    q = chi_square("q", signal, nu - 1)
    x = (p1**2 + q) / nu
    along = p1 + normal("n1", contaminant) + np.sqrt(nu * sky.dl_fixed_foreground)
    across = np.sqrt(q) + normal("n2", contaminant)
    y = (along**2 + across**2 + chi_square("t", contaminant, nu - 2)) / nu
    return x, y
