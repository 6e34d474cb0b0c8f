"""Emission laws, ensembles and PySM3 presets against independent calculations."""

import os
import pathlib

import numpy as np
import pytest
from scipy import stats

from runtime.errors import InputError
from sky import foregrounds

TEMPLATES = pathlib.Path(__file__).parents[3] / "shared" / "pysm-data"
needs_templates = pytest.mark.skipif(
    not TEMPLATES.is_dir(), reason="no PySM3 templates in ../shared/pysm-data"
)

H_OVER_K_GHZ = 0.0479924307  # h/k in K/GHz
T_CMB = 2.7255
ELL = np.arange(2, 32)


def planck_ratio(freq, freq_ref, temperature):
    """B(freq, T) / B(freq_ref, T)."""
    x, x_ref = (H_OVER_K_GHZ * f / temperature for f in (freq, freq_ref))
    return (freq / freq_ref) ** 3 * np.expm1(x_ref) / np.expm1(x)


def cmb_slope_ratio(freq, freq_ref):
    """dB/dT at T_CMB: what turns brightness into CMB temperature."""
    x, x_ref = (H_OVER_K_GHZ * f / T_CMB for f in (freq, freq_ref))

    def slope(f, x):
        return f**4 * np.exp(x) / np.expm1(x) ** 2

    return slope(freq, x) / slope(freq_ref, x_ref)


def gaussian_bb(freq):
    """Power of all Gaussian foregrounds in one band, shape (n_ell,)."""
    dl, emission = foregrounds.gaussian_components([freq], ELL)
    return (dl * emission**2).sum((0, 1))


def preset_bb(presets, freq, nside):
    """Power of presets in one band, shape (n_ell,)."""
    ell = np.arange(2, 2 * nside)
    made = foregrounds.Foregrounds.make(presets, [freq], nside, np.ones(len(ell)))
    return made.fixed_bb(np.ones((len(ell), 1)))


@pytest.mark.parametrize("freq", [28.0, 45.0, 145.0, 353.0, 850.0])
def test_gaussian_foregrounds_follow_plancks_law(freq):
    dust = (freq / 353) ** 1.54 * planck_ratio(freq, 353, 20.0) / cmb_slope_ratio(freq, 353)
    # -3 in brightness temperature is -3 + 2 in brightness
    sync = (freq / 23) ** (-3.0 + 2) / cmb_slope_ratio(freq, 23)
    expected = 28 * (ELL / 80) ** -0.16 * dust**2 + 1.6 * (ELL / 80) ** -0.93 * sync**2
    np.testing.assert_allclose(gaussian_bb(freq), expected, rtol=1e-5)


@needs_templates
@pytest.mark.parametrize("presets", [["d1", "s1"]])
def test_presets_agree_with_pysm3_and_anafast(presets, monkeypatch):
    import healpy
    import pysm3
    import pysm3.units as u

    monkeypatch.setenv("PYSM_LOCAL_DATA", str(TEMPLATES))
    sky = pysm3.Sky(nside=64, preset_strings=presets, output_unit="uK_CMB")
    cl = healpy.anafast(sky.get_emission(45 * u.GHz).value, lmax=127, iter=3)[2][2:32]
    direct = ELL * (ELL + 1) * cl / (2 * np.pi)
    ours = preset_bb(presets, 45.0, 16)
    np.testing.assert_allclose(ours, direct, rtol=1e-6)
    np.testing.assert_allclose(ours[[0, 8, 29]], [0.40, 1.67, 1.15], rtol=0.02)  # as known


@needs_templates
def test_presets_cannot_be_finer_than_their_templates(monkeypatch):
    monkeypatch.setenv("PYSM_LOCAL_DATA", str(TEMPLATES))
    with pytest.raises(InputError, match="NSIDE 64.*--nside 128"):
        preset_bb(["d1"], 45.0, 128)


def test_presets_are_checked_by_name():
    foregrounds.check_presets(["d1", "s1", "d4", "a2"])
    with pytest.raises(InputError, match="d99: PySM3 has no such preset, only d0, d1"):
        foregrounds.check_presets(["d1", "d99"])
    with pytest.raises(InputError, match="c1: is the CMB"):
        foregrounds.check_presets(["c1"])


@pytest.mark.parametrize("preset", ["d11", "d12", "s6", "cib1", "rg2", "co1"])
def test_presets_that_are_no_template_maps_are_refused_before_a_download(preset):
    with pytest.raises(InputError, match=f"{preset}: is not made from maps"):
        preset_bb([preset], 45.0, 16)


def test_a_template_that_cannot_be_had_is_named(monkeypatch, capfd):
    """A server that fails stands for a machine without network; nothing takes the sky's place."""
    from urllib.error import URLError

    from astropy.utils import data

    def fail(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.delenv("PYSM_LOCAL_DATA", raising=False)
    monkeypatch.setattr(data, "get_pkg_data_filename", fail)
    wanted = "pysm_2/dust_t_new.fits.*PYSM_LOCAL_DATA.*--foregrounds gaussian"
    with pytest.raises(InputError, match=wanted):
        preset_bb(["d1"], 45.0, 16)
    assert capfd.readouterr().err == ""


@pytest.mark.filterwarnings("ignore::astropy.io.fits.verify.VerifyWarning")
@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyUserWarning")
@pytest.mark.parametrize("size", [9, 4000, 100_000])
@needs_templates
def test_a_damaged_template_is_named(size, tmp_path, monkeypatch):
    folder = tmp_path / "pysm_2"
    folder.mkdir()
    for source in (TEMPLATES / "pysm_2").iterdir():
        os.symlink(source, folder / source.name)
    victim = folder / "synch_q_new.fits"
    content = victim.read_bytes()
    victim.unlink()
    victim.write_bytes(content[:size])
    monkeypatch.setenv("PYSM_LOCAL_DATA", str(tmp_path))
    with pytest.raises(InputError, match="--foregrounds s1: PySM3's .* is damaged"):
        preset_bb(["s1"], 45.0, 16)


# --- ensembles -------------------------------------------------------------------------------


def test_an_ensemble_follows_its_priors_and_holds_the_published_values():
    drawn = foregrounds.ensemble_parameters(5000, np.random.default_rng(0))
    for name, priors in foregrounds.ENSEMBLE.items():
        row = foregrounds.GAUSSIAN_FOREGROUNDS[name]
        own = {"amplitude": row["amplitude"], "alpha": row["alpha"], **row["law_parameters"]}
        assert own.keys() == priors.keys() == drawn[name].keys()
        for parameter, (low, high) in priors.items():
            assert low < own[parameter] < high
            values = drawn[name][parameter]
            if parameter == "amplitude":
                low, high, values = np.log(low), np.log(high), np.log(values)
            assert stats.kstest((values - low) / (high - low), "uniform").pvalue > 1e-6
    columns = np.array([v for row in drawn.values() for v in row.values()])
    correlation = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlation).max() < 5 / np.sqrt(5000)


def test_every_sky_of_an_ensemble_has_its_own_law():
    """Many skies at once are the same as one by one, and as the table where they agree with it."""
    freqs = [28.0, 145.0, 402.0]
    drawn = foregrounds.ensemble_parameters(3, np.random.default_rng(1))
    dl, emission = foregrounds.gaussian_components(freqs, ELL, drawn)
    assert dl.shape == (3, 2, 30) and emission.shape == (3, 2, 3)
    for k in range(3):
        own = {row: {n: v[[k]] for n, v in values.items()} for row, values in drawn.items()}
        single = foregrounds.gaussian_components(freqs, ELL, own)
        np.testing.assert_allclose(single[0][0], dl[k], rtol=1e-12)
        np.testing.assert_allclose(single[1][0], emission[k], rtol=1e-12)
    table = {
        name: {"amplitude": row["amplitude"], "alpha": row["alpha"], **row["law_parameters"]}
        for name, row in foregrounds.GAUSSIAN_FOREGROUNDS.items()
    }
    table = {name: {k: np.array([v]) for k, v in row.items()} for name, row in table.items()}
    for one, other in zip(
        foregrounds.gaussian_components(freqs, ELL, table),
        foregrounds.gaussian_components(freqs, ELL),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_beam_and_scale_act_on_the_amplitude():
    transfer = 0.5 * np.exp(-ELL / 20)
    made = foregrounds.Foregrounds.make(["gaussian"], [45.0], 16, transfer)
    dl, emission = made.components(7, None)
    np.testing.assert_allclose((dl * emission**2).sum((0, 1)), gaussian_bb(45.0) * transfer**2)
    none = foregrounds.Foregrounds.make(["none"], [45.0], 16, transfer)
    assert none.num_components == 0 and none.components(7, None)[0].shape == (1, 0, 30)
    assert not none.fixed_bb(np.ones((30, 1))).any()
