"""Read spectra of other people: one reader for each file format, which believes nothing.

A reader says what stands in a file, and what the file itself says of it: multipoles, unit, D_ell
or C_ell. What that means, and flags beside it, is the matter of `runtime.conventions`. To add a
format, write a reader and add its line to `READERS`.
"""

import argparse
import array
import collections
import dataclasses
import gzip
import io
import math
import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

import numpy as np

from runtime.columns import Name, parse_unit, pick
from runtime.errors import InputError

MAX_BYTES = 2**26  # of a file that is no .npy, unpacked: a spectrum is far smaller
MAX_TEXT_BYTES = 2**22  # of text, which takes a hundred times its size while it is parsed
MAX_HEADER_LINES = 100  # above the numbers, of which the last ones may name the columns


@dataclasses.dataclass(frozen=True, eq=False)
class Content:
    """What stands in a file.

    Attributes:
        values: Numbers as they stand, shape (n, n_columns), a spectrum a row; perhaps on disk.
        words: Which part of the file they are.
        ell: What the file says their multipoles are, shape (n_columns,), unchecked; None where it
            does not.
        first_ell: The first of them by the custom of the format; None where there is none.
        quantity: A key of columns.QUANTITIES, where the file names it.
        custom: The same by the custom of the format.
        unit: A key of columns.UNITS, where the file names it.
    """

    values: np.ndarray
    words: str
    ell: np.ndarray | None = None
    first_ell: int | None = None
    quantity: str | None = None
    custom: str = "dl"
    unit: str | None = None


# --- arrays ----------------------------------------------------------------------------------


def _parse_npy(path: str, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, Fortran order, dtype) of a .npy file with real numbers; InputError for any other."""
    try:
        version = np.lib.format.read_magic(file)
        reader = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = reader(file, max_header_size=4096)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception:  # numpy's header parser raises many types on damaged bytes
        raise InputError(f"{path}: is not a .npy file, or its header is damaged") from None
    if dtype.kind == "O":
        raise InputError(f"{path}: holds Python objects; save it with dtype float64")
    if dtype.kind not in "fiu" or dtype.subdtype is not None:
        raise InputError(f"{path}: has dtype {dtype.str}; save real numbers, .astype('<f8')")
    if not shape or min(shape) < 1:
        raise InputError(f"{path}: has shape {shape}; needed is a non-empty array")
    return shape, fortran and len(shape) > 1, dtype


def _check_size(path: str, found: int, expected: int) -> None:
    if found != expected:
        raise InputError(
            f"{path}: has {found} bytes where its header promises {expected}; write it again"
        )


def map_npy(path: str) -> np.ndarray:
    """A .npy file of real numbers as it stands, memory-mapped, read-only.

    Returns:
        Array of any shape with one axis or more, any real dtype, byte order and memory order.

    Raises:
        InputError: If the file is missing, damaged, empty or holds anything but real numbers.
    """
    try:
        with open(path, "rb") as file:
            shape, fortran, dtype = _parse_npy(path, file)
            offset, size = file.tell(), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    _check_size(path, size, offset + math.prod(shape) * dtype.itemsize)
    return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")


def is_plain(values: np.ndarray) -> bool:
    """Whether an array is little-endian float64 or float32 in C order, and can stay on disk."""
    return values.dtype.str in ("<f8", "<f4") and values.flags.c_contiguous


def to_floats(path: str, values: np.ndarray) -> np.ndarray:
    """The array itself where it is plain, else a float64 copy in memory."""
    if is_plain(values):
        return values
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # who reads it asks for finite values
            return np.array(values, "<f8", order="C")
    except MemoryError:
        raise InputError(
            f"{path}: is too large to be converted in memory; save it with .astype('<f8') in C "
            "order, which is read from disk"
        ) from None


def _as_rows(path: str, values: np.ndarray) -> np.ndarray:
    """An array with one row for each spectrum; one axis is one spectrum."""
    if values.ndim > 2:
        raise InputError(
            f"{path}: has shape {values.shape}; needed is one spectrum, or one in each row"
        )
    return values[None] if values.ndim == 1 else values


def _read_npy(path: str) -> Content:
    return Content(_as_rows(path, map_npy(path)), "all columns")


def _read_npz(path: str) -> Content:
    data = _read_bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [info.filename for info in archive.infolist()]
            if len(members) != 1:
                shown = ", ".join(repr(name.removesuffix(".npy")) for name in members[:8])
                raise InputError(
                    f"{path}: holds {len(members)} arrays ({shown}); save the one that is meant "
                    "alone, as .npy"
                )
            with archive.open(members[0]) as file:
                data = _read_limited(path, file)
    except InputError:
        raise
    except Exception:  # zipfile raises many types on damaged bytes
        raise _damaged(path, "a .npz file") from None
    file = io.BytesIO(data)
    shape, fortran, dtype = _parse_npy(path, file)
    _check_size(path, len(data), file.tell() + math.prod(shape) * dtype.itemsize)
    values = np.frombuffer(data, dtype, offset=file.tell())
    name = members[0].removesuffix(".npy")
    values = values.reshape(shape, order="F" if fortran else "C")
    return Content(_as_rows(path, values), f"all columns of its array {name!r}")


# --- bytes -----------------------------------------------------------------------------------


def _damaged(path: str, kind: str) -> InputError:
    return InputError(f"{path}: is not {kind}, or is damaged")


def _read_limited(path: str, file: IO[bytes] | gzip.GzipFile, limit: int = MAX_BYTES) -> bytes:
    """All bytes of a file, which may unpack them; InputError above a limit."""
    data = file.read(limit + 1)
    if len(data) > limit:
        raise InputError(f"{path}: holds more than {limit // 2**20} MiB; save its spectra as .npy")
    return data


def _read_bytes(path: str, limit: int = MAX_BYTES) -> bytes:
    """Content of a file, unpacked where gzip packed it; InputError above a limit."""
    try:
        with open(path, "rb") as file:
            data = _read_limited(path, file, limit)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
            return _read_limited(path, packed, limit)
    except (OSError, EOFError, zlib.error):
        raise _damaged(path, "a gzip file") from None


# --- text ------------------------------------------------------------------------------------


def _split(line: str) -> list[str]:
    for separator in ",;":
        if separator in line:
            return [word.strip() for word in line.rstrip(f" {separator}\r\n").split(separator)]
    return line.split()


def _numbers(words: list[str]) -> list[float] | None:
    """The numbers of a line, with Fortran's exponents too; None where a word is none."""
    try:
        if any("_" in word for word in words):
            return None
        return [float(re.sub(r"(?<=[\d.])[dD](?=[-+\d])", "e", word)) for word in words]
    except ValueError:
        return None


def _lines(path: str) -> Iterator[tuple[int, str]]:
    try:
        yield from enumerate(io.StringIO(_read_bytes(path, MAX_TEXT_BYTES).decode("utf-8-sig")), 1)
    except UnicodeDecodeError:
        raise _damaged(path, "a text file") from None


def _find_names(headers: Iterable[str], width: int) -> list[Name] | None:
    """Names of the columns in the last header line that holds as many; None where none does."""
    found = None
    for header in headers:
        names = [Name(word) for word in _split(re.sub(r"\s+(?=[\[(])", "", header))]
        if len(names) == width and any(name.is_known for name in names):
            found = names
    return found


def _read_text(path: str) -> Content:
    """Columns of text: the one named BB beside ell, two without names (ell, BB), or one."""
    numbers, width = array.array("d"), 0
    headers: collections.deque[str] = collections.deque(maxlen=MAX_HEADER_LINES)
    for number, line in _lines(path):
        line, mark, comment = line.partition("#")
        words = _split(line.strip())
        found = _numbers(words)
        if not words or (found is None and not width):
            headers.append(f"{line} {comment}".strip(" %!\r\n"))
        elif found is None or len(found) != (width or len(found)):
            needed = f"{width} numbers" if width else "numbers"
            raise InputError(f"{path}: line {number} does not hold {needed} as those before it")
        else:
            width = len(found)
            numbers.extend(found)
    if not width:
        raise InputError(f"{path}: holds no numbers")
    table = np.frombuffer(numbers).reshape(-1, width)
    names = _find_names(headers, width)
    if names is not None:
        ell, spectrum = pick(path, names)
        which = f"its column {names[spectrum].text}"
    elif width <= 2:
        ell, spectrum = (0 if width == 2 else None), width - 1
        which = "its one column" if width == 1 else "the second of its two columns, after ell"
    else:
        raise InputError(
            f"{path}: has {width} columns that no header names; write a line such as "
            "'# ell TT EE BB TE' above them, or give the two columns ell and BB; for many spectra, "
            "one in each row, save a .npy file"
        )
    return Content(
        table[:, spectrum][None],
        which,
        ell=None if ell is None else table[:, ell],
        quantity=None if names is None else names[spectrum].quantity,
        unit=None if names is None else names[spectrum].unit,
    )


# --- FITS ------------------------------------------------------------------------------------


def _read_fits(path: str) -> Content:
    """A table of spectra as healpy.write_cl and HEALPix's anafast leave it: C_ell from ell = 0."""
    from astropy.io import fits

    data = _read_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(io.BytesIO(data), memmap=False) as units:
                return _read_table(path, units[1], len(data))
    except InputError:
        raise
    except Exception:  # astropy raises many types on damaged bytes
        raise _damaged(path, "a FITS file with a table of spectra") from None


def _read_table(path: str, unit: Any, num_bytes: int) -> Content:
    from astropy.io import fits

    if not isinstance(unit, (fits.BinTableHDU, fits.TableHDU)):
        raise _damaged(path, "a FITS file with a table of spectra")
    header, columns = unit.header, unit.columns
    if not 0 < header["NAXIS1"] * header["NAXIS2"] + header["PCOUNT"] <= num_bytes:
        raise InputError(f"{path}: is shorter than its header promises; write it again")
    if header.get("PIXTYPE") == "HEALPIX" or "ORDERING" in header:
        raise InputError(f"{path}: is a map; healpy.anafast makes a spectrum of one")
    names = [Name(str(name)) for name in columns.names]
    if len({name.text for name in names}) < len(names):
        raise InputError(f"{path}: two of its columns have one name; name the B-mode spectrum BB")
    ell, spectrum = pick(path, names)
    chosen = [k for k in (ell, spectrum) if k is not None]
    if any(re.search("[PQ]", str(columns.formats[k])) for k in chosen):
        raise _damaged(path, "a FITS file with one number for each multipole")
    found = [np.asarray(unit.data.field(k)) for k in chosen]
    if any(values.ndim != 1 or values.dtype.kind not in "fiu" for values in found):
        raise InputError(
            f"{path}: column {names[spectrum].text} holds no single number for each multipole"
        )
    return Content(
        np.array(found[-1], float)[None],
        f"its column {names[spectrum].text}",
        ell=None if ell is None else np.array(found[0], float),
        first_ell=0,
        quantity=names[spectrum].quantity,
        custom="cl",
        unit=parse_unit(columns.units[spectrum]),
    )


READERS: dict[str, Callable[[str], Content]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    **dict.fromkeys((".txt", ".dat", ".csv"), _read_text),
    **dict.fromkeys((".fits", ".fit"), _read_fits),
}
PACKED = ".gz"  # after any suffix but those of arrays, which are not read as bytes


def reader(path: str) -> Callable[[str], Content] | None:
    """What reads a file of this name; None for an unknown one."""
    suffix = os.path.splitext(path.lower().removesuffix(PACKED))[1]
    return (
        None
        if suffix in (".npy", ".npz") and path.lower().endswith(PACKED)
        else READERS.get(suffix)
    )


def file_argument(text: str) -> str:
    """Argument type of a file of spectra, in any format."""
    if reader(text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in one of {', '.join(READERS)}")
    return text


def read(path: str) -> Content:
    """What stands in a file of spectra.

    Raises:
        InputError: If it is missing, damaged, of a format that is unknown, or does not say which
            of its columns is meant.
    """
    known = reader(path)
    if known is None:
        raise InputError(f"{path}: does not end in one of {', '.join(READERS)}")
    return known(path)
