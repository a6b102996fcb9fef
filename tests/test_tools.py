"""The helpers behind the Makefile: environments, and the reading of fat binaries."""

import os
import struct
import subprocess
from pathlib import Path

import pytest

import build_config
import environment
import fatbin
import setup_env
from environment import SetupProblem

ROOT = Path(__file__).resolve().parent.parent
TOOLKIT = build_config.find_cuda_toolkit(os.environ)
CONSTRAINTS = "# tested\ntorch==2.13.0\ntriton==3.7.1\nnumpy==2.4.6\n"


# ---- environments


@pytest.mark.parametrize(
    ("version", "supported"),
    [("2.10.1", False), ("2.11.0+cu130", True), ("2.14.1", True), ("2.15.0a0", False), ("3.0", False)],
)
def test_supported_torch(version, supported):
    assert environment.supported_torch(version) is supported


@pytest.mark.parametrize("version", [(3, 9), (3, 14)])
def test_unsupported_python_names_the_fix(version):
    with pytest.raises(SetupProblem, match=r"3\.10 to 3\.13.*make PYTHON="):
        environment.check_python(version)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (
            {"version": "2.13.0+cpu", "distribution": "2.13.0+cpu", "brings_triton": False},
            ["numpy==2.4.6", "torch==2.13.0+cpu", "triton==3.7.1"],
        ),
        (
            {"version": "2.13.0+cu130", "distribution": "2.13.0", "brings_triton": True},
            ["numpy==2.4.6", "torch==2.13.0"],
        ),
        (
            {"version": "2.11.0+cu130", "distribution": "2.11.0", "brings_triton": False},
            ["numpy==2.4.6", "torch==2.11.0"],
        ),
    ],
)
def test_constraints_follow_the_torch_that_is_there(facts, expected):
    lines = environment.constraints_for(CONSTRAINTS, facts).splitlines()
    assert sorted(line for line in lines if not line.startswith("#")) == expected


def test_wanted_torch_is_supported():
    wanted = environment.wanted_torch((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    assert environment.supported_torch(wanted.removeprefix("torch=="))
    with pytest.raises(SetupProblem, match=r"constraints\.txt names no torch"):
        environment.wanted_torch("numpy==2.4.6\n")


def test_download_sizes(tmp_path):
    wheel = tmp_path / "torch 2+cpu.whl"
    wheel.write_bytes(b"x" * 1234)
    packages = [("torch", "2+cpu", wheel.as_uri()), ("other", "1", (tmp_path / "gone.whl").as_uri())]
    report = {"install": [{"metadata": {"name": n, "version": v}, "download_info": {"url": u}} for n, v, u in packages]}
    assert environment.download_sizes(report) == [("torch 2+cpu", 1234), ("other 1", None)]


def test_torch_facts_of_a_python_without_torch(tmp_path):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    assert environment.torch_facts(script) is None


def test_stamp_notices_every_change(tmp_path):
    for name in ("csrc", "tools", "cgm_kernels", ".venv"):
        (tmp_path / name).mkdir()
    for name in ("setup.py", "pyproject.toml", "constraints.txt", "tools/build_config.py", "csrc/a.cpp"):
        (tmp_path / name).write_text(CONSTRAINTS)
    setup = setup_env.Setup(tmp_path, tmp_path / ".venv", "dev", None)
    seen = {setup.extension_digest("2.13.0"), setup.extension_digest("2.14.0")}
    for name in ("csrc/a.cpp", "csrc/b.h", "setup.py", "cgm_kernels/_C.so", "tools/build_config.py"):
        (tmp_path / name).write_text(f"changed {name}")
        seen.add(setup.extension_digest("2.13.0"))
    (tmp_path / "cgm_kernels" / "_C.cpython.so").write_text("built")
    seen.add(setup.extension_digest("2.13.0"))
    assert len(seen) == 7  # _C.so is no extension of any Python and changes nothing
    assert not setup.dependencies_ready()


# ---- fat binaries


def fat_binary(*entries: tuple[int, int]) -> bytes:
    body = b""
    for kind, architecture in entries:
        content = b"\x7fELF" + bytes(20)
        body += fatbin.ENTRY_HEADER.pack(kind, 0, 64, len(content), 0, 0, 0, 0, architecture).ljust(64, b"\0") + content
    return fatbin.MAGIC + struct.pack("<HHQ", 1, 16, len(body)) + body


def test_fat_binary_architectures(tmp_path):
    path = tmp_path / "kernel.o"
    path.write_bytes(b"elf" + fat_binary((2, 80), (2, 90)) + bytes(7) + fat_binary((1, 120)) + fatbin.MAGIC)
    assert fatbin.architectures(path) == {"sm_80", "sm_90", "compute_120"}


@pytest.mark.skipif(TOOLKIT is None, reason="no nvcc here")
def test_fat_binary_of_nvcc(tmp_path):
    source = tmp_path / "kernel.cu"
    source.write_text("__global__ void kernel(float* x) { x[threadIdx.x] *= 2.f; }\n")
    nvcc = TOOLKIT.home / "bin" / "nvcc"
    flags = ["-gencode=arch=compute_90,code=sm_90", "-gencode=arch=compute_120,code=[sm_120,compute_120]"]
    subprocess.run([str(nvcc), *flags, "-c", str(source), "-o", str(tmp_path / "kernel.o")], check=True)
    assert fatbin.architectures(tmp_path / "kernel.o") == {"sm_90", "sm_120", "compute_120"}
