"""Seeds for every purpose, derived from the one that the user gives."""

from __future__ import annotations

import hashlib


def derived_seed(seed: int, *purpose: int | str) -> int:
    """A seed that differs between purposes and between seeds, so that neighbouring seeds share no stream."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")
