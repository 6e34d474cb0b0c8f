"""PySM3 presets against PySM3 and healpy, and how templates that cannot be had are named."""

import os
import pathlib

import numpy as np
import pytest

from runtime.errors import InputError
from sky import foregrounds

TEMPLATES = pathlib.Path(__file__).parents[3] / "shared" / "pysm-data"
needs_templates = pytest.mark.skipif(
    not TEMPLATES.is_dir(), reason="no PySM3 templates in ../shared/pysm-data"
)

ELL = np.arange(2, 32)


def preset_bb(presets, freq, nside):
    """Power of presets in one band, shape (n_ell,)."""
    ell = np.arange(2, 2 * nside)
    made = foregrounds.ForegroundModel.make(presets, [freq], ell, np.ones(len(ell)))
    return made.fixed_bb(np.ones((len(ell), 1)))


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
    with pytest.raises(InputError, match="NSIDE 64.*lower --nside"):
        preset_bb(["d1"], 45.0, 128)


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
