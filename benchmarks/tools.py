"""Adapters that let other tools train on the rows of this project and sample, for compare.py."""

import contextlib
import dataclasses
import functools
import io
import math
import time
from collections.abc import Callable

import numpy as np
import torch

import sample
import sde_utils
import train
from benchmarks.problems import Task
from checks.run import Run
from diffusion import trainer
from diffusion.blocks import BATCH_ROWS
from diffusion.trained import Trained
from runtime import jsonfiles, tables

EQUAL_EVALUATIONS, FEW_EVALUATIONS = (20, 100), 7  # of all tools; of ours beside
EMA_DECAY, README_STEPS = 0.999, 1000
LEVELS = {"sigma_min": sde_utils.U_MIN, "sigma_max": 10.0}  # noise of all tools, as in train.py


@dataclasses.dataclass(frozen=True)
class Sampled:
    """What a sampler returned, and what it took.

    Attributes:
        dl: D_ell, shape (n, n_ell), or (n, m, n_ell) where conditional, uK^2.
        r: Shape (n, m), or None.
        evaluations: Of the network, for each row.
        seconds: Wall time.
    """

    dl: np.ndarray
    r: np.ndarray | None
    evaluations: float
    seconds: float


Samplers = dict[str, Callable[[], Sampled | None]]


class Tool:
    """What compare.py needs of a tool; each is a subclass, and a line in `TOOLS`.

    Attributes:
        about: Its network and its training, one line of Markdown.
        module: What is imported.
        distribution: Package whose version is recorded; None for this project.
        conditional: Whether it can learn a posterior.
        network: Whose evaluations are counted, after `train`.
    """

    about: str
    module: str
    distribution: str | None
    conditional: bool
    network: torch.nn.Module

    def train(self, task: Task) -> int:
        """Train, keep what `samplers` needs, and return the number of epochs."""
        raise NotImplementedError

    def samplers(self, task: Task) -> Samplers:
        """{label: draws, or returns None for nothing new}, in this order."""
        raise NotImplementedError


def timed(task: Task, network: torch.nn.Module, draw: Callable[[], torch.Tensor]) -> Sampled:
    """`Sampled` of a callable that returns normalised rows, shape (n, d) or (n, m, d)."""
    values = 0

    def count(module, inputs, output):
        nonlocal values
        values += output.numel()

    handle = network.register_forward_hook(count)
    began = time.perf_counter()
    with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):  # progress bars
        x = draw()
    seconds = time.perf_counter() - began
    handle.remove()
    flat = x.reshape(-1, x.shape[-1])
    dl, r = task.denormalize(flat)
    shape = x.shape[:-1]
    r = None if r is None else r.reshape(shape)
    return Sampled(dl.reshape(*shape, -1), r, values / x.numel(), seconds)


def in_blocks(draw: Callable[[int], torch.Tensor], n: int) -> torch.Tensor:
    """Rows of draw(m), m of them at a time, as many as sample.py takes: they fit the cache."""
    sizes = [min(BATCH_ROWS, n - k) for k in range(0, n, BATCH_ROWS)]
    return torch.cat([draw(size) for size in sizes])


class Ours(Tool):
    """train.py and sample.py."""

    about = "`ScoreNet1D`, `train.py` (AdamW, cosine schedule, EMA), `sample.py`"
    module, distribution, conditional = "train", None, True

    def train(self, task: Task) -> int:
        problem = task.problem
        self.checkpoint = f"{task.folder}/model.pth"
        argv = ["--data-file", task.files["x"], "--out", self.checkpoint, "--device", "cpu"]
        if task.conditional:
            argv += ["--cond-file", task.files["y"]]
        if "r" in task.files:
            argv += ["--param-file", task.files["r"]]
        for name in ("hidden_dim", "num_layers", "batch_size", "epochs", "lr"):
            argv += [f"--{name.replace('_', '-')}", str(getattr(problem, name))]
        train.main([*argv, "--seed", str(task.seed)])
        return problem.epochs

    @property
    def network(self) -> torch.nn.Module:  # type: ignore[override]
        """With averaged weights, from the checkpoint."""
        return Trained.load(self.checkpoint).network

    def samplers(self, task: Task) -> Samplers:
        return {"`ode` (default)": functools.partial(self._default, task)} | {
            f"`ode`, {n} evaluations": functools.partial(self._equal, task, n)
            for n in (FEW_EVALUATIONS, *EQUAL_EVALUATIONS)
        }

    def _default(self, task):
        self.default = self._sample(task)
        return self.default

    def _equal(self, task, evaluations):
        """As many evaluations; None where these are the default's."""
        if evaluations == self.default.evaluations:
            return None
        return self._sample(task, "--num-evaluations", str(evaluations))

    def _sample(self, task, *flags):
        folder = f"{task.folder}/sampled"
        argv = ["--model-checkpoint", self.checkpoint, "--method", "ode", "--out-dir", folder]
        argv += ["--seed", str(task.seed), "--device", "cpu", *flags]
        if task.conditional:
            argv += ["--data-file-noisy", task.observed.path]
            argv += ["--num-draws", str(task.problem.num_draws)]
        else:
            argv += ["--num-samples", str(task.problem.num_samples)]
        sample.main(argv)
        metrics = jsonfiles.read_json(f"{folder}/metrics.json")
        cost = metrics["network_evaluations"], metrics["seconds"]
        if task.conditional:
            run = Run.load(folder, task.observed)
            return Sampled(np.asarray(run.draws), run.r, *cost)
        generated = tables.load_spectra(f"{folder}/generated.npy").values
        return Sampled(np.asarray(generated), None, *cost)


class Azula(Tool):
    """Denoiser, loss and samplers of azula; network and training loop are ours."""

    about = (
        "brings no network for vectors and no training loop: `ScoreNet1D` as the backbone of its "
        "`KarrasDenoiser`, its loss, with optimiser, learning rate and EMA of `train.py`; "
        "`VESchedule`. It scales all that the backbone sees, which therefore does not know the "
        "covariance of the data, as ours does"
    )
    module, distribution, conditional = "azula", "azula", False

    def train(self, task: Task) -> int:
        self.denoiser = azula_denoiser(task.make_network())
        self.network = self.denoiser.backbone
        parameters = list(self.denoiser.parameters())
        optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.0, fused=True)
        averages = [p.detach().clone() for p in parameters]
        problem, x = task.problem, task.x_train
        batches = len(x) // problem.batch_size
        for step in range(problem.epochs * batches):
            if step % batches == 0:
                order = torch.randperm(len(x))
            first = step % batches * problem.batch_size
            rows = x[order[first : first + problem.batch_size]]
            loss = self.denoiser.loss(rows, torch.rand(len(rows)))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            rate = trainer.learning_rate(step, problem.epochs * batches, problem.lr)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            decay = min(EMA_DECAY, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(averages, parameters, 1 - decay)
        for parameter, average in zip(parameters, averages, strict=True):
            parameter.data = average
        return problem.epochs

    def samplers(self, task: Task) -> Samplers:
        from azula import sample as azula

        def one(sampler, **options):
            sampler = sampler(self.denoiser, silent=True, **options)
            d = task.x_train.shape[1]
            draw = functools.partial(
                in_blocks, lambda m: sampler(sampler.init((m, d))), task.problem.num_samples
            )
            return functools.partial(timed, task, self.network, draw)

        samplers = {"`DDPMSampler` (default)": one(azula.DDPMSampler)}
        for n in EQUAL_EVALUATIONS:
            samplers[f"`DDIMSampler`, {n}"] = one(azula.DDIMSampler, steps=n)
            samplers[f"`HeunSampler`, {n}"] = one(azula.HeunSampler, steps=n // 2)
            samplers[f"`xEABSampler`, {n}"] = one(azula.xEABSampler, steps=n)
        return samplers


class Backbone(torch.nn.Module):
    """`ScoreNet1D` with the interface of azula's backbones: F of x' and log(sigma/alpha).

    KarrasDenoiser predicts the noise (u x' - F) / sqrt(1 + u^2), as a velocity of -F does.
    """

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor, log_u: torch.Tensor) -> torch.Tensor:
        sde = self.network.sde
        t = sde.time(log_u.exp())
        return -self.network(sde_utils.prior_std(sde, t)[..., None] * x, t)


def azula_denoiser(network):
    """Azula's denoiser of an unconditional `ScoreNet1D`, from its largest noise level to U_MIN."""
    from azula import denoise, noise

    largest = math.tan(float(sde_utils.angle(network.sde, torch.ones(()))))
    schedule = noise.VESchedule(sigma_min=sde_utils.U_MIN, sigma_max=largest)
    return denoise.KarrasDenoiser(Backbone(network), schedule)


class ScoreModels(Tool):
    """Everything by score-models."""

    about = (
        "its `MLP`, its `fit` (Adam, the common learning rate, which does better here than its "
        "default, EMA of 0.999), its Euler-Maruyama; `ode` is its Euler solver of the "
        "probability-flow ODE"
    )
    module, distribution, conditional = "score_models", "score-models", False

    def train(self, task: Task) -> int:
        import score_models

        problem = task.problem
        self.network = score_models.MLP(
            dimensions=task.x_train.shape[1], units=problem.hidden_dim, layers=problem.num_layers
        )
        self.score_model = score_models.ScoreModel(self.network, sde="ve", **LEVELS, device="cpu")
        with contextlib.redirect_stderr(io.StringIO()):
            self.score_model.fit(
                torch.utils.data.TensorDataset(task.x_train),
                epochs=problem.epochs,
                batch_size=problem.batch_size,
                learning_rate=problem.lr,
                ema_decay=EMA_DECAY,
                shuffle=True,
            )
        return problem.epochs

    def samplers(self, task: Task) -> Samplers:
        from score_models.ode import euler

        d, model = task.x_train.shape[1], self.score_model

        def sde(steps):
            return lambda m: model.sample([m, d], steps=steps)

        def ode(steps):
            prior = model.sde.prior([d])
            return lambda m: euler.euler(prior.sample([m]), model.ode_drift, steps, 1.0, 0.0)

        def one(draw):
            blocks = functools.partial(in_blocks, draw, task.problem.num_samples)
            return functools.partial(timed, task, self.network, blocks)

        samplers = {f"`sample`, {README_STEPS} (README)": one(sde(README_STEPS))}
        for n in EQUAL_EVALUATIONS:
            samplers |= {f"`sample`, {n}": one(sde(n)), f"`ode`, {n}": one(ode(n))}
        return samplers


class Sbi(Tool):
    """NPSE of sbi."""

    about = (
        "`NPSE`: its `mlp` with its defaults but for the size, VE, its own training (Adam, batches "
        "of 200, learning rate 5e-4, no EMA; the common batches and learning rate do no better "
        "here), its SDE and ODE samplers. It has no unconditional mode: there its observation is "
        "noise that says nothing"
    )
    module, distribution, conditional = "sbi", "sbi", True

    def train(self, task: Task) -> int:
        from sbi.inference import NPSE
        from sbi.neural_nets import posterior_score_nn

        problem = task.problem
        builder = posterior_score_nn(
            "mlp", "ve", hidden_features=problem.hidden_dim, num_layers=problem.num_layers
        )
        theta = torch.cat([task.x_train, task.x_val])
        y = (
            torch.cat([task.y_train, task.y_val])
            if task.conditional
            else torch.randn(len(theta), 1)
        )
        self.inference = NPSE(vf_estimator=builder, tracker=Silent(), show_progress_bars=False)
        self.inference.append_simulations(theta, y)
        self.network = self.inference.train(
            max_num_epochs=problem.epochs - 1,  # it trains one more
            validation_fraction=len(task.x_val) / len(theta),
        )
        return self.inference.summary["epochs_trained"][-1]

    def samplers(self, task: Task) -> Samplers:
        n, m = task.problem.num_samples, task.problem.num_draws
        common = {"show_progress_bars": False, "reject_outside_prior": False}

        def draw(posterior, options):
            if not task.conditional:
                return posterior.sample((n,), x=torch.zeros(1, 1), **options)
            return posterior.sample_batched((m,), x=task.y_test, **options).swapaxes(0, 1)

        def one(kind, **options):
            posterior = self.inference.build_posterior(sample_with=kind)
            run = functools.partial(draw, posterior, common | options)
            return functools.partial(timed, task, posterior.vector_field_estimator.net, run)

        samplers = {"`sde` (default)": one("sde")}
        # its steps count times, of which there is one more
        samplers |= {f"`sde`, {k}": one("sde", steps=k + 1) for k in EQUAL_EVALUATIONS}
        return samplers | {"`ode` (adaptive)": one("ode")}


class Silent:
    """A tracker of sbi that keeps nothing; its default writes folders of TensorBoard logs."""

    log_dir = None

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


TOOLS: dict[str, type[Tool]] = {
    "ours": Ours,
    "score-models": ScoreModels,
    "azula": Azula,
    "sbi": Sbi,
}
