"""Digests of a fixed set of tiny runs of the four scripts: the same before and after a refactoring.

Bits depend on processor and packages, so that digests are compared on one machine, between two
states of the code; golden.json beside this file holds numbers that every machine must reach to
rounding, and test_golden.py asserts them.

Examples:
  python -m tests.golden record before.json           # in a checkout of the old code
  python -m tests.golden compare before.json          # in the new one: names all that differs
  python -m tests.golden summary tests/golden.json    # only where results are meant to change
  python -m tests.golden distance before              # where rounding may change: by how much, from
                                                      # the runs that record --keep before has left
  python -m tests.golden files tests/golden_files     # what test_golden.py reaches from the spectra
                                                      # there, where results are meant to change
"""

import argparse
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPTS = ("data_generation.py", "train.py", "sample.py", "evaluate.py")
# what differs from run to run, or names the state of the code
VOLATILE = {"command", "versions", "git_commit", "seconds", "sidecar_sha256", "belongs_to"}

CLEAN = "--foregrounds none --noise-uk-arcmin 1"
SMALL = "--nside 4 --num-samples 400 --num-test 40"
NET = "--hidden-dim 16 --embed-dim 8 --num-layers 1 --batch-size 64 --epochs 3 --threads 1"
ONE = "--data-file-noisy data/dl_noisy_r0.001.npy --data-file-gt data/dl_gt_r0.001.npy"
MANY = "--data-file-noisy data/dl_noisy_r0-0.01.npy --data-file-gt data/dl_gt_r0-0.01.npy"
RANGE = (
    "--data-file data/dl_train_r0-0.01.npy --cond-file data/dl_train_noisy_r0-0.01.npy "
    "--param-file data/r_train_r0-0.01.npy"
)
RUNS = (
    f"data_generation.py --r 0.001 {CLEAN} {SMALL}",
    f"data_generation.py --r-range 0 0.01 {CLEAN} {SMALL}",
    f"data_generation.py --r 0 0.01 {SMALL} --seed 3 --out-dir gaussian",
    f"data_generation.py --r-range 0 0.01 {SMALL} --instrument echo --clean hilc "
    "--ilc-weights model --foregrounds gaussian --out-dir model",
    f"data_generation.py --r 0.001 {SMALL} --instrument litebird --bands 40 100 140 235 402 "
    "--clean hilc --foregrounds gaussian-ensemble --ilc-bins 2 4 8 --out-dir sky",
    f"train.py --data-file data/dl_train_r0.001.npy {NET} --out VE.pth",
    f"train.py --data-file data/dl_train_r0.001.npy {NET} --sde-type VP --out VP.pth",
    "train.py --data-file data/dl_train_r0.001.npy --cond-file data/dl_train_noisy_r0.001.npy "
    f"{NET} --out conditional.pth",
    f"train.py {RANGE} {NET} --out joint.pth",
    f"train.py {RANGE} {NET} --sde-type VP --out joint_VP.pth",
    f"torchrun train.py {RANGE} {NET} --out two_processes.pth",
    f"stopped train.py {RANGE} {NET} --epochs 200 --out resumed.pth",
    "sample.py --model-checkpoint VE.pth --method ode --num-samples 300 --out-dir VE_ode",
    "sample.py --model-checkpoint VP.pth --method sde --num-steps 20 --num-samples 300 "
    "--out-dir VP_sde",
    f"sample.py --model-checkpoint VE.pth --method pc --num-steps 10 {ONE} --out-dir VE_recipe "
    "--plot-trajectories",
    f"sample.py --model-checkpoint VP.pth --method ode --ode-solver heun {ONE} --out-dir VP_heun "
    "--t-start 0.5",
    f"sample.py --model-checkpoint conditional.pth --method ode {ONE} --num-draws 16 "
    "--batch-size 100 --out-dir conditional",
    f"sample.py --model-checkpoint joint.pth --method ode {MANY} --num-draws 16 --out-dir joint",
    f"sample.py --model-checkpoint joint_VP.pth --method sde --num-steps 20 {MANY} "
    "--num-draws 16 --out-dir joint_VP",
    f"sample.py --model-checkpoint joint.pth --method ode --ode-solver dpmpp2m {MANY} "
    "--num-draws 16 --out-dir dpmpp2m",
    f"sample.py --model-checkpoint joint.pth --method ode --ode-solver adaptive {MANY} "
    "--num-draws 16 --out-dir adaptive",
    f"torchrun sample.py --model-checkpoint joint.pth --method ode {MANY} --num-draws 16 "
    "--batch-size 100 --out-dir two_processes",
    "sample.py --model-checkpoint VE.pth --log-likelihood --data-file-gt data/dl_gt_r0.001.npy "
    "--out-dir VE_likelihood",
    f"sample.py --model-checkpoint joint.pth --log-likelihood {MANY} "
    "--param-file-gt data/r_gt_r0-0.01.npy --out-dir joint_likelihood",
    f"evaluate.py --runs VE_recipe VP_heun conditional {ONE} --out-dir evaluation",
    f"evaluate.py --runs joint joint_VP {MANY} --param-file-gt data/r_gt_r0-0.01.npy "
    "--out-dir evaluation_range",
)

TRAINED = f"{RANGE} {NET} --out new.pth"
DRAWN = f"--model-checkpoint joint.pth --method ode --num-draws 16 --threads 1 {MANY}"
FILES = ("joint.pth", "joint/denoised.npy", "joint/r_draws.npy", "evaluation/report.json")
EVALUATED = f"--runs joint {MANY} --param-file-gt data/r_gt_r0-0.01.npy --out-dir evaluation"


def run_script(words, folder):
    """Run a script as a user does, in a folder; on two processes, or stopped and resumed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    options = {"cwd": folder, "env": environment, "stderr": subprocess.PIPE, "text": True}
    launcher = [sys.executable]
    if words[0] == "torchrun":
        launcher += ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29517"]
        words = words[1:]
    stopped = words[0] == "stopped"
    words = words[1:] if stopped else words
    command = [*launcher, str(ROOT / words[0]), *words[1:]]
    if stopped:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, **options)
        checkpoint = pathlib.Path(folder, words[words.index("--out") + 1])
        while process.poll() is None and "step" not in process.stderr.readline():
            time.sleep(0.01)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        process.communicate()
        assert checkpoint.exists()
        command.append("--resume")
    result = subprocess.run(command, stdout=subprocess.PIPE, **options)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{result.stderr}")
    return result.stdout


def strip_volatile(content):
    """JSON content without what differs from run to run."""
    if isinstance(content, dict):
        return {k: strip_volatile(v) for k, v in content.items() if k not in VOLATILE}
    return [strip_volatile(v) for v in content] if isinstance(content, list) else content


def numbers(content):
    """All numbers of a JSON content, in order."""
    if isinstance(content, dict):
        return [n for key in sorted(content) for n in numbers(content[key])]
    if isinstance(content, list):
        return [n for value in content for n in numbers(value)]
    return [content] if isinstance(content, (int, float)) else []


def _tensors(content, prefix=""):
    """(plain JSON, {name: float array}) of a checkpoint's dict."""
    import torch

    plain, arrays = {}, {}
    for key, value in content.items():
        if isinstance(value, torch.Tensor):
            arrays[f"{prefix}{key}"] = value.numpy()
        elif isinstance(value, dict):
            plain[str(key)], inner = _tensors(value, f"{prefix}{key}.")
            arrays |= inner
        else:
            plain[str(key)] = value
    return plain, arrays


def read_output(path):
    """{name: array or JSON} of an output file."""
    if path.suffix == ".npy":
        return {"": np.load(path)}
    if path.suffix == ".json":
        return {"": strip_volatile(json.loads(path.read_text()))}
    if path.suffix == ".pth":
        import torch

        content = torch.load(path, weights_only=True)
        plain, arrays = _tensors({k: v for k, v in content.items() if k != "resume"})
        return {"": strip_volatile(plain), **arrays}
    return {}


def digest(value):
    """SHA-256 of an array or of JSON."""
    if isinstance(value, np.ndarray):
        return hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def summarise(value):
    """Mean and root mean square of an array, or of the numbers of JSON."""
    values = value if isinstance(value, np.ndarray) else np.array(numbers(value), float)
    values = values[np.isfinite(values)].astype(float)
    return [float(values.mean()), float(np.sqrt(np.square(values).mean()))] if len(values) else []


def distance(value, before):
    """Largest difference: of an array over its rms before; of JSON over each number itself."""
    if isinstance(value, np.ndarray):
        if value.shape != before.shape:
            return float("inf")
        scale = np.sqrt(np.square(before.astype(float)).mean()) if before.size else 1
    else:
        value, before = (np.array(numbers(content), float) for content in (value, before))
        if value.shape != before.shape:
            return float("inf")
        scale = np.abs(before)
    difference = np.abs(value.astype(float) - before.astype(float))
    scale = np.broadcast_to(scale, difference.shape)[difference > 0]
    with np.errstate(divide="ignore"):
        return float((difference[difference > 0] / scale).max(initial=0))


def make_runs(folder):
    """Run all of RUNS in a folder."""
    for run in RUNS:
        print(run, file=sys.stderr, flush=True)
        run_script(run.split(), folder)


def collect(folder, measure):
    """{output: measure of it} of the runs that were made in a folder."""
    results = {}
    for path in sorted(pathlib.Path(folder).rglob("*")):
        if not path.name.startswith("."):
            for name, value in read_output(path).items():
                results[f"{path.relative_to(folder)}:{name}"] = measure(value)
    return results


def write_files(golden):
    """Train, draw and evaluate on the spectra of a folder of golden files, into that folder."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(golden, pathlib.Path(folder, "data"))
        run_script(["train.py", *TRAINED.split()], folder)
        shutil.move(pathlib.Path(folder, "new.pth"), pathlib.Path(folder, "joint.pth"))
        run_script(["sample.py", *DRAWN.split(), "--out-dir", "joint"], folder)
        run_script(["evaluate.py", *EVALUATED.split()], folder)
        for name in FILES:
            shutil.copy(pathlib.Path(folder, name), golden)


def help_texts():
    """{script: its --help}."""
    return {name: run_script([name, "--help"], ".") for name in SCRIPTS}


def print_distances(folder, before):
    """All outputs whose bytes differ from those of before, by how much, the largest last."""
    now, then = collect(folder, lambda value: value), collect(before, lambda value: value)
    shared = sorted(now.keys() & then.keys())
    for name in sorted(now.keys() ^ then.keys()):
        print(f"only {'before' if name in then else 'now'}: {name}")
    distances = {k: distance(now[k], then[k]) for k in shared if digest(now[k]) != digest(then[k])}
    for name in sorted(distances, key=distances.get):
        print(f"{distances[name]:.1e} {name}")
    print(f"{len(shared) - len(distances)} of {len(shared)} are the same")


def main():
    """Record, compare, summarise, or write golden files anew."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("record", "compare", "summary", "distance", "files"))
    parser.add_argument(
        "file", type=pathlib.Path, help="of digests; distance: folder of runs; files: their folder"
    )
    parser.add_argument("--keep", help="folder in which the runs stay")
    args = parser.parse_args()
    if args.action == "files":
        write_files(args.file)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or temporary
        os.makedirs(folder, exist_ok=True)
        make_runs(folder)
        if args.action == "distance":
            print_distances(folder, args.file)
            return
        measure = summarise if args.action == "summary" else digest
        results = collect(folder, measure)
    if args.action != "summary":
        results |= {f"{name} --help": digest(text) for name, text in help_texts().items()}
    if args.action != "compare":
        args.file.write_text(json.dumps(results, indent=0) + "\n")
        return
    before = json.loads(args.file.read_text())
    names = sorted(before.keys() | results.keys())
    differing = [name for name in names if before.get(name) != results.get(name)]
    for name in differing:
        print(name)
    print(f"{len(names) - len(differing)} of {len(names)} are the same")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
