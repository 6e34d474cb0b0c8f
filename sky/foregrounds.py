"""Foregrounds in any number of bands: Gaussian power laws, ensembles of them, PySM3 presets.

To add a Gaussian component, add an entry to `COMPONENTS`; a new emission law is one of `LAWS`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np

from runtime.errors import InputError
from runtime.jsonfiles import Json, to_json
from runtime.priors import FloatArray
from sky import presets, realisations
from sky.cosmology import IntArray

STANDALONE = ("none", "gaussian", "gaussian-ensemble")  # names that go with no other

Parameters = Mapping[str, Mapping[str, FloatArray]]  # {component: {parameter: shape (n,)}}


# --- emission laws ---------------------------------------------------------------------------


def _modified_blackbody(
    freq_ghz: float, freq_ref_ghz: float, beta: FloatArray, temperature: FloatArray
) -> FloatArray:
    from pysm3.models.dust import get_emission_numba

    # py_func is PySM3's own law, uncompiled: compiling it takes 8 s, and these are few numbers.
    one = np.ones(len(beta))
    law, refs = get_emission_numba.py_func, (freq_ref_ghz, freq_ref_ghz)
    return law(np.array([freq_ghz]), np.ones(1), one, one, one, *refs, beta, temperature)[1]


def _power_law(freq_ghz: float, freq_ref_ghz: float, beta: FloatArray) -> FloatArray:
    from pysm3.models.power_law import get_emission_numba_IQU

    one = np.ones(len(beta))
    law, refs = get_emission_numba_IQU.py_func, (freq_ref_ghz, freq_ref_ghz)
    return law(np.array([freq_ghz]), np.ones(1), one, one, one, *refs, beta)[1]


LAWS: dict[str, Callable[..., FloatArray]] = {
    "modified blackbody": _modified_blackbody,
    "power law": _power_law,
}


@functools.cache
def _rj_per_cmb(ghz: float) -> float:
    import pysm3.units as u

    return (1 * u.uK_CMB).to_value(u.uK_RJ, equivalencies=u.cmb_equivalencies(ghz * u.GHz))


def emission_ratio(
    freq_ghz: float, freq_ref_ghz: float, law: str, law_parameters: Mapping[str, FloatArray]
) -> FloatArray:
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


# --- Gaussian components ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class GaussianComponent:
    """A foreground whose spectrum is D_ell^BB = amplitude (ell / 80)^alpha.

    Attributes:
        amplitude: D_ell at ell = 80 and freq_ref_ghz, uK_CMB^2.
        alpha: Slope in ell.
        freq_ref_ghz: Reference frequency, GHz.
        law: A key of `LAWS`: how it scales with frequency.
        law_parameters: Keyword arguments of the law: beta, the spectral index of the brightness
            temperature (uK_RJ), and the temperature in K.
        priors: Of each parameter in an ensemble, uniform between two ends; of the amplitude,
            uniform in its logarithm.
    """

    amplitude: float
    alpha: float
    freq_ref_ghz: float
    law: str
    law_parameters: Mapping[str, float]
    priors: Mapping[str, tuple[float, float]]

    @property
    def parameters(self) -> dict[str, float]:
        """All that an ensemble varies, at the values of this component."""
        return {"amplitude": self.amplitude, "alpha": self.alpha, **self.law_parameters}

    def to_json(self) -> Json:
        """Entry of a sidecar: the values without their priors."""
        content = to_json(self)
        del content["priors"]
        return content


# The values are those with which the Simons Observatory forecast makes its Gaussian foregrounds
# (arXiv:2302.04276), on 10 % of the sky. The priors hold them, and those of BBPower
# (arXiv:2011.02449: 5, -0.20, 1.59, 19.6; 2.0, -0.40, -3.0) and of BICEP/Keck 2015 (4.7, -0.58,
# 1.6, 19.6; 1.5, -0.6, -3.1) with room on either side. The amplitude goes up tenfold: those fits
# leave out the Galactic plane.
COMPONENTS = {
    "dust": GaussianComponent(
        amplitude=28.0,
        alpha=-0.16,
        freq_ref_ghz=353.0,
        law="modified blackbody",
        law_parameters={"beta": 1.54, "temperature": 20.0},
        priors={
            "amplitude": (2.5, 280.0),
            "alpha": (-0.8, 0.0),
            "beta": (1.45, 1.70),
            "temperature": (18.0, 22.0),
        },
    ),
    "synchrotron": GaussianComponent(
        amplitude=1.6,
        alpha=-0.93,
        freq_ref_ghz=23.0,
        law="power law",
        law_parameters={"beta": -3.0},
        priors={"amplitude": (0.75, 20.0), "alpha": (-1.2, -0.2), "beta": (-3.3, -2.8)},
    ),
}


class Components(NamedTuple):
    """Gaussian components of n skies; skies with the same parameters are given once, n = 1.

    Attributes:
        dl: D_ell at the reference frequency, shape (n, n_components, n_ell), uK_CMB^2.
        emission: Amplitude in each band over that there, shape (n, n_components, n_bands).
    """

    dl: FloatArray
    emission: FloatArray

    def residual(self, weights: FloatArray) -> FloatArray:
        """Power after a sum over bands: D_ell, shape (n, n_ell), uK^2; weights (n_ell, n_bands)."""
        return (self.dl * (self.emission @ weights.T) ** 2).sum(1)


def published_parameters() -> dict[str, dict[str, FloatArray]]:
    """Parameters of the one sky whose values stand in `COMPONENTS`; each of shape (1,)."""
    return {
        name: {key: np.array([value]) for key, value in component.parameters.items()}
        for name, component in COMPONENTS.items()
    }


def ensemble_parameters(n: int, generator: np.random.Generator) -> dict[str, dict[str, FloatArray]]:
    """Parameters of n skies from the priors: {component: {parameter: shape (n,)}}."""
    names = [(name, key) for name, component in COMPONENTS.items() for key in component.priors]
    uniform = generator.random((n, len(names)))
    drawn: dict[str, dict[str, FloatArray]] = {name: {} for name in COMPONENTS}
    for (name, key), u in zip(names, uniform.T, strict=True):
        low, high = COMPONENTS[name].priors[key]
        logarithmic = key == "amplitude"
        drawn[name][key] = low * (high / low) ** u if logarithmic else low + (high - low) * u
    return drawn


def gaussian_components(
    freqs_ghz: Sequence[float], ell: IntArray, parameters: Parameters | None = None
) -> Components:
    """Spectra and emission laws of all of `COMPONENTS`, without beam.

    The power laws were fitted to data above ell = 30 and away from the Galactic plane: below
    ell = 30, which is most of what NSIDE = 16 has, and on the full sky they are an extrapolation.

    Args:
        freqs_ghz: Observing frequencies, GHz; n_bands of them.
        ell: Multipoles, shape (n_ell,).
        parameters: From `ensemble_parameters`; None: the published ones, n = 1.
    """
    parameters = parameters or published_parameters()
    dl, emission = [], []
    for name, component in COMPONENTS.items():
        values = parameters[name]
        dl.append(values["amplitude"][:, None] * (ell / 80) ** values["alpha"][:, None])
        law = {key: values[key] for key in component.law_parameters}
        reference = component.freq_ref_ghz
        ratios = [emission_ratio(freq, reference, component.law, law) for freq in freqs_ghz]
        emission.append(np.stack(ratios, 1))
    return Components(np.stack(dl, 1), np.stack(emission, 1))


# --- any foregrounds -------------------------------------------------------------------------


def check_names(names: Sequence[str]) -> None:
    """Raise InputError unless all names need no preset, or PySM3 has each, and as a foreground."""
    if names[0] in STANDALONE:
        return
    known = presets.available()
    for name in names:
        if not presets.exists(name):
            raise InputError(
                f"--foregrounds {name}: PySM3 has no such preset, only {', '.join(known)}; "
                f"{', '.join(STANDALONE)} need no preset"
            )
        if name not in known:
            raise InputError(
                f"--foregrounds {name}: is the CMB, which is simulated here already; leave it out"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class ForegroundModel:
    """Foregrounds as a set of bands sees them, through a beam that is common to all bands.

    Attributes:
        names: As on the command line.
        freqs_ghz: Frequencies of the n_bands bands.
        ell: Multipoles, shape (n_ell,).
        transfer: What beam and scale leave of the amplitude, shape (n_ell,).
        fixed: Coefficients of presets as from `presets.preset_modes`, transfer applied, or 0;
            shape (n_bands, n_modes), uK_CMB.
    """

    names: tuple[str, ...]
    freqs_ghz: tuple[float, ...]
    ell: IntArray
    transfer: FloatArray
    fixed: FloatArray

    @classmethod
    def make(
        cls, names: Sequence[str], freqs_ghz: Sequence[float], ell: IntArray, transfer: FloatArray
    ) -> Self:
        """See the attributes; InputError where PySM3 cannot do what the names say."""
        fixed = np.zeros((len(freqs_ghz), int((2 * ell + 1).sum())))
        if names[0] not in STANDALONE:
            modes = presets.preset_modes(names, freqs_ghz, int(ell[-1]))
            fixed = modes * np.repeat(transfer, 2 * ell + 1)
        return cls(tuple(names), tuple(freqs_ghz), ell, transfer, fixed)

    @property
    def num_components(self) -> int:
        """Number of components, each with an emission law of its own."""
        if self.names == ("none",):
            return 0
        return len(COMPONENTS if self.names[0] in STANDALONE else self.names)

    @property
    def varied(self) -> bool:
        """Whether every sky has parameters of its own."""
        return self.names == ("gaussian-ensemble",)

    @functools.cached_property
    def _published(self) -> Components:
        return gaussian_components(self.freqs_ghz, self.ell)

    def components(self, n: int, generator: np.random.Generator | None) -> Components:
        """Gaussian components of n skies, transfer applied.

        Args:
            n: Number of skies; skies with the same parameters are given once.
            generator: Of the parameters; advances only where they vary.

        Returns:
            `Components` of n or 1 skies; n_components may be 0.
        """
        if self.names[0] not in ("gaussian", "gaussian-ensemble"):
            return Components(
                np.zeros((1, 0, len(self.ell))), np.zeros((1, 0, len(self.freqs_ghz)))
            )
        dl, emission = self._published
        if self.varied:
            assert generator is not None
            parameters = ensemble_parameters(n, generator)
            dl, emission = gaussian_components(self.freqs_ghz, self.ell, parameters)
        return Components(dl * self.transfer**2, emission)

    def fixed_bb(self, weights: FloatArray) -> FloatArray:
        """Power of the presets after a sum over bands.

        Args:
            weights: Of the bands, shape (n_ell, n_bands).

        Returns:
            D_ell, shape (n_ell,), uK_CMB^2.
        """
        nu = 2 * self.ell + 1
        left = np.einsum("mb,bm->m", np.repeat(weights, nu, axis=0), self.fixed)
        return realisations.realised_bb(left, self.ell)

    def to_json(self) -> Json:
        """What a sidecar says of the parameters: published values, or priors of an ensemble."""
        if self.names == ("gaussian",):
            values = {name: component.to_json() for name, component in COMPONENTS.items()}
            return {"gaussian_foregrounds": values}
        if self.varied:
            priors = {name: to_json(component.priors) for name, component in COMPONENTS.items()}
            return {"foreground_ensemble": priors}
        return {}
