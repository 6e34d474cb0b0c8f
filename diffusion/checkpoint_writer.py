"""Writes what a training has come to: the checkpoint, and its losses beside it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from runtime import atomic, checkpoints

if TYPE_CHECKING:
    from diffusion.baseline import LossLevels
    from diffusion.dataset import Prepared
    from diffusion.settings import Configuration
    from diffusion.trainer import Trainer
    from runtime.jsonfiles import Json
    from runtime.records import Record


@dataclasses.dataclass(frozen=True, eq=False)
class CheckpointWriter:
    """Writes what a training has come to: the checkpoint, and its losses beside it.

    Attributes:
        path: The checkpoint.
        loss_file: Table of the losses, .npy.
        configuration: Of the training.
        prepared: Its rows, whose normalisers and mean the checkpoint holds.
        data: Record of the training rows.
        provenance: Command, versions and commit.
    """

    path: str
    loss_file: str
    configuration: Configuration
    prepared: Prepared
    data: Record
    provenance: Json

    def write(self, trainer: Trainer, levels: LossLevels | None = None) -> None:
        """Write both files.

        Args:
            trainer: The training.
            levels: Of a finished one, which leaves no state to go on from.
        """
        history, cond = trainer.state.history, self.prepared.cond_normalizer
        training = {"settings": self.configuration.to_json(), "history": history.to_json()}
        if levels is not None:
            training["levels"] = levels.to_json()
        prior = dataclasses.replace(self.data.prior, mean_dl=self.prepared.mean_dl)
        networks = {"weights": trainer.network, "ema_weights": trainer.ema}
        content = {
            "network_kwargs": dataclasses.asdict(self.configuration.architecture),
            "sde": self.configuration.sde_json(),
            **self.provenance,
            "normalizer": self.prepared.normalizer.spectrum.state_dict(),
            "cond_normalizer": None if cond is None else cond.state_dict(),
            "reach": self.prepared.reach.to_json(),
            "data": self.data.replace(prior=prior).to_json(),
            **{
                name: {key: value.cpu() for key, value in network.state_dict().items()}
                for name, network in networks.items()
            },
            "training": training,
            "resume": {} if levels is not None else trainer.resume_state(),
        }
        checkpoints.save(self.path, content)
        atomic.write_npy(self.loss_file, history.table())
