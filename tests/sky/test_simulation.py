"""The Python interface: the rows of the script, whatever the chunks, and what it refuses."""

import dataclasses
import json

import numpy as np
import pytest

import data_generation
from runtime import tables
from runtime.errors import InputError
from runtime.priors import Parameter, Prior, SignalTemplate
from sky import masked_simulator, observation, outputs, simulation, simulator

pytestmark = pytest.mark.usefixtures("cached_lensing")

HILC = observation.Hilc(weights_from="sky")
ECHO = "--instrument echo --clean hilc --bands 45 145 340"
SAME = {
    "one r": ("--r 0.01 --foregrounds none --noise-uk-arcmin 1", "0.01", 0.01),
    "a range": ("--r-range 0 0.01 --foregrounds none --noise-uk-arcmin 1", "0-0.01", (0, 0.01)),
    "cleaned": (f"--r-range 0 0.01 {ECHO}", "0-0.01", (0, 0.01)),
}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(("words", "label", "r"), SAME.values(), ids=SAME.keys())
def test_simulate_gives_the_rows_of_the_script(words, label, r, split, generate, tmp_path):
    """In a notebook: the same rows, the same record."""
    load = generate(*words.split(), "--seed", 5, rows=60)
    cleaned = "hilc" in words
    names = ("gaussian",) if cleaned else ("none",)
    seen = observation.Observation.in_one_band(noise_uk_arcmin=1.0)
    if cleaned:
        seen = observation.Observation.with_instrument("echo", HILC, (45, 145, 340))
    model = observation.SkyModel(nside=8, foregrounds=names)
    pairs = simulation.simulate(r, 60, model, seen, seed=5, split=split)
    truth, observed = (("gt", "noisy"), ("train", "train_noisy"))[split == "train"]
    stored = load(f"dl_{observed}_r{label}")
    np.testing.assert_array_equal(pairs.x, load(f"dl_{truth}_r{label}").values)
    np.testing.assert_array_equal(pairs.y, stored.values)
    np.testing.assert_array_equal(pairs.ell, stored.ell)
    if isinstance(r, tuple):
        r_stored = tables.load_r(str(tmp_path / "data" / f"r_{truth}_r{label}.npy")).values
        np.testing.assert_array_equal(pairs.r, r_stored)
    else:
        assert (pairs.r == r).all() and pairs.r.shape == (60,)
    on_disk = stored.record.to_json()
    for key, value in json.loads(json.dumps(pairs.record.to_json())).items():
        assert on_disk[key] == value, key


def test_control_simulate_knows_seed_split_and_noise():
    model = observation.SkyModel(nside=8, foregrounds=("none",))
    pairs = simulation.simulate(0.01, 20, model)
    loud = observation.Observation.in_one_band(noise_uk_arcmin=30.0)
    for other in (
        simulation.simulate(0.01, 20, model, seed=1),
        simulation.simulate(0.01, 20, model, split="test"),
        simulation.simulate(0.01, 20, model, loud),
    ):
        assert not (pairs.y == other.y).any()


def make_simulator(words):
    """The simulator of a command line."""
    config = data_generation.parse_arguments(["--nside", "8", *words.split()])
    return simulation.make_simulator(config.model, config.observation)


@pytest.mark.parametrize("r", [(0.001,), (0.0, 0.01)], ids=["one r", "a range"])
@pytest.mark.parametrize(
    "words",
    [
        "--foregrounds none",
        "--foregrounds gaussian-ensemble",
        f"{ECHO} --ilc-weights model --foregrounds gaussian-ensemble",
        f"{ECHO} --ilc-weights sky --foregrounds gaussian",
        f"{ECHO} --ilc-weights sky --foregrounds gaussian-ensemble",
    ],
)
def test_chunks_leave_no_trace(r, words):
    prior = Prior(r=r[0], dl_signal=np.ones(14))
    if len(r) == 2:
        template = SignalTemplate(np.array([0.002, 0.008]), np.ones((2, 14)))
        prior = Prior(parameters=(Parameter("r", *r),), signal_template=template)
    drawn = make_simulator(words)
    files = []
    for chunk_rows in (1, 33, 1000):
        rows = simulation.RowSet(drawn, prior, 0, "train", 100)
        chunks = [chunk for _, chunk in rows.chunks(0, chunk_rows)]
        assert max(len(chunk.x) for chunk in chunks) <= chunk_rows
        names = ("x", "y", "r") if len(r) == 2 else ("x", "y")
        files.append([np.concatenate([getattr(c, n) for c in chunks]).tobytes() for n in names])
    assert files[0] == files[1] == files[2]


@pytest.mark.parametrize("words", ["--foregrounds none", f"{ECHO} --ilc-weights sky", "--mask"])
def test_blocks_share_no_random_number(words, monkeypatch):
    """No two rows are alike, in any column, whatever block they are of."""
    if words == "--mask":
        words = "--mask galactic:20 --foregrounds none --noise-uk-arcmin 1"
    monkeypatch.setattr(simulator, "BLOCK_ROWS", 4)
    monkeypatch.setattr(masked_simulator, "BLOCK_ROWS", 4)
    drawn = make_simulator(words)
    rows = simulation.RowSet(drawn, simulation.make_prior((0.0, 0.01), drawn), 0, "train", 10)
    assert rows.num_blocks == 3
    numbered = [pair for block in range(3) for pair in rows.chunks(block)]
    assert [first for first, _ in numbered] == [0, 4, 8]
    for name in ("x", "y", "r"):
        values = np.concatenate([getattr(chunk, name) for _, chunk in numbered])
        assert len(values) == 10
        for column in values.reshape(10, -1).T:
            assert len(np.unique(column)) == 10


WRONG = {
    "negative": (lambda: simulation.simulate(-0.1, 5), "r: must be a number, 0 or above"),
    "reversed": (lambda: simulation.simulate((0.1, 0), 5), "r: must be a number, 0 or above"),
    "not finite": (lambda: simulation.simulate(np.nan, 5), "r: must be a number, 0 or above"),
    "infinite": (lambda: simulation.simulate((0, np.inf), 5), "r: must be a number, 0 or above"),
    "string": (lambda: observation.SkyModel(foregrounds="none"), "must be a tuple of names"),
    "none": (lambda: observation.SkyModel(foregrounds=()), "must be a tuple of names"),
    "none and d1": (
        lambda: observation.SkyModel(foregrounds=("none", "d1")),
        "none goes with no other name",
    ),
    "twice": (lambda: observation.SkyModel(foregrounds=("d1", "d1")), "stands there twice"),
    "preset": (
        lambda: simulation.simulate(0.1, 5, observation.SkyModel(foregrounds=("d99",))),
        "d99: PySM3 has no such preset",
    ),
    "two bands": (
        lambda: observation.Observation((observation.SINGLE_BAND,) * 2),
        "needs a cleaning",
    ),
    "weights": (lambda: observation.Hilc(weights_from="skies"), "weights_from: must be sky or"),
    "bins": (lambda: observation.Hilc(bins=(2, 9)).edges(8), "must rise from 2 to 2.nside = 16"),
    "split": (lambda: simulation.simulate(0.1, 5, split="gt"), "split: must be one of train"),
}


@pytest.mark.parametrize(("call", "named"), WRONG.values(), ids=WRONG.keys())
def test_the_python_interface_names_what_is_wrong(call, named):
    with pytest.raises(InputError, match=named):
        call()


def test_what_is_asked_for_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        observation.DEFAULT_SKY.nside = 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        data_generation.parse_arguments([]).seed = 4


def test_labels_of_r_are_short_and_distinct():
    """Names of files: the usual ones as they were, no two r alike, none too long for a disk."""
    usual = {0.0: "0", 0.001: "0.001", 1e-5: "0.00001", 1e-6: "0.000001", 0.3: "0.3", 5.0: "5"}
    assert {r: outputs.file_label([r]) for r in usual} == usual
    assert outputs.file_label([0.0, 0.01]) == "0-0.01"
    assert outputs.file_label([1e-300]) == "1e-300" and outputs.file_label([1e300]) == "1e+300"
    rng = np.random.default_rng(0)
    r = 10 ** rng.uniform(-320, 308, 2000)
    r = np.unique(np.concatenate([r, np.nextafter(r, 0), [1e-6, np.nextafter(1e-6, 0), 1e6]]))
    labels = {outputs.file_label([value]) for value in r}
    assert len(labels) == len(r) and max(map(len, labels)) < 30
