"""Part of the sky through main([...]): the laws of its files, and how it refuses bad input."""

import json
import pathlib

import healpy
import numpy as np
import pytest
from scipy import stats

import data_generation
from checks import exact_map
from runtime import tables
from sky import cosmology, harmonics, masked, presets
from sky.analysis import Analysis

NSIDE, ROWS, TESTS = 8, 2000, 600
N_PIX, N_X = 12 * NSIDE**2, 2 * NSIDE - 2
ELL = masked.multipoles(NSIDE)
NU = 2 * ELL + 1
LATITUDE = healpy.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)[1]
WINDOW = masked.cosine_window(NSIDE)
CUT = ["--mask", "galactic:20", "--noise-uk-arcmin", "1", "--foregrounds", "none"]


def main(folder, *words, rows=ROWS, tests=TESTS):
    """The script's files in a folder."""
    sizes = ["--nside", NSIDE, "--num-samples", rows, "--num-test", tests, "--out-dir", folder]
    data_generation.main([str(word) for word in [*sizes, *words]])


def load(folder, name):
    return tables.load_spectra(str(folder / f"{name}.npy"))


pytestmark = pytest.mark.usefixtures("cached_camb")


@pytest.fixture(scope="module")
def cut(cached_camb, tmp_path_factory):
    """Beyond 20 degrees of latitude, r from 0 to 0.01."""
    folder = tmp_path_factory.mktemp("cut")
    main(folder, *CUT, "--r-range", 0, 0.01)
    return folder


def write_map(name, values, **kwargs):
    healpy.write_map(name, values, dtype=np.float64, overwrite=True, **kwargs)
    return str(name)


def analysis_of(table):
    return Analysis.from_json(table.record.sky.analysis)


def sigmas_off(values, expected):
    """Of the mean over rows from what is expected."""
    return np.abs((values.mean(0) - expected) / values.std(0)) * len(values) ** 0.5


def check_bandpowers(table, dl_signal):
    """Their mean is that of signal and contaminants; dl_signal (n_ell,) or (n, n_ell)."""
    record = table.record
    expected = (dl_signal + record.map_powers.dl_contaminant) @ record.decoupled.windows.T
    assert sigmas_off(record.decoupled(table.values) - expected, 0).max() < 4.5


# --- laws ------------------------------------------------------------------------------------


def test_a_mask_of_ones_gives_the_laws_of_the_full_sky(tmp_path):
    mask = write_map(tmp_path / "ones.fits", np.ones(N_PIX), coord="G")
    main(tmp_path / "data", *CUT, "--mask", mask, "--r", 0.001)
    for x_name, y_name in (("dl_train", "dl_train_noisy"), ("dl_gt", "dl_noisy")):
        x, y = (load(tmp_path / "data", f"{name}_r0.001") for name in (x_name, y_name))
        assert x.values.shape[1] == N_X and y.values.shape[1] == len(ELL)
        signal = y.record.prior.dl_signal
        noise = cosmology.cl_to_dl(np.full(len(ELL), np.radians(1 / 60) ** 2), ELL)
        total = signal + y.record.map_powers.dl_contaminant + noise
        np.testing.assert_allclose(y.record.contaminants.dl_noise[:N_X], noise[:N_X], rtol=5e-3)
        for k in range(N_X):
            for values, power in ((x.values, signal), (y.values, total)):
                law = stats.chi2(NU[k], scale=power[k] / NU[k])
                assert stats.kstest(values[:, k], law.cdf).pvalue > 1e-6
        share = (signal / total)[:N_X]
        pairs = zip(x.values.T, y.values.T, strict=False)
        found = [np.corrcoef(own, other)[0, 1] for own, other in pairs]
        assert np.abs(found - share).max() < 5 / len(x.values) ** 0.5
        assert max(found) > 10 / len(x.values) ** 0.5


def test_a_range_of_r(cut):
    assert (cut / "masked_r0-0.01.png").stat().st_size > 20_000
    for split, x_name, y_name in (("train", "dl_train", "dl_train_noisy"), ("gt", "gt", "noisy")):
        x, y = (load(cut, f"{'dl_' * (len(n) < 6)}{n}_r0-0.01") for n in (x_name, y_name))
        r = tables.load_r(str(cut / f"r_{split}_r0-0.01.npy")).values
        assert stats.kstest(r / 0.01, "uniform").pvalue > 1e-5 and (y.values > 0).all()
        signal = y.record.prior.signal_template(r)
        for k in range(N_X):
            values = stats.chi2.cdf(NU[k] * x.values[:, k] / signal[:, k], NU[k])
            assert stats.kstest(values, "uniform").pvalue > 1e-6
        check_bandpowers(y, signal)
        assert np.corrcoef(r, y.values[:, 0])[0, 1] > 0.2


def test_modes_are_those_of_the_observation(cut):
    """y follows from u by what the record says alone."""
    y, u = load(cut, "dl_noisy_r0-0.01"), np.load(cut / "modes_noisy_r0-0.01.npy")
    assert u.shape == (TESTS, 9 * NSIDE**2 - 4)
    analysis = analysis_of(y)
    sky = analysis.masked_sky()
    v = exact_map.recover(u, sky.response)
    np.testing.assert_allclose(analysis.estimator(sky).spectra(v), y.values, rtol=1e-6)


def test_one_r_and_no_tensors_beside_foregrounds(tmp_path):
    main(tmp_path, *CUT[:4], "--r", 0, 0.001, "--foreground-scale", 0.01)
    for r in ("0", "0.001"):
        y = load(tmp_path, f"dl_train_noisy_r{r}")
        check_bandpowers(y, y.record.prior.dl_signal)
        parts, powers = y.record.contaminants, y.record.map_powers
        expected = parts.dl_lensing + parts.dl_gaussian_foreground
        np.testing.assert_array_equal(powers.dl_contaminant, expected)
        assert powers.law_known and powers.fixed_modes is None and not parts.law_known
    assert not load(tmp_path, "dl_gt_r0").values.any()
    assert (tmp_path / "masked_r0.png").exists() and (tmp_path / "masked_r0.001.png").exists()


def test_an_ensemble_has_no_law(tmp_path):
    main(tmp_path, *CUT[:4], "--foregrounds", "gaussian-ensemble", "--foreground-scale", 0.1)
    y = load(tmp_path, "dl_train_noisy_r0.001")
    assert not y.record.map_powers.law_known
    d, record = y.record.decoupled(y.values), y.record
    expected = record.decoupled.windows @ (
        record.prior.dl_signal
        + record.contaminants.dl_lensing
        + record.contaminants.dl_gaussian_foreground
    )
    np.testing.assert_allclose(d.mean(0), expected, rtol=0.2)
    assert (d[:, 1:].std(0) > 1.5 * record.decoupled.errors[1:]).all()


def test_a_preset_is_in_all_skies(tmp_path, monkeypatch):
    modes = np.random.default_rng(3).standard_normal((1, len(harmonics.mode_ell(ELL[-1])))) / 50
    monkeypatch.setattr(presets, "preset_modes", lambda names, freqs, ell_max: modes)
    flags = ["--foregrounds", "d1", "s1", "--foreground-scale", "0.5", "--fwhm-arcmin", "0"]
    main(tmp_path, *CUT[:4], *flags)
    y = load(tmp_path, "dl_train_noisy_r0.001")
    record, fixed = y.record, y.record.map_powers.fixed_modes
    np.testing.assert_allclose(fixed, 0.5 * modes[0] * harmonics.per_mode(WINDOW), rtol=1e-12)
    analysis = analysis_of(y)
    sky = analysis.masked_sky()
    estimator = analysis.estimator(sky)
    drawn = record.prior.dl_signal + record.map_powers.dl_contaminant
    of_fixed = harmonics.sum_modes((estimator.weights @ (sky.response @ fixed))[:, None] ** 2, ELL)[
        :, 0
    ]
    squares = estimator.mixing @ cosmology.dl_to_cl(drawn, ELL) + estimator.noise
    means = [
        cosmology.cl_to_dl(estimator.scale * each, ELL) for each in (squares, squares + of_fixed)
    ]
    assert sigmas_off(y.values, means[1]).max() < 4.5 < 20 < sigmas_off(y.values, means[0]).max()


# --- what is seen, and how deeply ------------------------------------------------------------


def test_hits_are_shares_of_the_depth(tmp_path):
    hits = np.where(np.abs(LATITUDE) > 15, 50 + LATITUDE / 2, 0)
    path = write_map(tmp_path / "hits.fits", hits, coord="G")
    main(tmp_path / "data", *CUT, "--hits", path, "--noise-uk-arcmin", 2, rows=20, tests=2)
    survey = analysis_of(load(tmp_path / "data", "dl_noisy_r0.001")).masking.survey
    seen = np.abs(LATITUDE) >= 20
    assert survey.pixels.tolist() == np.flatnonzero(seen).tolist()
    assert survey.depth_uk_arcmin == pytest.approx(2)
    expected = 2 * np.sqrt(hits[seen].max() / hits[seen])
    assert survey.depths == pytest.approx(expected)


def test_variances_are_taken_as_they_are(tmp_path):
    variances = np.array([[4.0], [1.5], [2.0]]) * 1e-4 * np.linspace(1, 2, N_PIX)
    path = tmp_path / "variance.fits"
    write_map(path, variances, column_names=["QQ", "QU", "UU"], coord="G")
    flags = ["--mask", "galactic:20", "--noise-variance", path, "--foregrounds", "none"]
    main(tmp_path / "data", *flags)
    y = load(tmp_path / "data", "dl_train_noisy_r0.001")
    survey = analysis_of(y).masking.survey
    np.testing.assert_allclose(survey.noise, variances.T[np.abs(LATITUDE) >= 20], rtol=1e-12)
    check_bandpowers(y, y.record.prior.dl_signal)
    assert y.record.sky.instrument["noise_uk_arcmin"] == pytest.approx(survey.depth_uk_arcmin)


def test_known_e_modes_leave_more_of_a_map(cut, tmp_path):
    main(tmp_path, *CUT, "--e-modes", "known", "--r-range", 0, 0.01, "--r-fid", 0.005)
    y, free = (load(folder, "dl_noisy_r0-0.01") for folder in (tmp_path, cut))
    entry = y.record.sky.analysis
    assert (entry["e_modes"], entry["r_fiducial"]) == ("known", 0.005) and "dl_ee" in entry
    assert free.record.sky.analysis["e_modes"] == "free"
    r = tables.load_r(str(tmp_path / "r_gt_r0-0.01.npy")).values
    check_bandpowers(y, y.record.prior.signal_template(r))
    analysis = analysis_of(y)
    assert analysis.dl_ee == pytest.approx(
        cosmology.lensed_ee(ELL) * (y.record.contaminants.dl_lensing / cosmology.lensing_bb(ELL))
    )
    information = [each.masked_sky().response for each in (analysis, analysis_of(free))]
    assert (information[0] ** 2).sum() > (information[1] ** 2).sum()


def write_fiducial(path, end):
    ell = np.arange(2, end + 1)
    np.savetxt(path, np.stack([ell, 0.05 * np.exp(-((ell / 6) ** 2)) + 0.01], 1))
    return path


def test_a_fiducial_and_a_cosmology_of_ones_own(tmp_path):
    (tmp_path / "mine.json").write_text('{"tau": 0.09}')
    own = write_fiducial(tmp_path / "bb.txt", 3 * NSIDE - 1)
    flags = ["--fiducial", own, "--cosmology", tmp_path / "mine.json", "--r-range", 0, 0.01]
    main(tmp_path / "data", *CUT, *flags, rows=500, tests=50)
    y = load(tmp_path / "data", "dl_train_noisy_r0-0.01")
    r = tables.load_r(str(tmp_path / "data" / "r_train_r0-0.01.npy")).values
    check_bandpowers(y, y.record.prior.signal_template(r))
    per_r = y.record.prior.signal_template(np.array([0.01]))[0] / 0.01
    passed = y.record.contaminants.dl_lensing
    expected = np.loadtxt(own)[:, 1]
    assert (per_r / expected)[0] == pytest.approx(1, rel=1e-2)  # the beam is small there
    assert y.record.sky.cosmology["tau"] == 0.09 and (passed > 0).all()


def test_a_fiducial_that_ends_early_is_one_line(tmp_path, capsys):
    own = write_fiducial(tmp_path / "bb.txt", 2 * NSIDE - 1)
    assert_refused([*CUT, "--fiducial", own], "has no ell = 16", tmp_path / "data", capsys)


# --- what cannot be ---------------------------------------------------------------------------


def assert_refused(words, named, folder, capsys):
    with pytest.raises(SystemExit) as stop:
        main(folder, *words)
    errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert stop.value.code == 2 and len(errors) == 1 and named in errors[0], errors
    assert not folder.exists()


BAD_INPUT = {
    "nside": ([*CUT, "--nside", "64"], "--nside 64: with --mask it is 32 at most"),
    "cleaning": (
        ["--mask", "galactic:20", "--instrument", "echo", "--clean", "hilc"],
        "--mask: goes with one band, not with --clean hilc",
    ),
    "no noise": ([*CUT, "--noise-uk-arcmin", "0"], "needs noise above 0"),
    "no name": ([*CUT, "--mask", ""], "--mask: the name is empty"),
    "hits": (["--hits", "hits.fits"], "--hits: is for --mask"),
    "variance": (["--noise-variance", "n.fits"], "--noise-variance: is for --mask"),
    "E modes": (["--e-modes", "known"], "--e-modes: is for --mask"),
    "fiducial r": (["--r-fid", "0.1"], "--r-fid: is for --mask"),
    "noise spectrum": (
        ["--mask", "galactic:20", "--noise-file", "nl.txt"],
        "--noise-file: is a spectrum of the full sky",
    ),
    "noise twice": ([*CUT, "--noise-variance", "n.fits"], "--noise-variance gives the noise"),
    "no cut": ([*CUT, "--mask", "galactic:90"], "--mask galactic:90: needed is a latitude"),
    "no file": ([*CUT, "--mask", "nothing.fits"], "nothing.fits"),
    "no B modes": ([*CUT, "--mask", "galactic:70"], "take --e-modes known, or more of the sky"),
    "E modes of foregrounds": (
        [*CUT[:4], "--e-modes", "known"],
        "--e-modes known: those of foregrounds are not known",
    ),
    "no fiducial sky": ([*CUT, "--a-lens", "0", "--r-fid", "0"], "--r-fid: without lensing"),
    "negative fiducial": ([*CUT, "--r-fid", "-1"], "--r-fid"),
    "lensing beyond numbers": ([*CUT, "--a-lens", "1e300"], "beyond all physics"),
}


@pytest.mark.parametrize(("words", "named"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_one_line(words, named, tmp_path, capsys):
    assert_refused(words, named, tmp_path / "data", capsys)


def test_hits_outside_of_the_mask_are_one_line(tmp_path, capsys):
    path = write_map(tmp_path / "hits.fits", (np.abs(LATITUDE) < 10).astype(float), coord="G")
    told = "there are none where --mask sees the sky"
    assert_refused([*CUT, "--hits", path], told, tmp_path / "data", capsys)


# --- files of one run -------------------------------------------------------------------------


def test_a_run_without_a_mask_removes_what_one_left(tmp_path, capsys):
    main(tmp_path, *CUT, rows=20, tests=5)
    own = {"modes_noisy_r0.001.npy", "modes_noisy_r0.001.json", "masked_r0.001.png"}
    assert own <= {path.name for path in tmp_path.iterdir()}
    main(tmp_path, "--foregrounds", "none", rows=20, tests=5)
    assert not own & {path.name for path in tmp_path.iterdir()}
    told = capsys.readouterr().err
    assert "earlier run left" in told and "modes_noisy_r0.001.npy" in told
    assert load(tmp_path, "dl_noisy_r0.001").record.decoupled is None


def test_only_observations_hold_bandpowers(cut):
    holds = {
        path.stem: "decoupled" in json.loads(path.read_text())
        for path in pathlib.Path(cut).glob("*.json")
    }
    assert {name for name, held in holds.items() if held} == {
        "dl_noisy_r0-0.01",
        "dl_train_noisy_r0-0.01",
    }
    content = json.loads((cut / "dl_noisy_r0-0.01.json").read_text())["decoupled"]
    y = np.load(cut / "dl_noisy_r0-0.01.npy")  # with nothing but numpy
    d = y @ np.array(content["weights"]).T - np.array(content["offset"])
    assert d.shape == (TESTS, len(content["edges"]) - 1)
