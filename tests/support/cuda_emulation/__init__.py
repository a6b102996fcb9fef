"""Builds an operation's unchanged cuda.cu with the host's C++ compiler, on an emulated CUDA machine.

The README beside this file says what the machine checks and how to add an operation.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[2]
FLAGS = ("-std=c++17", "-O1", "-g1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Wno-unknown-pragmas")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer")


def compiler() -> list[str] | None:
    """The C++ compiler that $CXX names or the system offers; None when there is none."""
    command = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    return command.split() if command else None


def sources(csrc: Path) -> list[Path]:
    """Everything that a build depends on."""
    suffixes = {".h", ".cuh", ".cu", ".cpp"}
    files = [*csrc.rglob("*"), *FOLDER.rglob("*")]
    return sorted(path for path in files if path.suffix in suffixes)


def cache_folder() -> Path:
    """A folder of this user for built libraries, outside the repository."""
    folder = Path(tempfile.gettempdir()) / f"cgm_cuda_emulation_{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise RuntimeError(f"{folder} belongs to another user")
    return folder


def build(op: str, *, sanitize: bool = False, csrc: Path = ROOT / "csrc") -> Path:
    """The shared library of csrc/<op>/cuda.cu and <op>_capi.cpp, built once for each state of the sources."""
    command = compiler()
    if command is None:
        raise RuntimeError("no C++ compiler: neither $CXX nor c++ is there")
    flags = [*FLAGS, *(SANITIZERS if sanitize else ())]
    digest = hashlib.sha256(repr((command, flags, op)).encode())
    relevant = [csrc / op, csrc / "common", FOLDER]
    for path in sources(csrc):
        if any(folder in path.parents for folder in relevant):
            digest.update(path.read_bytes())
    library = cache_folder() / f"{op}_{digest.hexdigest()[:24]}.so"
    if not library.exists():
        include = ["-I", str(FOLDER / "include"), "-I", str(csrc)]
        units = ["-x", "c++", str(csrc / op / "cuda.cu"), str(FOLDER / "machine.cpp"), str(FOLDER / f"{op}_capi.cpp")]
        unfinished = library.with_suffix(f".{os.getpid()}.tmp")
        result = subprocess.run(
            [*command, *flags, *include, *units, "-o", str(unfinished)], capture_output=True, text=True
        )
        if result.returncode:
            raise RuntimeError(f"{op}/cuda.cu does not compile on the emulated machine:\n{result.stderr}")
        unfinished.replace(library)
    return library


def sanitizer_environment() -> dict[str, str] | None:
    """The environment in which Python can load a sanitized library; None where the compiler has no such runtime."""
    command = compiler()
    if command is None:
        return None
    runtime = subprocess.run([*command, "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not Path(runtime).is_absolute() or not Path(runtime).exists():
        return None
    options = "detect_leaks=0:detect_stack_use_after_return=0:abort_on_error=0"
    return {**os.environ, "LD_PRELOAD": str(Path(runtime).resolve()), "ASAN_OPTIONS": options}


class Machine:
    """A built library: the settings of the emulated machine beside the operation's functions."""

    def __init__(self, library: Path):
        self.library = ctypes.CDLL(str(library))
        for name, argument in (("emulation_seed", ctypes.c_uint64), ("emulation_shared_memory_limit", ctypes.c_int64)):
            getattr(self.library, name).argtypes = [argument]
        self.library.emulation_launches.restype = ctypes.c_int64

    def call(self, name: str, *arguments) -> None:
        """Calls a function that returns null or a message."""
        function = getattr(self.library, name)
        function.restype = ctypes.c_char_p
        message = function(*arguments)
        if message is not None:
            raise RuntimeError(message.decode())

    def seed(self, seed: int) -> None:
        """The seed of the schedules to come."""
        self.library.emulation_seed(seed)

    def shared_memory_limit(self, bytes_: int) -> None:
        """The shared memory that a block of the emulated device may opt in to."""
        self.library.emulation_shared_memory_limit(bytes_)

    def launches(self) -> int:
        """The number of kernels launched since the last call."""
        return self.library.emulation_launches()
