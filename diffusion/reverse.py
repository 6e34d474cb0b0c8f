"""The reverse process of a checkpoint, run in blocks of rows."""

import dataclasses
import time

import numpy as np

import sde_utils
from diffusion import dynamics, solvers
from runtime import devices

BATCH_ROWS, GPU_BATCH_ROWS = 1024, 65536  # at NSIDE 16: what fits the cache, what keeps a GPU busy
LEAST_BATCH_ROWS = 128  # what weights are read for


def default_batch_size(device, n_dim):
    """Rows of n_dim columns to integrate together on a torch.device."""
    rows = BATCH_ROWS if device.type == "cpu" else GPU_BATCH_ROWS
    return min(rows, max(LEAST_BATCH_ROWS, 32 * rows // n_dim))


def batch_seed(seed, batch):
    """Seed of a batch, another for each: hashes of 32 bits, all that a CPU takes, would meet."""
    base = int(np.random.SeedSequence(seed).generate_state(1, np.uint32)[0])
    return (base + batch) % 2**32


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Rows cut into blocks of whole observations, and those into batches.

    A batch is what is integrated together, and has its own stream of random numbers: which rows
    it holds depends on nothing but these numbers, so that any process can compute any block.

    Attributes:
        num_samples: Observations, or spectra to generate.
        num_draws: Rows of each.
        batch_size: Largest number of rows of a batch.
    """

    num_samples: int
    num_draws: int
    batch_size: int

    @property
    def per_block(self):
        """Observations in a block: as many as fit a batch, or one."""
        return max(1, self.batch_size // self.num_draws)

    @property
    def batches_per_block(self):
        """More than one where the draws of a single observation do not fit a batch."""
        return -(-self.num_draws * self.per_block // self.batch_size)

    def __len__(self):
        return -(-self.num_samples // self.per_block)

    def observations(self, block):
        """Slice of the observations of a block."""
        first = block * self.per_block
        return slice(first, min(first + self.per_block, self.num_samples))

    def batches(self, block):
        """(number, rows) of each batch of a block, the rows a slice of the block's rows."""
        chosen = self.observations(block)
        rows = (chosen.stop - chosen.start) * self.num_draws
        for k, first in enumerate(range(0, rows, self.batch_size)):
            last = min(first + self.batch_size, rows)
            yield block * self.batches_per_block + k, slice(first, last)


@dataclasses.dataclass
class Reverse:
    """The reverse process of a checkpoint.

    Attributes:
        checkpoint: From checkpoints.load, its network on the device.
        step: Step of a solver, as those of solvers.SOLVERS.
        t_start: Largest time, scalar tensor on the device.
        num_steps: Steps of the solver.
        seed: Of all random draws.
        precision: Of matrix products, out of cli.PRECISIONS.
    """

    checkpoint: dict
    step: solvers.Step
    t_start: object
    num_steps: int
    seed: int
    precision: str = "float32"

    def block(self, blocks, number, start=None, y=None, keep=None, on_step=None):
        """Integrate one block.

        Args:
            blocks: A `Blocks`.
            number: Which of them.
            start: Its rows to start from, float32 tensor (n, n_dim); None starts from the prior.
            y: Its observations, normalised, float32 tensor (n / num_draws, n_ell), or None.
            keep: Row of the block whose states are kept, or None.
            on_step: Called without arguments at the start and after each step of a batch, or None.

        Returns:
            (x, record, states): x at time 0, float32 tensor (n, n_dim) on the CPU; the block's
            {"network_evaluations", "seconds"}; states of the row kept, shape (m, 1 + n_dim), the
            first column sigma/alpha.
        """
        import torch

        began, parts, states = time.monotonic(), [], []
        device, record = self.t_start.device, {"network_evaluations": 0}
        with torch.no_grad(), devices.autocast(device, self.precision):
            for batch, rows in blocks.batches(number):
                y_batch = None
                if y is not None:
                    owners = torch.arange(rows.start, rows.stop) // blocks.num_draws
                    y_batch = y[owners].to(device)
                kept = None
                if keep is not None and rows.start <= keep < rows.stop:
                    kept = keep - rows.start
                x = None if start is None else start[rows].to(device)
                run = self._batch(batch, rows.stop - rows.start, x, y_batch, kept, on_step)
                x, calls = run.x, run.evaluations
                states = states if run.trajectory is None else run.trajectory
                record["network_evaluations"] = max(record["network_evaluations"], calls)
                parts.append(x.cpu())
        record["seconds"] = time.monotonic() - began
        return torch.cat(parts), record, np.array(states)

    def _batch(self, batch, n, x, y, keep=None, on_step=None):
        """solvers.Integration of a batch of n rows, on the device."""
        import torch

        sde, network = self.checkpoint["sde"], self.checkpoint["network"]
        kwargs, device = self.checkpoint["network_kwargs"], self.t_start.device
        generator = torch.Generator(device).manual_seed(batch_seed(self.seed, batch))
        process = dynamics.Dynamics(sde, sde_utils.make_velocity_fn(network, y), generator)
        start_evaluations = 0
        if x is None:
            shape = (n, kwargs["n_ell"] + kwargs["n_param"])
            z = torch.empty(shape, device=device).normal_(generator=generator)
            x = z * sde_utils.prior_std(sde, self.t_start)
            if y is not None:
                x = dynamics.start_posterior(process, z, self.t_start)
                start_evaluations = 1
        times = sde_utils.reverse_times(sde, self.t_start, self.num_steps)
        follow = None if on_step is None else lambda t, x: on_step()
        run = solvers.integrate(self.step, process, x, times, keep, follow)
        return dataclasses.replace(run, evaluations=run.evaluations + start_evaluations)

    def record(self):
        """What it is, ready for JSON."""
        return {
            "sde": {
                "name": self.checkpoint["sde_name"],
                **dataclasses.asdict(self.checkpoint["sde"]),
            },
            "t_start": float(self.t_start),
            "num_steps": self.num_steps,
            "seed": self.seed,
            "precision": self.precision,
        }

    def cost(self, rows):
        """(evaluations, seconds): network evaluations of a batch, and what one takes.

        The evaluations are counted on a row of a Gaussian, whose velocity is 0; one evaluation of
        the network on a full batch is timed.

        Args:
            rows: Rows of a batch.
        """
        import torch

        network = self.checkpoint["network"]
        kwargs, device = self.checkpoint["network_kwargs"], self.t_start.device
        n_dim, n_cond = kwargs["n_ell"] + kwargs["n_param"], kwargs["n_cond"]

        def gaussian(x, t, y=None):
            return 0 * x

        toy = dataclasses.replace(self, checkpoint={**self.checkpoint, "network": gaussian})
        x, y = torch.zeros(rows, n_dim, device=device), {}
        if n_cond:
            y["y"] = torch.zeros(rows, n_cond, device=device)
        with torch.no_grad(), devices.autocast(device, self.precision):
            row = (None if n_cond else x[:1], y.get("y", x)[:1] if n_cond else None)
            evaluations = toy._batch(0, 1, *row).evaluations
            for _ in range(2):  # the first one warms up
                began = time.monotonic()
                float(network(x, self.t_start, **y)[0, 0])  # waits for a GPU
        return evaluations, time.monotonic() - began
