"""What setup.py decides before it compiles: with which compiler, for which GPUs, in how many jobs.

Standard library only, and no decision asks the GPU of this machine: a build for another machine is the same build.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MINIMUM_CUDA = (12, 8)
DEFAULT_CUDA_ARCHITECTURES = "8.0;9.0;10.0;12.0+PTX"
BYTES_PER_JOB = 2 << 30
WINDOWS = sys.platform == "win32"
MACOS = sys.platform == "darwin"


class BuildProblem(RuntimeError):
    """Something the build needs is missing; the message is one line that names the fix."""


def switched_on(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").strip().lower() not in ("", "0", "no", "off", "false")


# ---- how many compilers at once


def available_memory() -> int:
    """Bytes of memory that a build may use: what is free now, within the limit of the control group."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return BYTES_PER_JOB
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        match = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())
        memory = min(memory, int(match.group(1)) << 10) if match else memory
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        if limit.exists() and limit.read_text().strip().isdigit():
            memory = min(memory, int(limit.read_text()))
    return memory


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def max_jobs(environment: Mapping[str, str], cores: int, memory: int) -> int:
    """MAX_JOBS if it is set, else one job per core as far as memory reaches at 2 GiB a job."""
    wanted = environment.get("MAX_JOBS", "").strip()
    if wanted:
        if not wanted.isdigit() or int(wanted) < 1:
            raise BuildProblem(f"MAX_JOBS must be a positive whole number: got {wanted!r}")
        return int(wanted)
    return max(1, min(cores, memory // BYTES_PER_JOB))


# ---- CUDA


@dataclass(frozen=True)
class CudaToolkit:
    home: Path
    version: tuple[int, int]

    @property
    def version_string(self) -> str:
        return ".".join(map(str, self.version))


def find_cuda_toolkit(environment: Mapping[str, str]) -> CudaToolkit | None:
    """The toolkit in CUDA_HOME or CUDA_PATH, else that of the nvcc on PATH, else /usr/local/cuda."""
    named = environment.get("CUDA_HOME") or environment.get("CUDA_PATH")
    on_path = shutil.which("nvcc", path=environment.get("PATH"))
    candidates = [str(Path(named) / "bin" / "nvcc")] if named else [on_path, "/usr/local/cuda/bin/nvcc"]
    for nvcc in candidates:
        if nvcc and os.access(nvcc, os.X_OK):
            toolkit = _toolkit_of(nvcc)
            if toolkit:
                return toolkit
    return None


def _toolkit_of(nvcc: str) -> CudaToolkit | None:
    version = re.search(r"release (\d+)\.(\d+)", _output_of([nvcc, "--version"]))
    # nvcc may be a wrapper script far from its toolkit, so nvcc itself is asked where it lives.
    top = re.search(r"^#\$ TOP=(.+)$", _output_of([nvcc, "--dryrun", "-x", "cu", os.devnull]), re.MULTILINE)
    if version is None:
        return None
    home = Path(top.group(1).strip()) if top else Path(nvcc).resolve().parent.parent
    return CudaToolkit(home.resolve(), (int(version.group(1)), int(version.group(2))))


def _output_of(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def why_no_cuda(environment: Mapping[str, str], toolkit: CudaToolkit | None, torch_cuda: str | None) -> str | None:
    """None when the CUDA sources can be built, else one line that says why not and what would help."""
    if switched_on(environment, "CGM_FORCE_CPU"):
        return "CGM_FORCE_CPU is set"
    if toolkit is None:
        return "no nvcc found; for CUDA kernels install the CUDA toolkit (12.8 or newer) or set CUDA_HOME"
    if torch_cuda is None:
        return f"nvcc {toolkit.version_string} is here but this torch is a CPU build; install a CUDA build of torch"
    if toolkit.version < MINIMUM_CUDA:
        return f"nvcc {toolkit.version_string} is too old; install the CUDA toolkit 12.8 or newer or set CUDA_HOME"
    if int(torch_cuda.split(".")[0]) != toolkit.version[0]:
        return (
            f"torch was built for CUDA {torch_cuda} but nvcc is {toolkit.version_string}; "
            f"set CUDA_HOME to a CUDA {torch_cuda} toolkit or install a torch built for CUDA {toolkit.version[0]}"
        )
    if not (toolkit.home / "include" / "cuda_runtime.h").exists():
        return f"{toolkit.home}/include/cuda_runtime.h is missing; install the CUDA runtime headers"
    return None


def cuda_architectures(environment: Mapping[str, str]) -> str:
    """TORCH_CUDA_ARCH_LIST when it names architectures, else a fixed list with PTX for the GPUs to come."""
    wanted = environment.get("TORCH_CUDA_ARCH_LIST", "").strip()
    if wanted.lower() == "native":
        raise BuildProblem("TORCH_CUDA_ARCH_LIST=native asks this machine's GPU: name the architectures, as in 9.0")
    return wanted or DEFAULT_CUDA_ARCHITECTURES


# ---- the host compiler


@dataclass(frozen=True)
class HostCompiler:
    command: list[str]
    description: str
    openmp_compile: list[str] = field(default_factory=list)
    openmp_link: list[str] = field(default_factory=list)


def check_host_compiler(environment: Mapping[str, str], torch_root: Path) -> HostCompiler:
    """The C++ compiler and its OpenMP flags, or BuildProblem."""
    include = Path(sysconfig.get_path("include"))
    if not (include / "Python.h").exists():
        name = f"python{sys.version_info[0]}.{sys.version_info[1]}-dev"
        raise BuildProblem(f"Python.h is missing from {include}; install the Python headers (on Debian: {name})")
    command = shlex.split(environment.get("CXX", "")) or ["cl" if WINDOWS else "c++"]
    if shutil.which(command[0]) is None:
        raise BuildProblem(f"no C++ compiler {command[0]!r} found; install one (on Debian: g++) or set CXX")
    description = (_output_of([*command, "--version"]).splitlines() or [command[0]])[0].strip()
    if WINDOWS:
        return HostCompiler(command, description, ["/openmp"], [])
    problem = _compile_problem(command, "#include <cmath>\nint main() { return 0; }\n", [])
    if problem:
        raise BuildProblem(f"{command[0]} cannot build C++17 ({problem}); install g++ 11 or newer, or set CXX")
    flags = _openmp_flags(command, torch_root)
    if flags is None:
        raise BuildProblem(f"{command[0]} has no OpenMP; install it (on Debian: g++, or libomp-dev for clang)")
    return HostCompiler(command, description, *flags)


def _openmp_flags(command: list[str], torch_root: Path) -> tuple[list[str], list[str]] | None:
    """Compile and link flags that work here; on macOS none at all is an answer, there torch brings its own threads."""
    candidates: list[tuple[list[str], list[str]]] = [(["-fopenmp"], ["-fopenmp"])]
    if MACOS:
        libraries = [f"-L{torch_root / 'lib'}", "-lomp"]
        candidates = [(["-Xpreprocessor", "-fopenmp", f"-I{torch_root / 'include'}"], libraries)]
    program = "#include <omp.h>\nint main() { return omp_get_max_threads() > 0 ? 0 : 1; }\n"
    for compile_flags, link_flags in candidates:
        if _compile_problem(command, program, compile_flags + link_flags) is None:
            return compile_flags, link_flags
    return ([], []) if MACOS else None


def _compile_problem(command: list[str], program: str, flags: list[str]) -> str | None:
    """None when the program compiles and links, else the first error line."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text(program)
        try:
            done = subprocess.run(
                [*command, "-std=c++17", str(source), *flags, "-o", str(source.with_suffix(""))],
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
            )
        except OSError as error:
            return str(error)
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()
    return lines[0].strip() if lines else f"exit status {done.returncode}"


def host_flags(openmp: list[str]) -> list[str]:
    """Flags of every C++ file. Never -ffast-math: NaN and infinity must survive, and it changes the whole process."""
    if WINDOWS:
        return ["/O2", "/EHsc", *openmp]
    return [
        *("-O3", "-g0", "-fvisibility=hidden", "-fno-wrapv"),
        *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fopenmp-simd"),
        *openmp,
    ]


def cuda_flags(threads: int = 2) -> list[str]:
    """Flags of every .cu file; nvcc compiles for that many architectures at once."""
    # torch's build switches the half and bfloat16 operators off for every .cu file; the kernels here use them.
    operators = ("HALF_OPERATORS", "HALF_CONVERSIONS", "HALF2_OPERATORS", "BFLOAT16_CONVERSIONS")
    return [
        *("-O3", "--expt-relaxed-constexpr", f"--threads={threads}", "-Xcompiler=-fvisibility=hidden"),
        *(f"-U__CUDA_NO_{name}__" for name in operators),
    ]


def string_macro(value: str) -> str:
    """The value as a C string literal."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
