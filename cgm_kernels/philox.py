"""Philox4x32-10, the noise of every kernel, in PyTorch integer arithmetic: the reference of ``csrc/common/philox.h``.

Word j of element 4i + j at a step is word j of ``philox4x32(key, (i low, i high, step low, step high))``; the 64-bit
key names the stream. Then u = (word + ½)·2⁻³², and the words (u, v) in the places (0, 1) and (2, 3) of a counter become
the two standard normals √(−2 ln u)·(cos 2πv, sin 2πv) (Box and Muller). Elements are counted in row-major order.

The generator is that of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def philox4x32(key: int | Tensor, counter: Tensor) -> Tensor:
    """The four words (..., 4) of each counter (..., 4); words are int64 values in [0, 2³²).

    ``key`` is the 64-bit key, signed or unsigned, or an int64 tensor () of it on the device of ``counter``; its low
    half is the first key word.
    """
    if counter.dtype is not torch.int64:
        raise TypeError(f"counter must be int64: got {counter.dtype}")
    if counter.dim() == 0 or counter.shape[-1] != 4:
        raise ValueError(f"counter must be (..., 4): got {tuple(counter.shape)}")
    low, high = key & _WORD, (key >> 32) & _WORD
    a, b, c, d = (counter & _WORD).unbind(-1)
    for _ in range(10):
        # The product of two words overflows int64, but its 64 bits are right, which is all that is taken from it.
        first, second = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b = ((second >> 32) & _WORD) ^ b ^ low, second & _WORD
        c, d = ((first >> 32) & _WORD) ^ d ^ high, first & _WORD
        low, high = (low + _KEY_STEPS[0]) & _WORD, (high + _KEY_STEPS[1]) & _WORD
    return torch.stack((a, b, c, d), dim=-1)


def noise_words(
    n_elements: int,
    key: int | Tensor,
    step: int | Tensor = 0,
    *,
    first_element: int = 0,
    device: torch.device | str | None = None,
) -> Tensor:
    """The words (n_elements,) of the elements from ``first_element`` on; key and step may be int64 tensors ()."""
    if n_elements < 0 or first_element < 0:
        raise ValueError(f"n_elements and first_element must be at least 0: got {n_elements} and {first_element}")
    first_group, last_group = first_element // 4, (first_element + n_elements + 3) // 4
    group = torch.arange(first_group, last_group, dtype=torch.int64, device=device)
    zero = torch.zeros_like(group)
    steps = zero + (step & _WORD), zero + ((step >> 32) & _WORD)
    words = philox4x32(key, torch.stack((group & _WORD, group >> 32, *steps), dim=-1)).flatten()
    start = first_element - 4 * first_group
    return words[start : start + n_elements]


def draw_key(generator: torch.Generator | None = None) -> int:
    """A fresh key in [−2⁶³, 2⁶³) from ``generator`` (default: torch's own), a CPU one whatever the data's device."""
    return int(draw_key_tensor(generator))


def draw_key_tensor(generator: torch.Generator | None = None) -> Tensor:
    """The key of :func:`draw_key` as an int64 tensor () on the CPU, which a traced graph draws at every run."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None: got {type(generator).__name__}")
    if generator is not None and generator.device.type != "cpu":
        raise ValueError(
            "generator must be a CPU generator, which gives the same noise on every device: "
            f"got one on {generator.device}"
        )
    key = torch.empty((), dtype=torch.int64)
    if torch.compiler.is_compiling():
        if generator is not None:
            raise ValueError("generator must be None in a compiled function: give it a state that was made outside")
        torch.ops.cgm_kernels.fill_key(key)
        return key
    return key.random_(-(2**63), None, generator=generator)


# What a traced graph calls: random_ over the whole range of int64 can be neither traced nor written as code.
torch.library.define("cgm_kernels::fill_key", "(Tensor(a!) key) -> ()", tags=(torch.Tag.nondeterministic_seeded,))
torch.library.register_fake("cgm_kernels::fill_key", lambda key: None)


@torch.library.impl("cgm_kernels::fill_key", "CPU")
def _fill_key(key: Tensor) -> None:
    key.random_(-(2**63), None)


def uniform(
    shape: Sequence[int],
    key: int | Tensor,
    step: int | Tensor = 0,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Tensor:
    """u = (word + ½)·2⁻³² per element: exact in float64, where it lies in (0, 1), and rounded in other dtypes."""
    words = noise_words(math.prod(shape), key, step, device=device)
    return ((words.double() + 0.5) * 2.0**-32).to(dtype).reshape(tuple(shape))


def normal_reference(
    shape: Sequence[int],
    key: int | Tensor,
    step: int | Tensor = 0,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Tensor:
    """Standard normals, computed in float64 and rounded once to ``dtype``; an odd last element uses half a pair."""
    n_elements = math.prod(shape)
    words = noise_words(n_elements + n_elements % 2, key, step, device=device).reshape(-1, 2)
    radius = torch.sqrt(-2.0 * torch.log((words[:, 0].double() + 0.5) * 2.0**-32))
    # The quadrant is taken off in integers, so that the angle keeps its relative accuracy at the zeros of sin and cos.
    shifted = words[:, 1] + 2**29
    quadrant = (shifted >> 30) & 3
    angle = (((shifted & (2**30 - 1)) - 2**29).double() + 0.5) * (math.pi * 2.0**-31)
    sine, cosine = torch.sin(angle), torch.cos(angle)
    odd = quadrant % 2 == 1
    turned_cosine = torch.where(odd, sine, cosine) * torch.where((quadrant == 1) | (quadrant == 2), -1.0, 1.0)
    turned_sine = torch.where(odd, cosine, sine) * torch.where(quadrant >= 2, -1.0, 1.0)
    normals = torch.stack((radius * turned_cosine, radius * turned_sine), dim=-1)
    return normals.flatten()[:n_elements].to(dtype).reshape(tuple(shape))
