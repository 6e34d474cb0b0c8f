"""Read and write spectra (.npy + .json): what comes from disk is checked before it is believed."""

import contextlib
import dataclasses
import hashlib
import json
import math
import mmap
import os
from collections.abc import Iterator
from typing import Self

import numpy as np

from runtime import atomic, console, jsonfiles, records
from runtime.errors import InputError
from runtime.jsonfiles import Json
from runtime.priors import Prior
from runtime.records import Contaminants, Record

CHUNK_BYTES = 2**20  # of an array checked at a time: small, so that it stays in the cache


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Spectra, or r, from disk, with what is known about them.

    Attributes:
        path: The .npy file.
        values: D_ell, shape (n, n_ell) or (n, num_draws, n_ell), uK^2, finite and >= 0; or r,
            shape (n,) or (n, num_draws).
        record: The sidecar, checked; empty for a bare file.
        sha256: Of the values' bytes, as hexadecimal digits.
    """

    path: str
    values: np.ndarray
    record: Record
    sha256: str | None = None

    @property
    def ell(self) -> np.ndarray:
        """Multipoles, shape (n_ell,); 2, 3, ... where no sidecar says otherwise."""
        return np.arange(2, 2 + self.values.shape[-1])


SEAL = "sidecar_sha256"
R_QUANTITIES = ("r", "posterior r")  # arrays without multipoles
THEORY_KEYS = ("dl_signal", *(field.name for field in dataclasses.fields(Contaminants)))


def sidecar_path(path: str) -> str:
    """The .json file beside a .npy file."""
    return os.path.splitext(path)[0] + ".json"


def write_sidecar(path: str, shape: tuple[int, ...], digest: str, record: Record) -> None:
    """Write the sidecar of an array, sealed.

    Args:
        path: The .npy file.
        shape: (n, ..., n_ell), or (n,) for a parameter.
        digest: SHA-256 of the array's bytes.
        record: To which number of rows, ell and digest are added.
    """
    content = record.to_json() | {"num_samples": shape[0], "sha256": digest}
    if len(shape) > 1:
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
        """Add rows, shape (m, ..., n_ell)."""
        rows = np.ascontiguousarray(rows, "<f8")
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
    """Read a float array, believing nothing.

    Args:
        path: A .npy file of little-endian float64 or float32 in C order.
        ndim: The number of axes that it must have.

    Returns:
        Read-only array (memory-mapped), finite.

    Raises:
        InputError: If the file is missing, damaged, of another type or shape, or not finite.
    """
    return _read_npy(path, ndim).values


def _read_npy(path: str, ndim: int | tuple[int, ...]) -> _Scanned:
    """An array with its minimum and SHA-256; see `read_npy`."""
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            reader = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, fortran, dtype = reader(file, max_header_size=4096)
            offset = file.tell()
            file_size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception:  # numpy's header parser raises many types on damaged bytes
        raise InputError(f"{path}: is not a .npy file, or its header is damaged") from None
    if dtype.kind == "O":
        raise InputError(f"{path}: holds Python objects; save it with dtype float64")
    if dtype.str not in ("<f8", "<f4"):
        raise InputError(f"{path}: has dtype {dtype.str}; save it with .astype('<f8')")
    wanted = (ndim,) if isinstance(ndim, int) else ndim
    axes = " or ".join(map(str, wanted))
    if fortran and len(shape) > 1 or len(shape) not in wanted or min(shape) < 1:
        raise InputError(
            f"{path}: has shape {shape}{' in Fortran order' if fortran else ''}; "
            f"needed is a non-empty array with {axes} axes in C order"
        )
    expected = offset + math.prod(shape) * dtype.itemsize
    if file_size != expected:
        raise InputError(
            f"{path}: has {file_size} bytes where its header promises {expected}; write it again"
        )
    return _scan(path, np.memmap(path, dtype, "r", offset, shape))


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
    if "ell" in content or content.get("quantity") not in R_QUANTITIES:
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
    require(
        template is None or values.ndim == 1 or template.dl_per_r.shape[1] == values.shape[-1],
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
    """Read an array of numbers and its sidecar; without one they may be negative.

    Args:
        path: A .npy file; NAME.json is read beside NAME.npy where it is there.
        ndim: The number of axes that it must have, or several such numbers.

    Returns:
        A `Table`.

    Raises:
        InputError: If either file is damaged, or the two do not belong together.
    """
    scanned = _read_npy(path, ndim)
    values, sha256 = scanned.values, scanned.sha256
    sidecar = sidecar_path(path)
    if not os.path.exists(sidecar):
        return Table(path, values, Record(), sha256)
    record = _check_sidecar(sidecar, jsonfiles.read_json(sidecar), values, sha256)
    if scanned.minimum < 0 and record.unit in (None, "uK^2"):
        raise InputError(f"{path}: holds negative values; an auto-spectrum D_ell is never negative")
    return Table(path, values, record, sha256)


def load_spectra(path: str) -> Table:
    """`load_table` of spectra (n, n_ell); says what is unknown about a bare file."""
    table = load_table(path, 2)
    if not table.record.known:
        console.info(
            f"{path}: no {os.path.basename(sidecar_path(path))} beside it, so r, unit, beam and "
            f"noise are unknown; columns are taken as ell = 2 ... {table.ell[-1]}, values as uK^2"
        )
    return table


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


def check_quantity(flag: str, table: Table, quantity: str) -> None:
    """InputError where a sidecar says that a file given to a flag holds something else."""
    held = table.record.quantity or quantity
    if held != quantity:
        raise InputError(f"{flag} {table.path}: holds {held}, needed is {quantity}")


def check_same_rows(a: Table, b: Table) -> None:
    """InputError unless two tables of a simulation belong together, row for row."""
    if len(a.values) != len(b.values):
        raise InputError(
            f"{b.path}: has {len(b.values)} rows, {a.path} {len(a.values)}; they must match "
            "row for row"
        )

    def identity(record: Record) -> dict[str, object]:
        r_range = record.prior.r_range and list(record.prior.r_range)
        own = {"nside": record.nside, "split": record.split, "r": record.prior.r}
        return {**own, "r_range": r_range, "seed": record.seed}

    here, there = identity(a.record), identity(b.record)
    for key in here if a.record.known and b.record.known else ():
        if here[key] != there[key]:
            raise InputError(
                f"{b.path}: has {key} = {there[key]}, {a.path} {here[key]}; "
                "they are not of the same skies"
            )
    for key, entries in a.record.sky.differences(b.record.sky).items():
        own, other = records.describe_difference(*entries)
        raise InputError(
            f"{b.path}: has {key} {other}, {a.path} {own}; they are not of the same skies"
        )
