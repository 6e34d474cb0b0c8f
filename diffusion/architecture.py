"""Sizes of a score network: what describes it before there is one."""

import dataclasses


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

    @property
    def conditional(self) -> bool:
        """Whether the network takes an observation."""
        return self.n_cond > 0

    @property
    def joint(self) -> bool:
        """Whether r is diffused beside the spectrum."""
        return self.n_param > 0
