"""Tables of bands, files of a user's own, beams and noise."""

import json
import pathlib
import re

import numpy as np
import pytest

from runtime.errors import InputError
from sky import instruments

FACTS = pathlib.Path(__file__).parents[3] / "shared" / "PHYSICS.md"
ELL = np.arange(2, 32)


def test_beam_and_noise():
    sigma = np.radians(24.8 / 60) / np.sqrt(8 * np.log(2))
    spin_2 = np.exp(-(ELL * (ELL + 1) - 4) * sigma**2)
    np.testing.assert_allclose(instruments.beam_power(24.8, ELL), spin_2, rtol=1e-12)
    np.testing.assert_array_equal(instruments.beam_power(0.0, ELL), 1)
    noise = instruments.white_noise_bb(10.0, ELL)
    flat = noise * 2 * np.pi / (ELL * (ELL + 1))
    np.testing.assert_allclose(flat, (10 * np.pi / 10800) ** 2, rtol=1e-12)


@pytest.mark.skipif(not FACTS.is_file(), reason="no table of instruments in ../shared/PHYSICS.md")
@pytest.mark.parametrize("name", instruments.INSTRUMENTS)
def test_tables_are_those_of_their_sources(name):
    (line,) = (
        paragraph
        for paragraph in re.split(r"\n- ", FACTS.read_text())
        if paragraph.lower().startswith(f"**{name}**")
    )
    number = r"([\d.]+)"
    wanted = re.findall(rf"(?<![\d.]){number}/{number}/{number}(?<!\.)", line)
    bands = instruments.load_instrument(name).bands
    ours = [(band.freq_ghz, band.fwhm_arcmin, band.noise_uk_arcmin) for band in bands]
    assert ours == [tuple(map(float, row)) for row in wanted]
    assert len(ours) == {"echo": 20, "litebird": 15}[name]


def test_a_common_beam_moves_the_noise_and_not_the_sky():
    bands = [instruments.Band(40.0, 70.0, 10.0), instruments.Band(400.0, 10.0, 10.0)]
    own = instruments.noise_bb(bands, None, ELL)
    common = instruments.noise_bb(bands, 70.0, ELL)
    np.testing.assert_allclose(common[0], own[0])
    sigma = np.radians(np.array([70.0, 10.0]) / 60) / np.sqrt(8 * np.log(2))
    ratio = np.exp(-(ELL * (ELL + 1) - 4) * (sigma[0] ** 2 - sigma[1] ** 2))
    np.testing.assert_allclose(common[1], own[1] * ratio, rtol=1e-10)


def test_a_beam_without_power_left_is_refused():
    with pytest.raises(InputError, match="40 GHz has no power left at ell = 31"):
        instruments.noise_bb([instruments.Band(40.0, 9000.0, 10.0)], 24.8, ELL)


@pytest.mark.parametrize("depth", [1e200, 1e-300])
def test_noise_beyond_numbers_is_refused(depth):
    """Its square is no number, or 0, and weights divide by it."""
    bands = [instruments.Band(40.0, 30.0, 10.0), instruments.Band(90.0, 30.0, depth)]
    with np.errstate(over="ignore"), pytest.raises(InputError, match="at 90 GHz is beyond all"):
        instruments.noise_bb(bands, 24.8, ELL)


BAND = {"freq_ghz": 40, "fwhm_arcmin": 70, "noise_uk_arcmin": 37}


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"bands": [{**BAND, "freq_ghz": 90}, BAND]}))
    mine = instruments.load_instrument(str(path))
    bands = mine.bands
    assert mine.name == "mine" and [band.freq_ghz for band in bands] == [40, 90]
    assert bands[0] == instruments.Band(40.0, 70.0, 37.0)
    assert instruments.pick_bands(bands, [90], "--bands") == bands[1:]


WRONG = {
    "no bands": ({"name": "mine"}, "bands must be a list"),
    "empty": ({"bands": []}, "bands must be a list"),
    "unknown field": ({"bands": [BAND], "fsky": 1}, "unknown field 'fsky'"),
    "name": ({"name": 3, "bands": [BAND]}, "name must be a string"),
    "no object": ({"bands": [BAND, 40]}, "band 2 must be an object with freq_ghz"),
    "missing": ({"bands": [{"freq_ghz": 40, "noise_uk_arcmin": 1}]}, "band 1 has no fwhm_arcmin"),
    "unit": ({"bands": [{**BAND, "fwhm_deg": 1}]}, "unknown field 'fwhm_deg'.*fwhm_arcmin"),
    "string": ({"bands": [{**BAND, "freq_ghz": "40"}]}, "freq_ghz must be a number, not '40'"),
    "boolean": ({"bands": [{**BAND, "freq_ghz": True}]}, "freq_ghz must be a number"),
    "negative beam": ({"bands": [{**BAND, "fwhm_arcmin": -1}]}, "fwhm_arcmin must not be negative"),
    "no noise": ({"bands": [{**BAND, "noise_uk_arcmin": 0}]}, "noise_uk_arcmin must be above 0"),
    "in Hz": ({"bands": [{**BAND, "freq_ghz": 40e9}]}, "freq_ghz must lie from 1 to 3000"),
    "twice": (
        {"bands": [{**BAND, "noise_uk_arcmin": 4}, {**BAND, "noise_uk_arcmin": 3}]},
        "40 GHz stands there twice; write one band instead.* noise_uk_arcmin 2.4 if the beams",
    ),
}


@pytest.mark.parametrize(("content", "told"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_file_is_told_field_by_field(content, told, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"{re.escape(str(path))}: .*{told}"):
        instruments.load_instrument(str(path))


def test_names_that_are_not_there():
    with pytest.raises(InputError, match="neither echo, litebird nor a .json file"):
        instruments.load_instrument("planck")
    bands = instruments.load_instrument("litebird").bands
    with pytest.raises(InputError, match="--bands 41: the instrument has no such band, only 40"):
        instruments.pick_bands(bands, [40, 41], "--bands")
