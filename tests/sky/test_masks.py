"""Masks, hits and noise variances of other people, on the NSIDE of a run and in Galactic order."""

import pathlib

import healpy
import numpy as np
import pytest
from astropy.io import fits

from runtime.errors import InputError
from sky.masks import read_hits, read_mask, read_noise_variance

REAL = pathlib.Path(__file__).parents[3] / "shared" / "real-data"
needs_real_files = pytest.mark.skipif(
    not REAL.is_dir(), reason="no files of other people in ../shared/real-data"
)
NSIDE = 4
N_PIX = 12 * NSIDE**2
LATITUDES = healpy.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)[1]
CAP = (LATITUDES > 30).astype(float)
WEIGHTS = np.random.default_rng(1).uniform(0, 1, N_PIX)
VARIANCES = np.array([[4.0], [1.0], [2.0]]) * np.linspace(1, 2, N_PIX)  # QQ, QU, UU


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(values, name="mask.fits", **kwargs):
    """healpy.write_map, which takes RING or, with nest=True, NESTED."""
    healpy.write_map(name, values, dtype=np.float64, overwrite=True, **kwargs)
    return name


def set_cards(name, **cards):
    """Change a header; None takes a card out."""
    with fits.open(name, "update") as units:
        for key, value in cards.items():
            if value is None:
                units[1].header.pop(key, None)
            else:
                units[1].header[key] = value
    return name


def refusal(read, path, *args):
    with pytest.raises(InputError) as caught:
        read(path, *args)
    message = str(caught.value)
    assert path in message and "\n" not in message
    return message


# --- masks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 20, 30.5])
def test_a_cut_goes_by_pixel_centres(cut):
    expected = np.abs(LATITUDES) >= cut
    np.testing.assert_array_equal(read_mask(f"galactic:{cut}", NSIDE), expected)


def test_a_cut_leaves_the_share_of_a_sphere():
    share = read_mask("galactic:20", 64).mean()
    assert share == pytest.approx(1 - np.sin(np.radians(20)), abs=0.01)


@pytest.mark.parametrize("text", ["galactic:", "galactic:90", "galactic:-1", "galactic:nan"])
def test_a_cut_that_is_none_is_refused(text):
    message = refusal(read_mask, text, NSIDE)
    assert message.startswith(f"--mask {text}:") and "galactic:20" in message


def test_a_cut_that_leaves_nothing_is_refused():
    assert "masks all of the sky" in refusal(read_mask, "galactic:89", 2)


@pytest.mark.parametrize("nest", [False, True])
@pytest.mark.parametrize("partial", [False, True])
def test_what_healpy_writes_reads_the_same(nest, partial, capsys):
    seen = np.arange(N_PIX) % 3 > 0
    mask = np.where(seen, WEIGHTS, healpy.UNSEEN)
    stored = healpy.reorder(mask, r2n=True) if nest else mask
    path = write(stored, nest=nest, partial=partial, coord="G")
    np.testing.assert_allclose(read_mask(path, NSIDE), np.where(seen, WEIGHTS, 0))
    said = capsys.readouterr().err
    assert path in said and ("NESTED" if nest else "RING") in said and "COORDSYS G" in said


@pytest.mark.parametrize("missing", [np.nan, np.inf, healpy.UNSEEN, -9.0])
def test_missing_pixels_count_as_masked(missing):
    mask = WEIGHTS.copy()
    mask[5] = missing
    path = set_cards(write(mask), BAD_DATA=-9.0)
    assert read_mask(path, NSIDE)[5] == 0


def test_degrading_averages_and_upgrading_repeats():
    path = write(WEIGHTS)
    nested = healpy.reorder(WEIGHTS, r2n=True)
    coarse = healpy.reorder(nested.reshape(-1, 4).mean(1), n2r=True)
    fine = healpy.reorder(np.repeat(nested, 4), n2r=True)
    np.testing.assert_allclose(read_mask(path, NSIDE // 2), coarse)
    np.testing.assert_allclose(read_mask(path, NSIDE * 2), fine)
    assert read_mask(path, NSIDE).mean() == pytest.approx(WEIGHTS.mean())


def test_pixels_without_a_value_are_no_part_of_a_mean():
    """Three quarters of a pixel that is masked in one quarter: not the mean of those that are."""
    nested = np.ones(N_PIX)
    nested[0] = healpy.UNSEEN
    mask = read_mask(write(nested, nest=True), NSIDE // 2)
    assert mask[healpy.nest2ring(NSIDE // 2, 0)] == 0.75


@pytest.mark.parametrize(("system", "word"), [("C", "equatorial"), ("E", "ecliptic")])
@pytest.mark.parametrize("nside", [8, 32, 64])
def test_weights_are_rotated_to_galactic(system, word, nside, capsys):
    """A cap about the pole of the file's system lies about that pole in Galactic coordinates."""
    cap = healpy.pix2ang(32, np.arange(12 * 32**2), lonlat=True)[1] > 50
    mask = read_mask(write(cap.astype(float), coord=system), nside)
    assert "rotated to Galactic" in capsys.readouterr().err
    vectors = np.array(healpy.pix2vec(nside, np.arange(12 * nside**2)))
    centre = vectors @ mask
    pole = healpy.Rotator(coord=[system, "G"])(np.array([0.0, 0.0, 1.0]))
    assert centre @ pole / np.linalg.norm(centre) > np.cos(np.radians(2))
    assert mask.mean() == pytest.approx(cap.mean(), rel=0.03)
    assert mask.min() >= 0 and mask.max() <= 1


def test_of_several_columns_the_first_counts_and_that_is_said(capsys):
    read_mask(write([CAP, CAP, CAP]), NSIDE)
    assert "first of 3 columns that agree" in capsys.readouterr().err
    mask = read_mask(write([CAP, WEIGHTS, CAP]), NSIDE)
    assert "first of 3 columns that differ" in capsys.readouterr().err
    np.testing.assert_array_equal(mask, CAP)


def test_columns_may_share_a_name(capsys):
    path = pathlib.Path(write([CAP, WEIGHTS, CAP], column_names=["AAAA", "BBBB", "CCCC"]))
    content = path.read_bytes().replace(b"'BBBB", b"'AAAA").replace(b"'CCCC", b"'AAAA")
    path.write_bytes(content)
    np.testing.assert_array_equal(read_mask(str(path), NSIDE), CAP)
    assert "column AAAA" in capsys.readouterr().err


def test_no_ordering_is_ring_where_the_values_say_so(capsys):
    path = set_cards(write(CAP), ORDERING=None)
    np.testing.assert_array_equal(read_mask(path, NSIDE), CAP)
    assert "no ORDERING, so RING" in capsys.readouterr().err
    path = set_cards(write(healpy.reorder(CAP, r2n=True), nest=True), ORDERING=None)
    assert "look more like NESTED than RING; add ORDERING" in refusal(read_mask, path, NSIDE)


def test_a_column_of_truth_values_is_a_mask():
    column = fits.Column("MASK", "L", array=CAP > 0)
    table = fits.BinTableHDU.from_columns([column])
    table.header.update({"PIXTYPE": "HEALPIX", "ORDERING": "RING", "NSIDE": NSIDE})
    table.writeto("mask.fits")
    np.testing.assert_array_equal(read_mask("mask.fits", NSIDE), CAP)


@pytest.mark.parametrize(
    ("factor", "offset", "words"),
    [
        (2, 0, "from 0 to 2; a mask goes from 0 (masked) to 1 (seen)"),
        (1, -0.5, "from -0.5 to 0.5"),
        (0, 0, "masks all of the sky"),
        (np.nan, 0, "every pixel is missing"),
    ],
)
def test_values_of_no_mask_are_refused(factor, offset, words):
    path = write(factor * CAP + offset)
    assert words in refusal(read_mask, path, NSIDE)


def test_rounding_is_no_reason_to_refuse():
    mask = read_mask(write(CAP * (1 + 1e-7) - 1e-8), NSIDE)
    assert mask.min() == 0 and mask.max() == 1


def test_messages_name_the_flag():
    message = refusal(read_mask, write(2 * CAP), NSIDE, "--apodised-mask")
    assert message.startswith("--apodised-mask mask.fits:")


@pytest.mark.parametrize("read", [read_mask, read_hits, read_noise_variance])
def test_what_is_no_map_is_refused(read):
    pathlib.Path("mask.fits").write_bytes(b"no FITS")
    assert "write it again" in refusal(read, "mask.fits", NSIDE)
    assert "cannot be read" in refusal(read, "none.fits", NSIDE)


# --- hits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("nside", [2, 4, 8])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_hits_are_sums_over_the_largest(nside, scale):
    counts = np.floor(1000 * WEIGHTS)
    hits = read_hits(write(scale * counts), nside)
    sums = healpy.ud_grade(counts, nside, power=-2)
    np.testing.assert_allclose(hits, sums / sums.max())
    assert hits.max() == 1


def test_rounding_of_hits_is_no_reason_to_refuse():
    hits = read_hits(write(1e4 * CAP - 1e-3), NSIDE)
    assert hits.min() == 0 and hits.max() == 1


def test_hits_below_0_or_none_are_refused():
    assert "hits must be 0 or above" in refusal(read_hits, write(CAP - 1), NSIDE)
    assert "holds no hits; give" in refusal(read_hits, write(0 * CAP), NSIDE)


# --- noise variances -------------------------------------------------------------------------


def write_variances(values, names=("QQ", "QU", "UU"), unit="uK_CMB^2", **kwargs):
    return write(list(values), column_names=list(names), column_units=unit, **kwargs)


@pytest.mark.parametrize("nest", [False, True])
@pytest.mark.parametrize("partial", [False, True])
def test_variances_read_as_they_are(nest, partial):
    seen = np.arange(N_PIX) % 3 > 0
    values = np.where(seen, VARIANCES, healpy.UNSEEN)
    stored = healpy.reorder(values, r2n=True) if nest else values
    found = read_noise_variance(write_variances(stored, nest=nest, partial=partial), NSIDE)
    np.testing.assert_allclose(found, np.where(seen, VARIANCES, np.nan).T)


def test_a_pixel_without_one_of_them_is_not_seen():
    values = VARIANCES.copy()
    values[1, 3] = np.nan
    found = read_noise_variance(write_variances(values), NSIDE)
    assert np.isnan(found[3]).all() and np.isnan(found).sum() == 3


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("uK^2", 1), ("uK2", 1), ("(uK_CMB)^2", 1), ("K_CMB^2", 1e12), ("unknown", 1), ("mK**2", 1e6)],
)
def test_units_of_variances(unit, factor):
    path = write_variances(VARIANCES / factor, ("QQ_COV", "QU_COV", "UU_COV"), unit)
    np.testing.assert_allclose(read_noise_variance(path, NSIDE), VARIANCES.T)


def test_iau_changes_the_sign_of_qu(capsys):
    path = set_cards(write_variances(VARIANCES), POLCCONV="IAU")
    expected = VARIANCES.T * [1, -1, 1]
    np.testing.assert_allclose(read_noise_variance(path, NSIDE), expected)
    said = capsys.readouterr().err
    assert "POLCCONV IAU, TUNIT uK_CMB^2, COORDSYS not said, so Galactic" in said


@pytest.mark.parametrize(("row", "value"), [(0, 0.0), (0, -1.0), (2, 0.0), (1, 9.0), (1, -9.0)])
def test_what_is_no_covariance_is_refused(row, value):
    values = VARIANCES.copy()
    values[row, 7] = value
    message = refusal(read_noise_variance, write_variances(values), NSIDE)
    assert "RING 7 is the first" in message and "write UNSEEN" in message


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"coord": "C"}, "equatorial coordinates (COORDSYS C); give"),
        ({"unit": "uK_RJ^2"}, "write the variances in uK_CMB^2"),
        ({"unit": "uK"}, "write the variances in uK_CMB^2"),
        ({"names": ("QQ", "QU", "VV")}, "no column is named UU among its columns 0 QQ, 1 QU, 2 VV"),
    ],
)
def test_variances_that_do_not_fit_are_refused(kwargs, words):
    assert words in refusal(read_noise_variance, write_variances(VARIANCES, **kwargs), NSIDE)


def test_variances_of_another_nside_or_none_are_refused():
    path = write_variances(VARIANCES)
    assert "has NSIDE 4, needed is 8; give" in refusal(read_noise_variance, path, 8)
    path = write_variances(np.nan * VARIANCES)
    assert "every pixel is missing; give" in refusal(read_noise_variance, path, NSIDE)


# --- files of other people -------------------------------------------------------------------


@needs_real_files
@pytest.mark.parametrize(
    ("name", "share", "words"),
    [
        (
            "wmap7/wmap_temperature_analysis_mask_r9_7yr_v4_udgraded32.fits",
            0.619,
            "first of 3 columns that agree",
        ),
        ("odd/Three_Masks_NSide8.fits", 0.514, "first of 3 columns that differ"),
        ("odd/norm_nHits_SA_35FOV.fits", 0.098, "COORDSYS C, rotated to Galactic"),
    ],
)
@pytest.mark.parametrize("nside", [4, 16])
def test_real_masks(name, share, words, nside, capsys):
    mask = read_mask(str(REAL / name), nside)
    assert mask.mean() == pytest.approx(share, abs=0.001)
    assert words in capsys.readouterr().err


@needs_real_files
def test_real_hits_stay_at_their_declinations():
    """Rotated from equatorial coordinates; unrotated, latitudes would be taken for declinations."""
    path = str(REAL / "odd" / "norm_nHits_SA_35FOV.fits")
    hits, theirs = read_hits(path, 16), healpy.read_map(path)
    lonlat = healpy.pix2ang(16, np.arange(len(hits)), lonlat=True)
    declinations = healpy.Rotator(coord=["G", "C"])(*lonlat, lonlat=True)[1]
    their_declinations = healpy.pix2ang(64, np.arange(len(theirs)), lonlat=True)[1]
    assert hits.max() == 1
    for degrees in (-60, -45, -30, 0):
        share = hits[declinations < degrees].sum() / hits.sum()
        expected = theirs[their_declinations < degrees].sum() / theirs.sum()
        assert share == pytest.approx(expected, abs=0.03)  # 4 degrees wide, these pixels


@needs_real_files
def test_a_real_map_is_no_mask():
    path = str(REAL / "wmap7" / "wmap_band_iqumap_r9_7yr_V_v4_udgraded32.fits")
    assert "a mask goes from 0" in refusal(read_mask, path, 8)
