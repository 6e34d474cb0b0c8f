"""Flags of sample.py: their tables, their rules, and the settings of the solver that they name."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

import sde_utils
from diffusion import solvers
from diffusion.blocks import BATCH_ROWS, GPU_BATCH_ROWS
from diffusion.importance import MIN_DRAWS
from diffusion.solver_settings import CORRECTOR_STEP_SIZE, CORRECTOR_STEPS, SolverSettings
from runtime import chains, cli, formats, processes
from runtime.columns import TEMPERATURES, UNITS

if TYPE_CHECKING:
    from diffusion.trained import Trained

Flags = tuple[tuple[str, dict[str, Any]], ...]

NUM_SAMPLES, NUM_DRAWS = 10000, 64  # where no flag says otherwise
NUM_DRAWS_OF_ONE = 1000  # of a single observation
NOT_WITH_LOG_LIKELIHOOD = (
    *("num_samples", "num_draws", "method", "ode_solver", "tolerance", "t_start"),
    *("num_steps", "num_evaluations"),
    *("corrector_steps", "corrector_step_size", "plot_trajectories", "trajectory_index"),
    *("batch_size", "precision", "seed", "resume", "chains", "maps"),
    *("likelihood", "noise_file", "r_range", "correct"),
)

NPY, SPECTRA = cli.file_argument(".npy"), formats.file_argument
FILES: Flags = (
    ("--data-file-noisy", {"type": SPECTRA, "help": "observations; without, generate"}),
    ("--data-file-gt", {"type": SPECTRA, "help": "their truth, row for row"}),
    ("--param-file-gt", {"type": NPY, "help": "its r, for --log-likelihood"}),
    (
        "--model-checkpoint",
        {
            "type": cli.file_argument(".pth"),
            "default": "model.pth",
            "help": "checkpoint of train.py",
        },
    ),
    ("--out-dir", {"type": cli.folder_argument, "default": ".", "help": "folder of the outputs"}),
    (
        "--chains",
        {
            "type": chains.root,
            "metavar": "ROOT",
            "help": "write the draws of parameters of one observation (--trajectory-index) as "
            "chains of GetDist: ROOT.txt, ROOT.paramnames, ROOT.ranges, ROOT.properties.ini",
        },
    ),
    (
        "--num-samples",
        {"type": cli.positive_int, "help": f"spectra to generate (default: {NUM_SAMPLES})"},
    ),
    (
        "--num-draws",
        {
            "type": cli.positive_int,
            "help": "conditional checkpoints: posterior draws per observation "
            f"(default: {NUM_DRAWS}; {NUM_DRAWS_OF_ONE} of a single one)",
        },
    ),
    (
        "--correct",
        {
            "action": "store_true",
            "help": "weigh posterior draws by their exact density over that of the network, draw "
            "again with these weights, and say for each observation what they are worth",
        },
    ),
    (
        "--allow-outliers",
        {
            "action": "store_true",
            "help": "draw for observations far outside of what the model was trained on, too",
        },
    ),
    (
        "--log-likelihood",
        {
            "action": "store_true",
            "help": "write log p of each row of --data-file-gt, given its row of "
            "--data-file-noisy where the checkpoint is conditional, and draw nothing",
        },
    ),
)
MAPS: Flags = (
    (
        "--maps",
        {
            "metavar": "FILE",
            "help": "in the place of --data-file-noisy: HEALPix FITS file of Q and U, measured as "
            "the observations of the checkpoint were, which was trained on data_generation.py "
            "--mask",
        },
    ),
    (
        "--fields",
        {
            "type": cli.non_negative_int,
            "nargs": 2,
            "metavar": ("Q", "U"),
            "help": "positions of Q and U among the columns of --maps, from 0 (default: by name)",
        },
    ),
    (
        "--split",
        {
            "metavar": "FILE",
            "help": "another map of the same sky, of the same depth and independent noise: the "
            "difference of the two must be noise",
        },
    ),
    (
        "--accept-mismatch",
        {
            "action": "store_true",
            "help": "draw for a map that is not what the model knows, too; all outputs say so",
        },
    ),
)
LIKELIHOOD: Flags = (
    (
        "--likelihood",
        {
            "action": "store_true",
            "help": "draw the posterior with a checkpoint of the prior alone, which train.py "
            "without --cond-file makes: the likelihood of --data-file-noisy enters each step",
        },
    ),
    (
        "--noise-file",
        {
            "metavar": "FILE",
            "help": "of an observation without a record: power of everything but the primordial "
            "signal; text or .npy with the columns ell and N_ell, a C_ell (not D_ell) in uK^2",
        },
    ),
    (
        "--r-range",
        {
            "type": float,
            "nargs": 2,
            "metavar": ("MIN", "MAX"),
            "help": "prior of r (default: that of the checkpoint, which must hold it)",
        },
    ),
)
SOLVER: Flags = (
    (
        "--method",
        {
            "choices": solvers.SOLVERS,
            "default": "sde",
            "help": "; ".join(
                f"{name}: {line.about}, {line.num_steps} steps"
                for name, line in solvers.SOLVERS.items()
            ),
        },
    ),
    (
        "--ode-solver",
        {
            "choices": solvers.ODE_SOLVERS,
            "help": "ode: "
            + "; ".join(
                f"{name}: {line.about}" + ("" if line.adaptive else f", {line.num_steps} steps")
                for name, line in solvers.ODE_SOLVERS.items()
            )
            + f" (default: {solvers.ODE_SOLVER})",
        },
    ),
    (
        "--tolerance",
        {
            "type": cli.positive_float,
            "help": "--ode-solver adaptive: error of a step, in standard deviations of the data "
            f"(default: {solvers.TOLERANCE:g})",
        },
    ),
    (
        "--num-evaluations",
        {
            "type": cli.positive_int,
            "help": "of the network, at most, first and last step included, in the place of "
            "--num-steps",
        },
    ),
    (
        "--num-steps",
        {
            "type": cli.positive_int,
            "help": "steps of the solver (default: as listed for --method and --ode-solver)",
        },
    ),
    (
        "--t-start",
        {
            "type": cli.diffusion_time,
            "help": "time at which an observation enters (default: 1)",
        },
    ),
    (
        "--batch-size",
        {
            "type": cli.positive_int,
            "help": "rows that are integrated together and share a stream of random numbers "
            f"(default: {BATCH_ROWS} on a CPU, {GPU_BATCH_ROWS} elsewhere, fewer above NSIDE 16)",
        },
    ),
    (
        "--corrector-steps",
        {
            "type": cli.positive_int,
            "help": f"pc: corrections after each step (default: {CORRECTOR_STEPS})",
        },
    ),
    (
        "--corrector-step-size",
        {
            "type": cli.positive_float,
            "help": f"pc: their size in units of sigma(t) (default: {CORRECTOR_STEP_SIZE})",
        },
    ),
)
FIGURES: Flags = (
    (
        "--plot-trajectories",
        {"action": "store_true", "help": "save and draw the states of one row"},
    ),
    (
        "--trajectory-index",
        {"type": cli.non_negative_int, "default": 0, "help": "row shown in figures"},
    ),
)


def default_draws(num_observations: int) -> int:
    """Draws of each observation where no flag says otherwise."""
    return NUM_DRAWS_OF_ONE if num_observations == 1 else NUM_DRAWS


def _add(parser: argparse.ArgumentParser, title: str, flags: Flags) -> None:
    group = parser.add_argument_group(title)
    for name, options in flags:
        group.add_argument(name, **options)


def add_files(parser: argparse.ArgumentParser) -> None:
    """Add the flags of files and of what is drawn."""
    _add(parser, "files", FILES)
    _add(parser, "a likelihood, for checkpoints of the prior", LIKELIHOOD)
    _add(parser, "a map of your own", MAPS)


def add_reverse_process(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the solver and of figures."""
    _add(parser, "reverse process", SOLVER)
    _add(parser, "figures", FIGURES)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Rules across arguments."""
    if args.log_likelihood:
        _check_log_likelihood(parser, args)
    elif args.param_file_gt:
        parser.error("--param-file-gt needs --log-likelihood")
    elif args.data_file_gt and not (args.data_file_noisy or args.maps):
        parser.error("--data-file-gt needs --data-file-noisy")
    _check_maps(parser, args)
    _check_likelihood(parser, args)
    if (args.data_file_noisy or args.maps) and args.num_samples:
        given = "--maps" if args.maps else "--data-file-noisy"
        parser.error(f"--num-samples is for generating; leave out {given}")
    if args.t_start and not (args.data_file_noisy or args.maps):
        parser.error("--t-start is for observations; the prior starts at 1")
    _check_solver(parser, args)
    if args.correct:
        _check_correct(parser, args)


def _check_correct(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Rules between --correct and all others."""
    if not args.data_file_noisy:
        parser.error("--correct needs --data-file-noisy, observations whose law is known")
    if args.method != "ode":
        parser.error("--correct needs --method ode, whose draws have a density that is known")
    if args.t_start:
        parser.error("--t-start does not go with --correct: posterior draws start at 1")
    if args.precision != "float32":
        parser.error(f"--precision {args.precision} does not go with --correct: weights are exact")
    if args.num_draws and args.num_draws < MIN_DRAWS:
        parser.error(f"--correct needs --num-draws {MIN_DRAWS} or more, to fit weights")


def _check_maps(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Rules between --maps and all others."""
    if args.maps is None:
        for name in ("fields", "split"):
            if getattr(args, name) is not None:
                parser.error(f"--{name} is for --maps")
        if args.accept_mismatch:
            parser.error("--accept-mismatch is for --maps")
        if args.units in TEMPERATURES:
            parser.error(f"--units {args.units} is for --maps; spectra are in {', '.join(UNITS)}")
        return
    if args.data_file_noisy:
        parser.error("--maps and --data-file-noisy: give one of the two")
    if args.units in UNITS or args.ell_min is not None or args.quantity:
        parser.error(f"--units of --maps is one of {', '.join(TEMPERATURES)}; it has no --quantity "
                     "or --ell-min")  # fmt: skip
    if processes.world_size() > 1:
        parser.error("--maps is one observation: start without torchrun")


def _check_likelihood(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Rules between --likelihood and all others."""
    if not args.likelihood:
        for name in ("noise_file", "r_range"):
            if getattr(args, name) is not None:
                parser.error(f"{cli.flag(name)} is for --likelihood")
        return
    if args.maps or not args.data_file_noisy:
        parser.error("--likelihood needs --data-file-noisy, spectra of the full sky")
    if args.t_start:
        parser.error("--t-start: posterior draws start from the SDE's prior, at 1")
    if args.r_range and not 0 <= args.r_range[0] < args.r_range[1]:
        parser.error("--r-range: needs 0 <= MIN < MAX")


def _check_log_likelihood(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Error where --log-likelihood has no spectra, or flags of draws are beside it."""
    if not args.data_file_gt and not args.param_file_gt:
        parser.error("--log-likelihood needs --data-file-gt, or --param-file-gt, or both")
    if processes.world_size() > 1:
        parser.error("--log-likelihood runs in one process; start it without torchrun")
    for name, value in vars(args).items():
        if name in NOT_WITH_LOG_LIKELIHOOD and value != parser.get_default(name):
            parser.error(f"--{name.replace('_', '-')} does not go with --log-likelihood")


def check_model(
    parser: argparse.ArgumentParser, args: argparse.Namespace, trained: Trained
) -> None:
    """Error where flags contradict the checkpoint."""
    import torch

    sde = trained.sde
    cli.check_sde_arguments(parser, args, sde_utils.SDES, trained.sde_name, sde)
    if args.t_start:
        t = torch.tensor(args.t_start)
        if sde.sigma(t) <= sde_utils.U_MIN * sde.alpha(t):
            parser.error(
                f"--t-start {args.t_start:g}: no noise is left there to remove; start later"
            )
    if args.chains and not trained.parameters:
        parser.error(
            f"--chains: {args.model_checkpoint} has no parameters; train with --param-file"
        )
    if args.data_file_gt and not trained.architecture.n_ell:
        parser.error("--data-file-gt: the checkpoint holds parameters and no spectra")
    if args.likelihood:
        return
    if not trained.conditional:
        if args.num_draws:
            parser.error(
                "--num-draws: the checkpoint is not conditional; train with --cond-file, or give "
                "the likelihood: --likelihood"
            )
        if args.correct:
            parser.error("--correct: the checkpoint draws no posterior; give --likelihood")
        if args.data_file_noisy and trained.joint:
            parser.error(f"{args.model_checkpoint} is a prior of spectra and r: add --likelihood")
    elif not (args.data_file_noisy or args.maps):
        parser.error(f"{args.model_checkpoint} is conditional: it needs --data-file-noisy")
    elif args.t_start:
        parser.error("--t-start: posterior draws start from the SDE's prior, at 1")


def _check_solver(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Rules across the flags of the solver."""
    if args.ode_solver and args.method != "ode":
        parser.error(f"--ode-solver does not go with --method {args.method}")
    if args.num_steps and args.num_evaluations:
        parser.error("--num-steps and --num-evaluations: give one of the two")
    solver = read(args).solver
    if not solver.corrected and (args.corrector_steps or args.corrector_step_size):
        parser.error(f"--corrector-steps and --corrector-step-size do not go with {args.method}")
    if args.tolerance and not solver.adaptive:
        parser.error("--tolerance goes with --ode-solver adaptive")


def read(args: argparse.Namespace) -> SolverSettings:
    """Settings of the solver that the flags name, defaults filled."""
    names = ["num_evaluations", *(field.name for field in dataclasses.fields(SolverSettings))]
    return SolverSettings.complete(**{name: getattr(args, name) for name in names})
