"""Sampling as a job: blocks that several processes compute and that a stopped run goes on with."""

import dataclasses
import os

from diffusion.outputs import TRAJECTORY
from diffusion.sampling import Sampler
from runtime import console, journal, jsonfiles, processes, resources, signals
from runtime.errors import DivergedError, InputError, Interrupted
from runtime.jsonfiles import Json
from runtime.run_folder import IDENTITY


def is_finished(out_dir: str, identity: Json) -> bool:
    """Whether a folder holds all that a run of this identity writes."""
    try:
        report = jsonfiles.read_json(os.path.join(out_dir, "metrics.json"))
    except InputError:
        return False
    started = os.path.exists(os.path.join(out_dir, journal.STATE))
    return journal.flags_of(report.get(IDENTITY) or {}) == identity and not started


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """All blocks of a sampler, and the files that they go into.

    Attributes:
        sampler: Draws the blocks.
        arrays: The outputs on their way to disk.
        identity: All that the draws depend on, {flag: value}: a run with --resume takes up what
            one of the same identity left.
    """

    sampler: Sampler
    arrays: journal.PartialArrays
    identity: Json

    def run(self, resume: bool) -> float:
        """Compute all blocks that are not on disk yet, each in one of the processes.

        Args:
            resume: Whether to keep the blocks of a run that was stopped.

        Returns:
            Share of the blocks that was computed now.

        Raises:
            Interrupted: After the block in which a signal asked to stop; says how to go on.
            DivergedError: If a spectrum is not finite; nothing is kept then.
        """
        rank, blocks = processes.rank(), self.sampler.blocks
        if rank == 0:
            self.arrays.prepare(self.identity, resume)
        processes.barrier()
        done = self.arrays.done()
        left = [block for block in range(len(blocks)) if block not in done]
        processes.barrier()  # all have read the journals before one of them grows
        if rank == 0:
            self._announce(left)
        try:
            self._compute(left[rank :: processes.world_size()])
            processes.barrier()
        except DivergedError:
            self.arrays.remove()
            raise
        except Interrupted as stop:
            kept = len(self.arrays.done())
            if not kept:  # or another process diverged, and says so
                raise Interrupted(stop.code) from None
            raise Interrupted(
                stop.code,
                f"interrupted; {kept:,} of {len(blocks):,} blocks are kept: the same command with "
                "--resume goes on",
            ) from None
        return len(left) / len(blocks)

    def _announce(self, left: list[int]) -> None:
        """One line on stderr: how long and how large the work is."""
        sampler, blocks = self.sampler, self.sampler.blocks
        rows = blocks.num_draws * blocks.per_block
        cost = sampler.process.cost(min(rows, blocks.batch_size))
        seconds = cost.seconds * cost.evaluations * len(left) * blocks.batches_per_block
        seconds /= processes.world_size()
        memory = resources.peak_memory() + resources.FIGURE_MEMORY
        memory += 8 * 8 * rows * sampler.process.architecture.n_dim  # a block in float64
        disk = sum(map(self.arrays.size, self.arrays.shapes))
        kept = f" ({len(blocks) - len(left):,} are there)" if len(left) < len(blocks) else ""
        kind = "spectra" if sampler.observed is None else "observations"
        work = (
            f"{blocks.num_samples:,} {kind} x {blocks.num_draws:,} "
            f"draw{'s' * (blocks.num_draws > 1)} in {len(blocks):,} block"
            f"{'s' * (len(blocks) > 1)}{kept}, {cost.evaluations} network evaluations each: about "
            f"{console.format_duration(seconds)} on {sampler.process.device} x "
            f"{processes.world_size()}"
        )
        resources.announce(work, memory, disk, self.arrays.folder)

    def _compute(self, chosen: list[int]) -> None:
        """Compute the blocks of these numbers, and write them."""
        sampler, arrays = self.sampler, self.arrays
        steps_per_batch = sampler.process.settings.num_steps + 2
        steps = len(chosen) * sampler.blocks.batches_per_block * steps_per_batch
        bar = console.progress(total=steps, unit="step")
        with signals.stop_request() as stop, arrays, bar:
            for number in chosen:
                block = sampler.block(number, bar.update)
                first = sampler.blocks.observations(number).start
                for output in sampler.outputs:
                    arrays.write(output.name, first, output.rows(block.draws))
                if block.trajectory is not None:
                    arrays.write_whole(TRAJECTORY, block.trajectory)
                evaluations, seconds = block.cost.evaluations, block.cost.seconds
                arrays.finish(number, {"network_evaluations": evaluations, "seconds": seconds})
                if stop.code:
                    raise Interrupted(stop.code)

    def record(self) -> Json:
        """How all blocks went, ready for JSON; seconds are summed over blocks.

        Raises:
            RuntimeError: If a block is missing.
        """
        blocks, done = self.sampler.blocks, self.arrays.done().values()
        if len(done) != len(blocks):
            raise RuntimeError(f"{len(done)} blocks of {len(blocks)} are there")
        return {
            **self.sampler.process.record(),
            "batch_size": blocks.batch_size,
            "network_evaluations": max(entry["network_evaluations"] for entry in done),
            "seconds": sum(entry["seconds"] for entry in done),
        }
