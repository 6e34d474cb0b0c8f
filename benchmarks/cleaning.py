"""Skies in all bands of ECHO, each cleaned with its own weights, against their normals alone.

Example:
  python -m benchmarks.cleaning
"""

import resource
import time

import numpy as np

from runtime import console
from runtime.priors import FloatArray
from sky import realisations, simulation
from sky.observation import Hilc, Observation, SkyModel

NUM_SKIES, ROUNDS = 10_000, 5
ECHO = Observation.with_instrument("echo", Hilc(weights_from="sky"))


def time_normals(n_bands: int, num_modes: int, chunk: int, num: int) -> float:
    """Seconds that numpy needs for as many normals as skies have in all bands and modes."""
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    for first in range(0, num, chunk):
        rng.standard_normal((min(chunk, num - first), n_bands, num_modes))
    return time.perf_counter() - start


def time_skies(simulator: simulation.Simulator, dl_signal: FloatArray, num: int) -> float:
    """Seconds for the truth and the cleaned observation of as many skies."""
    generators, chunk = realisations.make_generators(0, "train", 0.001), simulator.chunk_rows
    start = time.perf_counter()
    for first in range(0, num, chunk):
        simulator.draw(dl_signal, min(chunk, num - first), generators)
    return time.perf_counter() - start


def main() -> None:
    """Print the times of both, taken in turn so that a busy moment meets both, and their ratio."""
    for name in ("gaussian", "gaussian-ensemble"):
        simulator = simulation.make_simulator(SkyModel(foregrounds=(name,)), ECHO)
        n_bands, num_modes = simulator.sky.foregrounds.fixed.shape
        # a signal of the size of lensing
        dl_signal, num = simulator.sky.dl_lensing, NUM_SKIES // ROUNDS
        times = [
            (
                time_normals(n_bands, num_modes, simulator.chunk_rows, num),
                time_skies(simulator, dl_signal, num),
            )
            for _ in range(ROUNDS)
        ]
        normals, drawn = np.sum(times, 0)
        ratio = np.median([b / a for a, b in times])
        console.print_result(f"{name}: {NUM_SKIES} skies of {n_bands} bands and {num_modes} modes")
        console.print_result(f"  normals by numpy {normals:9.2f} s")
        console.print_result(f"  cleaned skies    {drawn:9.2f} s    {ratio:.2f} times as long")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    console.print_result(f"peak memory {peak:.0f} MiB, whatever the number of skies")


if __name__ == "__main__":
    main()
