"""Simulate CMB B-mode power spectra: pairs of a primordial truth and its observation.

Each row is one full sky: realised D_ell in uK^2 at ell = 2 ... 2*nside-1. The truth is the
primordial (tensor) BB through the beam. The observation adds lensing and foregrounds, through the
same beam, and white noise. Rows are drawn in harmonic space, exactly and without maps.

Reads:   nothing; PySM3 presets (--foregrounds d1 s1) read their template maps.
Writes:  for each r, into --out-dir, with a .json beside every array that records how it was made:
           dl_train_r{R}.npy        truth, training rows
           dl_train_noisy_r{R}.npy  observation of the same rows
           dl_gt_r{R}.npy           truth, test rows: skies that training has not seen
           dl_noisy_r{R}.npy        observation of the same test rows
         With --r-range 0 0.01 each row has an r of its own, R is 0-0.01, and r stands in
         r_train_r{R}.npy and r_gt_r{R}.npy, row for row.

Example:
  python data_generation.py --r 0.001 --nside 16 --num-samples 10000 --out-dir data
"""

import contextlib
import dataclasses
import functools
import os

import numpy as np

import cli
import spectra
import storage

CHUNK_VALUES = 2**18  # values of one array held at a time: 2 MiB, so that memory stays bounded
FREQ_RANGE_GHZ = (1, 3000)
STANDALONE = ("none", "gaussian")  # foregrounds that go with no other

QUANTITIES = {"x": "primordial BB", "y": "observed BB", "r": "r"}
FILES = {
    "train": {"x": "dl_train_r{}.npy", "y": "dl_train_noisy_r{}.npy", "r": "r_train_r{}.npy"},
    "test": {"x": "dl_gt_r{}.npy", "y": "dl_noisy_r{}.npy", "r": "r_gt_r{}.npy"},
}


def output_paths(out_dir, r):
    """Paths of one r, or of a range of r: {split: {"x", "y" and, for a range, "r"}}.

    r, a tuple of one value or of the two ends, is written without exponent.
    """
    digits = "-".join(np.format_float_positional(value, trim="-") for value in r)
    names = QUANTITIES if len(r) == 2 else ("x", "y")
    return {
        split: {name: os.path.join(out_dir, files[name].format(digits)) for name in names}
        for split, files in FILES.items()
    }


def contaminant_powers(ell, nside, instrument, a_lens, foregrounds, foreground_scale):
    """Expected powers of everything but the signal, as observed.

    Args:
        ell: Multipoles, shape (n_ell,).
        nside: NSIDE that ell belongs to.
        instrument: Dict with fwhm_arcmin, freq_ghz and noise_uk_arcmin.
        a_lens: Share of the lensing power that is left.
        foregrounds: ["none"], ["gaussian"], or PySM3 presets.
        foreground_scale: Share of the foreground amplitude that is left.

    Returns:
        Dict of D_ell, each of shape (n_ell,), uK^2: dl_lensing, dl_noise and
        dl_gaussian_foreground, drawn anew for each sample, and dl_fixed_foreground.
    """
    freq_ghz = instrument["freq_ghz"]
    beam = spectra.beam_power(instrument["fwhm_arcmin"], ell)
    gaussian = fixed = np.zeros(len(ell))
    if foregrounds == ["gaussian"]:
        gaussian = spectra.gaussian_foregrounds_bb(freq_ghz, ell)
    elif foregrounds != ["none"]:
        fixed = spectra.preset_bb(foregrounds, freq_ghz, nside)
    return {
        "dl_lensing": a_lens * spectra.lensing_bb(ell) * beam,
        "dl_noise": spectra.white_noise_bb(instrument["noise_uk_arcmin"], ell),
        "dl_gaussian_foreground": foreground_scale**2 * gaussian * beam,
        "dl_fixed_foreground": foreground_scale**2 * fixed * beam,
    }


def make_signal(r, ell, fwhm_arcmin):
    """Primordial power through the beam, of one r or of a range.

    Args:
        r: Tuple of one r, or of the two ends of a range.
        ell: Multipoles, shape (n_ell,).
        fwhm_arcmin: Width of the beam.

    Returns:
        D_ell, shape (n_ell,), uK^2, for one r; a `spectra.SignalTemplate` for a range.
    """
    beam = spectra.beam_power(fwhm_arcmin, ell)
    if len(r) == 1:
        return spectra.tensor_bb(*r, ell) * beam
    template = spectra.signal_template(*r, ell)
    return dataclasses.replace(template, dl_per_r=template.dl_per_r * beam)


def make_sky(ell, dl_signal, parts):
    """`spectra.Sky` of a signal and of what contaminates it.

    Args:
        ell: Multipoles, shape (n_ell,).
        dl_signal: D_ell, shape (n_ell,) or (n, n_ell), uK^2.
        parts: From `contaminant_powers`.

    Raises:
        InputError: If a power overflows.
    """
    sky = spectra.Sky(
        ell=ell,
        dl_signal=dl_signal,
        dl_contaminant=(parts["dl_lensing"] + parts["dl_noise"] + parts["dl_gaussian_foreground"]),
        dl_fixed_foreground=parts["dl_fixed_foreground"],
    )
    for field in dataclasses.fields(sky):
        if not np.isfinite(getattr(sky, field.name)).all():
            raise cli.InputError(
                f"--r or --r-range: {field.name} is not finite; an argument is beyond all physics"
            )
    return sky


def draw_rows(r, signal, ell, parts, n, generators):
    """Draw n rows: {"x", "y"}, and "r" where a range was asked for; see `make_signal`."""
    rows = {}
    if len(r) == 2:
        rows["r"] = generators["r"].uniform(*r, n)
        signal = signal(rows["r"])
    x, y = spectra.draw_pairs(make_sky(ell, signal, parts), n, generators)
    return {"x": x, "y": y, **rows}


def write_rows(paths, draw, shape, metadata, chunk_rows=None, on_rows=lambda m: None):
    """Draw rows and stream them to disk.

    Args:
        paths: {"x": file of the truth, "y": of its observation, "r": of r, where each has its own}.
        draw: Callable m -> {name: the next m rows}.
        shape: (n, n_ell).
        metadata: For all sidecars.
        chunk_rows: Rows held at a time; the rows do not depend on it.
        on_rows: Called with the number of rows after each chunk.
    """
    n, n_ell = shape
    chunk_rows = chunk_rows or max(1, CHUNK_VALUES // n_ell)
    with contextlib.ExitStack() as stack:
        writers = {}
        for name, path in paths.items():
            own = {"quantity": QUANTITIES[name], "unit": "1" if name == "r" else "uK^2"}
            writer = storage.ArrayWriter(path, shape[:1] if name == "r" else shape, own | metadata)
            writers[name] = stack.enter_context(writer)
        for start in range(0, n, chunk_rows):
            rows = draw(min(chunk_rows, n - start))
            for name, writer in writers.items():
                writer.append(rows[name])
            on_rows(len(rows["x"]))


def describe(split, r, signal, parts, recorded):
    """Metadata of one set of files, ready for JSON: r, its powers, and what was set for the run."""
    powers = {**parts}
    powers["dl_contaminant"] = sum(
        parts[name] for name in ("dl_lensing", "dl_noise", "dl_gaussian_foreground")
    )
    if len(r) == 1:
        prior = {"r": r[0], "dl_signal": signal.tolist()}
    else:
        template = {name: value.tolist() for name, value in dataclasses.asdict(signal).items()}
        prior = {"r_range": list(r), "signal_template": template}
    return {
        "split": split,
        **prior,
        **{name: power.tolist() for name, power in powers.items()},
        **recorded,
        "cosmology": spectra.COSMOLOGY,
    }


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
        help="gaussian (dust and synchrotron power laws, a new realisation for each row), none, "
        "or PySM3 presets such as d1 s1 (one fixed sky)",
    )
    sky.add_argument(
        "--foreground-scale",
        type=cli.non_negative_float,
        default=1.0,
        help="share of the foreground amplitude that cleaning left; power has its square",
    )
    instrument = parser.add_argument_group("instrument (default: ECHO's 45 GHz band)")
    instrument.add_argument(
        "--fwhm-arcmin", type=cli.non_negative_float, default=24.8, help="beam width, arcmin"
    )
    instrument.add_argument(
        "--freq-ghz", type=cli.positive_float, default=45.0, help="observing frequency, GHz"
    )
    instrument.add_argument(
        "--noise-uk-arcmin",
        type=cli.non_negative_float,
        default=11.9,
        help="white noise in polarisation, uK-arcmin; the beam does not act on it",
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
    alone = [name for name in STANDALONE if name in args.foregrounds]
    if alone and len(args.foregrounds) > 1:
        parser.error(f"--foregrounds: {alone[0]} goes with no other name")
    if not FREQ_RANGE_GHZ[0] <= args.freq_ghz <= FREQ_RANGE_GHZ[1]:
        low, high = FREQ_RANGE_GHZ
        parser.error(f"--freq-ghz: the emission laws hold from {low} to {high} GHz")
    return args


@cli.script
def main(argv=None):
    """Run the script with a list of arguments; those of the process when None."""
    args = parse_arguments(argv)
    if args.foregrounds[0] not in STANDALONE:
        spectra.check_presets(args.foregrounds)
    paths = {r: output_paths(args.out_dir, r) for r in args.r}
    storage.claim_outputs(
        [p for splits in paths.values() for files in splits.values() for p in files.values()]
    )

    instrument = {
        name: getattr(args, name) for name in ("fwhm_arcmin", "freq_ghz", "noise_uk_arcmin")
    }
    sky_settings = {
        name: getattr(args, name) for name in ("a_lens", "foregrounds", "foreground_scale")
    }
    ell = spectra.multipoles(args.nside)
    parts = contaminant_powers(ell, args.nside, instrument, **sky_settings)
    signals = {r: make_signal(r, ell, args.fwhm_arcmin) for r in args.r}

    recorded = {
        "nside": args.nside,
        "instrument": instrument,
        **sky_settings,
        "seed": args.seed,
        **storage.provenance(argv),
    }
    if args.foregrounds == ["gaussian"]:
        recorded["gaussian_foregrounds"] = spectra.GAUSSIAN_FOREGROUNDS
    rows = {"train": args.num_samples, "test": args.num_test}
    total = len(args.r) * sum(rows.values())
    with cli.progress(total=total, desc="drawing", unit="pair") as bar:
        for r, signal in signals.items():
            for split, files in paths[r].items():
                metadata = describe(split, r, signal, parts, recorded)
                generators = spectra.make_generators(args.seed, split, *r)
                draw = functools.partial(draw_rows, r, signal, ell, parts, generators=generators)
                shape = (rows[split], len(ell))
                write_rows(files, draw, shape, metadata, on_rows=bar.update)
    cli.say(
        f"wrote {args.num_samples} training and {args.num_test} test pairs at ell = 2-{ell[-1]} "
        f"for r = {', '.join('-'.join(f'{v:g}' for v in r) for r in args.r)} into {args.out_dir}/"
    )


if __name__ == "__main__":
    main()
