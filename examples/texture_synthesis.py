# %% [markdown]
"""Textures from one example: the law of highest entropy, relative to noise, that has the example's statistics.

A `MaximumEntropyModel` is fitted to a photograph of gravel, which scikit-image ships. Its statistics are those of the
bands of oriented wavelets (how strong they are, where they are strong together, how their phases go with those of the
next scale) and the histogram of the pixels. Langevin chains carry white noise, filtered to the spectrum of the example,
to textures; meanwhile the multipliers learn what is still missing.

`pip install cgm-kernels[models,examples]`, then `python examples/texture_synthesis.py --out demo/texture`: about a
minute on one core.
"""

# %%
from __future__ import annotations

import argparse
from pathlib import Path

import skimage.data
import torch
import torch.nn.functional as F

from cgm_models.ebm import MaximumEntropyModel
from cgm_models.plots.figure import new_figure, save

CROP = 192  # pixels of a side of the photograph that become the example

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--out", type=Path, default=Path("demo/texture"), help="folder of the picture")
parser.add_argument("--textures", nargs="+", default=["gravel"], help="images of skimage.data")
parser.add_argument("--side", type=int, default=96, help="pixels of a side of the example and of the samples")
parser.add_argument("--iterations", type=int, default=400)
options = parser.parse_args()


# %% [markdown]
# ## One texture
#
# In the coordinates of the chains the reference is white noise; `to_data` makes a Gaussian texture of it, which is
# where the chains begin. It has the spectrum of the example, and that is all it has.


# %%
def example(name: str, side: int) -> torch.Tensor:
    """(1, side, side), grey levels in [0, 1]."""
    photograph = torch.from_numpy(getattr(skimage.data, name)()).float()[None, None, :CROP, :CROP]
    return F.interpolate(photograph, (side, side), mode="area")[0] / 255.0


def synthesise(name: str) -> dict[str, torch.Tensor]:
    """The pictures of a row by their titles; prints how far the statistics are from those of the example."""
    image, frames = example(name, options.side), {}
    every = max(1, options.iterations // 50)  # iterations between two lines of the log
    shown = (every, 5 * every, options.iterations)
    model = MaximumEntropyModel(
        image.shape,
        features=["wavelets", "histogram"],
        n_iterations=options.iterations,
        n_chains=2,
        steps_per_iteration=3,
        learning_rate_decay=1.0,
        sample_steps=100,
    )

    def keep(record: dict) -> None:
        if record["iteration"] in shown:
            frames[f"iteration {record['iteration']}"] = model.positions()[0]

    model.fit(image, generator=torch.Generator().manual_seed(1), progress=True, log=keep)
    noise = model.coordinates.initial(16, torch.Generator().manual_seed(2))
    gaussian = model.coordinates.to_data(noise, torch.zeros(16, dtype=torch.int64))
    samples = model.sample(16, generator=torch.Generator().manual_seed(3))
    white = image.mean() + image.std() * noise
    print(f"{name}: {model.features.n_features} statistics, {model.status()}")
    print("  mean of 16 draws, in standard deviations of one")
    for title, draws in {"white noise": white, "Gaussian texture": gaussian, "samples": samples}.items():
        print(f"  {title:17}" + "  ".join(f"{key} {value:6.2f}" for key, value in model.mismatch(draws).items()))
    return {"example": image, "noise": white[0], "Gaussian texture": gaussian[0], **frames, "sample": samples[-1]}


# %% [markdown]
# ## The picture

# %%
rows = {name: synthesise(name) for name in options.textures}
columns = len(next(iter(rows.values())))
figure = new_figure(1.6 * columns, 1.75 * len(rows))
for axes_row, (name, row) in zip(figure.subplots(len(rows), columns, squeeze=False), rows.items(), strict=True):
    low, high = float(row["example"].min()), float(row["example"].max())
    for axes, (title, picture) in zip(axes_row, row.items(), strict=False):
        axes.imshow(picture[0].numpy(), cmap="gray", vmin=low, vmax=high)
        axes.set_title(title, fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
    axes_row[0].set_ylabel(name, fontsize=8)
save(figure, options.out / "texture.png")
