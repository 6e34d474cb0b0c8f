"""sample.py --maps: a map of one's own, from FITS to r; refused where no model knows it."""

import functools
import json
import pathlib
import shutil

import healpy
import numpy as np
import pytest
from scipy import stats

import data_generation
import sample
import train
from checks.exact_map import MapLaw, MapModel, MapPosterior
from runtime import tables
from sky import cosmology, harmonics, instruments, maps, masked, masks

NSIDE, DEPTH, R = 4, 2.0, 0.3
ELL = masked.multipoles(NSIDE)
POWER = instruments.beam_power(24.8, ELL) * masked.cosine_window(NSIDE) ** 2
MODES = harmonics.mode_ell(int(ELL[-1]))
WMAP = pathlib.Path(__file__).parents[2] / "shared" / "real-data" / "wmap7"


@functools.cache
def expected_bb(r, nside):
    """D_ell of lensing and tensors, uK^2."""
    ell = np.arange(2, 3 * nside)
    return cosmology.lensing_bb(ell) + cosmology.tensor_bb(r, ell)


def sky_maps(seed, r=R, nside=NSIDE, noise=1.0, e_modes=30.0, b_modes=1.0, flip=1):
    """Q and U of E, tensor, lensing modes and white noise, uK."""
    rng = np.random.default_rng(seed)
    ell_max = 3 * nside - 1
    ell = np.arange(2, ell_max + 1)
    passed = instruments.beam_power(24.8, ell)
    if nside == NSIDE:
        passed = passed * masked.cosine_window(NSIDE) ** 2
    dl_bb = expected_bb(r, nside) * passed
    alms = []
    for dl in (e_modes * dl_bb, b_modes * dl_bb):
        root = np.sqrt(harmonics.per_mode(cosmology.dl_to_cl(dl, ell)))
        alms.append(harmonics.to_alm(root * rng.standard_normal(len(root)), ell_max))
    q, u = healpy.alm2map_spin(alms, nside, 2, ell_max)
    sigma = noise * np.radians(DEPTH / 60) / healpy.nside2resol(nside)
    q, u = (each + sigma * rng.standard_normal(each.shape) for each in (q, u))
    return q, flip * u


def write(path, pair, names=("Q_STOKES", "U_STOKES"), **options):
    options = {"coord": "G", "dtype": np.float32} | options
    healpy.write_map(str(path), list(pair), column_names=list(names), overwrite=True, **options)
    return str(path)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A checkpoint of r and spectrum on |b| > 20 degrees, and maps."""
    folder = tmp_path_factory.mktemp("own")
    size = ["--nside", str(NSIDE), "--num-samples", "600", "--num-test", "20"]
    sky = ["--mask", "galactic:20", "--foregrounds", "none", "--noise-uk-arcmin", str(DEPTH)]
    data_generation.main(["--r-range", "0", "1", *size, *sky, "--out-dir", str(folder)])
    label = "r0-1.npy"
    flags = ("--data-file", "--cond-file", "--param-file")
    names = ("dl_train", "dl_train_noisy", "r_train")
    pairs = [
        w for f, n in zip(flags, names, strict=True) for w in (f, str(folder / f"{n}_{label}"))
    ]
    small = ["--epochs", "1", "--hidden-dim", "16", "--num-layers", "1"]
    train.main([*pairs, *small, "--out", str(folder / "m.pth")])
    write(folder / "right.fits", sky_maps(1))
    return folder


def run(work, tmp_path, *words, name="right.fits", out="out", units=("--units", "uK")):
    """Arguments of sample.py, and the folder of its outputs."""
    folder = tmp_path / out
    maps = name if "/" in str(name) else work / name
    argv = ["--model-checkpoint", str(work / "m.pth"), "--maps", str(maps), *units]
    sample.main([*argv, "--method", "ode", "--num-draws", "500", "--out-dir", str(folder), *words])
    return folder


def refused(work, tmp_path, capsys, *words, **options):
    """The one line of an error with exit code 2; nothing is written."""
    with pytest.raises(SystemExit) as stop:
        run(work, tmp_path, *words, **options)
    err = capsys.readouterr().err
    (line,) = (text for text in err.splitlines() if "error:" in text)
    assert stop.value.code == 2 and "Traceback" not in err
    assert not (tmp_path / options.get("out", "out")).exists()
    return line


def test_from_a_map_to_r(work, tmp_path, capsys):
    out = run(work, tmp_path, "--chains", str(tmp_path / "chain"))
    told = capsys.readouterr()
    assert "right.fits: Q and U are its columns Q_STOKES and U_STOKES, NSIDE 4" in told.err
    before, after = (
        told.out.index("the map under the model: chi-square"),
        told.out.index("row 0: r"),
    )
    assert before < after and "exact, of the map: r" in told.out
    observed = tables.load_table(str(out / "observation.npy"), 2)
    assert observed.values.shape == (1, len(ELL)) and (observed.values > 0).all()
    assert observed.record.sky.analysis["mask"] == "galactic:20"
    assert observed.record.decoupled(observed.values).shape[0] == 1
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["map"]["in_model"] and metrics["map"]["map"]["p_value"] > 1e-3
    assert abs(metrics["exact_r"]["median"] - R) < 0.3
    for name in ("r_draws.npy", "posterior_draws.npy", "map.png", "examples.png"):
        assert (out / name).exists()
    assert "accepted_mismatch" not in json.loads((out / "r_draws.json").read_text())


def test_the_observation_can_be_answered_again(work, tmp_path, capsys):
    """As a file; but not in its own folder, from which it would go."""
    out = run(work, tmp_path)
    argv = ["--model-checkpoint", str(work / "m.pth"), "--method", "ode", "--num-draws", "500"]
    given = ["--data-file-noisy", str(out / "observation.npy")]
    before = np.load(out / "r_draws.npy")
    sample.main([*argv, *given, "--out-dir", str(tmp_path / "again")])
    np.testing.assert_array_equal(np.load(tmp_path / "again" / "r_draws.npy"), before)
    with pytest.raises(SystemExit) as stop:
        sample.main([*argv, *given, "--out-dir", str(out)])
    assert stop.value.code == 2 and "name another --out-dir" in capsys.readouterr().err
    assert (out / "observation.npy").exists() and (out / "map.png").exists()


def test_a_finer_map_and_its_header(work, tmp_path, capsys):
    """NSIDE 16, nested, IAU, mK in TUNIT, gzipped: the same as it is."""
    q, u = sky_maps(2, nside=16)
    nested = [healpy.reorder(m, r2n=True) / 1000 for m in (q, -u)]
    name = write(
        tmp_path / "fine.fits.gz", nested, nest=True, column_units=["mK_CMB"] * 2,
        extra_header=[("POLCCONV", "IAU")], dtype=np.float64,
    )  # fmt: skip
    plain = write(tmp_path / "plain.fits", (q, u), dtype=np.float64)
    one = run(work, tmp_path, name=name, out="one", units=())
    assert "NESTED, POLCCONV IAU" in capsys.readouterr().err
    other = run(work, tmp_path, name=plain, out="other")
    found = [np.load(folder / "observation.npy") for folder in (one, other)]
    np.testing.assert_allclose(*found, rtol=1e-9)


WRONG = {
    "flipped U": ({"flip": -1, "e_modes": 300.0}, "is not what the model knows"),
    "noise": ({"noise": 3.0}, "where noise is most of it"),
    "B beyond the prior": ({"b_modes": 60.0}, "farthest off at ell = "),
}


@pytest.mark.parametrize(("options", "told"), WRONG.values(), ids=WRONG)
def test_a_map_that_the_model_does_not_know(options, told, work, tmp_path, capsys):
    name = write(tmp_path / "wrong.fits", sky_maps(3, **options))
    line = refused(work, tmp_path, capsys, name=name)
    assert told in line and "--accept-mismatch" in line and "p = " in line


def test_a_wrong_unit_is_not_what_the_model_knows(work, tmp_path, capsys):
    for unit in ("mK", "K"):
        line = refused(work, tmp_path, capsys, units=("--units", unit))
        assert "is not what the model knows" in line


def test_an_offset_is_named(work, tmp_path, capsys):
    q, u = sky_maps(4)
    name = write(tmp_path / "offset.fits", (q, u + 3))
    assert "constant U" in refused(work, tmp_path, capsys, name=name)


def test_who_insists_is_reminded(work, tmp_path, capsys):
    """In every output, and on stdout before r."""
    name = write(tmp_path / "loud.fits", sky_maps(3, noise=3.0))
    words = ("--accept-mismatch", "--chains", str(tmp_path / "chain"))
    out = run(work, tmp_path, *words, name=name)
    told = capsys.readouterr()
    assert "not what the model knows" in told.out and "r may be far off" in told.err
    for path in out.glob("*.json"):
        assert "not what the model knows" in path.read_text(), path
    assert "not what the model knows" in (tmp_path / "chain.properties.ini").read_text()


def test_two_splits_must_differ_by_noise_alone(work, tmp_path, capsys):
    q, u = sky_maps(5)
    noise = np.random.default_rng(6).standard_normal((2, 2, len(q)))
    sigma = np.radians(DEPTH / 60) / healpy.nside2resol(NSIDE)
    clean = np.stack(sky_maps(5, noise=0.0))
    first, second = (write(tmp_path / f"{k}.fits", clean + sigma * noise[k]) for k in (0, 1))
    out = run(work, tmp_path, "--split", second, name=first)
    assert "their difference under noise" in capsys.readouterr().out
    null = json.loads((out / "metrics.json").read_text())["map"]["null"]
    assert null["p_value"] > 1e-3 and 0.7 < null["chi2_per_mode"] < 1.3
    other = write(tmp_path / "other.fits", sky_maps(7))
    line = refused(work, tmp_path, capsys, "--split", other, name=first, out="no")
    assert "the difference of the splits" in line


def test_a_map_is_not_its_own_split(work, tmp_path, capsys):
    shutil.copy(work / "right.fits", tmp_path / "copy.fits")
    line = refused(work, tmp_path, capsys, "--split", str(tmp_path / "copy.fits"))
    assert "copy.fits: is the map of --maps itself" in line


@pytest.mark.parametrize("nside", [NSIDE, 16])
def test_pixels_that_a_mask_set_to_0_are_missing(nside, work, tmp_path, capsys):
    """In a finer map they would bias r, too little to be refused."""
    q, u = sky_maps(2, nside=nside)
    latitude = healpy.pix2ang(nside, np.arange(len(q)), lonlat=True)[1]
    seen = np.abs(latitude) > (35 if nside == NSIDE else 18)
    name = write(tmp_path / "zeros.fits", (q * seen, u * seen))
    line = refused(work, tmp_path, capsys, name=name)
    assert "pixels of the analysis" in line and "missing" in line


def test_missing_pixels_are_one_line(work, tmp_path, capsys):
    q, u = sky_maps(1)
    q[-1] = np.nan
    u[0] = healpy.UNSEEN
    name = write(tmp_path / "holes.fits", (q, u))
    assert "2 of" in refused(work, tmp_path, capsys, name=name)
    low = write(tmp_path / "low.fits", [healpy.ud_grade(m, 2) for m in sky_maps(1)])
    assert "NSIDE 2" in refused(work, tmp_path, capsys, name=low)


FLAGS = {
    "two inputs": (["--data-file-noisy", "y.npy"], "give one of the two"),
    "unit of spectra": (["--units", "uK2"], "--units of --maps is one of"),
    "quantity": (["--quantity", "cl"], "has no --quantity"),
    "a column that is not there": (["--fields", "0", "7"], "--fields 0 7"),
    "generate": (["--num-samples", "4"], "is for generating; leave out --maps"),
    "likelihood": (["--log-likelihood", "--data-file-gt", "x.npy"], "--num-draws does not go with"),
}


def test_a_truth_of_many_skies_is_none_of_the_map(work, tmp_path, capsys):
    truth = str(work / "dl_gt_r0-1.npy")
    line = refused(work, tmp_path, capsys, "--data-file-gt", truth)
    assert truth in line and "has 20 rows, and --maps is one sky" in line


@pytest.mark.parametrize(("words", "told"), FLAGS.values(), ids=FLAGS)
def test_flags_that_contradict(words, told, work, tmp_path, capsys):
    assert told in refused(work, tmp_path, capsys, *words)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--split", "b.fits"], "--split is for --maps"),
        (["--fields", "0", "1"], "--fields is for --maps"),
        (["--accept-mismatch"], "--accept-mismatch is for --maps"),
        (["--units", "mK"], "--units mK is for --maps"),
    ],
)
def test_flags_of_maps_alone(words, told, work, tmp_path, capsys):
    given = ["--data-file-noisy", str(work / "dl_noisy_r0-1.npy")]
    with pytest.raises(SystemExit) as stop:
        sample.main(["--model-checkpoint", str(work / "m.pth"), *given, *words])
    assert stop.value.code == 2 and told in capsys.readouterr().err


def test_a_model_of_the_full_sky_takes_no_maps(work, tmp_path, capsys):
    flags = ["--r", "0.1", "--nside", "4", "--num-samples", "200", "--num-test", "20"]
    data_generation.main([*flags, "--foregrounds", "none", "--out-dir", str(tmp_path / "full")])
    pair = ("--data-file", "dl_train"), ("--cond-file", "dl_train_noisy")
    words = [w for f, n in pair for w in (f, str(tmp_path / "full" / f"{n}_r0.1.npy"))]
    model = tmp_path / "full.pth"
    train.main([*words, "--epochs", "1", "--hidden-dim", "8", "--out", str(model)])
    shutil.copy(work / "right.fits", tmp_path / "right.fits")
    with pytest.raises(SystemExit) as stop:
        sample.main(["--model-checkpoint", str(model), "--maps", str(tmp_path / "right.fits"),
                     "--out-dir", str(tmp_path / "out")])  # fmt: skip
    err = capsys.readouterr().err
    assert stop.value.code == 2 and "was not trained on maps of part of the sky" in err


@pytest.mark.skipif(not WMAP.exists(), reason="needs the WMAP maps of ../shared/real-data")
def test_real_maps_are_refused_with_their_null(tmp_path, capsys):
    """WMAP7, V and W: no units, no noise in the header, correlated noise at low ell."""
    name = "wmap_{}_r9_7yr_v4_udgraded32.fits"
    mask = WMAP / name.format("temperature_analysis_mask")
    band = "wmap_band_iqumap_r9_7yr_{}_v4_udgraded32.fits"
    first, second = (WMAP / band.format(letter) for letter in "VW")
    size = ["--nside", "8", "--num-samples", "300", "--num-test", "20"]
    sky = ["--mask", str(mask), "--foregrounds", "none", "--noise-uk-arcmin", "700"]
    data_generation.main(["--r-range", "0", "1", *size, *sky, "--out-dir", str(tmp_path)])
    flags = ("--data-file", "--cond-file", "--param-file")
    names = ("dl_train", "dl_train_noisy", "r_train")
    pairs = [
        w for f, n in zip(flags, names, strict=True) for w in (f, str(tmp_path / f"{n}_r0-1.npy"))
    ]
    train.main([*pairs, "--epochs", "1", "--hidden-dim", "8", "--out", str(tmp_path / "m.pth")])
    words = ("--split", str(second))
    line = refused(tmp_path, tmp_path, capsys, *words, name=str(first), units=())
    assert "TUNIT" in line and "--units" in line
    line = refused(tmp_path, tmp_path, capsys, *words, name=str(first), units=("--units", "mK"))
    assert "the difference of the splits has chi-square" in line and "p = 0" in line


@pytest.mark.skipif(not WMAP.exists(), reason="needs the WMAP maps of ../shared/real-data")
def test_skies_behind_a_real_mask_are_calibrated():
    """Injected in pixels, with WMAP's mask and the depth that V - W has at small scales."""
    nside, n, r_max = 8, 120, 50.0
    bands = [WMAP / f"wmap_band_iqumap_r9_7yr_{x}_v4_udgraded32.fits" for x in "VW"]
    first, second = (maps.read_polarisation(str(path), "mK") for path in bands)
    steps = (first.q - second.q)[::2] - (first.q - second.q)[1::2]  # of neighbours in a ring
    depth = np.degrees(np.median(np.abs(steps)) / 0.6745 / 2) * healpy.nside2resol(32) * 60
    assert 300 < depth < 2000
    mask = WMAP / "wmap_temperature_analysis_mask_r9_7yr_v4_udgraded32.fits"
    survey = masked.Survey.uniform(masks.read_mask(str(mask), nside), depth)
    part = masked.MaskedSky.with_free_e_modes(survey)
    ell = masked.multipoles(nside)
    window = masked.cosine_window(nside) ** 2
    dl_per_r, dl_lensing = (
        (dl * window) for dl in (cosmology.tensor_bb(1.0, ell), cosmology.lensing_bb(ell))
    )
    rng, r = np.random.default_rng(8), np.random.default_rng(9).uniform(0, r_max, n)
    weight = survey.noise[:, 0] ** 0.5
    seen = []
    for value in r:
        alms = [
            harmonics.to_alm(
                np.sqrt(harmonics.per_mode(cosmology.dl_to_cl(dl, ell)))
                * rng.standard_normal(len(harmonics.mode_ell(int(ell[-1])))),
                int(ell[-1]),
            )
            for dl in (3000 * dl_lensing, value * dl_per_r + dl_lensing)
        ]
        pair = healpy.alm2map_spin(alms, nside, 2, int(ell[-1]))
        noise = weight * rng.standard_normal((2, len(weight)))
        seen.append(
            np.concatenate([m[survey.pixels] + k for m, k in zip(pair, noise, strict=True)])
        )
    law = MapLaw(part.response, dl_lensing)
    model = MapModel(law, cosmology.linear_template(dl_per_r), (0.0, r_max))
    posterior = MapPosterior(part.reduce(np.array(seen)), model)
    places = posterior.cdf(r[:, None])[:, 0]
    assert stats.kstest(places, "uniform").pvalue > 1e-3
    assert posterior.std().mean() < 0.9 * r_max / 12**0.5  # and the maps say something
    asleep = MapPosterior(part.reduce(np.array(seen))[::-1], model).cdf(r[:, None])[:, 0]
    assert stats.kstest(asleep, "uniform").pvalue < 1e-3  # those of other maps are not


def test_one_r_is_answered_with_its_truth(tmp_path, capsys):
    """The record of a masked observation has more multipoles than the truth beside it."""
    size = ["--nside", "4", "--num-samples", "300", "--num-test", "20"]
    sky = ["--mask", "galactic:20", "--foregrounds", "none", "--noise-uk-arcmin", "2"]
    data_generation.main(["--r", "0.3", *size, *sky, "--out-dir", str(tmp_path)])
    names = ("dl_train", "dl_train_noisy", "dl_noisy", "dl_gt")
    x, y, observed, truth = (str(tmp_path / f"{name}_r0.3.npy") for name in names)
    model = str(tmp_path / "m.pth")
    words = ["--epochs", "1", "--hidden-dim", "8", "--out", model]
    train.main(["--data-file", x, "--cond-file", y, *words])
    given = ["--data-file-noisy", observed, "--data-file-gt", truth, "--num-draws", "8"]
    out = ["--method", "ode", "--out-dir", str(tmp_path / "out")]
    sample.main(["--model-checkpoint", model, *given, *out])
    assert "mse_dl_over_signal_squared" in capsys.readouterr().out
