"""Loss on held-out rows, at each epoch of a training."""

from __future__ import annotations

import torch

import sde_utils
from diffusion.baseline import NUM_LEVELS, LinearDenoiser, level_repeats, second_moments
from diffusion.dataset import Rows
from diffusion.streams import VALIDATION, seeded
from runtime import processes


class HeldOutLoss:
    """Loss on held-out rows, for which each process takes some blocks.

    The linear denoiser's loss over all noise is known; measured is how far a network's is from it
    on the same noise, which has less Monte-Carlo error.

    Args:
        linear: The best linear denoiser of the training rows.
        rows: `dataset.Rows` that are held out.
        seed: Of the noise, which is always the same.
    """

    def __init__(self, linear: LinearDenoiser, rows: Rows, seed: int) -> None:
        self.rows, self.seed, self.sde = rows, seed, linear.sde
        self.blocks = list(rows.blocks())
        times = sde_utils.noise_levels(linear.sde, torch.ones((), device=rows.device), 64)
        moments = second_moments(self.blocks)
        self.linear = float(linear.loss(moments, times).mean())
        self._probed_linear = self._probe(linear)

    def passes_by_level(self) -> int:
        """Passes through the rows that `baseline.loss_by_level` takes, of one process alone.

        Counted in passes that all processes share.
        """
        repeats = level_repeats(len(self.rows), self.rows.n_dim)
        return NUM_LEVELS * repeats * processes.world_size()

    def _probe(self, denoiser: torch.nn.Module | LinearDenoiser) -> float:
        n, device = len(self.rows), self.rows.device
        generator, total, first = torch.Generator(device), torch.zeros((), device=device), 0
        with torch.no_grad():
            for number, (x, y) in enumerate(self.blocks):
                if number % processes.world_size() == processes.rank():
                    seeded(generator, self.seed, VALIDATION)
                    loss = sde_utils.denoising_loss(denoiser, self.sde, x, generator, y, (first, n))
                    total += loss * len(x) / n
                first += len(x)
        return float(processes.all_reduce_sum(total))

    def __call__(self, network: torch.nn.Module) -> float:
        """Loss of a network that returns the velocity."""
        return self.linear + (self._probe(network) - self._probed_linear)
