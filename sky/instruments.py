"""Instruments as tables of bands, what a band does to a spectrum, and files of a user's own.

A band observes at one frequency: bandpasses are narrow here.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime import jsonfiles
from runtime.errors import InputError
from runtime.priors import FloatArray
from sky import cosmology
from sky.cosmology import IntArray

FREQ_RANGE_GHZ = (1, 3000)  # where the emission laws of foregrounds.py hold
MIN_POWER, MAX_POWER = 1e-100, 1e100  # uK^2; products and squares of these are numbers, too
BAND_FIELDS = ("freq_ghz", "fwhm_arcmin", "noise_uk_arcmin")  # of a file


@dataclasses.dataclass(frozen=True)
class Band:
    """One band of an instrument.

    Attributes:
        freq_ghz: Centre frequency, GHz.
        fwhm_arcmin: Width of the Gaussian beam, arcmin.
        noise_uk_arcmin: White noise in polarisation, uK_CMB arcmin; None where there is nl_bb.
        nl_bb: Noise of any other spectrum: N_ell (a C_ell) from ell = 2 on, uK_CMB^2.
    """

    freq_ghz: float
    fwhm_arcmin: float
    noise_uk_arcmin: float | None = None
    nl_bb: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if (self.noise_uk_arcmin is None) == (self.nl_bb is None):
            raise InputError("a band needs noise_uk_arcmin or nl_bb, and not both")
        low, high = FREQ_RANGE_GHZ
        if not low <= self.freq_ghz <= high:
            raise InputError(f"--freq-ghz: the emission laws hold from {low} to {high} GHz")
        for name in ("fwhm_arcmin", "noise_uk_arcmin"):
            if not 0 <= (getattr(self, name) or 0) < np.inf:
                raise InputError(f"{name}: must be a number, 0 or above")

    def noise_bb(self, ell: IntArray) -> FloatArray:
        """D_ell of its noise, shape (n_ell,), uK^2; no beam acts on it."""
        if self.noise_uk_arcmin is not None:
            return white_noise_bb(self.noise_uk_arcmin, ell)
        nl_bb = np.asarray(self.nl_bb, float)
        if nl_bb.shape != ell.shape or not (np.isfinite(nl_bb) & (nl_bb >= 0)).all():
            raise InputError(
                f"nl_bb: must be {len(ell)} finite numbers, 0 or above, at ell = 2 ... {ell[-1]}"
            )
        return cosmology.cl_to_dl(nl_bb, ell)


@dataclasses.dataclass(frozen=True)
class Instrument:
    """A table of bands, by frequency.

    Attributes:
        name: Of the instrument.
        bands: From the lowest frequency to the highest.
    """

    name: str
    bands: tuple[Band, ...]


# freq_ghz, fwhm_arcmin, noise_uk_arcmin
INSTRUMENTS = {
    # ECHO (CMB-Bharat), proposed to ISRO; primary table in arXiv:2110.12362. These come from
    # secondary sources, of which one has 3.4 for the noise at 145 GHz; the beams from 390 to
    # 520 GHz look rounded.
    "echo": (
        (28, 39.9, 16.5),
        (35, 31.9, 13.3),
        (45, 24.8, 11.9),
        (65, 17.1, 8.9),
        (75, 14.91, 5.1),
        (95, 11.7, 4.6),
        (115, 9.72, 3.1),
        (130, 8.59, 3.1),
        (145, 7.70, 2.4),
        (165, 6.77, 2.5),
        (190, 5.88, 2.8),
        (220, 5.08, 3.3),
        (275, 4.06, 6.3),
        (340, 3.28, 11.4),
        (390, 3.26, 21.9),
        (450, 2.86, 43.4),
        (520, 2.48, 102),
        (600, 1.86, 288),
        (700, 1.59, 1122),
        (850, 1.31, 9550),
    ),
    # arXiv:2202.02773, Table 13; channels of one frequency are merged
    "litebird": (
        (40, 70.5, 37.42),
        (50, 58.5, 33.46),
        (60, 51.1, 21.31),
        (68, 47.1, 16.87),
        (78, 43.8, 12.07),
        (89, 41.5, 11.30),
        (100, 37.8, 6.56),
        (119, 33.6, 4.58),
        (140, 30.8, 4.79),
        (166, 28.9, 5.57),
        (195, 28.6, 5.85),
        (235, 24.7, 10.79),
        (280, 22.5, 13.8),
        (337, 20.9, 21.95),
        (402, 17.9, 47.45),
    ),
}


def load_instrument(source: str) -> Instrument:
    """One of `INSTRUMENTS`, or a user's own from a file.

    Args:
        source: A key of `INSTRUMENTS`, or a JSON file {"name": ..., "bands": [{"freq_ghz": ...,
            "fwhm_arcmin": ..., "noise_uk_arcmin": ...}, ...]}.

    Raises:
        InputError: If there is no such instrument or file, or a field is wrong.
    """
    if source in INSTRUMENTS:
        return Instrument(
            source,
            tuple(
                Band(float(freq), float(fwhm), float(noise))
                for freq, fwhm, noise in INSTRUMENTS[source]
            ),
        )
    if not source.endswith(".json"):
        known = ", ".join(INSTRUMENTS)
        raise InputError(f"--instrument {source}: is neither {known} nor a .json file")
    content = jsonfiles.read_json(source)
    unknown = content.keys() - {"name", "bands"}
    if unknown:
        raise InputError(f"{source}: unknown field {min(unknown)!r}; there are name and bands")
    name = content.get("name", os.path.splitext(os.path.basename(source))[0])
    if not isinstance(name, str):
        raise InputError(f"{source}: name must be a string")
    entries = content.get("bands")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{source}: bands must be a list with one object for each band")
    bands = [_band(f"{source}: band {k}", row) for k, row in enumerate(entries, 1)]
    _check_distinct(source, bands)
    return Instrument(name, tuple(sorted(bands, key=lambda band: band.freq_ghz)))


def _check_distinct(source: str, bands: Sequence[Band]) -> None:
    frequencies = [band.freq_ghz for band in bands]
    for freq in frequencies:
        depths = np.array([band.noise_uk_arcmin for band in bands if band.freq_ghz == freq], float)
        if len(depths) > 1:
            raise InputError(
                f"{source}: {freq:g} GHz stands there twice; write one band instead, with the "
                f"inverse-variance noise_uk_arcmin {(depths**-2.0).sum() ** -0.5:.4g} if the beams "
                "are the same, or leave out all but the best"
            )


def _band(where: str, row: Any) -> Band:
    fields = BAND_FIELDS
    if not isinstance(row, dict):
        raise InputError(f"{where} must be an object with {', '.join(fields)}")
    for key in fields:
        if key not in row:
            raise InputError(f"{where} has no {key}")
    for key, value in row.items():
        if key not in fields:
            raise InputError(
                f"{where} has an unknown field {key!r}; there are {', '.join(fields)}, and their "
                "units are these"
            )
        if not jsonfiles.is_number(value):
            raise InputError(f"{where}: {key} must be a number, not {value!r}")
    low, high = FREQ_RANGE_GHZ
    if not low <= row["freq_ghz"] <= high:
        raise InputError(f"{where}: freq_ghz must lie from {low} to {high}")
    if row["fwhm_arcmin"] < 0:
        raise InputError(f"{where}: fwhm_arcmin must not be negative")
    if row["noise_uk_arcmin"] <= 0:
        raise InputError(f"{where}: noise_uk_arcmin must be above 0")
    freq_ghz, fwhm_arcmin, noise_uk_arcmin = (float(row[key]) for key in fields)
    return Band(freq_ghz, fwhm_arcmin, noise_uk_arcmin)


def pick_bands(bands: Sequence[Band], frequencies: Sequence[float], flag: str) -> tuple[Band, ...]:
    """Those of some bands that are at given frequencies, GHz.

    Args:
        bands: Of an instrument.
        frequencies: GHz, in any order.
        flag: Of the command line, which the error names.

    Raises:
        InputError: If there is no band at one of them.
    """
    by_frequency = {band.freq_ghz: band for band in bands}
    for freq in frequencies:
        if freq not in by_frequency:
            known = ", ".join(f"{known:g}" for known in by_frequency)
            raise InputError(f"{flag} {freq:g}: the instrument has no such band, only {known} GHz")
    return tuple(by_frequency[freq] for freq in sorted(set(frequencies)))


def beam_power(fwhm_arcmin: float, ell: IntArray) -> FloatArray:
    """Squared B-mode window of a Gaussian beam, shape (n_ell,); 1 for a beam of width 0."""
    import healpy

    fwhm = np.radians(fwhm_arcmin / 60)
    return healpy.gauss_beam(fwhm, lmax=int(ell[-1]), pol=True)[ell, 2] ** 2


def white_noise_bb(noise_uk_arcmin: float, ell: IntArray) -> FloatArray:
    """D_ell of white noise of a given depth in polarisation, shape (n_ell,), uK^2; no beam."""
    nl_bb = np.radians(noise_uk_arcmin / 60) ** 2
    return cosmology.cl_to_dl(np.full(len(ell), nl_bb), ell)


def noise_bb(bands: Sequence[Band], fwhm_arcmin: float | None, ell: IntArray) -> FloatArray:
    """D_ell of the noise of some bands that were brought to a common beam.

    Args:
        bands: n_bands of them.
        fwhm_arcmin: Width of the common beam; None leaves the bands as they are.
        ell: Multipoles, shape (n_ell,).

    Returns:
        Shape (n_bands, n_ell), uK^2. Beams act on the sky and not on the noise, so that the
        noise is what a change of the beam multiplies.

    Raises:
        InputError: If a band's beam is so wide that the change is beyond the numbers.
    """
    noise = np.array([band.noise_bb(ell) for band in bands])
    if fwhm_arcmin is None:
        return noise
    for band, row in zip(bands, noise, strict=True):
        if not ((row > MIN_POWER) & (row < MAX_POWER)).all():
            depth = f"noise_uk_arcmin {band.noise_uk_arcmin:g} at {band.freq_ghz:g} GHz"
            raise InputError(f"--instrument: {depth} is beyond all physics")
    with np.errstate(divide="ignore", over="ignore"):
        beams = np.array([beam_power(band.fwhm_arcmin, ell) for band in bands])
        noise = noise * beam_power(fwhm_arcmin, ell) / beams
    for band, row in zip(bands, noise, strict=True):
        if not (row < MAX_POWER).all():
            raise InputError(
                f"--bands: the beam of {band.freq_ghz:g} GHz has no power left at ell = {ell[-1]}; "
                "leave the band out, or lower --nside"
            )
    return noise
