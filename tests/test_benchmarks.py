"""The benchmarks run; what they print is not judged here."""

import dataclasses
import importlib.util
import re
import subprocess
import sys

import pytest
import torch

import model
import sde_utils
import train
from benchmarks import (
    cleaning,
    contention,
    draws,
    likelihood,
    machine,
    overhead,
    quality,
    report,
    scale,
)
from diffusion import solvers
from diffusion.dynamics import Dynamics, Frame
from runtime import devices, jsonfiles

TOLERANT = "ode adaptive"  # takes the evaluations that a tolerance asks for


def test_overhead_runs(monkeypatch):
    for name, value in {"REPEATS": 1, "ROWS": 200, "EPOCHS": 1}.items():
        monkeypatch.setattr(overhead, name, value)
    assert overhead.train(sde_utils.VESDE()) > 0
    assert overhead.sampling(sde_utils.VESDE(), "pc", num_steps=2) > 0


def test_draws_runs(monkeypatch, capsys):
    monkeypatch.setattr(draws, "NUM_PAIRS", 10)
    draws.main()
    assert capsys.readouterr().out


def test_likelihood_runs(monkeypatch, cached_lensing, capsys):
    small = {"ROWS": 100, "OBSERVATIONS": 2, "DRAWS": 8, "REPEATS": 1, "BATCH_ROWS": 16}
    for name, value in small.items():
        monkeypatch.setattr(likelihood, name, value)
    written = {}
    monkeypatch.setattr(report, "write_section", written.__setitem__)
    likelihood.main([])
    rows = [line.split("|")[1:-1] for line in written["likelihood"].splitlines()[2:] if "|" in line]
    assert [row[0].strip() for row in rows[2:]] == list(likelihood.SKIES)
    assert all(float(cell.replace(",", "")) > 0 for row in rows[2:] for cell in row[1:])


def test_cleaning_runs(monkeypatch, capsys):
    monkeypatch.setattr(cleaning, "NUM_SKIES", 10)
    cleaning.main()
    assert capsys.readouterr().out.count("times as long") == 2


def test_machine_runs(monkeypatch, tmp_path, capsys):
    small = {"TURNS": 1, "STEPS": 2, "LARGE": 64, "BATCH_SIZES": (20,)}
    for name, value in small.items():
        monkeypatch.setattr(machine, name, value)
    monkeypatch.setattr(machine, "CASES", [(name, kwargs, 8) for name, kwargs, _ in machine.CASES])
    written = {}
    monkeypatch.setattr(report, "write_section", written.__setitem__)
    machine.main([])
    assert written["machine"].count("| training |") == 3
    shares = [line.split("|")[3:-1] for line in machine.shares().splitlines()[2:]]
    assert all(sum(map(float, parts)) == pytest.approx(1, abs=0.03) for parts in shares)
    assert all(0 <= float(part) <= 1 for parts in shares for part in parts)  # rounded
    assert machine.throughputs("cpu").count("| draws |") == len(devices.PRECISIONS)


def test_scale_runs(monkeypatch, tmp_path):
    """With scripts that do nothing: all three, for each size, in one section."""
    announced = "work; up to 3.0 MB of memory; writes"
    command = f"import sys; sys.stderr.write({announced!r})"
    popen = subprocess.Popen
    run = [sys.executable, "-c", command]
    monkeypatch.setattr(scale.subprocess, "Popen", lambda words, **kwargs: popen(run, **kwargs))
    written = {}
    monkeypatch.setattr(report, "write_section", written.__setitem__)
    monkeypatch.setattr(scale, "CASES", [(512, 100_000, 1_000)])
    monkeypatch.setattr(scale, "FOLDER", str(tmp_path / "scale"))
    scale.main(["--shrink", "100"])
    rows = [line for line in written["scale"].splitlines() if ".py |" in line]
    assert [row.split("|")[3].strip() for row in rows] == ["1,010", "1,000", "640"]
    assert all(row.split("|")[7].strip() == "3.0 MB" for row in rows)


def test_the_recorder_counts_the_products():
    with machine.Recorder() as recorder:
        torch.addmm(torch.zeros(5), torch.ones(2, 3), torch.ones(3, 5))
    assert recorder.flops() == 2 * 2 * 3 * 5
    assert recorder.bytes > 0


def test_a_section_is_replaced_and_the_others_stay(tmp_path):
    path = tmp_path / "RESULTS.md"
    for name, text in (("one", "1"), ("two", "2"), ("one", "3")):
        report.write_section(name, text, path)
    text = path.read_text()
    assert "\n3\n" in text and "\n2\n" in text and "\n1\n" not in text
    assert text.count("begin -->") == text.count("end -->") == 2
    report.write_section("one", "3", path)
    assert path.read_text() == text


def test_quality_runs(monkeypatch, tmp_path, capsys):
    for name, value in {"TOLERANCES": (1e-1,), "ELL": (2,)}.items():
        monkeypatch.setattr(quality, name, value)
    tiny = ["--num-rows", "20", "--evaluations", "5", "--out-dir", str(tmp_path)]
    quality.main(tiny)
    curves = jsonfiles.read_json(str(tmp_path / "solvers.json"))["curves"]
    assert list(curves) == list(sde_utils.SDES)
    assert set(curves["VE"]) == {"sde", "pc", *(f"ode {name}" for name in solvers.ODE_SOLVERS)}
    taken = {k: [p["evaluations"] for p in points] for k, points in curves["VE"].items()}
    assert taken.pop(TOLERANT)[0] > 5
    assert taken == {k: [4 if k == "ode heun" else 5] for k in taken}
    assert (tmp_path / "solvers.png").stat().st_size > 0
    assert (tmp_path / "solvers.html").read_text().count("<table>") == len(sde_utils.SDES)


def test_the_exact_velocity_of_quality_is_that_of_its_law():
    """By its definition: the gradient of the log density of the law with noise on top."""
    law, sde = quality.LogChiSquared(21), sde_utils.VESDE()
    for u in (sde_utils.U_MIN, 0.3):
        t = sde.time(torch.tensor(u, dtype=torch.float64))
        x = torch.linspace(-2, 2, 9, dtype=torch.float64)
        h = u / 100
        support, weights = torch.from_numpy(law.x), torch.from_numpy(law.weights)
        ends = [
            (weights.log() - ((x + s)[:, None] - support) ** 2 / 2 / u**2).logsumexp(1)
            for s in (-h, h)
        ]
        expected = (ends[1] - ends[0]) / (2 * h)
        score = sde_utils.score_from_velocity(sde, x, t, law.velocity(sde, x, t))
        torch.testing.assert_close(score, expected, rtol=2e-2, atol=2e-2)
        # a comb, as too coarse a support is, would have a slope of -1/u^2 about each point
        assert (expected.diff() / x.diff()).abs().max() < 5


def test_what_cannot_do_with_so_few_evaluations_is_left_out():
    runs = quality.own_runs([1, 2, 3])
    steps = {k: [run.settings.num_steps for run in each] for k, each in runs.items()}
    assert len(steps.pop(TOLERANT)) == len(quality.TOLERANCES)
    assert steps == {
        **{"sde": [1, 2], "pc": [1]},
        **{"ode ab2": [1, 2, 3], "ode ab3": [1, 2], "ode dpmpp2m": [1, 2], "ode heun": [1]},
    }
    assert set(quality.own_runs([1])) == {"ode ab2", TOLERANT}


@pytest.mark.parametrize("sde_name", sde_utils.SDES)
def test_azula_integrates_our_network(sde_name):
    """From the same rows, and along the same flow: with many steps it ends where ours does."""
    pytest.importorskip("azula", reason="pip install --no-deps -r benchmarks/requirements.txt")
    torch.manual_seed(0)
    sde, sizes = sde_utils.SDES[sde_name](), {"hidden_dim": 8, "embed_dim": 4, "num_layers": 1}
    network = model.ScoreNet1D(sde, model.Architecture(4, **sizes)).requires_grad_(False)
    torch.nn.init.normal_(network.output.weight, std=0.05)
    modes = torch.linalg.qr(torch.randn(4, 4)).Q
    network.start.set(torch.zeros(0, 4), torch.tensor([0.1, 0.5, 1, 2.4]), modes)
    frame, calls = Frame.of(network.start), []
    network.register_forward_hook(lambda *args: calls.append(args))
    dynamics = Dynamics(sde, sde_utils.make_velocity_fn(network), frame=frame)
    z = torch.randn(100, 4)
    ours = quality.own_runs([100])["ode ab2"][0](dynamics, z)[0]
    gaussian = frame.place(z, 0.0)
    assert (ours - gaussian).square().mean() > 1e-3  # there is something to follow
    for runs in quality.azula_runs(network, [500]).values():
        calls.clear()
        x, evaluations = runs[0](dynamics, z)
        assert evaluations == len(calls) == 500
        # of the noise of 0.01 at which it ends the flow has left 0.01^2 / 2, and 0.5 % of s = 0.1
        torch.testing.assert_close(x, ours, rtol=0.01, atol=0.003)


KINDS = {  # flags of data_generation.py, and of train.py beside --data-file
    "prior": (("--r", "0.001"), ()),
    "one r": (("--r", "0.001"), ("cond",)),
    "joint": (("--r-range", "0", "0.01"), ("cond", "param")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_quality_of_a_checkpoint_runs(kind, generate, cached_lensing, monkeypatch, tmp_path):
    for name, value in {"TOLERANCES": (1e-1,), "NUM_DRAWS": 2}.items():
        monkeypatch.setattr(quality, name, value)
    flags, given = KINDS[kind]
    generate(*flags, "--foregrounds", "none", "--noise-uk-arcmin", "1", rows=100)
    r = "0-0.01" if kind == "joint" else "0.001"
    files = {"cond": f"dl_train_noisy_r{r}.npy", "param": f"r_train_r{r}.npy"}
    path = str(tmp_path / "model.pth")
    argv = ["--data-file", f"{tmp_path}/data/dl_train_r{r}.npy", "--out", path, "--epochs", "1"]
    argv += ["--hidden-dim", "8", "--embed-dim", "4", "--num-layers", "1", "--device", "cpu"]
    for name in given:
        argv += [f"--{name}-file", f"{tmp_path}/data/{files[name]}"]
    train.main(argv)
    argv = ["--model-checkpoint", path, "--num-rows", "20", "--evaluations", "6"]
    argv += ["--data-file-noisy", f"{tmp_path}/data/dl_noisy_r{r}.npy"] if given else []
    quality.main([*argv, "--out-dir", str(tmp_path), "--device", "cpu"])
    name = "solvers_posterior" if given else "solvers_prior"
    curves = jsonfiles.read_json(str(tmp_path / f"{name}.json"))["curves"]["VE"]
    (point,) = curves["ode ab2"]
    assert point["evaluations"] == 6
    assert len(point) == (5 if kind == "joint" else 3)
    azula = {name for name in curves if name.startswith("azula")}
    there = not given and importlib.util.find_spec("azula") is not None
    assert azula == ({"azula xEABSampler", "azula HeunSampler"} if there else set())


@pytest.mark.parametrize("all_tools", [False, True])
def test_compare_runs(all_tools, monkeypatch, tmp_path, capsys):
    """Two problems: numbers of every sampler, kept, and one section of the document."""
    from benchmarks import compare, tools

    for module in ("score_models", "azula", "sbi") if all_tools else ():
        pytest.importorskip(module, reason="pip install --no-deps -r benchmarks/requirements.txt")
    names = list(tools.TOOLS) if all_tools else ["ours"]
    small = {"num_train": 300, "hidden_dim": 8, "num_layers": 1, "batch_size": 100, "epochs": 2}
    draws = {"num_test": 20, "num_samples": 320, "num_draws": 16}
    generate = {"num_test": 300, "num_samples": 300}
    for name, problem in compare.PROBLEMS.items():
        sizes = small | (draws if problem.num_draws else generate)
        monkeypatch.setitem(compare.PROBLEMS, name, dataclasses.replace(problem, **sizes))
    monkeypatch.setattr(tools, "EQUAL_EVALUATIONS", (30,))
    monkeypatch.setattr(tools, "README_STEPS", 40)
    monkeypatch.setattr(report, "PATH", tmp_path / "RESULTS.md")
    out_dir = str(tmp_path / "compare")
    argv = ["--problems", "correlated", "joint", "--seeds", "3", "--out-dir", out_dir]
    argv += ["--tools", *names]
    compare.main(argv)
    first = (tmp_path / "RESULTS.md").read_text()
    rows = [line for line in first.splitlines() if line.startswith("| ") and "problem" not in line]
    assert {row.split("|")[2].strip() for row in rows} == set(names)
    for row in rows:
        tool, label, evaluations, ks = (row.split("|")[k].strip() for k in (2, 3, 6, 8))
        assert float(evaluations) >= tools.FEW_EVALUATIONS, row
        if tool == "ours" and (named := re.search(r"(\d+) evaluations", label)):
            assert float(evaluations) == int(named[1])
        if (tool, label) == ("ours", "`ode` (default)") or ks != "–":  # hardly trained, may diverge
            assert 0 < float(ks) < 1, row
    # all is kept: nothing is trained again, and the document stays as it is
    monkeypatch.setattr(compare, "run_tool", None)
    compare.main(argv)
    assert (tmp_path / "RESULTS.md").read_text() == first
    assert capsys.readouterr().out.count("## Side by side") == 2


def test_contention_runs(monkeypatch):
    """Two rows of each script, at the rate alone and beside as many busy processes as cores."""
    for name, value in {"ROWS": 200, "EPOCHS": 1, "NUM_SAMPLES": 40}.items():
        monkeypatch.setattr(contention, name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    written = {}
    monkeypatch.setattr(report, "write_section", written.__setitem__)
    contention.main(["--repeats", "1"])
    rows = [line.split("|")[1:-1] for line in written["contention"].splitlines() if ".py |" in line]
    rows = [[cell.strip() for cell in row] for row in rows]
    assert [row[:2] for row in rows] == [
        [script, busy] for script in ("train.py", "sample.py") for busy in ("0", "1")
    ]
    assert rows[0][3] == rows[2][3] == "1.00"


def test_busy_processes_end_with_the_block():
    with contention.busy_processes(2) as running:
        assert all(process.poll() is None for process in running)
    assert all(process.poll() is not None for process in running)
