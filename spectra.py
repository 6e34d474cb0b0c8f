"""The sky: tensor and lensing BB, foregrounds, noise, beam, and draws of realised spectra.

All spectra are D_ell = ell (ell + 1) C_ell / 2 pi in uK^2 of CMB temperature, on the full sky,
through the beam where a function says so. Nothing here knows about files or flags.
"""

import contextlib
import dataclasses
import logging
import re

import numpy as np

from cli import InputError

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
    """D_ell = ell (ell + 1) C_ell / 2 pi; cl and ell of shape (n_ell,), the unit stays."""
    return cl * ell * (ell + 1) / (2 * np.pi)


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


# --- the instrument --------------------------------------------------------------------------


def beam_power(fwhm_arcmin, ell):
    """Squared B-mode window of a Gaussian beam, shape (n_ell,); 1 for a beam of width 0."""
    import healpy

    fwhm = np.radians(fwhm_arcmin / 60)
    return healpy.gauss_beam(fwhm, lmax=int(ell[-1]), pol=True)[ell, 2] ** 2


def white_noise_bb(noise_uk_arcmin, ell):
    """D_ell of white noise of a given depth in polarisation, shape (n_ell,), uK^2; no beam."""
    nl_bb = np.radians(noise_uk_arcmin / 60) ** 2
    return cl_to_dl(np.full(len(ell), nl_bb), ell)


# --- foregrounds: power laws in ell ----------------------------------------------------------


def _modified_blackbody(freq_ghz, freq_ref_ghz, beta, temperature):
    from pysm3.models.dust import get_emission_numba

    # py_func is PySM3's own law, uncompiled: compiling it takes 8 s, and this is one number.
    one = np.ones(1)
    law, refs = get_emission_numba.py_func, (freq_ref_ghz, freq_ref_ghz)
    return law(np.array([freq_ghz]), one, one, one, one, *refs, beta, temperature)[1, 0]


def _power_law(freq_ghz, freq_ref_ghz, beta):
    from pysm3.models.power_law import get_emission_numba_IQU

    one = np.ones(1)
    law, refs = get_emission_numba_IQU.py_func, (freq_ref_ghz, freq_ref_ghz)
    return law(np.array([freq_ghz]), one, one, one, one, *refs, beta)[1, 0]


LAWS = {"modified blackbody": _modified_blackbody, "power law": _power_law}

# D_ell^BB = amplitude (ell / 80)^alpha uK_CMB^2 at freq_ref_ghz; beta is the spectral index of
# the brightness temperature (uK_RJ), the temperature is in K. The values are those with which the
# Simons Observatory forecast makes its Gaussian foregrounds (arXiv:2302.04276), on 10 % of the sky.
GAUSSIAN_FOREGROUNDS = {
    "dust": {
        "amplitude": 28.0,
        "alpha": -0.16,
        "freq_ref_ghz": 353.0,
        "law": "modified blackbody",
        "law_parameters": {"beta": 1.54, "temperature": 20.0},
    },
    "synchrotron": {
        "amplitude": 1.6,
        "alpha": -0.93,
        "freq_ref_ghz": 23.0,
        "law": "power law",
        "law_parameters": {"beta": -3.0},
    },
}


def emission_ratio(freq_ghz, freq_ref_ghz, law, law_parameters):
    """Amplitude in uK_CMB at one frequency over that at another, by PySM3's laws and units.

    Args:
        freq_ghz: Frequency wanted, GHz.
        freq_ref_ghz: Frequency at which the amplitude is known, GHz.
        law: A key of `LAWS`.
        law_parameters: Its keyword arguments.

    Returns:
        A float; power scales with its square.
    """
    import pysm3.units as u

    def rj_per_cmb(ghz):
        return (1 * u.uK_CMB).to_value(u.uK_RJ, equivalencies=u.cmb_equivalencies(ghz * u.GHz))

    ratio_rj = LAWS[law](freq_ghz, freq_ref_ghz, **law_parameters)
    return ratio_rj * rj_per_cmb(freq_ref_ghz) / rj_per_cmb(freq_ghz)


def gaussian_foregrounds_bb(freq_ghz, ell):
    """Expected BB of all rows of `GAUSSIAN_FOREGROUNDS`, uncorrelated, without beam.

    The power laws were fitted to data above ell = 30 and away from the Galactic plane: below
    ell = 30, which is most of what NSIDE = 16 has, and on the full sky they are an extrapolation.

    Args:
        freq_ghz: Observing frequency, GHz.
        ell: Multipoles, shape (n_ell,).

    Returns:
        D_ell, shape (n_ell,), uK_CMB^2.
    """
    power = np.zeros(len(ell))
    for row in GAUSSIAN_FOREGROUNDS.values():
        spectrum = row["amplitude"] * (ell / 80) ** row["alpha"]
        ratio = emission_ratio(freq_ghz, row["freq_ref_ghz"], row["law"], row["law_parameters"])
        power += spectrum * ratio**2
    return power


# --- foregrounds: PySM3 presets --------------------------------------------------------------


def _components(preset):
    """Component dicts of a preset: one, or several where the preset is nested."""
    from pysm3.sky import PRESET_MODELS

    config = PRESET_MODELS[preset]
    return [config] if "class" in config else list(config.values())


def check_presets(presets):
    """Raise InputError unless PySM3 has every preset, and as a foreground."""
    from pysm3.sky import PRESET_MODELS

    known = [p for p in PRESET_MODELS if not any("CMB" in c["class"] for c in _components(p))]
    for preset in presets:
        if preset not in PRESET_MODELS:
            raise InputError(
                f"--foregrounds {preset}: PySM3 has no such preset, only {', '.join(known)}; "
                "gaussian and none need no preset"
            )
        if preset not in known:
            raise InputError(
                f"--foregrounds {preset}: is the CMB, which is simulated here already; leave it out"
            )


@contextlib.contextmanager
def _one_line_without(template, preset):
    """Turn PySM3's failure to get or read a template into one line that says what to do."""
    try:
        yield
    except (OSError, LookupError, TypeError, ValueError):
        # OSError without a network; a damaged FITS file makes astropy raise any of the four
        raise InputError(
            f"--foregrounds {preset}: PySM3's {template} is neither on this machine nor to be "
            "downloaded, or is damaged; set PYSM_LOCAL_DATA to a folder that holds it, or use "
            "--foregrounds gaussian"
        ) from None


def _native_nside(preset, nside):
    """NSIDE of a preset's templates, once all of them are on this machine; at least nside."""
    from astropy.io import fits
    from pysm3.utils import RemoteData

    native = None
    components = _components(preset)
    if not any({"available_nside", "map_I"} & component.keys() for component in components):
        raise InputError(
            f"--foregrounds {preset}: is not made from maps of one resolution, which is all that "
            "can be analysed here; choose one that is, such as d1 or s1"
        )
    for component in components:
        available = component.get("available_nside", [])
        if available:
            native = min((n for n in available if n >= nside), default=max(available))
        for key, value in component.items():
            if isinstance(value, str) and re.fullmatch(r"[^\s{]+/\S+\.\w+", value):
                filename = value.replace("{nside}", str(native))
                with _one_line_without(f"template {filename}", preset):
                    path = RemoteData().get(filename)
                    if key in ("map_I", "map_Q") and not available:
                        native = fits.getheader(path, 1)["NSIDE"]
    if native < nside:
        raise InputError(
            f"--foregrounds {preset}: its templates have NSIDE {native}, below --nside {nside}; "
            f"use --nside {native} or less"
        )
    return native


def preset_bb(presets, freq_ghz, nside):
    """Realised BB of the sky that PySM3 presets make together, without beam.

    Each preset is evaluated and analysed at the resolution of its own templates and cut in ell:
    an `ud_grade` to nside would take a third of the power at ell = 2 nside, and aliasing would
    add more.

    Args:
        presets: Names such as "d1", "s1", each checked with `check_presets`.
        freq_ghz: Observing frequency, GHz.
        nside: NSIDE that sets ell = 2 ... 2 nside - 1.

    Returns:
        D_ell, shape (2 nside - 2,), uK_CMB^2.

    Raises:
        InputError: If a template cannot be had, or is coarser than nside.
    """
    import healpy
    import pysm3
    import pysm3.units as u

    logging.getLogger("pysm3").setLevel(logging.CRITICAL)  # our one line says it better
    ell = multipoles(nside)
    lmax = int(ell[-1])
    alm_b = 0
    for preset in presets:
        native = _native_nside(preset, nside)
        with _one_line_without("data for this preset", preset):
            sky = pysm3.Sky(nside=native, preset_strings=[preset], output_unit="uK_CMB")
            maps = sky.get_emission(freq_ghz * u.GHz).value
        # iter=3 is as good as pixel weights here, which healpy would download.
        native_lmax = 2 * native - 1
        alm = healpy.map2alm(maps, lmax=native_lmax, iter=3, use_pixel_weights=False)[2]
        alm_b = alm_b + healpy.resize_alm(alm, native_lmax, native_lmax, lmax, lmax)
    return cl_to_dl(healpy.alm2cl(alm_b)[ell], ell)


# --- realised spectra ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Sky:
    """Expected powers of what is observed; arrays of shape (n_ell,), D_ell in uK^2.

    Attributes:
        ell: Multipoles.
        dl_signal: S, Gaussian primordial B modes through the beam; (n, n_ell) where each of n
            rows has its own.
        dl_contaminant: N, everything else that is Gaussian and drawn anew for each sample.
        dl_fixed_foreground: F, realised power of a foreground that is the same in all samples.
    """

    ell: np.ndarray
    dl_signal: np.ndarray
    dl_contaminant: np.ndarray
    dl_fixed_foreground: np.ndarray


VARIABLES = ("p1", "q", "n1", "n2", "t", "r")
SPLITS = ("train", "test")


def make_generators(seed, split, *r):
    """One independent random stream for each variable of `draw_pairs`, and for r.

    A variable that has its own stream takes the same numbers whatever the chunk size. The exact
    bits of r are part of the key: a row does not depend on the other r asked for beside it.

    Args:
        seed: Whole number, 0 or above.
        split: "train" or "test"; the two share no stream.
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
