"""Skies in all bands of ECHO, each cleaned with its own weights, against their normals alone.

Example:
  python -m benchmarks.cleaning
"""

import resource
import time

import numpy as np

import data_generation
from runtime import console
from sky import realisations, simulation

NUM_SKIES, ROUNDS = 10_000, 5
FLAGS = "--instrument echo --clean hilc --ilc-weights sky --foregrounds"


def make_simulation(name):
    """A `simulation.Simulation` of ECHO, and a signal of the size of its lensing."""
    args = data_generation.parse_arguments([*FLAGS.split(), name])
    bands, _, fwhm = data_generation.choose_bands(args)
    sky = simulation.make_band_sky(args.nside, bands, fwhm, True, 1.0, args.foregrounds, 1.0)
    return simulation.make_simulation(sky, args.ilc_bins, args.ilc_weights), sky.dl_lensing


def time_normals(n_bands, num_modes, chunk, num):
    """Seconds that numpy needs for as many normals as skies have in all bands and modes."""
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    for first in range(0, num, chunk):
        rng.standard_normal((min(chunk, num - first), n_bands, num_modes))
    return time.perf_counter() - start


def time_skies(simulated, dl_signal, num):
    """Seconds for the truth and the cleaned observation of as many skies."""
    generators, chunk = realisations.make_generators(0, "train", 0.001), simulated.chunk_rows
    start = time.perf_counter()
    for first in range(0, num, chunk):
        simulated.draw(dl_signal, min(chunk, num - first), generators)
    return time.perf_counter() - start


def main():
    """Print the times of both, taken in turn so that a busy moment meets both, and their ratio."""
    for name in ("gaussian", "gaussian-ensemble"):
        skies, dl_signal = make_simulation(name)
        shape, num = skies.sky.foregrounds.fixed.shape, NUM_SKIES // ROUNDS
        times = [
            (
                time_normals(*shape, skies.chunk_rows, num),
                time_skies(skies, dl_signal, num),
            )
            for _ in range(ROUNDS)
        ]
        normals, drawn = np.sum(times, 0)
        ratio = np.median([b / a for a, b in times])
        console.print_result(f"{name}: {NUM_SKIES} skies of {shape[0]} bands and {shape[1]} modes")
        console.print_result(f"  normals by numpy {normals:9.2f} s")
        console.print_result(f"  cleaned skies    {drawn:9.2f} s    {ratio:.2f} times as long")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    console.print_result(f"peak memory {peak:.0f} MiB, whatever the number of skies")


if __name__ == "__main__":
    main()
