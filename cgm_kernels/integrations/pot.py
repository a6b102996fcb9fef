"""POT (Python Optimal Transport): its one-dimensional and sliced distances on our kernels.

POT integrates |Q_u − Q_v|^p over the masses as they are given, ours over normalised ones: equal masses S give S times
our value, and unequal ones are POT's to answer. Its points lie along axis 0, ours along the last. Directions are drawn
by POT itself, so that a seed means what it means there. What else is passed on, each for a reason named in the report:

- derivatives by the weights: POT's potentials depend on how its cumulative sums round where masses meet;
- plans (``return_plans``, ``log=True`` of ``emd2_1d``), a ``scaler``, p < 1, other metrics;
- lists, integers, half precision, other array libraries, tensor subclasses, autocast, torch.func, forward mode;
- results that are not finite: POT propagates infinities, our kernels answer NaN.
"""

from __future__ import annotations

import inspect
import math
import numbers
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..sliced_ot import op
from ._arrays import capturing, differentiable, tensors, wants_gradient
from ._library import Library, PassOn

_OLDEST, _BEYOND = (0, 9, 4), (0, 9, 8)
_METRICS = {"sqeuclidean": 2.0, "euclidean": 1.0, "cityblock": 1.0}


def _wasserstein_1d(
    original: Callable[..., Any],
    u_values: Any,
    v_values: Any,
    u_weights: Any,
    v_weights: Any,
    p: Any,
    require_sort: Any,
    return_plans: Any = False,
) -> Any:
    """(n,) or (n, batch) and (m,) or (m, batch) to () or (batch,): W_p^p of each column."""
    if return_plans is not False:
        raise PassOn("return_plans")
    p = _power(p)
    u, v, a, b = _tensors(original, u_values, v_values, u_weights, v_weights)
    if u.dim() not in (1, 2) or u.shape[1:] != v.shape[1:] or 0 in (u.numel(), v.numel()):
        raise PassOn("shape")
    if not require_sort and not (_ascending(u) and _ascending(v)):
        raise PassOn("require_sort=False for points that are not sorted")
    a, b, mass = _weights(a, b, u, v)
    value = _rows(u.t() if u.dim() == 2 else u, v.t() if v.dim() == 2 else v, a, b, p, mass)
    return _like(u_values, _finite(value))


def _emd2_1d(
    original: Callable[..., Any], x_a: Any, x_b: Any, a: Any, b: Any, metric: Any, p: Any, dense: Any, log: Any
) -> Any:
    """The cost, computed in double precision: a Python float for NumPy; for torch of the dtype of x_a, no gradient."""
    if log:
        raise PassOn("log=True asks for the plan")
    if metric not in (*_METRICS, "minkowski"):
        raise PassOn("metric")
    p = _METRICS[metric] if metric in _METRICS else _power(p)
    x, y, a, b = tensors(x_a, x_b, a, b)
    _backend(original, x_a, x_b)
    if any(t.numel() == 0 or not (t.dim() == 1 or (t.dim() == 2 and t.shape[1] == 1)) for t in (x, y)):
        raise PassOn("shape")
    with torch.no_grad():
        x_weights, y_weights, mass = _balanced(x, a, y, b)
        points = x.reshape(-1).double(), y.reshape(-1).double()
        value = op.wasserstein_1d(*points, x_weights=x_weights, y_weights=y_weights, p=p) * mass
        _finite(value)
        return value.to(x.dtype) if isinstance(x_a, Tensor) else value.item()


def _sliced(original: Callable[..., Any], *, largest: bool = False, **arguments: Any) -> Any:
    """The p-th root of the mean (or of the largest) over directions of W_p^p of the projected points."""
    x, y, a, b, projections = _checked_sliced(original, arguments)
    p = _power(arguments["p"])
    a, b, mass = _weights(a, b, x, y)
    nx = _backend(original, arguments["X_s"], arguments["X_t"])
    drawn = arguments["projections"]
    if projections is None:
        draw = original.__globals__["get_random_projections"]
        count, seed = arguments["n_projections"], arguments["seed"]
        drawn = draw(x.shape[1], count, seed, backend=nx, type_as=arguments["X_s"])
        (projections,) = tensors(drawn)
    if projections.dtype is not x.dtype:  # a RandomState draws float64 whatever the points are
        raise PassOn("directions of another dtype", projections=drawn)
    if arguments["log"] or largest or wants_gradient(projections):
        rows = _rows((x @ projections).t(), (y @ projections).t(), a, b, p, mass)
        emds = _like(arguments["X_s"], _finite(rows, projections=drawn))
        cost = nx.max(emds) if largest else nx.sum(emds) / projections.shape[1]
    else:
        emds = None
        cost = _like(arguments["X_s"], _finite(_mean(x, y, projections, a, b, p, mass), projections=drawn))
    result = cost ** (1.0 / arguments["p"])
    return (result, {"projections": drawn, "projected_emds": emds}) if arguments["log"] else result


def _max_sliced(original: Callable[..., Any], **arguments: Any) -> Any:
    return _sliced(original, largest=True, **arguments)


def _checked_sliced(original: Callable[..., Any], arguments: dict[str, Any]) -> list[Any]:
    """X_s, X_t, a, b and projections as tensors; what POT refuses, or takes otherwise, is passed on undrawn."""
    if arguments.get("scaler") is not None:
        raise PassOn("a scaler")
    names = ("X_s", "X_t", "a", "b", "projections")
    x, y, a, b, projections = found = _tensors(original, *(arguments[name] for name in names))
    if x.dim() != 2 or y.dim() != 2 or x.shape[1] != y.shape[1] or 0 in (x.numel(), y.numel()):
        raise PassOn("shape")
    if any(w is not None and w.dim() != 1 for w in (a, b)):
        raise PassOn("shape of the weights")
    if projections is None:
        count = arguments["n_projections"]
        if not isinstance(count, (int, np.integer)) or count < 1:
            raise PassOn("n_projections")
    elif projections.dim() != 2 or projections.shape[0] != x.shape[1] or projections.shape[1] == 0:
        raise PassOn("shape of the projections")
    return found


def _rows(u: Tensor, v: Tensor, a: Tensor | None, b: Tensor | None, p: float, mass: Any) -> Tensor:
    def value(u: Tensor, v: Tensor) -> Tensor:
        return op.wasserstein_1d(u, v, x_weights=a, y_weights=b, p=p)

    return _times(differentiable(value, u, v), mass)


def _mean(x: Tensor, y: Tensor, projections: Tensor, a: Tensor | None, b: Tensor | None, p: float, mass: Any) -> Tensor:
    def value(x: Tensor, y: Tensor) -> Tensor:
        return op.sliced_wasserstein_cost(x, y, projections=projections.detach(), p=p, x_weights=a, y_weights=b)

    return _times(differentiable(value, x, y), mass)


def _times(value: Tensor, mass: Any) -> Tensor:
    return value if mass is None else value * mass.to(value.dtype)


def _power(p: Any) -> float:
    if not isinstance(p, numbers.Real) or not 1.0 <= float(p) < math.inf:
        raise PassOn("p is not a number of at least 1")
    return float(p)


def _backend(original: Callable[..., Any], *arrays: Any) -> Any:
    """POT's backend of the arrays; it can be told to know nothing of torch."""
    try:
        return original.__globals__["get_backend"](*arrays)
    except Exception:
        raise PassOn("arrays that POT does not take") from None


def _tensors(original: Callable[..., Any], first: Any, *others: Any) -> list[Any]:
    """All arguments as tensors of one dtype."""
    found = tensors(first, *others)
    if any(t is not None and t.dtype is not found[0].dtype for t in found):
        raise PassOn("arrays of two dtypes")
    _backend(original, first)
    return found


def _ascending(points: Tensor) -> bool:
    return not capturing(points) and bool((points[1:] >= points[:-1]).all())


def _weights(a: Tensor | None, b: Tensor | None, x: Tensor, y: Tensor) -> tuple[Tensor | None, Tensor | None, Any]:
    """The weights as rows, None for equal ones, and the mass S that both clouds have; None for 1 by definition."""
    if a is None and b is None:
        return None, None, None
    if wants_gradient(a, b):
        raise PassOn("a gradient by the weights")
    x_rows, x_mass = _row_weights(a, x)
    y_rows, y_mass = _row_weights(b, y)
    tolerance = 1e-12 if x.dtype is torch.float64 else 1e-6
    if bool(((x_mass - y_mass).abs() > tolerance * x_mass).any()):
        raise PassOn("weights of unequal mass")
    return x_rows, y_rows, x_mass


def _row_weights(weights: Tensor | None, points: Tensor) -> tuple[Tensor | None, Tensor]:
    """Weights (n,) or (n, batch) of points along axis 0, as (n,) or (batch, n), and their float64 sums."""
    if weights is None:
        return None, torch.ones((), dtype=torch.float64, device=points.device)
    if weights.shape != points.shape and weights.shape != points.shape[:1]:
        raise PassOn("shape of the weights")
    if capturing(points):
        raise PassOn("weights in a CUDA graph")
    rows = weights.detach().t() if weights.dim() == 2 else weights.detach()
    low, high = rows.aminmax(dim=-1)
    mass = rows.sum(-1, dtype=torch.float64)
    if not bool(((low >= 0) & (mass > 0) & mass.isfinite()).all()):
        raise PassOn("weights negative, all zero or not finite")
    return (None if bool((low == high).all()) else rows), mass


def _balanced(x: Tensor, a: Tensor | None, y: Tensor, b: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """emd2_1d's weights and mass: it takes empty weights for equal ones, and rescales b to the mass of a."""
    a, b = (None if w is not None and (w.dim() == 0 or len(w) == 0) else w for w in (a, b))
    x_rows, x_mass = _row_weights(a, x[:, 0] if x.dim() == 2 else x)
    y_rows, y_mass = _row_weights(b, y[:, 0] if y.dim() == 2 else y)
    if bool((x_mass - y_mass).abs() > 1e-7):  # POT refuses 1.5e-6, summed in the weights' own precision
        raise PassOn("weights of unequal mass")
    if a is None:  # POT's ones(n) / n, in the precision of the points
        x_mass = torch.ones_like(x).div(x.shape[0]).sum(dtype=torch.float64)
    return x_rows, y_rows, x_mass


def _finite(value: Tensor, **changed: Any) -> Tensor:
    if not capturing(value) and not bool(value.isfinite().all()):
        raise PassOn("a result that is not finite", **changed)
    return value


def _like(given: Any, value: Tensor) -> Any:
    """``value`` as POT returns it beside arrays such as ``given``: a tensor, a NumPy array, or a NumPy scalar."""
    return value if isinstance(given, Tensor) else value.numpy()[()]


_PARAMETERS = {
    "wasserstein_1d": ("u_values", "v_values", "u_weights", "v_weights", "p", "require_sort", "return_plans"),
    "emd2_1d": ("x_a", "x_b", "a", "b", "metric", "p", "dense", "log"),
}
_PARAMETERS["sliced_wasserstein_distance"] = _PARAMETERS["max_sliced_wasserstein_distance"] = (
    *("X_s", "X_t", "a", "b", "n_projections", "p", "projections", "seed", "log", "scaler"),
)


def _check(package: ModuleType) -> None:
    version = str(getattr(package, "__version__", "unknown"))
    numbers_ = tuple(int(n) for n in re.findall(r"\d+", version)[:3])
    if not _OLDEST <= numbers_ < _BEYOND:
        raise RuntimeError(f"the patch of POT is known to keep its behaviour for 0.9.4 to 0.9.7: found {version}")
    for name, known in _PARAMETERS.items():
        unknown = set(inspect.signature(getattr(package, name)).parameters) - set(known)
        if unknown:
            raise RuntimeError(f"ot.{name} has arguments that the patch does not know: {', '.join(sorted(unknown))}")


LIBRARY = Library(
    name="pot",
    package="ot",
    routes={
        "ot.sliced_wasserstein_distance": _sliced,
        "ot.max_sliced_wasserstein_distance": _max_sliced,
        "ot.wasserstein_1d": _wasserstein_1d,
        "ot.emd2_1d": _emd2_1d,
    },
    check=_check,
)
