"""Each study runs from its first command to its last, tiny, within this process."""

import importlib
import json

import numpy as np
import pytest

from benchmarks import quality
from checks import statistics
from runtime import drawing
from runtime.errors import InputError
from sky import cosmology
from studies import (
    demo,
    forecast,
    foreground,
    likelihood,
    likelihood_results,
    masked,
    mismatch,
    own_simulations,
    posterior,
    quick,
    runs,
    solvers,
)

SHRINK = ["--shrink", "100000"]


class Ended:
    """A step that has run."""

    def __init__(self, code):
        self.code = code

    def poll(self):
        return self.code


def run_here(step, threads=None):
    """In place of `runs.start`: without a process, and Gaussian foregrounds for d1 s1."""
    argv = [{"d1": "gaussian"}.get(word, word) for word in step.argv if word != "s1"]
    try:
        importlib.import_module(step.script.removesuffix(".py")).main(argv)
    except SystemExit as stop:
        return Ended(stop.code)
    return Ended(0)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(cosmology, "lensing_bb", lambda ell, *_: 2.7e-7 * ell * (ell + 1.0))
    monkeypatch.setattr(runs, "start", run_here)
    monkeypatch.setattr(runs, "POLL_SECONDS", 0)
    # figures are what takes the time, and tested where they are made
    monkeypatch.setattr(drawing, "render", lambda path, draw: b"")


def methods(folder):
    """Names of the runs in an evaluation."""
    report = json.loads((folder / "report.json").read_text())
    return {name.rpartition("/")[2] for name in report["runs"]}


def test_demo(tmp_path):
    demo.main(["--out-dir", str(tmp_path), *SHRINK])
    assert methods(tmp_path / "evaluation") == {"recipe", "posterior"}
    assert list((tmp_path / "recipe").glob("traject*"))


@pytest.mark.slow
def test_posterior_and_then_solvers(tmp_path, monkeypatch):
    posterior.main(["--out-dir", str(tmp_path), *SHRINK])
    recipes = {f"{sde}_{method}" for sde in ("VE", "VP") for method in ("sde", "ode", "pc")}
    assert methods(tmp_path / "evaluation_one_r") == recipes | {"one_r"}
    assert methods(tmp_path / "evaluation_range") == {"joint"}
    assert methods(tmp_path / "evaluation_null") == {"null"}

    for name, value in {"TOLERANCES": (1e-1,), "ELL": (2,), "NUM_DRAWS": 2}.items():
        monkeypatch.setattr(quality, name, value)
    quality.chi_squared_laws.cache_clear()
    solvers.main(["--out-dir", str(tmp_path), *SHRINK])
    quality.chi_squared_laws.cache_clear()
    folder = tmp_path / "solvers"
    written = {str(path.relative_to(folder)) for path in folder.rglob("*.json")}
    assert written == {
        *("solvers.json", "VE/solvers_prior.json", "VP/solvers_prior.json"),
        *("one_r/solvers_posterior.json", "joint/solvers_posterior.json"),
    }


@pytest.fixture
def few_answers(monkeypatch):
    """Of each kind of observations one, and one sky of r = 0."""
    kinds = {each.name: each for each in likelihood.OTHERS}
    chosen = kinds["noise_11.9"], kinds["r_0.003"], kinds["foreground"]
    monkeypatch.setattr(likelihood, "OTHERS", chosen)
    for name in ("RANGES", "NULLS"):
        monkeypatch.setattr(likelihood, name, getattr(likelihood, name)[:1])


def check_likelihood(folder, printed):
    """Its table says what the reports say, and both trajectories are there."""
    assert methods(folder / "evaluations" / "side_by_side") == {run.name for run in likelihood.RUNS}
    text = (folder / "likelihood.md").read_text()
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")][1:]
    expected = likelihood.rows(str(folder))
    assert [row[1].strip() for row in rows] == [row.network for row in expected]
    assert text in printed
    for row, wanted in zip(rows, expected, strict=True):
        run, columns = (
            wanted.measured(),
            dict(zip(likelihood_results.COLUMNS, row[2:], strict=True)),
        )
        known = run.get("excess_percent")
        excess = columns["excess, %"].split()[0]
        assert (
            excess == "–"
            if known is None
            else float(excess) == pytest.approx(known["value"], rel=5e-3)
        )
        assert ("upper_limit_95" in run.get("r", {})) == (columns["limit"].strip() != "–")
    null = [row for row in rows if "r = 0:" in row[0]]
    assert null and all(
        "(" in row[2 + list(likelihood_results.COLUMNS).index("limit")] for row in null
    )
    for name in likelihood_results.trajectory_folders(str(folder)):
        assert np.load(f"{name}/trajectory.npy").shape[1] == 1 + 30


def test_likelihood(tmp_path, cached_camb, few_answers, capsys):
    """A few kinds of observations; all of them: test_likelihood_of_all."""
    likelihood.main(["--out-dir", str(tmp_path), *SHRINK])
    check_likelihood(tmp_path, capsys.readouterr().out)


@pytest.mark.slow
def test_likelihood_of_all(tmp_path, cached_camb, capsys):
    likelihood.main(["--out-dir", str(tmp_path), *SHRINK])
    check_likelihood(tmp_path, capsys.readouterr().out)


def test_a_report_without_the_run_is_one_line(tmp_path):
    (tmp_path / "report.json").write_text('{"runs": {"other": {}}}')
    row = likelihood_results.Row("r = 0", "VE", str(tmp_path), "runs/ve")
    with pytest.raises(InputError, match="has no run runs/ve"):
        row.measured()


def test_quick(tmp_path, capsys):
    """What a user's own text files are: columns that say what they hold, and the line of r."""
    quick.main(["--out-dir", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "row 0: r = 0.00" in printed and "68 % credible" in printed
    for name, column in ((quick.SPECTRUM, "DL_BB[uK2]"), (quick.NOISE, "N_ell[uK2]")):
        text = (tmp_path / name).read_text()
        assert text.splitlines()[0] == f"# ell {column}" and len(text.splitlines()) == 1 + 30
    assert np.load(tmp_path / "r_draws.npy").shape == (1, 1000)


def test_foreground(tmp_path):
    foreground.main(["--out-dir", str(tmp_path), *SHRINK])
    assert methods(tmp_path / "evaluation") == {"posterior"}


def test_masked(tmp_path):
    """Both kinds of prior, and the answer to a map."""
    masked.main(["--out-dir", str(tmp_path), *SHRINK])
    for name in ("uniform", "hits", "one_r"):
        assert methods(tmp_path / f"{name}_evaluation") == {name}
        report = json.loads((tmp_path / f"{name}_evaluation" / "report.json").read_text())
        (run,) = report["runs"].values()
        assert "no_exact_answer" not in run and len(run["map"]["squared_error_ratio"]) == 6
    metrics = json.loads((tmp_path / "own_map" / "metrics.json").read_text())
    assert metrics["map"]["in_model"] and metrics["exact_r"]["median"] > 0


def test_own_simulations(tmp_path):
    own_simulations.main(["--out-dir", str(tmp_path), *SHRINK])
    assert methods(tmp_path / "evaluation") == {"posterior"}
    found = json.loads((tmp_path / "exact.json").read_text())
    assert found.keys() >= {"r", "A_d"} and found["r"]["pit_ks"]["value"] < 1


def test_the_toy_posterior_is_exact():
    """The truth is uniform under its own posterior, and nobody else's."""
    theta, y = own_simulations.simulate(2000, np.random.default_rng(5))
    for k, (name, exact) in enumerate(own_simulations.exact_marginals(y).items()):
        low, high = own_simulations.PARAMETERS[k].low, own_simulations.PARAMETERS[k].high
        assert ((exact.mean() > low) & (exact.mean() < high)).all(), name
        for shift, follows in ((0, True), (1, False)):
            truth = np.roll(theta[:, [k]], shift, 0)
            distance = statistics.ks_uniform(exact.cdf(truth)[:, 0])
            # five spreads above the mean: once in 10^5 or so
            assert (distance.value < distance.expected + 5 * distance.spread) == follows


@pytest.mark.slow
def test_mismatch(tmp_path):
    mismatch.main(["--out-dir", str(tmp_path), *SHRINK])
    trained = {f"trained_on_{name}" for name in ("gaussian", "gaussian-ensemble", "d1+s1")}
    for r in ("r0", "r0-0.01"):
        assert methods(tmp_path / f"evaluation_{r}") == trained


def test_a_forecast_goes_on_without_templates(tmp_path, monkeypatch, capsys):
    """One case that runs, one whose templates cannot be had, and one that is not begun."""
    skies = [
        forecast.CaseSky("litebird", ("gaussian",), 0.16),
        forecast.CaseSky("echo", ("d1", "s1"), 1),
        forecast.CaseSky("litebird", ("d1", "s1"), 1),
    ]
    begun = []

    def start(step, threads):
        begun.append(step)
        return Ended(2) if "d1" in step.argv else run_here(step)

    monkeypatch.setattr(forecast, "SKIES", skies)
    monkeypatch.setattr(forecast, "JOBS", 1)
    monkeypatch.setattr(runs, "start", start)
    argv = ["--out-dir", str(tmp_path), *SHRINK]
    forecast.main(argv)
    missing = ", ".join(str(tmp_path / sky.name) for sky in skies[1:])
    printed, notes = capsys.readouterr()
    assert f"the forecast goes on without {missing}" in notes
    assert "| litebird | gaussian | 16 % |" in printed and "| echo |" not in printed
    assert len(begun) == 9 + 1
    # what is done is not done again; what failed is tried again
    forecast.main(argv)
    assert len(begun) == 9 + 2
    # a signal is no missing template
    monkeypatch.setattr(runs, "start", lambda step, threads: Ended(-15))
    with pytest.raises(runs.StepFailed) as stop:
        forecast.main(argv)
    assert stop.value.code == 143


def test_a_forecast_whose_gaussian_case_fails_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "start", lambda step, threads: Ended(3))
    with pytest.raises(runs.StepFailed) as stop:
        forecast.main(["--out-dir", str(tmp_path), *SHRINK])
    assert stop.value.code == 3
    assert not list(tmp_path.glob("forecast.*"))
