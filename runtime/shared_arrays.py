"""Float64 arrays that several processes and threads write together, and that appear whole.

Until it is whole an output is a hidden file of its final size, .NAME.npy.partial, beside its
target.
"""

import contextlib
import errno
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, Self

import numpy as np

from runtime import atomic, processes, resources, tables
from runtime.errors import DivergedError, InputError
from runtime.records import Record

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _allocate(file: BinaryIO, num_bytes: int) -> None:
    """Give a file its size, on the disk where the file system can."""
    try:
        os.posix_fallocate(file.fileno(), 0, num_bytes)
    except (AttributeError, OSError) as error:
        if getattr(error, "errno", None) in NO_ROOM:
            raise
        file.truncate(num_bytes)


def _write_at(file: BinaryIO, data: Any, offset: int) -> None:
    """Write all bytes of data at an offset."""
    data = memoryview(data).cast("B")
    while data:
        written = os.pwrite(file.fileno(), data, offset)
        data, offset = data[written:], offset + written


def compute_once(
    make: Callable[[], Mapping[str, np.ndarray]], names: Sequence[str], folder: str
) -> Mapping[str, np.ndarray]:
    """Arrays that the first of several processes computes, and that all have in memory once.

    They pass through hidden files of a folder, which are gone when all have mapped them.

    Args:
        make: Computes {name: array}.
        names: Its keys.
        folder: On a disk that all processes see.
    """
    if processes.world_size() == 1:
        return make()
    paths = {name: os.path.join(folder, f".{name}.npy.partial") for name in names}
    is_first = processes.rank() == 0
    try:
        if is_first:
            for name, array in make().items():
                with atomic.failures_named(folder, array.nbytes), open(paths[name], "wb") as file:
                    np.save(file, array)
        processes.barrier()
        mapped = {name: np.load(path, mmap_mode="r") for name, path in paths.items()}
        processes.barrier()
    finally:
        for path in paths.values() if is_first else ():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
    return mapped


class SharedArrays:
    """Arrays on their way to disk.

    One process calls `create`, then all enter the context and `write`, then one calls `publish`, or
    in any case `remove`.

    Args:
        folder: Folder of the outputs.
        shapes: {file name: shape}.
    """

    def __init__(self, folder: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.folder, self.shapes = folder, shapes
        self.headers = {name: atomic.npy_header(shape) for name, shape in shapes.items()}
        self._files: dict[str, Any] = {}

    def path(self, name: str) -> str:
        """The hidden file of an output."""
        return os.path.join(self.folder, f".{name}.partial")

    def size(self, name: str) -> int:
        """Bytes of an output."""
        return len(self.headers[name]) + 8 * math.prod(self.shapes[name])

    def missing_bytes(self) -> int:
        """Bytes of disk that the outputs need beyond what hidden files hold already."""
        there = filter(os.path.exists, map(self.path, self.shapes))
        return sum(map(self.size, self.shapes)) - sum(map(os.path.getsize, there))

    def create(self) -> None:
        """Make the hidden files, of their final size; InputError where there is no room."""
        try:
            for name, header in self.headers.items():
                with open(self.path(name), "wb") as file:
                    _allocate(file, self.size(name))
                    _write_at(file, header, 0)
                    atomic.fsync(file.fileno())
        except OSError as error:
            self.remove()
            if error.errno != errno.ENOSPC:
                with atomic.failures_named(os.path.join(self.folder, name), self.size(name)):
                    raise
            needed, free = self.missing_bytes(), shutil.disk_usage(self.folder).free
            raise InputError(
                f"{self.folder}: the disk is full: {resources.format_size(needed)} are needed, "
                f"{resources.format_size(free)} free; make room, or name another --out-dir"
            ) from None

    def __enter__(self) -> Self:
        """Open the hidden files for the rows of this process."""
        for name in self.shapes:
            self._files[name] = open(self.path(name), "r+b", buffering=0)
        return self

    def write(self, name: str, first: int, rows: np.ndarray) -> None:
        """Put rows, shape (m, ...), at row `first` of an output; DivergedError unless finite."""
        if not np.isfinite(rows).all():
            path = os.path.join(self.folder, name)
            raise DivergedError(f"{path}: a row is NaN or infinite; nothing was written")
        shape = self.shapes[name]
        offset = len(self.headers[name]) + 8 * first * math.prod(shape[1:])
        with atomic.failures_named(os.path.join(self.folder, name), self.size(name)):
            _write_at(self._files[name], np.ascontiguousarray(rows, "<f8"), offset)

    def sync(self) -> None:
        """Bring what is written safely to disk."""
        for name, file in self._files.items():
            with atomic.failures_named(os.path.join(self.folder, name), self.size(name)):
                atomic.fsync(file.fileno())

    def __exit__(self, *exception: object) -> None:
        try:
            if exception[0] is None:
                self.sync()
        finally:
            for file in self._files.values():
                with contextlib.suppress(OSError):  # what failed was raised by sync
                    file.close()

    def digest(self, name: str) -> str:
        """SHA-256 of the values of an output, all of whose rows are written."""
        with open(self.path(name), "rb") as file:
            file.seek(len(self.headers[name]))
            atomic.fsync(file.fileno())
            return hashlib.file_digest(file, "sha256").hexdigest()

    def publish(self, records_of: Mapping[str, Record]) -> None:
        """Move the outputs into place, with their sidecars.

        Args:
            records_of: {file name: record for its sidecar}; ell and a SHA-256 of the rows are
                added.
        """
        digests = {name: self.digest(name) for name in self.shapes}
        for name, digest in digests.items():
            target = os.path.join(self.folder, name)
            atomic.move(self.path(name), target)
            # at once, for an array and another's sidecar do not load
            tables.write_sidecar(target, self.shapes[name], digest, records_of[name])

    def remove(self) -> None:
        """Remove what is left of the hidden files."""
        for name in self.shapes:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path(name))
