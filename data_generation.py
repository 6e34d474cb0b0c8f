"""Simulate CMB B-mode power spectra: pairs of a primordial truth and its observation.

Each row is one full sky: realised D_ell in uK^2 at ell = 2 ... 2*nside-1. The truth is the
primordial (tensor) BB through the beam. The observation adds lensing and foregrounds, through the
same beam, and white noise: in one band, or in all bands of --instrument that --clean hilc sums to
one cleaned spectrum. Rows are drawn in harmonic space, exactly and without maps.

Reads:   nothing; PySM3 presets (--foregrounds d1 s1) read their template maps, --instrument may
         name a file {"name": "mine", "bands": [{"freq_ghz": 40, "fwhm_arcmin": 70,
         "noise_uk_arcmin": 30}, ...]}.
Writes:  for each r, into --out-dir, with a .json beside every array that records how it was made:
           dl_train_r{R}.npy        truth, training rows
           dl_train_noisy_r{R}.npy  observation of the same rows
           dl_gt_r{R}.npy           truth, test rows: skies that training has not seen
           dl_noisy_r{R}.npy        observation of the same test rows
         With --r-range 0 0.01 each row has an r of its own, R is 0-0.01, and r stands in
         r_train_r{R}.npy and r_gt_r{R}.npy, row for row. With --instrument, budget_r{R}.png
         shows what the observation is made of.

Examples:
  python data_generation.py --r 0.001 --nside 16 --num-samples 10000 --out-dir data
  python data_generation.py --r-range 0 0.01 --instrument litebird --clean hilc --out-dir data
"""

import contextlib
import dataclasses
import functools
import os

import numpy as np

from figures import spectra as plots
from runtime import atomic, cli, console, records, resources, tables
from sky import cleaning, cosmology, foregrounds, instruments, realisations, simulation

BUDGET_R = (0.001, 0.01)  # tensor spectra that stand in the budget
BUDGET_ELL = (2, 10, 31)
SINGLE_BAND = instruments.Band(freq_ghz=45.0, fwhm_arcmin=24.8, noise_uk_arcmin=11.9)

BASE_MEMORY = 5 * 10**8  # of Python, its packages and CAMB; all three rounded up from peaks
CHUNK_ARRAYS = 12  # arrays as large as a chunk of rows that stand at a time
MAP_ARRAYS = 60  # arrays as large as a map that PySM3 holds

QUANTITIES = {"x": "primordial BB", "y": "observed BB", "r": "r"}
FILES = {
    "train": {"x": "dl_train_r{}.npy", "y": "dl_train_noisy_r{}.npy", "r": "r_train_r{}.npy"},
    "test": {"x": "dl_gt_r{}.npy", "y": "dl_noisy_r{}.npy", "r": "r_gt_r{}.npy"},
}


def _digits(r):
    """r, a tuple of one value or of the two ends of a range, without exponent."""
    return "-".join(np.format_float_positional(value, trim="-") for value in r)


def budget_path(out_dir, r):
    """Path of the figure that shows what the observations of r are made of."""
    return os.path.join(out_dir, f"budget_r{_digits(r)}.png")


def output_paths(out_dir, r):
    """Paths of one r, or of a range of r: {split: {"x", "y" and, for a range, "r"}}."""
    names = QUANTITIES if len(r) == 2 else ("x", "y")
    return {
        split: {name: os.path.join(out_dir, file[name].format(_digits(r))) for name in names}
        for split, file in FILES.items()
    }


def size_on_disk(splits, args):
    """Bytes of the arrays of `output_paths`; what stands beside them is small."""
    rows = {"train": args.num_samples, "test": args.num_test}
    n_ell = len(cosmology.multipoles(args.nside))
    return sum(
        atomic.npy_bytes((rows[split],) if name == "r" else (rows[split], n_ell))
        for split, names in splits.items()
        for name in names
    )


def peak_memory(args, n_bands):
    """Bound on the memory of a run in bytes, whatever the number of rows."""
    values = max(simulation.CHUNK_VALUES, 2 * args.nside)
    if args.ilc_weights == "sky":
        values = max(simulation.CHUNK_MODES, n_bands * (2 * args.nside) ** 2)
    maps = 0 if args.foregrounds[0] in foregrounds.STANDALONE else 12 * args.nside**2
    return BASE_MEMORY + 8 * (CHUNK_ARRAYS * values + MAP_ARRAYS * maps)


def write_rows(paths, draw, shape, metadata, chunk_rows, on_rows=lambda m: None):
    """Draw rows and stream them to disk.

    Args:
        paths: {"x": file of the truth, "y": of its observation, "r": of r, where each has its own}.
        draw: Callable m -> {name: the next m rows}.
        shape: (n, n_ell).
        metadata: For all sidecars.
        chunk_rows: Rows held at a time; the rows do not depend on it.
        on_rows: Called with the number of rows after each chunk.
    """
    with contextlib.ExitStack() as stack:
        writers = {}
        for name, path in paths.items():
            own = {"quantity": QUANTITIES[name], "unit": "1" if name == "r" else "uK^2"}
            writer = tables.ArrayWriter(path, shape[:1] if name == "r" else shape, own | metadata)
            writers[name] = stack.enter_context(writer)
        for start in range(0, shape[0], chunk_rows):
            rows = draw(min(chunk_rows, shape[0] - start))
            for name, writer in writers.items():
                writer.append(rows[name])
            on_rows(len(rows["x"]))


def write_budget(path, r, ell, parts, ilc, fwhm_arcmin):
    """Print what an observation is made of, beside tensor spectra, and draw it.

    Args:
        path: Of the figure.
        r: Tuple of one r, or of the two ends of a range.
        ell: Multipoles, shape (n_ell,).
        parts: From `cleaning.residual_powers`.
        ilc: From `describe_ilc`, or {} without cleaning.
        fwhm_arcmin: Beam of the observation.
    """

    beam = instruments.beam_power(fwhm_arcmin, ell)
    tensors = {value: cosmology.tensor_bb(value, ell) * beam for value in BUDGET_R}
    left = {
        "lensing": parts["dl_lensing"],
        "foreground": parts["dl_gaussian_foreground"] + parts["dl_fixed_foreground"],
        "noise": parts["dl_noise"],
    }
    if ilc:
        left["ILC bias"] = np.array(ilc["dl_ilc_bias"])
        left["ILC bias, expected"] = np.array(ilc["dl_ilc_bias_expected"])
    atomic.write_figure(path, plots.budget(ell, left, tensors))
    columns = [int(np.abs(ell - wanted).argmin()) for wanted in BUDGET_ELL]
    title = f"D_ell in uK^2, r = {'-'.join(f'{value:g}' for value in r)}"
    console.print_result(f"{title:<28}" + "".join(f"{f'ell = {ell[k]}':>12}" for k in columns))
    for label, dl in {**{f"tensor, r = {k:g}": v for k, v in tensors.items()}, **left}.items():
        console.print_result(f"  {label:<26}" + "".join(f"{dl[k]:12.2e}" for k in columns))


def build_parser():
    """The command line."""
    parser = cli.make_parser(__doc__)
    data = parser.add_argument_group("data")
    data.add_argument(
        "--r",
        type=cli.non_negative_float,
        nargs="+",
        help="tensor-to-scalar ratios at 0.05/Mpc, one set of files each; 0 is the null test "
        "(default: 0.001)",
    )
    data.add_argument(
        "--r-range",
        type=cli.non_negative_float,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="instead of --r: each row has an r of its own, drawn uniformly from this range",
    )
    data.add_argument(
        "--nside", type=cli.nside, default=16, help="HEALPix NSIDE: ell = 2 ... 2*nside-1"
    )
    data.add_argument(
        "--num-samples",
        type=cli.positive_int,
        default=10000,
        help="rows of the training set",
    )
    data.add_argument(
        "--num-test", type=cli.positive_int, help="rows of the test set (default: --num-samples)"
    )
    data.add_argument("--out-dir", default="data", help="folder of the output, made if missing")
    sky = parser.add_argument_group("sky")
    sky.add_argument(
        "--a-lens",
        type=cli.non_negative_float,
        default=1.0,
        help="share of the lensing power that delensing left: 1 all, 0 none",
    )
    sky.add_argument(
        "--foregrounds",
        nargs="+",
        default=["gaussian"],
        metavar="NAME",
        help="gaussian (dust and synchrotron power laws, a new realisation for each row), "
        "gaussian-ensemble (their parameters are new for each row, too), none, or PySM3 presets "
        "such as d1 s1 (one fixed sky)",
    )
    sky.add_argument(
        "--foreground-scale",
        type=cli.non_negative_float,
        help="share of the foreground amplitude that a cleaning outside of this script left; "
        "power has its square (default: 1)",
    )
    single = parser.add_argument_group("one band (default: ECHO's at 45 GHz)")
    single.add_argument(
        "--fwhm-arcmin",
        type=cli.non_negative_float,
        help="beam width, arcmin; with --clean hilc that to which all bands are brought "
        f"(default: {SINGLE_BAND.fwhm_arcmin:g})",
    )
    single.add_argument(
        "--freq-ghz",
        type=cli.positive_float,
        help=f"observing frequency, GHz (default: {SINGLE_BAND.freq_ghz:g}); with --instrument "
        "and without cleaning it names the band",
    )
    single.add_argument(
        "--noise-uk-arcmin",
        type=cli.non_negative_float,
        help="white noise in polarisation, uK-arcmin; the beam does not act on it "
        f"(default: {SINGLE_BAND.noise_uk_arcmin:g})",
    )
    several = parser.add_argument_group("an instrument")
    several.add_argument(
        "--instrument",
        metavar="NAME",
        help=f"{', '.join(instruments.INSTRUMENTS)}, or a .json file with a table of bands",
    )
    several.add_argument(
        "--bands",
        type=cli.positive_float,
        nargs="+",
        metavar="GHZ",
        help="use only the bands at these frequencies (default: all)",
    )
    several.add_argument(
        "--clean",
        choices=("none", "hilc"),
        default="none",
        help="hilc: the internal linear combination of all bands in harmonic space",
    )
    several.add_argument(
        "--ilc-bins",
        type=cli.positive_int,
        nargs="+",
        metavar="ELL",
        help="edges of the multipole bins that have weights of their own, from 2 to 2*nside "
        "(default: 2 5 9 15 22 32 at nside 16, in proportion elsewhere)",
    )
    several.add_argument(
        "--ilc-weights",
        choices=("sky", "model"),
        help="from the covariance of each sky's own modes, as for real data, or from that of the "
        "ensemble, for which the exact posterior is known (default: sky)",
    )
    cli.add_run_arguments(parser, device=False)
    return parser


def parse_arguments(argv):
    """Parsed arguments, with the rules that hold across them."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.r and args.r_range:
        parser.error("--r and --r-range: give one of the two")
    # adding 0.0 makes 0 of -0
    args.r = [(r + 0.0,) for r in args.r or [0.001]]
    if args.r_range:
        args.r = [tuple(r + 0.0 for r in args.r_range)]
        if args.r_range[0] >= args.r_range[1]:
            parser.error("--r-range: the first value must be below the second")
    args.num_test = args.num_test or args.num_samples
    if len(set(args.r)) < len(args.r):
        parser.error("--r: a value stands there twice")
    if len(set(args.foregrounds)) < len(args.foregrounds):
        parser.error("--foregrounds: a name stands there twice")
    alone = [name for name in foregrounds.STANDALONE if name in args.foregrounds]
    if alone and len(args.foregrounds) > 1:
        parser.error(f"--foregrounds: {alone[0]} goes with no other name")
    check_instrument(parser, args)
    return args


def check_instrument(parser, args):
    """Rules between the flags of one band, of an instrument and of a cleaning; sets defaults."""
    single = ("fwhm_arcmin", "freq_ghz", "noise_uk_arcmin")
    cleaning_only = ("bands", "ilc_bins", "ilc_weights")

    def refuse(names, why):
        for name in names:
            if getattr(args, name) is not None:
                parser.error(f"--{name.replace('_', '-')}: {why}")

    if args.clean == "hilc":
        if args.instrument is None:
            parser.error("--clean hilc: sums the bands of an --instrument; name one")
        refuse(["freq_ghz"], "--clean hilc sums bands; choose them with --bands")
        refuse(["foreground_scale"], "stands for a cleaning, which --clean hilc does; give one")
    else:
        refuse(cleaning_only, "is for --clean hilc")
    if args.instrument is not None:
        refuse(["noise_uk_arcmin"], "an --instrument has its own; give one of the two")
        if args.clean == "none":
            refuse(["fwhm_arcmin"], "an --instrument has its own; give one of the two")
            if args.freq_ghz is None:
                parser.error("--instrument: name one band with --freq-ghz, or use --clean hilc")
    for name in single:
        if getattr(args, name) is None:
            setattr(args, name, getattr(SINGLE_BAND, name))
    if args.foreground_scale is None:
        args.foreground_scale = 1.0
    low, high = instruments.FREQ_RANGE_GHZ
    if not low <= args.freq_ghz <= high:
        parser.error(f"--freq-ghz: the emission laws hold from {low} to {high} GHz")
    if args.clean == "hilc":
        args.ilc_weights = args.ilc_weights or "sky"
        end, bins = 2 * args.nside, args.ilc_bins or cleaning.default_bins(args.nside)
        if bins != sorted(set(bins)) or (bins[0], bins[-1]) != (2, end):
            parser.error(f"--ilc-bins: must rise from 2 to 2*nside = {end}")
        args.ilc_bins = bins


def choose_bands(args):
    """(bands, record of the instrument for the sidecar, beam of the observation)."""
    if args.instrument is None:
        band = instruments.Band(args.freq_ghz, args.fwhm_arcmin, args.noise_uk_arcmin)
    else:
        name, bands = instruments.load_instrument(args.instrument)
        if args.clean == "hilc":
            bands = instruments.pick_bands(bands, args.bands, "--bands") if args.bands else bands
            record = {"name": name, "bands": [dataclasses.asdict(band) for band in bands]}
            return bands, record, args.fwhm_arcmin
        (band,) = instruments.pick_bands(bands, [args.freq_ghz], "--freq-ghz")
    return [band], dataclasses.asdict(band), band.fwhm_arcmin


def describe_run(argv, args, instrument, fwhm_arcmin):
    """What all sidecars of a run say of its flags, ready for JSON."""
    recorded = {"nside": args.nside, "instrument": instrument}
    for name in ("a_lens", "foregrounds", "foreground_scale", "seed"):
        recorded[name] = getattr(args, name)
    if args.clean == "hilc":
        recorded["cleaning"] = {
            "method": "hilc",
            "fwhm_arcmin": fwhm_arcmin,
            "bins": args.ilc_bins,
            "weights_from": args.ilc_weights,
        }
    if args.foregrounds == ["gaussian"]:
        recorded["gaussian_foregrounds"] = foregrounds.GAUSSIAN_FOREGROUNDS
    if args.foregrounds == ["gaussian-ensemble"]:
        recorded["foreground_ensemble"] = foregrounds.ENSEMBLE
    return {**recorded, **records.provenance(argv)}


@cli.script
def main(argv=None):
    """Run the script with a list of arguments; those of the process when None."""
    args = parse_arguments(argv)
    bands, instrument, fwhm_arcmin = choose_bands(args)
    if args.foregrounds[0] not in foregrounds.STANDALONE:
        foregrounds.check_presets(args.foregrounds)
    paths = {r: output_paths(args.out_dir, r) for r in args.r}
    figures = {r: budget_path(args.out_dir, r) for r in args.r} if args.instrument else {}
    targets = [p for splits in paths.values() for names in splits.values() for p in names.values()]
    disk_bytes = sum(size_on_disk(splits, args) for splits in paths.values())
    atomic.claim_outputs([*targets, *figures.values()], disk_bytes)
    rows = {"train": args.num_samples, "test": args.num_test}
    total = len(args.r) * sum(rows.values())
    work = f"{total:,} pairs at ell = 2-{2 * args.nside - 1}"
    resources.announce(work, peak_memory(args, len(bands)), disk_bytes, args.out_dir)

    hilc = args.clean == "hilc"
    sky = simulation.make_band_sky(
        *(args.nside, bands, fwhm_arcmin, hilc),
        *(args.a_lens, args.foregrounds, args.foreground_scale),
    )
    skies = simulation.make_simulation(sky, *((args.ilc_bins, args.ilc_weights) if hilc else ()))
    ell = sky.ell
    signals = {r: simulation.make_signal(r, ell, fwhm_arcmin) for r in args.r}
    for signal in signals.values():
        simulation.check_finite(signal, skies.parts)
    recorded = describe_run(argv, args, instrument, fwhm_arcmin)
    ilc = {r: {} for r in args.r}
    if hilc:
        for r, signal in signals.items():
            ilc[r] = simulation.describe_ilc(r, signal, skies, args.ilc_bins, args.seed)

    with console.progress(total=total, desc="drawing", unit="pair") as bar:
        for r, signal in signals.items():
            metadata = simulation.describe(r, signal, skies) | ilc[r] | recorded
            for split, targets in paths[r].items():
                generators = realisations.make_generators(args.seed, split, *r)
                draw = functools.partial(
                    simulation.draw_rows, r, signal, skies, generators=generators
                )
                shape, own = (rows[split], len(ell)), {"split": split, **metadata}
                write_rows(targets, draw, shape, own, skies.chunk_rows, bar.update)
    for r, path in figures.items():
        write_budget(path, r, ell, skies.parts, ilc[r], fwhm_arcmin)
    console.print_result(
        f"wrote {args.num_samples} training and {args.num_test} test pairs at ell = 2-{ell[-1]} "
        f"for r = {', '.join('-'.join(f'{v:g}' for v in r) for r in args.r)} into {args.out_dir}/"
    )


if __name__ == "__main__":
    main()
