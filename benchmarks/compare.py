"""This project side by side with score-models, azula and sbi: same rows, same network size.

Needs what benchmarks/requirements.txt lists, after requirements.txt, without dependencies (azula
asks for a torchvision that it does not need here, of a build that does not fit torch's):
  pip install --no-deps -r benchmarks/requirements.txt

Four problems: `prior`, primordial spectra at r = 0.001, whose law is known; `correlated`, observed
spectra of one band on gaussian-ensemble foregrounds, whose amplitudes correlate all multipoles;
`posterior`, p(D_ell | y) at r = 0.001; `joint`, p(D_ell, r | y) for r in [0, 0.01]. A seed has
data, weights and draws of its own. What a tool did with a seed stays in --out-dir, and is not done
again on the same machine with the same versions and sizes; remove the folder after a change of the
code. The table of all that is there becomes a section of benchmarks/RESULTS.md.

Example:
  python -m benchmarks.compare
"""

import argparse
import dataclasses
import glob
import importlib
import importlib.metadata
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import report
from benchmarks.problems import PROBLEMS, Problem, Task
from checks import evaluation, law
from checks.posteriors import ExactPosteriors
from checks.run import Run
from checks.skies import Skies
from runtime import atomic, cli, console, jsonfiles, records
from runtime.errors import InputError
from runtime.jsonfiles import Json
from runtime.records import Sky

if TYPE_CHECKING:  # tools load torch, which --help does without
    from benchmarks.tools import Sampled, Tool

Tools = Mapping[str, type["Tool"]]
OUT_DIR = "results/compare"


def score_generated(task: Task, sampled: "Sampled") -> Json:
    """{"ks", "skewness_error"} of generated spectra, and "correlation_error" without a law.

    Distances from the law where it is known, otherwise from the fresh skies of the test set: KS
    distance, and skewness of log D_ell, each a mean over ell; correlation of log D_ell between
    multipoles, mean absolute error over pairs.
    """
    from scipy import stats

    distance = law.compare_with_law(sampled.dl, task.table.record)
    if distance is not None:
        return {"ks": distance.ks_mean, "skewness_error": distance.skewness_error}
    both = np.log(sampled.dl), np.log(task.observed.values)
    columns = zip(*(x.T for x in both), strict=True)
    ks = np.mean([stats.ks_2samp(*pair).statistic for pair in columns])
    skewness = np.abs(np.subtract(*(stats.skew(x, axis=0) for x in both))).mean()
    correlation = np.abs(np.subtract(*(np.corrcoef(x.T) for x in both)))
    upper = np.triu_indices(len(correlation), 1)
    return {
        "ks": float(ks),
        "skewness_error": float(skewness),
        "correlation_error": float(correlation[upper].mean()),
    }


def score_posterior(task: Task, sampled: "Sampled", exact: ExactPosteriors) -> Json:
    """{"excess_percent", "ks", "width_ratio", "r_ks"} of posterior draws; see checks.evaluation.

    "ks" is that of the PIT of D_ell. The width is that of p(r | y), or at one r, of p(D_ell | y),
    over the exact one, median over observations (and ell).
    """
    sampled_from = records.Sampled(None, None, task.prior, Sky())
    draws_of_r, true_r = ({} if r is None else {"r": r} for r in (sampled.r, task.r_true))
    run = Run("", sampled.dl.mean(1), sampled.dl, draws_of_r, sampled_from)
    skies = Skies.of(task.observed, task.truth, true_r)
    report = evaluation.compare(run, skies, exact)[0].measurements
    excess, pit = report.sharpness.excess_percent.value, report.calibration.pit_ks.value
    scores = {"excess_percent": excess, "ks": pit}
    if run.r is None:
        width = np.median(sampled.dl.std(1, ddof=1) / exact.std)
        return scores | {"width_ratio": float(width)}
    r = report.r.against_exact
    return scores | {"width_ratio": r.width_ratio.value, "r_ks": r.pit_ks.value}


def run_tool(tool: "Tool", task: Task, exact: ExactPosteriors | None) -> Json:
    """Train and sample: {"training": numbers, "samplers": {label: numbers}}."""
    import torch

    torch.manual_seed(task.seed)
    began = time.perf_counter()
    epochs = tool.train(task)
    training = {"seconds": time.perf_counter() - began, "rows": epochs * len(task.x_train)}
    training["parameters"] = sum(p.numel() for p in tool.network.parameters())
    console.info(f"training: {training}")
    table = {}
    for label, draw in tool.samplers(task).items():
        sampled = draw()
        if sampled is None:
            continue
        row = {"evaluations": sampled.evaluations, "seconds": sampled.seconds}
        row["per_second"] = task.problem.num_samples / sampled.seconds
        finite = bool((np.isfinite(sampled.dl) & (sampled.dl > 0)).all())
        if finite and exact is not None:
            row |= score_posterior(task, sampled, exact)
        elif finite:
            row |= score_generated(task, sampled)
        table[label] = row
        console.info(f"{label}: " + ", ".join(f"{k} {v:.4g}" for k, v in row.items()))
    return {"training": training, "samplers": table}


def machine() -> Json:
    """CPU model, cores and threads of this machine."""
    import torch

    return {"cpu": report.processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}


def version(tool: type["Tool"]) -> str | None:
    """Version of the tool's package; None for this project, and for what is not installed."""
    try:
        return tool.distribution and importlib.metadata.version(tool.distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def settings_of(problem: Problem, tool: type["Tool"]) -> Json:
    """What a kept result must have been made with to count."""
    versions = {"torch": importlib.metadata.version("torch"), "tool": version(tool)}
    values = dataclasses.asdict(problem) | {"flags": list(problem.flags)}
    return {"problem": values, "versions": versions, "machine": machine()}


def kept_path(out_dir: str, problem: str, tool: str, seed: int | str) -> str:
    """File of what a tool did with a seed of a problem."""
    return os.path.join(out_dir, f"{problem}_{tool}_{seed}.json")


def kept(out_dir: str, problem: str, tool_name: str, tool: type["Tool"]) -> dict[int, Json]:
    """{seed: what a tool did with it before}, with the settings of today."""
    settings, results = settings_of(PROBLEMS[problem], tool), {}
    for path in glob.glob(kept_path(glob.escape(out_dir), problem, tool_name, "*")):
        result = jsonfiles.read_json(path)
        if result.get("settings") == settings:
            results[result["seed"]] = result
    return dict(sorted(results.items()))


def run_all(args: argparse.Namespace, tools: Tools) -> None:
    """Do what is not kept yet, problem by problem and seed by seed."""
    for name, seed in ((name, seed) for name in args.problems for seed in args.seeds):
        problem, task = PROBLEMS[name], None
        for tool_name, tool in tools.items():
            if problem.num_draws and not tool.conditional:
                continue
            if seed in kept(args.out_dir, name, tool_name, tool):
                continue
            if task is None:
                task = Task(problem, seed, os.path.join(args.out_dir, name))
                exact = None
                if task.conditional:
                    exact = ExactPosteriors.of(task.observed, task.prior)
            console.info(f"{name}, seed {seed}: {tool_name}")
            record = run_tool(tool(), task, exact)
            path = kept_path(args.out_dir, name, tool_name, seed)
            settings = {"settings": settings_of(problem, tool), "seed": seed}
            atomic.write_json(path, settings | record)


def spread(values: Sequence[float | None], digits: int = 3) -> str:
    """ "mean ± standard deviation" over seeds; a dash where a value is missing."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "–"
    mean = f"{np.mean(known):.{digits}g}"
    return mean if len(known) == 1 else f"{mean} ± {np.std(known, ddof=1):.1g}"


COLUMNS = {  # key of a sampler's row: (heading, digits)
    "evaluations": ("evaluations", 4),
    "per_second": ("samples/s", 3),
    "ks": ("KS", 3),
    "skewness_error": ("skewness error", 3),
    "correlation_error": ("correlation error", 3),
    "excess_percent": ("MSE excess, %", 3),
    "width_ratio": ("width ratio", 4),
    "r_ks": ("PIT KS of r", 3),
}


def results_table(out_dir: str, tools: Tools) -> tuple[str, list[int]]:
    """The Markdown table of all that is kept, and the seeds that are in it."""
    head = ["problem", "tool", "sampler", "training, s", "rows/s"]
    head += [heading for heading, _ in COLUMNS.values()]
    lines: list[list[str]] = []
    all_seeds: set[int] = set()
    for name, problem in PROBLEMS.items():
        for tool_name, tool in tools.items():
            results = kept(out_dir, name, tool_name, tool)
            all_seeds |= results.keys()
            for label in next(iter(results.values()), {"samplers": {}})["samplers"]:
                rows = [result["samplers"][label] for result in results.values()]
                trained = [result["training"] for result in results.values()]
                seconds = [row["seconds"] for row in trained]
                rate = [row["rows"] / row["seconds"] for row in trained]
                cells = [problem.title, tool_name, label, spread(seconds), spread(rate)]
                for key, (_, digits) in COLUMNS.items():
                    cells.append(spread([row.get(key) for row in rows], digits))
                lines.append(cells)
    return report.table(head, lines), sorted(all_seeds)


def parameters(out_dir: str, tools: Tools) -> dict[str, str]:
    """{tool: "number of weights of its networks, problem by problem"}."""
    counts = {}
    for tool_name, tool in tools.items():
        results = [kept(out_dir, name, tool_name, tool) for name in PROBLEMS]
        firsts = [next(iter(kept_results.values())) for kept_results in results if kept_results]
        sizes = dict.fromkeys(f"{first['training']['parameters']:,}" for first in firsts)
        counts[tool_name] = ", ".join(sizes)
    return counts


def size_of(name: str) -> str:
    """What all tools have in common in a problem, as words."""
    p = PROBLEMS[name]
    return (
        f"{p.num_train} rows, {p.num_layers} layers of {p.hidden_dim}, {p.epochs} epochs in "
        f"batches of {p.batch_size} at a learning rate of {p.lr:g}"
    )


def markdown(out_dir: str, tools: Tools) -> str:
    """The section of RESULTS.md."""
    from scipy import stats

    counts = parameters(out_dir, tools)
    tools = {name: tool for name, tool in tools.items() if counts[name]}
    table, seeds = results_table(out_dir, tools)
    here = machine()
    prior, correlated, joint = (PROBLEMS[k] for k in ("prior", "correlated", "joint"))
    versions = [f"torch {importlib.metadata.version('torch')}"]
    versions += [f"{name} {version(tool)}" for name, tool in tools.items() if tool.distribution]
    n, m = correlated.num_samples, correlated.num_test
    floors = stats.kstwo.mean(prior.num_samples), stats.kstwo.mean(round(n * m / (n + m)))
    notes = [f"- {name}: {tool.about}. Weights: {counts[name]}." for name, tool in tools.items()]
    return f"""## Side by side

`python -m benchmarks.compare`: {here["cpu"]}, {here["cores"]} cores, {here["threads"]} threads, no
GPU; {", ".join(versions)}; seeds {", ".join(map(str, seeds))}, mean ± standard deviation over
them. Each seed has data, weights and draws of its own.

Each tool gets the same rows, logarithms normalised in the same way, the same width and depth, and
as many passes over the data: {size_of("prior")}; for a posterior {size_of("joint")}, and
{joint.num_draws} draws for each of {joint.num_test} observations. What differs:

{chr(10).join(notes)}

KS is a mean over ell: of {prior.num_samples} generated spectra from the exact law (floor
{floors[0]:.4f}); where multipoles are correlated, and no law is known, from {m} fresh skies (floor
{floors[1]:.4f}); of a posterior, the PIT of D_ell. Errors of skewness and correlation are those of
log D_ell. The MSE excess is that of the posterior mean above the exact optimum; the width is that
of p(r | y), at one r that of p(D_ell | y), over the exact one. A dash stands where a number has no
meaning, and in all columns of quality where a sampler returned zero or values that are not finite.

{table}
"""


def build_parser() -> argparse.ArgumentParser:
    import benchmarks.tools

    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("parts")
    names = list(benchmarks.tools.TOOLS)
    group.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    group.add_argument("--tools", nargs="+", choices=names, default=names)
    group.add_argument("--seeds", nargs="+", type=cli.non_negative_int, default=[0, 1, 2])
    group.add_argument(
        "--out-dir", type=cli.folder_argument, default=OUT_DIR, help="what is done stays here"
    )
    return parser


def check_installed(tools: Tools) -> None:
    """InputError where a tool cannot be imported."""
    for name, tool in tools.items():
        try:
            importlib.import_module(tool.module)
        except ImportError as error:
            raise InputError(
                f"--tools {name}: cannot be imported ({error}); pip install --no-deps -r "
                "benchmarks/requirements.txt, or leave it out"
            ) from None


@cli.script
def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)

    from benchmarks.tools import TOOLS

    tools = {name: TOOLS[name] for name in args.tools}
    check_installed(tools)
    os.makedirs(args.out_dir, exist_ok=True)
    run_all(args, tools)
    text = markdown(args.out_dir, TOOLS)
    report.write_section("compare", text)
    console.print_result(text)
    console.print_result(f"wrote {report.PATH}")


if __name__ == "__main__":
    main()
