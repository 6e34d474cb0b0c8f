"""Run the reverse process: draw the posterior of an observation, or run the published recipe.

A checkpoint that was trained with --cond-file is conditional: for each row of --data-file-noisy
--num-draws draws start from the SDE's prior and follow the score of p(spectrum | observation).
denoised.npy is their mean; posterior_draws.npy (num_obs, num_draws, n_ell), posterior_std.npy and
posterior_quantiles.npy (num_obs, 3, n_ell; 16, 50, 84 %) stand beside it, and r_draws.npy
(num_obs, num_draws) if it was trained with --param-file.

Any other checkpoint starts at the normalised observation, as the published recipe does, and
writes denoised.npy; without --data-file-noisy it generates spectra and writes generated.npy.

With --log-likelihood nothing is drawn: log_likelihood.npy (num_obs,) holds log p of each row of
--data-file-gt, in nats, of a density per uK^2 of each multipole (and per unit of r).

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
import functools
import os

import numpy as np

import cli
import files
import mismatch
import reverse
import solvers
import storage

NUM_SAMPLES, NUM_DRAWS = 10000, 64  # where no flag says otherwise
CORRECTOR_STEPS, CORRECTOR_STEP_SIZE = 1, 0.1
QUANTILES = (0.16, 0.5, 0.84)


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
    cli.add_sde_arguments(parser)
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
    cli.add_run_arguments(parser)
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
    names = ("num_samples", "num_draws", "ode_solver", "num_steps", "tolerance", "t_start")
    for name in (*names, "plot_trajectories"):
        if getattr(args, name):
            parser.error(f"--{name.replace('_', '-')} does not go with --log-likelihood")


def check_model(parser, args, checkpoint):
    """Error where flags contradict the checkpoint."""
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
    observed = storage.load_spectra(args.data_file_noisy)
    if observed.values.shape[1] != n_ell:
        raise cli.InputError(
            f"{args.data_file_noisy}: has {observed.values.shape[1]} multipoles, the model {n_ell}"
        )
    if (observed.values <= 0).any():
        raise cli.InputError(f"{args.data_file_noisy}: holds zeros, which have no logarithm")
    truth = storage.load_spectra(args.data_file_gt) if args.data_file_gt else None
    if truth is not None and truth.values.shape != observed.values.shape:
        raise cli.InputError(
            f"{args.data_file_gt}: has shape {truth.values.shape}, the observations "
            f"{observed.values.shape}; they must match row for row"
        )
    model, data = checkpoint["data"], observed.metadata
    if "r" in model and ("r_range" in data or data.get("r", model["r"]) != model["r"]):
        cli.note(
            f"the model was trained at r = {model['r']:g} and returns that r, whatever the sky; "
            f"these observations have r = {data.get('r', data.get('r_range'))}; "
            "to infer r, train with --param-file"
        )
    if (
        "r_range" in model
        and "r" in data
        and not model["r_range"][0] <= data["r"] <= model["r_range"][1]
    ):
        cli.note(f"r = {data['r']:g} lies outside of the prior {model['r_range']} of the model")
    differing = mismatch.differences(trained_sky(checkpoint), storage.sky(data))
    for key, entries in differing.items():
        own, other = mismatch.tell(*entries)
        biased = "r" if "r_range" in model else "the result"
        cli.note(
            f"the model was trained on {key} {own}, these observations have {other}; "
            f"{biased} may be biased: evaluate.py says by how much"
        )
    return observed, truth


def trained_sky(checkpoint):
    """What a model knows of the sky, see storage.sky: nothing if it has seen no observation."""
    return storage.sky(checkpoint["data"]) if checkpoint["cond_normalizer"] else {}


def solver_of(args):
    """The line of the registry that the flags name."""
    if args.method == "ode" and args.ode_solver:
        return solvers.ODE_SOLVERS[args.ode_solver]
    return solvers.SOLVERS[args.method]


def make_step(args):
    """A new step of the solver, wrapped by the corrector where the method has one."""
    solver = solver_of(args)
    if solver.adaptive:
        return solver.make(args.tolerance or solvers.TOLERANCE)
    if not solver.corrected:
        return solver.make()
    steps, size = args.corrector_steps or CORRECTOR_STEPS, args.corrector_step_size
    return solvers.with_corrector(solver.make(), steps, size or CORRECTOR_STEP_SIZE)


def denormalize(checkpoint, x, method):
    """(dl, r) as float64 arrays from normalised rows x; r is None without a parameter.

    Raises:
        DivergedError: If a spectrum is not finite.
    """
    out = checkpoint["normalizer"].denormalize(x)
    dl, r = out if checkpoint["network_kwargs"]["n_param"] else (out, None)
    diverged = int((~dl.isfinite().all(1)).sum())
    if diverged:
        raise cli.DivergedError(
            f"--method {method}: {diverged} of {len(dl)} spectra diverged: the reverse process "
            "started too far from the prior, or took too few steps; try a smaller --t-start, "
            "more --num-steps or --method sde"
        )
    return dl.numpy(), None if r is None else r.numpy()


def run_recipe(args, checkpoint, process, observed):
    """Generate, or start at the observations: (x, dl), normalised and in uK^2, (n, n_ell)."""
    import torch

    start, n = None, args.num_samples or NUM_SAMPLES
    if observed is not None:
        start = checkpoint["normalizer"].normalize(torch.tensor(observed.values))
        n = len(start)
    x = torch.cat(list(process.blocks(n, start)))
    return x.double().numpy(), denormalize(checkpoint, x, args.method)[0]


POSTERIOR = {  # file: quantity
    "denoised.npy": "posterior mean BB",
    "posterior_draws.npy": "posterior BB",
    "posterior_std.npy": "posterior standard deviation of BB",
    "posterior_quantiles.npy": "posterior quantiles of BB",
    "r_draws.npy": "posterior r",
}


def write_posterior(args, checkpoint, process, observed, outputs, metadata):
    """Draw the posterior of each observation, and stream it to disk.

    Args:
        args: The command line.
        checkpoint: From checkpoints.load.
        process: A `reverse.Reverse`.
        observed: storage.Table of the observations, n rows.
        outputs: {file name: path}, those of `POSTERIOR` among them.
        metadata: For the sidecars.

    Returns:
        (mean, quantiles, r): D_ell, shapes (n, n_ell) and (n, 3, n_ell), uK^2; r draws of shape
        (n, num_draws), or None.
    """
    import torch

    m, (n, n_ell) = args.num_draws, observed.values.shape
    y = checkpoint["cond_normalizer"].normalize(torch.tensor(observed.values))
    middles = {"posterior_draws.npy": (m,), "posterior_quantiles.npy": (len(QUANTILES),)}
    kept = {"denoised.npy": [], "posterior_quantiles.npy": [], "r_draws.npy": []}
    with contextlib.ExitStack() as stack:
        writers = {}
        for name in POSTERIOR.keys() & outputs.keys():
            shape = (n, m) if name == "r_draws.npy" else (n, *middles.get(name, ()), n_ell)
            own = {**metadata, "quantity": POSTERIOR[name]}
            own["unit"] = "1" if name == "r_draws.npy" else "uK^2"
            writers[name] = stack.enter_context(storage.ArrayWriter(outputs[name], shape, own))
        for x in process.blocks(n * m, y=y, num_draws=m):
            dl, r = denormalize(checkpoint, x, args.method)
            dl = dl.reshape(-1, m, n_ell)
            rows = {
                "denoised.npy": dl.mean(1),
                "posterior_draws.npy": dl,
                "posterior_std.npy": dl.std(1),
                "posterior_quantiles.npy": np.quantile(dl, QUANTILES, axis=1).swapaxes(0, 1),
                "r_draws.npy": None if r is None else r.reshape(-1, m),
            }
            for name, writer in writers.items():
                writer.append(rows[name])
            for name in kept.keys() & writers.keys():
                kept[name].append(rows[name])
        for writer in writers.values():
            writer.metadata |= process.record()
    mean, quantiles = (np.concatenate(kept[k]) for k in ("denoised.npy", "posterior_quantiles.npy"))
    return mean, quantiles, np.concatenate(kept["r_draws.npy"]) if kept["r_draws.npy"] else None


def summarise_r(draws):
    """Median, distances to the 84 and 16 % quantiles, and 95 % upper limit of draws of r."""
    low, median, high, limit = np.quantile(draws, [*QUANTILES, 0.95])
    names = ("median", "upper", "lower", "upper_limit_95")
    return dict(zip(names, map(float, (median, high - median, median - low, limit)), strict=True))


def example_figure(row, checkpoint, observed, truth, dl, report, posterior):
    """The figure of example spectra: a posterior, or what the recipe gave, or generated."""
    import plots

    ell = np.arange(2, 2 + dl.shape[1])
    signal = checkpoint["data"].get("dl_signal")
    signal = None if signal is None else np.array(signal)
    if observed is None:
        return plots.generated_examples(ell, dl, signal)
    correlations = report.get("correlation")
    truth_row = None if truth is None else truth.values[row]
    if posterior is None:
        return plots.denoised_example(
            ell, observed.values[row], dl[row], truth_row, signal, correlations
        )
    quantiles, r = posterior
    r_row = None if r is None else r[row]
    return plots.posterior_example(
        ell, observed.values[row], quantiles[row], truth_row, signal, correlations, r_row
    )


def describe(args, checkpoint, observed):
    """What the sidecars say about where an output comes from."""
    known = ("r", "dl_signal", "r_range", "signal_template", "mean_dl")
    metadata = {"method": args.method, "model_checkpoint": args.model_checkpoint}
    metadata["prior"] = {k: checkpoint["data"][k] for k in known if k in checkpoint["data"]}
    metadata["prior"]["sky"] = trained_sky(checkpoint)
    if observed is not None:
        metadata["observation"] = {"file": observed.path, "sha256": storage.digest(observed.values)}
    return metadata


def write_log_likelihood(args, checkpoint, argv):
    """What --log-likelihood asks for."""
    import likelihood

    n_ell, n_param = (checkpoint["network_kwargs"][key] for key in ("n_ell", "n_param"))
    observed = None
    if checkpoint["cond_normalizer"]:
        observed, _ = load_observations(args, checkpoint)
    elif args.data_file_noisy:
        raise cli.InputError(f"{args.data_file_noisy}: {args.model_checkpoint} is unconditional")
    truth = likelihood.load_truth(args.data_file_gt, args.param_file_gt, n_ell, n_param > 0)
    metadata = describe(args, checkpoint, observed) | storage.provenance(argv)
    device = cli.get_device(args.device)
    likelihood.write(args.out_dir, checkpoint, truth, observed, device, metadata)


@cli.script
def main(argv=None):
    parser = build_parser()
    args = parser.parse_args(argv)
    check_arguments(parser, args)

    import torch

    import checkpoints
    import metrics
    import plots

    checkpoint = checkpoints.load(args.model_checkpoint)
    check_model(parser, args, checkpoint)
    if args.log_likelihood:
        return write_log_likelihood(args, checkpoint, argv)
    conditional = checkpoint["cond_normalizer"] is not None
    args.num_draws = args.num_draws or NUM_DRAWS
    observed = truth = posterior = None
    n, row = args.num_samples or NUM_SAMPLES, args.trajectory_index
    if args.data_file_noisy:
        observed, truth = load_observations(args, checkpoint)
        n = len(observed.values)
    if row >= n:
        parser.error(f"--trajectory-index {row}: there are {n} rows")
    joint = checkpoint["network_kwargs"]["n_param"] > 0
    names = ["denoised.npy" if observed else "generated.npy"]
    if conditional:
        names = [name for name in POSTERIOR if joint or name != "r_draws.npy"]
    names += ["metrics.json", "examples.png"]
    names += ["trajectory.npy", "trajectory.png"] if args.plot_trajectories else []
    outputs = {name: os.path.join(args.out_dir, name) for name in names}
    device = cli.get_device(args.device)
    files.claim_outputs(outputs.values())

    checkpoint["network"].to(device)
    keep = row * (args.num_draws if conditional else 1) if args.plot_trajectories else None
    t_start = torch.tensor(args.t_start or 1.0, device=device)
    step = functools.partial(make_step, args)
    process = reverse.Reverse(checkpoint, step, t_start, args.num_steps, args.seed, keep)
    metadata = describe(args, checkpoint, observed) | storage.provenance(argv)
    if conditional:
        x = None  # a posterior mean is one of D_ell
        dl, *posterior = write_posterior(args, checkpoint, process, observed, outputs, metadata)
    else:
        x, dl = run_recipe(args, checkpoint, process, observed)
        own = {"quantity": f"{names[0][:-4]} BB", "unit": "uK^2", **process.record()}
        storage.write_array(outputs[names[0]], dl, metadata | own)
    report = {"method": args.method, "num_samples": n, **process.record()}
    if joint:
        report["r"] = {"row": row, **summarise_r(posterior[1][row])}
    if truth is not None:
        report |= metrics.compare_with_truth(observed, truth, x, dl, checkpoint)
    elif observed is None:
        report |= metrics.compare_with_law(dl, checkpoint["data"])

    files.write_json(outputs["metrics.json"], report)
    figure = example_figure(row, checkpoint, observed, truth, dl, report, posterior)
    files.write_figure(outputs["examples.png"], figure)
    if args.plot_trajectories:
        states = np.array(process.states)
        files.write_npy(outputs["trajectory.npy"], states)
        ell = np.arange(2, 2 + dl.shape[1])
        figure = plots.trajectory(states[:, 0], states[:, 1 : 1 + len(ell)], ell)
        files.write_figure(outputs["trajectory.png"], figure)
    metrics.print_report(report)
    cli.say(f"wrote {', '.join(outputs.values())}")


if __name__ == "__main__":
    main()
