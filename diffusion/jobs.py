"""Sampling as a job: blocks that several processes compute and that a stopped run goes on with."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import threading
from typing import TYPE_CHECKING

from diffusion.outputs import TRAJECTORY
from diffusion.sampling import DrawnBlock, Sampler
from runtime import (
    console,
    devices,
    journal,
    jsonfiles,
    processes,
    resources,
    signals,
)
from runtime.errors import DivergedError, InputError, Interrupted
from runtime.jsonfiles import Json
from runtime.run_folder import IDENTITY
from runtime.workers import Workers

if TYPE_CHECKING:
    from model import Architecture


def is_finished(out_dir: str, identity: Json) -> bool:
    """Whether a folder holds all that a run of this identity writes."""
    try:
        report = jsonfiles.read_json(os.path.join(out_dir, "metrics.json"))
    except InputError:
        return False
    started = os.path.exists(os.path.join(out_dir, journal.STATE))
    return journal.flags_of(report.get(IDENTITY) or {}) == identity and not started


def network_bytes(architecture: Architecture, rows: int) -> int:
    """Bound on what a network and a solver take of memory for a batch of rows, as measured."""
    return 4 * rows * (16 * architecture.hidden_dim + 256 * architecture.n_dim)


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """All blocks of a sampler, and the files that they go into.

    Attributes:
        sampler: Draws the blocks.
        arrays: The outputs on their way to disk.
        identity: All that the draws depend on, {flag: value}: a run with --resume takes up what
            one of the same identity left.
        threads: Blocks that a process computes at a time, or batches where there are fewer blocks.
    """

    sampler: Sampler
    arrays: journal.PartialArrays
    identity: Json
    threads: int = 1

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
        cost = sampler.cost(min(rows, blocks.batch_size))
        n_dim = sampler.process.architecture.n_dim
        work_of_batch = cost.evaluations + n_dim * self._evaluations_of_weights
        seconds = cost.seconds * work_of_batch * len(left) * blocks.batches_per_block
        own = len(left[:: processes.world_size()])
        at_once, within = self._shares(own)
        threads = at_once * min(within, blocks.batches_per_block)
        seconds /= processes.world_size() * threads
        memory = resources.peak_memory() + resources.FIGURE_MEMORY
        # blocks in float64, and what the network takes of memory for all batches but the first
        sizes = sampler.process.architecture
        memory += at_once * 8 * 8 * rows * sizes.n_dim
        memory += (threads - 1) * network_bytes(sizes, min(rows, blocks.batch_size))
        if sampler.guidance is not None:
            memory += threads * sampler.guidance.num_bytes(min(rows, blocks.batch_size))
        disk = sum(map(self.arrays.size, self.arrays.shapes))
        kept = f" ({len(blocks) - len(left):,} are there)" if len(left) < len(blocks) else ""
        kind = "spectra" if sampler.observed is None else "observations"
        work = (
            f"{blocks.num_samples:,} {kind} x {blocks.num_draws:,} "
            f"draw{'s' * (blocks.num_draws > 1)} in {len(blocks):,} block"
            f"{'s' * (len(blocks) > 1)}{kept}, {cost.evaluations} network evaluations each"
            f"{', and weights' * (sampler.correction is not None)}: about "
            f"{console.format_duration(seconds)} on {sampler.process.device} with "
            f"{devices.count_threads(threads)} x {processes.world_size()}"
        )
        resources.announce(work, memory, disk, self.arrays.folder)

    @property
    def _evaluations_of_weights(self) -> int:
        """For each batch: each takes about as long as one for each column of the state."""
        correction = self.sampler.correction
        return 0 if correction is None else correction.evaluations

    def _shares(self, num_blocks: int) -> tuple[int, int]:
        """(blocks that are computed at a time, threads of each)."""
        at_once = max(1, min(self.threads, num_blocks))
        return at_once, self.threads // at_once

    def _compute(self, chosen: list[int]) -> None:
        """Compute the blocks of these numbers, and write them in the order in which they end."""
        at_once, within = self._shares(len(chosen))
        unwanted, one_at_a_time = threading.Event(), threading.Lock()
        process = dataclasses.replace(self.sampler.process, workers=Workers(within, unwanted))
        sampler = dataclasses.replace(self.sampler, process=process)
        steps_per_batch = sampler.process.settings.num_steps + 2 + self._evaluations_of_weights
        steps = len(chosen) * sampler.blocks.batches_per_block * steps_per_batch
        bar = console.progress(total=steps, unit="step")

        def on_step() -> None:
            if unwanted.is_set():
                raise Interrupted(0)
            with one_at_a_time:
                bar.update()

        def draw(number: int) -> DrawnBlock:
            return sampler.block(number, on_step)

        with signals.stop_request() as stop, self.arrays, bar:
            numbers = itertools.takewhile(lambda _: not stop.code, chosen)
            drawn = Workers(at_once, unwanted).finished(draw, numbers)
            with contextlib.closing(drawn):
                for number, block in drawn:
                    self._write(number, block)
            if stop.code:
                raise Interrupted(stop.code)

    def _write(self, number: int, block: DrawnBlock) -> None:
        """Write a block, and note it."""
        first = self.sampler.blocks.observations(number).start
        for output in self.sampler.outputs:
            self.arrays.write(output.name, first, output.rows(block.draws))
        if block.trajectory is not None:
            self.arrays.write_whole(TRAJECTORY, block.trajectory)
        evaluations, seconds = block.cost.evaluations, block.cost.seconds
        self.arrays.finish(number, {"network_evaluations": evaluations, "seconds": seconds})

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
