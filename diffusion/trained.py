"""A trained model: everything that sampling, evaluation and a resumed training need of it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import torch

from diffusion.normalizers import JointNormalizer, Normalizer
from model import ScoreNet1D
from runtime import checkpoints
from runtime.records import Record
from sde_utils import VESDE, VPSDE


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Sizes of a `ScoreNet1D`.

    Attributes:
        n_ell: Multipoles.
        n_cond: Observed multipoles; 0 for an unconditional network.
        n_param: Parameters that are diffused beside the spectrum.
        hidden_dim: Width.
        embed_dim: Features of time.
        num_layers: Residual blocks.
    """

    n_ell: int
    n_cond: int = 0
    n_param: int = 0
    hidden_dim: int = 256
    embed_dim: int = 128
    num_layers: int = 5

    @property
    def n_dim(self) -> int:
        """Columns of the diffused state: multipoles and parameters."""
        return self.n_ell + self.n_param


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A checkpoint, rebuilt.

    Attributes:
        architecture: Sizes of the network.
        sde_name: A key of sde_utils.SDES.
        sde: The forward process.
        network: With the averaged (EMA) weights, in evaluation mode.
        normalizer: Of D_ell, or of D_ell and r.
        cond_normalizer: Of observations; None for an unconditional network.
        data: Record of the training rows; its prior holds their mean_dl.
        weights: Of the network in training, {name: tensor}.
        ema_weights: Their average.
        training: {"settings", "history", "levels"}.
        resume: State of an unfinished training; empty when finished.
    """

    architecture: Architecture
    sde_name: str
    sde: VESDE | VPSDE
    network: ScoreNet1D
    normalizer: Normalizer | JointNormalizer
    cond_normalizer: Normalizer | None
    data: Record
    weights: Mapping[str, torch.Tensor]
    ema_weights: Mapping[str, torch.Tensor]
    training: Mapping[str, Any]
    resume: Mapping[str, Any]

    @classmethod
    def load(cls, path: str) -> Self:
        """Read a checkpoint of train.py.

        Raises:
            InputError: If the file is missing, damaged, foreign, or of another version.
        """
        content = checkpoints.load(path)
        names = {field.name for field in dataclasses.fields(cls)}
        kwargs = {name: value for name, value in content.items() if name in names}
        return cls(
            **kwargs | {"data": Record.from_json(content["data"])},
            architecture=Architecture(**content["network_kwargs"]),
        )

    @property
    def conditional(self) -> bool:
        """Whether it was trained on pairs of truth and observation."""
        return self.architecture.n_cond > 0

    @property
    def joint(self) -> bool:
        """Whether r is diffused beside the spectrum."""
        return self.architecture.n_param > 0
