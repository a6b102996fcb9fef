"""What `make gpu-check` runs on: the machine, and whose sources they are."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MACHINE_FACTS = """
import json, platform, torch
gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
print(json.dumps({
    "gpu": gpu and gpu.name, "capability": gpu and f"{gpu.major}.{gpu.minor}",
    "memory_gb": gpu and round(gpu.total_memory / 1e9, 1), "torch": torch.__version__, "cuda": torch.version.cuda,
    "python": platform.python_version(),
}))
"""


def machine() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", MACHINE_FACTS], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise SystemExit(
            f"gpu-check: {sys.executable} cannot import torch; name the Python that has it: make PYTHON=... gpu-check"
        )
    facts = json.loads(done.stdout.splitlines()[-1])
    if facts["gpu"] is None:
        raise SystemExit(f"gpu-check: no GPU: torch {facts['torch']} sees no CUDA device, so nothing was checked")
    return facts


def slug(device: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def commit() -> str | None:
    """Whose sources are measured; None where git does not know, or they differ from the commit."""
    sys.path[:0] = [str(ROOT), str(ROOT / "python")]
    from benchmarks.machine import commit, names_sources

    found = commit()
    return found if names_sources(found) else None
