"""What comes from disk is checked: round trips and damage."""

import io
import json
import os
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from runtime import tables
from runtime.conventions import Conventions, Wanted
from runtime.errors import DivergedError, InputError
from runtime.records import Record

RELAXED = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def npy_bytes(array, **kwargs):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, **kwargs)
    return buffer.getvalue()


@pytest.fixture
def spectra_file(tmp_path):
    path = str(tmp_path / "dl.npy")
    values = np.random.default_rng(0).random((20, 6))
    tables.write_array(path, values, Record.from_json({"r": 0.001, "dl_signal": [1.0] * 6}))
    return path, values


def test_spectra_round_trip(spectra_file):
    path, values = spectra_file
    spectra = tables.load_spectra(path)
    assert np.array_equal(spectra.values, values)
    assert np.array_equal(spectra.ell, np.arange(2, 8))
    assert np.array_equal(spectra.record.prior.dl_signal, np.ones(6))
    assert spectra.record.contaminants.dl_contaminant is None
    assert sorted(os.listdir(os.path.dirname(path))) == ["dl.json", "dl.npy"]


def test_the_residual_is_the_contaminant_or_the_sum_of_its_parts():
    parts = dict(
        zip(
            ("dl_lensing", "dl_noise", "dl_gaussian_foreground"),
            ([1.0] * 3, [2.0] * 3, [4.0] * 3),
            strict=True,
        )
    )
    for content, expected in (
        ({**parts, "dl_contaminant": [9.0] * 3}, [9.0] * 3),
        (parts, [7.0] * 3),
        ({"dl_lensing": [1.0] * 3}, None),
    ):
        residual = Record.from_json(content).contaminants.mean_gaussian
        assert (None if residual is None else residual.tolist()) == expected


def test_a_bare_file_loads_with_a_note(spectra_file, capsys):
    path, values = spectra_file
    os.unlink(tables.sidecar_path(path))
    assert np.array_equal(tables.load_spectra(path).values, values)
    assert "unknown" in capsys.readouterr().err


GOOD = np.ones((4, 6))
BAD_ARRAYS = {
    "truncated": npy_bytes(GOOD)[:-8],
    "trailing": npy_bytes(GOOD) + b"x",
    "object dtype": npy_bytes(np.array([[{}]], dtype=object), allow_pickle=True),
    "complex": npy_bytes(np.ones((4, 6), complex)),
    "booleans": npy_bytes(np.ones((4, 6), bool)),
    "text dtype": npy_bytes(np.full((4, 6), "a")),
    "structured": npy_bytes(np.ones(4, [("a", "<f8")])),
    "no axis": npy_bytes(np.ones(())),
    "three axes": npy_bytes(np.ones((2, 2, 6))),
    "empty array": npy_bytes(np.ones((0, 6))),
    "NaN": npy_bytes(np.full((4, 6), np.nan)),
    "infinity": npy_bytes(np.full((4, 6), np.inf)),
    "empty file": b"",
    "text": b"hello",
    "huge header": b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little") + b"{" * 10000,
    "huge shape": npy_bytes(GOOD).replace(b"(4, 6)", b"(4444444444, 6)"),
}


@pytest.mark.parametrize("content", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_bad_arrays_are_refused_in_one_line(tmp_path, content):
    path = tmp_path / "bad.npy"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        tables.load_spectra(str(path))
    assert "bad.npy" in str(caught.value) and "\n" not in str(caught.value)


OF_OTHERS = {
    "integers": np.arange(24).reshape(4, 6),
    "bytes": np.arange(24, dtype="u1").reshape(4, 6),
    "big-endian": np.arange(24, dtype=">f8").reshape(4, 6),
    "big-endian float32": np.arange(24, dtype=">f4").reshape(4, 6),
    "float16": np.arange(24, dtype="<f2").reshape(4, 6),
    "long double": np.arange(24, dtype=np.longdouble).reshape(4, 6),
    "Fortran order": np.asfortranarray(np.arange(24.0).reshape(4, 6)),
    "negative": -np.arange(24.0).reshape(4, 6),
    "one axis": np.arange(6.0),
}


@pytest.mark.parametrize("array", OF_OTHERS.values(), ids=OF_OTHERS)
def test_arrays_of_others_load_as_they_come_but_not_as_our_own(tmp_path, array, capsys):
    """The same numbers give the same digest, which runs are known by, however they were stored."""
    path = tmp_path / "own.npy"
    path.write_bytes(npy_bytes(array))
    table = tables.load_spectra(str(path))
    rows = np.atleast_2d(array).astype("<f8")
    assert np.array_equal(table.values, rows) and table.values.flags.c_contiguous
    assert capsys.readouterr().err.count("\n") == 1
    plain = tmp_path / "plain.npy"
    plain.write_bytes(npy_bytes(rows.copy()))
    assert table.sha256 == tables.load_spectra(str(plain)).sha256
    # with a record of ours, digest and all, it must be what we write
    record = {"num_samples": len(array), "ell": list(range(2, 8)), "sha256": table.sha256}
    (tmp_path / "own.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"own\.npy"):
        tables.load_spectra(str(path))


def test_a_plain_array_of_others_stays_on_disk(tmp_path):
    for dtype in ("<f8", "<f4"):
        path = tmp_path / "own.npy"
        path.write_bytes(npy_bytes(np.ones((4, 6), dtype)))
        values = tables.load_spectra(str(path)).values
        assert isinstance(values, np.memmap) and values._mmap is not None
    values = tables.load_spectra(str(path), Conventions(ell_min=2), Wanted(6)).values
    assert isinstance(values, np.memmap)


def test_a_value_without_logarithm_is_named_with_its_place(tmp_path):
    """The first one, in whichever chunk of the file, and how many there are."""
    values = np.ones((60_000, 6))
    values[50_000, 3], values[59_999, 0] = -2e-6, 0
    path = str(tmp_path / "own.npy")
    np.save(path, values)
    table = tables.load_spectra(path)
    with pytest.raises(InputError) as caught:
        tables.check_positive(table, "do this")
    for part in (
        "own.npy",
        "-2e-06 in row 50000, column 3 (ell = 5)",
        "2 of its 360000",
        "do this",
    ):
        assert part in str(caught.value)
    only_first = np.arange(6) == 0
    with pytest.raises(InputError, match="holds 0 in row 59999, column 0 .*1 of its .* values is"):
        tables.check_positive(table, "", only_first)
    tables.check_positive(table, "", np.arange(6) == 1)


def test_a_negative_value_of_an_auto_spectrum_is_named_with_its_place(tmp_path):
    values = np.ones((4, 6))
    values[2, 1] = -3.0
    path = str(tmp_path / "dl.npy")
    for unit in ("uK^2", None):
        tables.write_array(path, values, Record(unit=unit))
        with pytest.raises(InputError, match=r"-3 in row 2, column 1 \(ell = 3\); 1 of .*auto"):
            tables.load_spectra(path)
    tables.write_array(path, values, Record(quantity="posterior A", unit="1"))
    assert tables.load_table(path, 2).values.min() == -3


def test_missing_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\..*cannot be read"):
        tables.load_spectra(str(tmp_path / "gone.npy"))


@RELAXED
@given(
    array=hnp.arrays(
        st.sampled_from(["<f8", "<f4", ">f8", "<i8", "<c16", "?", "<f2"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    )
)
def test_any_array_loads_whole_or_is_refused(tmp_path, array):
    path = tmp_path / "any.npy"
    path.write_bytes(npy_bytes(array))
    try:
        values = tables.load_spectra(str(path)).values
    except InputError:
        return
    assert np.array_equal(values, np.atleast_2d(array)) and array.dtype.kind in "fi"


@RELAXED
@given(data=st.data())
def test_a_mutated_pair_is_refused_or_unchanged(spectra_file, data):
    path, values = spectra_file
    target = data.draw(st.sampled_from([path, tables.sidecar_path(path)]))
    with open(target, "rb") as file:
        original = file.read()
    position = data.draw(st.integers(0, len(original) - 1))
    mutated = bytearray(original)
    mutated[position] ^= data.draw(st.integers(1, 255))
    try:
        with open(target, "wb") as file:
            file.write(mutated)
        try:
            spectra = tables.load_spectra(path)
        except InputError:
            return
        assert np.array_equal(spectra.values, values)
    finally:
        with open(target, "wb") as file:
            file.write(original)


@pytest.mark.parametrize(
    "change",
    [
        {"ell": [1, 2, 3]},
        {"num_samples": 7},
        {"r": -1},
        {"r": "x"},
        {"dl_signal": [1.0]},
        {"dl_contaminant": [-1.0] * 6},
        {"sha256": "0"},
    ],
)
def test_a_sidecar_that_does_not_fit_is_refused(spectra_file, change):
    sidecar = tables.sidecar_path(spectra_file[0])
    with open(sidecar) as file:
        content = json.load(file)
    with open(sidecar, "w") as file:
        json.dump({**content, **change}, file)
    with pytest.raises(InputError, match=next(iter(change)).replace("sha256", "SHA-256")):
        tables.load_spectra(spectra_file[0])


def test_a_writer_that_stops_early_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="2 rows written of 3"):  # noqa: SIM117
        with tables.ArrayWriter(str(tmp_path / "dl.npy"), (3, 4), {}) as writer:
            writer.append(np.ones((2, 4)))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_writer_lets_only_finite_rows_out(wrong, tmp_path):
    """Whatever made the row: neither the array nor its sidecar appears."""
    path = str(tmp_path / "dl.npy")
    with pytest.raises(DivergedError, match=re.escape(path)):  # noqa: SIM117
        with tables.ArrayWriter(path, (3, 4), {}) as writer:
            writer.append(np.ones((2, 4)))
            writer.append(np.array([[1.0, 1.0, wrong, 1.0]]))
    assert os.listdir(tmp_path) == []


GOOD_PRIOR = {
    "r_range": [0.0, 0.01],
    "signal_template": {"r_nodes": [0.002, 0.008], "dl_per_r": [[1.0] * 6] * 2},
}
BAD_PRIORS = {
    "no range": {"signal_template": GOOD_PRIOR["signal_template"]},
    "reversed range": {**GOOD_PRIOR, "r_range": [0.01, 0.0]},
    "text": {**GOOD_PRIOR, "signal_template": {"r_nodes": ["x"], "dl_per_r": [[1.0] * 6]}},
    "ragged": {**GOOD_PRIOR, "signal_template": {"r_nodes": [1, 2], "dl_per_r": [[1.0], [1, 2]]}},
    "too few spectra": {
        **GOOD_PRIOR,
        "signal_template": {"r_nodes": [0.002, 0.008], "dl_per_r": [[1.0] * 6]},
    },
    "other multipoles": {
        **GOOD_PRIOR,
        "signal_template": {"r_nodes": [0.002, 0.008], "dl_per_r": [[1.0] * 5] * 2},
    },
}


@pytest.mark.parametrize("prior", BAD_PRIORS.values(), ids=BAD_PRIORS)
def test_a_damaged_prior_is_refused(prior, tmp_path):
    path = str(tmp_path / "dl.npy")
    tables.write_array(path, np.ones((20, 6)), Record(extra=prior))
    with pytest.raises(InputError, match=r"dl\.json"):
        tables.load_spectra(path)


def test_r_is_read_with_its_prior_or_not_at_all(tmp_path):
    path = str(tmp_path / "r.npy")
    record = Record.from_json({**GOOD_PRIOR, "quantity": "r"})
    tables.write_array(path, np.linspace(0.001, 0.009, 20), record)
    table = tables.load_r(path)
    prior = table.record.prior
    assert prior.r_range == (0.0, 0.01)
    np.testing.assert_allclose(prior.signal_template(np.array([0.004])), 0.004)
    for values, wrong in (
        (np.linspace(0.001, 0.02, 20), record),
        (np.linspace(0.0, 0.009, 20), record),
        (np.linspace(0.001, 0.009, 20), Record(quantity="r")),
    ):
        tables.write_array(path, values, wrong)
        with pytest.raises(InputError, match=r"r\.npy"):
            tables.load_r(path)
    tables.write_array(path, np.ones((20, 6)), Record.from_json(GOOD_PRIOR))
    with pytest.raises(InputError, match="shape"):
        tables.load_r(path)
