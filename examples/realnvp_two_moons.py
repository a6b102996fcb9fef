# %% [markdown]
"""RealNVP on the two moons: its density, the forward and the inverse image, and its NLL beside the truth.

This is the study of the course code EmoryMLIP/DeepGenerativeModelingIntro (`trainRealNVP.py`), with one number put
right. Its log has the mean of −log p, J_ML, fall to −5.65. Nothing can be that likely: the mean is never below the
entropy, which of these moons (noise 0.05) is +0.289 nats. The log-determinant there sums the log-scales of both
coordinates, also of the one that the mask lets pass; in each of the six layers that one is free to grow to the bound 1
of its tanh without moving a point, which makes 6 nats out of nothing. Here the mean is compared with that of the exact
density on the same fresh points, and the density is summed over the plane.

`python examples/realnvp_two_moons.py --out demo/realnvp` takes about a minute and leaves its table there as
`results.md`; the one in `examples/results/realnvp_two_moons.md` was made so.
"""

# %%
from __future__ import annotations

import argparse
from pathlib import Path

import torch
from made_on import made_on

from cgm_models import data, plots
from cgm_models.flows import RealNVP, compare_kl
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
exact = float(-moons.log_prob(fresh).mean())
error = float(gap.std()) / len(gap) ** 0.5

sides = [torch.linspace(-2.5, 3.5, 1200), torch.linspace(-2.0, 2.5, 900)]
with torch.no_grad():
    mass = torch.cat([flow.log_prob(part) for part in torch.cartesian_prod(*sides).split(20_000)]).exp().double().sum()
mass *= float(sides[0][1] - sides[0][0]) * float(sides[1][1] - sides[1][0])
lines = [
    "| mean of −log p on 20,000 fresh points | nats |", "|---|---|",
    f"| entropy of the moons, which the exact density tends to | {moons.entropy():.3f} |",
    f"| exact density | {exact:.3f} |",
    f"| RealNVP, {options.steps:,} steps | {nll:.3f}, {float(gap.mean()):.4f} ± {error:.4f} above the exact density |",
    "| the course's log | −5.65: below the entropy, which no density can be |",
    "", f"The density of RealNVP sums to {float(mass):.4f} over the plane.",
]  # fmt: skip

# %% [markdown]
# ## The KL divergence, there and here
#
# A bijection carries the moons p to the latent space, and its normal law to the data space, where it is the flow's q.
# It leaves KL divergences as they are: those of the two rows of each direction are the same number, computed in its
# own space by its own direction of the map.

# %%
estimates = compare_kl(flow, moons, 20_000, generator=torch.Generator().manual_seed(5))
lines += ["", "| | data space | latent space |", "|---|---|---|"]
for direction in ("KL(p || q)", "KL(q || p)"):
    there, here = (estimates[f"{direction}, {space}"] for space in ("data", "latent"))
    said = [f"{one.value:.5f} ± {one.standard_error:.5f}" for one in (there, here)]
    lines.append(f"| {direction.replace('||', '‖')} | {' | '.join(said)} |")
print("\n".join(lines))

made = f"Written by `python examples/realnvp_two_moons.py` on {made_on()}."
about = """\
p are the two moons (noise 0.05), whose density is known, and q is the flow. The log of the course code has the mean of
−log p fall to −5.65, because its log-determinant also sums the log-scales of the coordinates that the mask lets pass:
no point moves by them. KL(p ‖ q) is taken over points of the moons and KL(q ‖ p) over samples of the flow, each with
its standard error over 20,000 of them; the two spaces agree as well as the two directions of the map do."""
page = "\n\n".join(["# RealNVP on the two moons", made, about, "\n".join(lines)])
(options.out / "results.md").write_text(page + "\n", encoding="utf-8")

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

losses = [line for line in run.read_log() if "loss" in line]
plots.loss_curve(
    [line["loss"] for line in losses],
    options.out / "loss.png",
    steps=[line["step"] for line in losses],
    floor=moons.entropy(),
    title="mean −log p in nats; dashed: the entropy of the moons",
)
