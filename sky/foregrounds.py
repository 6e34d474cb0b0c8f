"""Foregrounds in any number of bands: Gaussian power laws, ensembles of them, PySM3 presets.

To add a Gaussian component, add a row to `GAUSSIAN_FOREGROUNDS`, and one to `ENSEMBLE`.
"""

import contextlib
import dataclasses
import functools
import logging
import re

import numpy as np

from runtime.errors import InputError
from sky import cosmology

STANDALONE = ("none", "gaussian", "gaussian-ensemble")  # names that go with no other


# --- power laws in ell -----------------------------------------------------------------------


def _modified_blackbody(freq_ghz, freq_ref_ghz, beta, temperature):
    from pysm3.models.dust import get_emission_numba

    # py_func is PySM3's own law, uncompiled: compiling it takes 8 s, and these are few numbers.
    one = np.ones(len(beta))
    law, refs = get_emission_numba.py_func, (freq_ref_ghz, freq_ref_ghz)
    return law(np.array([freq_ghz]), np.ones(1), one, one, one, *refs, beta, temperature)[1]


def _power_law(freq_ghz, freq_ref_ghz, beta):
    from pysm3.models.power_law import get_emission_numba_IQU

    one = np.ones(len(beta))
    law, refs = get_emission_numba_IQU.py_func, (freq_ref_ghz, freq_ref_ghz)
    return law(np.array([freq_ghz]), np.ones(1), one, one, one, *refs, beta)[1]


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

# Priors of the same parameters, uniform, of the amplitude in its logarithm. They hold the values
# of the Simons Observatory forecast, of BBPower (arXiv:2011.02449: 5, -0.20, 1.59, 19.6; 2.0,
# -0.40, -3.0) and of BICEP/Keck 2015 (4.7, -0.58, 1.6, 19.6; 1.5, -0.6, -3.1) with room on either
# side. The amplitude goes up tenfold: those fits leave out the Galactic plane.
ENSEMBLE = {
    "dust": {
        "amplitude": (2.5, 280.0),
        "alpha": (-0.8, 0.0),
        "beta": (1.45, 1.70),
        "temperature": (18.0, 22.0),
    },
    "synchrotron": {
        "amplitude": (0.75, 20.0),
        "alpha": (-1.2, -0.2),
        "beta": (-3.3, -2.8),
    },
}


@functools.cache
def _rj_per_cmb(ghz):
    import pysm3.units as u

    return (1 * u.uK_CMB).to_value(u.uK_RJ, equivalencies=u.cmb_equivalencies(ghz * u.GHz))


def emission_ratio(freq_ghz, freq_ref_ghz, law, law_parameters):
    """Amplitude in uK_CMB at one frequency over that at another, by PySM3's laws and units.

    Args:
        freq_ghz: Frequency wanted, GHz.
        freq_ref_ghz: Frequency at which the amplitude is known, GHz.
        law: A key of `LAWS`.
        law_parameters: Its keyword arguments, each of shape (n,).

    Returns:
        Shape (n,); power scales with its square.
    """
    ratio_rj = LAWS[law](freq_ghz, freq_ref_ghz, **law_parameters)
    return ratio_rj * _rj_per_cmb(freq_ref_ghz) / _rj_per_cmb(freq_ghz)


def ensemble_parameters(n, generator):
    """Parameters of n skies from `ENSEMBLE`: {component: {name: shape (n,)}}."""
    names = [(row, name) for row, priors in ENSEMBLE.items() for name in priors]
    uniform = generator.random((n, len(names)))
    drawn = {row: {} for row in ENSEMBLE}
    for (row, name), u in zip(names, uniform.T, strict=True):
        low, high = ENSEMBLE[row][name]
        logarithmic = name == "amplitude"
        drawn[row][name] = low * (high / low) ** u if logarithmic else low + (high - low) * u
    return drawn


def gaussian_components(freqs_ghz, ell, parameters=None):
    """Spectra and emission laws of all rows of `GAUSSIAN_FOREGROUNDS`.

    The power laws were fitted to data above ell = 30 and away from the Galactic plane: below
    ell = 30, which is most of what NSIDE = 16 has, and on the full sky they are an extrapolation.

    Args:
        freqs_ghz: Observing frequencies, GHz; n_bands of them.
        ell: Multipoles, shape (n_ell,).
        parameters: From `ensemble_parameters`; None: those of the table, n = 1.

    Returns:
        (dl, emission): D_ell at the reference frequency, shape (n, n_components, n_ell), uK_CMB^2,
        without beam; amplitude in each band over that there, shape (n, n_components, n_bands).
    """
    dl, emission = [], []
    for name, row in GAUSSIAN_FOREGROUNDS.items():
        fixed = {"amplitude": row["amplitude"], "alpha": row["alpha"], **row["law_parameters"]}
        own = parameters[name] if parameters else {k: np.array([v]) for k, v in fixed.items()}
        dl.append(own["amplitude"][:, None] * (ell / 80) ** own["alpha"][:, None])
        law = {key: own[key] for key in row["law_parameters"]}
        ratios = [emission_ratio(f, row["freq_ref_ghz"], row["law"], law) for f in freqs_ghz]
        emission.append(np.stack(ratios, 1))
    return np.stack(dl, 1), np.stack(emission, 1)


# --- PySM3 presets ---------------------------------------------------------------------------


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
                f"{', '.join(STANDALONE)} need no preset"
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


def _real_modes(alm, lmax):
    """The 2 ell + 1 real numbers of each ell >= 2, ell by ell; their mean square is C_ell."""
    import healpy

    modes = []
    for ell in range(2, lmax + 1):
        row = alm[healpy.Alm.getidx(lmax, ell, np.arange(ell + 1))]
        modes += [row[:1].real, np.sqrt(2) * row[1:].real, np.sqrt(2) * row[1:].imag]
    return np.concatenate(modes)


def preset_modes(presets, freqs_ghz, nside):
    """B modes of the sky that PySM3 presets make together, without beam.

    Each preset is evaluated and analysed at the resolution of its own templates and cut in ell:
    an `ud_grade` to nside would take a third of the power at ell = 2 nside, and aliasing would
    add more.

    Args:
        presets: Names such as "d1", "s1", each checked with `check_presets`.
        freqs_ghz: Observing frequencies, GHz; n_bands of them.
        nside: NSIDE that sets ell = 2 ... 2 nside - 1.

    Returns:
        Harmonic coefficients, shape (n_bands, n_modes), uK_CMB: 2 ell + 1 real ones of each ell
        in turn, whose mean square is C_ell.

    Raises:
        InputError: If a template cannot be had, or is coarser than nside.
    """
    import healpy
    import pysm3
    import pysm3.units as u

    logging.getLogger("pysm3").setLevel(logging.CRITICAL)  # our one line says it better
    lmax = 2 * nside - 1
    alm_b = np.zeros((len(freqs_ghz), healpy.Alm.getsize(lmax)), complex)
    for preset in presets:
        native = _native_nside(preset, nside)
        with _one_line_without("data for this preset", preset):
            sky = pysm3.Sky(nside=native, preset_strings=[preset], output_unit="uK_CMB")
        for band, freq_ghz in enumerate(freqs_ghz):
            with _one_line_without("data for this preset", preset):
                maps = sky.get_emission(freq_ghz * u.GHz).value
            # iter=3 is as good as pixel weights here, which healpy would download.
            native_lmax = 2 * native - 1
            alm = healpy.map2alm(maps, lmax=native_lmax, iter=3, use_pixel_weights=False)[2]
            alm_b[band] += healpy.resize_alm(alm, native_lmax, native_lmax, lmax, lmax)
    return np.array([_real_modes(alm, lmax) for alm in alm_b])


# --- any of them -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Foregrounds:
    """Foregrounds as a set of bands sees them, through a beam that is common to all bands.

    Attributes:
        names: As on the command line.
        freqs_ghz: Frequencies of the n_bands bands.
        ell: Multipoles, shape (n_ell,).
        transfer: What beam and scale leave of the amplitude, shape (n_ell,).
        fixed: Coefficients of presets as from `preset_modes`, transfer applied, or 0.
    """

    names: list
    freqs_ghz: list
    ell: np.ndarray
    transfer: np.ndarray
    fixed: np.ndarray

    @classmethod
    def make(cls, names, freqs_ghz, nside, transfer):
        """See the attributes; InputError where PySM3 cannot do what the names say."""
        ell = cosmology.multipoles(nside)
        fixed = np.zeros((len(freqs_ghz), int((2 * ell + 1).sum())))
        if names[0] not in STANDALONE:
            fixed = preset_modes(names, freqs_ghz, nside) * np.repeat(transfer, 2 * ell + 1)
        return cls(names, freqs_ghz, ell, transfer, fixed)

    @property
    def num_components(self):
        """Number of components, each with an emission law of its own."""
        if self.names == ["none"]:
            return 0
        return len(GAUSSIAN_FOREGROUNDS if self.names[0] in STANDALONE else self.names)

    @property
    def varied(self):
        """Whether every sky has parameters of its own."""
        return self.names == ["gaussian-ensemble"]

    @functools.cached_property
    def _gaussian(self):
        return gaussian_components(self.freqs_ghz, self.ell)

    def components(self, n, generator):
        """Gaussian components of n skies.

        Args:
            n: Number of skies; skies with the same parameters are given once.
            generator: Of the parameters; advances only where they vary.

        Returns:
            (dl, emission): as from `gaussian_components`, transfer applied, shapes (n or 1,
            n_components, n_ell) and (n or 1, n_components, n_bands); n_components may be 0.
        """
        if self.names[0] not in ("gaussian", "gaussian-ensemble"):
            return np.zeros((1, 0, len(self.ell))), np.zeros((1, 0, len(self.freqs_ghz)))
        dl, emission = self._gaussian
        if self.varied:
            parameters = ensemble_parameters(n, generator)
            dl, emission = gaussian_components(self.freqs_ghz, self.ell, parameters)
        return dl * self.transfer**2, emission

    def fixed_bb(self, weights):
        """Power of the presets after a sum over bands.

        Args:
            weights: Of the bands, shape (n_ell, n_bands).

        Returns:
            D_ell, shape (n_ell,), uK_CMB^2.
        """
        nu = 2 * self.ell + 1
        left = np.einsum("mb,bm->m", np.repeat(weights, nu, axis=0), self.fixed)
        return cosmology.cl_to_dl(np.add.reduceat(left**2, np.cumsum(nu) - nu) / nu, self.ell)
