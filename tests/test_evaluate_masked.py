"""evaluate.py on part of the sky, against the exact answer that the maps give.

Draws of the exact posterior given the maps, as if a perfect network had been trained on them, pass;
each kind of wrong draw fails; and nowhere does the formula of the full sky stand for an answer.
"""

import dataclasses
import os
import shutil

import numpy as np
import pytest

import data_generation
import evaluate
from checks import inputs
from checks.exact_r import fisher_sigma
from checks.posterior_cache import PosteriorCache
from checks.posteriors import ExactPosteriors
from checks.skies import Skies
from runtime import jsonfiles, tables
from runtime.priors import Parameter
from runtime.records import Record, Sampled

ROWS, DRAWS = 500, 48
SKY = "--noise-uk-arcmin 1 --foregrounds none --nside 4 --num-samples 16"
R = {"range": "0-0.01", "one": "0.001", "null": "0"}
FILES = {
    "--data-file-noisy": "dl_noisy",
    "--data-file-gt": "dl_gt",
    "--param-file-gt": "r_gt",
    "--modes-file-noisy": "modes_noisy",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of three test sets."""
    folder = tmp_path_factory.mktemp("data")
    part = f"{SKY} --mask galactic:20"
    for words in (
        f"{part} --r-range 0 0.01 --num-test {ROWS} --out-dir {folder}",
        f"{part} --r 0.001 0 --num-test {ROWS} --out-dir {folder}",
    ):
        data_generation.main(words.split())
    return folder


@pytest.fixture(autouse=True)
def folder(data, tmp_path, monkeypatch):
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def path(flag, r):
    return f"{FILES[flag]}_r{R[r]}.npy"


def words_of(r, *left_out):
    """The arguments of a test set."""
    flags = [flag for flag in FILES if flag not in left_out and os.path.exists(path(flag, r))]
    return [word for flag in flags for word in (flag, path(flag, r))] + ["--out-dir", "out"]


class Posteriors:
    """Exact posteriors of a test set, and runs that are written from them."""

    def __init__(self, r, prior=None):
        loaded = {flag: tables.load_table(path(flag, r), (1, 2)) for flag in FILES if r == "range"
                  or flag != "--param-file-gt"}  # fmt: skip
        self.observed, truth = loaded["--data-file-noisy"], loaded["--data-file-gt"]
        known = loaded.get("--param-file-gt")
        parameters = {} if known is None else {"r": np.asarray(known.values)}
        self.skies = Skies.of(self.observed, truth, parameters)
        self.prior = truth.record.prior if prior is None else prior
        given = inputs.Inputs(self.skies, [], loaded["--modes-file-noisy"])
        self.cache = PosteriorCache(self.skies, evaluate.recover_maps(given))
        self.exact = self.cache.under(self.prior)

    def write(self, folder, x, r=None):
        """An output folder as sample.py leaves it."""
        sky, source = self.observed.record.sky, (self.observed.path, self.observed.sha256)
        sampled = Sampled("by hand", None, self.prior, sky, *source, self.observed.values.shape[1])
        os.makedirs(folder)
        for name, values in {"denoised": x.mean(1), "posterior_draws": x, "r_draws": r}.items():
            if values is not None:
                quantity = "posterior r" if name == "r_draws" else "posterior BB"
                tables.write_array(
                    f"{folder}/{name}.npy", values, Record(quantity, sampled=sampled)
                )


def failed(report, run):
    return {row["check"] for row in report["runs"][run]["checks"] if not row["passed"]}


def checks(report, run):
    return {row["check"] for row in report["runs"][run]["checks"]}


def markdown():
    with open("out/report.md", encoding="utf-8") as file:
        return file.read()


def evaluate_runs_of_a_range():
    posteriors, rng = Posteriors("range"), np.random.default_rng(1)
    r = posteriors.exact.r.rvs(DRAWS, rng)
    x = posteriors.exact.x.given(r, rng)
    mean, clip = r.mean(1, keepdims=True), (1e-7, 0.01 - 1e-7)
    truth = posteriors.skies.truth
    echo = np.stack([truth[rng.permutation(ROWS)] for _ in range(DRAWS)], 1)
    leak = posteriors.skies.r[:, None] + 0.3 * (r - mean)
    runs = {
        "exact": (x, r),
        "wide": (x, np.clip(mean + 1.2 * (r - mean), *clip)),
        "leak": (x, np.clip(leak, *clip)),
        "echo": (echo, rng.uniform(0, 0.01, r.shape)),
        "shuffled": (np.roll(x, 1, 0), np.roll(r, 1, 0)),
    }
    for name, drawn in runs.items():
        posteriors.write(name, *drawn)
    evaluate.main(["--runs", *runs, *words_of("range")])
    return posteriors, jsonfiles.read_json("out/report.json")


def test_a_range_of_r(capsys):
    posteriors, report = evaluate_runs_of_a_range()
    assert failed(report, "exact") == set()
    widths = {name for name in checks(report, "exact") if name.startswith("width of r")}
    assert len(widths) == 4 and widths <= failed(report, "wide")
    assert {"SBC of r, p", "TARP of the parameters, p"} <= failed(report, "wide")
    sigma = {name for name in checks(report, "exact") if name.startswith("sigma(r)")}
    assert len(sigma) == 5 and sigma <= failed(report, "leak")
    lost, own = "MSE lost by shuffled observations", "MSE above the map's optimum"
    deviation = "rms deviation of r from the map's, sigma"
    for name in ("echo", "shuffled"):
        wrong = failed(report, name)
        assert {lost, deviation, "TARP of D_ell, p", "TARP of the parameters, p"} <= wrong
        assert len([each for each in wrong if each.startswith(own)]) == 2
    assert "SBC of r, p" not in failed(report, "echo")  # calibration alone cannot see an echo
    # draws of p(r | y) are none of p(r | map): no PIT; and y is not blamed on the run
    entry = report["runs"]["exact"]
    assert not [name for name in checks(report, "exact") if "PIT" in name or "R2" in name]
    assert "pit_ks" not in entry and "pit_ks" not in entry["r"]
    assert 1 < entry["r"]["map"]["width_of_spectrum"] < 1.05
    assert entry["map"]["excess_of_spectrum"][1] > 1  # %
    assert np.abs(entry["map"]["excess_percent"]).max() < 1
    is_limits_of_part_of_the_sky(posteriors, entry)
    text = markdown()
    assert text in capsys.readouterr().out
    assert "58.3 % of the sky" in text and "which is wrong on part of the sky" in text
    assert "nan" not in text
    for name in evaluate.FIGURES + evaluate.R_FIGURES:
        assert os.path.getsize(f"out/{name}") > 0


def is_limits_of_part_of_the_sky(posteriors, entry):
    """Of the map, of its spectrum, and the rule of thumb, which nothing else is."""
    information = posteriors.exact.information
    contaminants = posteriors.observed.record.contaminants.mean_gaussian
    template = posteriors.observed.record.prior.signal_template
    for row in entry["r"]["sigma"]:
        limits = row["limits"]
        assert row["fisher"] == limits["map"] < limits["spectrum"] * (1 + 1e-6)
        assert limits["map"] == pytest.approx(information.limits(np.array([row["r"]])).map[0])
        assert limits["rule_over_map"] == pytest.approx(limits["rule_of_thumb"] / limits["map"])
        assert limits["rule_over_map"] < 0.98
        full = fisher_sigma(template, contaminants, row["r"])
        assert abs(row["fisher"] / full - 1) > 0.01 and abs(row["exact"] / full - 1) > 0.01


def test_one_r():
    posteriors, rng = Posteriors("one"), np.random.default_rng(1)
    x = posteriors.exact.x.rvs(DRAWS, rng)
    noisy = x * np.exp(0.3 * rng.standard_normal((ROWS, 1, x.shape[2])))
    for name, draws in {"exact": x, "noisy": noisy}.items():
        posteriors.write(name, draws)
    evaluate.main(["--runs", "exact", "noisy", *words_of("one")])
    report = jsonfiles.read_json("out/report.json")
    assert failed(report, "exact") == set()
    name = "MSE above the map's optimum, less the spectrum's own, worst of ell <= 8, %"
    assert name in failed(report, "noisy")
    entry = report["runs"]["exact"]["map"]
    # r is that for which the spectrum is the best one
    np.testing.assert_allclose(entry["excess_of_spectrum"], 0, atol=0.01)
    ratio, error = entry["squared_error_ratio"], entry["squared_error_ratio_error"]
    assert (np.abs(np.subtract(ratio, 1)) < 4 * np.array(error)).all()
    entry = report["runs"]["noisy"]["map"]
    excess = 100 * (np.array(entry["squared_error_ratio"]) - 1)
    errors = 100 * np.array(entry["squared_error_ratio_error"])
    assert (np.abs(excess - entry["excess_percent"]) < 4 * errors).all()


def test_no_tensors_on_the_sky():
    """Upper limits on r of skies without any: the prior is that of the run, beyond its columns."""
    wide = Posteriors("range").prior
    posteriors = Posteriors("null", wide)
    r = posteriors.exact.r.rvs(DRAWS, np.random.default_rng(1))
    x = np.ones((ROWS, DRAWS, 6))
    posteriors.write("null", x, r)
    evaluate.main(["--runs", "null", *words_of("null")])
    report = jsonfiles.read_json("out/report.json")
    assert failed(report, "null") == set()
    upper = report["runs"]["null"]["r"]["upper_limit_95"]
    assert upper["median"] == pytest.approx(upper["exact_median"], rel=0.1)
    assert "no_exact_answer" not in report["runs"]["null"]


def test_without_the_modes_the_truth_is_left(capsys):
    posteriors, rng = Posteriors("range"), np.random.default_rng(1)
    r = posteriors.exact.r.rvs(DRAWS, rng)
    posteriors.write("run", posteriors.exact.x.given(r, rng), r)
    evaluate.main(["--runs", "run", *words_of("range", "--modes-file-noisy")])
    captured = capsys.readouterr()
    assert "with --modes-file-noisy; the truth alone is left to judge by" in captured.err
    report = jsonfiles.read_json("out/report.json")
    entry = report["runs"]["run"]
    assert failed(report, "run") == set() and "--modes-file-noisy" in entry["no_exact_answer"]
    assert {(row["exact"], row["fisher"], row["limit"]) for row in entry["r"]["sigma"]} == {
        (None, None, None)
    }
    assert "excess_percent" not in entry and "map" not in entry and "map" not in entry["r"]
    assert {"SBC of r, p", "TARP of the parameters, p"} <= checks(report, "run")
    assert "Fisher" not in markdown() and "**No exact answer**" in markdown()


def test_what_is_unknown_is_said():
    posteriors = Posteriors("range")
    other = dataclasses.replace(posteriors.prior, parameters=(Parameter("A", 0, 1),))
    assert "not one of r alone" in posteriors.cache.under(other).missing
    template = posteriors.prior.signal_template
    brighter = dataclasses.replace(template, dl_per_r=1.1 * template.dl_per_r)
    another = dataclasses.replace(posteriors.prior, signal_template=brighter)
    assert "the model knows a signal" in posteriors.cache.under(another).missing
    # an ensemble of foregrounds
    record = posteriors.observed.record
    powers = dataclasses.replace(
        record.map_powers, dl_foregrounds=record.map_powers.dl_contaminant[None]
    )
    varied = dataclasses.replace(posteriors.observed, record=record.replace(map_powers=powers))
    skies = dataclasses.replace(posteriors.skies, observed=varied)
    modes = tables.load_table(path("--modes-file-noisy", "range"), 2)
    assert evaluate.recover_maps(inputs.Inputs(skies, [], modes)) is None
    found = ExactPosteriors.of(varied)
    assert "the law of their maps is unknown" in found.missing and found.model is None


def test_bad_usage(capsys):
    posteriors, rng = Posteriors("range"), np.random.default_rng(1)
    r = posteriors.exact.r.rvs(DRAWS, rng)
    posteriors.write("run", posteriors.exact.x.given(r, rng), r)
    u = np.load(path("--modes-file-noisy", "range"))
    np.save("shifted.npy", np.roll(u, 1, 0))
    np.save("short.npy", u[:-1])
    np.save("narrow.npy", u[:, :-1])
    words = ["--runs", "run", *words_of("range")]
    all_sky = []
    for flag in list(FILES)[:3]:
        table = tables.load_table(path(flag, "range"), (1, 2))
        sky = dataclasses.replace(table.record.sky, analysis=None)
        tables.write_array(f"full_{FILES[flag]}.npy", table.values, table.record.replace(sky=sky))
        all_sky += [flag, f"full_{FILES[flag]}.npy"]
    record = tables.load_table(path("--modes-file-noisy", "range"), 2).record
    tables.write_array("other.npy", u, record.replace(seed=1))
    before = sorted(os.listdir("."))
    for part, argv in {
        "names no mask": [*words, *all_sky],
        "seed = 1": [*words, "--modes-file-noisy", "other.npy"],
        "the spectrum of row 0 is not that of": [*words, "--modes-file-noisy", "shifted.npy"],
        "row for row": [*words, "--modes-file-noisy", "short.npy"],
        "has not the 140 modes": [*words, "--modes-file-noisy", "narrow.npy"],
        "holds observed BB": [*words, "--modes-file-noisy", path("--data-file-noisy", "range")],
    }.items():
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            evaluate.main(argv)
        err = capsys.readouterr().err
        assert caught.value.code == 2 and part in err and "Traceback" not in err
        assert len([line for line in err.splitlines() if "error" in line]) == 1
    assert sorted(os.listdir(".")) == before
