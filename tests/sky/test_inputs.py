"""A cosmology, a noise spectrum and a template of a user's own: used, recorded, told apart."""

import json
import re

import numpy as np
import pytest

import data_generation
from runtime import belonging, records
from runtime.errors import InputError
from sky import cosmology, inputs, instruments
from sky.cosmology import CONSISTENCY_TILT, Cosmology
from sky.observation import Observation, SkyModel
from sky.simulation import simulate

pytestmark = pytest.mark.usefixtures("cached_lensing")

ELL = np.arange(2, 16)
CLEAN = ("--foregrounds", "none")


def write_columns(path, ell, values):
    """A text file with a comment, or a .npy file, of two columns."""
    columns = np.column_stack([ell, values])
    if path.suffix == ".npy":
        np.save(path, columns)
    else:
        np.savetxt(path, columns, header="ell value")
    return str(path)


# --- cosmology -------------------------------------------------------------------------------


def test_the_default_tilt_is_cambs(cached_lensing):
    """What --help and the records say of nt is what CAMB does."""
    import camb

    parameters = cosmology.PLANCK_2018.parameters
    power = camb.set_params(r=0.3, WantTensors=True, **parameters).InitPower
    r, ns = 0.3, parameters["ns"]
    rule = eval(CONSISTENCY_TILT.replace("8 (", "8 * ("), {"r": r, "ns": ns})
    assert power.nt == pytest.approx(rule)
    assert records.TILT_BEFORE_0_3 == CONSISTENCY_TILT
    assert power.ntrun == pytest.approx(r / 8 * (r / 8 + ns - 1))
    assert CONSISTENCY_TILT in data_generation.build_parser().format_help().replace("\n", " ")


def test_a_tilt_of_ones_own_tilts():
    """(k / pivot)^nt, with k < pivot on these scales: less for nt > 0, least at low ell."""
    flat, blue = Cosmology(nt=0.0), Cosmology(nt=0.5)
    ratio = cosmology.tensor_bb(0.01, ELL, blue) / cosmology.tensor_bb(0.01, ELL, flat)
    assert (ratio < 1).all() and (np.diff(ratio) > 0).all()
    template = cosmology.signal_template(0.0, 5.0, ELL, flat)
    for r in (0.001, 0.5, 4.0):
        exact = cosmology.tensor_bb(r, ELL, flat)
        np.testing.assert_allclose(template(np.array([r]))[0], exact, rtol=1e-6)


def test_a_cosmology_moves_signal_and_lensing_and_is_recorded(generate, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"tau": 0.0754, "As": 2.2e-9}))
    usual = generate(*CLEAN, "--r", 0.001, out="usual")("dl_noisy_r0.001").record
    mine = generate(*CLEAN, "--r", 0.001, "--cosmology", path, out="mine")("dl_noisy_r0.001").record
    assert mine.sky.cosmology == {**usual.sky.cosmology, "tau": 0.0754, "As": 2.2e-9}
    assert usual.sky.cosmology["nt"] == CONSISTENCY_TILT
    # the reionisation bump grows with tau^2; lensing BB is E times phi, and E is damped by tau
    assert mine.prior.dl_signal[0] / usual.prior.dl_signal[0] > 1.3
    lensing = mine.contaminants.dl_lensing / usual.contaminants.dl_lensing
    expected = (2.2 / 2.1) ** 2 * np.exp(-2 * (0.0754 - 0.0544))
    np.testing.assert_allclose(lensing, expected, rtol=0.005)
    ((name, entries),) = usual.sky.differences(mine.sky).items()
    assert name == "cosmology"
    words = ("tau 0.0544, As 2.1e-09", "tau 0.0754, As 2.2e-09")
    assert records.describe_difference(*entries) == words
    # the entry of a record is a file that gives the same sky
    path.write_text(json.dumps(usual.sky.cosmology))
    assert inputs.read_cosmology(str(path)) == cosmology.PLANCK_2018


def test_tables_of_two_cosmologies_are_not_of_the_same_skies(generate, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"tau": 0.0754}))
    usual = generate(*CLEAN, out="usual")("dl_gt_r0.001")
    mine = generate(*CLEAN, "--cosmology", path, out="mine")("dl_noisy_r0.001")
    with pytest.raises(InputError, match=r"has cosmology tau 0.0754, .* 0.0544"):
        belonging.check({"--data-file-gt": usual, "--data-file-noisy": mine})


def test_a_record_of_earlier_versions_has_the_tilt_that_camb_took():
    old = cosmology.PLANCK_2018.to_json()
    del old["nt"]
    sky = records.Sky.from_json({"a_lens": 1.0, "cosmology": old})
    new = records.Sky.from_json({"a_lens": 1.0, "cosmology": cosmology.PLANCK_2018.to_json()})
    tilted = records.Sky.from_json({"a_lens": 1.0, "cosmology": Cosmology(nt=-0.1).to_json()})
    assert sky.differences(new) == {}
    assert sky.differences(tilted).keys() == {"cosmology"}


WRONG_COSMOLOGY = {
    "unknown": ({"Tau": 0.06}, "unknown parameter 'Tau'; there are H0, ombh2"),
    "string": ({"H0": "67"}, "H0 must be a number, not '67'"),
    "boolean": ({"H0": True}, "H0 must be a number"),
    "null": ({"nt": None}, "nt must be a number"),
    "tilt": ({"nt": "-r/8"}, "nt must be a number"),
    "negative": ({"H0": -67}, "H0 must be above 0"),
    "neutrinos": ({"mnu": -1}, "mnu must not be negative"),
    "reionisation": ({"tau": -0.05}, "tau must not be negative"),
    "no dark matter": ({"omch2": 0}, "omch2 must be from 0.001 to 10"),  # CAMB crashes
    "steep": ({"ns": 3}, "ns must be from 0.3 to 2"),  # here, too
    "no power": ({"As": 0}, "As must be above 0"),
    "what CAMB refuses": ({"H0": 0.1}, "CAMB cannot do H0 = 0.1: "),
    "what Fortran refuses": ({"tau": 5}, "CAMB cannot do tau = 5: "),
    "not finite": ({"nt": 1e9}, r"no finite BB for r = 0.001 and nt = 1e\+09"),
}


@pytest.mark.parametrize(("content", "told"), WRONG_COSMOLOGY.values(), ids=WRONG_COSMOLOGY.keys())
def test_a_wrong_cosmology_is_one_line(content, told, tmp_path, capsys):
    path, folder = tmp_path / "mine.json", tmp_path / "data"
    path.write_text(json.dumps(content))
    words = ["--nside", "4", *CLEAN, "--cosmology", str(path), "--out-dir", str(folder)]
    with pytest.raises(SystemExit) as stop:
        data_generation.main(words)
    (line,) = (text for text in capsys.readouterr().err.splitlines() if "error:" in text)
    assert stop.value.code == 2 and re.search(f"{re.escape(str(path))}: .*{told}", line)
    assert not folder.exists() or not any(folder.iterdir())


# --- noise -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".txt", ".npy"])
def test_white_noise_from_a_file_gives_the_rows_of_the_flag(suffix, generate, tmp_path, capsys):
    """N_ell = (depth in radians)^2; further multipoles, in any order, do no harm."""
    ell = np.arange(40)[::-1]
    nl = np.full(40, np.radians(3.0 / 60) ** 2)
    path = write_columns(tmp_path / f"nl{suffix}", ell, nl)
    flag = generate(*CLEAN, "--noise-uk-arcmin", 3, out="flag")("dl_noisy_r0.001")
    file = generate(*CLEAN, "--noise-file", path, out="file")("dl_noisy_r0.001")
    np.testing.assert_allclose(file.values, flag.values, rtol=1e-12)
    assert file.record.sky.instrument["nl_bb"] == pytest.approx(nl[:14])
    assert "noise_uk_arcmin" not in file.record.sky.instrument
    assert "N_ell in uK^2, 3 uK-arcmin at ell = 2 and 3 at ell = 15" in capsys.readouterr().err


def test_noise_of_any_spectrum_without_beam(generate, tmp_path):
    """Rows obey the file's N_ell whatever the beam; another spectrum is another sky."""
    nl = 1e-6 * (1 + (10 / ELL) ** 2)
    path = write_columns(tmp_path / "nl.txt", ELL, nl)
    data = generate(*CLEAN, "--noise-file", path, "--fwhm-arcmin", 300)("dl_noisy_r0.001")
    np.testing.assert_allclose(
        data.record.contaminants.dl_noise, nl * ELL * (ELL + 1) / (2 * np.pi), rtol=1e-12
    )
    total = data.record.prior.dl_signal + data.record.contaminants.dl_contaminant
    error = total * np.sqrt(2 / (2 * ELL + 1) / len(data.values))
    assert (np.abs(data.values.mean(0) - total) < 5 * error).all()
    model = SkyModel(nside=8, foregrounds=("none",))
    pairs = simulate(0.001, 500, model, Observation.in_one_band(fwhm_arcmin=300.0, nl_bb=nl))
    assert pairs.record.sky.instrument["nl_bb"] == data.record.sky.instrument["nl_bb"]
    np.testing.assert_array_equal(
        simulate(
            0.001, 500, model, Observation.in_one_band(fwhm_arcmin=300.0, nl_bb=nl), split="test"
        ).y,
        data.values,
    )
    nl[3] *= 1.001
    other = simulate(0.001, 5, model, Observation.in_one_band(fwhm_arcmin=300.0, nl_bb=nl))
    (entries,) = pairs.record.sky.differences(other.record.sky).values()
    here, there = records.describe_difference(*entries)
    assert here != there and "at place 4" in here


# --- the template ----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".txt", ".npy"])
def test_a_template_of_ones_own_is_the_signal(suffix, generate, tmp_path, capsys):
    """r times the file's D_ell times the beam, at one r and over a range of any size."""
    dl = 0.02 * (ELL / 10.0) ** -0.5
    path = write_columns(tmp_path / f"bb{suffix}", ELL, dl)
    beam = instruments.beam_power(24.8, ELL)
    one = generate(*CLEAN, "--fiducial", path, "--r", 0.3)("dl_gt_r0.3").record
    np.testing.assert_allclose(one.prior.dl_signal, 0.3 * dl * beam, rtol=1e-12)
    assert "primordial D_ell in uK^2 at r = 1" in capsys.readouterr().err
    many = generate(*CLEAN, "--fiducial", path, "--r-range", 0, 5)("dl_gt_r0-5").record
    r = np.array([0.0, 0.01, 4.9])
    np.testing.assert_allclose(many.prior.signal_template(r), r[:, None] * dl * beam, rtol=1e-12)
    assert many.sky.dl_fiducial == pytest.approx(dl)
    pairs = simulate(0.3, 5, SkyModel(nside=8, foregrounds=("none",), dl_fiducial=tuple(dl)))
    assert pairs.record.sky.dl_fiducial == one.sky.dl_fiducial
    np.testing.assert_array_equal(pairs.record.prior.dl_signal, one.prior.dl_signal)
    usual = simulate(0.3, 5, SkyModel(nside=8, foregrounds=("none",)))
    assert usual.record.sky.differences(one.sky).keys() == {"dl_fiducial"}
    assert one.sky.differences(usual.record.sky).keys() == {"dl_fiducial"}
    assert one.sky.differences(many.sky) == {}


# --- files -----------------------------------------------------------------------------------

WRONG_COLUMNS = {
    "starts late": (ELL[1:], ELL[1:], "has no ell = 2; needed are all of ell = 2 ... 15"),
    "ends early": (ELL[:-1], ELL[:-1], "has no ell = 15"),
    "a gap": (np.delete(ELL, 3), np.delete(ELL, 3), "has no ell = 5"),
    "no ell": (ELL + 0.5, ELL, "first column must be ell, whole numbers, each once"),
    "twice": (np.append(ELL, 2), np.append(ELL, 2), "each once"),
    "negative": (ELL, np.where(ELL == 4, -1.0, 1.0), "at ell = 4 must be a finite number"),
    "NaN": (ELL, np.where(ELL == 4, np.nan, 1.0), "at ell = 4 must be a finite number"),
}


@pytest.mark.parametrize("suffix", [".txt", ".npy"])
@pytest.mark.parametrize("flag", ["--noise-file", "--fiducial"])
@pytest.mark.parametrize(("ell", "values", "told"), WRONG_COLUMNS.values(), ids=WRONG_COLUMNS)
def test_wrong_columns_are_one_line(ell, values, told, flag, suffix, tmp_path, capsys):
    path, folder = write_columns(tmp_path / f"mine{suffix}", ell, values), tmp_path / "data"
    with pytest.raises(SystemExit) as stop:
        data_generation.main(["--nside", "8", flag, path, "--out-dir", str(folder)])
    (line,) = (text for text in capsys.readouterr().err.splitlines() if "error:" in text)
    assert stop.value.code == 2 and path in line and told in line and not folder.exists()


DAMAGED = {
    "missing.txt": (None, "cannot be read (No such file"),
    "empty.txt": (b"", "has shape (0,"),
    "empty.npy": (b"", "is no table"),
    "words.txt": (b"ell nl\n2 1\n", "is no table of two columns"),
    "one.txt": (b"1\n2\n3\n", "has shape (3, 1); needed are two columns"),
    "binary.txt": (bytes(range(256)), "is no table of two columns"),
    "other.npy": (b"2 1\n3 1\n", "is no table"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_one_line(name, tmp_path):
    content, told = DAMAGED[name]
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"{path}: {told}")):
        inputs.read_columns(str(path), 8, "N_ell")


@pytest.mark.parametrize("array", [np.ones(30), np.ones((3, 5)), np.ones((2, 2), complex)])
def test_arrays_of_another_shape_or_type_are_refused(array, tmp_path):
    path = tmp_path / "mine.npy"
    np.save(path, array)
    with pytest.raises(InputError, match="needed are two columns, ell and N_ell"):
        inputs.read_columns(str(path), 8, "N_ell")


def test_words_in_an_array_are_refused(tmp_path):
    path = tmp_path / "mine.npy"
    np.save(path, np.array([["2", "a"], ["3", "b"]]))
    with pytest.raises(InputError, match="holds <U1; needed are numbers, ell and N_ell"):
        inputs.read_columns(str(path), np.arange(2, 4), "N_ell")


SCALES = ELL * (ELL + 1) / (2 * np.pi)


@pytest.mark.parametrize(
    ("factor", "doubted"), [(1.0, False), (1e-12, True), (1e6, True), (SCALES, True)]
)
@pytest.mark.parametrize("knee", [0.0, 10.0])
def test_another_unit_is_doubted(factor, doubted, knee, tmp_path, capsys):
    """uK^2 as they are; K^2, nK^2 and D_ell for C_ell, or C_ell for D_ell, draw a question."""
    nl = np.radians(10.0 / 60) ** 2 * (1 + (knee / ELL) ** 1.5)
    inputs.read_noise(write_columns(tmp_path / "nl.txt", ELL, factor * nl), 8)
    told = capsys.readouterr().err
    dl = 2 * cosmology.tensor_bb(1.0, ELL, Cosmology(nt=-0.1))
    factor = 1 / factor if factor is SCALES else factor
    inputs.read_fiducial(write_columns(tmp_path / "bb.txt", ELL, factor * dl), 8)
    assert ("is it a C_ell in uK^2, not divided by a beam?" in told) == doubted
    assert ("is it a D_ell in uK^2, at r = 1?" in capsys.readouterr().err) == doubted


def test_zeros_are_noise_and_no_template(tmp_path):
    path = write_columns(tmp_path / "zero.txt", ELL, 0 * ELL)
    assert set(inputs.read_noise(path, 8)) == {0.0}
    with pytest.raises(InputError, match="D_ell of r = 1 must be above 0, and is 0 at ell = 2"):
        inputs.read_fiducial(path, 8)


PYTHON = {
    "two noises": (
        lambda: Observation.in_one_band(noise_uk_arcmin=1.0, nl_bb=np.ones(14)),
        "noise_uk_arcmin or nl_bb, and not both",
    ),
    "short noise": (
        lambda: simulate(0.1, 5, SkyModel(nside=8), Observation.in_one_band(nl_bb=np.ones(13))),
        "nl_bb: must be 14 finite numbers",
    ),
    "negative noise": (
        lambda: simulate(0.1, 5, SkyModel(nside=8), Observation.in_one_band(nl_bb=-np.ones(14))),
        "nl_bb: must be 14 finite numbers",
    ),
    "short template": (
        lambda: SkyModel(nside=8, dl_fiducial=(1.0,)),
        "dl_fiducial: must be 14 finite numbers",
    ),
    "no template": (
        lambda: SkyModel(nside=8, dl_fiducial=(0.0,) * 14),
        "dl_fiducial: must be 14 .* above 0",
    ),
    "beyond the template": (
        lambda: simulate((0.0, 5.0), 5, SkyModel(nside=8)),
        "holds up to r = 1, not to 5",
    ),
    "powers of two": (lambda: SkyModel(nside=12), "must be a power of two"),
    "no nside": (lambda: SkyModel(nside=0), "must be a power of two"),
    "lensing": (lambda: SkyModel(a_lens=-1.0), "a_lens: must be a number, 0 or above"),
    "scale": (lambda: SkyModel(foreground_scale=np.nan), "foreground_scale: must be a number"),
    "depth": (lambda: Observation.in_one_band(noise_uk_arcmin=-1.0), "noise_uk_arcmin: must be"),
    "beam": (lambda: Observation.in_one_band(fwhm_arcmin=np.inf), "fwhm_arcmin: must be"),
    "frequency": (lambda: Observation.in_one_band(freq_ghz=45e9), "hold from 1 to 3000 GHz"),
    "no rows": (lambda: simulate(0.1, 0), "num_samples, seed: must be above 0"),
    "seed": (lambda: simulate(0.1, 5, seed=-1), "num_samples, seed: must be above 0"),
    "r beyond physics": (lambda: simulate(1e300, 5, SkyModel(nside=8)), "no finite BB for r"),
    "r too small": (lambda: simulate(1e-300, 5, SkyModel(nside=8)), "too small for its logarithm"),
    "a cosmology": (lambda: Cosmology(H0=0.0), "cosmology: H0 must be above 0"),
    "beyond CAMB": (lambda: SkyModel(nside=2048), "use --nside 1024 or less"),
}


@pytest.mark.parametrize(("call", "told"), PYTHON.values(), ids=PYTHON.keys())
def test_from_python_too(call, told):
    with pytest.raises(InputError, match=told):
        call()
