# %% [markdown]
"""An energy-based model of handwritten digits that has never seen a 3: its samples, and what it takes for a digit.

The energy of an image is −log p up to a constant, so that images of other kinds should lie higher. How well it tells
them apart is measured by the area under the ROC curve, beside that of a Gaussian fitted to the same digits: the class
that was left out, patches of photographs, digits black on white, and noise. A digit that was left out is the hard one.

`python examples/energy_based_digits.py --out demo/energy` takes some minutes.
"""

# %%
from __future__ import annotations

import argparse
from pathlib import Path

import torch
from sklearn.covariance import LedoitWolf

from cgm_models import data, metrics, plots
from cgm_models.ebm import EnergyModel
from cgm_models.training import Trainer

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--out", type=Path, default=Path("demo/energy"), help="folder of the pictures")
parser.add_argument("--steps", type=int, default=800, help="steps of the training")
parser.add_argument("--left-out", type=int, default=3, help="the digit that is not trained on")
options = parser.parse_args()

# %% [markdown]
# ## Training
#
# Chains of the replay buffer are kept in the range of grey levels; the data get a little noise, since their 17 levels
# have no density.

# %%
digits = data.load("digits", without_class=options.left_out)
torch.manual_seed(0)
model = EnergyModel(
    digits.event_shape, network="convolutional", hidden_features=(32, 64), step_size=0.01, n_steps=20, clamp=(0.0, 1.0),
    input_noise=0.1, energy_penalty=0.01, buffer_size=2048, sample_steps=500,
)  # fmt: skip
trainer = Trainer(
    max_steps=options.steps, batch_size=128, lr=1e-3, schedule="cosine", clip_norm=10.0, ema_decay=0.99,
    tensorboard=False,
)  # fmt: skip
result = trainer.fit(model, digits.train_x)
print(f"{result.status()} in {result.seconds:.0f} s")

# %% [markdown]
# ## Samples
#
# Those from the replay buffer had the whole training to get where they are; those from noise have a thousand steps.

# %%
generator = torch.Generator().manual_seed(1)
from_buffer = model.sample(64, generator=generator)
from_noise = model.sample(64, generator=generator, n_steps=1000, start="noise")
rows = {"held out": digits.test_x[:16], "from the buffer": from_buffer[:32], "from noise": from_noise[:32]}
names = [name if k == 0 else "" for name, images in rows.items() for k in range(len(images) // 16)]
plots.sample_grid(torch.cat(list(rows.values())), options.out / "digits.png", columns=16, row_labels=names)

# %% [markdown]
# ## Other images
#
# Half the squared Mahalanobis distance is −log p of the Gaussian up to its constant.

# %%
outliers = {
    f"the digit {options.left_out}": digits.left_out,
    "patches": data.load("patches").test_x,
    "inverted digits": 1.0 - digits.test_x,
    "noise": torch.rand(1000, *digits.event_shape, generator=generator),
}
gaussian = LedoitWolf().fit(digits.train_x.flatten(1).double().numpy())


def mahalanobis(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(0.5 * gaussian.mahalanobis(x.flatten(1).double().numpy()))


@torch.no_grad()
def energy(x: torch.Tensor) -> torch.Tensor:
    return model.energy(x)


print(f"{'AUROC of':18}{'energy':>8}{'Gaussian':>10}")
for name, images in outliers.items():
    areas = [metrics.auroc(score(digits.test_x), score(images)) for score in (energy, mahalanobis)]
    print(f"{name:18}{areas[0]:8.3f}{areas[1]:10.3f}")
