"""Samplers that are broken on purpose: the suite must fail for every one (pytest -m mutants).

A mutant is a copy of the project with one expression changed. The test that guards the expression
is run on the copy, and must fail; on the project as it is, it passes with the rest of the suite.
"""

import os
import shutil
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MUTANTS = {  # name: (file, expression, what replaces it, test that must fail)
    "sign of the drift": (
        "diffusion/solvers.py",
        "drift = sde.f(t) * x - sde.g(t) ** 2 * dynamics.score(x, t)",
        "drift = sde.f(t) * x + sde.g(t) ** 2 * dynamics.score(x, t)",
        "diffusion/test_solvers.py",
    ),
    "g for g squared": (
        "diffusion/solvers.py",
        "- sde.g(t) ** 2 * dynamics.score(x, t)",
        "- sde.g(t) * dynamics.score(x, t)",
        "diffusion/test_solvers.py",
    ),
    "missing sqrt(dt)": (
        "diffusion/solvers.py",
        "sde.g(t) * (-dt).sqrt()",
        "sde.g(t)",
        "diffusion/test_solvers.py",
    ),
    "Langevin noise of an ODE": (
        "diffusion/solvers.py",
        "(2 * eps).sqrt()",
        "eps.sqrt()",
        "diffusion/test_solvers.py",
    ),
    "start at the largest time": (
        "diffusion/dynamics.py",
        "if self.from_noise and t >= 1:",
        "if self.from_noise and t > 1:",
        "diffusion/test_dynamics.py",
    ),
    "start that ignores the covariance": (
        "diffusion/dynamics.py",
        "return (self.variances * math.cos(theta) ** 2 + math.sin(theta) ** 2) ** 0.5",
        "return 0 * self.variances + 1.0",
        "diffusion/test_dynamics.py",
    ),
    "frame without its growth": (
        "diffusion/dynamics.py",
        "- growth * xi) / width",
        "- 0 * growth * xi) / width",
        "diffusion/test_dynamics.py",
    ),
    "frame whose mean moves the wrong way": (
        "diffusion/dynamics.py",
        "velocity + math.sin(theta) * self.mean",
        "velocity - math.sin(theta) * self.mean",
        "diffusion/test_dynamics.py",
    ),
    "noise that is left in the frame": (
        "diffusion/solvers.py",
        "xi = xi + weight * slope\n",
        "xi = xi + 0 * weight * slope\n",
        "diffusion/test_dynamics.py",
    ),
    "DPM-Solver++ from the largest time": (
        "diffusion/solvers.py",
        "if dynamics.angle(t) == math.pi / 2:",
        "if False:",
        "diffusion/test_exact_posteriors.py",
    ),
    "steps without the last evaluation": (
        "diffusion/solver_settings.py",
        "return (num_evaluations - solver.extra) // per_step",
        "return num_evaluations // per_step",
        "diffusion/test_solver_settings.py",
    ),
    "noise levels dealt out row by row": (
        "sde_utils.py",
        "t.repeat_interleave(size)[part]",
        "t.repeat(size)[part]",
        "test_sde_utils.py",
    ),
    "units without a kurtosis": (
        "model.py",
        "nn.init.normal_(self.biases.bias)",
        "nn.init.zeros_(self.biases.bias)",
        "test_model.py",
    ),
    "network in a frame that it was not trained from": (
        "train.py",
        "network.start.set(linear.regression, linear.variances, linear.modes)",
        "network.start.set(0 * linear.regression, linear.variances, linear.modes)",
        "test_train.py",
    ),
    "score without sigma": (
        "sde_utils.py",
        "return -noise_from_velocity(sde, x, t, velocity) / sde.sigma(t)",
        "return -noise_from_velocity(sde, x, t, velocity)",
        "test_sde_utils.py",
    ),
    "score with a wrong sign": (
        "sde_utils.py",
        "return -noise_from_velocity(",
        "return noise_from_velocity(",
        "test_sde_utils.py",
    ),
    "VE variance that does not vanish": (
        "sde_utils.py",
        "(2 * self._log_ratio * t).expm1().sqrt()",
        "(2 * self._log_ratio * t).exp().sqrt()",
        "test_sde_utils.py",
    ),
    "VP alpha without its half": (
        "sde_utils.py",
        "return (-self._beta_integral(t) / 2).exp()",
        "return (-self._beta_integral(t)).exp()",
        "test_sde_utils.py",
    ),
    "unconditional net sold as a posterior": (
        "sde_utils.py",
        "functools.partial(model, y=y)",
        "functools.partial(model, y=0 * y)",
        "test_sample.py",
    ),
    "draws of another row": (
        "diffusion/blocks.py",
        "torch.arange(rows.start, rows.stop) // self.num_draws",
        "torch.arange(rows.start, rows.stop) // self.num_draws * 0",
        "test_sample.py",
    ),
    "EMA off by one": (
        "diffusion/trainer.py",
        "(1 + step) / (10 + step)",
        "(2 + step) / (11 + step)",
        "test_train.py",
    ),
    "EMA the wrong way round": (
        "diffusion/trainer.py",
        "get_ema_multi_avg_fn(decay)",
        "get_ema_multi_avg_fn(1 - decay)",
        "test_train.py",
    ),
    "training that takes no step": (
        "diffusion/trainer.py",
        "        self.optimizer.step()\n",
        "",
        "test_train.py",
    ),
    "half an Adams-Bashforth weight": (
        "diffusion/solvers.py",
        "np.linalg.solve(np.asarray(nodes) ** degrees[:, None], moments)",
        "np.linalg.solve(np.asarray(nodes) ** degrees[:, None], moments / (1 + degrees))",
        "diffusion/test_solvers.py",
    ),
    "denoiser extrapolated backwards": (
        "diffusion/solvers.py",
        "(1 + ratio) * denoised - ratio * denoised_last",
        "(1 - ratio) * denoised + ratio * denoised_last",
        "diffusion/test_solvers.py",
    ),
    "rotation the wrong way": (
        "diffusion/dynamics.py",
        "self.frame.slope(xi, theta, self.velocity_fn(",
        "self.frame.slope(xi, theta, -self.velocity_fn(",
        "diffusion/test_solvers.py",
    ),
    "noise from the velocity turned back": (
        "sde_utils.py",
        "(x / scale) + sde.alpha(t) * velocity) / scale",
        "(x / scale) - sde.alpha(t) * velocity) / scale",
        "test_sde_utils.py",
    ),
    "data from the velocity turned back": (
        "sde_utils.py",
        "(x / scale) - sde.sigma(t) * velocity) / scale",
        "(x / scale) + sde.sigma(t) * velocity) / scale",
        "test_sde_utils.py",
    ),
    "trace with a wrong sign": (
        "diffusion/likelihood.py",
        "total + h / 6 * (trace + 4",
        "total - h / 6 * (trace + 4",
        "diffusion/test_likelihood.py",
    ),
    "weights without p(x)": (
        "diffusion/sampling.py",
        "log_p = log_prior + correction",
        "log_p = 0 * log_prior + correction",
        "diffusion/test_importance.py",
    ),
    "weights of all draws turned back": (
        "diffusion/importance.py",
        "array_stats.psislw(-log_weights)",
        "array_stats.psislw(log_weights)",
        "diffusion/test_importance.py",
    ),
    "probit without its range": (
        "diffusion/normalizers.py",
        "theta = low + span * torch.special.ndtr(",
        "theta = low + 0.5 * span * torch.special.ndtr(",
        "diffusion/test_normalizers.py",
    ),
    "likelihood of the wrong sign": (
        "diffusion/guidance.py",
        "return velocity - torch.cat(shifts) / math.sin(theta)",
        "return velocity + torch.cat(shifts) / math.sin(theta)",
        "diffusion/test_guidance.py",
    ),
    "likelihood of normalised logarithms": (
        "diffusion/guidance.py",
        "torch.addcmul((log_s + self.mean) / 2, self.std / 2, u).exp()",
        "torch.addcmul(log_s + 0 * self.mean, 0 * self.std + 0.5, u).exp()",
        "diffusion/test_guidance.py",
    ),
    "likelihood without the mean of the normaliser": (
        "diffusion/guidance.py",
        "torch.addcmul((log_s + self.mean) / 2,",
        "torch.addcmul((log_s + 0 * self.mean) / 2,",
        "diffusion/test_guidance.py",
    ),
    "signal and noise for noise": (
        "diffusion/guided.py",
        "law = ObservationLaw(torch.tensor(N),",
        "law = ObservationLaw(torch.tensor(N) + spectrum.mean.double().exp(),",
        "diffusion/test_guided.py",
    ),
    "likelihood at a constant noise level": (
        "diffusion/guidance.py",
        "Kernel(centre[part], 1 / math.tan(theta) ** 2)",
        "Kernel(centre[part], 1 / math.tan(0.7) ** 2)",
        "diffusion/test_guidance.py",
    ),
    "likelihood that counts twice": (
        "diffusion/guided.py",
        "if trained.conditional:",
        "if False:",
        "diffusion/test_guided.py",
    ),
    "likelihood of another row": (
        "diffusion/guidance.py",
        "tensor[owners].to(like)",
        "tensor[owners.sort().values].to(like)",
        "diffusion/test_guidance.py",
    ),
    "mean of the network that is not kept": (
        "diffusion/guidance.py",
        "tilted = kernel.tilted(trust * away / alone.variance)",
        "tilted = kernel.tilted(0 * trust * away / alone.variance)",
        "diffusion/test_guidance.py",
    ),
    "posterior that was not looked at closely": (
        "diffusion/quadrature.py",
        "if done >= passes and bool((std > RESOLVED * spacing).all()):",
        "if done >= passes:",
        "diffusion/test_quadrature.py",
    ),
}


@pytest.mark.mutants
@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_a_mutant_fails_the_suite(mutant, tmp_path):
    name, expression, replacement, guard = mutant
    shutil.copytree(ROOT, tmp_path / "copy", ignore=shutil.ignore_patterns(".*", "results", "data"))
    path = tmp_path / "copy" / name
    source = path.read_text()
    assert source.count(expression) == 1, "the mutant no longer fits the source"
    path.write_text(source.replace(expression, replacement))
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", f"tests/{guard}"]
    run = subprocess.run(command, cwd=tmp_path / "copy", capture_output=True, text=True)
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout[-2000:]
    assert "AssertionError" in run.stdout or "assert" in run.stdout, run.stdout[-2000:]
