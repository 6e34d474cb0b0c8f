"""Run the reverse process: draw the posterior of an observation, or run the published recipe.

A checkpoint that was trained with --cond-file is conditional: for each row of --data-file-noisy
--num-draws draws start from the SDE's prior and follow the score of p(spectrum | observation).
denoised.npy is their mean; posterior_draws.npy (num_obs, num_draws, n_ell), posterior_std.npy and
posterior_quantiles.npy (num_obs, 3, n_ell; 16, 50, 84 %) stand beside it, and r_draws.npy
(num_obs, num_draws) if it was trained with --param-file.

Any other checkpoint starts at the normalised observation, as the published recipe does, and
writes denoised.npy; without --data-file-noisy it generates spectra and writes generated.npy.

With --log-likelihood nothing is drawn: log_likelihood.npy (num_obs,) holds log p of each row of
--data-file-gt, in nats, of a density per uK^2 of each multipole (and per unit of r), and
log_likelihood_metrics.json their mean.

What an output is worth stands in metrics.json and in one sentence on stdout. Reads the checkpoint
of train.py and the test set of data_generation.py. Writes into --out-dir the spectra, metrics.json,
examples.png, and with --plot-trajectories trajectory.npy (normalised states, first column
sigma/alpha) and trajectory.png.

Examples:
  python sample.py --data-file-noisy data/dl_noisy_r0.001.npy \\
      --data-file-gt data/dl_gt_r0.001.npy --model-checkpoint model.pth --method sde
  python sample.py --data-file-noisy data/dl_noisy_r0-0.01.npy \\
      --data-file-gt data/dl_gt_r0-0.01.npy --model-checkpoint posterior.pth --method ode
"""

import contextlib
import dataclasses
import hashlib
import os
import time

import numpy as np

import sde_utils
from checks import output
from checks.law import sample_rows
from diffusion import reverse, sampling, solvers
from figures import spectra
from runtime import (
    atomic,
    cli,
    console,
    devices,
    journal,
    processes,
    records,
    resources,
    tables,
)
from runtime.errors import InputError

NUM_SAMPLES, NUM_DRAWS = 10000, 64  # where no flag says otherwise
CORRECTOR_STEPS, CORRECTOR_STEP_SIZE = 1, 0.1
# leave draws as they are, threads and device up to rounding
ELSEWHERE = ("device", "threads", "out_dir", "resume", "data_file_gt")


DRAWS_ALONE = (  # do not go with --log-likelihood
    *("num_samples", "num_draws", "method", "ode_solver", "num_steps", "tolerance", "t_start"),
    *("corrector_steps", "corrector_step_size", "plot_trajectories", "trajectory_index"),
    *("batch_size", "precision", "seed", "resume"),
)


def build_parser():
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("files")
    npy = cli.file_argument(".npy")
    group.add_argument("--data-file-noisy", type=npy, help="observations; without, generate")
    group.add_argument("--data-file-gt", type=npy, help="their truth, row for row")
    group.add_argument("--param-file-gt", type=npy, help="its r, for --log-likelihood")
    group.add_argument(
        "--model-checkpoint",
        type=cli.file_argument(".pth"),
        default="model.pth",
        help="checkpoint of train.py",
    )
    group.add_argument("--out-dir", default=".", help="folder of the outputs")
    group.add_argument(
        "--num-samples", type=cli.positive_int, help=f"spectra to generate (default: {NUM_SAMPLES})"
    )
    group.add_argument(
        "--num-draws",
        type=cli.positive_int,
        help=f"conditional checkpoints: posterior draws per observation (default: {NUM_DRAWS})",
    )
    group.add_argument(
        "--log-likelihood",
        action="store_true",
        help="write log p of each row of --data-file-gt, given its row of --data-file-noisy where "
        "the checkpoint is conditional, and draw nothing",
    )
    cli.add_sde_arguments(parser, "that of the checkpoint")
    group = parser.add_argument_group("reverse process")
    about = "; ".join(f"{k}: {v.about}, {v.num_steps} steps" for k, v in solvers.SOLVERS.items())
    group.add_argument("--method", choices=solvers.SOLVERS, default="sde", help=about)
    about = "; ".join(f"{k}: {v.about}, {v.num_steps}" for k, v in solvers.ODE_SOLVERS.items())
    group.add_argument(
        "--ode-solver",
        choices=solvers.ODE_SOLVERS,
        help=f"ode: {about} steps (default: {solvers.ODE_SOLVER})",
    )
    group.add_argument(
        "--tolerance",
        type=cli.positive_float,
        help="--ode-solver adaptive: error of a step, in standard deviations of the data "
        f"(default: {solvers.TOLERANCE:g})",
    )
    group.add_argument(
        "--num-steps",
        type=cli.positive_int,
        help="steps of the solver (default: as listed for --method and --ode-solver)",
    )
    group.add_argument(
        "--t-start",
        type=cli.diffusion_time,
        help="time at which an observation enters (default: 1)",
    )
    group.add_argument(
        "--batch-size",
        type=cli.positive_int,
        help="rows that are integrated together and share a stream of random numbers (default: "
        f"{reverse.BATCH_ROWS} on a CPU, {reverse.GPU_BATCH_ROWS} elsewhere, fewer above NSIDE 16)",
    )
    group.add_argument(
        "--corrector-steps",
        type=cli.positive_int,
        help=f"pc: corrections after each step (default: {CORRECTOR_STEPS})",
    )
    group.add_argument(
        "--corrector-step-size",
        type=cli.positive_float,
        help=f"pc: their size in units of sigma(t) (default: {CORRECTOR_STEP_SIZE})",
    )
    group = parser.add_argument_group("figures")
    group.add_argument(
        "--plot-trajectories", action="store_true", help="save and draw the states of one row"
    )
    group.add_argument(
        "--trajectory-index", type=cli.non_negative_int, default=0, help="row shown in figures"
    )
    group = cli.add_run_arguments(parser)
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on where a stopped run with the same flags left off, if there is one in --out-dir",
    )
    return parser


def check_arguments(parser, args):
    """Rules across arguments; fills the defaults that depend on others."""
    if args.log_likelihood:
        check_log_likelihood(parser, args)
    elif args.param_file_gt:
        parser.error("--param-file-gt needs --log-likelihood")
    elif args.data_file_gt and not args.data_file_noisy:
        parser.error("--data-file-gt needs --data-file-noisy")
    if args.data_file_noisy and args.num_samples:
        parser.error("--num-samples is for generating; leave out --data-file-noisy")
    if args.t_start and not args.data_file_noisy:
        parser.error("--t-start is for observations; the prior starts at 1")
    if args.ode_solver and args.method != "ode":
        parser.error(f"--ode-solver does not go with --method {args.method}")
    solver = solver_of(args)
    if not solver.corrected and (args.corrector_steps or args.corrector_step_size):
        parser.error(f"--corrector-steps and --corrector-step-size do not go with {args.method}")
    if args.tolerance and not solver.adaptive:
        parser.error("--tolerance goes with --ode-solver adaptive")
    args.num_steps = args.num_steps or solver.num_steps


def check_log_likelihood(parser, args):
    """Error where --log-likelihood has no spectra, or flags of draws are beside it."""
    if not args.data_file_gt:
        parser.error("--log-likelihood needs --data-file-gt, whose likelihood it is")
    if processes.world_size() > 1:
        parser.error("--log-likelihood runs in one process; start it without torchrun")
    for name, value in vars(args).items():
        if name in DRAWS_ALONE and value != parser.get_default(name):
            parser.error(f"--{name.replace('_', '-')} does not go with --log-likelihood")


def check_model(parser, args, checkpoint):
    """Error where flags contradict the checkpoint."""
    import torch

    name, sde = checkpoint["sde_name"], checkpoint["sde"]
    if args.sde_type and args.sde_type != name:
        parser.error(f"--sde-type {args.sde_type}: the checkpoint was trained with {name}")
    for key, value in cli.sde_parameters(parser, args, name).items():
        if value != getattr(sde, key):
            flag = key.replace("_", "-")
            parser.error(
                f"--{flag} {value:g}: the checkpoint was trained with {getattr(sde, key):g}; "
                "leave the flag out"
            )
    if args.t_start:
        t = torch.tensor(args.t_start)
        if sde.sigma(t) <= sde_utils.U_MIN * sde.alpha(t):
            parser.error(
                f"--t-start {args.t_start:g}: no noise is left there to remove; start later"
            )
    if checkpoint["cond_normalizer"] is None:
        if args.num_draws:
            parser.error("--num-draws: the checkpoint is not conditional; train with --cond-file")
    elif not args.data_file_noisy:
        parser.error(f"{args.model_checkpoint} is conditional: it needs --data-file-noisy")
    elif args.t_start:
        parser.error("--t-start: posterior draws start from the SDE's prior, at 1")


def load_observations(args, checkpoint):
    """(observed, truth) tables; truth may be None. InputError where they do not fit."""
    n_ell = checkpoint["network_kwargs"]["n_ell"]
    observed = tables.load_spectra(args.data_file_noisy)
    if observed.values.shape[1] != n_ell:
        raise InputError(
            f"{args.data_file_noisy}: has {observed.values.shape[1]} multipoles, the model {n_ell}"
        )
    if tables.minimum(observed.values) <= 0:
        raise InputError(f"{args.data_file_noisy}: holds zeros, which have no logarithm")
    truth = tables.load_spectra(args.data_file_gt) if args.data_file_gt else None
    if truth is not None and truth.values.shape != observed.values.shape:
        raise InputError(
            f"{args.data_file_gt}: has shape {truth.values.shape}, the observations "
            f"{observed.values.shape}; they must match row for row"
        )
    model, data = checkpoint["data"], observed.metadata
    if "r" in model and ("r_range" in data or data.get("r", model["r"]) != model["r"]):
        console.info(
            f"the model was trained at r = {model['r']:g} and returns that r, whatever the sky; "
            f"these observations have r = {data.get('r', data.get('r_range'))}; "
            "to infer r, train with --param-file"
        )
    if (
        "r_range" in model
        and "r" in data
        and not model["r_range"][0] <= data["r"] <= model["r_range"][1]
    ):
        console.info(f"r = {data['r']:g} lies outside of the prior {model['r_range']} of the model")
    differing = records.differences(trained_sky(checkpoint), records.sky(data))
    for key, entries in differing.items():
        own, other = records.describe_difference(*entries)
        biased = "r" if "r_range" in model else "the result"
        console.info(
            f"the model was trained on {key} {own}, these observations have {other}; "
            f"{biased} may be biased: evaluate.py says by how much"
        )
    return observed, truth


def trained_sky(checkpoint):
    """What a model knows of the sky, see storage.sky: nothing if it has seen no observation."""
    return records.sky(checkpoint["data"]) if checkpoint["cond_normalizer"] else {}


def solver_of(args):
    """The line of the registry that the flags name."""
    if args.method == "ode" and args.ode_solver:
        return solvers.ODE_SOLVERS[args.ode_solver]
    return solvers.SOLVERS[args.method]


def make_step(args):
    """The step of the solver, with the tolerance or the corrector that the flags ask for."""
    solver = solver_of(args)
    if solver.adaptive:
        return dataclasses.replace(solver.step, tolerance=args.tolerance or solvers.TOLERANCE)
    if not solver.corrected:
        return solver.step
    steps, size = args.corrector_steps or CORRECTOR_STEPS, args.corrector_step_size
    size = size or CORRECTOR_STEP_SIZE
    return dataclasses.replace(solver.step, corrector_steps=steps, step_size=size)


def make_sampler(args, checkpoint, observed, device):
    """The `draws.Sampler` that the flags describe; fills the defaults that depend on the device."""
    import torch

    conditional = checkpoint["cond_normalizer"] is not None
    args.num_draws = (args.num_draws or NUM_DRAWS) if conditional else 1
    n_dim = checkpoint["network_kwargs"]["n_ell"] + checkpoint["network_kwargs"]["n_param"]
    args.batch_size = args.batch_size or reverse.default_batch_size(device, n_dim)
    n = len(observed.values) if observed else args.num_samples or NUM_SAMPLES
    quantities = sampling.RECIPE if observed else sampling.GENERATED
    if conditional:
        joint = checkpoint["network_kwargs"]["n_param"] > 0
        quantities = {k: v for k, v in sampling.POSTERIOR.items() if joint or k != "r_draws.npy"}
    t_start = torch.tensor(args.t_start or 1.0, device=device)
    step, run = make_step(args), (args.num_steps, args.seed, args.precision)
    return sampling.Sampler(
        process=reverse.Reverse(checkpoint, step, t_start, *run),
        blocks=reverse.Blocks(n, args.num_draws, args.batch_size),
        quantities=quantities,
        observed=observed and observed.values,
        method=args.method,
        shown=args.trajectory_index if args.plot_trajectories else None,
    )


def belongs_to(args, observed, device):
    """All that the draws depend on, for --resume: {flag: value}."""
    known = {k: v for k, v in vars(args).items() if k not in ELSEWHERE}
    with open(args.model_checkpoint, "rb") as file:
        known["model_checkpoint"] = hashlib.file_digest(file, "sha256").hexdigest()
    known["data_file_noisy"] = observed and observed.sha256
    known["device"] = device.type
    result = {f"--{key.replace('_', '-')}": value for key, value in known.items()}
    provenance = records.provenance()
    return {**result, "torch": provenance["versions"]["torch"], "commit": provenance["git_commit"]}


def is_finished(args, identity):
    """Whether --out-dir holds all that a run of this identity, see `belongs_to`, writes."""
    try:
        report = records.read_json(os.path.join(args.out_dir, "metrics.json"))
    except InputError:
        return False
    started = os.path.exists(os.path.join(args.out_dir, journal.STATE))
    return report.get("belongs_to") == identity and not started


def describe(args, checkpoint, observed):
    """What the sidecars say about where an output comes from."""
    known = ("r", "dl_signal", "r_range", "signal_template", "mean_dl")
    metadata = {"method": args.method, "model_checkpoint": args.model_checkpoint}
    metadata["prior"] = {k: checkpoint["data"][k] for k in known if k in checkpoint["data"]}
    metadata["prior"]["sky"] = trained_sky(checkpoint)
    if observed is not None:
        metadata["observation"] = {"file": observed.path, "sha256": observed.sha256}
    return metadata


def write_log_likelihood(args, checkpoint, argv):
    """What --log-likelihood asks for."""

    from diffusion import likelihood

    n_ell, n_param = (checkpoint["network_kwargs"][key] for key in ("n_ell", "n_param"))
    observed = None
    if checkpoint["cond_normalizer"]:
        observed, _ = load_observations(args, checkpoint)
    elif args.data_file_noisy:
        raise InputError(f"{args.data_file_noisy}: {args.model_checkpoint} is unconditional")
    truth = likelihood.load_truth(args.data_file_gt, args.param_file_gt, n_ell, n_param > 0)
    metadata = describe(args, checkpoint, observed) | records.provenance(argv)
    device = devices.get_device(args.device)
    likelihood.write(args.out_dir, checkpoint, truth, observed, device, metadata)


def make_normalize(checkpoint):
    """D_ell (n, n_ell) in uK^2 to the model's normalised units; None for a conditional model.

    What that returns is a posterior mean, which is one of D_ell.
    """
    import torch

    if checkpoint["cond_normalizer"] is not None:
        return None
    return lambda dl: checkpoint["normalizer"].normalize(torch.from_numpy(dl)).double().numpy()


def draw_example(row, inputs, arrays, measured):
    """The figure of example spectra: a posterior, or what the recipe gave, or generated."""
    name = "generated.npy" if inputs.observed is None else "denoised.npy"
    ell, signal = np.arange(2, 2 + arrays[name].shape[1]), inputs.trained_on.prior.dl_signal
    if inputs.observed is None:
        return spectra.generated_examples(ell, sample_rows(arrays[name]), signal)
    truth = None if inputs.truth is None else inputs.truth.values[row]
    example, correlations = spectra.Example(ell, inputs.observed.values[row], truth, signal), None
    if measured.truth is not None and measured.truth.correlation.denoised is not None:
        known = measured.truth.correlation
        correlations = spectra.Correlations(known.denoised, known.observation, known.limit)
    if "posterior_quantiles.npy" not in arrays:
        return spectra.denoised_example(example, arrays[name][row], correlations)
    r = arrays["r_draws.npy"][row] if "r_draws.npy" in arrays else None
    quantiles = arrays["posterior_quantiles.npy"][row]
    return spectra.posterior_example(example, quantiles, correlations, r)


def write_report(report, row, checkpoint, observed, truth, outputs):
    """Measure the arrays that are in place; write and print what they are worth, and the figures.

    Args:
        report: What is known without them.
        row: Observation that the figures show.
        checkpoint: From checkpoints.load.
        observed: tables.Table of the observations, or None.
        truth: tables.Table of their truth, or None.
        outputs: {file name: path}.
    """
    arrays = {k: np.load(v, mmap_mode="r") for k, v in outputs.items() if k.endswith(".npy")}
    trained_on, normalize = records.Record.from_json(checkpoint["data"]), make_normalize(checkpoint)
    inputs = output.Inputs(observed, truth, trained_on, normalize)
    measured = output.measure(arrays, row, inputs)
    atomic.write_json(outputs["metrics.json"], report | measured.to_json())
    atomic.write_figure(outputs["examples.png"], draw_example(row, inputs, arrays, measured))
    if "trajectory.npy" in arrays:
        states, n_ell = arrays["trajectory.npy"], checkpoint["network_kwargs"]["n_ell"]
        ell = np.arange(2, 2 + n_ell)
        figure = spectra.trajectory(states[:, 0], states[:, 1 : 1 + n_ell], ell)
        atomic.write_figure(outputs["trajectory.png"], figure)
    for line in output.lines(measured):
        console.print_result(line)


@cli.script
def main(argv=None):
    parser = build_parser()
    args = parser.parse_args(argv)
    check_arguments(parser, args)

    import torch

    from runtime import checkpoints

    devices.set_threads(args.threads)
    checkpoint = checkpoints.load(args.model_checkpoint)
    check_model(parser, args, checkpoint)
    if args.log_likelihood:
        return write_log_likelihood(args, checkpoint, argv)
    observed, truth = load_observations(args, checkpoint) if args.data_file_noisy else (None, None)
    device = devices.get_device(args.device)
    checkpoint["network"].to(device)
    sampler = make_sampler(args, checkpoint, observed, device)
    blocks, row = sampler.blocks, args.trajectory_index
    if row >= blocks.num_samples:
        parser.error(f"--trajectory-index {row}: there are {blocks.num_samples} rows")
    n_ell = checkpoint["network_kwargs"]["n_ell"]
    shapes = sampling.shapes(sampler.quantities, blocks.num_samples, blocks.num_draws, n_ell)
    whole = ("trajectory.npy",) if args.plot_trajectories else ()
    figures = ("examples.png", "trajectory.png")[: 1 + args.plot_trajectories]
    names = [*shapes, *whole, "metrics.json", *figures]
    outputs = {name: os.path.join(args.out_dir, name) for name in names}
    arrays = journal.PartialArrays(args.out_dir, shapes, whole, processes.rank())
    identity = belongs_to(args, observed, device)
    if args.resume and is_finished(args, identity):
        return console.info(f"{args.out_dir}: is finished; leave --resume out to sample anew")
    with contextlib.ExitStack() as stack:
        stack.enter_context(processes.process_group(torch.device("cpu")))  # no tensors are shared
        if processes.rank() == 0:
            atomic.claim_outputs(outputs.values(), arrays.missing_bytes())
            stack.enter_context(journal.locked(args.out_dir))
        began = time.monotonic()
        share = sampling.run(sampler, arrays, identity, args.resume)
        seconds = time.monotonic() - began
        if processes.rank() == 0:
            record = sampling.record(sampler, arrays)
            metadata = describe(args, checkpoint, observed) | records.provenance(argv) | record
            arrays.publish({k: metadata | sampling.about(k, sampler.quantities) for k in shapes})
            report = {"method": args.method, "num_samples": blocks.num_samples, **record}
            report["belongs_to"] = identity
            write_report(report, row, checkpoint, observed, truth, outputs)
            arrays.remove()
            rows = share * blocks.num_samples * blocks.num_draws
            written = resources.format_files(outputs.values())
            console.print_result(f"wrote {written}; {rows / seconds:,.0f} rows a second")


if __name__ == "__main__":
    main()
