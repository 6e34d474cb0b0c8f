"""Masks, hits and noise variances of a user's own, from HEALPix FITS files, on the NSIDE of a run.

All are Galactic: weights in other coordinates are rotated, variances of Q and U refused. What was
read is said in one line.
"""

import dataclasses
import re

import numpy as np

from runtime import console
from runtime.columns import TEMPERATURES
from runtime.errors import InputError
from runtime.priors import FloatArray
from sky.healpix_files import SYSTEMS, UNSAID, PixelTable, bare
from sky.maps import parse_temperature

GALACTIC = "galactic:"
OUTSIDE = 1e-6  # of 0..1, or of the largest hits, as float32 and smoothing leave it
OVERSAMPLING = 4  # of the NSIDE of a run, at which weights are rotated
SAMPLES = 2**14  # pixels whose neighbours tell RING from NESTED
VARIANCES = ("QQ", "QU", "UU")


def read_mask(text: str, nside: int, path_flag: str = "--mask") -> FloatArray:
    """Weights of the pixels, from a cut in Galactic latitude or a file.

    Of a file with several columns the first one counts, whatever their names. Pixels without a
    value count as 0.

    Args:
        text: "galactic:20" for the pixels whose centres have |b| >= 20 degrees, or a FITS file of
            any NSIDE with values 0 (masked) to 1 (seen).
        nside: HEALPix NSIDE of the weights.
        path_flag: The flag that gave the text, for messages.

    Returns:
        0 to 1, RING, Galactic, shape (12 nside^2,).

    Raises:
        InputError: If the cut or the file is none, or leaves nothing of the sky.
    """
    if text.startswith(GALACTIC):
        weights = _galactic_cut(text, nside, path_flag)
    else:
        table, weights, words = _first_column(text)
        low, high = weights.min(), weights.max()
        if low < -OUTSIDE or high > 1 + OUTSIDE:
            raise InputError(
                f"{path_flag} {text}: holds values from {low:.4g} to {high:.4g}; a mask goes from "
                "0 (masked) to 1 (seen): rescale it, or give hits as hits"
            )
        weights = np.clip(_regrid(table, np.clip(weights, 0, 1), nside), 0, 1)
        console.info(f"{text}: mask, {words}, {weights.mean():.3g} of the sky is seen")
    if not weights.any():
        raise InputError(
            f"{path_flag} {text}: masks all of the sky; give a mask that is 1 somewhere"
        )
    return weights


def read_hits(path: str, nside: int) -> FloatArray:
    """Hits of the pixels over the largest, from a file of any NSIDE with hits or relative hits.

    Args:
        path: A FITS file; see `read_mask` for its columns and missing pixels.
        nside: HEALPix NSIDE of what is returned.

    Returns:
        0 to 1, RING, Galactic, shape (12 nside^2,).

    Raises:
        InputError: If the file cannot be read, or its hits are negative or all 0.
    """
    table, hits, words = _first_column(path)
    if hits.min() < -OUTSIDE * hits.max():
        raise InputError(f"{path}: holds hits down to {hits.min():.4g}; hits must be 0 or above")
    if not hits.any():
        raise InputError(f"{path}: holds no hits; give a file where pixels are seen")
    # Sums of the pixels inside are their means times a number that the division takes out
    hits = _regrid(table, np.maximum(hits, 0), nside)
    console.info(f"{path}: hits, {words}, on {np.mean(hits > 0):.3g} of the sky")
    return hits / hits.max()


def read_noise_variance(path: str, nside: int) -> FloatArray:
    """Variance of Q, covariance of Q and U, variance of U of the noise of each pixel.

    Args:
        path: A FITS file with the columns QQ, QU, UU (or QQ_COV ...), in uK^2 unless TUNIT says
            otherwise; a pixel without one of them is not seen. POLCCONV IAU changes the sign of QU.
        nside: HEALPix NSIDE, which the file must have: variances do not follow from others.

    Returns:
        uK^2, RING, Galactic, POLCCONV COSMO, shape (12 nside^2, 3); NaN where not seen.

    Raises:
        InputError: If the file cannot be read, has another NSIDE or coordinates, or is no
            covariance in some pixel.
    """
    table = PixelTable.open(path)
    if table.nside != nside:
        raise InputError(
            f"{path}: has NSIDE {table.nside}, needed is {nside}; give the variances of the "
            f"noise in maps of NSIDE {nside}"
        )
    if table.coordsys in SYSTEMS:  # Q and U mix in each pixel's own way
        raise InputError(
            f"{path}: is in {SYSTEMS[table.coordsys]} coordinates (COORDSYS {table.coordsys}); "
            "give the variances of maps in Galactic coordinates"
        )
    columns = [_variance_column(table, name) for name in VARIANCES]
    factors = [_variance_factor(table, k) for k in columns]
    variances = table.read(columns).T * factors
    if table.is_iau:
        variances[:, 1] *= -1
    missing = np.isnan(variances).any(1)
    variances[missing] = np.nan
    qq, qu, uu = variances[~missing].T
    if missing.all():
        raise InputError(f"{path}: every pixel is missing; give a file with values")
    is_covariance = (qq > 0) & (uu > 0) & (qu**2 < qq * uu)
    if not is_covariance.all():
        pixel = np.flatnonzero(~missing)[~is_covariance][0]
        raise InputError(
            f"{path}: breaks QQ > 0, UU > 0 or QU^2 < QQ UU in {np.sum(~is_covariance)} pixels "
            f"(RING {pixel} is the first); write UNSEEN where nothing is seen"
        )
    depth = np.sqrt(np.median((qq + uu) / 2))
    console.info(
        f"{path}: noise variances, {table.ordering}, POLCCONV "
        f"{table.polcconv or 'absent, so COSMO'}, TUNIT "
        f"{table.units[columns[0]] or 'absent, so uK^2'}, COORDSYS "
        f"{table.coordsys or 'not said, so Galactic'}, {missing.sum()} of {table.num_pixels} "
        f"pixels missing, median {depth:.3g} uK in a pixel"
    )
    return variances


def _galactic_cut(text: str, nside: int, path_flag: str) -> FloatArray:
    import healpy

    try:
        cut = float(text.removeprefix(GALACTIC))
    except ValueError:
        cut = np.nan
    if not 0 <= cut < 90:
        raise InputError(
            f"{path_flag} {text}: needed is a latitude from 0 to below 90 degrees, as in "
            f"{GALACTIC}20"
        )
    latitudes = healpy.pix2ang(nside, np.arange(12 * nside**2), lonlat=True)[1]
    return (np.abs(latitudes) >= cut).astype(float)


def _variance_column(table: PixelTable, name: str) -> int:
    """Position of the one column of a name, which may end in COV."""
    found = [k for k in table.value_columns if bare(table.names[k]) in (name, f"{name}COV")]
    if len(found) != 1:
        what = "no column is" if not found else f"{len(found)} columns are"
        raise InputError(
            f"{table.path}: {what} named {name} among its columns {table.listed}; write the "
            f"columns {', '.join(VARIANCES)}"
        )
    return found[0]


def _variance_factor(table: PixelTable, column: int) -> float:
    """What turns a column into uK^2, from its TUNIT; 1 where that says nothing."""
    text = table.units[column]
    if text.upper() in UNSAID:
        return 1.0
    squared = re.fullmatch(r"\(?(.*?)\)?(?:\^|\*\*)?2", text)
    unit = parse_temperature(squared[1]) if squared else None
    if unit is None:
        raise InputError(
            f"{table.path}: TUNIT of {table.names[column]} is {text!r}; write the variances in "
            "uK_CMB^2"
        )
    return TEMPERATURES[unit] ** 2


def _first_column(path: str) -> tuple[PixelTable, FloatArray, str]:
    """A file, the values of its first column with 0 where there is none, and how it was read."""
    table = PixelTable.open(path)
    first, *others = table.value_columns or (None,)
    if first is None:
        raise InputError(f"{path}: has no column of values; write it with healpy.write_map")
    words = f"its column {table.names[first] or first}"
    if table.ordering is None:
        table = _with_ordering(table, first)
        words += ", no ORDERING, so RING, in which neighbours are no less alike than in NESTED"
    else:
        words += f", {table.ordering}"
    values = table.read([first])[0]
    if others:
        equal = all(_holds(table, k, values) for k in others)
        words = (
            f"the first of {len(others) + 1} columns that {'agree' if equal else 'differ'}, {words}"
        )
    if np.isnan(values).all():
        raise InputError(f"{path}: every pixel is missing; give a file with values")
    system = f"COORDSYS {table.coordsys}" if table.coordsys else "COORDSYS not said, so Galactic"
    rotated = ", rotated to Galactic" if table.coordsys in SYSTEMS else ""
    return table, np.nan_to_num(values), f"{words}, NSIDE {table.nside}, {system}{rotated}"


def _holds(table: PixelTable, column: int, values: FloatArray) -> bool:
    """Whether a column holds these values; one that cannot be read, such as text, does not."""
    try:
        return np.array_equal(values, table.read([column])[0], equal_nan=True)
    except InputError:
        return False


def _with_ordering(table: PixelTable, column: int) -> PixelTable:
    """RING for a table that does not say, where the values support it; else InputError.

    Masks and hits are patches, in which most neighbours are alike. In the wrong order they are
    strewn over the sky.
    """
    import healpy

    as_ring = dataclasses.replace(table, ordering="RING")
    values = np.nan_to_num(as_ring.read([column])[0])
    some = np.arange(0, len(values), max(1, len(values) // SAMPLES))
    jumps = []
    for nest in (False, True):
        neighbours = healpy.get_all_neighbours(table.nside, some, nest=nest)
        steps = np.abs(values[neighbours] - values[some])
        jumps.append(steps[neighbours >= 0].mean())  # -1 where a pixel has seven
    if jumps[0] > jumps[1]:
        raise InputError(
            f"{table.path}: its header has no ORDERING, and its values look more like NESTED than "
            "RING; add ORDERING to the header, as healpy.write_map does"
        )
    return as_ring


def _regrid(table: PixelTable, weights: FloatArray, nside: int) -> FloatArray:
    """Weights in Galactic coordinates on another NSIDE, never outside of their range."""
    import healpy

    # Averaging is right here and wrong for a signal: the weight of a large pixel is the share of it
    # that is seen. The mean of a signal would smooth and alias its harmonics, of which a weight has
    # none that anybody asks for.
    if table.coordsys in SYSTEMS:
        fine = min(max(table.nside, nside), OVERSAMPLING * nside)
        rotator = healpy.Rotator(coord=[table.coordsys, "G"])
        weights = rotator.rotate_map_pixel(healpy.ud_grade(weights, fine))
    weights = healpy.ud_grade(weights, nside)
    return np.asarray(weights, float)
