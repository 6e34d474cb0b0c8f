"""Spectra of other people: understood as they say or as flags say, or refused."""

import gzip
import io
import pathlib
import zipfile

import healpy
import numpy as np
import pytest
from astropy.io import fits

from runtime import formats, tables
from runtime.conventions import UNSAID, Conventions, Wanted, read_spectra
from runtime.errors import InputError

REAL = pathlib.Path(__file__).parents[3] / "shared" / "real-data"
needs_real_files = pytest.mark.skipif(
    not REAL.is_dir(), reason="no files of other people in ../shared/real-data"
)
N_ELL, LAST = 30, 100
WANTED = Wanted(N_ELL)
ELL = np.arange(2, 2 + N_ELL)
FULL = np.arange(LAST + 1)  # multipoles of the files
DL = 1e-5 * (FULL + 1.5) ** 0.7  # of these, uK^2
DL[5] *= -1  # as a spectrum without noise bias may be
CL = np.divide(2 * np.pi * DL, FULL * (FULL + 1), out=np.zeros(LAST + 1), where=FULL > 0)
OTHER = 1e3 * DL  # another spectrum


def text(columns, header="", separator=" "):
    rows = (separator.join(f"{value:.17g}" for value in row) for row in zip(*columns, strict=True))
    return (header + "\n".join(rows) + "\n").encode()


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy(array, **kwargs):
    file = io.BytesIO()
    np.save(file, array, **kwargs)
    return file.getvalue()


def write_cl(*spectra, **kwargs):
    """The bytes of healpy.write_cl."""
    file = pathlib.Path("cl.fits")
    healpy.write_cl(str(file), spectra if len(spectra) > 1 else spectra[0], **kwargs)
    content = file.read_bytes()
    file.unlink()
    return content


def ascii_table(**columns):
    made = [fits.Column(k, "E25.17", array=v, ascii=True) for k, v in columns.items()]
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.TableHDU.from_columns(made)]).writeto(file)
    return file.getvalue()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, content):
    content = content() if callable(content) else content
    pathlib.Path(name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return name


FROM_2 = FULL[2:], OTHER[2:], OTHER[2:], DL[2:], OTHER[2:]
CAMB = "#    L    TT             EE             BB             TE\n"
CLASS = "# dimensional [l(l+1)/2pi] C_l's\n#    1:l   2:TT   3:EE   4:BB   5:TE\n"
UNDERSTOOD = {  # the same spectrum each time
    "bare.npy": npy(DL[2 : 2 + N_ELL]),
    "row.npy": npy(DL[None, 2 : 2 + N_ELL].astype(">f8")),
    "one.npz": npz(dl=DL[2 : 2 + N_ELL]),
    "fortran.npz": npz(dl=np.asfortranarray(np.stack([DL[2 : 2 + N_ELL]] * 2))),
    "camb.dat": text(FROM_2, CAMB),
    "camb.dat.gz": text(FROM_2, CAMB),
    "class.dat": text(FROM_2, CLASS),
    "fortran.txt": text(FROM_2, CAMB).replace(b"e-", b"D-"),
    "two.txt": text((FULL, DL)),
    "own words.txt": text((FULL, DL), "# made by me\n# ell power\n"),
    "planck.txt": text((FULL[2:], DL[2:], DL[2:]), "# l  Dl  -dDl\n"),
    "one.dat": text((DL[2 : 2 + N_ELL],)),
    "comma.csv": text((FULL, OTHER, DL), "ell,EE,BB\n", ","),
    "spaced.csv": text((FULL, OTHER, DL), '"ell"; "EE"; "D_ell^BB [uK^2]"\n', "; "),
    "excel.csv": b"\xef\xbb\xbf" + text((FULL, DL), "L,BB\n", ",").replace(b"\n", b",\r\n"),
    "units.txt": text((FULL, 1e-12 * DL), "# ell BB (K^2)\n"),
    "named.txt": text((FULL, 1e-6 * CL), "# ell C_ell^{BB}[mK^2]\n"),
    "healpy.fits": lambda: write_cl(0 * CL, OTHER, CL, OTHER),
    "healpy.fits.gz": lambda: write_cl(0 * CL, OTHER, CL, OTHER),
    "alone.fits": lambda: write_cl(CL),
    "units.fits": lambda: write_cl(0 * CL, OTHER, 1e-12 * CL, column_units="K^2"),
    "big.fits": lambda: write_cl(CL, OTHER, column_names=["BB", "EE"]),
    "ell.fits": lambda: write_cl(1.0 * FULL[2:], DL[2:], column_names=["ELL", "DL_BB"]),
    "anafast.fits": ascii_table(TEMPERATURE=OTHER, GRADIENT=OTHER, CURL=CL),
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_a_spectrum_is_understood_in_each_format(name, capsys):
    table = tables.load_spectra(write(name, UNDERSTOOD[name]), UNSAID, WANTED)
    expected = np.broadcast_to(DL[2 : 2 + N_ELL], table.values.shape)
    # ASCII tables of FITS have 15 digits at least
    np.testing.assert_allclose(table.values, expected, rtol=1e-13)
    assert not table.record.known
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith(f"{name}: ") and "understood as" in said


def test_how_it_was_understood_is_told(capsys):
    for name, words in {
        "camb.dat": "one spectrum, its column BB, as D_ell in uK^2, ell = 2-100, of which 2-31",
        "healpy.fits": "its column CURL, as C_ell in uK^2, ell = 0-100, of which 2-31 are used, c",
        "units.txt": "its column BB(K^2), as D_ell in K^2, ell = 0-100, of which 2-31 are used, c",
        "fortran.npz": "2 spectra, all columns of its array 'dl', as D_ell in uK^2, ell = 2-31\n",
    }.items():
        tables.load_spectra(write(name, UNDERSTOOD[name]), UNSAID, WANTED)
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("quantity", ["dl", "cl"])
@pytest.mark.parametrize(("units", "factor"), [("uK2", 1), ("mK2", 1e-6), ("K2", 1e-12)])
@pytest.mark.parametrize("first", [0, 1, 2])
def test_flags_say_what_the_file_does_not(quantity, units, factor, first):
    values = factor * (DL if quantity == "dl" else CL)[first:]
    conventions = Conventions(first, units, quantity)
    for name, content in {
        "a.npy": npy(values),
        "a.txt": text((values,)),
        "a.fits": lambda: write_cl(values, values, values),
    }.items():
        found, _ = read_spectra(write(name, content), conventions, WANTED)
        np.testing.assert_allclose(found[0], DL[2 : 2 + N_ELL], rtol=1e-12)


def test_without_a_model_all_multipoles_from_2_are_read():
    found, words = read_spectra(write("a.fits", lambda: write_cl(CL, CL, CL)))
    np.testing.assert_allclose(found[0], DL[2:], rtol=1e-12)
    assert read_spectra(write("a.npy", npy(np.ones((3, 7)))))[0].shape == (3, 7)


BANDS = Wanted(12, multipoles=False)


def test_bands_are_taken_as_they_stand():
    """Whatever their centres, for a model that observes no multipoles."""
    values = np.linspace(-1, 1, 12)
    centres = 37.5 + 35 * np.arange(12)
    for name, content in {
        "a.npy": npy(values),
        "a.txt": text((values,)),
        "index.txt": text((np.arange(1, 13), values)),
        "centres.txt": text((centres, values)),
    }.items():
        found, words = read_spectra(write(name, content), UNSAID, BANDS)
        assert np.array_equal(found, values[None]) and "12 numbers as they stand" in words
    found, words = read_spectra("a.npy", Conventions(units="K2"), BANDS)
    assert np.array_equal(found, 1e12 * values[None])
    for wrong in (Conventions(ell_min=2), Conventions(quantity="cl")):
        with pytest.raises(InputError, match="does not observe multipoles"):
            read_spectra("a.npy", wrong, BANDS)
    with pytest.raises(InputError, match="has 1 columns, the model observes 12; is it transposed"):
        read_spectra(write("t.npy", npy(values[:, None])), UNSAID, BANDS)


NAMED = b"# ell TT EE BB TE\n"
REFUSED = {  # name: content, flags, part of the message
    "five.txt": (text(FROM_2), {}, "5 columns that no header names; write a line such as"),
    "no BB.txt": (text((FULL, OTHER, OTHER), "# ell TT EE\n"), {}, "no column is named BB"),
    "TT.txt": (text((FULL, OTHER), "# ell TT\n"), {}, "no column is named BB"),
    "twice.txt": (text((FULL, DL, DL), "# ell BB BB\n"), {}, "more than one column is named BB"),
    "late.txt": (text((FULL[30:], DL[30:])), {}, "28 are missing, from ell = 2 on"),
    "early.txt": (text((FULL[:20], DL[:20])), {}, "12 are missing, from ell = 20 on"),
    "gap.txt": (text((FULL[::2], DL[::2])), {}, "multipoles that follow each other"),
    "centres.txt": (text((FULL + 0.5, DL)), {}, "multipoles that follow each other"),
    "nan ell.txt": (b"nan 1\n2 1\n", {}, "multipoles that follow each other"),
    "ragged.txt": (b"2 1\n3 1 4\n", {}, "line 2 does not hold 2 numbers"),
    "words.txt": (b"2 1\n3 x\n", {}, "line 2 does not hold 2 numbers"),
    "underscore.txt": (b"2 1\n3 1_0\n", {}, "line 2 does not hold 2 numbers"),
    "empty.txt": (b"", {}, "holds no numbers"),
    "only words.txt": (b"hello\n", {}, "holds no numbers"),
    "latin.txt": (b"# \xb5K\n2 1\n", {}, "is not a text file"),
    "many.npy": (npy(np.ones(60)), {}, "has 60 columns, .* --ell-min which multipole"),
    "turned.npy": (npy(np.ones((N_ELL, 2))), {}, "is it transposed"),
    "cube.npy": (npy(np.ones((2, 2, N_ELL))), {}, "needed is one spectrum"),
    "bool.npy": (npy(np.ones(N_ELL, bool)), {}, "has dtype .b1; save real numbers"),
    "two.npz": (npz(a=DL, b=DL), {}, r"holds 2 arrays \('a', 'b'\); save the one"),
    "object.npz": (npz(a=np.array([{}])), {}, "holds Python objects"),
    "text.npz": (b"hello", {}, "is not a .npz file"),
    "text.fits": (b"hello", {}, "is not a FITS file"),
    "packed.dat.gz": (b"", {}, "holds no numbers"),
    "units flag.txt": (text((FULL, DL), "# ell BB(K^2)\n"), {"units": "uK2"}, "says K2 itself"),
    "cl flag.txt": (text((FULL, DL), "# ell DL_BB\n"), {"quantity": "cl"}, "says dl itself"),
    "ell flag.txt": (text((FULL, DL)), {"ell_min": 2}, "a column of ell that starts at 0"),
    "infinite.txt": (text((FULL, np.full(LAST + 1, 1e300))), {"units": "K2"}, "NaN or infinity"),
    "nan.txt": (text((FULL, np.full(LAST + 1, np.nan))), {}, "NaN or infinity"),
    "spectrum.doc": (b"", {}, "does not end in one of .npy, .npz"),
    "spectrum.npy.gz": (npy(DL), {}, "does not end in one of .npy, .npz"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_is_refused_in_one_line(name):
    content, flags, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as caught:
        tables.load_spectra(write(name, content), Conventions(**flags), WANTED)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_what_lies_outside_of_the_model_may_be_missing():
    values = DL.copy()
    values[[0, 1, -1]] = np.nan
    found = tables.load_spectra(write("a.txt", text((FULL, values))), UNSAID, WANTED)
    np.testing.assert_allclose(found.values[0], DL[2 : 2 + N_ELL], rtol=1e-15)


def test_flags_do_not_reinterpret_a_file_with_a_record():
    tables.write_array("dl.npy", np.ones((2, N_ELL)), tables.Record(unit="uK^2"))
    tables.load_spectra("dl.npy", UNSAID, WANTED)
    for flag, value in (("ell_min", 2), ("units", "K2"), ("quantity", "dl")):
        word = f"--{flag.replace('_', '-')}"
        with pytest.raises(InputError, match=rf"{word}: dl\.npy has a record, dl\.json"):
            tables.load_spectra("dl.npy", Conventions(**{flag: value}), WANTED)


def fits_of(header, data=b""):
    """A FITS file with a table whose header says anything."""
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU()]).writeto(file)
    cards = {"XTENSION": "BINTABLE", "BITPIX": 8, "NAXIS": 2, **header}
    lines = [fits.Card(k, v).image for k, v in cards.items()] + ["END"]
    return file.getvalue() + "".join(f"{line:80}" for line in lines).encode().ljust(2880) + data


WIDE = {"NAXIS1": 8, "NAXIS2": 10**12, "PCOUNT": 0, "GCOUNT": 1, "TFIELDS": 1, "TTYPE1": "BB"}
HEAP = {**WIDE, "NAXIS1": 8, "NAXIS2": 2, "TFORM1": "1PD(1000000000)"}


def zipped(content, name="a.npy"):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def healpix_map():
    healpy.write_map("map.fits", np.ones(192), dtype=float)  # its column is named TEMPERATURE
    return pathlib.Path("map.fits").read_bytes()


HOSTILE = {
    "a map.fits": healpix_map,
    "named twice.fits": lambda: fits_of(
        {**WIDE, "NAXIS1": 16, "NAXIS2": 2, "TFIELDS": 2, "TTYPE2": "BB"}
        | {"TFORM1": "D", "TFORM2": "D"},
        bytes(2880),
    ),
    "bomb.dat.gz": lambda: b"1 1\n" * (formats.MAX_TEXT_BYTES // 4 + 1),
    "long.txt": lambda: b"1 1\n" * (formats.MAX_TEXT_BYTES // 4),
    "wide.txt": lambda: b"1 " * (formats.MAX_TEXT_BYTES // 2),
    "words.txt": lambda: b"a " * (formats.MAX_TEXT_BYTES // 2),
    "lines.txt": lambda: b"a\n" * (formats.MAX_TEXT_BYTES // 2),
    "spaces.txt": lambda: b" " * (formats.MAX_TEXT_BYTES - 1) + b"x",
    "bomb.fits.gz": lambda: bytes(formats.MAX_BYTES + 1),
    "bomb.npz": lambda: zipped(npy(np.zeros(formats.MAX_BYTES // 8))),
    "pickle.npz": lambda: zipped(npy(np.array([{}], object), allow_pickle=True)),
    "shape.npz": lambda: zipped(npy(np.ones(5)).replace(b"(5,)", b"(5" + b"0" * 12 + b",)")),
    "rows.fits": lambda: fits_of({**WIDE, "TFORM1": "D"}),
    "vector.fits": lambda: fits_of(
        {**WIDE, "NAXIS1": 16, "NAXIS2": 2, "TFORM1": "2D"}, bytes(2880)
    ),
    "heap.fits": lambda: fits_of(HEAP, bytes(2880)),
    "huge heap.fits": lambda: fits_of({**HEAP, "PCOUNT": 10**13}, bytes(2880)),
    "negative.fits": lambda: fits_of({**WIDE, "NAXIS2": -5, "TFORM1": "D"}),
    "text.fits": lambda: fits_of({**WIDE, "NAXIS2": 2, "TFORM1": "8A"}, bytes(2880)),
    "ell.txt": lambda: b"1e300 1\n2e300 1\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_one_line(name):
    with pytest.raises(InputError) as caught:
        tables.load_spectra(write(name, HOSTILE[name]), UNSAID, WANTED)
    assert name in str(caught.value) and "\n" not in str(caught.value)


DAMAGED = ["one.npz", "camb.dat", "comma.csv", "healpy.fits", "anafast.fits", "camb.dat.gz"]


@pytest.mark.parametrize("name", DAMAGED)
def test_any_damage_is_refused_or_read_as_numbers(name):
    """Text and FITS have no checksum: one line, or an array of its size."""
    from test_mutations import damaged_files

    original = pathlib.Path(write(name, UNDERSTOOD[name])).read_bytes()
    for _ in damaged_files(name, original, 400, seed=1):
        try:
            values = tables.load_spectra(name, UNSAID, WANTED).values
        except InputError as error:
            assert name in str(error) and "\n" not in str(error)
        else:
            assert values.shape[1] == N_ELL and np.isfinite(values).all()


@needs_real_files
def test_a_real_spectrum_of_anafast(capsys):
    path = REAL / "odd" / "cl_wmap_band_iqumap_r9_7yr_W_v4_udgraded32_IQU_lmax64_rmmono_3iter.fits"
    found = tables.load_spectra(str(path), Conventions(units="mK2"), WANTED)
    with fits.open(path) as units:
        cl = np.asarray(units[1].data["CURL"], float)[ELL]
    np.testing.assert_allclose(found.values[0], 1e6 * ELL * (ELL + 1) / 2 / np.pi * cl, rtol=1e-12)
    assert "its column CURL, as C_ell in mK^2, ell = 0-64" in capsys.readouterr().err


@needs_real_files
@pytest.mark.parametrize(
    ("name", "message"),
    {
        "odd/wmap_band_iqumap_r9_7yr_W_v4_udgraded32_smoothed10deg_fortran.fits": "is a map",
        "odd/Three_Masks_NSide8.fits": "two of its columns have one name",
        "odd/norm_nHits_SA_35FOV.fits": "is a map; healpy",
        "odd/justq_gal2ecl.fits.gz": "is a map; healpy",
        "wmap7/wmap_band_iqumap_r9_7yr_V_v4_udgraded32.fits": "is a map; healpy",
        "bkp2015/BKPlanck_detset_comb_cl_hat.dat": "columns that no header names",
        "bkp2015/windows/BKPlanck_detset_comb_bpwf_bin1.txt": "columns that no header names",
        "bkp2015/bandpass_B2K.txt": "multipoles that follow each other",
    }.items(),
)
def test_real_files_that_hold_no_spectrum_are_refused(name, message):
    with pytest.raises(InputError, match=message) as caught:
        tables.load_spectra(str(REAL / name), UNSAID, WANTED)
    assert "\n" not in str(caught.value)
