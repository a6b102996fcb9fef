"""Wrong arguments of mlp_divergence and mlp_flow: each raises an error that names the argument."""

import pytest
import torch

import cgm_kernels
from tests.support.divergence import Case

CASE = Case(3, (7, 5), 4, t="rows", context="rows", film="rows")
LEAVES = CASE.draw()
PROBES = CASE.draw_probes()
W, B = [LEAVES[f"weight{k}"] for k in range(3)], [LEAVES[f"bias{k}"] for k in range(3)]
FILM = CASE.options(LEAVES)["film"]
X, T, C = LEAVES["x"], LEAVES["t"], LEAVES["context"]
FINE = {"x": X, "weights": W, "biases": B, "probes": PROBES, "t": T, "context": C, "film": FILM}

WRONG = [
    ({"x": [1.0]}, TypeError, "x must be a tensor: got list"),
    ({"x": X[0]}, ValueError, r"x must be \(B, d\) with d at least 1: got shape \(3,\)"),
    ({"x": X[:, :0]}, ValueError, r"x must be \(B, d\) with d at least 1: got shape \(4, 0\)"),
    ({"x": X.long()}, TypeError, "x must be float32"),
    ({"x": X.to_sparse()}, TypeError, "x must be a dense tensor"),
    ({"weights": W[0]}, TypeError, "weights must be a list of tensors, one for each layer: got Tensor"),
    ({"biases": None}, TypeError, "biases must be a list of tensors, one for each layer: got NoneType"),
    ({"weights": [], "biases": []}, ValueError, "weights must have at least one layer: got none"),
    ({"biases": B[:2]}, ValueError, "biases must have 3 layers, as weights: got 2"),
    ({"weights": [W[0], None, W[2]]}, TypeError, r"weights\[1\] must be a tensor: got NoneType"),
    ({"weights": [W[0], W[1].float(), W[2]]}, TypeError, r"weights\[1\] must have the dtype of x, torch.float64"),
    ({"weights": [W[0], W[1], W[2].to("meta")]}, ValueError, r"weights\[2\] must be on the device of x, cpu: got meta"),
    ({"weights": [W[0][:, :5], *W[1:]]}, ValueError, r"weights\[0\] must be \(out, 6\) after x, t, context: got"),
    ({"t": None}, ValueError, r"weights\[0\] must be \(out, 5\) after x, context: got \(7, 6\)"),
    ({"context": None}, ValueError, r"weights\[0\] must be \(out, 4\) after x, t: got \(7, 6\)"),
    ({"weights": [W[0], W[2], W[1]]}, ValueError, r"weights\[1\] must be \(out, 7\) after weights\[0\]: got \(3, 5\)"),
    ({"weights": W[:2], "biases": B[:2], "film": None}, ValueError, r"weights\[1\] must give 3 outputs, .* got 5"),
    ({"biases": [B[0], B[2], B[2]]}, ValueError, r"biases\[1\] must be \(5,\): got \(3,\)"),
    ({"biases": [B[0], 1.0, B[2]]}, TypeError, r"biases\[1\] must be a tensor: got float"),
    ({"activation": "sigmoid"}, ValueError, "activation must be one of tanh, softplus.*: got 'sigmoid'"),
    ({"activation": ["tanh"]}, ValueError, r"activation must be one of .*: got \['tanh'\]"),
    ({"probes": None}, ValueError, r"probes must be given, \(P, B, d\), or exact=True: got neither"),
    ({"exact": True}, ValueError, "probes must be None with exact=True"),
    ({"probes": 1}, TypeError, "probes must be a tensor: got int"),
    ({"probes": PROBES[0]}, ValueError, r"probes must be \(P, 4, 3\) with P at least 1: got \(4, 3\)"),
    ({"probes": PROBES[:, :2]}, ValueError, r"probes must be \(P, 4, 3\) with P at least 1: got \(1, 2, 3\)"),
    ({"probes": PROBES[:0]}, ValueError, r"probes must be .*: got \(0, 4, 3\)"),
    ({"probes": PROBES.float()}, TypeError, "probes must have the dtype of x, torch.float64: got torch.float32"),
    ({"probes": PROBES.clone().requires_grad_()}, ValueError, "probes must not require grad"),
    ({"t": "now"}, TypeError, "t must be a number or a tensor: got str"),
    ({"t": True}, TypeError, "t must be a number or a tensor: got bool"),
    ({"t": float("nan")}, ValueError, "t must be finite: got nan"),
    ({"t": T[:2]}, ValueError, r"t must be \(\) or \(4,\), one for each row of x: got \(2,\)"),
    ({"t": T[:, None]}, ValueError, r"t must be \(\) or \(4,\), one for each row of x: got \(4, 1\)"),
    ({"t": torch.tensor(1)}, TypeError, "t must be float32, .*: got torch.int64"),
    ({"t": T.float()}, TypeError, "t must have the dtype of x"),
    ({"t": T[0].to("meta")}, ValueError, "t must be on the device of x, cpu, or on the CPU: got meta"),
    ({"context": C[:2]}, ValueError, r"context must be \(c,\) or \(4, c\): got \(2, 2\)"),
    ({"context": C[0, 0]}, ValueError, r"context must be \(c,\) or \(4, c\): got \(\)"),
    ({"context": C.float()}, TypeError, "context must have the dtype of x"),
    ({"film": FILM[0]}, ValueError, "film must have an entry for each of the 3 layers: got 2"),
    ({"film": FILM[0][0]}, TypeError, "film must be a list"),
    ({"film": [None, 1.0, None]}, TypeError, r"film\[1\] must be None or \(scale, shift\): got float"),
    ({"film": [None, FILM[1][:1], None]}, TypeError, r"film\[1\] must be None or \(scale, shift\): got 1 elements"),
    ({"film": [None, (FILM[1][0], None), None]}, TypeError, r"film\[1\]\[1\] must be a tensor: got NoneType"),
    ({"film": [None, FILM[0], None]}, ValueError, r"film\[1\]\[0\] must be \(5,\) or \(4, 5\), one for each row of x"),
    ({"film": [None, (FILM[1][0][:2], FILM[1][1]), None]}, ValueError, r"film\[1\]\[0\] must be .*: got \(2, 5\)"),
    ({"film": "abc"}, TypeError, r"film must be a list of None or \(scale, shift\), one for each layer: got str"),
    *[({name: "no", "film": film}, TypeError, f"{name} must be True or False: got str")
      for name in ("exact", "residual", "frobenius") for film in (None, FILM)],
]  # fmt: skip


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("change, kind, message", WRONG, ids=[str(n) for n in range(len(WRONG))])
def test_divergence_errors_name_the_argument(change, kind, message, backend):
    with cgm_kernels.use_backend(backend):
        assert len(cgm_kernels.mlp_divergence(**FINE)) == 2
        with pytest.raises(kind, match=message):
            cgm_kernels.mlp_divergence(**{**FINE, **change})


FLOW = {"x": X, "weights": W, "biases": B, "times": [0.0, 0.5, 1.0], "probes": PROBES, "context": C}


def two_features(t):
    return torch.stack([t, t], 1)


def film_of_few_stages(t):
    return [(t.new_ones(3, 7), t.new_ones(8, 7)), None, None]


WRONG_FLOW = [
    ({"times": 1.0}, TypeError, "times must be a 1-D tensor or a sequence of numbers: got float"),
    ({"times": []}, ValueError, "times must have at least one number: got none"),
    ({"times": [0.0, "1"]}, TypeError, r"times\[1\] must be a number: got str"),
    ({"times": [0.0, float("inf")]}, ValueError, r"times\[1\] must be finite: got inf"),
    ({"times": [0.0, 1.0, 0.5]}, ValueError, "times must be strictly increasing or strictly decreasing"),
    ({"times": [0.0, 1.0, 1.0]}, ValueError, "times must be strictly increasing or strictly decreasing"),
    ({"times": torch.zeros(2, 2)}, ValueError, r"times must be a tensor \(N \+ 1,\) .*: got shape \(2, 2\)"),
    ({"times": torch.zeros(2).requires_grad_()}, ValueError, "times must be .* got one that requires grad"),
    ({"method": "dopri5"}, ValueError, "method must be one of euler, midpoint, rk4, rk4_38: got 'dopri5'"),
    ({"activation": "sigmoid"}, ValueError, "activation must be one of tanh"),
    ({"exact": True}, ValueError, "probes must be None with exact=True"),
    *[({name: "no"}, TypeError, f"{name} must be True or False: got str")
      for name in ("exact", "residual", "regularizers", "keep_states")],
    ({"film": "abc"}, TypeError, r"film must be a list of None or \(scale, shift\), one for each layer: got str"),
    ({"probes": PROBES[:0]}, ValueError, r"probes must be .*: got \(0, 4, 3\)"),
    ({"context": C[:2]}, ValueError, r"context must be \(c,\) or \(4, c\): got \(2, 2\)"),
    ({"context": None}, ValueError, r"weights\[0\] must be \(out, 4\) after x, t: got \(7, 6\)"),
    ({"time_features": lambda t: t}, ValueError, r"time_features must give \(8, f\) for as many times: got \(8,\)"),
    ({"time_features": lambda t: 1.0}, TypeError, r"time_features\(times\) must be a tensor: got float"),
    ({"time_features": two_features}, ValueError, r"weights\[0\] must be \(out, 7\) after x, time_features"),
    ({"film": [None]}, ValueError, "film must have an entry for each of the 3 layers: got 1"),
    ({"film": film_of_few_stages}, ValueError, r"film\[0\]\[0\] must be \(7,\) or \(8, 7\), one for each stage"),
    ({"x": X[0]}, ValueError, r"x must be \(B, d\) with d at least 1: got shape \(3,\)"),
]  # fmt: skip


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("change, kind, message", WRONG_FLOW, ids=[str(n) for n in range(len(WRONG_FLOW))])
def test_flow_errors_name_the_argument(change, kind, message, backend):
    arguments = {**FLOW, "weights": W, "method": "rk4"}
    with cgm_kernels.use_backend(backend), pytest.raises(kind, match=message):
        cgm_kernels.mlp_flow(**{**arguments, **change})
