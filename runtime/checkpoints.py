"""Read and write checkpoints (.pth): all that sample.py needs, and all that a resumed run needs.

A checkpoint is one dict of tensors and plain Python, in the format of torch.save, with a SHA-256 of
the whole file at its end. It is not read with torch.load: for that, 400 bytes can ask for 10 GB.
The reader below knows tensors and plain Python, calls nothing else, and takes no more memory than
the file deserves. All is checked before a network is built.
"""

import collections
import hashlib
import io
import math
import os
import pickle
import zipfile

import torch

import model
from diffusion import normalizers
from runtime import atomic, console, records
from runtime.errors import InputError
from sde_utils import SDES

FORMAT = "bmode-score-checkpoint"
VERSION = 2
MAX_LAYER_WIDTH = 65536  # far above use; keeps a hostile checkpoint from asking for terabytes
MAX_LAYERS = 1024  # likewise
MAX_OPCODES = 500_000  # of the pickle, for one byte can become an object of a hundred; likewise
DIGEST_LENGTH = 64  # of the SHA-256 that is the archive's comment
DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
OPTIONAL = ("n_cond", "n_param")  # layer widths that may be 0


def save(path, checkpoint):
    """Write a checkpoint (a dict of tensors and plain Python) atomically."""
    file = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, **checkpoint}, file)
    # the last two bytes of an archive are the length of the comment that follows
    file.seek(-2, os.SEEK_END)
    file.write(DIGEST_LENGTH.to_bytes(2, "little"))
    digest = hashlib.sha256(file.getbuffer()).hexdigest()
    file.write(digest.encode())
    atomic.write_bytes(path, file.getbuffer())


def keep_previous(path):
    """Move NAME.pth, if there is one, to NAME.previous.pth, and say so."""
    if os.path.exists(path):
        previous = f"{os.path.splitext(path)[0]}.previous.pth"
        os.replace(path, previous)
        console.info(f"kept the checkpoint that was there as {previous}")


def _rebuild_tensor(storage, offset, size, stride, *_):
    if math.prod(size) > storage.numel():
        raise pickle.UnpicklingError("a tensor repeats its values")
    return storage.as_strided(size, stride, offset)


def _counted(load):
    """The method of an opcode, which is an error beyond MAX_OPCODES."""

    def counted(self):
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

    def __init__(self, pickled, read_storage):
        super().__init__(io.BytesIO(pickled))
        self.read_storage, self.storages, self.opcodes = read_storage, {}, 0

    def find_class(self, module, name):
        if (module, name) not in self.GLOBALS:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return self.GLOBALS[module, name]

    def persistent_load(self, saved_id):
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

    def load_build(self):
        self.stack.pop()  # attributes, which torch gives the OrderedDict of a network's weights

    dispatch[pickle.BUILD[0]] = load_build


def _read_archive(path):
    """(content, size in bytes) of a file written by `save`; InputError otherwise."""
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
            return reader.load(), len(saved)
    except (InputError, MemoryError):
        raise
    except pickle.UnpicklingError:
        raise InputError(
            f"{path}: holds more than tensors and plain Python; it is refused unread"
        ) from None
    except Exception:  # zipfile and pickle raise many types on damaged bytes
        raise damaged from None


def _check_tensors(path, name, tensors, shapes):
    if not isinstance(tensors, dict) or set(tensors) != set(shapes):
        raise InputError(f"{path}: {name} does not fit the network; train again")
    for key, shape in shapes.items():
        tensor = tensors[key]
        if not isinstance(tensor, torch.Tensor) or tensor.shape != shape:
            raise InputError(f"{path}: {name} {key} has not the shape {tuple(shape)}; train again")
        if tensor.dtype != torch.float32 or tensor.layout != torch.strided:
            raise InputError(f"{path}: {name} {key} is not a dense float32 tensor; train again")
        if not tensor.isfinite().all():
            raise InputError(f"{path}: {name} {key} is not finite; train again")


def _read_normalizer(path, content, name, n_ell):
    _check_tensors(path, name, content.get(name), {"mean": (n_ell,), "std": (n_ell,)})
    if not (content[name]["std"] > 0).all():
        raise InputError(f"{path}: {name} std is not above 0; train again")
    return normalizers.Normalizer(**content[name])


def _make_joint(path, normalizer, data):
    try:
        signal = records.signal_template(data)
    except ValueError as error:
        raise InputError(f"{path}: {error}; train again") from None
    if signal is None or signal.dl_per_r.shape[1] != len(normalizer.mean):
        raise InputError(f"{path}: does not say how the signal depends on r; train again")
    return normalizers.JointNormalizer(normalizer, data["r_range"], signal)


def load(path):
    """Read a checkpoint and rebuild what it describes.

    Args:
        path: A file written by `save`.

    Returns:
        The checkpoint dict, with "sde" replaced by the SDE (its name is "sde_name"), and with
        "network" (a ScoreNet1D with the EMA weights, on the CPU), "normalizer" (a `Normalizer`,
        or a `JointNormalizer` of D_ell and r) and "cond_normalizer" (None where the network is
        not conditional) rebuilt.

    Raises:
        InputError: If the file is missing, damaged, foreign, or of another version.
    """
    content, file_size = _read_archive(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: was not written by train.py")
    if content.get("version") != VERSION:
        raise InputError(
            f"{path}: has format version {content.get('version')!r}, this program reads "
            f"{VERSION}; train again"
        )
    try:
        sde = SDES[content["sde"]["name"]](**content["sde"]["parameters"])
        kwargs = dict.fromkeys(OPTIONAL, 0) | content["network_kwargs"]
        if (
            any(
                type(v) is not int or not (k not in OPTIONAL) <= v <= MAX_LAYER_WIDTH
                for k, v in kwargs.items()
            )
            or kwargs.get("num_layers", 0) > MAX_LAYERS
        ):
            raise InputError(f"{path}: describes an impossible network; train again")
        with torch.device("meta"):
            shapes = {k: v.shape for k, v in model.ScoreNet1D(sde, **kwargs).state_dict().items()}
        if 4 * sum(math.prod(shape) for shape in shapes.values()) > file_size:
            raise InputError(f"{path}: describes a larger network than it holds; train again")
    except InputError:
        raise
    except Exception:  # wrong keys or types anywhere in a foreign description
        raise InputError(f"{path}: describes no network that this program knows") from None
    _check_tensors(path, "weights", content.get("weights"), shapes)
    _check_tensors(path, "ema_weights", content.get("ema_weights"), shapes)
    for key in ("training", "data", "resume"):
        if not isinstance(content.get(key), dict):
            raise InputError(f"{path}: {key} is missing; train again")
    normalizer = _read_normalizer(path, content, "normalizer", kwargs["n_ell"])
    if kwargs["n_param"]:
        normalizer = _make_joint(path, normalizer, content["data"])
    cond_normalizer = None
    if kwargs["n_cond"]:
        cond_normalizer = _read_normalizer(path, content, "cond_normalizer", kwargs["n_cond"])
    network = model.ScoreNet1D(sde, **kwargs)
    network.load_state_dict(content["ema_weights"])
    network.eval().requires_grad_(False)
    return {
        **content,
        "network_kwargs": kwargs,
        "sde": sde,
        "sde_name": content["sde"]["name"],
        "network": network,
        "normalizer": normalizer,
        "cond_normalizer": cond_normalizer,
    }
