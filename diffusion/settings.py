"""Settings of a training: what it does, and all that a resumed one must share with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runtime.errors import InputError
from runtime.jsonfiles import Json
from sde_utils import SDE

if TYPE_CHECKING:
    from model import Architecture


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
        digests: SHA-256 of the training files: {"data_sha256", "cond_sha256", "param_sha256"},
            those that there are.
    """

    training: TrainingSettings
    architecture: Architecture
    sde_name: str
    sde: SDE
    digests: Mapping[str, str | None]

    def sde_json(self) -> Json:
        """The SDE as checkpoints have it."""
        return {"name": self.sde_name, "parameters": dataclasses.asdict(self.sde)}

    def to_json(self) -> Json:
        """Content of `training.settings` of a checkpoint."""
        return {
            **dataclasses.asdict(self.training),
            "network": dataclasses.asdict(self.architecture),
            "sde": self.sde_json(),
            **self.digests,
        }

    def check_same(self, path: str, training: Mapping[str, Any]) -> None:
        """InputError where a checkpoint was trained in another configuration.

        Args:
            path: The checkpoint.
            training: Its entry of that name.
        """
        before, here = training.get("settings"), self.to_json()
        # checkpoints of before there was --precision do not name it
        before = {"precision": "float32", **before} if isinstance(before, dict) else {}
        if before != here:
            key = next((k for k in here if before.get(k) != here[k]), "setting")
            raise InputError(f"{path}: was trained with another {key}; --resume cannot change it")
