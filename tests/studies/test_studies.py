"""Each study runs from its first command to its last, tiny, within this process."""

import importlib
import json

import numpy as np
import pytest

from benchmarks import quality
from checks import statistics
from runtime import drawing
from sky import cosmology
from studies import (
    demo,
    forecast,
    foreground,
    masked,
    mismatch,
    own_simulations,
    posterior,
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
def quick(monkeypatch):
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
