# %% [markdown]
"""Point patterns from one example: points that repel one another, and points that come in clusters.

The law of highest entropy with the statistics of the example is a Gibbs process, whose potential is learned
(`MaximumEntropyModel`); Langevin chains move the points on the torus. Repelling points are told by how many pairs lie
at each distance. Pairs that attract would all end in one heap; clusters are told by how many points have so many
neighbours, which also says how large a cluster is.

`python examples/point_patterns.py --out demo/points` takes about a minute on one core.
"""

# %%
from __future__ import annotations

import argparse
from pathlib import Path

import torch

from cgm_models.ebm import MaximumEntropyModel
from cgm_models.ebm.features_points import PairCounts
from cgm_models.plots.figure import COLOURS, new_figure, quiet_axes, save

N = 50

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--out", type=Path, default=Path("demo/points"), help="folder of the picture")
parser.add_argument("--iterations", type=int, default=300)
options = parser.parse_args()
generator = torch.Generator().manual_seed(0)

# %% [markdown]
# ## Two examples
#
# Points thrown one after the other, none closer than 0.08 to one that lies; and ten parents with five children each.


# %%
def repelling() -> torch.Tensor:
    kept = torch.rand(1, 2, generator=generator)
    while len(kept) < N:
        point = torch.rand(1, 2, generator=generator)
        offset = kept - point
        if float((offset - offset.round()).norm(dim=1).min()) > 0.08:
            kept = torch.cat((kept, point))
    return kept


def clustered() -> torch.Tensor:
    parents = torch.rand(N // 5, 2, generator=generator).repeat_interleave(5, 0)
    return (parents + 0.03 * torch.randn(N, 2, generator=generator)).remainder(1.0)


examples = {"repelling": repelling(), "clustered": clustered()}

# %% [markdown]
# ## Fits
#
# Where the repelling example has no pairs at all the potential would grow without end: `bound` ends that. Clusters part
# and merge slowly, so that their statistics are matched less well than those of points that repel one another.

# %%
FEATURES = {
    "repelling": [{"name": "pair_counts", "n_bins": 10, "max_distance": 0.25}],
    "clustered": [
        {"name": "neighbour_counts", "n_counts": 10, "radius": 0.05, "softness": 0.4},
        {"name": "neighbour_counts", "n_counts": 18, "radius": 0.12, "softness": 0.4},
    ],
}
uniform = torch.rand(200, N, 2, generator=generator)
pairs = PairCounts((N, 2), n_bins=25, max_distance=0.25)
expected = pairs(uniform).mean(0)
figure = new_figure(10.5, 4.6)
for row, (name, example) in enumerate(examples.items()):
    model = MaximumEntropyModel(
        (N, 2), features=FEATURES[name], bound=5.0, n_iterations=options.iterations, n_chains=4, steps_per_iteration=5,
        step_size=3e-5, learning_rate_decay=1.0, sample_steps=500,
    )  # fmt: skip
    model.fit(example, generator=torch.Generator().manual_seed(1), progress=True)
    samples = model.sample(16, generator=torch.Generator().manual_seed(2))
    print(f"{name}: {model.status()}; mean statistics of 16 draws, in standard deviations of one")
    for title, draws in {"uniform": uniform[:16], "samples": samples}.items():
        print(f"  {title:9}" + "  ".join(f"{key} {value:6.2f}" for key, value in model.mismatch(draws).items()))
    shown = {f"{name}: the example": example, "sample": samples[0], "another sample": samples[-1]}
    for column, (title, points) in enumerate(shown.items()):
        axes = figure.add_subplot(2, 4, 4 * row + column + 1)
        axes.scatter(points[:, 0], points[:, 1], s=6, color=COLOURS[column > 0])
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=[], yticks=[])
        axes.set_title(title, fontsize=9)
    axes = figure.add_subplot(2, 4, 4 * row + 4)
    for column, points in enumerate((example[None], samples)):
        axes.plot(
            pairs.centres, pairs(points).mean(0) / expected, color=COLOURS[column], label=("example", "samples")[column]
        )
    axes.axhline(1.0, color="#8a8a8a", linewidth=0.8)
    axes.set_title("pairs by distance, beside uniform", fontsize=9)
    axes.legend(fontsize=7, frameon=False)
    quiet_axes(axes)
save(figure, options.out / "points.png")
