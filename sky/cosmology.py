"""The microwave background: expected tensor and lensing BB, by CAMB.

All spectra are D_ell = ell (ell + 1) C_ell / 2 pi in uK^2 of CMB temperature, on the full sky,
through the beam where a function says so. Nothing here knows about files or flags.
"""

import numpy as np
import numpy.typing as npt

from runtime.priors import FloatArray, SignalTemplate

IntArray = npt.NDArray[np.int64]

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


def multipoles(nside: int) -> IntArray:
    """ell = 2 ... 2 nside - 1, shape (2 nside - 2,): what an NSIDE map resolves cleanly."""
    return np.arange(2, 2 * nside)


def cl_to_dl(cl: FloatArray, ell: IntArray) -> FloatArray:
    """D_ell = ell (ell + 1) C_ell / 2 pi; cl of shape (..., n_ell), ell of shape (n_ell,)."""
    return cl * ell * (ell + 1) / (2 * np.pi)


def dl_to_cl(dl: FloatArray, ell: IntArray) -> FloatArray:
    """C_ell = 2 pi D_ell / ell (ell + 1); dl of shape (..., n_ell), ell of shape (n_ell,)."""
    return dl * 2 * np.pi / (ell * (ell + 1))


def lensing_bb(ell: IntArray) -> FloatArray:
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


def tensor_bb(r: float, ell: IntArray) -> FloatArray:
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


def signal_template(
    r_min: float, r_max: float, ell: IntArray, num_nodes: int = 6
) -> SignalTemplate:
    """`SignalTemplate` of the primordial BB for r_min <= r <= r_max, without beam."""
    angles = np.pi * (np.arange(num_nodes) + 0.5) / num_nodes
    r_nodes = (r_min + r_max) / 2 - (r_max - r_min) / 2 * np.cos(angles)
    return SignalTemplate(r_nodes, np.array([tensor_bb(r, ell) / r for r in r_nodes]))
