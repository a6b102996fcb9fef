"""How close is right: an error of at most twice that of PyTorch eager in the same dtype, plus a few roundings."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_as_accurate(actual: Tensor, exact: Tensor, eager: Tensor, roundings: float = 64) -> None:
    """``actual`` against the float64 ``exact``, allowed twice the error of ``eager``, PyTorch's result in its dtype.

    The floor is ``roundings`` units of the dtype at the scale of the exact result. NaN must stand where NaN stands.
    """
    assert actual.shape == exact.shape
    assert actual.dtype == eager.dtype
    precision = torch.finfo(actual.dtype).eps
    actual, eager, exact = (t.detach().cpu().double() for t in (actual, eager, exact))
    torch.testing.assert_close(actual.isnan(), exact.isnan(), rtol=0, atol=0)
    assert (actual[exact.isinf()] == exact[exact.isinf()]).all()
    assert eager[exact.isfinite()].isfinite().all(), "PyTorch itself overflows here: the bound would say nothing"
    if not (keep := exact.isfinite()).any():
        return
    scale = exact[keep].abs().max().item()
    bound = 2 * (eager - exact)[keep].abs().max().item() + roundings * precision * scale
    error = (actual - exact)[keep].abs().max().item()
    assert error <= bound, f"error {error:.3e} > {bound:.3e} at scale {scale:.3e}"
