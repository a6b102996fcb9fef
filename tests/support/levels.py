"""The CPU kernels at a chosen SIMD level."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

LEVELS = ("baseline", "avx2", "avx512")


@contextmanager
def simd_level(level: str) -> Iterator[None]:
    """Within, the native kernels run at this level; skips the test where this CPU has not got it."""
    from cgm_kernels._extension import _C

    info = _C.build_info()
    if LEVELS.index(level) > LEVELS.index(info["simd_supported"]):
        pytest.skip(f"this CPU does not support {level}")
    try:
        _C.set_cpu_level(LEVELS.index(level))
        yield
    finally:
        _C.set_cpu_level(LEVELS.index(info["simd"]))
