"""Harmonic draws against maps, and against the time that importing PySM3 takes.

Example:
  python -m benchmarks.draws
"""

import subprocess
import sys
import time

import healpy
import numpy as np

from runtime import console
from runtime.priors import FloatArray
from sky import cosmology, realisations
from sky.realisations import ExpectedPowers

NSIDE, NUM_PAIRS, NUM_MAPS, REPEATS = 16, 10_000, 30, 5


def make_powers() -> ExpectedPowers:
    """A sky at NSIDE 16 with a Gaussian contaminant and a fixed foreground; the level is free."""
    ell = cosmology.multipoles(NSIDE)
    return ExpectedPowers(ell, 1e-5 * ell / ell, 1e-4 * ell / ell, 1e-3 * ell / ell)


def time_draws(powers: ExpectedPowers) -> float:
    """Seconds for NUM_PAIRS pairs, best of REPEATS."""
    times = []
    for seed in range(REPEATS):
        start = time.perf_counter()
        generators = realisations.make_generators(seed, "train", 0.001)
        realisations.draw_pairs(powers, NUM_PAIRS, generators)
        times.append(time.perf_counter() - start)
    return min(times)


def time_maps(powers: ExpectedPowers) -> float:
    """Seconds for one pair by maps, best of NUM_MAPS: two syntheses, two analyses."""
    lmax = 2 * NSIDE - 1

    def synthesise(dl: FloatArray) -> FloatArray:
        cl = np.zeros((4, lmax + 1))
        cl[2, powers.ell] = dl * 2 * np.pi / (powers.ell * (powers.ell + 1))
        return healpy.synfast(cl, NSIDE, lmax=lmax, new=True)

    foreground = synthesise(powers.dl_fixed_foreground)
    times = []
    for _ in range(NUM_MAPS):
        start = time.perf_counter()
        signal = synthesise(powers.dl_signal)
        healpy.anafast(signal, lmax=lmax, iter=3)
        observed = signal + synthesise(powers.dl_contaminant) + foreground
        healpy.anafast(observed, lmax=lmax, iter=3)
        times.append(time.perf_counter() - start)
    return min(times)


def time_import() -> float:
    """Seconds that `import pysm3` takes in a fresh interpreter, best of REPEATS, files cached."""
    script = "import time; t = time.perf_counter(); import pysm3; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", script]
    runs = (subprocess.run(command, capture_output=True, check=True) for _ in range(REPEATS))
    return min(float(run.stdout) for run in runs)


def main() -> None:
    """Print the three times and their two ratios."""
    powers = make_powers()
    draws, maps, imported = time_draws(powers), time_maps(powers), time_import()
    per_pair = draws / NUM_PAIRS
    console.print_result(f"pair by maps       {1e3 * maps:9.3f} ms")
    console.print_result(
        f"pair by draw       {1e3 * per_pair:9.5f} ms   {maps / per_pair:.0f} times faster"
    )
    console.print_result(f"import pysm3       {imported:9.3f} s")
    ratio = imported / draws
    console.print_result(
        f"{NUM_PAIRS} pairs drawn  {draws:9.3f} s    {ratio:.0f} times faster than the import"
    )


if __name__ == "__main__":
    main()
