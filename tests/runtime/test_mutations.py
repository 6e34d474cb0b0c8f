"""Damaged and hostile files: refused, or read as they were written, in little memory."""

import dataclasses
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

import model
import sde_utils
from diffusion.trained import Trained
from runtime import checkpoints, tables
from runtime.errors import InputError
from runtime.records import Record

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(tables.__file__)))


def mutate(content, generator):
    """Bytes like content, damaged in one of six ways."""
    n = len(content)
    start, stop = np.sort(generator.integers(0, n + 1, 2))
    end = min(start + int(generator.integers(1, 40)), n)
    damaged = bytearray(content)
    match generator.integers(6):
        case 0:
            damaged[min(start, n - 1)] ^= 1 << generator.integers(8)
        case 1:
            for position in generator.integers(0, n, generator.integers(1, 9)):
                damaged[position] = generator.integers(256)
        case 2:
            del damaged[start:]
        case 3:
            damaged[start:start] = generator.bytes(int(generator.integers(1, 40)))
        case 4:
            damaged[stop:stop] = content[start:end]
        case 5:
            damaged[start:end] = bytes(end - start)
    return bytes(damaged)


def damaged_files(path, original, num, seed):
    """Damage a file num times in place, and tell whether it differs."""
    generator = np.random.default_rng(seed)
    for _ in range(num):
        damaged = mutate(original, generator)
        if damaged != original:
            os.unlink(path)  # some file systems flush a file that is cut to nothing
            with open(path, "wb") as file:
                file.write(damaged)
            yield damaged
    with open(path, "wb") as file:
        file.write(original)


@pytest.mark.parametrize("suffix", ["npy", "json"])
def test_2500_damages_of_each_file_of_a_pair(tmp_path, suffix):
    path = str(tmp_path / "dl.npy")
    prior = {"r_nodes": [0.002, 0.008], "dl_per_r": [[1e-3] * 6] * 2}
    metadata = {"r_range": [0.0, 0.01], "signal_template": prior, "a_lens": 0.5}
    metadata |= {"dl_lensing": [0.25, 1 / 3, 1e-7, 2.0, 3.0, 4.0], "split": "train", "seed": 2**60}
    tables.write_array(path, np.random.default_rng(0).random((4, 6)), Record.from_json(metadata))
    good = tables.load_spectra(path)
    values = np.array(good.values)
    target = f"{path[:-3]}{suffix}"
    with open(target, "rb") as file:
        original = file.read()
    refused = 0
    for damaged in damaged_files(target, original, 2500, seed=len(suffix)):
        try:
            table = tables.load_spectra(path)
        except InputError as error:
            refused += 1
            assert "dl." in str(error) and "\n" not in str(error)
        else:
            assert np.array_equal(table.values, values), damaged
            known, expected = table.record.to_json(), good.record.to_json()
            known = {key: known[key] for key in expected if key in known}
            assert json.dumps(known) == json.dumps(expected), damaged
    assert refused > 2000


def same(a, b):
    """Whether two checkpoints, or parts of them, are equal."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


@pytest.fixture
def checkpoint_file(tmp_path):
    torch.manual_seed(0)
    kwargs = {"n_ell": 2, "hidden_dim": 2, "embed_dim": 2, "num_layers": 1}
    weights = model.ScoreNet1D(sde_utils.VPSDE(), model.Architecture(**kwargs)).state_dict()
    path = str(tmp_path / "model.pth")
    content = {
        "network_kwargs": kwargs,
        "sde": {"name": "VP", "parameters": {"beta_min": 0.1, "beta_max": 20.0}},
        "weights": weights,
        "ema_weights": weights,
        "normalizer": {"mean": torch.zeros(2), "std": torch.ones(2)},
        "training": {"history": {"train": [0.5, 0.25]}},
        "data": {"seed": 0, "unit": "uK^2"},
        "resume": {"generator": torch.Generator().get_state()[:16]},
    }
    checkpoints.save(path, content)
    return path


def parts(path):
    """What `Trained.load` makes of a checkpoint."""
    trained = Trained.load(path)
    names = ("sde_name", "weights", "ema_weights", "training", "resume")
    content = {name: getattr(trained, name) for name in names}
    sizes = dataclasses.asdict(trained.architecture)
    return {**content, "architecture": sizes, "data": trained.data.to_json()}


def unsealed(content):
    """A checkpoint as older versions wrote it: nothing after the archive."""
    return content[: -checkpoints.DIGEST_LENGTH - 2] + b"\0\0"


@pytest.mark.parametrize("sealed", [True, False])
def test_3000_damages_of_a_checkpoint(checkpoint_file, sealed):
    with open(checkpoint_file, "rb") as file:
        original = file.read()
    original = original if sealed else unsealed(original)
    with open(checkpoint_file, "wb") as file:
        file.write(original)
    good = parts(checkpoint_file)
    refused = 0
    for damaged in damaged_files(checkpoint_file, original, 3000, seed=sealed):
        try:
            loaded = parts(checkpoint_file)
        except InputError as error:
            refused += 1
            assert "model.pth" in str(error) and "\n" not in str(error)
        else:
            assert same(loaded, good), damaged
    assert refused > 1000


def archive(pickled, **entries):
    """A torch archive of a pickle and more entries."""
    fixed = {"byteorder": b"little", "version": b"3\n"}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as new:
        for name, content in {**entries, "data.pkl": pickled, **fixed}.items():
            new.writestr(f"archive/{name}", content)
    return file.getvalue()


def zeros_archive():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr("archive/byteorder", b"little")
        with new.open("archive/data.pkl", "w") as entry:
            for _ in range(300):
                entry.write(bytes(10**6))
    return file.getvalue()


def overlapping_archive():
    """Two hundred entries of the directory that are one in the file."""
    content = archive(b"\x80\x02}.", payload=bytes(10**6))
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        start = old.start_dir
    directory, end = content[start:-22], bytearray(content[-22:])
    end[12:16] = (200 * len(directory)).to_bytes(4, "little")
    end[8:12] = (600).to_bytes(2, "little") * 2
    return content[:start] + 200 * directory + bytes(end)


HUGE = (10**10).to_bytes(8, "little")
CALL = b"\x8a\x08" + HUGE + b"\x85R."  # call with the number 10**10
STORAGE = b"\x80\x02(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + b"0X\x03\0\0\0cpu"
TENSOR = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE[2:] + b"K\x01tQ"
HOSTILE = {
    "bytearray.pth": archive(b"\x80\x02cbuiltins\nbytearray\n" + CALL),
    "bytearray8.pth": archive(b"\x80\x05\x96" + HUGE + b"x."),
    "binbytes8.pth": archive(b"\x80\x04\x8e" + HUGE + b"x."),
    "unicode8.pth": archive(b"\x80\x04\x8d" + HUGE + b"x."),
    "frame.pth": archive(b"\x80\x04\x95" + HUGE + b"}."),
    "long4.pth": archive(b"\x80\x02\x8b\xff\xff\xff\x7fx."),
    "memo.pth": archive(b"\x80\x02}r\xff\xff\xff\xff."),
    "storage call.pth": archive(b"\x80\x02ctorch\nFloatStorage\n" + CALL),
    "storage size.pth": archive(STORAGE + b"\x8a\x08" + HUGE + b"tQ.", **{"data/0": b"1234"}),
    "stride 0.pth": archive(
        TENSOR + b"K\0J\0\0\1\0J\0\0\1\0\x86K\0K\0\x86\x89NtR.", **{"data/0": b"1234"}
    ),
    "dicts.pth": archive(b"\x80\x02" + 3 * 10**6 * b"}" + b"."),
    "tuples.pth": archive(b"\x80\x02N" + 3 * 10**6 * b"\x85" + b"."),
    "marks.pth": archive(b"\x80\x02" + 3 * 10**6 * b"(" + b"."),
    "bare pickle.pth": b"\x80\x02cbuiltins\nbytearray\n" + CALL,
    "deflated.pth": zeros_archive(),
    "overlapping.pth": overlapping_archive(),
    "shape.npy": b"",
    "nesting.json": b'{"a":' + 10**6 * b"[",
    "integer.json": b'{"num_samples": 1' + 10**5 * b"0" + b"}",
    "large integer.json": b'{"num_samples": 1' + 400 * b"0" + b"}",
    "exponent.json": b'{"num_samples": 1e999}',
    "twice.json": b'{"num_samples": 1, "num_samples": 2}',
    "not UTF-8.json": b'{"a": "\xff"}',
}
LOAD = """
import re, sys
from diffusion.trained import Trained
from runtime import jsonfiles, tables
from runtime.errors import InputError

def peak():
    with open("/proc/self/status") as file:
        return 1024 * int(re.search(r"VmPeak:\\s+(\\d+)", file.read())[1])

read = {"pth": Trained.load, "npy": tables.load_spectra, "json": jsonfiles.read_json}
for path in sys.argv[1:]:
    before = peak()
    try:
        read[path.rpartition(".")[2]](path)
    except InputError as error:
        print(peak() - before, error)
"""


def load_elsewhere(folder, names, **environment):
    """[(memory asked for in bytes, message)] of a process of its own that must refuse files."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *names],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ROOT, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    refused = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert [message.split(":")[0] for _, message in refused] == names
    return [(int(asked), message) for asked, message in refused]


def test_hostile_files_are_refused_in_little_memory(tmp_path):
    for name, content in HOSTILE.items():
        (tmp_path / name).write_bytes(content)
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**12, 30)}
    with open(tmp_path / "shape.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    for asked, message in load_elsewhere(tmp_path, list(HOSTILE)):
        name = message.split(":")[0]
        assert asked < 2**26 + 10 * os.path.getsize(tmp_path / name), message


class Hostile:
    def __reduce__(self):
        return os.system, ("echo hostile > hostile.txt",)


def test_no_environment_lets_a_checkpoint_run_code(tmp_path):
    torch.save(Hostile(), tmp_path / "archive.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Hostile()))
    names = ["archive.pth", "pickle.pth"]
    load_elsewhere(tmp_path, names, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1")
    assert not (tmp_path / "hostile.txt").exists()
