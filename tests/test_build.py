"""The build: what setup.py decides, and that a missing or mismatched extension never breaks the import."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import build_config
import cgm_kernels
from build_config import BuildProblem, CudaToolkit

ROOT = Path(__file__).resolve().parent.parent
CUDA_13 = CudaToolkit(Path("/nowhere"), (13, 0))
GIB = 1 << 30


# ---- decisions


@pytest.mark.parametrize(
    ("environment", "cores", "memory", "expected"),
    [
        ({}, 8, 64 * GIB, 8),
        ({}, 8, 5 * GIB, 2),
        ({}, 8, GIB // 2, 1),
        ({"MAX_JOBS": "3"}, 8, GIB, 3),
        ({"MAX_JOBS": " "}, 2, 64 * GIB, 2),
    ],
)
def test_max_jobs(environment, cores, memory, expected):
    assert build_config.max_jobs(environment, cores, memory) == expected


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_max_jobs_refuses(value):
    with pytest.raises(BuildProblem, match=r"MAX_JOBS must be a positive whole number: got"):
        build_config.max_jobs({"MAX_JOBS": value}, 4, GIB)


def test_machine_has_memory_and_cores():
    assert build_config.available_memory() > 1 << 20
    assert build_config.available_cores() >= 1


def test_cuda_architectures():
    assert build_config.cuda_architectures({}) == "8.0;9.0;10.0;12.0+PTX"
    assert build_config.cuda_architectures({"TORCH_CUDA_ARCH_LIST": "9.0a"}) == "9.0a"
    with pytest.raises(BuildProblem, match="native"):
        build_config.cuda_architectures({"TORCH_CUDA_ARCH_LIST": "native"})


@pytest.mark.parametrize(
    ("environment", "toolkit", "torch_cuda", "words"),
    [
        ({"CGM_FORCE_CPU": "1"}, CUDA_13, "13.0", "CGM_FORCE_CPU"),
        ({}, None, "13.0", "install the CUDA toolkit"),
        ({}, CUDA_13, None, "torch is a CPU build"),
        ({}, CudaToolkit(Path("/nowhere"), (12, 4)), "12.8", "12.4 is too old"),
        ({}, CUDA_13, "12.8", "torch was built for CUDA 12.8 but nvcc is 13.0"),
        ({}, CUDA_13, "13.0", "cuda_runtime.h is missing"),
    ],
)
def test_why_no_cuda_is_one_line_with_the_fix(environment, toolkit, torch_cuda, words):
    reason = build_config.why_no_cuda(environment, toolkit, torch_cuda)
    assert reason is not None
    assert words in reason
    assert "\n" not in reason


def test_cuda_of_another_minor_version_is_fine(tmp_path):
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "cuda_runtime.h").touch()
    assert build_config.why_no_cuda({"CGM_FORCE_CPU": "0"}, CudaToolkit(tmp_path, (13, 1)), "13.0") is None


def test_toolkit_behind_a_wrapper_script(tmp_path):
    """A wrapper on PATH says where its toolkit is only when asked."""
    nvcc = tmp_path / "wrapper" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    home = tmp_path / "cuda-13.1"
    nvcc.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --version ]; then echo "Cuda compilation tools, release 13.1, V13.1.80"; '
        f"else echo '#$ TOP={home}/bin/..' >&2; fi\n"
    )
    nvcc.chmod(0o755)
    assert build_config.find_cuda_toolkit({"PATH": str(nvcc.parent)}) == CudaToolkit(home, (13, 1))
    assert build_config.find_cuda_toolkit({"CUDA_HOME": str(nvcc.parent.parent)}) == CudaToolkit(home, (13, 1))
    assert build_config.find_cuda_toolkit({"CUDA_HOME": str(tmp_path), "PATH": str(nvcc.parent)}) is None


def fake_compiler(folder: Path, refuses: str) -> str:
    """A compiler that works unless its arguments hold `refuses`."""
    script = folder / "fake-c++"
    script.write_text(f'#!/bin/sh\ncase "$*" in *{refuses}*) echo "error: no {refuses}" >&2; exit 1;; esac\nexit 0\n')
    script.chmod(0o755)
    return str(script)


def test_host_compiler_problems_name_the_fix(tmp_path, monkeypatch):
    with pytest.raises(BuildProblem, match=r"no C\+\+ compiler '/no/such'.*g\+\+"):
        build_config.check_host_compiler({"CXX": "/no/such"}, tmp_path)
    with pytest.raises(BuildProblem, match=r"cannot build C\+\+17 \(error: no std.*install g\+\+"):
        build_config.check_host_compiler({"CXX": fake_compiler(tmp_path, "std=c++17")}, tmp_path)
    monkeypatch.setattr(build_config.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(BuildProblem, match=r"Python.h is missing from .*python3\.\d+-dev"):
        build_config.check_host_compiler({}, tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="macOS builds without OpenMP")
def test_missing_openmp_names_the_fix(tmp_path):
    with pytest.raises(BuildProblem, match=r"has no OpenMP; install it"):
        build_config.check_host_compiler({"CXX": fake_compiler(tmp_path, "fopenmp")}, tmp_path)


def test_flags_keep_nan_and_infinity():
    flags = build_config.host_flags(["-fopenmp"])
    assert not {"-ffast-math", "-Ofast", "-ffinite-math-only", "-funsafe-math-optimizations"} & set(flags)
    assert not {"--use_fast_math", "-use_fast_math"} & set(build_config.cuda_flags())


def test_string_macro():
    assert build_config.string_macro('a "b" \\c') == '"a \\"b\\" \\\\c"'


# ---- setup.py


def setup_py(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Builds a copy of the tree in place; no case here gets as far as compiling."""
    tree = folder / "tree"
    if not tree.exists():
        tree.mkdir()
        for name in ("csrc", "tools"):
            shutil.copytree(ROOT / name, tree / name)
        for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, tree)
        for package in ("cgm_kernels", "python/cgm_models"):
            (tree / package).mkdir(parents=True)
            (tree / package / "__init__.py").touch()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("CGM_", "CUDA_"))}
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=tree,
        env={**clean, **variables},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def test_failed_build_installs_the_reference(tmp_path):
    done = setup_py(tmp_path, CXX="/no/such/compiler")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "without the extension" in line]
    assert len(lines) == 1
    assert "no C++ compiler '/no/such/compiler'" in lines[0]
    note = tmp_path / "tree" / "cgm_kernels" / "_build_failure.txt"
    assert "/no/such/compiler" in note.read_text()


@pytest.mark.parametrize("force", ["CGM_FORCE_EXT", "CGM_FORCE_CUDA"])
def test_forced_build_fails(tmp_path, force):
    done = setup_py(tmp_path, CXX="/no/such/compiler", **{force: "1"})
    assert done.returncode != 0
    assert "the extension was not built: no C++ compiler" in done.stderr


def test_forced_cuda_without_cuda_fails(tmp_path):
    done = setup_py(tmp_path, CGM_FORCE_CPU="1", CGM_FORCE_CUDA="1")
    assert done.returncode != 0
    assert "CGM_FORCE_CUDA is set, but CGM_FORCE_CPU is set" in done.stderr


def test_missing_torch_prints_the_command(tmp_path):
    hidden = tmp_path / "hidden" / "torch"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\")\n")
    done = setup_py(tmp_path, PYTHONPATH=str(hidden.parent))
    assert done.returncode != 0
    assert "pip install --no-build-isolation ." in done.stderr
    skipped = setup_py(tmp_path, PYTHONPATH=str(hidden.parent), CGM_SKIP_EXT="1")
    assert skipped.returncode == 0, skipped.stderr


def test_no_two_sources_make_one_object():
    """A .cpp and a .cu of one name do: nothing but a build with CUDA would notice."""
    sources = [path.with_suffix("") for kind in ("*.cpp", "*.cu") for path in (ROOT / "csrc").rglob(kind)]
    assert len(sources) == len(set(sources))


def test_version_is_the_same_everywhere():
    assert f'version = "{cgm_kernels.__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
