"""Read and write spectra (.npy + .json): what comes from disk is checked before it is believed."""

import contextlib
import dataclasses
import hashlib
import json
import math
import mmap
import os
import subprocess
import sys
from importlib import metadata as importlib_metadata

import numpy as np

import mismatch
from cli import InputError, note
from files import open_npy, write_json
from spectra import SignalTemplate

CHUNK_BYTES = 2**20  # of an array checked at a time: small, so that it stays in the cache
MAX_JSON_BYTES = 2**24  # far above use; Python's objects are many times larger than their text
PACKAGES = ("numpy", "scipy", "camb", "healpy", "pysm3", "torch")


def provenance(argv=None):
    """Command, package versions and git commit, for a sidecar or a checkpoint.

    Args:
        argv: The script's arguments; those of this process when None.
    """
    words = [os.path.basename(sys.argv[0]), *(sys.argv[1:] if argv is None else argv)]
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib_metadata.PackageNotFoundError):
            versions[name] = importlib_metadata.version(name)
    commit = None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=os.path.dirname(os.path.abspath(__file__)),
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout.strip()
    return {"command": " ".join(map(str, words)), "versions": versions, "git_commit": commit}


@dataclasses.dataclass(frozen=True)
class Table:
    """Spectra, or r, from disk, with what is known about them.

    Attributes:
        path: The .npy file.
        values: D_ell, shape (n, n_ell) or (n, num_draws, n_ell), uK^2, finite and >= 0; or r,
            shape (n,) or (n, num_draws).
        metadata: The sidecar, checked; empty for a bare file.
        sha256: Of the values' bytes, as hexadecimal digits.
    """

    path: str
    values: np.ndarray
    metadata: dict
    sha256: str | None = None

    @property
    def ell(self):
        """Multipoles, shape (n_ell,); 2, 3, ... where no sidecar says otherwise."""
        return np.arange(2, 2 + self.values.shape[-1])

    def theory(self, name):
        """Theory array `name` of the sidecar, shape (n_ell,), uK^2; None where unknown."""
        values = self.metadata.get(name)
        return None if values is None else np.asarray(values, float)

    @property
    def residual(self):
        """Mean Gaussian power on top of the signal, shape (n_ell,), uK^2; None where unknown."""
        parts = [self.theory(key) for key in GAUSSIAN_KEYS]
        if "dl_contaminant" in self.metadata or any(part is None for part in parts):
            return self.theory("dl_contaminant")
        return sum(parts)

    @property
    def r_range(self):
        """(r_min, r_max) of the uniform prior of r; None where r is fixed or unknown."""
        return self.metadata.get("r_range") and tuple(self.metadata["r_range"])

    @property
    def signal(self):
        """S(r), a `spectra.SignalTemplate`; None where r is fixed or unknown."""
        return signal_template(self.metadata)


def signal_template(metadata):
    """`spectra.SignalTemplate` of a sidecar or a checkpoint; None where it holds none.

    Raises:
        ValueError: If it is damaged.
    """
    if "signal_template" not in metadata:
        return None
    try:
        template = {key: np.array(metadata["signal_template"][key], float) for key in TEMPLATE_KEYS}
        low, high = metadata["r_range"]
        finite = all(np.isfinite(value).all() for value in template.values())
    except (KeyError, TypeError, ValueError):
        finite = False
    if not finite or not 0 <= low < high < math.inf:
        raise ValueError("r_range or signal_template is damaged")
    if template["dl_per_r"].shape[:1] != template["r_nodes"].shape:
        raise ValueError("signal_template has not one spectrum per r")
    return SignalTemplate(**template)


SEAL = "sidecar_sha256"
R_QUANTITIES = ("r", "posterior r")  # arrays without multipoles
TEMPLATE_KEYS = ("r_nodes", "dl_per_r")
GAUSSIAN_KEYS = ("dl_lensing", "dl_noise", "dl_gaussian_foreground")  # what lies on the signal
THEORY_KEYS = ("dl_signal", "dl_contaminant", "dl_fixed_foreground", *GAUSSIAN_KEYS)
SKY_KEYS = ("instrument", "cleaning", "a_lens", "foregrounds", "foreground_scale")


def sky(metadata):
    """What a sidecar says of instrument, cleaning and sky: those of `SKY_KEYS` that it has."""
    return {key: metadata[key] for key in SKY_KEYS if key in metadata}


def sidecar_path(path):
    """The .json file beside a .npy file."""
    return os.path.splitext(path)[0] + ".json"


def write_sidecar(path, shape, digest, metadata):
    """Write the sidecar of an array, sealed.

    Args:
        path: The .npy file.
        shape: (n, ..., n_ell), or (n,) for a parameter.
        digest: SHA-256 of the array's bytes.
        metadata: JSON-ready dict, to which number of rows, ell and digest are added.
    """
    own = {"num_samples": shape[0], "sha256": digest}
    if len(shape) > 1:
        own["ell"] = list(range(2, 2 + shape[-1]))
    metadata = {**metadata, **own}
    write_json(sidecar_path(path), {**metadata, SEAL: seal(metadata)})


class ArrayWriter:
    """Stream an array to disk, with its sidecar; nothing appears before it is whole.

    Args:
        path: The .npy file.
        shape: (n, ..., n_ell), or (n,) for a parameter.
        metadata: JSON-ready dict for the sidecar; ell, a SHA-256 of the rows and one
            of the sidecar's entries are added.
    """

    def __init__(self, path, shape, metadata):
        self.path, self.shape, self.metadata = path, shape, metadata

    def __enter__(self):
        self._stack = contextlib.ExitStack()
        self._file = self._stack.enter_context(open_npy(self.path, self.shape))
        self._hash, self._rows = hashlib.sha256(), 0
        return self

    def append(self, rows):
        """Add rows, shape (m, ..., n_ell)."""
        rows = np.ascontiguousarray(rows, "<f8")
        self._file.write(rows.data)
        self._hash.update(rows.data)
        self._rows += len(rows)

    def __exit__(self, kind, error, trace):
        with self._stack:  # moves the file into place, or removes it where this block raises
            if kind is not None:
                raise error
            if self._rows != self.shape[0]:
                raise RuntimeError(f"{self.path}: {self._rows} rows written of {self.shape[0]}")
        write_sidecar(self.path, self.shape, self._hash.hexdigest(), self.metadata)


def write_array(path, values, metadata):
    """Write an array that is already in memory, with its sidecar."""
    with ArrayWriter(path, values.shape, metadata) as writer:
        writer.append(values)


def release(values):
    """Give back the memory of what was read of a mapped array, or of a part of it."""
    mapped = getattr(values, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def chunks(values):
    """Rows of an array that may be larger than memory, CHUNK_BYTES at a time."""
    rows = max(1, CHUNK_BYTES // values[0].nbytes)
    for start in range(0, len(values), rows):
        yield values[start : start + rows]
        release(values)


def minimum(values):
    """The smallest number of an array that may be larger than memory."""
    return min(float(chunk.min()) for chunk in chunks(values))


def _scan(values):
    """(minimum, maximum, SHA-256) of an array in C order, read once; NaN is both where it occurs.

    The array may be larger than the memory: nothing of its size is made.
    """
    sha256, lowest, highest = hashlib.sha256(), np.inf, -np.inf
    for chunk in chunks(values):
        sha256.update(chunk)
        lowest, highest = np.minimum(lowest, chunk.min()), np.maximum(highest, chunk.max())
    return lowest, highest, sha256.hexdigest()


def read_npy(path, ndim=2):
    """Read a float array, believing nothing.

    Args:
        path: A .npy file of little-endian float64 or float32 in C order.
        ndim: The number of axes that it must have.

    Returns:
        Read-only array (memory-mapped), finite.

    Raises:
        InputError: If the file is missing, damaged, of another type or shape, or not finite.
    """
    return _read_npy(path, ndim)[0]


def _read_npy(path, ndim):
    """(array, its minimum, its SHA-256); see `read_npy`."""
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
    if fortran and len(shape) > 1 or len(shape) != ndim or min(shape) < 1:
        raise InputError(
            f"{path}: has shape {shape}{' in Fortran order' if fortran else ''}; "
            f"needed is a non-empty array with {ndim} axes in C order"
        )
    expected = offset + math.prod(shape) * dtype.itemsize
    if file_size != expected:
        raise InputError(
            f"{path}: has {file_size} bytes where its header promises {expected}; write it again"
        )
    values = np.memmap(path, dtype, "r", offset, shape)
    lowest, highest, sha256 = _scan(values)
    if not np.isfinite([lowest, highest]).all():
        raise InputError(f"{path}: holds NaN or infinity; every value must be finite")
    return values, lowest, sha256


def _finite_number(text):
    number = float(text) if set(text) & set(".eENI") else int(text)
    if not math.isfinite(number):  # OverflowError, where an integer is beyond every float
        raise ValueError(f"{text} is no finite number")
    return number


def _unique_keys(pairs):
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return content


def read_json(path):
    """Read a JSON object.

    Raises:
        InputError: If the file is missing or is no JSON object; if it holds a number that no
            float can be, or a key twice.
    """
    hooks = dict.fromkeys(("parse_constant", "parse_float", "parse_int"), _finite_number)
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_JSON_BYTES + 1)
        if len(text) > MAX_JSON_BYTES:
            raise InputError(f"{path}: is larger than any file of its kind")
        content = json.loads(text.decode(), object_pairs_hook=_unique_keys, **hooks)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError, OverflowError) as error:
        raise InputError(f"{path}: is not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold a JSON object")
    return content


def seal(metadata):
    """SHA-256 of a sidecar's entries, that of the seal itself left out."""
    entries = {key: value for key, value in metadata.items() if key != SEAL}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_sidecar(path, metadata, values, sha256):
    def require(condition, what):
        if not condition:
            raise InputError(f"{path}: {what}; generate the pair again")

    n = len(values)
    require(metadata.get("num_samples") == n, f"num_samples is not the array's {n} rows")
    try:
        template = signal_template(metadata)
    except ValueError as error:
        require(False, str(error))
    if "ell" in metadata or metadata.get("quantity") not in R_QUANTITIES:
        n_ell = values.shape[-1]
        require(
            metadata.get("ell") == list(range(2, 2 + n_ell)),
            f"ell does not name the array's {n_ell} columns",
        )
        for key in THEORY_KEYS:
            theory = metadata.get(key, [0.0] * n_ell)
            require(
                isinstance(theory, list)
                and len(theory) == n_ell
                and all(is_number(v) and v >= 0 for v in theory),
                f"{key} is not a list of {n_ell} numbers >= 0",
            )
        require(
            template is None or template.dl_per_r.shape[1] == n_ell,
            f"signal_template has not {n_ell} multipoles",
        )
    require(
        "r" not in metadata or is_number(metadata["r"]) and metadata["r"] >= 0,
        "r is not a number >= 0",
    )
    require(metadata.get("sha256") == sha256, "its SHA-256 is not that of the array")
    if metadata.get(SEAL, seal(metadata)) != seal(metadata):  # files of older versions have none
        raise InputError(
            f"{path}: was changed after it was written; generate the pair again, or delete {SEAL} "
            "from it if the change is meant"
        )


def load_table(path, ndim):
    """Read an array of numbers >= 0 and its sidecar.

    Args:
        path: A .npy file; NAME.json is read beside NAME.npy where it is there.
        ndim: The number of axes that it must have.

    Returns:
        A `Table`.

    Raises:
        InputError: If either file is damaged, or the two do not belong together.
    """
    values, lowest, sha256 = _read_npy(path, ndim)
    if lowest < 0:
        raise InputError(f"{path}: holds negative values; an auto-spectrum D_ell is never negative")
    sidecar = sidecar_path(path)
    if not os.path.exists(sidecar):
        return Table(path, values, {}, sha256)
    metadata = read_json(sidecar)
    _check_sidecar(sidecar, metadata, values, sha256)
    metadata.pop(SEAL, None)
    return Table(path, values, metadata, sha256)


def load_spectra(path):
    """`load_table` of spectra (n, n_ell); says what is unknown about a bare file."""
    table = load_table(path, 2)
    if not table.metadata:
        note(
            f"{path}: no {os.path.basename(sidecar_path(path))} beside it, so r, unit, beam and "
            f"noise are unknown; columns are taken as ell = 2 ... {table.ell[-1]}, values as uK^2"
        )
    return table


def load_r(path):
    """`load_table` of r (n,); its sidecar must name the prior.

    Raises:
        InputError: As `load_table`; if there is no prior; if an r lies outside or on its edges.
    """
    table = load_table(path, 1)
    if table.signal is None:
        raise InputError(
            f"{path}: has no sidecar with r_range and signal_template; write it with "
            "data_generation.py --r-range"
        )
    low, high = table.r_range
    if not (low < table.values.min() and table.values.max() < high):
        raise InputError(f"{path}: holds r outside of {low:g} to {high:g}; generate it again")
    return table


def check_quantity(flag, table, quantity):
    """InputError where a sidecar says that a file given to a flag holds something else."""
    held = table.metadata.get("quantity", quantity)
    if held != quantity:
        raise InputError(f"{flag} {table.path}: holds {held}, needed is {quantity}")


def check_same_rows(a, b):
    """InputError unless two tables of a simulation belong together, row for row."""
    if len(a.values) != len(b.values):
        raise InputError(
            f"{b.path}: has {len(b.values)} rows, {a.path} {len(a.values)}; they must match "
            "row for row"
        )
    for key in ("nside", "split", "r", "r_range", "seed"):
        if a.metadata and b.metadata and a.metadata.get(key) != b.metadata.get(key):
            raise InputError(
                f"{b.path}: has {key} = {b.metadata.get(key)}, {a.path} {a.metadata.get(key)}; "
                "they are not of the same skies"
            )
    for key, entries in mismatch.differences(sky(a.metadata), sky(b.metadata)).items():
        own, other = mismatch.tell(*entries)
        raise InputError(
            f"{b.path}: has {key} {other}, {a.path} {own}; they are not of the same skies"
        )
