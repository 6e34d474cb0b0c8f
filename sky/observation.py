"""What is asked for: the sky that is simulated, the bands that observe it, and their cleaning."""

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np

from runtime import records
from runtime.errors import InputError
from runtime.jsonfiles import Json, to_json
from runtime.priors import FloatArray, SignalTemplate
from sky import cleaning, cosmology, foregrounds, instruments, masked
from sky.analysis import Masking
from sky.cosmology import MAX_NSIDE, MAX_TEMPLATE_R, PLANCK_2018, Cosmology, IntArray
from sky.instruments import Band

MIN_WIDTH = 1e-6  # of a range of r over its upper end: far above rounding

# ECHO at 45 GHz
SINGLE_BAND = Band(freq_ghz=45.0, fwhm_arcmin=24.8, noise_uk_arcmin=11.9)


@dataclasses.dataclass(frozen=True)
class SkyModel:
    """A sky whose realisations are simulated.

    Attributes:
        nside: HEALPix NSIDE: ell = 2 ... 2 nside - 1.
        a_lens: Share of the lensing power that delensing left: 1 all, 0 none.
        foregrounds: ("none",), ("gaussian",), ("gaussian-ensemble",), or PySM3 presets such as
            ("d1", "s1").
        foreground_scale: Share of the foreground amplitude that a cleaning outside of this
            project left; power has its square.
        cosmology: Of lensing, and of the primordial BB unless there is dl_fiducial.
        dl_fiducial: Primordial BB of a user's own, proportional to r: D_ell of r = 1 at ell = 2 ...
            2 nside - 1, or up to 3 nside - 1 for a masked sky, without beam, uK^2.
    """

    nside: int = 16
    a_lens: float = 1.0
    foregrounds: tuple[str, ...] = ("gaussian",)
    foreground_scale: float = 1.0
    cosmology: Cosmology = PLANCK_2018
    dl_fiducial: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.nside < 2 or self.nside & (self.nside - 1):
            raise InputError(f"--nside {self.nside}: must be a power of two from 2 up")
        for name in ("a_lens", "foreground_scale"):
            if not 0 <= getattr(self, name) < np.inf:
                raise InputError(f"{name}: must be a number, 0 or above")
        if self.nside > MAX_NSIDE:
            raise InputError(
                f"--nside {self.nside}: above ell = {2 * MAX_NSIDE - 1} CAMB's tensor BB is off by "
                f"tens of percent; use --nside {MAX_NSIDE} or less"
            )
        if self.dl_fiducial is not None:
            dl = np.asarray(self.dl_fiducial, float)
            known = dl.ndim == 1 and len(dl) in (len(self.ell), len(masked.multipoles(self.nside)))
            if not known or not (np.isfinite(dl) & (dl > 0)).all():
                raise InputError(
                    f"dl_fiducial: must be {len(self.ell)} finite numbers above 0, at ell = 2 ... "
                    f"{self.ell[-1]}"
                )
        if isinstance(self.foregrounds, str) or not self.foregrounds:
            raise InputError('--foregrounds: must be a tuple of names, such as ("none",)')
        if len(set(self.foregrounds)) < len(self.foregrounds):
            raise InputError("--foregrounds: a name stands there twice")
        alone = [name for name in foregrounds.STANDALONE if name in self.foregrounds]
        if alone and len(self.foregrounds) > 1:
            raise InputError(f"--foregrounds: {alone[0]} goes with no other name")

    @property
    def ell(self) -> IntArray:
        """Multipoles, shape (n_ell,)."""
        return cosmology.multipoles(self.nside)

    def primordial_bb(self, r: float, ell: IntArray | None = None) -> FloatArray:
        """D_ell of the signal, without beam, uK^2, at ell of shape (n_ell,); `self.ell` for None.

        Raises:
            InputError: If CAMB, or a user's own dl_fiducial, does not have it there.
        """
        ell = self.ell if ell is None else ell
        if self.dl_fiducial is not None:
            return r * self._fiducial_at(ell)
        return cosmology.tensor_bb(r, ell, self.cosmology)

    def _fiducial_at(self, ell: IntArray) -> FloatArray:
        """dl_fiducial at ell = 2, 3, ..., shape (n_ell,)."""
        if self.dl_fiducial is None or len(self.dl_fiducial) < len(ell):
            raise InputError(f"dl_fiducial: must go up to ell = {ell[-1]}")
        return np.array(self.dl_fiducial)[: len(ell)]

    def check_r_range(self, r_min: float, r_max: float) -> None:
        """Raise InputError where there is no `signal_template` between the two."""
        if r_max - r_min < MIN_WIDTH * r_max:
            raise InputError(
                f"--r-range: {r_min:g} and {r_max:g} are too close to tell r apart; give one --r"
            )
        proportional = self.dl_fiducial is not None or self.cosmology.nt is not None
        if r_max > MAX_TEMPLATE_R and not proportional:
            raise InputError(
                f"--r-range: the template of several r holds up to r = {MAX_TEMPLATE_R:g}, not to "
                f"{r_max:g}; lower it, or give nt a number in --cosmology"
            )

    def signal_template(
        self, r_min: float, r_max: float, ell: IntArray | None = None
    ) -> SignalTemplate:
        """`primordial_bb` for r_min <= r <= r_max; see `check_r_range`."""
        self.check_r_range(r_min, r_max)
        ell = self.ell if ell is None else ell
        if self.dl_fiducial is not None:
            return cosmology.linear_template(self._fiducial_at(ell))
        return cosmology.signal_template(r_min, r_max, ell, self.cosmology)


@dataclasses.dataclass(frozen=True)
class Hilc:
    """A harmonic internal linear combination of all bands.

    Attributes:
        fwhm_arcmin: Width of the beam to which all bands are brought, arcmin.
        bins: Edges of the multipole bins that have weights of their own, from 2 to 2 nside; None
            takes `cleaning.default_bins`.
        weights_from: "sky", the covariance of each sky's own modes, as for real data; or "model",
            that of the ensemble, for which the exact posterior is known.
    """

    fwhm_arcmin: float = SINGLE_BAND.fwhm_arcmin
    bins: tuple[int, ...] | None = None
    weights_from: str = "sky"

    def __post_init__(self) -> None:
        if self.weights_from not in ("sky", "model"):
            raise InputError(f"weights_from: must be sky or model, not {self.weights_from}")

    def edges(self, nside: int) -> list[int]:
        """Edges of the bins; InputError unless they rise from 2 to 2 nside."""
        if self.bins is None:
            return cleaning.default_bins(nside)
        edges, end = list(self.bins), 2 * nside
        if edges != sorted(set(edges)) or not edges or (edges[0], edges[-1]) != (2, end):
            raise InputError(f"--ilc-bins: must rise from 2 to 2*nside = {end}")
        return edges


@dataclasses.dataclass(frozen=True)
class Observation:
    """One band, or all bands of an instrument and their cleaning to one spectrum.

    Attributes:
        bands: What is observed in; more than one only with a cleaning.
        instrument: Name of the instrument whose bands are cleaned.
        cleaning: None for one band.
        masking: Part of the sky that one band sees, with noise of its own in the place of the
            band's; None for the full sky.
    """

    bands: tuple[Band, ...] = (SINGLE_BAND,)
    instrument: str | None = None
    cleaning: Hilc | None = None
    masking: Masking | None = None

    def __post_init__(self) -> None:
        if self.cleaning is None and len(self.bands) != 1:
            raise InputError("an observation in several bands needs a cleaning, such as Hilc()")
        if self.cleaning is not None and self.masking is not None:
            raise InputError("--mask: goes with one band, not with --clean hilc")

    @classmethod
    def in_one_band(
        cls,
        freq_ghz: float = SINGLE_BAND.freq_ghz,
        fwhm_arcmin: float = SINGLE_BAND.fwhm_arcmin,
        noise_uk_arcmin: float | None = None,
        nl_bb: Sequence[float] | None = None,
    ) -> Self:
        """Observation in one band; see `instruments.Band` for the units.

        The noise is that of `SINGLE_BAND` where none is given.
        """
        if nl_bb is not None:
            return cls((Band(freq_ghz, fwhm_arcmin, noise_uk_arcmin, tuple(map(float, nl_bb))),))
        depth = SINGLE_BAND.noise_uk_arcmin if noise_uk_arcmin is None else noise_uk_arcmin
        return cls((Band(freq_ghz, fwhm_arcmin, depth),))

    @classmethod
    def with_instrument(
        cls, source: str, cleaning: Hilc | None = None, freqs_ghz: Sequence[float] | None = None
    ) -> Self:
        """Observation in bands of an instrument that are cleaned.

        Args:
            source: See `instruments.load_instrument`.
            cleaning: `Hilc()` when None.
            freqs_ghz: Use only the bands at these frequencies, GHz; all when None.

        Raises:
            InputError: If there is no such instrument or band.
        """
        instrument = instruments.load_instrument(source)
        bands = instrument.bands
        if freqs_ghz:
            bands = instruments.pick_bands(bands, freqs_ghz, "--bands")
        return cls(bands, instrument.name, cleaning or Hilc())

    @property
    def fwhm_arcmin(self) -> float:
        """Beam of the observed spectrum."""
        return self.bands[0].fwhm_arcmin if self.cleaning is None else self.cleaning.fwhm_arcmin

    def multipoles(self, nside: int) -> IntArray:
        """Of the observed spectrum, shape (n_ell,): on a masked sky up to 3 nside - 1."""
        if self.masking is None:
            return cosmology.multipoles(nside)
        if self.masking.survey.nside != nside:
            raise InputError(f"--mask: is of NSIDE {self.masking.survey.nside}, not {nside}")
        return masked.multipoles(nside)

    def transfer(self, nside: int) -> FloatArray:
        """Power that beam, and on a masked sky the window, let pass at `multipoles`."""
        beam = instruments.beam_power(self.fwhm_arcmin, self.multipoles(nside))
        return beam if self.masking is None else beam * masked.cosine_window(nside) ** 2

    @property
    def instrument_entry(self) -> Json:
        """What a record says of the instrument."""
        bands = [to_json(band) for band in self.bands]
        return bands[0] if self.cleaning is None else {"name": self.instrument, "bands": bands}


DEFAULT_SKY = SkyModel()
DEFAULT_OBSERVATION = Observation()


def describe_sky(model: SkyModel, observation: Observation) -> records.Sky:
    """What a record says of a sky and of its observation."""
    hilc = observation.cleaning
    cleaning_entry = None
    if hilc is not None:
        cleaning_entry = {
            "method": "hilc",
            "fwhm_arcmin": hilc.fwhm_arcmin,
            "bins": hilc.edges(model.nside),
            "weights_from": hilc.weights_from,
        }
    return records.Sky(
        instrument=observation.instrument_entry,
        cleaning=cleaning_entry,
        a_lens=model.a_lens,
        foregrounds=list(model.foregrounds),
        foreground_scale=model.foreground_scale,
        cosmology=model.cosmology.to_json(),
        dl_fiducial=None if model.dl_fiducial is None else list(model.dl_fiducial),
    )


def make_band_sky(model: SkyModel, observation: Observation) -> cleaning.MultifrequencySky:
    """Expected powers in the bands of an observation, brought to one beam where it cleans.

    Raises:
        InputError: If a beam has no power left, or PySM3 cannot do what the foregrounds say.
    """
    ell, passed = observation.multipoles(model.nside), observation.transfer(model.nside)
    freqs_ghz = [band.freq_ghz for band in observation.bands]
    transfer = model.foreground_scale * np.sqrt(passed)
    common = None if observation.cleaning is None else observation.fwhm_arcmin
    return cleaning.MultifrequencySky(
        ell=ell,
        dl_noise=instruments.noise_bb(observation.bands, common, ell),
        foregrounds=foregrounds.ForegroundModel.make(model.foregrounds, freqs_ghz, ell, transfer),
        dl_lensing=model.a_lens * cosmology.lensing_bb(ell, model.cosmology) * passed,
    )
