# %% [markdown]
"""RealNVP on the two moons: its density, the forward and the inverse image, and its NLL beside the truth.

This is the study of the course code EmoryMLIP/DeepGenerativeModelingIntro (`trainRealNVP.py`), with one number put
right. Its log has the mean of −log p, J_ML, fall to −5.65. Nothing can be that likely: the mean is never below the
entropy, which of these moons (noise 0.05) is +0.289 nats. The log-determinant there sums the log-scales of both
coordinates, also of the one that the mask lets pass; in each of the six layers that one is free to grow to the bound 1
of its tanh without moving a point, which makes 6 nats out of nothing. Here the mean is compared with that of the exact
density on the same fresh points, and the density is summed over the plane.

`python examples/realnvp_two_moons.py --out demo/realnvp` takes about a minute.
"""

# %%
from __future__ import annotations

import argparse
from pathlib import Path

import torch

from cgm_models import data, plots
from cgm_models.flows import RealNVP
from cgm_models.training import RunDirectory, Trainer

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--out", type=Path, default=Path("demo/realnvp"), help="folder of the pictures and the run")
parser.add_argument("--steps", type=int, default=8000, help="steps of the training")
options = parser.parse_args()

# %% [markdown]
# ## Training
#
# The density of the moons is known exactly, so points can be drawn as many as one likes, and none is seen twice.

# %%
moons = data.density("moons")
points = moons.sample(options.steps * 512, torch.Generator().manual_seed(1))
held_out = moons.sample(5_000, torch.Generator().manual_seed(2))
torch.manual_seed(0)
flow = RealNVP(dim=2, n_layers=8, hidden_features=(64, 64))
trainer = Trainer(
    max_steps=options.steps, batch_size=512, lr=2e-3, schedule="one-cycle", clip_norm=10.0, tensorboard=False
)
run = RunDirectory.create(options.out / "run", overwrite=True)
result = trainer.fit(flow, points, validation_x=held_out, run=run)
run.commit()
print(f"{result.status()} in {result.seconds:.0f} s")

# %% [markdown]
# ## The likelihood beside the truth

# %%
fresh = moons.sample(20_000, torch.Generator().manual_seed(3))
with torch.no_grad():
    gap = (moons.log_prob(fresh) - flow.log_prob(fresh)).double()
    nll = float(-flow.log_prob(fresh).mean())
error = float(gap.std()) / len(gap) ** 0.5
print(f"entropy of the moons       {moons.entropy():.3f} nats")
print(f"exact −log p, same points  {float(-moons.log_prob(fresh).mean()):.3f} nats")
print(f"RealNVP −log p             {nll:.3f} nats, {float(gap.mean()):.4f} ± {error:.4f} above the exact one")

sides = [torch.linspace(-2.5, 3.5, 1200), torch.linspace(-2.0, 2.5, 900)]
with torch.no_grad():
    mass = torch.cat([flow.log_prob(part) for part in torch.cartesian_prod(*sides).split(20_000)]).exp().double().sum()
mass *= float(sides[0][1] - sides[0][0]) * float(sides[1][1] - sides[1][0])
print(f"mass of its density        {float(mass):.4f}")

# %% [markdown]
# ## Pictures
#
# The density beside the exact one; normal points carried forward, coupling after coupling; held-out points carried back
# until they are normal; and the loss above its floor.

# %%
limits = ((-1.6, 2.6), (-1.6, 2.1))
plots.density_panels({"moons": moons.log_prob, "RealNVP": flow.log_prob}, limits, options.out / "density.png")

z = torch.randn(1500, 2, generator=torch.Generator().manual_seed(4))
x = fresh[:1500]
forward, inverse = [z], [x]
with torch.no_grad():
    for layer in flow.transform.layers:
        forward.append(layer(forward[-1])[0])
    for layer in reversed(flow.transform.layers):
        inverse.append(layer.inverse(inverse[-1])[0])
heads = [f"after {k}" for k in range(len(forward))]
plots.trajectory_strip(torch.stack(forward), options.out / "forward.png", times=["z", *heads[1:]], columns=9)
plots.trajectory_strip(torch.stack(inverse), options.out / "inverse.png", times=["x", *heads[1:]], columns=9)
plots.scatter_2d(flow.sample(2000), options.out / "samples.png", reference=x, title="samples over held-out points")

lines = [line for line in run.read_log() if "loss" in line]
plots.loss_curve(
    [line["loss"] for line in lines],
    options.out / "loss.png",
    steps=[line["step"] for line in lines],
    floor=moons.entropy(),
    title="mean −log p in nats; dashed: the entropy of the moons",
)
