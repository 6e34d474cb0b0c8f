"""Own observations, and files that do not belong together, through every script and mode."""

import os
import shutil

import healpy
import numpy as np
import pytest
from test_pipeline import (  # noqa: F401  folder and pairs are fixtures
    DENOISE,
    JOINT,
    POSTERIOR,
    TEMPLATE,
    TINY,
    fails,
    folder,
    pairs,
)

import evaluate
import sample
import train
from runtime import jsonfiles, tables
from runtime.records import Record

NOISY, TRUTH, R = (f"data/{name}_r0-0.01.npy" for name in ("dl_noisy", "dl_gt", "r_gt"))
QUICK = ["--device", "cpu", "--num-steps", "8"]
ELL = np.arange(2, 8)


@pytest.fixture
def joint(pairs):  # noqa: F811
    """A joint model in model.pth, trained until its draws are above 0."""
    train.main([*TINY, *JOINT, "--epochs", "20", "--lr", "0.01"])


def draws(*argv, folder="."):  # noqa: F811
    """Draws of r of the first observation."""
    sample.main(["--num-draws", "16", *QUICK, "--out-dir", folder, *argv])
    return np.load(f"{folder}/r_draws.npy")[0]


def test_an_own_observation_has_one_posterior_in_any_form(joint, capsys):
    dl = np.load(NOISY)[0]
    cl = 2 * np.pi * dl / (ELL * (ELL + 1))
    from_0 = np.concatenate([[0, 0], cl])
    np.save("row.npy", dl[None].astype(">f8"))
    np.save("plain.npy", dl[None])
    expected = draws("--data-file-noisy", "plain.npy")
    np.save("one.npy", dl)
    np.savez("one.npz", dl)
    np.savetxt("camb.dat", np.stack([ELL, 9 * dl, 9 * dl, dl, dl], 1), header="L TT EE BB TE")
    np.savetxt("K2.csv", 1e-12 * dl)
    healpy.write_cl("cl.fits", [9 * from_0, 9 * from_0, from_0])
    np.save("cl.npy", 1e-6 * np.append(from_0, [np.nan] * 5))
    for name, flags in {
        **dict.fromkeys(("row.npy", "one.npy", "one.npz", "camb.dat", "cl.fits"), []),
        "K2.csv": ["--units", "K2"],
        "cl.npy": ["--units", "mK2", "--quantity", "cl", "--ell-min", "0"],
    }.items():
        capsys.readouterr()
        # as exact as text and factors are; float32 networks see less
        np.testing.assert_allclose(draws("--data-file-noisy", name, *flags), expected, rtol=1e-4)
        said = [line for line in capsys.readouterr().err.splitlines() if "understood as" in line]
        assert len(said) == 1 and said[0].startswith(name)


def test_observations_and_truth_of_others_are_evaluated_with_the_same_flags(joint, capsys):
    for name, path in (("y", NOISY), ("x", TRUTH)):
        np.save(f"{name}.npy", 1e-12 * np.load(path))
    own = ["--data-file-noisy", "y.npy", "--data-file-gt", "x.npy"]
    draws(*own, "--units", "K2", folder="own")
    argv = ["--runs", "own", *own, "--param-file-gt", R]
    evaluate.main([*argv, "--units", "K2"])
    report = jsonfiles.read_json("evaluation/report.json")
    assert report["runs"]["own"]["mse"]["value"] > 0
    assert "was not sampled from" in fails(evaluate.main, argv, 2, capsys)
    # a truth with a record keeps its own unit beside them
    mixed = ["--data-file-noisy", "y.npy", "--data-file-gt", TRUTH]
    draws(*mixed, "--units", "K2", folder="own")
    evaluate.main(["--runs", "own", *mixed, "--param-file-gt", R, "--units", "K2"])
    assert jsonfiles.read_json("evaluation/report.json")["runs"]["own"]["mse"]["value"] == (
        pytest.approx(report["runs"]["own"]["mse"]["value"])
    )


def test_log_likelihood_of_spectra_of_others(joint):
    words = ["--log-likelihood", "--device", "cpu", "--param-file-gt", R]
    sample.main([*words, "--data-file-noisy", NOISY, "--data-file-gt", TRUTH])
    expected = np.load("log_likelihood.npy")
    for name, path in (("y", NOISY), ("x", TRUTH)):
        np.save(f"{name}.npy", 1e-6 * np.load(path))
    sample.main([*words, "--data-file-noisy", "y.npy", "--data-file-gt", "x.npy", "--units", "mK2"])
    np.testing.assert_allclose(np.load("log_likelihood.npy"), expected, rtol=1e-4)


def test_what_own_files_lack_is_said(joint, capsys):
    dl = np.load(NOISY)[0]
    np.save("short.npy", dl[:4])
    np.save("negative.npy", dl * [1, 1, 1, -1, 1, 1])
    np.savetxt("late.txt", np.stack([ELL + 1, dl], 1))
    before = sorted(os.listdir("."))
    for parts, argv in {
        ("--ell-min",): ["--data-file-noisy", "short.npy"],
        ("needed are 2-7", "1 is missing, from ell = 2"): ["--data-file-noisy", "late.txt"],
        ("in row 0, column 3 (ell = 5)", "both signs"): ["--data-file-noisy", "negative.npy"],
        ("--units: data", "leave the flags out"): ["--data-file-noisy", NOISY, "--units", "K2"],
        ("does not end in one of",): ["--data-file-noisy", "y.doc"],
        ("invalid choice",): ["--data-file-noisy", "short.npy", "--units", "kK2"],
    }.items():
        message = fails(sample.main, [*QUICK, *argv], 2, capsys)
        assert all(part in message for part in parts), message
    assert sorted(os.listdir(".")) == before


def test_generating_needs_no_conventions(capsys):
    train.main([*TINY, "--epochs", "1"])
    assert "--units: needs" in fails(sample.main, [*QUICK, "--units", "K2"], 2, capsys)


def rewrite(path, target, change):
    """Copy an array with some entries of its record changed."""
    content = {**jsonfiles.read_json(path.replace(".npy", ".json")), **change}
    record = Record.from_json({k: v for k, v in content.items() if k != tables.SEAL})
    tables.write_array(target, np.load(path), record)


def write_others():
    """Files of another seed, and of another cosmology."""
    for label, change in {
        "seed": {"seed": 5},
        "tau": {"cosmology": {"tau": 0.0754}},
        "signal": {"signal_template": {**TEMPLATE, "dl_per_r": [[1.1e-2] * 6] * 2}},
        "wide": {"r_range": [0.0, 0.02]},
    }.items():
        for path in (NOISY, TRUTH, R):
            rewrite(path, f"{label}_{os.path.basename(path)}", change)


MODES = {
    "posterior": (["--num-draws", "2", *QUICK], []),
    "log-likelihood": (["--log-likelihood", "--device", "cpu"], ["--param-file-gt", R]),
}


@pytest.mark.parametrize(("mode", "r"), MODES.values(), ids=MODES)
def test_sample_asks_whether_its_files_belong_together(joint, mode, r, capsys):
    write_others()
    draws("--data-file-noisy", NOISY, folder="out")
    before = sorted(os.listdir("."))
    other = "seed_dl_gt_r0-0.01.npy"
    for part, argv in {
        "swap the two": ["--data-file-noisy", TRUTH, "--data-file-gt", NOISY],
        "not of the same skies": ["--data-file-noisy", NOISY, "--data-file-gt", other],
        "signal_template": ["--data-file-noisy", NOISY, "--data-file-gt", f"signal_{other[5:]}"],
        "is an output of sample.py": ["--data-file-noisy", "out/denoised.npy", *POSTERIOR[2:4]],
        "holds observed BB": ["--data-file-noisy", NOISY, "--data-file-gt", NOISY],
    }.items():
        assert part in fails(sample.main, [*mode, *argv, *r], 2, capsys)
    assert sorted(os.listdir(".")) == before


def test_the_recipe_asks_too(capsys):
    train.main([*TINY, "--epochs", "1"])
    sample.main([*DENOISE, *QUICK, "--out-dir", "out"])
    swapped = ["--data-file-noisy", DENOISE[3], "--data-file-gt", DENOISE[1]]
    assert "swap the two" in fails(sample.main, [*QUICK, *swapped], 2, capsys)
    output = ["--data-file-noisy", "out/denoised.npy"]
    assert "holds denoised BB" in fails(sample.main, [*QUICK, *output], 2, capsys)


def test_train_takes_training_rows_alone(joint, capsys):
    draws("--data-file-noisy", NOISY, folder="out")
    before = sorted(os.listdir("."))
    for path, part in {
        NOISY: "holds observed BB",
        JOINT[3]: "holds observed BB",
        TRUTH: "is of the test set",
        R: "has shape",
        "out/denoised.npy": "is an output of sample.py",
        "out/posterior_std.npy": "is an output of sample.py",
    }.items():
        assert part in fails(train.main, [*TINY, "--data-file", path], 2, capsys)
    test = ["--data-file", TRUTH, "--cond-file", NOISY, "--param-file", R]
    assert "is of the test set" in fails(train.main, [*TINY, *test], 2, capsys)
    assert sorted(os.listdir(".")) == before


def test_evaluate_asks_the_same(joint, capsys):
    write_others()
    draws("--data-file-noisy", NOISY, folder="out")
    for part, names in {
        "swap the two": (TRUTH, NOISY, R),
        "not of the same skies": (NOISY, TRUTH, "seed_r_gt_r0-0.01.npy"),
        "signal_template": (NOISY, "signal_dl_gt_r0-0.01.npy", R),
    }.items():
        flags = ("--data-file-noisy", "--data-file-gt", "--param-file-gt")
        words = [word for pair in zip(flags, names, strict=True) for word in pair]
        assert part in fails(evaluate.main, ["--runs", "out", *words], 2, capsys)
    assert not os.path.exists("evaluation")


def test_a_sky_of_another_signal_is_told_with_the_bias(joint, capsys):
    write_others()
    shutil.copy(NOISY, "bare.npy")
    for name, words in {
        "signal_dl_noisy_r0-0.01.npy": "trained on a signal at r = 0.005 of 5e-05 uK^2 at ell = 2",
        "wide_dl_noisy_r0-0.01.npy": "have r = [0.0, 0.02], the prior of the model is [0.0, 0.01]",
        NOISY: None,
        "bare.npy": None,
    }.items():
        capsys.readouterr()
        draws("--data-file-noisy", name)
        said = capsys.readouterr().err
        assert words in said if words else not ("biased" in said or "prior" in said)


def test_training_rows_as_observations_are_named(joint, capsys):
    capsys.readouterr()
    draws("--data-file-noisy", JOINT[3])
    assert "is of the training set, which the model has seen" in capsys.readouterr().err


def test_the_cosmology_is_told(pairs, capsys):  # noqa: F811
    for path in JOINT[1::2]:
        rewrite(path, path, {"cosmology": {"tau": 0.0544, "H0": 67.36}})
    train.main([*TINY, *JOINT, "--epochs", "1"])
    for tau, told in ((0.0754, True), (0.0544, False)):
        rewrite(NOISY, "y.npy", {"cosmology": {"tau": tau, "H0": 67.36}})
        capsys.readouterr()
        draws("--data-file-noisy", "y.npy")
        said = capsys.readouterr().err
        assert ("tau 0.0544, these observations have 0.0754; r may be biased" in said) == told


def test_bands_of_both_signs_are_observed_in_any_form(capsys):
    """Bare arrays of a simulator of the user's own: r alone, seen in twelve band powers."""
    rng = np.random.default_rng(0)
    r = rng.uniform(0, 0.01, 300)
    bands = r[:, None] * np.linspace(1, 2, 12) + 0.002 * rng.normal(size=(300, 12))
    bands[:, 0] = np.abs(bands[:, 0]) + 1e-5  # one that is an auto-spectrum
    np.save("r.npy", r)
    np.save("y.npy", bands)
    own = ["--cond-file", "y.npy", "--param-file", "r.npy", "--r-range", "0", "0.01"]
    train.main([*TINY, *own, "--epochs", "1", "--out", "bands.pth"])
    observed = bands[3].copy()
    observed[5] = -0.001
    np.save("own.npy", observed)
    np.savetxt("own.txt", np.stack([37.5 + 35 * np.arange(12), observed], 1))
    model = ["--model-checkpoint", "bands.pth", "--data-file-noisy"]
    expected = draws(*model, "own.npy")
    np.testing.assert_array_equal(draws(*model, "own.txt"), expected)
    assert "12 numbers as they stand" in capsys.readouterr().err
    assert "not observe multipoles" in fails(
        sample.main, [*QUICK, *model, "own.txt", "--ell-min", "2"], 2, capsys
    )
    observed[0] = -0.001
    np.save("own.npy", observed)
    message = fails(sample.main, [*QUICK, *model, "own.npy"], 2, capsys)
    assert "holds -0.001 in row 0, column 0" in message and "1 of its 12 values is" in message
