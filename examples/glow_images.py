# %% [markdown]
"""Glow on handwritten digits: samples by temperature, each class by its label, and walks through the latent space.

Every scale folds 2×2 blocks of pixels into channels and runs steps of actnorm, an invertible 1×1 convolution and an
affine coupling (Kingma and Dhariwal 2018). The label is the context, so that this is p(image | digit).

`python examples/glow_images.py --out demo/glow` takes about two minutes, `--data mnist5k` (28 × 28 pixels) longer.
"""

# %%
from __future__ import annotations

import argparse
from pathlib import Path

import torch

from cgm_models import data, plots
from cgm_models.flows import Glow
from cgm_models.training import Trainer

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--out", type=Path, default=Path("demo/glow"), help="folder of the pictures")
parser.add_argument("--data", choices=("digits", "mnist5k"), default="digits")
parser.add_argument("--steps", type=int, default=600, help="steps of the training")
options = parser.parse_args()

# %% [markdown]
# ## Training
#
# `n_levels` says how many grey levels there are: the flow then adds uniform noise within a level, and passes a logit. A
# tenth of the training images decides which step's averaged weights are kept.

# %%
images = data.load(options.data)
n = images.n_train - images.n_train // 10
x, labels = images.train_x, images.train_context
torch.manual_seed(0)
flow = Glow(
    images.event_shape, context_dim=10, n_steps=4, hidden_channels=32, n_levels=17 if options.data == "digits" else 256
)
trainer = Trainer(
    max_steps=options.steps, batch_size=128, lr=2e-3, schedule="cosine", warmup_steps=50, clip_norm=100.0,
    optimizer="adamw", weight_decay=0.1, ema_decay=0.99, validate_every=100, patience=4,
)  # fmt: skip
result = trainer.fit(flow, x[:n], labels[:n], x[n:], labels[n:])
bits = flow.bits_per_dim(images.test_x, images.test_context, n_draws=1, generator=torch.Generator().manual_seed(0))
print(f"{result.status()} in {result.seconds:.0f} s")
print(f"held-out bits per dimension {float(bits.mean()):.3f} ± {float(bits.std()) / len(bits) ** 0.5:.3f}")

# %% [markdown]
# ## Temperature
#
# The latent points are scaled about their mean: at 0 every class gives its one most central image, at 1 the images are
# as varied as the model believes the data to be. Each column is one latent point.

# %%
classes = torch.arange(10)
temperatures = (0.0, 0.3, 0.5, 0.7, 0.9, 1.0)
rows = [
    flow.sample(10, classes, torch.Generator().manual_seed(1), temperature=temperature) for temperature in temperatures
]
names = [f"T = {temperature}" for temperature in temperatures]
plots.sample_grid(torch.cat(rows), options.out / "temperature.png", columns=10, row_labels=names)

each = classes.repeat_interleave(12)
samples = flow.sample(len(each), each, torch.Generator().manual_seed(2), temperature=0.7)
plots.sample_grid(samples, options.out / "classes.png", columns=12, row_labels=[str(k) for k in range(10)])

# %% [markdown]
# ## Interpolation
#
# Two held-out images of one class, and the images on the curve between their latent points; at the ends are the images
# themselves, which the flow gives back exactly.

# %%
pairs = [(images.test_context == k).nonzero()[:2, 0] for k in range(10)]
first, second = (images.test_x[torch.stack([pair[end] for pair in pairs])] for end in (0, 1))
path = flow.interpolate(first, second, 9, classes)
back = max(float((path[0] - first).abs().max()), float((path[-1] - second).abs().max()))
print(f"largest error of a pixel at the ends of the walks: {back:.1e}")
plots.trajectory_strip(path, options.out / "interpolation.png", times=[f"{k}/8" for k in range(9)], columns=9, rows=10)
