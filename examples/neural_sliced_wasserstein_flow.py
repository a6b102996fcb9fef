# %% [markdown]
# # The neural sliced-Wasserstein flow beside the particle flow
#
# Three ways to draw from the same flow: its particles, moved towards the training set; its learned quantiles
# (`SlicedWassersteinFlow`), which need no data; and a network that has learned where the flow carries base points
# (`NeuralSlicedWassersteinFlow`), which needs two steps. `python examples/neural_sliced_wasserstein_flow.py [SET ...]`
# fits all of them, measures them against held-out data, and writes a table and a page of pictures to
# `examples/results/`. What was measured is kept in `demo/`, so that the sets can be measured one by one.

# %%
import os
import platform
import statistics
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import torch

from cgm_models import data, metrics
from cgm_models.plots import save
from cgm_models.plots.figure import event_limits, new_figure
from cgm_models.plots.grid import as_rgb, mosaic
from cgm_models.plots.scatter import density_values, draw_paths, draw_points, frame, shade, typical_points
from cgm_models.training import Trainer
from cgm_models.transport import NeuralSlicedWassersteinFlow, SlicedWassersteinFlow, particle_flow

OUT, KEPT = Path(__file__).parent / "results", Path("demo/neural")
NAME = "neural_sliced_wasserstein_flow"
PLANAR = ["moons", "circles", "rings", "8gaussians", "pinwheel", "swissroll", "checkerboard"]
N, ROUNDS = 10_000, 3
PARTICLES, QUANTILES, NEURAL = "particles", "learned quantiles", "network"


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# %% [markdown]
# ## Fitting
#
# The network learns by the trainer. Digits take larger steps of the flow, and a larger network, than the plane.


# %%
def fit_network(dataset: data.Dataset) -> NeuralSlicedWassersteinFlow:
    torch.manual_seed(0)
    if dataset.is_image:
        options = {"hidden_features": (512, 512, 512), "step_size": 64.0, "n_flow_steps": 150}
        trainer = {"max_steps": 2000, "batch_size": 256, "lr": 1e-3}
    else:
        options, trainer = {}, {"max_steps": 2500, "batch_size": 1024, "lr": 4e-3}
    model = NeuralSlicedWassersteinFlow(dataset.event_shape, **options)
    Trainer(schedule="one-cycle", ema_decay=0.99, tensorboard=False, **trainer).fit(model, dataset.train_x)
    return model


def draw_particles(dataset: data.Dataset, quantiles: SlicedWassersteinFlow, seed: int) -> torch.Tensor:
    """The particles themselves, with the steps, directions and units of the learned quantiles."""
    flat = ((dataset.train_x.flatten(1)) - quantiles.location) / quantiles.scale
    generator = seeded(seed)
    start = torch.randn(N, quantiles.dim, generator=generator)
    options = {"n_steps": quantiles.n_steps, "step_size": quantiles.step_size, "orthogonal": quantiles.orthogonal}
    moved = particle_flow(start, flat, n_projections=quantiles.n_projections, generator=generator, **options)
    return (moved * quantiles.scale + quantiles.location).reshape(N, *dataset.event_shape)


# %% [markdown]
# ## Measuring
#
# Means over three draws of 10,000 samples, on the same directions. The samplers take turns, so that whatever else the
# machine does slows them all; the ratio is the median over the rounds.


# %%
def compare(name: str) -> dict:
    """The numbers, and what to draw."""
    dataset, began = data.load(name), time.perf_counter()
    quantiles = SlicedWassersteinFlow(dataset.event_shape).fit(dataset.train_x, generator=seeded(0))
    fitted = time.perf_counter()
    network = fit_network(dataset)
    learned = time.perf_counter()
    samplers = {
        PARTICLES: lambda seed: draw_particles(dataset, quantiles, seed),
        QUANTILES: lambda seed: quantiles.sample(N, generator=seeded(seed)),
        NEURAL: lambda seed: network.sample(N, generator=seeded(seed)),
    }
    rounds = [{key: timed(draw, seed) for key, draw in samplers.items()} for seed in range(ROUNDS)]
    rows = {key: score([each[key][0] for each in rounds], dataset) for key in samplers}
    for key in samplers:
        rows[key]["seconds"] = statistics.median(each[key][1] for each in rounds)
        rows[key]["ratio"] = statistics.median(each[key][1] / each[NEURAL][1] for each in rounds)
    rows["training set"] = score([dataset.train_x], dataset)
    rows[PARTICLES]["bytes"] = dataset.train_x.numel() * 4
    rows[QUANTILES]["bytes"], rows[NEURAL]["bytes"] = quantiles.memory_bytes(), network.memory_bytes()
    rows[QUANTILES]["fit"], rows[NEURAL]["fit"] = fitted - began, learned - fitted
    base = network.sample_base(40, seeded(9))
    paths = network.trajectory(base, [network.end_time * (k / 24) ** 2 for k in range(25)])
    clouds = {key: cloud[:2000].clone() for key, (cloud, _) in rounds[0].items()}
    return {"rows": rows, "machine": machine(), "paths": paths, **clouds}


def timed(draw, seed: int) -> tuple[torch.Tensor, float]:
    began = time.perf_counter()
    return draw(seed), time.perf_counter() - began


def score(clouds: list[torch.Tensor], dataset: data.Dataset) -> dict[str, float]:
    distances = [float(metrics.sliced_wasserstein(x, dataset.test_x, generator=seeded(1))) for x in clouds]
    energies = [float(metrics.energy_distance(x, dataset.test_x, estimator="u")) for x in clouds]
    return {"sliced": statistics.fmean(distances), "energy": statistics.fmean(energies)}


# %% [markdown]
# ## The page


# %%
def table(results: dict[str, dict]) -> str:
    lines = [
        "# The neural sliced-Wasserstein flow beside the particle flow",
        "",
        f"Written by `python examples/{NAME}.py` on {'; '.join(sorted({r['machine'] for r in results.values()}))}.",
        f"Distances from {N:,} samples to held-out data, means over {ROUNDS} draws; the energy distance is the",
        f"unbiased one and may be negative. Times to draw {N:,} samples are medians of {ROUNDS} rounds in which the",
        "samplers take turns, the ratios to the network the medians of theirs. The particles move along directions",
        "over the whole event and need the training set, which is their memory.",
        "",
        "| data | | sliced W₂ | energy | time (s) | times as long as the network | memory (kB) | fit (s) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        for key, row in result["rows"].items():
            cells = [name, key, f"{row['sliced']:.4f}", f"{row['energy']:.5f}"]
            cells += [f"{row[k]:{form}}" if k in row else "" for k, form in (("seconds", ".3f"), ("ratio", ".1f"))]
            cells += [
                f"{row['bytes'] / 1e3:.0f}" if "bytes" in row else "",
                f"{row['fit']:.0f}" if "fit" in row else "",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def machine() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    cpu = names[0] if names else platform.machine()
    date = datetime.now(timezone.utc).date().isoformat()
    return f"{cpu}, {torch.get_num_threads()} of {os.cpu_count()} threads, torch {torch.__version__}, {date}"


def page(results: dict[str, dict]) -> None:
    columns = ["held out", PARTICLES, QUANTILES, NEURAL, "ways of the network"]
    figure = new_figure(11.0, 2.25 * len(results))
    for axes_row, (name, shown) in zip(figure.subplots(len(results), 5, squeeze=False), results.items(), strict=True):
        axes_row[0].set_ylabel(name, fontsize=10)
        for axes, column in zip(axes_row, columns, strict=True):
            draw_panel(axes, data.load(name), shown, column)
            row = shown["rows"].get(column)
            note = f"\nSW {row['sliced']:.3f}, {row['seconds']:.2f} s" if row else ""
            axes.set_title(column + note, fontsize=8)
            axes.set_xticks([])
            axes.set_yticks([])
    save(figure, OUT / f"{NAME}.png")


def draw_panel(axes, dataset: data.Dataset, shown: dict, column: str) -> None:
    if dataset.is_image:
        cloud = shown["paths"][::3].swapaxes(0, 1)[:8].flatten(0, 1) if column not in shown else shown[column]
        cloud = dataset.test_x if column == "held out" else cloud
        side = 9 if column not in shown and column != "held out" else 8
        rows = len(cloud[: 8 * side]) // side
        axes.imshow(mosaic(as_rgb(cloud[: rows * side]).reshape(rows, side, *dataset.event_shape[1:], 3)))
        return
    limits = event_limits([typical_points(dataset.density).clip(-9, 9)])
    shade(axes, density_values(dataset.density, limits), limits)
    if column in shown or column == "held out":
        cloud = dataset.test_x if column == "held out" else shown[column][: len(dataset.test_x)]
        draw_points(axes, cloud.numpy(), None, colour="#d9622b", inches=2.0)
    else:
        draw_paths(axes, shown["paths"].numpy())
    frame(axes, limits)


# %%
names = sys.argv[1:] if len(sys.argv) > 1 and not hasattr(sys, "ps1") else [*PLANAR, "digits"]
KEPT.mkdir(parents=True, exist_ok=True)
for name in names:
    torch.save(compare(name), KEPT / f"{name}.pt")
    files = {known: KEPT / f"{known}.pt" for known in [*PLANAR, "digits"]}
    results = {known: torch.load(file, weights_only=True) for known, file in files.items() if file.is_file()}
    OUT.mkdir(exist_ok=True)
    (OUT / f"{NAME}.md").write_text(table(results), encoding="utf-8")
    page(results)
    print(table({name: results[name]}), flush=True)
