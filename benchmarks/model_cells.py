"""The flows of the models benchmark: how each is made, what it is called, and at which sizes it is measured."""

from __future__ import annotations

from typing import Any

from .flow_peers import DEPTHS, HIDDEN, LAYERS, SPLINE_BINS, SPLINE_BOUND, TOLERANCES

WIDTHS = {"hidden_features": (HIDDEN, HIDDEN)}
CONTINUOUS: dict[str, Any] = {
    "hidden_features": (HIDDEN,) * 3, "activation": "tanh", "time": "concat", "solver": "rk4_38", "n_steps": 20
}  # fmt: skip
ADAPTIVE: dict[str, Any] = {**CONTINUOUS, "solver": "dopri5", "n_frequencies": 1, **TOLERANCES}
FAMILIES: dict[str, dict[str, Any]] = {
    **{kind: {"n_layers": DEPTHS[kind], **WIDTHS} for kind in ("RealNVP", "MAF", "NICE", "IAF")},
    "NeuralSplineFlow": {
        "n_layers": DEPTHS["NeuralSplineFlow"], "n_bins": SPLINE_BINS, "bound": SPLINE_BOUND, "mixing": "none", **WIDTHS
    },
    "MADE": WIDTHS,
    "FFJORD": CONTINUOUS,
    "FFJORD_exact": {**CONTINUOUS, "exact": True},
    "FFJORD_dopri5": {**ADAPTIVE, "exact": True},
    "FFJORD_dopri5_estimate": ADAPTIVE,
    "FFJORD_10": {**CONTINUOUS, "gradient": "checkpoint", "n_steps": 10},
    "FFJORD_40": {**CONTINUOUS, "gradient": "checkpoint", "n_steps": 40},
    "Glow": {"n_steps": 4, "hidden_channels": 32},
    **{kind: {"n_layers": DEPTHS[kind]} for kind in ("PlanarFlow", "RadialFlow")},
}  # fmt: skip
CONTINUOUS_KINDS = [kind for kind in FAMILIES if kind.startswith("FFJORD")]
ESTIMATED = [kind for kind in CONTINUOUS_KINDS if "exact" not in FAMILIES[kind]]
CHECKPOINTED = {kind: f"FFJORD, checkpoint, {FAMILIES[kind]['n_steps']} steps" for kind in ("FFJORD_10", "FFJORD_40")}
ADAPTIVE_KINDS = {"FFJORD_dopri5": "FFJORD, dopri5, exact trace", "FFJORD_dopri5_estimate": "FFJORD, dopri5"}
KINDS = {name: name.replace("_exact", ", exact trace") for name in FAMILIES} | CHECKPOINTED | ADAPTIVE_KINDS
HEADLINES = [{"kind": kind, "n": 4096, "d": 64} for kind in LAYERS] + [
    {"kind": kind, "n": 4096, "d": d}
    for kind, d in (("FFJORD", 2), ("FFJORD", 64), ("FFJORD_dopri5", 2), ("FFJORD_dopri5_estimate", 64))
]
GRID = [{"kind": kind, "n": n, "d": d} for kind in LAYERS for n, d in ((4096, 64), (512, 2), (512, 16))] + [
    {"kind": kind, "n": 512 if kind == "Glow" else 4096, "d": 64}
    for kind in FAMILIES
    if kind not in LAYERS and kind not in CONTINUOUS_KINDS
]
_FFJORD_SIZES = {
    "FFJORD": ((4096, 2), (4096, 64)),
    **dict.fromkeys(("FFJORD_exact", "FFJORD_dopri5"), ((4096, 2), (512, 16))),
    "FFJORD_dopri5_estimate": ((4096, 2), (4096, 64), (512, 16)),
}
GRID += [{"kind": kind, "n": n, "d": d} for kind, sizes in _FFJORD_SIZES.items() for n, d in sizes]
# The last is a quick run's. Points of 64 dimensions tell a state kept for each step, 1 MB, from none.
MEMORY_CELLS = [{"kind": kind, "n": 4096, "d": 64} for kind in ("FFJORD", *CHECKPOINTED, "RealNVP")]
