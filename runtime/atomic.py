"""Whole-file writes: a file appears complete in its place, or not at all.

A file is written to a temporary file in the same folder, flushed to the disk, and moved into place:
whatever interrupts that, a full disk and a power cut included, leaves the old file as it was.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from runtime import console, resources
from runtime.errors import InputError

MAX_NAME_BYTES = 255  # of a file, on nearly all file systems


def npy_header(shape: Sequence[int]) -> bytes:
    """The bytes before the numbers of a float64 .npy file."""
    file = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def npy_bytes(shape: Sequence[int]) -> int:
    """Size on disk of a float64 array of this shape, header included."""
    return len(npy_header(shape)) + 8 * int(np.prod(shape, dtype=object))


def _what_helps(error: OSError, path: str, num_bytes: int) -> str:
    """What a user can do about a file that cannot be written."""
    needed = f"it needs {resources.format_size(num_bytes)}"
    folder = os.path.dirname(os.path.realpath(path))
    if error.errno == errno.EDQUOT:
        return f"{needed}, more than the quota leaves; make room or name another folder"
    if error.errno == errno.EFBIG:
        return f"{needed}, more than a file may have here: see ulimit -f, or name another folder"
    try:
        free = resources.format_size(shutil.disk_usage(folder).free)
    except OSError:
        return f"is there a folder {folder}? Name another output"
    return f"{needed}, {free} are free in {folder}; make room or name another folder"


@contextlib.contextmanager
def failures_named(path: str, num_bytes: int = 0) -> Iterator[None]:
    """InputError in place of an OSError: the target, what it needs and what is free."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); "
            f"{_what_helps(error, path, num_bytes)}"
        ) from None


def fsync(descriptor: int) -> None:
    """Bring a file safely to disk, where its file system knows what that is."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def hidden_name(name: str, suffix: str) -> str:
    """Name of a hidden file that belongs to a file; never longer than a name may be."""
    hidden = f".{name}.{suffix}"
    if len(os.fsencode(hidden)) > MAX_NAME_BYTES:
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
        hidden = f".{digest}.{suffix}"
    return hidden


class _Output(io.FileIO):
    """Temporary file of a target, which a failure to write names."""

    def __init__(self, temporary: str, path: str, num_bytes: int) -> None:
        self.path, self.num_bytes = path, num_bytes
        super().__init__(temporary, "wb")

    def write(self, data: Any) -> int:
        needed = max(self.num_bytes, self.tell() + len(data))
        with failures_named(self.path, needed):
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
    target = os.path.realpath(path)  # a link stays one
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, hidden_name(name, f"{os.getpid()}.tmp"))
    try:
        with failures_named(path, num_bytes):
            raw = _Output(temporary, path, num_bytes)
        with io.BufferedWriter(raw) as file:
            yield file
            file.flush()
            with failures_named(path, file.tell()):
                fsync(file.fileno())
        with failures_named(path, os.path.getsize(temporary)):
            os.replace(temporary, target)
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
        fsync(descriptor)
    finally:
        os.close(descriptor)


def move(source: str, path: str) -> None:
    """Move a file that is whole into place; a link there stays one, to another disk too."""
    target = os.path.realpath(path)
    with failures_named(path, os.path.getsize(source)):
        try:
            os.replace(source, target)
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
    copy(source, path)
    os.unlink(source)


def copy(source: str, path: str) -> None:
    """Copy a file; the copy appears whole, or not at all."""
    with open(source, "rb") as content, atomic_write(path, os.path.getsize(source)) as file:
        shutil.copyfileobj(content, file)


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
    folder, name = os.path.split(os.path.realpath(path))
    stem = re.escape(os.path.splitext(name)[0])
    for entry in os.listdir(folder):
        match = re.fullmatch(rf"\.{stem}\.\w+\.(\d+)\.tmp", entry)
        if match and not _is_alive(int(match[1])):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, entry))


def _check_folder(folder: str, num_bytes: int) -> None:
    """Make a folder; InputError where it takes no files or has no room."""
    probe = os.path.join(folder, f".probe.{os.getpid()}.tmp")
    try:
        os.makedirs(folder, exist_ok=True)
        with open(probe, "wb"):
            pass
        os.unlink(probe)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise InputError(
            f"cannot write into {folder} ({error.strerror}); name another output folder"
        ) from None
    if free < num_bytes:
        raise InputError(
            f"{folder}: {resources.format_size(num_bytes)} are needed, "
            f"{resources.format_size(free)} are free; make room or name another output folder"
        )


def claim_outputs(paths: Iterable[str], num_bytes: int = 0, outdated: Sequence[str] = ()) -> None:
    """Before long work: make the folders, check that they take files, name what is going to go.

    What killed processes left of the same files is removed.

    Args:
        paths: Files that the caller is going to write.
        num_bytes: Room that they need together; a replaced file gives none before it is replaced.
        outdated: Files of an earlier run that the caller is going to remove.

    Raises:
        InputError: If a folder cannot be made or written to or has no room, or a target is a
            folder or has too long a name.
    """
    paths = list(paths)
    for path in paths:
        length = len(os.fsencode(os.path.basename(path)))
        if length > MAX_NAME_BYTES:
            raise InputError(
                f"the name of an output, {os.path.basename(path)[:20]}…, would have {length} "
                f"bytes; {MAX_NAME_BYTES} are possible"
            )
    for folder in sorted({os.path.dirname(os.path.realpath(path)) for path in paths}):
        _check_folder(folder, num_bytes)
    for path in paths:
        if os.path.isdir(path):
            raise InputError(f"{path} is a folder, not a file; name another output")
        remove_leftovers(path)
    replaced = [path for path in paths if os.path.exists(path)]
    notes = [f"replacing {', '.join(replaced)}"] if replaced else []
    notes += [f"removing what an earlier run left: {', '.join(outdated)}"] if outdated else []
    if notes:
        console.info("; ".join(notes))


def write_bytes(path: str, content: bytes | memoryview | str) -> None:
    """Write bytes or text (as UTF-8)."""
    content = content.encode() if isinstance(content, str) else content
    with atomic_write(path, len(content)) as file:
        file.write(content)


def json_bytes(content: dict[str, Any]) -> bytes:
    """Text of a JSON object; NaN and infinity are refused, for JSON has no such numbers."""
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def write_json(path: str, content: dict[str, Any]) -> None:
    """Write a JSON object; see `json_bytes`."""
    write_bytes(path, json_bytes(content))


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
