"""The file format of checkpoints (.pth): what they hold is up to `diffusion.trained`.

A checkpoint is one dict of tensors and plain Python, in the format of torch.save, with a SHA-256 of
the whole file at its end. It is not read with torch.load: for that, 400 bytes can ask for 10 GB.
The reader below knows tensors and plain Python, calls nothing else, and takes no more memory than
the file deserves.
"""

import collections
import hashlib
import io
import math
import os
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import torch

from runtime import atomic, console
from runtime.errors import InputError
from runtime.jsonfiles import Json

FORMAT = "bmode-score-checkpoint"
VERSION = 2
MAX_OPCODES = 500_000  # of the pickle, far above use: one byte can become an object of a hundred
DIGEST_LENGTH = 64  # of the SHA-256 that is the archive's comment
DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def save(path: str, content: Json) -> None:
    """Write a checkpoint atomically.

    Args:
        path: Target.
        content: Tensors and plain Python.
    """
    file = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, **content}, file)
    # the last two bytes of an archive are the length of the comment that follows
    file.seek(-2, os.SEEK_END)
    file.write(DIGEST_LENGTH.to_bytes(2, "little"))
    digest = hashlib.sha256(file.getbuffer()).hexdigest()
    file.write(digest.encode())
    atomic.write_bytes(path, file.getbuffer())


def file_sha256(path: str) -> str:
    """SHA-256 of a file, as hexadecimal digits; InputError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def keep_previous(path: str) -> None:
    """Copy NAME.pth, if there is one, to NAME.previous.pth, and say so."""
    if os.path.exists(path):
        previous = f"{os.path.splitext(path)[0]}.previous.pth"
        atomic.copy(path, previous)
        console.info(f"kept the checkpoint that was there as {previous}")


def _rebuild_tensor(
    storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> torch.Tensor:
    if math.prod(size) > storage.numel():
        raise pickle.UnpicklingError("a tensor repeats its values")
    return storage.as_strided(size, stride, offset)


def _counted(load: Callable[[Any], None]) -> Callable[[Any], None]:
    """The method of an opcode, which is an error beyond MAX_OPCODES."""

    def counted(self: Any) -> None:
        self.opcodes += 1
        if self.opcodes > MAX_OPCODES:
            raise pickle.UnpicklingError("describes more than any checkpoint does")
        load(self)

    return counted


class _Unpickler(pickle._Unpickler):  # in Python: the one in C reserves what a length claims
    """Reads what torch.save writes of tensors and plain Python.

    Args:
        pickled: Bytes of the pickle.
        read_storage: Callable key -> bytes of a tensor's values.
    """

    GLOBALS = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        **{("torch", name): dtype for name, dtype in DTYPES.items()},
    }
    OPCODES = (
        *("PROTO", "STOP", "MARK", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
        *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("BINUNICODE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
        *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS"),
        *("GLOBAL", "REDUCE", "BUILD", "BINPERSID"),
    )
    dispatch = {
        getattr(pickle, name)[0]: _counted(pickle._Unpickler.dispatch[getattr(pickle, name)[0]])
        for name in OPCODES
    }

    stack: list[Any]  # of the base class

    def __init__(self, pickled: bytes, read_storage: Callable[[str], bytes]) -> None:
        super().__init__(io.BytesIO(pickled))
        self.read_storage, self.opcodes = read_storage, 0
        self.storages: dict[str, torch.Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.GLOBALS:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return self.GLOBALS[module, name]

    def persistent_load(self, saved_id: Any) -> torch.Tensor:
        kind, dtype, key, _, numel = saved_id
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("no storage")
        if key not in self.storages:
            values = bytearray(self.read_storage(key))
            empty = torch.empty(0, dtype=dtype)
            self.storages[key] = torch.frombuffer(values, dtype=dtype) if values else empty
        storage = self.storages[key]
        if storage.dtype != dtype or storage.numel() != numel:
            raise pickle.UnpicklingError("a storage of another size")
        return storage

    def load_build(self) -> None:
        self.stack.pop()  # attributes, which torch gives the OrderedDict of a network's weights

    dispatch[pickle.BUILD[0]] = load_build  # type: ignore[assignment]


def _read_archive(path: str) -> Any:
    """Content of a file written by `save`; InputError otherwise."""
    try:
        with open(path, "rb") as file:
            saved = file.read()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    damaged = InputError(f"{path}: is not a checkpoint, or is truncated or damaged")
    try:
        with zipfile.ZipFile(io.BytesIO(saved)) as archive:
            entries, comment = archive.infolist(), archive.comment
            names = [entry.filename for entry in entries]
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise InputError(f"{path}: is a compressed archive, which torch.save never writes")
            if sum(entry.file_size for entry in entries) > len(saved):
                raise InputError(f"{path}: claims more content than the file holds")
            # older files have no comment, and nothing may follow
            digest = hashlib.sha256(saved[: len(saved) - len(comment)]).hexdigest()
            if len(set(names)) < len(names) or comment not in (b"", digest.encode()):
                raise damaged
            if saved[-22 - len(comment) :][:4] != b"PK\5\6" or archive.testzip() is not None:
                raise damaged
            (root,) = {name.partition("/")[0] for name in names}
            if archive.read(f"{root}/byteorder") != b"little":
                raise damaged
            pickled = archive.read(f"{root}/data.pkl")
            reader = _Unpickler(pickled, lambda key: archive.read(f"{root}/data/{key}"))
            return reader.load()
    except (InputError, MemoryError):
        raise
    except pickle.UnpicklingError:
        raise InputError(
            f"{path}: holds more than tensors and plain Python; it is refused unread"
        ) from None
    except Exception:  # zipfile and pickle raise many types on damaged bytes
        raise damaged from None


def read(path: str) -> Json:
    """Read a checkpoint, believing nothing.

    Args:
        path: A file written by `save`.

    Returns:
        What was saved, with "format" and "version".

    Raises:
        InputError: If the file is missing, damaged, foreign, or of another version.
    """
    content = _read_archive(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: was not written by train.py")
    if content.get("version") != VERSION:
        raise InputError(
            f"{path}: has format version {content.get('version')!r}, this program reads "
            f"{VERSION}; train again"
        )
    return content
