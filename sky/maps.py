"""Maps of Q and U of a user's own, from HEALPix FITS files: columns, ordering, sign of U, unit."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from runtime.columns import TEMPERATURES
from runtime.errors import InputError
from runtime.priors import FloatArray
from sky.healpix_files import PixelTable, bare

PREFIXES = {"": "", "m": "m", "milli": "m", **dict.fromkeys(("u", "µ", "μ", "mu", "micro"), "u")}
TEMPERATURE = re.compile(  # uK, muK_CMB, "mK,thermodynamic", \mu K, "K (CMB)", microKelvin
    r"\\?(?P<prefix>u|µ|μ|mu|micro|m|milli|)[ \\]?(?:K|[Kk]elvin)"
    r"[ _,({\[]*(?:(?i:CMB|thermo(?:dynamic)?))?[)}\]]*"
)
OTHER_UNIT = re.compile(r"RJ|Jy|antenna|brightness|count|hit|\bsr\b", re.IGNORECASE)
STOKES = r"(?:STOKES|POL)?{}(?:STOKES|POL(?:ARI[SZ]ATION)?|MAP)?"  # of `bare` names
LIKELY_RMS = 1e-5, 1e6  # uK: below CMB in K that is read as uK, above uK that is read as K


@dataclasses.dataclass(frozen=True, eq=False)
class PolarisationMap:
    """Q and U of the sky, NaN where it is not seen.

    Attributes:
        nside: HEALPix NSIDE.
        q: Stokes Q, RING, shape (12 nside^2,), uK_CMB.
        u: Stokes U, the same, with the sign of POLCCONV COSMO.
        coordsys: Coordinates: "G" (Galactic), "C" (equatorial), "E" (ecliptic); None where the
            file does not say.
        understood: How the file was understood, one line without its name.
    """

    nside: int
    q: FloatArray
    u: FloatArray
    coordsys: str | None
    understood: str


def read_polarisation(
    path: str, units: str | None = None, fields: Sequence[int] | None = None
) -> PolarisationMap:
    """Q and U of a HEALPix FITS file.

    The columns are found by name. ORDERING must stand in the header: a map in the wrong order
    looks like noise. A file without POLCCONV is taken as COSMO, HEALPix's own convention, and says
    so. A pixel that is missing in Q or U is missing in both; so is one where both are exactly 0, as
    masks leave them and no measurement does.

    Args:
        path: A FITS file, which gzip may have packed.
        units: Unit of the values, "uK", "mK" or "K" of the CMB, where TUNIT does not say it.
        fields: Positions of Q and U among the columns, from 0; None to go by name.

    Raises:
        InputError: If the file cannot be read, does not say enough, or contradicts a flag.
    """
    table = PixelTable.open(path)
    columns = _named_columns(table) if fields is None else _given_columns(table, fields)
    unit, source = _unit(table, columns, units)
    sign = -1.0 if table.is_iau else 1.0
    q, u = table.read(columns) * TEMPERATURES[unit]
    missing = np.isnan(q) | np.isnan(u)
    zero = (q == 0) & (u == 0)
    if zero[~missing].all():  # no map at all
        zero[:] = False
    missing |= zero
    q[missing] = u[missing] = np.nan
    rms = _check_values(path, q[~missing], u[~missing])
    convention = {
        None: "POLCCONV absent, so COSMO assumed",
        "COSMO": "POLCCONV COSMO",
        "IAU": "POLCCONV IAU, so U changes its sign",
    }[table.polcconv]
    coordinates = "coordinates not said" if table.coordsys is None else f"COORDSYS {table.coordsys}"
    extent = "full sky" if table.pixel_column is None else "part of the sky"
    understood = (
        f"Q and U are its columns {' and '.join(table.names[k] or str(k) for k in columns)}, "
        f"NSIDE {table.nside}, {extent}, {table.ordering}, {convention}, in {unit} ({source}), "
        f"{coordinates}, {missing.sum()} of {table.num_pixels} pixels missing"
        f"{f' ({zero.sum()} of them 0 in Q and U)' if zero.any() else ''}, rms {rms:.3g} uK"
    )
    return PolarisationMap(table.nside, q, sign * u, table.coordsys, understood)


def parse_temperature(text: str) -> str | None:
    """A key of TEMPERATURES from what people write (uK_CMB, muK, Kelvin); None where it is none."""
    found = TEMPERATURE.fullmatch(text.strip())
    return None if found is None else f"{PREFIXES[found['prefix']]}K"


def _named_columns(table: PixelTable) -> tuple[int, int]:
    """Positions of the one column named Q and the one named U."""
    found = []
    for letter in "QU":
        pattern = re.compile(STOKES.format(letter))
        columns = [k for k in table.value_columns if pattern.fullmatch(bare(table.names[k]))]
        if len(columns) != 1:
            what = "no column is" if not columns else f"{len(columns)} columns are"
            raise InputError(
                f"{table.path}: {what} named {letter} (such as {letter}_STOKES) among its columns "
                f"{table.listed}; say with --fields which two are Q and U"
            )
        found += columns
    return found[0], found[1]


def _given_columns(table: PixelTable, fields: Sequence[int]) -> tuple[int, int]:
    if len(set(fields)) != 2 or len(fields) != 2 or not set(fields) <= set(table.value_columns):
        raise InputError(
            f"--fields {' '.join(map(str, fields))}: needed are the positions of Q and U, two of "
            f"the columns of {table.path}: {table.listed}"
        )
    return fields[0], fields[1]


def _unit(table: PixelTable, columns: Sequence[int], flag: str | None) -> tuple[str, str]:
    """A key of TEMPERATURES, and who says so; InputError where nobody does, or two differ."""
    said = tuple(table.units[k] for k in columns)
    for text in said:
        if OTHER_UNIT.search(text):
            raise InputError(
                f"{table.path}: TUNIT {text!r} is no unit of CMB temperature; convert the map to "
                "uK_CMB, write that as its TUNIT, or leave TUNIT out and give --units"
            )
    of_file, second = (parse_temperature(text) for text in said)
    if None not in (of_file, second) and of_file != second:
        raise InputError(
            f"{table.path}: TUNIT of Q is {said[0]!r} and that of U {said[1]!r}; write both in one "
            "unit"
        )
    of_file = of_file if of_file == second else None
    if flag is None:
        if of_file is None:
            unclear = next(text for text in said if parse_temperature(text) is None)
            shown = f"is {unclear!r}" if unclear else "is absent"
            raise InputError(
                f"{table.path}: TUNIT {shown}, which does not say the unit of Q and U; give "
                "--units uK, mK or K, of CMB temperature"
            )
        return of_file, "TUNIT"
    given = parse_temperature(flag)
    if given is None:
        raise InputError(f"--units {flag}: is no unit of CMB temperature; give uK, mK or K")
    if of_file not in (None, given):
        raise InputError(
            f"--units {flag}: {table.path} says {said[0]!r} itself (TUNIT); leave the flag out, or "
            "correct the header"
        )
    return given, "--units" if of_file is None else "TUNIT and --units"


def _check_values(path: str, q: FloatArray, u: FloatArray) -> float:
    """rms of Q and U together, uK; InputError where it cannot be that of a sky."""
    if not len(q):
        raise InputError(f"{path}: Q or U is missing in every pixel; give a map with values")
    with np.errstate(over="ignore"):
        rms = float(np.sqrt((np.mean(q**2) + np.mean(u**2)) / 2))
    if rms == 0:
        raise InputError(f"{path}: Q and U are 0 in every pixel; give a map with values")
    if not LIKELY_RMS[0] < rms < LIKELY_RMS[1]:
        raise InputError(
            f"{path}: Q and U have an rms of {rms:.3g} uK, as no sky has; correct the unit "
            "(--units, or TUNIT), or mark pixels without data as UNSEEN"
        )
    return rms
