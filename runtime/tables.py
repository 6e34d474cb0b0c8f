"""Read and write spectra (.npy + .json): what comes from disk is checked before it is believed."""

import contextlib
import dataclasses
import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterator
from typing import Self

import numpy as np

from runtime import atomic, console, formats, jsonfiles
from runtime.conventions import UNSAID, Conventions, Wanted, read_spectra
from runtime.errors import DivergedError, InputError
from runtime.jsonfiles import Json
from runtime.priors import Prior
from runtime.records import Contaminants, Record

CHUNK_BYTES = 2**20  # of an array checked at a time: small, so that it stays in the cache


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Spectra, or r, from disk, with what is known about them.

    Attributes:
        path: The file.
        values: D_ell, shape (n, n_ell) or (n, num_draws, n_ell), uK^2, finite, and >= 0 where
            there is a record; or r, shape (n,) or (n, num_draws).
        record: The sidecar, checked; empty for a bare file.
        sha256: Of the values' bytes, as hexadecimal digits.
    """

    path: str
    values: np.ndarray
    record: Record
    sha256: str | None = None

    @classmethod
    def of(cls, path: str, values: np.ndarray, record: Record) -> Self:
        """A table that is in memory, and that may be written to path."""
        values = np.ascontiguousarray(values, "<f8")
        return cls(path, values, record, hashlib.sha256(values.data).hexdigest())

    @property
    def ell(self) -> np.ndarray:
        """Multipoles, shape (n_ell,); 2, 3, ... where no sidecar says otherwise."""
        return np.arange(2, 2 + self.values.shape[-1])


SEAL = "sidecar_sha256"
MODES = "observed modes"  # of masked skies, see sky.masked
OF_WEIGHTS = ("posterior effective draws", "posterior Pareto k")  # of sample.py --correct
WITHOUT_MULTIPOLES = ("r", "posterior r", MODES, *OF_WEIGHTS)  # quantities of arrays
THEORY_KEYS = ("dl_signal", *(field.name for field in dataclasses.fields(Contaminants)))


def sidecar_path(path: str) -> str:
    """The .json file beside a .npy file."""
    return os.path.splitext(path)[0] + ".json"


def has_record(path: str) -> bool:
    """Whether a file is one of this project's: a .npy file with a sidecar."""
    return path.lower().endswith(".npy") and os.path.exists(sidecar_path(path))


def write_sidecar(path: str, shape: tuple[int, ...], digest: str, record: Record) -> None:
    """Write the sidecar of an array, sealed.

    Args:
        path: The .npy file.
        shape: (n, ..., n_ell), or (n,) for a parameter.
        digest: SHA-256 of the array's bytes.
        record: To which number of rows, ell and digest are added.
    """
    content = record.to_json() | {"num_samples": shape[0], "sha256": digest}
    if len(shape) > 1 and record.quantity != MODES:
        content["ell"] = list(range(2, 2 + shape[-1]))
    atomic.write_json(sidecar_path(path), {**content, SEAL: seal(content)})


class ArrayWriter:
    """Stream an array to disk, with its sidecar; nothing appears before it is whole.

    Args:
        path: The .npy file.
        shape: (n, ..., n_ell), or (n,) for a parameter.
        record: For the sidecar; ell, a SHA-256 of the rows and one of the sidecar's entries are
            added.
    """

    def __init__(self, path: str, shape: tuple[int, ...], record: Record) -> None:
        self.path, self.shape, self.record = path, shape, record

    def __enter__(self) -> Self:
        self._stack = contextlib.ExitStack()
        self._file = self._stack.enter_context(atomic.open_npy(self.path, self.shape))
        self._hash, self._rows = hashlib.sha256(), 0
        return self

    def append(self, rows: np.ndarray) -> None:
        """Add rows, shape (m, ..., n_ell); DivergedError unless they are finite."""
        rows = np.ascontiguousarray(rows, "<f8")
        if not np.isfinite(rows).all():
            raise DivergedError(f"{self.path}: a row is NaN or infinite; nothing was written")
        self._file.write(rows.data)
        self._hash.update(rows.data)
        self._rows += len(rows)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with self._stack:  # moves the file into place, or removes it where this block raises
            if error is not None:
                raise error
            if self._rows != self.shape[0]:
                raise RuntimeError(f"{self.path}: {self._rows} rows written of {self.shape[0]}")
        write_sidecar(self.path, self.shape, self._hash.hexdigest(), self.record)


def write_array(path: str, values: np.ndarray, record: Record) -> None:
    """Write an array that is already in memory, with its sidecar."""
    with ArrayWriter(path, values.shape, record) as writer:
        writer.append(values)


def release(values: np.ndarray) -> None:
    """Give back the memory of what was read of a mapped array, or of a part of it."""
    mapped = getattr(values, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        with contextlib.suppress(OSError):  # an advice, no more
            mapped.madvise(mmap.MADV_DONTNEED)


def chunks(values: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of an array that may be larger than memory, CHUNK_BYTES at a time."""
    rows = max(1, CHUNK_BYTES // values[0].nbytes)
    for start in range(0, len(values), rows):
        yield values[start : start + rows]
        release(values)


def minimum(values: np.ndarray) -> float:
    """The smallest number of an array that may be larger than memory."""
    return min(float(chunk.min()) for chunk in chunks(values))


@dataclasses.dataclass(frozen=True, eq=False)
class _Scanned:
    """An array and what one pass over it found."""

    values: np.ndarray
    minimum: float
    sha256: str


def _scan(path: str, values: np.ndarray) -> _Scanned:
    """Minimum and SHA-256 of an array in C order, read once; InputError unless it is finite.

    The array may be larger than the memory: nothing of its size is made.
    """
    sha256, lowest, highest = hashlib.sha256(), np.inf, -np.inf
    for chunk in chunks(values):
        sha256.update(chunk.data)
        # NaN is both of them where it occurs
        lowest, highest = np.minimum(lowest, chunk.min()), np.maximum(highest, chunk.max())
    if not np.isfinite([lowest, highest]).all():
        raise InputError(f"{path}: holds NaN or infinity; every value must be finite")
    return _Scanned(values, float(lowest), sha256.hexdigest())


def read_npy(path: str, ndim: int = 2) -> np.ndarray:
    """Read a float array of this project, believing nothing.

    Args:
        path: A .npy file of little-endian float64 or float32 in C order.
        ndim: The number of axes that it must have.

    Returns:
        Read-only array (memory-mapped), finite.

    Raises:
        InputError: If the file is missing, damaged, of another type or shape, or not finite.
    """
    values = formats.map_npy(path)
    _check_axes(path, values, (ndim,))
    return _scan(path, _in_own_format(path, values)).values


def _in_own_format(path: str, values: np.ndarray) -> np.ndarray:
    """The array; InputError unless this project could have written it."""
    if not formats.is_plain(values):
        order = "" if values.flags.c_contiguous else " in Fortran order"
        raise InputError(
            f"{path}: has dtype {values.dtype.str}{order}; save it with .astype('<f8') in C order"
        )
    return values


def _check_axes(path: str, values: np.ndarray, ndim: tuple[int, ...]) -> None:
    if values.ndim not in ndim:
        needed = " or ".join(map(str, ndim))
        raise InputError(f"{path}: has shape {values.shape}; needed are {needed} axes")


def seal(content: Json) -> str:
    """SHA-256 of a sidecar's entries, that of the seal itself left out."""
    entries = {key: value for key, value in content.items() if key != SEAL}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _check_sidecar(path: str, content: Json, values: np.ndarray, sha256: str) -> Record:
    """The record that a sidecar holds; InputError where it is not that of the array."""

    def require(condition: bool, what: str) -> None:
        if not condition:
            raise InputError(f"{path}: {what}; generate the pair again")

    n = len(values)
    require(content.get("num_samples") == n, f"num_samples is not the array's {n} rows")
    if "ell" in content or content.get("quantity") not in WITHOUT_MULTIPOLES:
        n_ell = values.shape[-1]
        require(
            content.get("ell") == list(range(2, 2 + n_ell)),
            f"ell does not name the array's {n_ell} columns",
        )
        for key in THEORY_KEYS:
            theory = content.get(key, [0.0] * n_ell)
            require(
                isinstance(theory, list)
                and len(theory) == n_ell
                and all(jsonfiles.is_number(v) and v >= 0 for v in theory),
                f"{key} is not a list of {n_ell} numbers >= 0",
            )
    require(
        "r" not in content or jsonfiles.is_number(content["r"]) and content["r"] >= 0,
        "r is not a number >= 0",
    )
    try:
        template = Prior.from_json(content).signal_template
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}; generate the pair again") from None
    has_multipoles = values.ndim > 1 and content.get("quantity") != MODES
    require(
        template is None or not has_multipoles or template.dl_per_r.shape[1] == values.shape[-1],
        f"signal_template has not {values.shape[-1]} multipoles",
    )
    require(content.get("sha256") == sha256, "its SHA-256 is not that of the array")
    if content.get(SEAL, seal(content)) != seal(content):  # files of older versions have none
        raise InputError(
            f"{path}: was changed after it was written; generate the pair again, or delete {SEAL} "
            "from it if the change is meant"
        )
    try:
        return Record.from_json({key: value for key, value in content.items() if key != SEAL})
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: is damaged ({error}); generate the pair again") from None


def load_table(path: str, ndim: int | tuple[int, ...]) -> Table:
    """Read an array and its sidecar.

    Args:
        path: A .npy file; NAME.json is read beside NAME.npy where it is there. Without one any real
            dtype, byte order and memory order will do, and values may be negative.
        ndim: The number of axes that it must have, or several that it may have.

    Returns:
        A `Table`.

    Raises:
        InputError: If either file is damaged, or the two do not belong together.
    """
    axes = (ndim,) if isinstance(ndim, int) else ndim
    values, sidecar = formats.map_npy(path), sidecar_path(path)
    _check_axes(path, values, axes)
    if not os.path.exists(sidecar):
        scanned = _scan(path, formats.to_floats(path, values))
        return Table(path, scanned.values, Record(), scanned.sha256)
    scanned = _scan(path, _in_own_format(path, values))
    record = _check_sidecar(sidecar, jsonfiles.read_json(sidecar), values, scanned.sha256)
    table = Table(path, values, record, scanned.sha256)
    if scanned.minimum < 0 and record.unit in (None, "uK^2"):
        raise InputError(
            f"{path}: {_find(table, lambda rows: rows < 0)} below 0, where no auto-spectrum is, "
            f"and {sidecar} says that this is one; generate the pair again, or take that file away "
            "if the spectra are others"
        )
    return table


def _find(table: Table, is_wrong: Callable[[np.ndarray], np.ndarray]) -> str:
    """Words for values of spectra that are wrong: the first, and how many there are."""
    start, count, first = 0, 0, ""
    for rows in chunks(table.values):
        wrong = is_wrong(rows)
        if wrong.any() and not first:
            row, *_, column = (int(index[0]) for index in wrong.nonzero())
            first = f"{rows[wrong][0]:g} in row {start + row}, column {column} (ell = {column + 2})"
        start, count = start + len(rows), count + int(wrong.sum())
    are = "is" if count == 1 else "are"
    return f"holds {first}; {count} of its {table.values.size} values {are}"


def load_spectra(
    path: str, conventions: Conventions = UNSAID, wanted: Wanted | None = None
) -> Table:
    """Read spectra (n, n_columns), of this project or of others; says how it understood the latter.

    Args:
        path: `load_table` reads a .npy file with a sidecar, `conventions.read_spectra` any other.
        conventions: What flags say of a file without a sidecar.
        wanted: Columns that are needed of such a file; None for all.

    Raises:
        InputError: As these; if flags would reinterpret what a sidecar says.
    """
    if has_record(path):
        if conventions.flags:
            raise InputError(
                f"{conventions.flags}: {path} has a record, {sidecar_path(path)}, which says its "
                "unit and multipoles; leave the flags out, or take that file away if it is not its "
                "record"
            )
        return load_table(path, 2)
    values, words = read_spectra(path, conventions, wanted)
    scanned = _scan(path, values)
    console.info(f"{path}: has no record, so r, beam and noise are unknown; understood as {words}")
    return Table(path, values, Record(), scanned.sha256)


def check_positive(table: Table, advice: str, columns: np.ndarray | None = None) -> None:
    """InputError where a value of spectra has no logarithm; names the first one, and a way out.

    Args:
        table: Spectra, shape (n, n_columns).
        advice: What the user can do.
        columns: Those whose logarithm is taken, boolean array (n_columns,); None for all.
    """
    taken = np.ones(table.values.shape[1], bool) if columns is None else columns

    def has_no_logarithm(rows: np.ndarray) -> np.ndarray:
        return (rows <= 0) & taken

    if any(has_no_logarithm(rows).any() for rows in chunks(table.values)):
        found = _find(table, has_no_logarithm)
        raise InputError(f"{table.path}: {found} not above 0, where a logarithm is taken; {advice}")


def load_r(path: str) -> Table:
    """`load_table` of r (n,); its sidecar must name the prior.

    Raises:
        InputError: As `load_table`; if there is no prior; if an r lies outside or on its edges.
    """
    table = load_table(path, 1)
    prior = table.record.prior
    if prior.signal_template is None or prior.r_range is None:
        raise InputError(
            f"{path}: has no sidecar with r_range and signal_template; write it with "
            "data_generation.py --r-range"
        )
    low, high = prior.r_range
    if not (low < table.values.min() and table.values.max() < high):
        raise InputError(f"{path}: holds r outside of {low:g} to {high:g}; generate it again")
    return table
