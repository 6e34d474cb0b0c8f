"""Checkpoints: the round trip, and every kind of broken or hostile file."""

import io
import os
import pickle
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import model
import sde_utils
from diffusion.trained import Trained
from runtime import checkpoints
from runtime.errors import InputError


@pytest.fixture(scope="module")
def checkpoint():
    torch.manual_seed(0)
    kwargs = {"n_ell": 6, "hidden_dim": 8, "embed_dim": 4, "num_layers": 1}
    weights = model.ScoreNet1D(sde_utils.VPSDE(), model.Architecture(**kwargs)).state_dict()
    return {
        "network_kwargs": kwargs,
        "sde": {"name": "VP", "parameters": {"beta_min": 0.1, "beta_max": 20.0}},
        "weights": weights,
        "ema_weights": weights,
        "normalizer": {"mean": torch.zeros(6), "std": torch.ones(6)},
        "training": {},
        "data": {},
        "resume": {},
    }


@pytest.fixture
def checkpoint_file(tmp_path, checkpoint):
    path = str(tmp_path / "model.pth")
    checkpoints.save(path, checkpoint)
    return path


def test_checkpoint_round_trip(checkpoint_file, checkpoint):
    loaded = Trained.load(checkpoint_file)
    assert loaded.sde == sde_utils.VPSDE(0.1, 20.0)
    for key, tensor in loaded.network.state_dict().items():
        assert torch.equal(tensor, checkpoint["ema_weights"][key])


class Hostile:
    def __reduce__(self):
        return os.system, ("echo hostile > hostile.txt",)


def bad_checkpoint(name, path, checkpoint):
    """Overwrite path with a checkpoint that is broken in the named way."""
    with open(path, "rb") as file:
        good = file.read()

    def save(**changes):
        content = {"format": checkpoints.FORMAT, "version": 1, **checkpoint, **changes}
        torch.save(content, path)

    def write(content):
        with open(path, "wb") as file:
            file.write(content)

    weights = checkpoint["weights"]
    key = next(iter(weights))
    if name == "truncated":
        write(good[: len(good) // 2])
    elif name == "empty":
        write(b"")
    elif name == "flipped":
        position = good.index(weights["input.bias"].numpy().tobytes())
        write(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
    elif name == "compressed":
        with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(path, "w") as new:
            for entry in old.namelist():
                new.writestr(entry, old.read(entry), zipfile.ZIP_DEFLATED)
    elif name == "hostile pickle":
        write(pickle.dumps(Hostile()))
    elif name == "hostile archive":
        torch.save(Hostile(), path)
    elif name == "foreign":
        torch.save({"model": weights}, path)
    elif name == "a list":
        torch.save([1, 2], path)
    elif name == "version":
        save(version=99)
    elif name == "unknown SDE":
        save(sde={"name": "XX", "parameters": {}})
    elif name == "SDE parameters":
        save(sde={"name": "VP", "parameters": {"beta_min": 3.0, "beta_max": 2.0}})
    elif name == "giant network":
        save(network_kwargs={**checkpoint["network_kwargs"], "hidden_dim": 10**9})
    elif name == "deep network":
        save(network_kwargs={**checkpoint["network_kwargs"], "num_layers": 2})
    elif name == "boolean width":
        save(network_kwargs={**checkpoint["network_kwargs"], "num_layers": True})
    elif name == "NaN weight":
        save(ema_weights={**weights, key: weights[key] * float("nan")})
    elif name == "double weight":
        save(weights={**weights, key: weights[key].double()})
    elif name == "missing weight":
        save(weights={k: v for k, v in weights.items() if k != key})
    elif name == "zero std":
        save(normalizer={"mean": torch.zeros(6), "std": torch.zeros(6)})


BAD_CHECKPOINTS = [
    "truncated",
    "empty",
    "flipped",
    "compressed",
    "hostile pickle",
    "hostile archive",
    "foreign",
    "a list",
    "version",
    "unknown SDE",
    "SDE parameters",
    "giant network",
    "deep network",
    "boolean width",
    "NaN weight",
    "double weight",
    "missing weight",
    "zero std",
]


@pytest.mark.parametrize("name", BAD_CHECKPOINTS)
def test_bad_checkpoints_are_refused_in_one_line(checkpoint_file, checkpoint, name, monkeypatch):
    monkeypatch.chdir(os.path.dirname(checkpoint_file))
    bad_checkpoint(name, checkpoint_file, checkpoint)
    with pytest.raises(InputError) as caught:
        Trained.load(checkpoint_file)
    assert "model.pth" in str(caught.value) and "\n" not in str(caught.value)
    assert not os.path.exists("hostile.txt")


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_mutated_checkpoint_is_refused_or_unchanged(checkpoint_file, checkpoint, data):
    with open(checkpoint_file, "rb") as file:
        original = file.read()
    position = data.draw(st.integers(0, len(original) - 1))
    mutated = bytearray(original)
    mutated[position] ^= data.draw(st.integers(1, 255))
    path = checkpoint_file + ".mutated.pth"
    with open(path, "wb") as file:
        file.write(mutated)
    try:
        loaded = Trained.load(path)
    except InputError:
        return
    for key, tensor in checkpoint["ema_weights"].items():
        assert torch.equal(loaded.ema_weights[key], tensor)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(InputError, match="gone.pth: cannot be read"):
        Trained.load(str(tmp_path / "gone.pth"))
