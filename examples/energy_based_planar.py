# %% [markdown]
"""Energy-based models in the plane: the learned energy beside its samples and the exact density.

A network is the energy f of p(x) ∝ exp(−f(x)). It learns by telling the data from noise (noise-contrastive estimation,
Gutmann and Hyvärinen 2010), or with `--objective pcd` from its own Langevin chains, which is slower in the plane but
goes further, to images. Annealed importance sampling gives the constant, so that −log p stands beside the entropy of
the set, which nothing can be below. Samples are Langevin chains from noise, accepted by Metropolis.

The trained models come with the repository (`fidelity/weights`), `--train` trains them again, three minutes in all:
`python examples/energy_based_planar.py --out demo/energy`.
"""

# %%
from __future__ import annotations

import argparse
from pathlib import Path

import torch

import cgm_models
from cgm_models import data
from cgm_models.ebm import EnergyModel
from cgm_models.plots.figure import new_figure, save
from cgm_models.plots.scatter import density_values, draw_points, frame, shade
from cgm_models.sampling import MALA
from cgm_models.training import Trainer

PUBLISHED = Path(__file__).parent.parent / "fidelity" / "weights"
SETS = ("moons", "8gaussians", "checkerboard")
CELLS = 160

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--out", type=Path, default=Path("demo/energy"), help="folder of the picture")
parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
parser.add_argument("--train", action="store_true", help="train, and use no published weights")
parser.add_argument("--objective", choices=["nce", "pcd"], default="nce")
parser.add_argument("--steps", type=int, default=4000, help="steps of each training")
options = parser.parse_args()


# %% [markdown]
# ## Training
#
# Noise-contrastive estimation draws eight points of noise for every point of the data. With chains every step moves 256
# of them by 20 Langevin steps, and the weights follow their noise: what is kept is an average of the weights.


# %%
def train(name: str) -> EnergyModel:
    torch.manual_seed(0)
    model = EnergyModel(
        dim=2, hidden_features=(128, 128, 128), objective=options.objective, noise_ratio=8,
        step_size=0.005,
    )  # fmt: skip
    trainer = Trainer(
        max_steps=options.steps, batch_size=256, lr=3e-3, schedule="one-cycle", ema_decay=0.99, tensorboard=False,
    )  # fmt: skip
    result = trainer.fit(model, data.density(name).sample(200_000, torch.Generator().manual_seed(1)))
    print(f"{name}: {result.status()} in {result.seconds:.0f} s")
    return model


def find(name: str) -> EnergyModel:
    published = PUBLISHED / f"{name}-energy"
    if options.train or options.objective == "pcd" or not published.is_dir():
        return train(name)
    print(name)
    return cgm_models.load(published)


def report(name: str, model: EnergyModel) -> None:
    """−log p on fresh points beside the exact one on the same points."""
    law = data.density(name)
    fresh = law.sample(10_000, torch.Generator().manual_seed(2))
    found = model.log_likelihood(fresh, n_chains=2000, generator=torch.Generator().manual_seed(3))
    gap = (law.log_prob(fresh) - found.log_prob).double()
    error = (float(gap.var()) / len(gap) + float(found.log_z_error[0]) ** 2) ** 0.5
    print(f"  −log p {float(-found.log_prob.mean()):.3f} nats, entropy {law.entropy():.3f}")
    print(
        f"  {float(gap.mean()):.3f} ± {error:.3f} above the exact one, ± {float(found.log_z_error[0]):.3f} from log Z"
    )


# %% [markdown]
# ## The picture
#
# Energies are shown from their lowest value up to 8 more, where a point is 3000 times less likely.


# %%
def draw_energy(axes, model: EnergyModel, limits) -> None:
    centres = [low + (high - low) / CELLS * (torch.arange(CELLS) + 0.5) for low, high in limits]
    with torch.no_grad():
        energy = model.energy(torch.cartesian_prod(*centres)).view(CELLS, CELLS).T
    above = (energy - energy.min()).clamp_max(8.0).numpy()
    extent = (*limits[0], *limits[1])
    axes.imshow(above, origin="lower", extent=extent, cmap="viridis_r", interpolation="bilinear")
    axes.contour(above, levels=range(8), extent=extent, colors="white", linewidths=0.3)


figure = new_figure(2.5 * len(options.sets), 7.8)
panels = figure.subplots(3, len(options.sets), squeeze=False)
for column, name in enumerate(options.sets):
    law, model = data.density(name), find(name)
    model.eval().requires_grad_(False)
    report(name, model)
    points = law.sample(2000, torch.Generator().manual_seed(5))
    middle = (points.amin(0) + points.amax(0)) / 2
    half = 1.2 * float((points - middle).abs().max())
    limits = tuple((float(m) - half, float(m) + half) for m in middle)
    start = model.location + 1.5 * model.scale * torch.randn(2000, 2, generator=torch.Generator().manual_seed(4))
    chains = MALA(0.02).run(start, model.energy, 400, warmup=400, keep_trajectory=False)
    shade(panels[0, column], density_values(law, limits), limits)
    draw_energy(panels[1, column], model, limits)
    draw_points(panels[2, column], chains.flat().numpy(), None, colour="#d9622b", inches=2.4)
    for row, title in enumerate(("density", "energy", "samples from noise")):
        frame(panels[row, column], limits)
        panels[row, column].set_xticks([])
        panels[row, column].set_yticks([])
        panels[row, column].set_title(f"{name}: {title}", fontsize=9)
save(figure, options.out / "planar.png")
