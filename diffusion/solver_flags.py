"""Flags of the reverse process: their table, their rules, and the settings that they name."""

import argparse
import dataclasses
from typing import Any

from diffusion import solvers
from diffusion.blocks import BATCH_ROWS, GPU_BATCH_ROWS
from diffusion.sampling import CORRECTOR_STEP_SIZE, CORRECTOR_STEPS, SolverSettings
from runtime import cli

FLAGS: tuple[tuple[str, dict[str, Any]], ...] = (
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
                f"{name}: {line.about}, {line.num_steps}"
                for name, line in solvers.ODE_SOLVERS.items()
            )
            + f" steps (default: {solvers.ODE_SOLVER})",
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


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Rules across the flags of the solver."""
    if args.ode_solver and args.method != "ode":
        parser.error(f"--ode-solver does not go with --method {args.method}")
    solver = read(args).solver
    if not solver.corrected and (args.corrector_steps or args.corrector_step_size):
        parser.error(f"--corrector-steps and --corrector-step-size do not go with {args.method}")
    if args.tolerance and not solver.adaptive:
        parser.error("--tolerance goes with --ode-solver adaptive")


def read(args: argparse.Namespace) -> SolverSettings:
    """Settings of the solver that the flags name, defaults filled."""
    names = (field.name for field in dataclasses.fields(SolverSettings))
    return SolverSettings.complete(**{name: getattr(args, name) for name in names})
