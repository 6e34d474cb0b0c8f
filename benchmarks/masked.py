"""What a masked sky costs, and what its maps say of r, against NSIDE and the share of the sky.

For each NSIDE and cut in Galactic latitude: seconds and peak memory of the set-up (modes in pixels,
E modes projected out, quadratic estimator), numbers of a reduced map, pairs of truth and
observation that are then drawn in a second, and the Fisher limit of r = 0 and 0.001 from the map,
beside the rule of thumb: the full sky's over the root of the share of the sky. E modes of any
amplitude, 1 uK-arcmin, lensing. Prints a table; it is a section of benchmarks/RESULTS.md.

Example:
  python -m benchmarks.masked --nside 8 16
"""

import concurrent.futures
import multiprocessing
import time

import numpy as np

from benchmarks import report
from checks.exact_map import MapLaw, MapModel
from runtime import cli, console, resources
from runtime.priors import FloatArray
from sky import cosmology, instruments, masked, realisations

NSIDES, CUTS = (8, 16, 32), (0.0, 20.0, 40.0)  # the cuts in degrees of Galactic latitude
DEPTH, FWHM = 1.0, 24.8  # uK-arcmin, arcmin
R_FIDUCIAL, RANGE, ROWS = 0.001, (0.0, 0.01), 2000


def fisher_sigma(model: MapModel, r: float) -> float:
    """Fisher limit of r from a map."""
    return float(model.information(np.array([r]))[0] ** -0.5)


def full_sky_sigma(dl_per_r: FloatArray, dl_rest: FloatArray, r: float) -> float:
    """Fisher limit of r on the full sky, of D_ell from ell = 2 on; dl_rest with the noise."""
    nu = 2 * np.arange(2, 2 + len(dl_rest)) + 1
    return float((nu / 2 * (dl_per_r / (r * dl_per_r + dl_rest)) ** 2).sum() ** -0.5)


def measure(nside: int, cut: float) -> list[str]:
    """The row of one NSIDE and cut, in a process of its own."""
    import healpy

    ell = masked.multipoles(nside)
    power = masked.cosine_window(nside) ** 2 * instruments.beam_power(FWHM, ell)
    dl_lensing = cosmology.lensing_bb(ell) * power
    template = cosmology.signal_template(*RANGE, ell)
    template = cosmology.linear_template(template(np.array([RANGE[1]]))[0] / RANGE[1] * power)
    latitude = 90 - np.degrees(healpy.pix2ang(nside, np.arange(12 * nside**2))[0])
    began = time.perf_counter()
    survey = masked.Survey.uniform((np.abs(latitude) >= cut).astype(float), DEPTH)
    sky = masked.MaskedSky.with_free_e_modes(survey)
    dl_fiducial = dl_lensing + template(np.array([R_FIDUCIAL]))[0]
    estimator = masked.QuadraticEstimator.of(sky, dl_fiducial)
    seconds = time.perf_counter() - began
    memory = resources.peak_memory()

    dl_signal = template(np.linspace(*RANGE, ROWS))
    powers = realisations.ExpectedPowers(ell, dl_signal, dl_lensing, np.zeros(len(ell)))
    generators, began = realisations.make_generators(0, "train", *RANGE), time.perf_counter()
    masked.draw_rows(sky, estimator, powers, ROWS, generators)
    rate = ROWS / (time.perf_counter() - began)

    model = MapModel(MapLaw(sky.response, dl_lensing), template, RANGE)
    dl_rest = dl_lensing + instruments.white_noise_bb(DEPTH, ell)
    rule = [
        full_sky_sigma(template.dl_per_r[0], dl_rest, r) / survey.f_sky**0.5
        for r in (0, R_FIDUCIAL)
    ]
    limits = [fisher_sigma(model, r) for r in (0, R_FIDUCIAL)]
    return [
        *(
            str(nside),
            f"{survey.f_sky:.2f}",
            f"{sky.response.shape[1]:,}",
            f"{len(sky.response):,}",
        ),
        *(f"{seconds:.1f}", resources.format_size(memory), f"{rate:,.0f}"),
        *(f"{limit:.2e} ({naive:.2e})" for limit, naive in zip(limits, rule, strict=True)),
    ]


@cli.script
def main(argv: list[str] | None = None) -> None:
    parser = cli.make_parser(__doc__)
    parser.add_argument("--nside", type=cli.nside, nargs="+", default=NSIDES, help="of the maps")
    parser.add_argument("--cuts", type=float, nargs="+", default=CUTS, help="latitudes, degrees")
    args = parser.parse_args(argv)
    context = multiprocessing.get_context("spawn")
    rows = []
    for nside in args.nside:
        for cut in args.cuts:
            with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
                rows.append(pool.submit(measure, nside, cut).result())
    headings = [
        *("NSIDE", "f_sky", "B modes", "numbers of a map", "set-up, s", "peak memory", "pairs / s"),
        *(f"sigma(r), map (rule of thumb), r = {r:g}" for r in (0, R_FIDUCIAL)),
    ]
    text = [
        "## Masked sky",
        f"`python -m benchmarks.masked --nside {' '.join(map(str, args.nside))}`; "
        f"{report.machine()}. {DEPTH:g} uK-arcmin, lensing, E modes "
        "of any amplitude; sigma(r) is the Fisher limit of the map, in brackets the full sky's "
        "over the root of f_sky.",
        report.table(headings, rows),
    ]
    report.write_section("masked", "\n\n".join(text))
    console.print_result(text[-1])


if __name__ == "__main__":
    main()
