"""Locks: of two processes that write the same output, the second is refused."""

import contextlib
import fcntl
import os
from collections.abc import Iterator

from runtime import atomic, processes
from runtime.errors import InputError


def lock_path(path: str) -> str:
    """The hidden file beside an output that is locked while the output is written."""
    folder, name = os.path.split(os.path.realpath(path))
    return os.path.join(folder, atomic.hidden_name(name, "lock"))


def _acquire(path: str) -> int | None:
    """Descriptor of the locked file of an output; None on a file system without locks.

    Raises:
        BlockingIOError: If another process holds it.
    """
    file = lock_path(path)
    while True:
        try:
            os.makedirs(os.path.dirname(file), exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None  # nothing can be written there, which its writer says better
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # who held it before may have removed the file that was opened here
            if os.path.samestat(os.fstat(descriptor), os.stat(file)):
                return descriptor
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(descriptor)
            raise
        except OSError:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                os.unlink(file)
            return None
        os.close(descriptor)


def _missing_folders(path: str) -> list[str]:
    """Folders of an output that are not there yet, the innermost first."""
    folder, found = os.path.dirname(os.path.realpath(path)), []
    while not os.path.isdir(folder):
        found.append(folder)
        folder = os.path.dirname(folder)
    return found


def _remove_empty(folders: list[str]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # it holds what was written
            os.rmdir(folder)


@contextlib.contextmanager
def hold(*paths: str) -> Iterator[None]:
    """Hold some outputs for the block, in the first of several processes.

    The system lets go of a lock with its process, however that ends: a file that was left behind
    blocks nobody, and the next one that holds it removes it. Folders that are made for the locks
    go with them if they stay empty.

    Args:
        paths: Outputs, one of each set that is written together.

    Raises:
        InputError: If another process holds one of them.
    """
    with contextlib.ExitStack() as stack:
        for path in paths if processes.rank() == 0 else ():
            stack.callback(_remove_empty, _missing_folders(path))
            try:
                descriptor = _acquire(path)
            except BlockingIOError:
                raise InputError(
                    f"{path}: another process is writing it; wait for it, or name another output"
                ) from None
            if descriptor is not None:
                stack.callback(_release, descriptor, lock_path(path))
        yield


def _release(descriptor: int, file: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(file)  # while it is held: nobody else's
    os.close(descriptor)
