"""Draws of any parameters: exact ones pass, echoes, narrow and biased ones fail."""

import hashlib
import os

import numpy as np
import pytest

import evaluate
from checks import parameters
from checks.edges import Edges
from checks.output import Inputs, measure
from runtime import jsonfiles, tables
from runtime.priors import Parameter, Prior
from runtime.records import Record, Sampled, Sky

ROWS, DRAWS, COLUMNS = 600, 64, 12
PARAMETERS = (Parameter("tau", -1.0, 1.0), Parameter("beta_dust", 2.0, 5.0))
LOW, HIGH = (np.array([getattr(each, end) for each in PARAMETERS]) for end in ("low", "high"))
RESPONSE = np.random.default_rng(1).normal(size=(2, COLUMNS)) / (HIGH - LOW)[:, None]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def simulate(n, noise=0.3):
    """(theta, y): a linear simulator of band powers, some of them negative."""
    rng = np.random.default_rng(0)
    theta = rng.uniform(LOW, HIGH, (n, 2))
    return theta, theta @ RESPONSE + noise * rng.normal(size=(n, COLUMNS))


def exact_draws(y, noise=0.3, num_draws=DRAWS):
    """Draws of the exact posterior, shape (n, m, 2): a Gaussian within the prior, by rejection."""
    rng = np.random.default_rng(2)
    covariance = noise**2 * np.linalg.inv(RESPONSE @ RESPONSE.T)
    mean = y @ RESPONSE.T @ covariance / noise**2
    root, found = np.linalg.cholesky(covariance), np.empty((len(y), num_draws, 2))
    for row, centre in enumerate(mean):
        draws = np.empty((0, 2))
        while len(draws) < num_draws:
            more = centre + rng.normal(size=(20 * num_draws, 2)) @ root.T
            draws = np.concatenate([draws, more[((more > LOW) & (more < HIGH)).all(1)]])
        found[row] = draws[:num_draws]
    return found


def write_run(name, y, draws, columns=PARAMETERS):
    """An output folder of a model without a spectrum."""
    os.makedirs(name)
    digest = hashlib.sha256(y).hexdigest()
    sampled = Sampled("ode", "m.pth", Prior(parameters=columns), Sky(), "y.npy", digest)
    for k, each in enumerate(columns):
        record = Record(f"posterior {each.name}", unit="1", sampled=sampled)
        path = f"{name}/{each.name}_draws.npy"
        tables.write_array(path, np.ascontiguousarray(draws[:, :, k]), record)


def run_evaluate(*names):
    words = ["--data-file-noisy", "y.npy", "--param-file-gt", "theta.npy", "--out-dir", "out"]
    evaluate.main(["--runs", *names, *words])
    return jsonfiles.read_json("out/report.json")["runs"]


def failed(run):
    return {row["check"] for row in run["checks"] if not row["passed"]}


def test_parameters_alone(capsys):
    """Bare arrays, negative values, no spectrum: what each check is there for."""
    theta, y = simulate(ROWS)
    np.save("y.npy", y)
    np.save("theta.npy", theta)
    draws = exact_draws(y)
    middle = draws.mean(1, keepdims=True)
    prior = np.random.default_rng(5).uniform(LOW, HIGH, draws.shape)
    inside = (LOW + 1e-6, HIGH - 1e-6)
    runs = {
        "exact": draws,
        "echo": prior,
        "shuffled": np.roll(draws, 1, 0),
        "narrow": middle + 0.6 * (draws - middle),
        "biased": np.clip(draws + 0.5 * draws.std(1, keepdims=True), *inside),
    }
    for name, values in runs.items():
        write_run(name, y, values)
    found = run_evaluate(*runs)
    assert failed(found["exact"]) == set() and len(found["exact"]["checks"]) == 7
    ranks = {f"SBC of {each.name}, p" for each in PARAMETERS}
    assert failed(found["echo"]) == {"TARP of the parameters, p"}  # which all else lets pass
    assert ranks <= failed(found["narrow"]) and ranks <= failed(found["biased"])
    assert "68 % coverage of tau minus its level" in failed(found["narrow"])
    assert "bias of tau against the truth, sigma" in failed(found["biased"])
    assert ranks <= failed(found["shuffled"])
    report = found["exact"]["parameters"]
    assert set(report) == {"tau", "beta_dust"} and "r" not in found["exact"]
    assert "mse" not in found["exact"]  # nor any measure of a spectrum
    out = capsys.readouterr().out
    assert "| tau |" in out and "nan" not in out and "MSE" not in out


def test_tarp_sees_a_wrong_correlation():
    """y tells the sum of two parameters alone: their posterior is a band, not a square."""
    rng, noise = np.random.default_rng(0), 0.1
    theta = rng.uniform(0, 1, (ROWS, 2))
    y = theta.sum(1) + noise * rng.normal(size=ROWS)
    candidates = rng.uniform(0, 1, (50_000, 2))
    draws = np.empty((ROWS, DRAWS, 2))
    for row, value in enumerate(y):
        weights = np.exp(-((value - candidates.sum(1)) ** 2) / (2 * noise**2))
        draws[row] = candidates[rng.choice(len(weights), DRAWS, p=weights / weights.sum())]
    broken = np.stack([draws[..., 0], rng.permuted(draws[..., 1], axis=1)], -1)
    columns = (Parameter("a", 0, 1), Parameter("b", 0, 1))
    np.save("y.npy", y[:, None])
    np.save("theta.npy", theta)
    for name, values in {"exact": draws, "broken": broken}.items():
        write_run(name, y, values, columns)
    found = run_evaluate("exact", "broken")
    assert failed(found["exact"]) == set()
    assert failed(found["broken"]) == {"TARP of the parameters, p"}


@pytest.mark.parametrize("columns", [3, 400])
def test_reference_points_are_functions_of_the_data(columns):
    """A row's own truth does not enter its reference, of however many columns y has."""
    rng = np.random.default_rng(0)
    y, target = rng.normal(size=(200, columns)), rng.normal(size=(200, 2))
    first = parameters.cross_fitted(y, target)
    for row in (0, 1, 17):
        other = target.copy()
        other[row] += 100
        assert np.array_equal(parameters.cross_fitted(y, other)[row], first[row])
    informed = parameters.cross_fitted(y, y[:, :2] * 2)
    assert np.corrcoef(informed[:, 0], y[:, 0])[0, 1] > (0.9 if columns == 3 else 0.3)


def test_bad_truths_are_one_line(capsys):
    theta, y = simulate(60)
    np.save("y.npy", y)
    write_run("run", y, exact_draws(y))
    base = ["--runs", "run", "--data-file-noisy", "y.npy", "--out-dir", "out"]
    np.save("three.npy", np.ones((60, 3)))
    np.save("short.npy", theta[:50])
    os.makedirs("empty")
    for part, argv in {
        "--param-file-gt: is needed, for run holds draws of tau": base,
        "one for each of tau, beta_dust": [*base, "--param-file-gt", "three.npy"],
        "row for row": [*base, "--param-file-gt", "short.npy"],
        "neither denoised.npy nor NAME_draws.npy": ["--runs", "empty", *base[2:]],
    }.items():
        with pytest.raises(SystemExit) as caught:
            evaluate.main(argv)
        err = capsys.readouterr().err
        assert caught.value.code == 2 and part in err and "Traceback" not in err
    assert not os.path.exists("out")


def test_skies_outside_of_the_prior_are_named_and_not_ranked(capsys):
    theta, y = simulate(ROWS)
    np.save("y.npy", y)
    theta[:7, 0] = 1.5
    np.save("theta.npy", theta)
    write_run("run", y, exact_draws(y))
    found = run_evaluate("run")["run"]
    assert found["priors"]["tau"]["outside"] == 7 and "tarp_parameters" not in found
    assert "sbc_p" not in found["parameters"]["tau"]
    assert "7 observations lies outside of the prior" in capsys.readouterr().out


def test_r_alone_from_a_simulation_of_others():
    """No spectrum and no template: TARP is what tells an echo, and r has its figure."""
    rng = np.random.default_rng(0)
    r = rng.uniform(0, 0.01, ROWS)
    y = r[:, None] * RESPONSE[0] + 1e-3 * rng.normal(size=(ROWS, COLUMNS))
    sigma = 1e-3 / np.sqrt(np.square(RESPONSE[0]).sum())
    grid = np.linspace(0, 0.01, 4001)[1:-1]
    best = y @ RESPONSE[0] / np.square(RESPONSE[0]).sum()
    density = np.exp(-((grid - best[:, None]) ** 2) / (2 * sigma**2)).cumsum(1)
    u = rng.random((ROWS, DRAWS)) * density[:, -1:]
    exact = np.stack([np.interp(a, c, grid) for a, c in zip(u, density, strict=True)])
    np.save("y.npy", y)
    np.save("theta.npy", r)
    columns = (Parameter("r", 0.0, 0.01),)
    write_run("exact", y, exact[..., None], columns)
    write_run("echo", y, rng.uniform(0, 0.01, (ROWS, DRAWS, 1)), columns)
    found = run_evaluate("exact", "echo")
    assert failed(found["exact"]) == set()
    assert failed(found["echo"]) == {"TARP of the parameters, p"}
    assert (
        "parameters" not in found["exact"] and found["exact"]["r"]["upper_limit_95"]["median"] > 0
    )
    assert sorted(os.listdir("out")) == ["r.png", "report.html", "report.json", "report.md"]


def test_spectra_beside_observations_of_another_kind(capsys):
    """They are not judged, and that is said; parameters are."""
    theta, y = simulate(ROWS)
    np.save("y.npy", y)
    np.save("theta.npy", theta)
    np.save("x.npy", np.random.default_rng(0).random((ROWS, 5)) + 0.1)
    write_run("run", y, exact_draws(y))
    digest = hashlib.sha256(y).hexdigest()
    sampled = Sampled("ode", "m.pth", Prior(parameters=PARAMETERS), Sky(), "y.npy", digest, 12)
    for name, shape in (("denoised", (ROWS, 5)), ("posterior_draws", (ROWS, DRAWS, 5))):
        values = np.random.default_rng(1).random(shape) + 0.1
        tables.write_array(f"run/{name}.npy", values, Record("posterior BB", sampled=sampled))
    words = ["--runs", "run", "--data-file-noisy", "y.npy", "--param-file-gt", "theta.npy"]
    with pytest.raises(SystemExit):
        evaluate.main([*words, "--out-dir", "out"])
    assert "--data-file-gt: is needed, for run holds spectra" in capsys.readouterr().err
    evaluate.main([*words, "--data-file-gt", "x.npy", "--out-dir", "out"])
    found = jsonfiles.read_json("out/report.json")["runs"]["run"]
    assert "mse" not in found and failed(found) == set() and len(found["checks"]) == 7
    assert "spectra are not" in capsys.readouterr().err


# --- edges -----------------------------------------------------------------------------------

R = Parameter("r", 0.0, 0.01)


@pytest.mark.parametrize(
    ("centre", "sigma", "lower", "upper"),
    [
        (0.5, 0.05, False, False),
        (0.5, 0.2, False, False),
        (0.97, 0.008, False, False),  # near the edge, and whole
        (0.99, 0.1, False, True),
        (1.2, 0.1, False, True),
        (0.0, 0.1, True, False),
        (0.5, 50.0, True, True),  # nothing but the prior
    ],
)
def test_an_edge_that_cuts_is_seen(centre, sigma, lower, upper):
    rng = np.random.default_rng(0)
    for parameter in (Parameter("A", -3.0, 1.0), R):
        draws = centre + sigma * rng.normal(size=1_500_000)
        draws = draws[(draws > 0) & (draws < 1)][:6400].reshape(100, 64)
        found = Edges.of(parameter.low + parameter.span * draws, parameter)
        shares = (None if parameter is R else lower, upper)
        for share, cut in zip((found.lower, found.upper), shares, strict=True):
            assert share is None if cut is None else (share > 0.8 if cut else share < 0.05)
    assert Edges.of(draws[:, :20], R) is None  # too few


def test_sample_warns_of_an_edge():
    rng = np.random.default_rng(0)
    y = tables.Table("y.npy", np.ones((2, 6)), Record())
    inputs = Inputs(y, None, Record(prior=Prior(parameters=(R,))), None)
    for draws, text in (
        (0.01 - np.abs(rng.normal(0, 1e-3, (2, 64))), "piles up at the upper edge 0.01"),
        (np.abs(rng.normal(0, 1e-3, (2, 64))), None),
        (0.005 + rng.normal(0, 1e-4, (2, 64)), None),
    ):
        report = measure({"r_draws.npy": draws}, 1, inputs)
        assert (report.warnings is None) == (text is None)
        assert text is None or text in report.warnings[0]
