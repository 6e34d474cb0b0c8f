"""The script through main([...]): its files, its sidecars, and how it refuses bad input."""

import json
import pathlib

import numpy as np
import pytest
from scipy import stats

import data_generation
from runtime import shared_arrays, tables
from sky import (
    cleaning,
    instruments,
    presets,
    realisations,
    simulation,
    simulator,
)

TEMPLATES = pathlib.Path(__file__).parents[2] / "shared" / "pysm-data"
NAMES = ("dl_train_r{}", "dl_train_noisy_r{}", "dl_gt_r{}", "dl_noisy_r{}")

pytestmark = pytest.mark.usefixtures("cached_lensing")


def test_files_of_several_r(generate, tmp_path):
    load = generate("--r", "0", "0.001", "1e-5", "0.3")
    wanted = {
        f"{name.format(r)}{suffix}"
        for name in NAMES
        for r in ("0", "0.001", "0.00001", "0.3")
        for suffix in (".npy", ".json")
    }
    assert {path.name for path in (tmp_path / "data").iterdir()} == wanted
    for name in NAMES:
        data = load(name.format("0.001"))
        assert data.values.shape == (500, 14) and data.values.dtype == "<f8"
        assert data.ell.tolist() == list(range(2, 16)) and data.record.prior.r == 0.001
        assert np.all(data.values > 0)


def test_a_range_of_r(generate, tmp_path):
    """Every row has its own r, and its truth follows the law of that r."""
    load = generate("--r-range", 0, 0.01, "--foregrounds", "none", "--num-test", 300, rows=2000)
    for split, name, n in (("train", "train", 2000), ("test", "gt", 300)):
        r = tables.load_r(str(tmp_path / "data" / f"r_{name}_r0-0.01.npy"))
        assert r.values.shape == (n,) and r.record.prior.r_range == (0.0, 0.01)
        assert r.record.split == split and r.record.quantity == "r" and r.record.unit == "1"
        assert stats.kstest(r.values / 0.01, "uniform").pvalue > 1e-5
        truth, noisy = (load(f"dl_{k}_r0-0.01") for k in (name, f"{name}_noisy".replace("gt_", "")))
        assert len(truth.values) == len(noisy.values) == n and truth.record.prior.r is None
        nu, signal = 2 * truth.ell + 1, truth.record.prior.signal_template(r.values)
        for spectra_, power in (
            (truth, signal),
            (noisy, signal + noisy.record.contaminants.dl_contaminant),
        ):
            for column in stats.chi2.cdf(nu * spectra_.values / power, nu).T:
                assert stats.kstest(column, "uniform").pvalue > 1e-6 / (4 * len(nu))


def test_null_test(generate):
    load = generate("--r", "0")
    for truth, observed in (("dl_train_r0", "dl_train_noisy_r0"), ("dl_gt_r0", "dl_noisy_r0")):
        assert np.all(load(truth).values == 0) and np.all(load(observed).values > 0)


def test_sidecar_describes_the_rows(generate):
    """Rows obey the law that their own sidecar gives, and the sidecar's parts add up."""
    load = generate("--a-lens", 0.5, "--noise-uk-arcmin", 3, "--foreground-scale", 0.01)
    quantities = ("primordial BB", "observed BB") * 2
    splits = ("train", "train", "test", "test")
    for name, quantity, split in zip(NAMES, quantities, splits, strict=True):
        data = load(name.format("0.001"))
        record, parts = data.record, data.record.contaminants
        assert (record.quantity, record.split, record.unit) == (quantity, split, "uK^2")
        assert record.sky.cosmology["As"] == 2.1e-9 and record.seed == 0
        assert record.sky.a_lens == 0.5
        assert record.sky.instrument == {
            "fwhm_arcmin": 24.8,
            "freq_ghz": 45.0,
            "noise_uk_arcmin": 3.0,
        }
        assert record.extra["gaussian_foregrounds"]["dust"]["law_parameters"]["beta"] == 1.54
        assert "--a-lens 0.5" in record.extra["command"] and "camb" in record.extra["versions"]
        total = parts.dl_lensing + parts.dl_noise + parts.dl_gaussian_foreground
        np.testing.assert_allclose(total, parts.dl_contaminant, rtol=1e-12)
        assert not parts.dl_fixed_foreground.any()
        power = record.prior.dl_signal
        if quantity == "observed BB":
            power = power + parts.dl_contaminant
        nu = 2 * data.ell + 1
        for column in stats.chi2.cdf(nu * data.values / power, nu).T:
            assert stats.kstest(column, "uniform").pvalue > 1e-6 / (4 * len(nu))


SIDECAR = {
    *(
        "quantity",
        "unit",
        "split",
        "nside",
        "seed",
        "run",
        "r",
        "dl_signal",
        "instrument",
        "a_lens",
    ),
    *("foregrounds", "foreground_scale", "dl_lensing", "dl_noise", "dl_gaussian_foreground"),
    *("dl_fixed_foreground", "dl_contaminant", "cosmology", "gaussian_foregrounds", "command"),
    *("versions", "git_commit", "num_samples", "sha256", "ell", "sidecar_sha256"),
}


def test_keys_of_a_sidecar(generate, tmp_path):
    """They are an interface: readers outside of this project know them by name."""
    generate()
    content = json.loads((tmp_path / "data" / "dl_gt_r0.001.json").read_text())
    assert content.keys() == SIDECAR
    dust = {"amplitude": 28.0, "alpha": -0.16, "freq_ref_ghz": 353.0, "law": "modified blackbody"}
    dust["law_parameters"] = {"beta": 1.54, "temperature": 20.0}
    assert content["gaussian_foregrounds"]["dust"] == dust


def test_powers_of_the_parts(generate):
    """Each flag moves its own part: the beam acts on the sky alone, the scale is an amplitude."""
    base = generate("--fwhm-arcmin", 0, out="base")("dl_gt_r0.001")
    changed = generate(
        *("--fwhm-arcmin", 120, "--a-lens", 0.3, "--foreground-scale", 0.1),
        *("--noise-uk-arcmin", 23.8),
        out="changed",
    )("dl_gt_r0.001")
    beam = instruments.beam_power(120, base.ell)
    factors = {
        "dl_signal": beam,
        "dl_lensing": 0.3 * beam,
        "dl_noise": np.full(len(beam), 4.0),
        "dl_gaussian_foreground": 0.01 * beam,
    }
    for name, factor in factors.items():
        before, after = (
            getattr(data.record.prior if name == "dl_signal" else data.record.contaminants, name)
            for data in (base, changed)
        )
        np.testing.assert_allclose(after, before * factor, rtol=1e-12)


def test_no_foregrounds(generate):
    data = generate("--foregrounds", "none")("dl_noisy_r0.001")
    assert not data.record.contaminants.dl_gaussian_foreground.any()
    assert not data.record.contaminants.dl_fixed_foreground.any()
    assert "gaussian_foregrounds" not in data.record.extra


@pytest.mark.skipif(not TEMPLATES.is_dir(), reason="no PySM3 templates in ../shared/pysm-data")
def test_presets_are_one_fixed_sky(generate, monkeypatch):
    monkeypatch.setenv("PYSM_LOCAL_DATA", str(TEMPLATES))
    data = generate("--foregrounds", "d1", "s1", "--foreground-scale", 0.5)("dl_noisy_r0.001")
    modes = presets.preset_modes(["d1", "s1"], [45.0], 15)
    power = realisations.realised_bb(modes[0], data.ell)
    expected = 0.25 * power * instruments.beam_power(24.8, data.ell)
    parts = data.record.contaminants
    np.testing.assert_allclose(parts.dl_fixed_foreground, expected, rtol=1e-9)
    assert not parts.dl_gaussian_foreground.any()
    # a foreground thousands of times the rest: every row has nearly its spectrum
    np.testing.assert_allclose(data.values, np.broadcast_to(expected, data.values.shape), rtol=0.2)


def test_same_seed_same_rows(generate):
    """A row depends on seed, split and r, and on nothing that stands beside it."""
    alone = generate("--foregrounds", "none", out="alone")
    beside = generate("--foregrounds", "none", "--r", "0.3", "0.001", "0", out="beside")
    other = generate("--foregrounds", "none", "--seed", "1", out="other")
    longer = generate("--foregrounds", "none", out="longer", rows=600)
    for name in (name.format("0.001") for name in NAMES):
        np.testing.assert_array_equal(alone(name).values, beside(name).values)
        np.testing.assert_array_equal(alone(name).values, longer(name).values[:500])
        assert not np.any(alone(name).values == other(name).values)


ECHO = "--instrument echo --clean hilc --bands 45 145 340"


def test_replaces_its_own_files_and_says_so(generate, capsys):
    generate("--foregrounds", "none")
    assert "replacing" not in capsys.readouterr().err
    load = generate("--foregrounds", "none", "--seed", "1")
    out = capsys.readouterr()
    assert "replacing" in out.err and out.out.startswith("wrote 500 training and 500 test pairs")
    assert load("dl_gt_r0.001").record.seed == 1


BAD_INPUT = {
    "two kinds of r": (["--r", "0.1", "--r-range", "0", "1"], "--r-range"),
    "reversed range": (["--r-range", "0.1", "0"], "--r-range"),
    "range beyond the template": (["--r-range", "0", "5"], "holds up to r = 1, not to 5"),
    "narrow range": (["--r-range", "0.01", "0.010000000001"], "too close to tell r apart"),
    "no folder": (["--out-dir", ""], "--out-dir: the name is empty"),
    "beyond CAMB": (["--nside", "2048"], "use --nside 1024 or less"),
    "negative range": (["--r-range", "-0.1", "0"], "--r-range"),
    "no test rows": (["--num-test", "0"], "--num-test"),
    "negative r": (["--r", "-0.1"], "--r"),
    "r not a number": (["--r", "nan"], "--r"),
    "r twice": (["--r", "0.1", "1e-1"], "twice"),
    "zero twice": (["--r", "0", "-0"], "twice"),
    "nside": (["--nside", "12"], "power of two"),
    "no rows": (["--num-samples", "0"], "--num-samples"),
    "noise": (["--noise-uk-arcmin", "-1"], "--noise-uk-arcmin"),
    "frequency": (["--freq-ghz", "45e9"], "--freq-ghz"),
    "none and d1": (["--foregrounds", "none", "d1"], "no other name"),
    "d1 and gaussian": (["--foregrounds", "d1", "gaussian"], "no other name"),
    "preset twice": (["--foregrounds", "d1", "d1"], "twice"),
    "unknown preset": (["--foregrounds", "d99"], "d99"),
    "the CMB": (["--foregrounds", "c1"], "c1"),
    "abbreviation": (["--noise", "3"], "--noise"),
    "ensemble and d1": (["--foregrounds", "gaussian-ensemble", "d1"], "no other name"),
    "noise of an instrument": (
        ["--instrument", "echo", "--freq-ghz", "45", "--noise-uk-arcmin", "3"],
        "--noise-uk-arcmin: an --instrument has its own",
    ),
    "beam of an instrument": (
        ["--instrument", "echo", "--freq-ghz", "45", "--fwhm-arcmin", "3"],
        "--fwhm-arcmin: an --instrument has its own",
    ),
    "no band": (["--instrument", "echo"], "name one band with --freq-ghz"),
    "no such band": (["--instrument", "echo", "--freq-ghz", "46"], "--freq-ghz 46"),
    "no such instrument": (["--instrument", "planck", "--clean", "hilc"], "--instrument planck"),
    "no such file": (["--instrument", "no.json", "--clean", "hilc"], "no.json: cannot be read"),
    "nothing to clean": (["--clean", "hilc"], "--clean hilc: sums the bands"),
    "one of all": ([*ECHO.split(), "--freq-ghz", "45"], "--freq-ghz: --clean hilc sums bands"),
    "cleaned twice": ([*ECHO.split(), "--foreground-scale", "0.1"], "--foreground-scale"),
    "bands of none": (["--bands", "45"], "--bands: is for --clean hilc"),
    "bins of none": (["--ilc-bins", "2", "32"], "--ilc-bins: is for --clean hilc"),
    "bins": ([*ECHO.split(), "--ilc-bins", "2", "30"], "--ilc-bins: must rise from 2 to"),
    "bins fall": ([*ECHO.split(), "--ilc-bins", "2", "9", "5", "32"], "--ilc-bins: must rise"),
    "other bands": ([*ECHO.split(), "--bands", "46"], "--bands 46: the instrument has no such"),
}


@pytest.mark.parametrize(("arguments", "named"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_one_line(arguments, named, tmp_path, capsys):
    folder = tmp_path / "data"
    with pytest.raises(SystemExit) as stop:
        data_generation.main(["--out-dir", str(folder), *arguments])
    errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert stop.value.code == 2 and len(errors) == 1 and named in errors[0]
    assert not folder.exists()


TOO_FEW = {
    "two bands": ("--bands 45 145", "2 bands cannot tell 2 foregrounds from the CMB; give at"),
    "modes": ("--ilc-bins 2 3 16 --bands 35 45 95 145 220 340", "from ell = 2 has 5 modes"),
}


@pytest.mark.parametrize(("words", "told"), TOO_FEW.values(), ids=TOO_FEW.keys())
def test_too_few_bands_or_modes_is_one_line(words, told, tmp_path, capsys):
    folder = tmp_path / "data"
    with pytest.raises(SystemExit) as stop:
        data_generation.main(
            [*f"--nside 8 {ECHO} {words}".split(), "--out-dir", str(folder)],
        )
    assert stop.value.code == 2 and told in capsys.readouterr().err
    assert not folder.exists()


BEYOND_NUMBERS = {
    "r": ("--r 1e5", "--r 100000: CAMB has no finite BB"),
    "r, all but infinite": ("--r 1e300", "--r 1e+300: CAMB has no finite BB"),
    "r, large": ("--r 24", "--fiducial: D_ell is"),
    "r, small": ("--r 1e-300", "too small for its logarithm"),
    "r, smallest": ("--r 5e-324", "too small for its logarithm"),
    "a range, small": ("--r-range 0 1e-300", "too small for its logarithm"),
    "beam": ("--fwhm-arcmin 9000", "too small for its logarithm"),
    "lensing": ("--a-lens 1e300", "--a-lens, --cosmology: D_ell is"),
    "noise": ("--noise-uk-arcmin 1e200", "--noise-file or --instrument: D_ell is"),
    "foreground": ("--foregrounds gaussian --foreground-scale 1e200", "--foreground-scale: D_ell"),
}


@pytest.mark.parametrize(("words", "told"), BEYOND_NUMBERS.values(), ids=BEYOND_NUMBERS.keys())
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_powers_beyond_numbers_are_one_line(words, told, tmp_path, capsys):
    """Nothing that is NaN, infinite, or zero where a logarithm follows, is ever drawn."""
    folder = tmp_path / "data"
    common = f"--nside 8 --num-samples 50 --foregrounds none --out-dir {folder}"
    with pytest.raises(SystemExit) as stop:
        data_generation.main(f"{common} {words}".split())
    assert stop.value.code == 2 and told in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    "words", ["--r 1e-90", "--r 3", "--r-range 0 1", "--r-range 0 1e-80", "--a-lens 1e90"]
)
def test_powers_within_numbers_are_drawn(words, tmp_path):
    """The bounds themselves leave room: all rows are finite and above 0."""
    folder = tmp_path / "data"
    common = f"--nside 8 --num-samples 200 --foregrounds none --out-dir {folder}"
    data_generation.main(f"{common} {words}".split())
    for path in folder.glob("dl_*.npy"):
        values = np.load(path)
        assert np.isfinite(np.log(values)).all() and (values > 0).all()


def test_output_that_cannot_be_written(tmp_path, capsys):
    taken = tmp_path / "data"
    taken.write_text("a file")
    with pytest.raises(SystemExit) as stop:
        data_generation.main(["--out-dir", str(taken)])
    assert stop.value.code == 2 and capsys.readouterr().err.count("error:") == 1
    assert taken.read_text() == "a file"


def test_an_interrupted_run_leaves_no_part(generate, tmp_path, monkeypatch):
    """The disk fills after a few chunks: the old files stay whole, no new part stays."""
    before = generate("--foregrounds", "none")("dl_gt_r0.001").values.copy()
    monkeypatch.setattr(simulator, "CHUNK_VALUES", 14 * 100)
    write = shared_arrays.SharedArrays.write

    def failing_write(self, name, first, rows):
        write(self, name, first, rows)
        if first >= 300:
            raise OSError("No space left on device")

    monkeypatch.setattr(shared_arrays.SharedArrays, "write", failing_write)
    with pytest.raises(SystemExit):
        generate("--foregrounds", "none", "--seed", "1")
    monkeypatch.undo()
    folder = tmp_path / "data"
    assert {path.suffix for path in folder.iterdir()} == {".npy", ".json"}
    data = tables.load_spectra(str(folder / "dl_gt_r0.001.npy"))
    np.testing.assert_array_equal(data.values, before)
    assert json.loads((folder / "dl_gt_r0.001.json").read_text())["seed"] == 0


# --- instruments -----------------------------------------------------------------------------


def test_one_band_of_an_instrument_is_that_band(generate):
    alone = generate("--fwhm-arcmin", 7.7, "--freq-ghz", 145, "--noise-uk-arcmin", 2.4, out="a")
    named = generate("--instrument", "echo", "--freq-ghz", 145, out="b")
    for name in (name.format("0.001") for name in NAMES):
        np.testing.assert_array_equal(alone(name).values, named(name).values)
    record = named("dl_noisy_r0.001").record
    assert record.sky.instrument == alone("dl_noisy_r0.001").record.sky.instrument
    assert record.sky.cleaning is None and record.contaminants.law_known


@pytest.mark.parametrize("weights", ["sky", "model"])
def test_a_cleaned_spectrum_is_described(weights, generate, tmp_path, capsys):
    flags = [*ECHO.split(), "--ilc-weights", weights]
    load = generate(*flags, "--r-range", 0, 0.01, rows=400)
    assert (tmp_path / "data" / "budget_r0-0.01.png").stat().st_size > 10_000
    data, truth = load("dl_train_noisy_r0-0.01"), load("dl_train_r0-0.01")
    record, ilc, parts = data.record, data.record.ilc, data.record.contaminants
    bins = cleaning.default_bins(8)
    assert record.sky.cleaning == {
        "method": "hilc",
        "fwhm_arcmin": 24.8,
        "bins": bins,
        "weights_from": weights,
    }
    assert record.sky.instrument["name"] == "echo"
    assert [band["freq_ghz"] for band in record.sky.instrument["bands"]] == [45, 145, 340]
    np.testing.assert_allclose(ilc.ilc_weights.sum(1), 1)
    assert ilc.ilc_weights.shape == (len(bins) - 1, 3)
    assert parts.law_known == (weights == "model")
    assert ilc.dl_ilc_bias.any() == (weights == "sky")
    # the budget adds up to what is observed
    r = tables.load_r(str(tmp_path / "data" / "r_train_r0-0.01.npy")).values
    total = truth.record.prior.signal_template(r).mean(0) + ilc.dl_ilc_bias
    total += parts.mean_gaussian + parts.dl_fixed_foreground
    error = data.values.std(0) / 20
    assert np.abs((data.values.mean(0) - total) / error).max() < 5
    told = capsys.readouterr()
    assert "D_ell in uK^2, r = 0-0.01" in told.out and "ILC bias, expected" in told.out
    # 3 bands, and 5 modes at ell = 2
    assert ("ell = 2: the weights of 3 bands take 40 % of the power" in told.err) == (
        weights == "sky"
    )


def test_an_ensemble_has_no_law_of_its_own(generate):
    """Every sky has another residual: wider than chi-squared, and no contaminant is claimed."""
    data = generate("--foregrounds", "gaussian-ensemble", rows=2000)("dl_train_noisy_r0.001")
    parts = data.record.contaminants
    assert not parts.law_known
    assert data.record.extra["foreground_ensemble"]["dust"]["beta"] == [1.45, 1.70]
    mean = parts.dl_lensing + parts.dl_noise + parts.dl_gaussian_foreground
    np.testing.assert_allclose(data.values.mean(0), mean, rtol=0.2)
    assert (data.values.var(0) > 2 * mean**2 * 2 / (2 * data.ell + 1)).all()


BANDS = ["--instrument", "litebird", "--freq-ghz", "140"]


def test_files_of_one_r_are_one_run(generate, tmp_path, capsys):
    """The figure of an instrument goes with it; files of another r stay."""
    folder = tmp_path / "data"
    generate("--r", 0.001, 0.01, *BANDS, rows=20)
    ids = {path.name: json.loads(path.read_text())["run"] for path in folder.glob("*_r*.json")}
    assert len(ids) == 8 and len(set(ids.values())) == 2  # of each r one
    capsys.readouterr()
    generate("--r", 0.001, rows=20)
    assert f"earlier run left: {folder}/budget_r0.001.png" in capsys.readouterr().err
    assert not (folder / "budget_r0.001.png").exists() and (folder / "budget_r0.01.png").exists()
    again = {path.name: json.loads(path.read_text())["run"] for path in folder.glob("*_r*.json")}
    changed = {name for name in ids if again[name] != ids[name]}
    assert changed == {name for name in ids if name.endswith("_r0.001.json")}
    generate("--r", 0.001, rows=20, out="elsewhere")  # where and when do not matter
    other = json.loads((tmp_path / "elsewhere" / "dl_gt_r0.001.json").read_text())
    assert other["run"] == again["dl_gt_r0.001.json"]


def test_an_interrupted_run_takes_nothing_of_an_earlier_one(generate, tmp_path, monkeypatch):
    """Stopped in the test rows, when the training rows are drawn."""
    generate("--r", 0.001, *BANDS, rows=20)
    before = {path: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    chunks = simulation.RowSet.chunks

    def stopped(rows, block):
        if rows.num_rows == 7:
            raise KeyboardInterrupt
        return chunks(rows, block)

    monkeypatch.setattr(simulation.RowSet, "chunks", stopped)
    with pytest.raises(SystemExit):
        generate("--r", 0.001, "--seed", 1, "--num-test", 7, rows=20)
    assert {path: path.read_bytes() for path in (tmp_path / "data").iterdir()} == before
