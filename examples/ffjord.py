# %% [markdown]
"""FFJORD on the pinwheel: one vector field for five blades, each a context; likelihoods, solvers and gradients checked.

The field is a perceptron of the point, the time and the class. What it says about likelihoods is compared with the
exact density of the pinwheel and of each blade: the steps are halved until the likelihood no longer moves, the mass of
each conditional density is summed over the plane, and samples are counted in cells and held to the density. Then the
same field is integrated by every solver, its trace estimated by probes, and its gradient taken in every way.

`python examples/ffjord.py --out demo/ffjord` takes about two minutes and leaves its tables there as `results.md`; those
in `examples/results/ffjord.md` were made so.
"""

# %%
from __future__ import annotations

import argparse
import math
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import torch
from made_on import made_on
from torch import Tensor

from cgm_models import data, plots
from cgm_models.cnf import FFJORD, Solver, converged_log_prob, mass_in_the_plane
from cgm_models.cnf.fokker_planck import histogram_residuals
from cgm_models.training import Trainer

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--out", type=Path, default=Path("demo/ffjord"), help="folder of the pictures")
parser.add_argument("--steps", type=int, default=3000, help="steps of the training")
options = parser.parse_args()

# %% [markdown]
# ## Training
#
# Points come with the number of their blade. In the plane the exact trace costs little more than a probe, and has no
# noise; a first layer that begins six times as large sees the narrow ends of the blades sooner.

# %%
torch.set_num_threads(1)
pinwheel, n_classes = data.density("pinwheel"), 5
points, labels = pinwheel.sample_labelled(options.steps * 256, torch.Generator().manual_seed(1))
held_out, held_out_labels = pinwheel.sample_labelled(2_000, torch.Generator().manual_seed(2))
torch.manual_seed(0)
flow = FFJORD(
    dim=2, context_dim=n_classes, hidden_features=(128,), frequency=6.0, time="concat", n_frequencies=1, n_steps=6,
    exact=True,
)  # fmt: skip
trainer = Trainer(
    max_steps=options.steps, batch_size=256, lr=1e-2, schedule="one-cycle", clip_norm=1.0, tensorboard=False
)
result = trainer.fit(flow, points, labels, held_out, held_out_labels)
flow.save(options.out / "model")
print(f"{result.status()} in {result.seconds:.0f} s")

# %% [markdown]
# ## The likelihood beside the truth

# %%
lines = []


def say(line: str) -> None:
    lines.append(line)
    print(line, flush=True)


fresh, fresh_labels = pinwheel.sample_labelled(10_000, torch.Generator().manual_seed(3))
found = converged_log_prob(flow, fresh, fresh_labels)
gap = (pinwheel.log_prob(fresh, fresh_labels) - found.values).double()
error = float(gap.std()) / len(gap) ** 0.5
say(f"FFJORD log p(x | blade) is {float(gap.mean()):.4f} ± {error:.4f} nats below the exact one")
say(f"  with {6 * 2**found.halvings} steps; half as many give {found.change:.1e} less or more")
for label in range(n_classes):
    blade = torch.tensor(label)
    with torch.no_grad(), flow.refined(found.halvings):
        mass = mass_in_the_plane(flow, pinwheel.extent, blade, n=160)
        samples = flow.sample(20_000, blade, torch.Generator().manual_seed(4 + label))
        counted = histogram_residuals(lambda x, c=blade: flow.log_prob(x, c), samples, pinwheel.extent, bins=32)
    say(f"  blade {label}: mass {mass:.4f}; its samples in cells: χ² {counted.chi_squared:.0f} for "
        f"{counted.degrees} degrees of freedom")  # fmt: skip

# %% [markdown]
# ## Solvers
#
# The error of log p against 256 steps in float64, beside the number of times that the field was evaluated. The steps of
# dopri5 are those of the point that needs the shortest.

# %%
few, few_labels = fresh[:2000], fresh_labels[:2000]
transform = flow.transform.layers[0]


def solved(solver: Solver, exact: bool = True, dtype: torch.dtype = torch.float32) -> tuple[Tensor, int, float]:
    """log p of the few points, evaluations of the field, and seconds."""
    flow.to(dtype)
    condition = flow.expand_context(few_labels, len(few))
    transform.solver, start = solver, time.process_time()
    with torch.no_grad():
        solution = transform.solve(few.to(dtype), condition, inverse=True, exact=exact)
        log_prob = (flow.base.log_prob(solution.x, condition) + solution.divergence).double()
    seconds = time.process_time() - start
    flow.float()
    return log_prob, solution.n_evaluations, seconds


reference, _, _ = solved(Solver("rk4", 256), dtype=torch.float64)
solvers = {f"{method}, {n} steps": Solver(method, n) for method in ("euler", "midpoint", "rk4", "rk4_38")
           for n in (8, 32)}  # fmt: skip
solvers |= {f"dopri5, rtol {tolerance:g}": Solver("dopri5", rtol=tolerance, atol=tolerance)
            for tolerance in (1e-3, 1e-5)}  # fmt: skip
say("\nlog p by            evaluations   mean error   largest error      ms")
for name, solver in solvers.items():
    log_prob, evaluations, seconds = solved(solver)
    off = (log_prob - reference).abs()
    say(f"{name:20}{evaluations:11}{float((log_prob - reference).mean()):13.1e}{float(off.max()):16.1e}"
        f"{1e3 * seconds:8.0f}")  # fmt: skip

# %% [markdown]
# ## The exact trace, and its estimate
#
# Hutchinson's estimate has no bias; its noise falls as the root of the number of probes.

# %%
say("\nlog p by Hutchinson's estimate, less that by the exact trace, both with 32 steps of RK4")
exact, _, _ = solved(Solver("rk4", 32))
for n_probes in (1, 4, 16):
    transform.n_probes = n_probes
    torch.manual_seed(n_probes)
    off = solved(Solver("rk4", 32), exact=False)[0] - exact
    say(f"{n_probes:4} probes: mean {float(off.mean()):8.4f} ± {float(off.std()) / len(off) ** 0.5:.4f}, "
        f"of a point ± {float(off.std()):.3f}")  # fmt: skip
transform.n_probes = 1

# %% [markdown]
# ## Gradients
#
# Through the steps that were made, the same with the steps made again in the backward, and by the adjoint equation,
# whose gradient is that of the exact solution: the difference falls with the step, here in float64. What a solve keeps
# for its backward grows with the states between the steps, or hardly at all.


# %%
class Kept:
    """A tensor that a graph holds."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # what a graph made itself would hold the graph


def kept_numbers(solver: Solver) -> int:
    """How many numbers the graph of a solve holds that were made in it."""
    own = {parameter.data_ptr() for parameter in flow.parameters()}
    alive = weakref.WeakSet[Kept]()

    def pack(tensor: Tensor) -> Kept:
        alive.add(kept := Kept(tensor))
        return kept

    transform.solver = solver
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        condition = flow.expand_context(few_labels, len(few))
        solution = transform.solve(few.double(), condition, inverse=True, exact=True)
    assert solution.x.requires_grad  # the graph, and with it what it holds, is alive
    storages = {kept.tensor.untyped_storage().data_ptr(): kept.tensor for kept in alive}
    made = [tensor for pointer, tensor in storages.items() if pointer not in own]
    return sum(tensor.untyped_storage().nbytes() // tensor.itemsize for tensor in made)


def gradient(solver: Solver) -> tuple[Tensor, float]:
    """Of the mean of log p by all parameters, and its seconds."""
    transform.solver, start = solver, time.process_time()
    value = flow.log_prob(few.double(), few_labels).mean()
    parts = torch.autograd.grad(value, list(flow.parameters()))
    return torch.cat([part.flatten() for part in parts]), time.process_time() - start


flow.double()
say("\ngradient by     steps   away from that of the steps   numbers kept      ms")
for n in (8, 32):
    made, _ = gradient(Solver("rk4", n))
    for name in ("discrete", "checkpoint", "adjoint"):
        solver = Solver("rk4", n, gradient=name)
        slope, seconds = gradient(solver)
        say(f"{name:16}{n:5}{float((slope - made).norm() / made.norm()):30.1e}{kept_numbers(solver):15,}"
            f"{1e3 * seconds:8.0f}")  # fmt: skip
flow.float()
transform.solver = Solver("rk4", 6 * 2**found.halvings)
(options.out / "results.md").write_text(
    f"# FFJORD on the pinwheel\n\nWritten by `python examples/ffjord.py` on {made_on()}.\n\n```\n"
    + "\n".join(lines) + "\n```\n", encoding="utf-8")  # fmt: skip

# %% [markdown]
# ## Pictures

# %%


def of_all_blades(x: Tensor) -> Tensor:
    parts = [flow.log_prob(x, torch.tensor(label)) for label in range(n_classes)]
    return torch.stack(parts).logsumexp(0) - math.log(n_classes)


def of_blade(label: int) -> Callable[[Tensor], Tensor]:
    return lambda x: flow.log_prob(x, torch.tensor(label)) - math.log(n_classes)


panels = {"pinwheel": pinwheel.log_prob, "FFJORD": of_all_blades}
panels |= {f"blade {label} / 5": of_blade(label) for label in (0, 1)}
plots.density_panels(panels, pinwheel.extent, options.out / "density.png")

classes = torch.arange(1500) % n_classes
z = torch.randn(1500, 2, generator=torch.Generator().manual_seed(4))
with torch.no_grad():
    forward = transform.trajectory(z, 33, flow.expand_context(classes, len(classes)))
times = [f"t = {index / 8:g}" for index in range(9)]
plots.trajectory_strip(forward[::4], options.out / "forward.png", times=times, columns=9)
plots.scatter_2d(
    forward[-1], options.out / "trajectories.png", labels=classes, trajectories=forward[:, :150],
    title="from the latent to the blades",
)  # fmt: skip
