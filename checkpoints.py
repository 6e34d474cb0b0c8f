"""Read and write checkpoints (.pth): all that sample.py needs, and all that a resumed run needs.

A checkpoint is one dict of tensors and plain Python. It is unpickled with weights_only=True, after
the archive's own checksums have been verified, and checked in full before a network is built.
"""

import os
import pickle
import zipfile

import torch

from cli import InputError, note
from model import JointNormalizer, Normalizer, ScoreNet1D
from sde_utils import SDES
from storage import atomic_write, signal_template

FORMAT = "bmode-score-checkpoint"
VERSION = 2
MAX_LAYER_WIDTH = 65536  # far above use; keeps a hostile checkpoint from asking for terabytes
OPTIONAL = ("n_cond", "n_param")  # layer widths that may be 0


def save(path, checkpoint):
    """Write a checkpoint (a dict of tensors and plain Python) atomically."""
    header = {"format": FORMAT, "version": VERSION}
    with atomic_write(path) as file:
        torch.save({**header, **checkpoint}, file)


def keep_previous(path):
    """Move NAME.pth, if there is one, to NAME.previous.pth, and say so."""
    if os.path.exists(path):
        previous = f"{os.path.splitext(path)[0]}.previous.pth"
        os.replace(path, previous)
        note(f"kept the checkpoint that was there as {previous}")


def _read_archive(path):
    """Unpickled content of a torch archive whose CRCs hold; InputError otherwise."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise InputError(f"{path}: is a compressed archive, which torch.save never writes")
            if sum(entry.file_size for entry in entries) > os.path.getsize(path):
                raise InputError(f"{path}: claims more content than the file holds")
            if any(entry.external_attr for entry in entries):
                # torch would take a tensor for a folder, and leave its memory as it was
                raise InputError(f"{path}: has entries that are no plain files")
            damaged = archive.testzip()
        if damaged is not None:
            raise InputError(f"{path}: is damaged at {damaged}; use a backup or train again")
        return torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except pickle.UnpicklingError:
        raise InputError(
            f"{path}: holds more than tensors and plain Python; it is refused unread"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception:  # zipfile and torch raise many types on damaged bytes
        raise InputError(f"{path}: is not a checkpoint, or is truncated or damaged") from None


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
    return Normalizer(**content[name])


def _make_joint(path, normalizer, data):
    try:
        signal = signal_template(data)
    except ValueError as error:
        raise InputError(f"{path}: {error}; train again") from None
    if signal is None or signal.dl_per_r.shape[1] != len(normalizer.mean):
        raise InputError(f"{path}: does not say how the signal depends on r; train again")
    return JointNormalizer(normalizer, data["r_range"], signal)


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
    content = _read_archive(path)
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
        if any(
            type(v) is not int or not (k not in OPTIONAL) <= v <= MAX_LAYER_WIDTH
            for k, v in kwargs.items()
        ):
            raise InputError(f"{path}: describes an impossible network; train again")
        with torch.device("meta"):
            shapes = {k: v.shape for k, v in ScoreNet1D(sde, **kwargs).state_dict().items()}
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
    network = ScoreNet1D(sde, **kwargs)
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
