"""A folder of outputs is one run: what goes, when it goes, and what readers refuse."""

import json
import os

import numpy as np
import pytest
from test_pipeline import (  # noqa: F401  folder and pairs are fixtures
    JOINT,
    POSTERIOR,
    TINY,
    fails,
    folder,
    pairs,
)

import evaluate
import sample
import train
from checks.run import Run
from diffusion import outputs, sampling
from diffusion.sampling import ReverseProcess
from runtime import atomic, jsonfiles, provenance, run_folder, tables
from runtime.errors import InputError
from runtime.records import Record

OBSERVED = "data/dl_noisy_r0-0.01.npy"
UNCONDITIONAL = [*TINY, *JOINT[:2], "--epochs", "1", "--out", "uncond.pth"]
DRAWS = [*POSTERIOR, "--num-draws", "16", "--method", "ode", "--out-dir", "x"]
EVALUATED = ["--runs", "x", *POSTERIOR[:4], "--param-file-gt", "data/r_gt_r0-0.01.npy"]


@pytest.fixture
def models(pairs):  # noqa: F811
    """post.pth, joint, and uncond.pth, of the same spectra; hardly trained."""
    train.main([*TINY, *JOINT, "--epochs", "1", "--out", "post.pth"])
    train.main(UNCONDITIONAL)
    return pairs


def run_with(model, *flags):
    words = DRAWS if model == "post.pth" else [*POSTERIOR, "--method", "ode", "--out-dir", "x"]
    sample.main([*words, "--model-checkpoint", model, *flags])


def content(place="x"):
    """{name: bytes} of a folder."""
    found = {}
    for name in sorted(os.listdir(place)):
        with open(os.path.join(place, name), "rb") as file:
            found[name] = file.read()
    return found


def test_a_run_id_follows_from_all_that_a_run_depends_on():
    one = provenance.run_id({"a": 1, "b": [1, 2]})
    assert len(one) == 16 and int(one, 16) >= 0
    assert one == provenance.run_id({"b": [1, 2], "a": 1}) != provenance.run_id({"b": [2, 1]})


@pytest.fixture
def place(tmp_path):
    """An empty folder."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def test_the_registry_knows_all_outputs(place):
    """Whatever sample.py can write beside another run is found, with its sidecar."""
    arrays = (*outputs.POSTERIOR, *outputs.RECIPE, *outputs.GENERATED)
    names = {each.name: each.quantity for each in arrays} | {"A_d_draws.npy": "posterior A_d"}
    for name, quantity in names.items():
        tables.write_array(str(place / name), np.ones((2, 3)), Record(quantity=quantity))
    for name in (outputs.TRAJECTORY, "metrics.json", "examples.png", "trajectory.png"):
        (place / name).write_bytes(b"{}")
    written = set(os.listdir(place))
    # a user's own files stay, whatever they are called
    np.save(place / "my_draws.npy", np.ones(3))
    tables.write_array(str(place / "your_draws.npy"), np.ones(3), Record(quantity="r"))
    (place / "notes.txt").touch()
    found = run_folder.outdated("sample.py", str(place), [])
    assert {os.path.basename(path) for path in found} == written
    assert os.path.basename(found[0]) == "metrics.json"
    kept = run_folder.outdated("sample.py", str(place), ["denoised.npy"])
    assert set(found) - set(kept) == {str(place / f"denoised.{k}") for k in ("npy", "json")}
    for name in (*evaluate.FIGURES, *evaluate.R_FIGURES):
        assert name in run_folder.OUTPUTS["evaluate.py"]


def test_a_run_removes_and_names_what_another_left(models, capsys):
    """The issue's example: no draws of the first model beside the recipe of the second."""
    run_with("post.pth")
    evaluate.main([*EVALUATED, "--out-dir", "out"])
    assert os.path.exists("out/r.png") and os.path.exists("out/getdist.png")
    before = content()
    capsys.readouterr()
    run_with("uncond.pth")
    (line,) = [k for k in capsys.readouterr().err.splitlines() if "earlier run left" in k]
    gone = {name for name in before if "draws" in name or "posterior" in name}
    assert "r_draws.npy" in gone and all(f"x/{name}" in line for name in gone)
    assert "replacing" in line and "x/denoised.npy" in line.partition("removing")[0]
    assert set(content()) == {"denoised.npy", "denoised.json", "metrics.json", "examples.png"}
    evaluate.main([*EVALUATED, "--out-dir", "out"])
    assert "removing what an earlier run left: out/r.png" in capsys.readouterr().err
    (report,) = jsonfiles.read_json("out/report.json")["runs"].values()
    assert "r" not in report and not {"r.png", "posterior.png", "getdist.png"} & set(content("out"))


def test_all_files_of_a_run_name_it(models):
    run_with("post.pth", "--plot-trajectories")
    named = {name: json.loads(text)["run"] for name, text in content().items() if "json" in name}
    assert len(named) == 6 and len(set(named.values())) == 1
    first = named["metrics.json"]
    run_with("post.pth")
    assert jsonfiles.read_json("x/metrics.json")["run"] != first
    assert "trajectory.npy" not in content() and "trajectory.png" not in content()


def test_no_stopped_diverged_or_refused_run_takes_anything(models, monkeypatch, capsys):
    run_with("post.pth")
    before = content()
    with monkeypatch.context() as patch:

        def interrupted(*args):
            raise KeyboardInterrupt

        patch.setattr(sampling.Sampler, "block", interrupted)
        with pytest.raises(SystemExit):
            run_with("uncond.pth")
    assert {name: v for name, v in content().items() if name[0] != "."} == before
    with monkeypatch.context() as patch:

        def diverged(*args, **kwargs):
            raise sampling.DivergedError("diverged")

        patch.setattr(ReverseProcess, "block", diverged)
        with pytest.raises(SystemExit):
            run_with("uncond.pth")
    assert content() == before
    fails(run_with, "gone.pth", 2, capsys)
    assert content() == before


@pytest.mark.parametrize("number", range(8))
def test_what_a_crash_leaves_while_files_change_is_refused(number, models, monkeypatch, capsys):
    """Stopped between any two moves and removals, the folder is not taken for a run."""
    observed = tables.load_spectra(OBSERVED)
    run_with("uncond.pth")
    Run.load("x", observed)
    calls = []

    def crashing(function):
        def call(*args):
            calls.append(args)
            if len(calls) == 1 + number:
                raise KeyboardInterrupt
            return function(*args)

        return call

    publish = run_folder.outdated
    with monkeypatch.context() as patch:

        def armed(*args):
            if args[2] and "metrics.json" not in args[2]:  # when the arrays are put in place
                patch.setattr(os, "unlink", crashing(os.unlink))
                patch.setattr(os, "replace", crashing(os.replace))
            return publish(*args)

        patch.setattr(run_folder, "outdated", armed)
        with pytest.raises(SystemExit):
            run_with("post.pth")
    capsys.readouterr()
    with pytest.raises(InputError, match="different runs"):
        Run.load("x", observed)
    # nor without the hidden files, which a copy may lack
    run_with("post.pth", "--resume")
    assert Run.load("x", observed).r is not None


def test_files_of_two_runs_are_refused_and_old_ones_are_not(models):
    observed = tables.load_spectra(OBSERVED)
    run_with("post.pth")
    r_draws = {name: content()[name] for name in ("r_draws.npy", "r_draws.json")}
    run_with("post.pth", "--seed", "1")
    Run.load("x", observed)
    for name, values in r_draws.items():
        atomic.write_bytes(f"x/{name}", values)
    with pytest.raises(InputError, match="x: holds outputs of different runs"):
        Run.load("x", observed)
    for name in os.listdir("x"):  # as version 0.2 left them
        if name.endswith(".json"):
            entries = jsonfiles.read_json(f"x/{name}")
            atomic.write_json(
                f"x/{name}", {k: v for k, v in entries.items() if k not in ("run", tables.SEAL)}
            )
    assert Run.load("x", observed).run is None
    run_with("post.pth")
    os.unlink("x/metrics.json")
    with pytest.raises(InputError, match="different runs"):
        Run.load("x", observed)


def likelihood(model):
    files = [*POSTERIOR[:4], "--param-file-gt", "data/r_gt_r0-0.01.npy"]
    files = files if model == "post.pth" else files[2:4]
    sample.main(["--log-likelihood", "--model-checkpoint", model, *files, "--out-dir", "x"])


def test_log_likelihoods_lie_beside_draws_of_the_same_checkpoint_alone(models, capsys, monkeypatch):
    monkeypatch.setattr("diffusion.likelihood.NUM_STEPS", 2)
    run_with("uncond.pth")
    before = content()
    likelihood("uncond.pth")
    assert before.items() < content().items()
    Run.load("x", tables.load_spectra(OBSERVED))
    assert (
        jsonfiles.read_json("x/log_likelihood.json")["run"]
        == (jsonfiles.read_json("x/log_likelihood_metrics.json")["run"])
    )
    between = content()
    assert "draws of another checkpoint" in fails(likelihood, "post.pth", 2, capsys)
    assert content() == between
    run_with("uncond.pth")
    assert "x/log_likelihood_metrics.json" in capsys.readouterr().err
    assert content().keys() == before.keys()


def test_publishing_without_room_changes_nothing(place, monkeypatch):
    mark, other, old = (str(place / name) for name in ("report.json", "a.png", "r.png"))
    for path in (mark, old):
        atomic.write_bytes(path, "old")
    before = content(place)
    write, calls = atomic._Output.write, []

    def full(self, data):
        calls.append(data)
        with atomic.failures_named(self.path):
            if len(calls) == 2:
                raise OSError(28, "No space left on device")
            return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(atomic._Output, "write", full)
        with pytest.raises(InputError, match="No space left"):
            run_folder.publish({mark: b"new", other: b"new"}, [mark, old])
    assert content(place) == before
    run_folder.publish({mark: b"new", other: b"new"}, [mark, old])
    assert content(place) == {"a.png": b"new", "report.json": b"new"}
