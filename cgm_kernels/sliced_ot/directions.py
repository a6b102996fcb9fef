"""Random directions on the unit sphere."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ..checks import FLOATS, count, flag


def random_projections(
    dim: int,
    n_projections: int,
    *,
    orthogonal: bool = False,
    generator: Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Directions uniform on the unit sphere of R^dim, as columns.

    Args:
        orthogonal: columns in blocks of ``dim`` that are orthonormal inside a block (Haar-distributed), each still
            uniform on the sphere: a lower variance for the same count (Rowland et al. 2019, "Orthogonal estimation of
            Wasserstein distances").
        generator: a CPU generator, default torch's own; the same one gives the same directions on every device and,
            up to rounding, in every dtype.

    Returns:
        (dim, n_projections), unit columns, of ``dtype`` (default: torch's default) on ``device`` (default: the CPU).

    Raises:
        TypeError, ValueError: naming the argument.
    """
    dim, n_projections = count("dim", dim), count("n_projections", n_projections)
    if dtype is not None and dtype not in FLOATS:
        raise TypeError(f"dtype must be float32, float64, float16 or bfloat16: got {dtype}")
    if generator is not None and not isinstance(generator, Generator):
        raise TypeError(f"generator must be a torch.Generator: got {type(generator).__name__}")
    if generator is not None and generator.device.type != "cpu":
        raise ValueError(f"generator must be a CPU generator: got one on {generator.device}")
    if generator is not None and torch.compiler.is_compiling():
        raise ValueError("generator must be None in a compiled function: give it projections that were drawn outside")
    orthogonal = flag("orthogonal", orthogonal)
    blocks = -(-n_projections // dim) if orthogonal else 1
    shape = (blocks, dim, dim) if orthogonal else (1, dim, n_projections)
    gaussian = torch.randn(shape, generator=generator, dtype=torch.float64)
    if orthogonal:
        basis, triangle = torch.linalg.qr(gaussian)
        signs = torch.where(triangle.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)  # makes the basis Haar-distributed
        gaussian = basis * signs.unsqueeze(-2)
    columns = gaussian.transpose(0, 1).reshape(dim, -1)[:, :n_projections]
    columns = columns / torch.linalg.vector_norm(columns, dim=0, keepdim=True)
    return columns.to(dtype=dtype or torch.get_default_dtype()).contiguous().to(device=device)
