"""Read columns of HEALPix FITS files: full sky or part of it, RING or NESTED, found by position.

astropy rather than `healpy.read_map`, which fails on columns that share a name, believes a header
without ORDERING, and does not say what it assumed.
"""

import contextlib
import dataclasses
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np

from runtime.columns import Name
from runtime.errors import InputError
from runtime.priors import FloatArray
from sky.cosmology import IntArray

UNSEEN = -1.6375e30  # HEALPix's value of a pixel without data
ROUNDING = 1e-5  # relative, within which a float32 is UNSEEN or BAD_DATA: healpy's
MAX_NSIDE = 8192  # 800 million pixels; above it, a damaged header is likelier than a map
PIXEL_NAMES = ("PIXEL", "PIXELS", "PIX", "PIXELINDEX", "HPXINDEX", "HPXPIXEL")
ORDERINGS = {"RING": "RING", "NEST": "NESTED", "NESTED": "NESTED"}
CONVENTIONS = ("COSMO", "IAU")  # of the sign of U
UNSAID = ("", "UNKNOWN", "UNDEF", "NONE")  # what headers write where they do not know
COORDINATES = {
    **dict.fromkeys(("G", "GAL", "GALACTIC"), "G"),
    **dict.fromkeys(("C", "CEL", "CELESTIAL", "EQU", "EQUATORIAL", "Q", "J2000", "ICRS"), "C"),
    **dict.fromkeys(("E", "ECL", "ECLIPTIC"), "E"),
}
SYSTEMS = {"C": "equatorial", "E": "ecliptic"}  # of `COORDINATES`, those that are not Galactic


def bare(name: str) -> str:
    """Name of a column in capitals, without what separates its words."""
    return re.sub(r"[\s_-]", "", name).upper()


@dataclasses.dataclass(frozen=True)
class PixelTable:
    """What the header of a HEALPix table says; `read` gives its values.

    Attributes:
        path: The file.
        nside: HEALPix NSIDE.
        ordering: "RING" or "NESTED"; None where the header does not say.
        names: Of all columns, in their order.
        units: TUNIT of each, empty where it is absent.
        pixel_column: Which of them numbers the pixels of a part of the sky; None for all the sky.
        coordsys: "G", "C" or "E"; None where the header does not say.
        polcconv: POLCCONV in capitals, unchecked; None where the header does not say.
        bad_data: BAD_DATA, a value of pixels without data; None where there is none.
    """

    path: str
    nside: int
    ordering: str | None
    names: tuple[str, ...]
    units: tuple[str, ...]
    pixel_column: int | None
    coordsys: str | None
    polcconv: str | None
    bad_data: float | None

    @classmethod
    def open(cls, path: str) -> Self:
        """Header of the first table of a file, which gzip may have packed.

        Raises:
            InputError: If the file cannot be read, holds no HEALPix map, or contradicts itself.
        """
        with _first_table(path) as unit:
            header = unit.header
            numbers = range(1, header["TFIELDS"] + 1)
            names = tuple(str(header.get(f"TTYPE{k}", "")).strip() for k in numbers)
            pixtype = _word(header, "PIXTYPE")
            if pixtype is None and any(Name(name).is_known for name in names):
                raise InputError(
                    f"{path}: holds spectra ({', '.join(names[:8])}), not a map; give the map that "
                    "they are of"
                )
            if pixtype not in (None, "HEALPIX") or not names:
                raise InputError(f"{path}: is no HEALPix map; write it with healpy.write_map")
            pixel_column = _pixel_column(path, header, names)
            bad = header.get("BAD_DATA")
            return cls(
                path=path,
                nside=_nside(path, unit, pixel_column is None),
                ordering=_ordering(path, header),
                names=names,
                units=tuple(str(header.get(f"TUNIT{k}", "")).strip() for k in numbers),
                pixel_column=pixel_column,
                coordsys=COORDINATES.get(_word(header, "COORDSYS") or ""),
                polcconv=_word(header, "POLCCONV"),
                bad_data=float(bad) if isinstance(bad, (int, float)) else None,
            )

    @property
    def num_pixels(self) -> int:
        """Pixels of the full sky."""
        return 12 * self.nside**2

    @property
    def value_columns(self) -> tuple[int, ...]:
        """Positions of the columns that do not number pixels."""
        return tuple(k for k in range(len(self.names)) if k != self.pixel_column)

    @property
    def listed(self) -> str:
        """The columns with their positions, for messages."""
        shown = ", ".join(f"{k} {name or '(no name)'}" for k, name in enumerate(self.names[:16]))
        return f"{shown}, ..." if len(self.names) > 16 else shown

    @property
    def is_iau(self) -> bool:
        """Whether U has the sign of IAU, the opposite of HEALPix's COSMO, which is the default.

        Raises:
            InputError: If POLCCONV has another value.
        """
        if self.polcconv not in (None, *CONVENTIONS):
            raise InputError(
                f"{self.path}: POLCCONV is {self.polcconv}; needed is COSMO or IAU, which says the "
                "sign of U: correct the header"
            )
        return self.polcconv == "IAU"

    def read(self, columns: Sequence[int]) -> FloatArray:
        """Values of columns on the full sky, NaN where there are none.

        Args:
            columns: Their positions.

        Returns:
            RING, shape (len(columns), 12 nside^2), as they stand but for missing values.

        Raises:
            InputError: If ORDERING is absent, or columns are damaged or of another length.
        """
        import healpy

        if self.ordering is None:
            raise InputError(
                f"{self.path}: its header has no ORDERING; add it (RING or NESTED), as "
                "healpy.write_map does"
            )
        with _first_table(self.path) as unit:
            for k in range(len(self.names)):  # numpy refuses columns of one name
                unit.header[f"TTYPE{k + 1}"] = f"column{k}"
            pixels = self._pixels(unit)
            values = np.full((len(columns), self.num_pixels), np.nan)
            for row, k in zip(values, columns, strict=True):
                column = _numbers(self, unit, k)
                expected = self.num_pixels if pixels is None else len(pixels)
                if len(column) != expected:
                    raise InputError(
                        f"{self.path}: column {self.names[k]} has {len(column)} values, and "
                        f"NSIDE {self.nside} {'needs' if pixels is None else 'with its pixels'} "
                        f"{expected}; write it again with healpy.write_map"
                    )
                row[slice(None) if pixels is None else pixels] = column
        values[self._is_missing(values)] = np.nan
        if self.ordering == "NESTED":
            values = values[:, healpy.ring2nest(self.nside, np.arange(self.num_pixels))]
        return values

    def _pixels(self, unit: Any) -> IntArray | None:
        """Pixels of the rows in the file's own ordering; None for the full sky."""
        if self.pixel_column is None:
            return None
        found = _numbers(self, unit, self.pixel_column)
        inside = (found >= 0) & (found < self.num_pixels) & (found == np.floor(found))
        if not inside.all() or len(np.unique(found)) < len(found):
            raise InputError(
                f"{self.path}: column {self.names[self.pixel_column]} must number pixels, 0 to "
                f"{self.num_pixels - 1} for NSIDE {self.nside}, each once; write it again with "
                "healpy.write_map(partial=True)"
            )
        return found.astype(int)

    def _is_missing(self, values: FloatArray) -> np.ndarray:
        missing = ~np.isfinite(values)
        for marker in (UNSEEN, self.bad_data):
            if marker is not None and np.isfinite(marker):
                missing |= np.isclose(values, marker, rtol=ROUNDING, atol=0)
        return missing


@contextlib.contextmanager
def _first_table(path: str) -> Iterator[Any]:
    """The first table of a FITS file; whatever goes wrong inside is an InputError."""
    from astropy.io import fits

    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that break rules which do not matter here
            with fits.open(path) as units:
                tables = (u for u in units if isinstance(u, (fits.BinTableHDU, fits.TableHDU)))
                unit = next(tables, None)
                if unit is None:
                    raise InputError(
                        f"{path}: holds no table, or is cut short; write it again with "
                        "healpy.write_map"
                    )
                yield unit
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path}: does not fit into memory; degrade it first") from None
    except Exception:  # astropy raises many types on damaged bytes
        raise InputError(
            f"{path}: is no FITS file of a HEALPix map, or is damaged or cut short; write it again "
            "with healpy.write_map"
        ) from None


def _word(header: Any, key: str) -> str | None:
    """Value of a card in capitals; None where it is absent or says nothing."""
    word = str(header.get(key, "")).strip().upper()
    return None if word in UNSAID else word


def _ordering(path: str, header: Any) -> str | None:
    word = _word(header, "ORDERING")
    if word is not None and word not in ORDERINGS:
        raise InputError(f"{path}: ORDERING is {word}; needed is RING or NESTED")
    return None if word is None else ORDERINGS[word]


def _pixel_column(path: str, header: Any, names: Sequence[str]) -> int | None:
    """Position of the column that numbers pixels; None for a full sky without one."""
    found = [k for k, name in enumerate(names) if bare(name) in PIXEL_NAMES]
    if len(found) > 1 or (not found and _word(header, "INDXSCHM") == "EXPLICIT"):
        raise InputError(
            f"{path}: holds part of the sky, and {len(found)} of its columns ({', '.join(names)}) "
            "are named PIXEL; name the one that numbers the pixels so"
        )
    return found[0] if found else None


def _nside(path: str, unit: Any, is_full: bool) -> int:
    """NSIDE of the header; where it has none, of the number of values on a full sky."""
    number = unit.header.get("NSIDE")
    if number is None and is_full:
        repeat = getattr(unit.columns[0].format, "repeat", 1)
        number = (unit.header["NAXIS2"] * repeat / 12) ** 0.5
    known = isinstance(number, (int, float)) and 1 <= number <= MAX_NSIDE
    if not known or number != int(number) or int(number) & (int(number) - 1):
        shown = "absent" if number is None else number
        raise InputError(
            f"{path}: NSIDE is {shown}; needed is a power of 2 up to {MAX_NSIDE}: correct the "
            "header, or write the map again with healpy.write_map"
        )
    return int(number)


def _numbers(table: PixelTable, unit: Any, k: int) -> FloatArray:
    """All values of a column, whose rows may be vectors, one after the other."""
    column = np.asarray(unit.data.field(k))
    if column.dtype.kind not in "fiub":
        raise InputError(
            f"{table.path}: column {table.names[k]} holds no real numbers; write it again with "
            "healpy.write_map"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        return column.reshape(-1).astype(float)
