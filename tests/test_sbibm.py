"""The logic of benchmarks/sbibm.py, with tools and scores of its own: no sbibm is needed."""

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks import report, sbibm, sbibm_tools

HEADER = "task,num_simulations,num_observation,algorithm,C2ST"


class Drawer(sbibm_tools.Tool):
    """Draws what its name says; a second run of a cell fails."""

    about = "draws a constant"
    value = 0.5

    def __init__(self, done=None):
        self.done = set() if done is None else done

    @staticmethod
    def settings(task, simulations):
        return {}

    def run(self, simulations, num_draws, folder):
        draws = np.full((len(simulations.observed), num_draws, 2), self.value)
        return sbibm_tools.Drawn(draws, 3, 1.0, 2.0)


class Exact(Drawer):
    value = 0.5


class Wrong(Drawer):
    value = 1.0


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Callable: flags -> the rows of the table, as lists of cells."""

    def simulate(name, n, seed, observations):
        rows = torch.zeros(n, 2)
        return sbibm_tools.Simulations(name, seed, rows, rows, torch.zeros(len(observations), 2))

    monkeypatch.setattr(sbibm_tools, "TOOLS", {"exact": Exact, "wrong": Wrong})
    monkeypatch.setattr(sbibm_tools.Simulations, "of", simulate)
    monkeypatch.setattr(sbibm_tools, "c2st", lambda task, number, draws: float(draws.mean()))
    monkeypatch.setattr(sbibm, "NUM_DRAWS", 4)
    monkeypatch.setattr(sbibm, "PACKAGES", ())
    monkeypatch.setattr(report, "PATH", tmp_path / "RESULTS.md")

    def call(*flags):
        sbibm.main([*flags, "--out-dir", str(tmp_path / "out")])
        lines = report.PATH.read_text().splitlines()
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
        return {tuple(row[:3]): row[3:] for row in rows[2:]}

    return call


def test_the_table_has_what_is_done_and_names_what_is_missing(run):
    some = ["--tasks", "slcp", "--budgets", "10000", "--observations", "4", "7"]
    rows = run(*some, "--seeds", "0", "2")
    assert len(rows) == len(sbibm.TASKS) * len(sbibm.BUDGETS) * 2
    scores, by_observation, *_, seeds = rows["slcp", "10,000", "exact"]
    assert (scores, by_observation) == ("0.5 ± 0", "0.500, 0.500")
    assert seeds == "2 of 3, missing: 1"
    assert rows["slcp", "10,000", "wrong"][0] == "1 ± 0"
    others = [row for key, row in rows.items() if key[:2] != ("slcp", "10,000")]
    assert all(row[0] == "missing" and "0 of 3" in row[-1] for row in others)
    assert run(*some)["slcp", "10,000", "exact"][-1] == "3 of 3"


def test_a_stopped_run_goes_on(run, monkeypatch):
    """What is kept is not done again, neither draws nor scores, unless it was asked otherwise."""
    some = ["--tasks", "slcp", "--budgets", "10000", "--seeds", "0", "--tools", "exact"]

    def stop(task, number, draws):
        if number == 2:
            raise KeyboardInterrupt
        return 0.75

    with monkeypatch.context() as patch:
        patch.setattr(sbibm_tools, "c2st", stop)
        with pytest.raises(SystemExit):
            run(*some)
    with monkeypatch.context() as patch:
        patch.setattr(Exact, "run", None)
        row = run(*some)["slcp", "10,000", "exact"]
        assert row[1] == "0.750, 0.500, 0.500"
        patch.setattr(sbibm_tools, "c2st", None)
        assert run(*some)["slcp", "10,000", "exact"] == row
        with pytest.raises(TypeError):  # other observations are other draws
            run(*some, "--observations", "1")
        patch.setattr(Exact, "settings", staticmethod(lambda task, simulations: {"epochs": 1}))
        with pytest.raises(TypeError):
            run(*some)


def test_published_values_stand_beside(run, tmp_path):
    path = tmp_path / "main_paper.csv"
    lines = [HEADER, "slcp,10000,1,NPE,0.9", "slcp,10000,2,NPE,0.8", "slcp,10000,1,SNPE,0.7"]
    lines += ["slcp,1000,1,NPE,0.1", "two_moons,10000,2,NPE,0.2", "slcp,10000,1,other,0.3"]
    path.write_text("\n".join(lines))
    nothing = ["--tasks", "slcp", "--budgets", "7", "--tools", "exact", "--seeds", "0"]
    rows = run(*nothing, "--published", str(path), "--observations", "1", "2")
    found = {key: row[:2] for key, row in rows.items() if "published" in key[2]}
    # SNPE lacks an observation
    assert found == {("slcp", "10,000", "NPE, published"): ["0.850", "0.900, 0.800"]}


@pytest.mark.parametrize("text", ["", "a,b\n1,2", HEADER.replace("C2ST", "MMD") + "\nslcp,1,1,a,1"])
def test_another_table_is_refused(text, run, tmp_path, capsys):
    path = tmp_path / "other.csv"
    path.write_text(text)
    with pytest.raises(SystemExit) as stop:
        run("--published", str(path))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "other.csv" in error


def test_missing_packages_are_named(run, monkeypatch, capsys):
    monkeypatch.setattr(sbibm, "PACKAGES", ("no_such_package",))
    with pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code == 2
    assert "requirements-sbibm.txt" in capsys.readouterr().err


@pytest.mark.parametrize("law", ["uniform", "gaussian"])
def test_priors_become_uniform_and_come_back(law):
    rng, n = np.random.default_rng(0), 10_000
    if law == "uniform":
        prior = sbibm_tools.UnitPrior(np.array([-3.0, 0.0]), np.array([3.0, 0.5]))
        theta = rng.uniform(prior.low, prior.high, (n, 2))
    else:
        prior = sbibm_tools.UnitPrior(std=np.array([0.1, 2.0]))
        theta = rng.normal(0, prior.std, (n, 2))
    unit = prior.to_unit(theta)
    np.testing.assert_allclose(prior.from_unit(unit), theta, rtol=1e-9, atol=1e-12)
    for column in unit.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4
    # the control: what is uniform under one prior is not under another
    assert (
        stats.kstest(
            sbibm_tools.UnitPrior(std=np.full(2, 0.7)).to_unit(theta)[:, 0], "uniform"
        ).pvalue
        < 1e-4
    )


def test_draws_on_an_edge_have_a_finite_probit():
    prior = sbibm_tools.UnitPrior(np.array([-1.0]), np.array([1.0]))
    unit = prior.to_unit(np.array([[-1.0], [1.0]]))
    assert np.isfinite(stats.norm.ppf(unit)).all()
