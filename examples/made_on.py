"""What a page of results says of the machine that made it."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from pathlib import Path

import torch


def made_on() -> str:
    """The processor, the threads, torch's version and the date."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.machine()
    date = datetime.now(timezone.utc).date().isoformat()
    return f"{cpu}, {torch.get_num_threads()} of {os.cpu_count()} threads, torch {torch.__version__}, {date}"
