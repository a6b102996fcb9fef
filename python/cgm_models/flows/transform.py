"""What a transform is: an invertible map that tells its log-determinant in both directions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from cgm_kernels import CouplingLayer, affine_coupling_stack

MOST_HELD = 1 << 20
"""Numbers that a context adds to the conditioners of couplings, made before they run: past these they run at once."""


class Transform(nn.Module):
    """An invertible map of points ``(batch, *event)``, from the latent side to the data side.

    A subclass implements ``forward(z, context)`` and ``inverse(x, context)``; both return the point and log|det J| of
    the map that was called, of shape (batch,). ``context`` is None or ``(batch, context_dim)``.
    """

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(x, log|det ∂x/∂z|)``."""
        raise NotImplementedError

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(z, log|det ∂z/∂x|)``."""
        raise NotImplementedError

    def accumulate(
        self, x: Tensor, context: Tensor | None, log_det: Tensor | None, *, inverse: bool
    ) -> tuple[Tensor, Tensor]:
        """One direction of the map, its log-determinant added to the running ``log_det`` (None: the map is the first).

        Transforms that can add inside their kernel override this.
        """
        y, change = self.inverse(x, context) if inverse else self.forward(x, context)
        return y, change if log_det is None else log_det + change

    def coupling_layer(self, x: Tensor, context: Tensor | None, *, inverse: bool) -> CouplingLayer | None:
        """The map of points like x as a layer of ``cgm_kernels.affine_coupling_stack``, where it is one."""
        return None


class Composition(Transform):
    """``transforms`` applied first to last from the latent to the data."""

    def __init__(self, transforms: Iterable[Transform]) -> None:
        super().__init__()
        self.layers: Sequence[Transform]
        self.layers = nn.ModuleList(transforms)  # type: ignore[assignment]

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.accumulate(z, context, None, inverse=False)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.accumulate(x, context, None, inverse=True)

    def accumulate(
        self, x: Tensor, context: Tensor | None, log_det: Tensor | None, *, inverse: bool
    ) -> tuple[Tensor, Tensor]:
        together: list[CouplingLayer] = []
        for layer in reversed(self.layers) if inverse else self.layers:
            coupling = layer.coupling_layer(x, context, inverse=inverse)
            if together and (coupling is None or _held(together) > MOST_HELD):
                x, log_det = affine_coupling_stack(x, together, log_det)
                together = []
            if coupling is None:
                x, log_det = layer.accumulate(x, context, log_det, inverse=inverse)
            else:
                together.append(coupling)
        if together:
            x, log_det = affine_coupling_stack(x, together, log_det)
        return x, x.new_zeros(len(x)) if log_det is None else log_det


def _held(layers: Sequence[CouplingLayer]) -> int:
    return sum(layer.conditioning.numel() for layer in layers if layer.conditioning is not None)


class Inverse(Transform):
    """``transform`` the other way round; its parameters are shared, not copied."""

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.transform.inverse(z, context)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.transform(x, context)

    def accumulate(
        self, x: Tensor, context: Tensor | None, log_det: Tensor | None, *, inverse: bool
    ) -> tuple[Tensor, Tensor]:
        return self.transform.accumulate(x, context, log_det, inverse=not inverse)


class Reshape(Transform):
    """``(batch, *latent_shape)`` to ``(batch, *data_shape)``, the same numbers in row-major order."""

    def __init__(self, latent_shape: Sequence[int], data_shape: Sequence[int]) -> None:
        super().__init__()
        self.latent_shape, self.data_shape = tuple(latent_shape), tuple(data_shape)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.accumulate(z, context, None, inverse=False)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.accumulate(x, context, None, inverse=True)

    def accumulate(
        self, x: Tensor, context: Tensor | None, log_det: Tensor | None, *, inverse: bool
    ) -> tuple[Tensor, Tensor]:
        shape = self.latent_shape if inverse else self.data_shape
        return x.reshape(len(x), *shape), x.new_zeros(len(x)) if log_det is None else log_det


def on_vectors(layers: list[Transform], shape: Sequence[int]) -> list[Transform]:
    """``layers`` of vectors, for points of ``shape``: between reshapes where these are not vectors."""
    if len(shape) <= 1:
        return layers
    size = (math.prod(shape),)
    return [Reshape(shape, size), *layers, Reshape(size, shape)]


class Reverse(Transform):
    """The order of dimension 1 reversed; its own inverse, and it keeps volumes."""

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z.flip(1), z.new_zeros(len(z))

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.forward(x, context)
