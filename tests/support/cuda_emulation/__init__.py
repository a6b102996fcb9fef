"""Builds an operation's unchanged cuda.cu with the host's C++ compiler, on an emulated CUDA machine.

The README beside this file says what the machine checks and how to add an operation.
"""

import concurrent.futures
import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[2]
FLAGS = ("-std=c++17", "-O1", "-g1", "-fPIC", "-Wall", "-Wextra", "-Wno-unknown-pragmas")
# Instrumented code takes far longer to optimise than the cases take without.
SANITIZERS = ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer")


def compiler() -> list[str] | None:
    """The C++ compiler that $CXX names or the system offers; None when there is none."""
    command = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    return command.split() if command else None


def sources(folder: Path) -> list[Path]:
    """The C++ and CUDA files below a folder."""
    return sorted(path for path in folder.rglob("*") if path.suffix in {".h", ".cuh", ".cu", ".cpp"})


def device_sources(folder: Path) -> list[Path]:
    """Those of them that a CUDA file or its tensor side can include; the C++ of the CPU is none."""
    return [path for path in sources(folder) if path.suffix != ".cpp" or "cuda" in path.name]


def cache_folder() -> Path:
    """A folder of this user for built libraries, outside the repository."""
    folder = Path(tempfile.gettempdir()) / f"cgm_cuda_emulation_{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise RuntimeError(f"{folder} belongs to another user")
    return folder


def digest(values: object, paths: list[Path]) -> str:
    """A name for what `values` and the contents of `paths` produce."""
    state = hashlib.sha256(repr(values).encode())
    for path in paths:
        state.update(path.name.encode() + path.read_bytes())
    return state.hexdigest()[:24]


def compile_units(command: list[str], units: list[Path], output: Path) -> Path:
    """Runs the compiler unless the output is there; a failure is a RuntimeError with the compiler's words."""
    if not output.exists():
        unfinished = output.with_suffix(f".{os.getpid()}.{threading.get_ident()}{output.suffix}")
        command = [*command, *map(str, units), "-o", str(unfinished)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"does not compile on the emulated machine:\n{result.stderr}")
        unfinished.replace(output)
    return output


def machine_sources() -> list[Path]:
    return [path for path in sources(FOLDER) if path.suffix in (".h", ".cuh") or path.parent == FOLDER]


def machine_objects(command: list[str]) -> list[Path]:
    """The emulated machine, compiled once for all operations."""
    command = [*command, "-I", str(FOLDER / "include"), "-c"]
    name = digest(command, [path for path in machine_sources() if not path.name.endswith(("_capi.cpp", "_torch.cpp"))])
    units = [FOLDER / f"{unit}.cpp" for unit in ("machine", "fibers")]
    return [compile_units(command, [unit], cache_folder() / f"{unit.stem}_{name}.o") for unit in units]


def build(op: str, *, part: str = "", sanitize: bool = False, csrc: Path = ROOT / "csrc") -> Path:
    """The shared library of csrc/<op>/cuda.cu and <op>_capi.cpp, built once for each state of the sources.

    With a ``part``, of csrc/<op>/<part>_cuda.cu and <op>_<part>_capi.cpp.
    """
    command = compiler()
    if command is None:
        raise RuntimeError("no C++ compiler: neither $CXX nor c++ is there")
    command = [*command, *FLAGS, *(SANITIZERS if sanitize else ())]
    objects = machine_objects(command)
    folders = [csrc / op, csrc / "common", ROOT / "csrc" / "common"]
    relevant = [path for folder in folders for path in device_sources(folder)] + machine_sources()
    command += [option for folder in (FOLDER / "include", csrc, ROOT / "csrc") for option in ("-I", str(folder))]
    name, unit = (f"{op}_{part}", f"{part}_cuda.cu") if part else (op, "cuda.cu")
    units = [csrc / op / unit, FOLDER / f"{name}_capi.cpp"]
    library = cache_folder() / f"{name}_{digest((command, name), relevant)}.so"
    return compile_units([*command, "-shared", *map(str, objects), "-x", "c++"], units, library)


def build_with_torch(op: str, parts: tuple[str, ...] = ("",)) -> Path:
    """The library of <op>_torch.cpp, which registers the CUDA operators of csrc/<op> for CPU tensors.

    The tensor side, which composes the kernels of the parts with torch's products, so runs without a GPU too.
    """
    import torch
    from torch.utils import cpp_extension

    compile_ = compiler()
    if compile_ is None:
        raise RuntimeError("no C++ compiler: neither $CXX nor c++ is there")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        kernels = pool.map(lambda part: build(op, part=part), parts)
        headers = [option for folder in cpp_extension.include_paths() for option in ("-isystem", folder)]
        abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
        command = [*compile_, "-std=c++20", "-O0", "-fPIC", "-Wall", "-Wextra", "-Wno-unused-parameter", abi]
        command += ["-I", str(ROOT / "csrc"), *headers, "-c"]
        unit = FOLDER / f"{op}_torch.cpp"
        relevant = [path for folder in (op, "common") for path in device_sources(ROOT / "csrc" / folder)]
        name = f"{op}_torch_{digest((command, torch.__version__), [*relevant, unit])}"
        tensors = compile_units(command, [unit], cache_folder() / f"{name}.o")
        libraries = list(kernels)
    folder = Path(torch.__file__).parent / "lib"
    linked = [*compile_, "-shared", str(tensors), *map(str, libraries)]
    linked += [f"-L{folder}", f"-Wl,-rpath,{folder}", "-ltorch_cpu", "-lc10"]
    return compile_units(linked, [], cache_folder() / f"{name}_{digest(linked, [])}.so")


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
