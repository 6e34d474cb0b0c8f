"""In seconds: r from one spectrum and its noise, two text files, with the prior of the repository.

Simulates a spectrum of r = 0.003 without beam, with lensing and 1 uK-arcmin on it, and writes it
as an observation from elsewhere comes: mine.txt (columns ell and D_ell) and nl.txt (columns ell
and N_ell, a C_ell, of lensing and noise), in uK^2. Then sample.py --likelihood draws the posterior:
nothing is trained. Prints each command before it runs it.

Reads:   pretrained/prior_nside16.pth.
Writes:  into --out-dir data, mine.txt, nl.txt, and what sample.py writes: r_draws.npy and others.

Takes 0.4 minutes on two cores: ten seconds to simulate, less than ten for the posterior.

Example:
  python -m studies.quick --out-dir results/quick
"""

import io
import os

import numpy as np

from checks.estimates import known
from runtime import atomic, cli, tables
from runtime.priors import FloatArray
from sky import cosmology
from studies import pretrained, runs
from studies.runs import CLEAN, ROOT, Files, Flags, Step

R, R_RANGE = "0.003", ("0", "0.01")
SPECTRUM, NOISE = "mine.txt", "nl.txt"
ONE: Flags = ("--num-samples", "1", "--num-test", "1")


def simulation(out_dir: str) -> Step:
    """One sky whose beam was divided out."""
    sky = (*CLEAN, "--fwhm-arcmin", "0", "--nside", str(pretrained.NSIDE))
    return runs.generate("--r", R, sky, ONE, "--out-dir", f"{out_dir}/data")


def write_text(out_dir: str) -> None:
    """Write the sky's spectrum and the power that lies on its signal as text."""
    observed = tables.load_spectra(Files(f"{out_dir}/data", R).path("dl_noisy"))
    y = np.asarray(observed.values)[0]
    ell = np.arange(2, 2 + len(y))
    N = cosmology.dl_to_cl(known(observed.record.contaminants.dl_contaminant), ell)
    for name, values, column in ((SPECTRUM, y, "DL_BB[uK2]"), (NOISE, N, "N_ell[uK2]")):
        atomic.write_bytes(os.path.join(out_dir, name), _columns(ell, values, column))


def _columns(ell: np.ndarray, values: FloatArray, name: str) -> bytes:
    text = io.BytesIO()
    np.savetxt(text, np.c_[ell, values], fmt=["%4d", "%.6e"], header=f"ell {name}")
    return text.getvalue()


def answer(out_dir: str) -> Step:
    """The posterior of the spectrum, and the line of r."""
    prior = runs.relative(ROOT / pretrained.FILE)
    return runs.sample(
        *("--model-checkpoint", prior, "--data-file-noisy", f"{out_dir}/{SPECTRUM}"),
        *("--noise-file", f"{out_dir}/{NOISE}", "--r-range", *R_RANGE),
        *("--likelihood", "--method", "ode", "--out-dir", out_dir),
    )


@cli.script
def main(argv: list[str] | None = None) -> None:
    args = runs.make_parser(__doc__, "results/quick").parse_args(argv)
    runs.run([simulation(args.out_dir)])
    write_text(args.out_dir)
    runs.run([answer(args.out_dir)])


if __name__ == "__main__":
    main()
