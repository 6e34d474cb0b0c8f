"""Settings of a training: what it does, and all that a resumed one must share with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runtime.errors import InputError
from runtime.jsonfiles import Json
from runtime.priors import Parameter
from sde_utils import SDE

if TYPE_CHECKING:
    from model import Architecture


FILES = {
    "data_sha256": "--data-file",
    "cond_sha256": "--cond-file",
    "param_sha256": "--param-file",
    "init_sha256": "--init-from",
}


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """Settings of the optimisation.

    Attributes:
        batch_size: Rows per step, of all processes; all rows where there are fewer.
        epochs: Passes over the training rows.
        lr: Peak learning rate of AdamW.
        ema_decay: Decay of the weight average.
        val_fraction: Share of rows held out.
        seed: Of the split, the initial weights, the order of rows and the noise.
        precision: Of matrix products, out of devices.PRECISIONS.
    """

    batch_size: int
    epochs: int
    lr: float = 7e-4
    ema_decay: float = 0.999
    val_fraction: float = 0.05
    seed: int = 0
    precision: str = "float32"


@dataclasses.dataclass(frozen=True)
class Configuration:
    """All that the weights of a finished training follow from.

    Attributes:
        training: Settings of the optimisation.
        architecture: Sizes of the network.
        sde_name: A key of sde_utils.SDES.
        sde: The forward process.
        digests: SHA-256 of the files that it reads: {"data_sha256", "cond_sha256",
            "param_sha256", "init_sha256"}, those that there are.
        declared: Parameters that the command line names; none where a record does.
    """

    training: TrainingSettings
    architecture: Architecture
    sde_name: str
    sde: SDE
    digests: Mapping[str, str | None]
    declared: tuple[Parameter, ...] = ()

    def sde_json(self) -> Json:
        """The SDE as checkpoints have it."""
        return {"name": self.sde_name, "parameters": dataclasses.asdict(self.sde)}

    def to_json(self) -> Json:
        """Content of `training.settings` of a checkpoint."""
        ranges = {each.name: [each.low, each.high] for each in self.declared}
        return {
            **dataclasses.asdict(self.training),
            "network": dataclasses.asdict(self.architecture),
            "sde": self.sde_json(),
            **self.digests,
            **({"parameters": ranges} if ranges else {}),
        }

    def check_same_network(self, path: str, architecture: Architecture, sde: SDE) -> None:
        """InputError where the network of a checkpoint is not of these sizes and this SDE."""
        for own, other in ((self.architecture, architecture), (self.sde, sde)):
            if own != other:
                here, there = _shortest_difference(_settings(own), _settings(other))
                raise InputError(
                    f"{path}: has a network with {there}, this command asks for {here}; weights "
                    "fit the same flags and the same columns alone"
                )

    def check_same(self, path: str, training: Mapping[str, Any]) -> None:
        """InputError where a checkpoint was trained in another configuration.

        Args:
            path: The checkpoint.
            training: Its entry of that name.
        """
        before, here = training.get("settings"), self.to_json()
        # checkpoints of before there was --precision do not name it
        before = {"precision": "float32", **before} if isinstance(before, dict) else {}
        for key in {**here, **before}:
            if before.get(key) != here.get(key):
                difference = _describe_change(key, here.get(key), before.get(key))
                raise InputError(
                    f"{path}: was trained {difference}; give the same, or leave out --resume to "
                    "train anew"
                )


def _settings(value: Architecture | SDE) -> Json:
    return {"kind": type(value).__name__, **dataclasses.asdict(value)}


def _describe_change(key: str, own: Any, other: Any) -> str:
    """How a training differs from what a command asks for, in an entry of its settings."""
    if key not in FILES:
        here, there = _shortest_difference(own, other)
        return f"with {key} {there}, this command says {here}"
    if own is None or other is None:
        return f"without {FILES[key]}" if other is None else f"with {FILES[key]}, and here is none"
    return f"with another content of {FILES[key]}"


def _shortest_difference(own: Any, other: Any) -> tuple[str, str]:
    """Two entries in words: where both are objects, the keys in which they differ."""
    if isinstance(own, Mapping) and isinstance(other, Mapping):
        keys = [key for key in {**own, **other} if own.get(key) != other.get(key)]
        keys = ["name"] if "name" in keys else keys  # whose parameters are others, too
        pairs = {key: _shortest_difference(own.get(key), other.get(key)) for key in keys}
        here, there = (", ".join(f"{key} {pair[k]}" for key, pair in pairs.items()) for k in (0, 1))
        return here, there
    return ("none" if own is None else str(own)), ("none" if other is None else str(other))
