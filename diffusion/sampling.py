"""What draws become: rows of the arrays that sample.py writes."""

import dataclasses

import numpy as np

from diffusion import reverse
from runtime import console, processes, resources, signals, tables
from runtime.errors import DivergedError, Interrupted

QUANTILES = (0.16, 0.5, 0.84)
POSTERIOR = {  # file: quantity
    "denoised.npy": "posterior mean BB",
    "posterior_draws.npy": "posterior BB",
    "posterior_std.npy": "posterior standard deviation of BB",
    "posterior_quantiles.npy": "posterior quantiles of BB",
    "r_draws.npy": "posterior r",
}
RECIPE = {"denoised.npy": "denoised BB"}
GENERATED = {"generated.npy": "generated BB"}


def shapes(quantities, n, num_draws, n_ell):
    """{file: shape} of one of the tables above, for n observations or spectra."""
    middles = {"posterior_draws.npy": (num_draws,), "posterior_quantiles.npy": (len(QUANTILES),)}
    return {
        name: (n, num_draws) if name == "r_draws.npy" else (n, *middles.get(name, ()), n_ell)
        for name in quantities
    }


def denormalize(checkpoint, x, method):
    """(dl, r) as float64 arrays from normalised rows x; r is None without a parameter.

    Raises:
        DivergedError: If a spectrum is not finite.
    """
    out = checkpoint["normalizer"].denormalize(x)
    dl, r = out if checkpoint["network_kwargs"]["n_param"] else (out, None)
    diverged = int((~dl.isfinite().all(1)).sum())
    if diverged:
        raise DivergedError(
            f"--method {method}: {diverged} of {len(dl)} spectra diverged: the reverse process "
            "started too far from the prior, or took too few steps; try a smaller --t-start, "
            "more --num-steps or --method sde"
        )
    return dl.numpy(), None if r is None else r.numpy()


def rows(quantities, dl, r, num_draws):
    """{file: rows} of one of the tables above.

    Args:
        quantities: The table.
        dl: D_ell, shape (n * num_draws, n_ell), uK^2, the draws of an observation in a row.
        r: Likewise, shape (n * num_draws,), or None.
        num_draws: Draws of each observation.
    """
    if "posterior_draws.npy" not in quantities:
        return dict.fromkeys(quantities, dl)
    dl = dl.reshape(-1, num_draws, dl.shape[1])
    return {
        "denoised.npy": dl.mean(1),
        "posterior_draws.npy": dl,
        "posterior_std.npy": dl.std(1),
        "posterior_quantiles.npy": np.quantile(dl, QUANTILES, axis=1).swapaxes(0, 1),
        **({} if r is None else {"r_draws.npy": r.reshape(-1, num_draws)}),
    }


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Computes any block of rows of the outputs.

    Attributes:
        process: The reverse process.
        blocks: How rows are cut.
        quantities: `POSTERIOR`, `RECIPE` or `GENERATED`, or a part of it.
        observed: D_ell, shape (n, n_ell), uK^2, perhaps on disk; None to generate.
        method: Named where a spectrum diverges.
        shown: Observation of whose first draw the states are kept; None for none.
    """

    process: reverse.Reverse
    blocks: reverse.Blocks
    quantities: dict
    observed: np.ndarray | None
    method: str
    shown: int | None

    def block(self, number, on_step=None):
        """({file: rows}, record, states) of a block; see `reverse.Reverse.block` for the last."""
        import torch

        checkpoint, num_draws = self.process.checkpoint, self.blocks.num_draws
        chosen, inputs = self.blocks.observations(number), {}
        if self.observed is not None:
            dl, cond = torch.tensor(self.observed[chosen]), checkpoint["cond_normalizer"]
            inputs["start"] = None if cond else checkpoint["normalizer"].normalize(dl)
            inputs["y"] = cond.normalize(dl) if cond else None
            tables.release(self.observed)
        if self.shown is not None and chosen.start <= self.shown < chosen.stop:
            inputs["keep"] = (self.shown - chosen.start) * num_draws
        x, record, states = self.process.block(self.blocks, number, **inputs, on_step=on_step)
        dl, r = denormalize(checkpoint, x, self.method)
        return rows(self.quantities, dl, r, num_draws), record, states


def announce(sampler, arrays, left):
    """One line on stderr: how long and how large the work is."""
    process, blocks = sampler.process, sampler.blocks
    rows = blocks.num_draws * blocks.per_block
    evaluations, seconds = process.cost(min(rows, blocks.batch_size))
    seconds *= evaluations * len(left) * blocks.batches_per_block / processes.world_size()
    memory = resources.peak_memory() + resources.FIGURE_MEMORY
    memory += 8 * 8 * rows * process.checkpoint["network_kwargs"]["n_ell"]  # a block in float64
    n, m = blocks.num_samples, blocks.num_draws
    disk = sum(map(arrays.size, arrays.shapes))
    kept = f" ({len(blocks) - len(left):,} are there)" if len(left) < len(blocks) else ""
    work = (
        f"{n:,} {'spectra' if sampler.observed is None else 'observations'} x {m:,} draws in "
        f"{len(blocks):,} blocks{kept}, {evaluations} network evaluations each: about "
        f"{console.format_duration(seconds)} on {process.t_start.device} x {processes.world_size()}"
    )
    resources.announce(work, memory, disk, arrays.folder)


def compute(sampler, arrays, chosen):
    """Compute blocks, and write them.

    Args:
        sampler: A `Sampler`.
        arrays: An `unfinished.PartialArrays`.
        chosen: Numbers of the blocks.

    Raises:
        Interrupted: After the block in which a signal asked to stop.
    """
    steps = len(chosen) * sampler.blocks.batches_per_block * (sampler.process.num_steps + 2)
    with signals.stop_request() as stop, arrays, console.progress(total=steps, unit="step") as bar:
        for number in chosen:
            rows_of, record, states = sampler.block(number, bar.update)
            for name, values in rows_of.items():
                arrays.write(name, sampler.blocks.observations(number).start, values)
            if len(states):
                arrays.write_whole("trajectory.npy", states)
            arrays.finish(number, record)
            if stop.code:
                raise Interrupted(stop.code)


def run(sampler, arrays, belongs_to, resume):
    """Compute all blocks that are not on disk yet, each in one of the processes.

    Args:
        sampler: A `Sampler`.
        arrays: An `unfinished.PartialArrays` of its outputs.
        belongs_to: All that the draws depend on, see `unfinished.PartialArrays.prepare`.
        resume: Whether to keep the blocks of a run that was stopped.

    Returns:
        Share of the blocks that was computed now.

    Raises:
        Interrupted: As `compute`, and says how to go on.
        DivergedError: As `denormalize`; nothing is kept then.
    """
    rank, blocks = processes.rank(), sampler.blocks
    if rank == 0:
        arrays.prepare(belongs_to, resume)
    processes.barrier()
    done = arrays.done()
    left = [block for block in range(len(blocks)) if block not in done]
    processes.barrier()  # all have read the journals before one of them grows
    if rank == 0:
        announce(sampler, arrays, left)
    try:
        compute(sampler, arrays, left[rank :: processes.world_size()])
        processes.barrier()
    except DivergedError:
        arrays.remove()
        raise
    except Interrupted as stop:
        kept = len(arrays.done())
        if not kept:  # or another process diverged, and says so
            raise Interrupted(stop.code) from None
        raise Interrupted(
            stop.code,
            f"interrupted; {kept:,} of {len(blocks):,} blocks are kept: the same command with "
            "--resume goes on",
        ) from None
    return len(left) / len(blocks)


def record(sampler, arrays):
    """How all blocks went, ready for JSON; seconds are summed over blocks.

    Raises:
        RuntimeError: If a block is missing.
    """
    done = arrays.done().values()
    if len(done) != len(sampler.blocks):
        raise RuntimeError(f"{len(done)} blocks of {len(sampler.blocks)} are there")
    return {
        **sampler.process.record(),
        "batch_size": sampler.blocks.batch_size,
        "network_evaluations": max(entry["network_evaluations"] for entry in done),
        "seconds": sum(entry["seconds"] for entry in done),
    }


def about(name, quantities):
    """Quantity and unit of an output, for its sidecar."""
    return {"quantity": quantities[name], "unit": "1" if name == "r_draws.npy" else "uK^2"}
