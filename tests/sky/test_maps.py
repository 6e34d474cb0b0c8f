"""Maps of Q and U of other people: understood as their headers and flags say, or refused."""

import gzip
import pathlib

import healpy
import numpy as np
import pytest
from astropy.io import fits

from runtime.errors import InputError
from sky import maps
from sky.maps import read_polarisation

REAL = pathlib.Path(__file__).parents[3] / "shared" / "real-data"
needs_real_files = pytest.mark.skipif(
    not REAL.is_dir(), reason="no files of other people in ../shared/real-data"
)
NSIDE = 4
N_PIX = 12 * NSIDE**2
T, Q, U = np.random.default_rng(1).standard_normal((3, N_PIX))  # uK, RING
NESTED = healpy.nest2ring(NSIDE, np.arange(N_PIX))  # RING numbers in NESTED order
IMPLICIT = {"PIXTYPE": "HEALPIX", "ORDERING": "RING", "NSIDE": NSIDE, "INDXSCHM": "IMPLICIT"}
EXPLICIT = IMPLICIT | {"INDXSCHM": "EXPLICIT"}
IN_UK = "uK_CMB"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write_fits(columns, cards=IMPLICIT, name="map.fits", unit=IN_UK, row=1):
    """A table of columns [(name, values)] with `row` values in each row; cards of None left out."""
    made = []
    for column, values in columns:
        values = np.asarray(values)
        code = {"f8": "D", "f4": "E", "i8": "K", "b1": "L"}[values.dtype.str[1:]]
        is_signal = column != "PIXEL"
        made.append(
            fits.Column(
                f"unique{len(made)}",
                f"{row}{code}",
                unit if is_signal else None,
                array=values.reshape(-1, row) if row > 1 else values,
            )
        )
    table = fits.BinTableHDU.from_columns(made)
    table.header.update({key: value for key, value in cards.items() if value is not None})
    table.writeto(name, overwrite=True)
    replace_cards(name, {f"TTYPE{k + 1}": column for k, (column, _) in enumerate(columns)})
    return name


def replace_cards(name, cards):
    """Other values in a header, which astropy would not write where names are the same."""
    content = pathlib.Path(name).read_bytes()
    for key, value in cards.items():
        start = content.index(f"{key:8}= ".encode())
        content = content[:start] + str(fits.Card(key, value)).encode() + content[start + 80 :]
    pathlib.Path(name).write_bytes(content)


def stokes(q=Q, u=U, names=("Q_STOKES", "U_STOKES")):
    return [("I_STOKES", np.full(len(q), 9.0)), (names[0], q), (names[1], u)]


def refusal(path, **kwargs):
    with pytest.raises(InputError) as caught:
        read_polarisation(path, **kwargs)
    message = str(caught.value)
    assert path in message and "\n" not in message
    return message


def check(path, q=Q, u=U, **kwargs):
    """Read a file; its arrays must be these."""
    found = read_polarisation(path, **kwargs)
    assert found.nside == NSIDE and found.q.dtype == found.u.dtype == np.dtype("f8")
    np.testing.assert_allclose(found.q, q, rtol=1e-6)
    np.testing.assert_allclose(found.u, u, rtol=1e-6)
    assert "\n" not in found.understood
    return found


# --- understood ------------------------------------------------------------------------------


@pytest.mark.parametrize("nest", [False, True])
@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_healpy_writes_reads_the_same(nest, partial, dtype):
    seen = np.arange(N_PIX) % 3 > 0 if partial else np.ones(N_PIX, bool)
    iqu = np.where(seen, [T, Q, U], healpy.UNSEEN)
    stored = healpy.reorder(iqu, r2n=True) if nest else iqu
    healpy.write_map("map.fits", stored, nest, dtype, partial=partial, coord="G", column_units="uK")
    found = check("map.fits", np.where(seen, Q, np.nan), np.where(seen, U, np.nan))
    assert found.coordsys == "G"
    for words in ("NESTED" if nest else "RING", f"{np.sum(~seen)} of {N_PIX} pixels missing"):
        assert words in found.understood
    assert ("part of the sky" in found.understood) == partial


@pytest.mark.parametrize(
    "names",
    [
        ("Q_STOKES", "U_STOKES"),
        ("Q_POLARISATION", "U_POLARISATION"),
        ("Q-POLARIZATION", "U-POLARIZATION"),
        ("q", "u"),
        ("QPOL", "UPOL"),
        ("STOKES_Q", "STOKES_U"),
    ],
)
def test_columns_go_by_name(names):
    check(write_fits(stokes(names=names)[::-1]))


def test_fields_go_by_position():
    columns = [("A", U), ("A", Q), ("A", T)]
    message = refusal(write_fits(columns))
    assert "0 A, 1 A, 2 A" in message and "--fields" in message
    check("map.fits", fields=(1, 0))


@pytest.mark.parametrize("row", [1, 4, N_PIX])
@pytest.mark.parametrize("dtype", [">f4", "<f4", ">f8"])
def test_rows_may_hold_vectors_of_any_byte_order(row, dtype):
    check(write_fits(stokes(Q.astype(dtype), U.astype(dtype)), row=row))


def test_nested_is_reordered():
    path = write_fits(stokes(Q[NESTED], U[NESTED]), IMPLICIT | {"ORDERING": "NESTED"})
    check(path)


@pytest.mark.parametrize("ordering", ["RING", "NESTED"])
def test_part_of_the_sky_in_any_row_order(ordering):
    pixels = np.random.default_rng(2).permutation(N_PIX)[:50]  # in RING
    q, u = np.full((2, N_PIX), np.nan)
    q[pixels], u[pixels] = Q[pixels], U[pixels]
    numbers = pixels if ordering == "RING" else healpy.ring2nest(NSIDE, pixels)
    columns = [("PIXEL", numbers), ("Q", Q[pixels]), ("U", U[pixels])]
    check(write_fits(columns, EXPLICIT | {"ORDERING": ordering}), q, u)


@pytest.mark.parametrize(("value", "sign"), [("COSMO", 1), ("IAU", -1), ("iau", -1), (None, 1)])
def test_iau_flips_u_alone(value, sign):
    found = check(write_fits(stokes(), IMPLICIT | {"POLCCONV": value}), u=sign * U)
    words = {None: "POLCCONV absent, so COSMO assumed"}
    assert words.get(value, f"POLCCONV {str(value).upper()}") in found.understood


@pytest.mark.parametrize("bad", [np.nan, np.inf, healpy.UNSEEN, np.float32(healpy.UNSEEN), -999.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_pixel_missing_in_one_is_missing_in_both(bad, dtype):
    q, u = Q.copy(), U.copy()
    q[3], u[7] = bad, bad
    path = write_fits(stokes(q.astype(dtype), u.astype(dtype)), IMPLICIT | {"BAD_DATA": -999.0})
    q[[3, 7]] = u[[3, 7]] = np.nan
    assert f"2 of {N_PIX} pixels missing" in check(path, q, u).understood


@pytest.mark.parametrize(
    ("text", "factor"),
    [
        *(("uK", 1), ("muK", 1), ("uK_CMB", 1), ("microKelvin", 1), ("uKcmb", 1)),
        *(("mK", 1e3), ("mK,thermodynamic", 1e3), ("K", 1e6), ("K_CMB", 1e6), ("Kelvin", 1e6)),
    ],
)
def test_units_stand_in_the_header_or_in_a_flag(text, factor):
    assert "(TUNIT)" in check(write_fits(stokes(Q / factor, U / factor), unit=text)).understood
    for silent in (None, "unknown", "^2"):
        path = write_fits(stokes(Q / factor, U / factor), unit=silent)
        assert "(--units)" in check(path, units=text).understood
    check(write_fits(stokes(Q / factor, U / factor), unit=text), units=text)


@pytest.mark.parametrize("text", ["µK", "μK", "\\mu K"])
def test_a_flag_may_hold_greek(text):
    check(write_fits(stokes(), unit=None), units=text)


@pytest.mark.parametrize(
    ("card", "coordsys"),
    [
        *(("G", "G"), ("GALACTIC", "G"), ("C", "C"), ("equ", "C"), ("E", "E")),
        *((None, None), ("unknown", None)),
    ],
)
def test_coordinates_are_said_or_are_not(card, coordsys):
    assert check(write_fits(stokes(), IMPLICIT | {"COORDSYS": card})).coordsys == coordsys


def test_gzip_and_a_missing_nside_do_not_matter():
    path = pathlib.Path(write_fits(stokes(), IMPLICIT | {"NSIDE": None}))
    pathlib.Path("map.fits.gz").write_bytes(gzip.compress(path.read_bytes()))
    check("map.fits.gz")


# --- refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cards", "words"),
    [
        ({"ORDERING": None}, "no ORDERING; add it"),
        ({"ORDERING": "SPIRAL"}, "needed is RING or NESTED"),
        ({"NSIDE": 8}, "NSIDE 8 needs 768"),
        ({"NSIDE": 3}, "needed is a power of 2"),
        ({"NSIDE": 2**20}, "needed is a power of 2"),
        ({"NSIDE": "four"}, "needed is a power of 2"),
        ({"POLCCONV": "LEFT"}, "needed is COSMO or IAU"),
        ({"PIXTYPE": "CAR"}, "healpy.write_map"),
        ({"INDXSCHM": "EXPLICIT"}, "name the one that numbers the pixels so"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(cards, words):
    assert words in refusal(write_fits(stokes(), IMPLICIT | cards))


@pytest.mark.parametrize(
    "names", [("Q_STOKES", "Q_STOKES"), ("Q_STOKES", "V"), ("X", "Y"), ("QQ", "UU"), ("", "")]
)
def test_names_that_do_not_say_are_refused(names):
    message = refusal(write_fits(stokes(names=names)))
    assert f"0 I_STOKES, 1 {names[0]}" in message or "(no name)" in message
    assert "say with --fields" in message


@pytest.mark.parametrize("fields", [(0, 3), (1, 1), (-1, 1), (1,), (0, 1, 2)])
def test_fields_that_are_none_are_refused(fields):
    message = refusal(write_fits(stokes()), fields=fields)
    assert message.startswith("--fields") and "1 Q_STOKES, 2 U_STOKES" in message


def test_the_pixel_column_is_no_field():
    path = write_fits([("PIXEL", np.arange(N_PIX)), ("Q", Q), ("U", U)], EXPLICIT)
    assert "--fields 0 1" in refusal(path, fields=(0, 1))


def test_part_of_the_sky_needs_an_nside():
    path = write_fits([("PIXEL", np.arange(3)), ("Q", Q[:3]), ("U", U[:3])], {"ORDERING": "RING"})
    assert "NSIDE is absent; needed is a power of 2" in refusal(path)


@pytest.mark.parametrize("pixels", [[0, 1, 1], [0, 1, N_PIX], [-1, 0, 1]])
def test_pixels_that_are_none_are_refused(pixels):
    path = write_fits([("PIXEL", np.array(pixels)), ("Q", Q[:3]), ("U", U[:3])], EXPLICIT)
    assert f"0 to {N_PIX - 1}" in refusal(path)


@pytest.mark.parametrize("unit", [None, "unknown", "^2"])
def test_a_unit_that_nobody_says_is_asked_for(unit):
    assert "give --units uK, mK or K" in refusal(write_fits(stokes(), unit=unit))


@pytest.mark.parametrize("unit", ["K_RJ", "uK_RJ", "MJy/sr", "counts", "mK,antenna"])
@pytest.mark.parametrize("flag", [None, "uK"])
def test_a_unit_that_is_not_of_the_cmb_is_refused(unit, flag):
    message = refusal(write_fits(stokes(), unit=unit), units=flag)
    assert repr(unit) in message and "convert the map" in message and "--units" in message


def test_units_that_contradict_each_other_are_refused():
    message = refusal(write_fits(stokes(), unit="mK"), units="uK")
    assert message.startswith("--units uK:") and "leave the flag out" in message
    replace_cards(write_fits(stokes()), {"TUNIT3": "mK"})
    assert "write both in one unit" in refusal("map.fits")
    replace_cards("map.fits", {"TUNIT3": "furlong"})
    assert "TUNIT is 'furlong', which does not say the unit" in refusal("map.fits")
    with pytest.raises(InputError, match="--units furlong: .* give uK, mK or K"):
        read_polarisation(write_fits(stokes(), unit=None), units="furlong")


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (np.nan, "missing in every pixel"),
        (0.0, "are 0 in every pixel"),
        (1e-6, "correct the unit"),
        (1e7, "correct the unit"),
        (1e300, "correct the unit"),
    ],
)
def test_values_of_no_sky_are_refused(factor, words):
    assert words in refusal(write_fits(stokes(factor * Q, factor * U)))


def test_spectra_are_no_map():
    write_fits([("TEMPERATURE", Q), ("GRADIENT", Q), ("CURL", Q)], {"NSIDE": NSIDE})
    assert "TEMPERATURE, GRADIENT, CURL" in refusal("map.fits") and "give the map" in refusal(
        "map.fits"
    )
    healpy.write_cl("cl.fits", np.ones((4, 9)))
    assert "holds spectra" in refusal("cl.fits")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_cut_short_is_refused(share, packed):
    content = pathlib.Path(write_fits(stokes(), row=N_PIX)).read_bytes()
    content = gzip.compress(content) if packed else content
    name = "cut.fits.gz" if packed else "cut.fits"
    pathlib.Path(name).write_bytes(content[: int(share * len(content))])
    assert "write it again" in refusal(name)


@pytest.mark.parametrize("content", [b"", b"no FITS", b"\x1f\x8b", bytes(9000)])
def test_what_is_not_fits_is_refused(content):
    pathlib.Path("map.fits").write_bytes(content)
    assert "write it again" in refusal("map.fits")


def test_what_holds_no_table_or_is_no_file_is_refused():
    fits.PrimaryHDU(np.ones((4, 4))).writeto("image.fits")
    assert "holds no table, or is cut short; write it again" in refusal("image.fits")
    assert "cannot be read (No such file" in refusal("none.fits")


def test_text_and_variable_rows_are_refused():
    made = [fits.Column("Q", "3A", array=["a", "b"]), fits.Column("U", "PE()", array=[[1], [2, 3]])]
    for column in made:
        table = fits.BinTableHDU.from_columns([column])
        table.header.update(IMPLICIT | {"TUNIT1": "uK", "TFIELDS": 1})
        table.writeto("map.fits", overwrite=True)
        assert "--fields" in refusal("map.fits")
        with pytest.raises(InputError, match="map.fits: .*; write it again with healpy.write_map"):
            maps.PixelTable.open("map.fits").read([0])


# --- files of other people -------------------------------------------------------------------


@needs_real_files
@pytest.mark.parametrize(
    ("name", "num_missing", "rms"),
    [
        ("wmap7/wmap_band_iqumap_r9_7yr_V_v4_udgraded32.fits", 0, 6.31),
        ("wmap7/wmap_band_iqumap_r9_7yr_W_v4_udgraded32.fits", 0, 9.45),
        ("wmap7/wmap_band_iqumap_r9_7yr_W_v4_udgraded32_masked.fits", 4686, 9.0),
        ("odd/wmap_band_iqumap_r9_7yr_W_v4_udgraded32_smoothed10deg_fortran.fits", 0, 6.04),
        ("odd/justq_gal2ecl.fits.gz", 6941, 707),  # 0 in both, where nothing was seen
    ],
)
def test_real_maps(name, num_missing, rms):
    path = str(REAL / name)
    assert "give --units" in refusal(path)
    found = read_polarisation(path, "mK")
    assert found.nside == 32 and found.coordsys is None
    assert np.isnan(found.q).sum() == np.isnan(found.u).sum() == num_missing
    assert np.sqrt(np.nanmean(found.q**2 + found.u**2) / 2) == pytest.approx(rms, rel=0.01)
    if not num_missing:
        columns = (0, 1) if "justq" in name else (1, 2)
        theirs = healpy.read_map(path, columns)
        np.testing.assert_allclose([found.q, found.u], 1e3 * np.array(theirs), rtol=1e-6)


@needs_real_files
def test_real_spectra_and_masks_are_no_maps():
    name = "cl_wmap_band_iqumap_r9_7yr_W_v4_udgraded32_IQU_lmax64_rmmono_3iter.fits"
    assert "holds spectra" in refusal(str(REAL / "odd" / name))
    message = refusal(str(REAL / "odd" / "Three_Masks_NSide8.fits"))
    assert "0 simulation, 1 simulation, 2 simulation" in message and "--fields" in message
