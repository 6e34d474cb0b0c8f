"""evaluate.py on runs whose worth is known: exact draws pass, each kind of wrong draw fails."""

import hashlib
import os

import numpy as np
import pytest

import evaluate
from checks import r as r_checks
from checks.exact import GaussianPosterior, wiener
from checks.exact_r import ObservationModel, RPosterior, fisher_sigma
from checks.noncentral import degrees
from checks.posteriors import ExactPosteriors
from checks.run import Run
from checks.skies import Skies
from runtime import jsonfiles, priors, tables
from runtime.priors import Prior
from runtime.records import Record, Sampled, Sky
from sky import realisations

N_ELL, ROWS, DRAWS = 6, 600, 40
NOISE = np.full(N_ELL, 2e-5)
GAUSSIAN_PARTS = ("dl_lensing", "dl_noise", "dl_gaussian_foreground")
PARTS = dict(zip(GAUSSIAN_PARTS, np.outer([0.5, 0.3, 0.2], NOISE).tolist(), strict=True))
TEMPLATE = priors.SignalTemplate(
    np.array([0.002, 0.008]), np.array([[1e-2] * N_ELL, [1.1e-2] * N_ELL])
)
NU = degrees(N_ELL)
PRIOR = {
    "r_range": [0.0, 0.01],
    "signal_template": {"r_nodes": [0.002, 0.008], "dl_per_r": TEMPLATE.dl_per_r.tolist()},
}
FIXED = {"r": 0.003, "dl_signal": TEMPLATE(np.array([0.003]))[0].tolist()}


def simulate(prior, n, seed):
    """(truth, observation, r) of n skies."""
    rng = np.random.default_rng(seed)
    r = rng.uniform(*prior["r_range"], n) if "r_range" in prior else np.full(n, prior["r"])
    signal = TEMPLATE(r)
    sky = realisations.ExpectedPowers(np.arange(2, 2 + N_ELL), signal, NOISE, np.zeros(N_ELL))
    x, y = realisations.draw_pairs(sky, n, realisations.make_generators(seed, "test", 0.5))
    return x, y, r


def model_of(prior, noise):
    """Observation model of a prior over r."""
    return ObservationModel(TEMPLATE, noise, 0.0, tuple(prior["r_range"]))


def exact_draws(prior, y, num_draws=DRAWS, noise=NOISE):
    """(draws of D_ell, draws of r or None) of the exact posterior."""
    rng = np.random.default_rng(0)
    if "r" in prior:
        return GaussianPosterior(y, prior["dl_signal"], noise).rvs(num_draws, rng), None
    r = RPosterior(y, model_of(prior, noise)).rvs(num_draws, rng)
    signals = TEMPLATE(r.ravel()).reshape(*r.shape, N_ELL)
    each = np.broadcast_to(y[:, None], signals.shape)
    return GaussianPosterior(each, signals, noise).rvs(1, rng)[..., 0, :], r


def write(path, values, content):
    """An array with a sidecar of this content."""
    tables.write_array(path, values, Record.from_json(content))


def write_run(folder, prior, y, draws, r=None, sky=None):
    """An output folder as sample.py leaves it; without sky, as it once did."""
    os.makedirs(folder)
    source = {"file": "y.npy", "sha256": hashlib.sha256(y).hexdigest()}
    prior = prior if sky is None else {**prior, "sky": sky}
    metadata = {"prior": prior, "observation": source, "method": "by hand"}
    arrays = {"denoised": draws.mean(1), "posterior_draws": draws, "r_draws": r}
    for name, values in arrays.items():
        if values is not None:
            quantity = "posterior r" if name == "r_draws" else "posterior BB"
            record = Record(
                quantity, extra=metadata
            )  # as it stands, without a sky where there is none
            tables.write_array(f"{folder}/{name}.npy", values, record)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def prepare(prior, **known):
    """Write observations, truth and r; (truth, y, r, the arguments that name them).

    What is known besides the prior stands in the sidecars: by default the law of the observations.
    """
    x, y, r = simulate(prior, ROWS, 1)
    metadata = {**prior, "seed": 1, **(known or {"dl_contaminant": NOISE.tolist()})}
    write("x.npy", x, {**metadata, "quantity": "primordial BB"})
    write("y.npy", y, {**metadata, "quantity": "observed BB"})
    words = ["--data-file-noisy", "y.npy", "--data-file-gt", "x.npy", "--out-dir", "out"]
    if "r_range" in prior:
        write("r.npy", r, {**metadata, "quantity": "r"})
        words += ["--param-file-gt", "r.npy"]
    return x, y, r, words


def failed(report, run):
    return {row["check"] for row in report["runs"][run]["checks"] if not row["passed"]}


def test_exact_draws_pass_and_wrong_ones_fail(capsys):
    """One r: what each check is there for."""
    x, y, _, words = prepare(FIXED)
    draws, _ = exact_draws(FIXED, y)
    middle = draws.mean(1, keepdims=True)
    prior_draws = simulate(FIXED, ROWS * DRAWS, 3)[0].reshape(ROWS, DRAWS, N_ELL)
    runs = {
        "exact": draws,
        "overconfident": middle + 0.8 * (draws - middle),
        "underconfident": np.maximum(middle + 1.2 * (draws - middle), 1e-9),
        "biased": 1.1 * draws,
        "echo": prior_draws,
        "shuffled": np.roll(draws, 1, 0),
    }
    for name, values in runs.items():
        write_run(name, FIXED, y, values)
    evaluate.main(["--runs", *runs, *words])
    report = jsonfiles.read_json("out/report.json")
    assert failed(report, "exact") == set()
    sbc, tarp, pit = "SBC of D_ell, smallest p x n_ell", "TARP of D_ell, p", "PIT KS of D_ell"
    excess, lost = "MSE above the exact optimum, %", "MSE lost by shuffled observations"
    for name in ("overconfident", "underconfident"):
        assert {sbc, pit} <= failed(report, name)
    assert {sbc, pit, excess} <= failed(report, "biased")
    assert {tarp, pit, excess, lost} <= failed(report, "echo")
    assert sbc not in failed(report, "echo")  # calibration alone cannot see an echo
    assert {tarp, pit, excess, lost} <= failed(report, "shuffled")
    for name in ("echo", "shuffled"):
        assert "no more information than the prior" in report["runs"][name]["verdict"]
        assert report["runs"][name]["echo"] and not report["runs"]["exact"]["echo"]
    assert "no more information" not in report["runs"]["exact"]["verdict"]
    out = capsys.readouterr().out
    assert "| exact |" in out and "| exact posterior mean |" in out
    with open("out/report.md", encoding="utf-8") as file:
        assert file.read() in out
    for name in ("sharpness", "calibration", "controls"):
        assert os.path.getsize(f"out/{name}.png") > 0
    assert not os.path.exists("out/r.png")
    # the limits, by the closed forms
    W = wiener(np.array(FIXED["dl_signal"]), NOISE)[0]
    entry = report["runs"]["exact"]
    np.testing.assert_allclose(entry["slope_limit"], W**2, rtol=1e-6)
    np.testing.assert_allclose(entry["r2_limit"], W**2, atol=0.12)  # 600 skies
    assert report["baselines"]["prior mean"]["value"] == pytest.approx(np.mean(2 / NU), rel=0.1)


def test_draws_of_r():
    """A range of r: exact draws pass, and r that leaks, lags or lies is found."""
    _, y, r_true, words = prepare(PRIOR)
    draws, r = exact_draws(PRIOR, y)
    mean = r.mean(1, keepdims=True)
    clip = (1e-6, 0.01 - 1e-6)
    runs = {
        "exact": r,
        "leak": np.clip(r_true[:, None] + 0.3 * (r - mean), *clip),
        "narrow": np.clip(mean + 0.9 * (r - mean), *clip),
        "prior": np.random.default_rng(0).uniform(0, 0.01, r.shape),
    }
    for name, values in runs.items():
        write_run(name, PRIOR, y, draws, values)
    evaluate.main(["--runs", *runs, *words])
    report = jsonfiles.read_json("out/report.json")
    assert failed(report, "exact") == set()
    sigma = {
        row["check"] for row in report["runs"]["exact"]["checks"] if "sigma(r)" in row["check"]
    }
    assert len(sigma) == r_checks.R_BINS and sigma <= failed(report, "leak")
    assert {"PIT KS of r", "width ratio of r - 1"} <= failed(report, "narrow")
    assert "rms deviation of r, sigma" in failed(report, "prior")
    with open("out/report.html", encoding="utf-8") as file:
        assert file.read().count("<img ") == len(evaluate.FIGURES + evaluate.R_FIGURES)
    for name in evaluate.FIGURES + evaluate.R_FIGURES:
        assert os.path.getsize(f"out/{name}") > 0


def sigma_checks(report, run):
    return {row["check"] for row in report["runs"][run]["checks"] if "sigma(r)" in row["check"]}


def test_r_without_an_exact_posterior():
    """The truth and the Fisher limit of the mean residuals are left to judge r by."""
    _, y, r_true, words = prepare(PRIOR, **PARTS)
    draws, r = exact_draws(PRIOR, y)
    mean, std = r.mean(1, keepdims=True), r.std(1, keepdims=True)
    runs = {
        "shifted": r + 0.5 * std,
        "narrow": mean + 0.7 * (r - mean),
        "leak": r_true[:, None] + 0.3 * (r - mean),
        "exact": r,
    }
    for name, values in runs.items():
        write_run(name, PRIOR, y, draws, np.clip(values, 1e-6, 0.01 - 1e-6))
    evaluate.main(["--runs", *runs, *words])
    report = jsonfiles.read_json("out/report.json")
    assert failed(report, "exact") == set()
    assert {"bias of r against the truth, sigma", "SBC of r, p"} <= failed(report, "shifted")
    assert len(sigma_checks(report, "exact")) == r_checks.R_BINS
    for name in ("narrow", "leak"):
        assert sigma_checks(report, name) <= failed(report, name)
    entry = report["runs"]["exact"]["r"]
    assert not {"bias", "pit_ks", "width_ratio", "rms_deviation", "exact_bias_truth"} & set(entry)
    assert report["runs"]["shifted"]["r"]["bias_truth"]["value"] > 0.3
    assert entry["coverage"]["0.68"]["value"] == pytest.approx(0.68, abs=0.06)  # 3 errors
    posterior = RPosterior(y, model_of(PRIOR, NOISE))
    for level in (0.68, 0.95):
        upper, limits = entry[f"upper_limit_{100 * level:.0f}"], posterior.quantile([level])
        assert upper["median"] == pytest.approx(np.median(limits), rel=0.03)
        assert upper["mean"] == pytest.approx(limits.mean(), rel=0.03)
        assert "exact_median" not in upper
    for row in entry["sigma"]:
        fisher = fisher_sigma(TEMPLATE, NOISE, row["r"])
        assert row["exact"] is None and row["fisher"] == pytest.approx(fisher)
    with open("out/report.md", encoding="utf-8") as file:
        text = file.read()
    assert "68 % upper limit" in text and "95 % upper limit" in text and "nan" not in text
    for name in evaluate.R_FIGURES:
        assert os.path.getsize(f"out/{name}") > 0


def test_without_residuals_there_is_no_limit():
    """A sidecar that says nothing of the residuals: r is told, but against the truth alone."""
    _, y, _, words = prepare(PRIOR, instrument={"freq_ghz": 45.0})
    write_run("run", PRIOR, y, *exact_draws(PRIOR, y))
    evaluate.main(["--runs", "run", *words])
    entry = jsonfiles.read_json("out/report.json")["runs"]["run"]["r"]
    assert {(row["fisher"], row["exact"], row["limit"]) for row in entry["sigma"]} == {(None,) * 3}
    with open("out/report.md", encoding="utf-8") as file:
        assert "| – | – |" in file.read()


def test_the_limit_knows_of_a_fixed_foreground():
    """y tells less of r where its foreground is fixed, and the Fisher limit says so."""
    x, y, _ = simulate(PRIOR, 20, 1)
    sigma, prior = [], Prior.from_json(PRIOR)
    for F in (0 * NOISE, 3 * NOISE):
        metadata = {**PRIOR, **PARTS, "dl_fixed_foreground": F.tolist()}
        observed = tables.Table("y.npy", y, Record.from_json(metadata))
        draws = np.random.default_rng(0).random((20, 30))
        run = Run("run", y, None, {"r": draws}, Sampled(None, None, prior, Sky()))
        skies = Skies(observed, x, {"r": np.full(20, 0.005)}, None)
        report = r_checks.r_report(run, skies, ExactPosteriors.of(observed, prior))
        sigma.append(report.sigma[0].fisher)
        assert sigma[-1] == pytest.approx(fisher_sigma(TEMPLATE, NOISE, 0.005, F))
    assert sigma[1] > 1.1 * sigma[0]


GAUSSIAN = {"instrument": {"freq_ghz": 45.0}, "a_lens": 1.0, "foregrounds": ["gaussian"]}
PRESETS = {**GAUSSIAN, "foregrounds": ["d1", "s1"]}


def prepare_mismatch():
    """Runs of a model of these skies, of one of cleaner skies, and of one that does not say."""
    _, y, _, words = prepare(PRIOR, **PARTS, **PRESETS)
    draws, r = exact_draws(PRIOR, y)
    write_run("matched", PRIOR, y, draws, r, PRESETS)
    write_run("old", PRIOR, y, draws, r)
    write_run("cleaner", PRIOR, y, *exact_draws(PRIOR, y, noise=0.6 * NOISE), GAUSSIAN)
    return words


def test_a_mismatch_stands_beside_r_with_its_matched_run(capsys):
    words = prepare_mismatch()
    evaluate.main(["--runs", "old", "matched", "cleaner", *words])
    runs = jsonfiles.read_json("out/report.json")["runs"]
    expected = {"trained_on": {"foregrounds": ["gaussian"]}}
    expected["observed"] = {"foregrounds": ["d1", "s1"]}
    assert runs["cleaner"]["mismatch"] == expected
    assert "mismatch" not in runs["matched"] and "mismatch" not in runs["old"]
    bias = {name: run["r"]["bias_truth"]["value"] for name, run in runs.items()}
    assert bias["cleaner"] > 0.3 and abs(bias["matched"]) < 0.15
    with open("out/report.md", encoding="utf-8") as file:
        text = file.read()
    (line,) = (line for line in text.splitlines() if "**Mismatch**" in line)
    assert line.startswith("**Mismatch**: trained on foregrounds gaussian, observed d1 s1. Bias")
    assert f"{bias['cleaner']:.3g} ±" in line
    assert f"matched run matched: {bias['matched']:.3g} ±" in line and "run old" not in line
    part = text.split("**cleaner**")[1]
    assert part.index("**Mismatch**") < part.index("Mean of r̂")
    table = text.split("| sky mismatch |")[1]
    assert "| cleaner | foregrounds gaussian | d1 s1 |" in table
    assert "| matched | as observed |" in table and "| old | unknown |" in table
    assert text in capsys.readouterr().out


def test_a_mismatch_alone_says_what_is_missing():
    words = prepare_mismatch()
    evaluate.main(["--runs", "old", "cleaner", *words])
    with open("out/report.md", encoding="utf-8") as file:
        text = file.read()
    assert "no matched run beside it: train on this sky" in text
    evaluate.main(["--runs", "matched", "old", *words])
    with open("out/report.md", encoding="utf-8") as file:
        assert "ismatch" not in file.read()


def test_the_null_test_has_its_distribution_of_r(capsys):
    """At r = 0 there is no spectrum to compare, but there is an upper limit on r."""
    null = {"r": 0.0, "dl_signal": [0.0] * N_ELL}
    x, y, _ = simulate({"r": 0.0}, ROWS, 2)
    for name, values in (("x", x), ("y", y)):
        write(f"{name}.npy", values, {**null, "dl_contaminant": NOISE.tolist()})
    # the median standard deviation of few draws from a law as skew as this one is too small
    draws, r = exact_draws(PRIOR, y, 500)
    write_run("null", PRIOR, y, draws, r)
    words = ["--runs", "null", "--data-file-noisy", "y.npy", "--data-file-gt", "x.npy"]
    evaluate.main([*words, "--out-dir", "out"])
    report = jsonfiles.read_json("out/report.json")
    assert failed(report, "null") == set()
    entry = report["runs"]["null"]["r"]
    for name in ("upper_limit_68", "upper_limit_95"):
        assert entry[name]["median"] == pytest.approx(entry[name]["exact_median"], rel=0.1)
        assert entry[name]["mean"] == pytest.approx(entry[name]["exact_mean"], rel=0.1)
    assert entry["upper_limit_68"]["median"] < entry["upper_limit_95"]["median"]
    # at the edge of its prior an exact posterior has a bias, too
    own, exact = (entry[name]["value"] for name in ("bias_truth", "exact_bias_truth"))
    assert own == pytest.approx(exact, rel=0.1) and own > 1
    assert "95 % upper limit" in capsys.readouterr().out


def test_a_prior_over_r_is_not_judged_by_the_ranks_of_one_r():
    """Ranks are uniform over the prior that a model was trained on, not at one r of it."""
    x, y, _, words = prepare(FIXED)
    draws, r = exact_draws(PRIOR, y)
    write_run("joint", PRIOR, y, draws, r)
    evaluate.main(["--runs", "joint", *words])
    entry = jsonfiles.read_json("out/report.json")["runs"]["joint"]
    assert "sbc" not in entry and "tarp" not in entry and "sbc_p" not in entry["r"]
    assert "coverage" not in entry["r"]
    assert {row["check"] for row in entry["checks"] if not row["passed"]} == set()


def test_without_a_sidecar_only_the_truth_is_used():
    x, y, _, words = prepare(FIXED)
    draws, _ = exact_draws(FIXED, y)
    write_run("exact", FIXED, y, draws)
    for name in ("x", "y"):
        os.unlink(f"{name}.json")
    evaluate.main(["--runs", "exact", *words])
    entry = jsonfiles.read_json("out/report.json")["runs"]["exact"]
    assert "excess_percent" not in entry and "pit_ks" not in entry
    assert {"sbc", "tarp", "coverage", "crps_skill"} <= set(entry)


def test_bad_usage(capsys):
    x, y, r_true, words = prepare(PRIOR)
    draws, r = exact_draws(PRIOR, y)
    write_run("good", PRIOR, y, draws, r)
    write_run("foreign", PRIOR, y[::-1].copy(), draws, r)
    bare = {**PRIOR, "seed": 1, "dl_contaminant": [0.0] * N_ELL}
    clean = []
    for flag, values, quantity in (
        ("--data-file-noisy", y, "observed BB"),
        ("--data-file-gt", x, "primordial BB"),
        ("--param-file-gt", r_true, "r"),
    ):
        name = f"clean {quantity}.npy"
        write(name, values, {**bare, "quantity": quantity})
        clean += [flag, name]
    write_run("few", PRIOR, y, draws[:, :2], r[:, :2])
    write_run("blind", FIXED, y, draws, r)
    write_run("stuck", PRIOR, y, draws, 0 * r + 0.003)
    write("short.npy", x[:5], {})
    before = sorted(os.listdir("."))
    for part, argv in {
        "--param-file-gt": ["--runs", "good", *words[:-2]],
        "was not sampled from": ["--runs", "foreign", *words],
        "gone": ["--runs", "gone", *words],
        "--row": ["--runs", "good", *words, "--row", "600"],
        "nothing to evaluate": ["--runs", "good", *words, *clean],
        "name no range": ["--runs", "blind", *words],
        "all draws are the same": ["--runs", "stuck", *words],
        "has 2 draws": ["--runs", "few", *words],
        "holds observed BB": ["--runs", "good", *words, "--data-file-gt", "y.npy"],
        "row for row": ["--runs", "good", *words, "--data-file-gt", "short.npy"],
    }.items():
        with pytest.raises(SystemExit) as caught:
            evaluate.main(argv)
        assert caught.value.code == 2
        err = capsys.readouterr().err
        assert part in err and "Traceback" not in err
    assert sorted(os.listdir(".")) == before
