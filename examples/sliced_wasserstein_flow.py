# %% [markdown]
# # The sliced-Wasserstein flow in the plane and on digits
#
# Particles follow the drift that lowers the sliced-Wasserstein distance to the data (Liutkus et al. 2019). Run the
# cells in an editor that knows `# %%`, or the whole file: `python examples/sliced_wasserstein_flow.py`. Pictures go to
# `demo/example/`.

# %%
from pathlib import Path

import torch

from cgm_models import data, metrics, plots
from cgm_models.transport import SlicedWassersteinFlow, particle_flow

out = Path("demo/example")
generator = torch.Generator().manual_seed(0)

# %% [markdown]
# ## Given particles
#
# `particle_flow` moves a cloud by the exact coupling along fresh directions, one `sliced_displacement` a step. With
# entropic regularisation λ the cloud stops at a blurred version of the data: noise pushes it apart as fast as the drift
# draws it together.

# %%
moons = data.load("moons")
start = torch.randn(2_000, 2, generator=generator)
for weight in (0.0, 0.001, 0.01):
    options = {"n_steps": 200, "step_size": 0.5, "n_projections": 16, "generator": generator}
    moved = particle_flow(start, moons.train_x, regularization=weight, **options)
    distance = float(metrics.sliced_wasserstein(moved, moons.test_x, generator=torch.Generator().manual_seed(1)))
    plots.scatter_2d(moved, out / f"moons_{weight}.png", reference=moons.test_x, title=f"λ = {weight}")
    print(f"λ = {weight:<6} sliced Wasserstein to held-out moons {distance:.4f}")

# %% [markdown]
# ## A flow that can be sampled
#
# `SlicedWassersteinFlow` keeps the quantile functions of every step. New base points then go the same way, and the data
# are not needed any more.

# %%
flow = SlicedWassersteinFlow(moons.event_shape, n_steps=150, n_quantiles=200, step_size=0.5)
flow.fit(moons.train_x, generator=generator, progress=True)
base = flow.sample_base(2_000, generator)
paths = flow.trajectory(base[:100], every=5)
plots.scatter_2d(flow.transport(base), out / "moons_flow.png", trajectories=paths, title="new points and their ways")
print(f"{flow.status()}; it keeps {flow.memory_bytes() / 1e6:.1f} MB, whatever the number of data")

# %% [markdown]
# ## Labels
#
# With `context_dim` classes every class has its own quantiles, along directions that all classes share.

# %%
digits = data.load("digits")
by_label = SlicedWassersteinFlow(digits.event_shape, context_dim=10, n_steps=60, n_quantiles=50)
by_label.fit(digits.train_x, digits.train_context, generator=generator, progress=True)
labels = torch.arange(10).repeat_interleave(12)
samples = by_label.sample(len(labels), labels, generator=generator)
plots.sample_grid(samples, out / "digits.png", columns=12, row_labels=list(digits.class_names or []))

# %% [markdown]
# Are these copies? The distance to the nearest training image is compared with that of held-out images.

# %%
check = metrics.copying_check(by_label.sample(500, generator=generator), digits.train_x, digits.test_x)
print(f"nearest training image: {check.ratio:.2f} times as far as for held-out digits, {check.exact_copies:.0%} copies")
