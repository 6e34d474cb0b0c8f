"""Posteriors of sbibm's tasks beside sbi's NPSE: C2ST against the reference posteriors.

Needs what benchmarks/requirements-sbibm.txt lists, after requirements.txt (make sbibm does both).

Tasks of Lueckmann et al. 2021 (arXiv:2101.04653): `gaussian_linear`, 10 parameters with a Gaussian
posterior; `two_moons`, 2 parameters on two thin crescents; `slcp`, 5 parameters with four sharp
modes. Both tools get the same simulations. C2ST, by sbibm's own function, is the accuracy of a
classifier that tells 10,000 draws from 10,000 reference draws: 0.5 is exact, 1 is wrong
everywhere. A seed has simulations, weights and draws of its own.

What is done stays in --out-dir, draws and scores, so that a stopped run goes on; remove the folder
after a change of the code. The table of all that is there becomes a section of
benchmarks/RESULTS.md, in which what is missing is named.

The values that were published are not in the package, but on the web. This fetches them, and
--published FILE adds them to the table:
  python -c "import sbibm; sbibm.get_results().to_csv('main_paper.csv')"

Example:
  python -m benchmarks.sbibm
"""

import argparse
import csv
import dataclasses
import importlib
import importlib.metadata
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import report
from benchmarks.compare import machine, spread
from runtime import atomic, cli, console, jsonfiles
from runtime.errors import InputError
from runtime.jsonfiles import Json

if TYPE_CHECKING:  # tools load torch, which --help does without
    from benchmarks.sbibm_tools import Tool

TASKS = ("two_moons", "slcp", "gaussian_linear")
BUDGETS = (10_000, 100_000)
SEEDS = (0, 1, 2)
NUM_OBSERVATIONS, NUM_DRAWS = 10, 10_000  # of a task; as many draws as sbibm has references
PUBLISHED = ("NPE", "SNPE")  # algorithms of the paper, the nearest in kind
PACKAGES = ("sbi", "sbibm")
COSTS = ("training", "sampling")  # whose CPU times are kept
OUT_DIR = "results/sbibm"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A tool on a task with a number of simulations and a seed."""

    task: str
    simulations: int
    tool: str
    seed: int

    def __str__(self) -> str:
        return f"{self.task}, {self.simulations:,} simulations, seed {self.seed}: {self.tool}"

    def path(self, out_dir: str, suffix: str) -> str:
        """File of its scores (.json) or its draws (.npy)."""
        name = f"{self.task}_{self.simulations}_{self.tool}_{self.seed}{suffix}"
        return os.path.join(out_dir, name)


def version(package: str) -> str:
    """Version of a package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def settings_of(cell: Cell, tool: type["Tool"], observations: Sequence[int]) -> Json:
    """What the kept draws of a cell must have been made with to count."""
    return {
        "tool": tool.settings(cell.task, cell.simulations),
        "observations": list(observations),
        "versions": {name: version(name) for name in ("torch", *tool.packages)},
        "machine": machine(),
    }


def kept(out_dir: str, cell: Cell, settings: Json) -> Json | None:
    """What was done of a cell before, with these settings."""
    path = cell.path(out_dir, ".json")
    record = jsonfiles.read_json(path) if os.path.exists(path) else {}
    return record if record.get("settings") == settings else None


def draw(cell: Cell, tool: "Tool", observations: Sequence[int], out_dir: str) -> Json:
    """Train and draw: writes the draws, shape (n_obs, num_draws, n_param), returns the rest."""
    from benchmarks.sbibm_tools import Simulations

    simulations = Simulations.of(cell.task, cell.simulations, cell.seed, observations)
    folder = os.path.join(out_dir, cell.tool)
    os.makedirs(folder, exist_ok=True)
    drawn = tool.run(simulations, NUM_DRAWS, folder)
    atomic.write_npy(cell.path(out_dir, ".npy"), drawn.draws.astype(np.float32))
    seconds = {"training": drawn.training_seconds, "sampling": drawn.sampling_seconds}
    return {"seconds": seconds, "epochs": drawn.epochs, "c2st": {}}


def run_all(cells: Iterable[Cell], observations: Sequence[int], out_dir: str) -> None:
    """Do what is not kept yet; each score is written as it comes."""
    from benchmarks.sbibm_tools import TOOLS, c2st

    for cell in cells:
        tool, path = TOOLS[cell.tool], cell.path(out_dir, ".json")
        settings = settings_of(cell, tool, observations)
        record = kept(out_dir, cell, settings)
        if record is None:
            console.info(str(cell))
            record = {"settings": settings, **draw(cell, tool(), observations, out_dir)}
            atomic.write_json(path, record)
        for number, values in zip(observations, np.load(cell.path(out_dir, ".npy")), strict=True):
            if str(number) not in record["c2st"]:
                record["c2st"][str(number)] = value = c2st(cell.task, number, values)
                atomic.write_json(path, record)
                console.info(f"{cell}, observation {number}: C2ST {value:.3f}")


def mean_score(record: Json | None, observations: Sequence[int]) -> float | None:
    """Mean C2ST over the observations; None where one is missing."""
    scores = record["c2st"] if record else {}
    values = [scores.get(str(number)) for number in observations]
    return None if None in values else float(np.mean(values))


def tool_row(cells: Sequence[Cell], tool: type["Tool"], args: argparse.Namespace) -> list[str]:
    """Cells of the table for a tool on a task: from the seeds that are done, others named."""
    settings = settings_of(cells[0], tool, args.observations)
    records = {cell.seed: kept(args.out_dir, cell, settings) for cell in cells}
    scores = {seed: mean_score(record, args.observations) for seed, record in records.items()}
    done = [record for seed, record in records.items() if record and scores[seed] is not None]
    missing = ", ".join(str(seed) for seed, value in scores.items() if value is None)
    number = f"{len(done)} of {len(cells)}" + (f", missing: {missing}" if missing else "")
    if not done:
        return ["missing"] + ["–"] * 4 + [number]
    each = [[record["c2st"][str(k)] for k in args.observations] for record in done]
    return [
        spread([value for value in scores.values() if value is not None]),
        ", ".join(f"{value:.3f}" for value in np.mean(each, 0)),
        f"{np.mean([record['epochs'] for record in done]):.0f}",
        *(f"{np.mean([record['seconds'][k] for record in done]):.0f}" for k in COSTS),
        number,
    ]


def published_scores(path: str) -> dict[tuple[str, int, int], dict[str, float]]:
    """{(task, simulations, observation): {algorithm: C2ST}} of sbibm's main_paper.csv.

    Raises:
        InputError: If the file is no such table.
    """
    columns = ("task", "num_simulations", "num_observation", "algorithm", "C2ST")
    scores: dict[tuple[str, int, int], dict[str, float]] = {}
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise InputError(f"--published {path}: has no column {missing[0]}; see --help")
        for row in reader:
            key = row["task"], int(float(row["num_simulations"])), int(row["num_observation"])
            scores.setdefault(key, {})[row["algorithm"]] = float(row["C2ST"])
    return scores


def published_rows(args: argparse.Namespace, task: str, budget: int) -> list[list[str]]:
    """Rows of the table for what was published, on the same observations."""
    rows, scores = [], published_scores(args.published)
    each = [scores.get((task, budget, number), {}) for number in args.observations]
    for name in PUBLISHED:
        values = [observation[name] for observation in each if name in observation]
        if len(values) == len(each):
            cells = [f"{np.mean(values):.3f}", ", ".join(f"{v:.3f}" for v in values)]
            rows.append([f"{name}, published", *cells, *["–"] * 4])
    return rows


def results_table(args: argparse.Namespace, tools: Mapping[str, type["Tool"]]) -> str:
    """The Markdown table of what was asked for."""
    head = ["task", "simulations", "tool", "C2ST", "by observation", "epochs"]
    head += ["training, CPU s", "draws, CPU s", "seeds"]
    lines = []
    for task, budget in itertools.product(TASKS, BUDGETS):
        rows = []
        for name, tool in tools.items():
            cells = [Cell(task, budget, name, seed) for seed in SEEDS]
            rows.append([name, *tool_row(cells, tool, args)])
        if args.published:
            rows += published_rows(args, task, budget)
        lines += [[task, f"{budget:,}", *row] for row in rows]
    return report.table(head, lines)


def markdown(args: argparse.Namespace, tools: Mapping[str, type["Tool"]]) -> str:
    """The section of RESULTS.md."""
    here = machine()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", *PACKAGES))
    about = "\n".join(f"- {name}: {tool.about}." for name, tool in tools.items())
    observations = ", ".join(map(str, args.observations))
    missing = (
        ""
        if args.published
        else (
            "The published values are not repeated here: the package does not hold them; see "
            "`--published`.\n\n"
        )
    )
    return f"""## Tasks of sbibm

`python -m benchmarks.sbibm`: {here["cpu"]}, {here["cores"]} cores, {here["threads"]} threads, no
GPU; {versions}. Tasks, reference posteriors and C2ST of Lueckmann et al. 2021 (arXiv:2101.04653).

C2ST is the accuracy of a classifier that tells {NUM_DRAWS:,} draws from as many reference draws:
0.5 is exact, 1 is wrong everywhere. It is a mean over observations {observations} of
{NUM_OBSERVATIONS}, ± the standard deviation over seeds; then by observation, mean over seeds. Each
seed has simulations, weights and draws of its own, and both tools the same simulations.

{about}

{missing}{results_table(args, tools)}
"""


def build_parser() -> argparse.ArgumentParser:
    from benchmarks.sbibm_tools import TOOLS

    parser = cli.make_parser(__doc__)
    group, names = parser.add_argument_group("parts"), list(TOOLS)
    group.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    group.add_argument(
        "--budgets",
        nargs="+",
        type=cli.positive_int,
        default=list(BUDGETS),
        help="simulations",
    )
    group.add_argument("--tools", nargs="+", choices=names, default=names)
    group.add_argument("--seeds", nargs="+", type=cli.non_negative_int, default=list(SEEDS))
    group.add_argument(
        "--observations",
        nargs="+",
        type=int,
        choices=range(1, NUM_OBSERVATIONS + 1),
        default=[1, 2, 3],
        help="of the task's ten; each costs a C2ST, of up to minutes",
    )
    group.add_argument("--published", help="main_paper.csv of sbibm's results")
    group.add_argument("--out-dir", default=OUT_DIR, help="what is done stays here")
    return parser


def check_installed() -> None:
    """InputError where a package is missing."""
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise InputError(
                f"{name}: cannot be imported ({error}); pip install --no-deps -r "
                "benchmarks/requirements-sbibm.txt, or make sbibm"
            ) from None


@cli.script
def main(argv: list[str] | None = None) -> None:
    from benchmarks.sbibm_tools import TOOLS

    args = build_parser().parse_args(argv)
    check_installed()
    if args.published:
        published_scores(args.published)  # a wrong file is named before hours of work

    os.makedirs(args.out_dir, exist_ok=True)
    # seeds outermost: a stopped run has compared both tools everywhere it came to
    order = itertools.product(args.budgets, args.seeds, args.tasks, args.tools)
    cells = (Cell(task, n, tool, seed) for n, seed, task, tool in order)
    run_all(cells, args.observations, args.out_dir)
    text = markdown(args, TOOLS)
    report.write_section("sbibm", text)
    console.print_result(text)
    console.print_result(f"wrote {report.PATH}")


if __name__ == "__main__":
    main()
