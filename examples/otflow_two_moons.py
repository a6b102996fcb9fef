# %% [markdown]
"""OT-Flow on the two moons: density, the way there and back, and the likelihood beside the truth and plain PyTorch.

This is the study of the course code EmoryMLIP/DeepGenerativeModelingIntro (`trainOTFlow.py`): noise 0.05, a potential
of two layers of 32 units, four steps, batches of 256, and the loss J = α_L J_L + α_ML J_ML + α_HJB J_HJB with
α = (1, 10, 5). Its log ends, after 20,000 steps, at a training J_ML of 0.390 nats, where the entropy of these moons is
0.289; trained again with its settings (`plain_otflow.py`) it is 0.400, and 0.107 above the truth on fresh points. Here
the same loss on batches of the same size leads much closer in fewer steps: the first layer begins with weights large
enough to resolve the noise, the learning rate follows one cycle, and there are 48 units and five steps. A step takes a
fraction of the time, because `cgm_kernels.potential_flow` makes all stages of all steps in one call.

The negative log-likelihood is compared with that of the exact density on the same fresh points, with the steps halved
until it no longer moves and the mass of the density checked. Every sixteenth step is made in plain PyTorch, too, from
the same parameters on the same batch: the losses and gradients agree, so that the same training in plain PyTorch gives
the same flow. So is a step of the course's settings. The times of all are known from the same process.

`python examples/otflow_two_moons.py --out demo/otflow` takes two minutes, with `--quick` seconds, and leaves its
table there as `results.md`; the one in `examples/results/otflow_two_moons.md` was made so.
"""

# %%
from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from made_on import made_on
from plain_otflow import PlainOTFlow
from torch import Tensor

from cgm_models import data, plots
from cgm_models.cnf import OTFlow, check_mass, converged_log_prob, mass_in_the_plane

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--out", type=Path, default=Path("demo/otflow"), help="folder of the pictures")
parser.add_argument("--steps", type=int, default=8_000, help="steps of the training")
parser.add_argument("--quick", action="store_true", help="200 steps, and few points")
parser.add_argument("--alone", action="store_true", help="no steps in plain PyTorch")
options = parser.parse_args()

# %% [markdown]
# ## Training, and plain PyTorch in turns
#
# Points are drawn as many as one likes, and none is seen twice. Times are those of one core.

# %%
torch.set_num_threads(1)
ALPHA, COURSE_STEPS, COURSE_NATS = (1.0, 10.0, 5.0), 20_000, 0.390
n_steps, n_fresh = (200, 2_000) if options.quick else (options.steps, 20_000)
moons = data.density("moons")
fresh = moons.sample(n_fresh, torch.Generator().manual_seed(3))
truth = moons.log_prob(fresh)

torch.manual_seed(0)
flow = OTFlow(dim=2, width=48, n_layers=2, rank=3, frequency=6.0, alpha=ALPHA, n_steps=5)
plain, course = PlainOTFlow(dim=2, width=48), PlainOTFlow(dim=2, width=32)
losses_of = {flow: flow.loss, plain: lambda x: plain.loss(x, 5, ALPHA), course: lambda x: course.loss(x, 4, ALPHA)}
optimizers = {model: torch.optim.Adam(model.parameters(), lr=1e-2, fused=True) for model in losses_of}
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizers[flow], 2e-2, n_steps, cycle_momentum=False)


def stepped(model: OTFlow | PlainOTFlow, x: Tensor) -> tuple[Tensor, float]:
    """The loss of a step of training, and the seconds it took."""
    optimizer, start = optimizers[model], time.process_time()
    loss = losses_of[model](x)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach(), time.process_time() - start


def flat_gradient(model: torch.nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


draws = torch.Generator().manual_seed(1)
losses, times_of_steps, differences = [], [], []
seconds = 0.0
for step in range(n_steps):
    x = moons.sample(256, draws)
    beside = not options.alone and step % 16 == 0
    if beside:
        with torch.no_grad():  # both name their parameters in the same order
            for theirs, ours in zip(plain.parameters(), flow.potential_transform.parameters(), strict=True):
                theirs.copy_(ours)
    loss, own = stepped(flow, x)
    schedule.step()
    seconds += own
    losses.append(loss)
    if beside:
        other, its = stepped(plain, x)
        times_of_steps.append((own, its, stepped(course, x)[1]))
        gradients = flat_gradient(flow), flat_gradient(plain)
        differences.append(torch.stack([(loss - other).abs() / loss.abs(),
                                        (gradients[0] - gradients[1]).norm() / gradients[1].norm()]))  # fmt: skip

# %% [markdown]
# ## The likelihood beside the truth

# %%
flow.eval().save(options.out / "model")
found = converged_log_prob(flow, fresh)
gap = (truth - found.values).double()
box = ((-2.5, 3.5), (-2.0, 2.5))
with torch.no_grad(), flow.refined(found.halvings):
    mass = mass_in_the_plane(flow, box, n=100) if options.quick else check_mass(flow, box, n=300)
    latent = flow.inverse(fresh)[0]
    back = flow(latent)[0]
    costs = flow.costs(fresh)
lines = []


def say(line: str) -> None:
    lines.append(line)
    print(line, flush=True)


say(f"{n_fresh} fresh points; entropy of the moons {moons.entropy():.4f} nats")
say(f"{'':34}{'−log p':>8}{'above the truth':>18}{'ms a step':>11}{'steps':>8}{'training':>10}")
say(f"{'exact density':34}{float(-truth.mean()):8.4f}")
error = float(gap.std()) / len(gap) ** 0.5
own, its, of_course = map(statistics.median, zip(*times_of_steps or [(seconds / n_steps, 0.0, 0.0)], strict=True))
say(f"{'OT-Flow':34}{float(-found.values.mean()):8.4f}{float(gap.mean()):9.4f} ± {error:.4f}{1e3 * own:11.2f}"
      f"{n_steps:8}{seconds:8.0f} s")  # fmt: skip
if times_of_steps:
    say(f"{'the same training, plain PyTorch':34}{'the same':>26}{1e3 * its:11.2f}{n_steps:8}{its * n_steps:8.0f} s")
    say(f"{'the course, its log; plain PyTorch':34}{COURSE_NATS:8.3f}{COURSE_NATS - moons.entropy():9.3f}{'':9}"
          f"{1e3 * of_course:11.2f}{COURSE_STEPS:8}{of_course * COURSE_STEPS:8.0f} s")  # fmt: skip
    ratios = sorted(plain_time / our_time for our_time, plain_time, _ in times_of_steps)
    ends = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
    say(f"a step is {statistics.median(ratios):.1f} times as fast as in plain PyTorch (80% of {len(ratios)} pairs: "
          f"{ends[0]:.1f} to {ends[1]:.1f})")  # fmt: skip
    loss_off, gradient_off = torch.stack(differences).median(0).values.tolist()
    say(f"losses differ by {loss_off:.0e}, gradients by {gradient_off:.0e} of themselves (medians)")
say(f"halving the step moves −log p by {found.change:.1e}; mass of the density {mass:.4f}; "
      f"there and back misses by at most {float((back - fresh).abs().max()):.1e}")  # fmt: skip
say(f"J_L {float(costs.transport):.4f}, J_HJB {float(costs.penalty):.4f} on the fresh points")
if not (options.quick or options.alone):
    (options.out / "results.md").write_text(
        "# OT-Flow on the two moons\n\n"
        f"Written by `python examples/otflow_two_moons.py` on {made_on()}.\n\n```\n"
        + "\n".join(lines) + "\n```\n", encoding="utf-8")  # fmt: skip

# %% [markdown]
# ## Pictures
#
# The density beside the exact one; the maps of both directions and what comes back; points at times along the way; and
# their paths, which the transport cost and the HJB penalty keep straight.

# %%
limits = ((-1.6, 2.6), (-1.6, 2.1))
plots.density_panels({"moons": moons.log_prob, "OT-Flow": flow.log_prob}, limits, options.out / "density.png")
transform, n_shown = flow.potential_transform, 1500
z, x = torch.randn(n_shown, 2, generator=torch.Generator().manual_seed(4)), fresh[:n_shown]
with torch.no_grad():
    forward, inverse = transform.trajectory(z, 33), transform.trajectory(x, 33, inverse=True)
plots.trajectory_strip(
    torch.stack([z, forward[-1], x, back[:n_shown], latent[:n_shown]]),
    options.out / "maps.png",
    times=["normal points z", "g(z), samples", "fresh points x", "g(g⁻¹(x))", "g⁻¹(x), their latents"],
)
times = [f"t = {index / 32:g}" for index in range(33)]
plots.trajectory_strip(forward, options.out / "forward.png", times=times, columns=5)
plots.trajectory_strip(inverse, options.out / "inverse.png", times=times[::-1], columns=5)
plots.scatter_2d(
    forward[-1], options.out / "trajectories.png", trajectories=forward[:, :80], title="from the latent to the moons"
)
shown = slice(n_steps // 10, None)
plots.loss_curve(
    torch.stack(losses)[shown],
    options.out / "loss.png",
    steps=range(1, n_steps + 1)[shown],
    title="J = J_L + 10 J_ML + 5 J_HJB",
)
