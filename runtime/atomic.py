"""Whole-file writes: a file appears complete in its place, or not at all.

A file is written to a temporary file in the same folder, flushed to the disk, and moved into place:
whatever interrupts that, a full disk and a power cut included, leaves the old file as it was.
"""

import contextlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from runtime import console, resources
from runtime.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def npy_header(shape: Sequence[int]) -> bytes:
    """The bytes before the numbers of a float64 .npy file."""
    file = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def npy_bytes(shape: Sequence[int]) -> int:
    """Size on disk of a float64 array of this shape, header included."""
    return len(npy_header(shape)) + 8 * int(np.prod(shape, dtype=object))


@contextlib.contextmanager
def _failures_named(path: str, num_bytes: int) -> Iterator[None]:
    """InputError in place of an OSError: the target, what it needs and what is free."""
    try:
        yield
    except OSError as error:
        folder = os.path.dirname(os.path.abspath(path))
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); it needs "
            f"{resources.format_size(num_bytes)}, "
            f"{resources.format_size(shutil.disk_usage(folder).free)} are free in "
            f"{folder}; make room or name another folder"
        ) from None


class _Output(io.FileIO):
    """Temporary file of a target, which a failure to write names."""

    def __init__(self, temporary: str, path: str, num_bytes: int) -> None:
        self.path, self.num_bytes = path, num_bytes
        super().__init__(temporary, "wb")

    def write(self, data: Any) -> int:
        needed = max(self.num_bytes, self.tell() + len(data))
        with _failures_named(self.path, needed):
            return super().write(data)


@contextlib.contextmanager
def atomic_write(path: str, num_bytes: int = 0) -> Iterator[BinaryIO]:
    """Binary file object whose content appears at path whole, or not at all.

    Args:
        path: Target file; the temporary file stands in the same folder.
        num_bytes: Size that the file will have, for the message where it finds no room; 0 where
            it is not known beforehand.

    Yields:
        A file object opened for writing.

    Raises:
        InputError: If it cannot be written; the old file is still there.
    """
    folder, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.tmp")
    try:
        with _failures_named(path, num_bytes):
            raw = _Output(temporary, path, num_bytes)
        with io.BufferedWriter(raw) as file:
            yield file
            file.flush()
            with _failures_named(path, file.tell()):
                os.fsync(file.fileno())
        with _failures_named(path, os.path.getsize(temporary)):
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    with contextlib.suppress(OSError):  # some file systems cannot; either name is of a whole file
        _fsync_folder(folder)


def _fsync_folder(folder: str) -> None:
    """Let a rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # another user's
    return True


def remove_leftovers(path: str) -> None:
    """Remove the temporary files that killed processes left of a target and of its sidecar."""
    folder, name = os.path.split(os.path.abspath(path))
    stem = re.escape(os.path.splitext(name)[0])
    for entry in os.listdir(folder):
        match = re.fullmatch(rf"\.{stem}\.\w+\.(\d+)\.tmp", entry)
        if match and not _is_alive(int(match[1])):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, entry))


def claim_outputs(paths: Iterable[str], num_bytes: int = 0) -> None:
    """Before long work: make the folders, check that they take files, name what is replaced.

    What killed processes left of the same files is removed.

    Args:
        paths: Files that the caller is going to write.
        num_bytes: Room that they need together; a replaced file gives none before it is replaced.

    Raises:
        InputError: If a folder cannot be made or written to or has no room, or a target is a
            folder.
    """
    paths = list(paths)
    for folder in sorted({os.path.dirname(os.path.abspath(path)) for path in paths}):
        probe = os.path.join(folder, f".probe.{os.getpid()}.tmp")
        try:
            os.makedirs(folder, exist_ok=True)
            with open(probe, "wb"):
                pass
            os.unlink(probe)
        except OSError as error:
            raise InputError(
                f"cannot write into {folder} ({error.strerror}); name another output folder"
            ) from None
    for path in paths:
        if os.path.isdir(path):
            raise InputError(f"{path} is a folder, not a file; name another output")
        remove_leftovers(path)
    for folder in sorted({os.path.dirname(os.path.abspath(path)) for path in paths}):
        free = shutil.disk_usage(folder).free
        if free < num_bytes:
            raise InputError(
                f"{folder}: {resources.format_size(num_bytes)} are needed, "
                f"{resources.format_size(free)} are free; make room or name another output folder"
            )
    replaced = [path for path in paths if os.path.exists(path)]
    if replaced:
        console.info(f"replacing {', '.join(replaced)}")


def write_bytes(path: str, content: bytes | memoryview | str) -> None:
    """Write bytes or text (as UTF-8)."""
    content = content.encode() if isinstance(content, str) else content
    with atomic_write(path, len(content)) as file:
        file.write(content)


def write_json(path: str, content: dict[str, Any]) -> None:
    """Write a JSON object; NaN and infinity are refused, for JSON has no such numbers."""
    write_bytes(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


@contextlib.contextmanager
def open_npy(path: str, shape: Sequence[int]) -> Iterator[BinaryIO]:
    """`atomic_write` of a float64 array: its header is there, its rows are still to be added."""
    with atomic_write(path, npy_bytes(shape)) as file:
        file.write(npy_header(shape))
        yield file


def write_npy(path: str, array: np.ndarray) -> None:
    """Write an array without a sidecar, as float64 in C order."""
    with open_npy(path, np.shape(array)) as file:
        file.write(np.ascontiguousarray(array, "<f8").reshape(-1).data)


def write_figure(path: str, figure: "Figure") -> None:
    """Write a matplotlib figure; the format follows the suffix."""
    file = io.BytesIO()
    figure.savefig(file, format=os.path.splitext(path)[1][1:], dpi=200)
    write_bytes(path, file.getbuffer())
