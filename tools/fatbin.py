"""Reads which GPU architectures an object file holds code for, without any CUDA tool.

nvcc embeds fat binaries: a 16-byte header (magic, version, header size, bytes that follow), then entries of which each
starts with its kind (1: PTX, 2: machine code), its header size, its size, at byte 28 its architecture, 90 for sm_90.
"""

from __future__ import annotations

import struct
from pathlib import Path

MAGIC = struct.pack("<I", 0xBA55ED50)
FILE_HEADER = struct.Struct("<IHHQ")
ENTRY_HEADER = struct.Struct("<HHIQIIHHI")
PTX, MACHINE_CODE = 1, 2


def architectures(path: Path) -> set[str]:
    """{"sm_80", ..., "compute_120"}: machine code, and PTX for later architectures."""
    data = path.read_bytes()
    found: set[str] = set()
    at = data.find(MAGIC)
    while at >= 0:
        found |= _one_fat_binary(data, at)
        at = data.find(MAGIC, at + len(MAGIC))
    return found


def _one_fat_binary(data: bytes, at: int) -> set[str]:
    if at + FILE_HEADER.size > len(data):
        return set()
    _, _, header_size, size = FILE_HEADER.unpack_from(data, at)
    entry, end = at + header_size, at + header_size + size
    found = set()
    while entry + ENTRY_HEADER.size <= min(end, len(data)):
        kind, _, entry_header, entry_size, *_, architecture = ENTRY_HEADER.unpack_from(data, entry)
        if kind not in (PTX, MACHINE_CODE) or entry_header < ENTRY_HEADER.size:
            break
        found.add(f"{'compute' if kind == PTX else 'sm'}_{architecture}")
        entry += entry_header + entry_size
    return found
