"""Posteriors of part of the sky, and of a map of one's own, beside the exact answers.

|b| > 20 deg at NSIDE 16, 1 uK-arcmin, lensing: r from 0 to 0.01 with the same depth everywhere and
with hits that vary tenfold, and r = 0.001. All are held against the exact posteriors of the maps.
Then the map of an injected sky, r = 0.005 and NSIDE 64, is measured and answered as a user's own
map is. Prints each command before it runs it.

Reads:   nothing.
Writes:  into --out-dir hits.fits; for each of uniform, hits and one_r its data, its checkpoint, a
         folder of its draws and one of its evaluation; own_map.fits, own_truth.npy and the folder
         own_map, of which map.png is the figure of the README.

Takes about 40 minutes on two cores.

Example:
  python -m studies.masked --out-dir results/masked
"""

import os

import numpy as np

from runtime import atomic, cli
from runtime.priors import FloatArray
from sky import cosmology, harmonics, instruments, masked, realisations
from sky.observation import SINGLE_BAND
from studies import runs
from studies.runs import CLEAN, NETWORK, R_RANGE, RANGE, SMALL, Files, Flags, Sizes, Step

NSIDE, SMALL_NSIDE = 16, 4  # the latter in a try-out
MASK: Flags = ("--mask", "galactic:20")
HITS_RANGE = 10.0  # largest over smallest
ECLIPTIC_POLE = 96.4, 29.8  # Galactic longitude and latitude, degrees
OWN_R, OWN_DEPTH, FINER, OWN_SEED = 0.005, 1.0, 4, 1  # of the injected map


def posterior(out_dir: str, name: str, sizes: Sizes, *flags: str | Flags) -> list[Step]:
    """A set of skies, a posterior trained on it, and its evaluation.

    Args:
        out_dir: Of the study.
        name: Of the set.
        sizes: Of the study.
        flags: Of data_generation.py.
    """
    ranged = name != "one_r"
    files = Files(f"{out_dir}/{name}_data", RANGE if ranged else SMALL)
    model, drawn = f"{out_dir}/{name}.pth", f"{out_dir}/{name}"
    skies = sizes.skies(500_000, 1000) if ranged else sizes.skies(100_000, 2000)
    draws: tuple[str | Flags, ...] = (sizes.draws(256),) if ranged else ()
    small = sizes.if_shrunk("--nside", str(SMALL_NSIDE))
    return [
        runs.generate(*flags, CLEAN, MASK, skies, small, "--out-dir", files.folder),
        runs.train(NETWORK, files.pairs, sizes.epochs(36 if ranged else 80), "--out", model),
        runs.sample(
            *(files.tested, "--model-checkpoint", model, "--method", "ode", *draws),
            *("--out-dir", drawn),
        ),
        runs.evaluate(
            *("--runs", drawn, files.evaluated, "--modes-file-noisy", files.path("modes_noisy")),
            *("--out-dir", f"{drawn}_evaluation"),
        ),
    ]


def own_map(out_dir: str) -> Step:
    """The answer to the injected map."""
    return runs.sample(
        *("--maps", f"{out_dir}/own_map.fits", "--data-file-gt", f"{out_dir}/own_truth.npy"),
        *("--model-checkpoint", f"{out_dir}/uniform.pth", "--method", "ode"),
        *("--out-dir", f"{out_dir}/own_map"),
    )


def write_hits(path: str, nside: int) -> None:
    """Write hits that fall smoothly, by `HITS_RANGE`, from one ecliptic pole to the other."""
    import healpy

    pole = healpy.ang2vec(*ECLIPTIC_POLE, lonlat=True)
    cosine = pole @ np.array(healpy.pix2vec(nside, np.arange(12 * nside**2)))
    hits = HITS_RANGE ** ((1 + cosine) / 2)
    healpy.write_map(path, hits, coord="G", column_names=["HITS"], dtype=float, overwrite=True)


def write_own_map(folder: str, nside: int) -> None:
    """Write a map with E modes, lensing, tensors and noise, of higher NSIDE, and its truth.

    Args:
        folder: Of the two files.
        nside: Of the analysis.
    """
    import healpy

    fine, rng = FINER * nside, np.random.default_rng(OWN_SEED)
    ell = masked.multipoles(fine)
    beam = instruments.beam_power(SINGLE_BAND.fwhm_arcmin, ell)

    def modes(dl: FloatArray) -> FloatArray:
        root = np.sqrt(harmonics.per_mode(cosmology.dl_to_cl(dl * beam, ell)))
        return root * rng.standard_normal(len(root))

    tensors = modes(cosmology.tensor_bb(OWN_R, ell))
    rest = modes(cosmology.lensing_bb(ell)), modes(cosmology.lensed_ee(ell))
    alms = [harmonics.to_alm(each, int(ell[-1])) for each in (rest[1], tensors + rest[0])]
    maps = healpy.alm2map_spin(alms, fine, 2, int(ell[-1]))
    sigma = np.radians(OWN_DEPTH / 60) / healpy.nside2resol(fine)
    q, u = (each + sigma * rng.standard_normal(each.shape) for each in maps)
    names, units = ["Q_STOKES", "U_STOKES"], ["uK_CMB", "uK_CMB"]
    healpy.write_map(
        os.path.join(folder, "own_map.fits"), [q, u], coord="G", column_names=names,
        column_units=units, extra_header=[("POLCCONV", "COSMO")], dtype=float, overwrite=True,
    )  # fmt: skip
    wanted = cosmology.multipoles(nside)
    window = masked.cosine_window(nside)[: len(wanted)] ** 2
    truth = realisations.realised_bb(tensors, ell)[: len(wanted)] * window
    atomic.write_npy(os.path.join(folder, "own_truth.npy"), truth[None])


def steps(out_dir: str, sizes: Sizes) -> list[Step]:
    """All runs, in order."""
    return [
        *posterior(out_dir, "uniform", sizes, R_RANGE),
        *posterior(out_dir, "hits", sizes, R_RANGE, "--hits", f"{out_dir}/hits.fits"),
        *posterior(out_dir, "one_r", sizes, "--r", SMALL),
        own_map(out_dir),
    ]


@cli.script
def main(argv: list[str] | None = None) -> None:
    args = runs.make_parser(__doc__, "results/masked").parse_args(argv)
    nside = NSIDE if args.shrink == 1 else SMALL_NSIDE
    os.makedirs(args.out_dir, exist_ok=True)
    write_hits(os.path.join(args.out_dir, "hits.fits"), nside)
    write_own_map(args.out_dir, nside)
    runs.run(steps(args.out_dir, Sizes(args.shrink)))


if __name__ == "__main__":
    main()
