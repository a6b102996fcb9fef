"""Loading the extension: absent, broken, of another torch or another checkout, and at every SIMD level."""

import os
import re
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
import torch

from cgm_kernels import _extension, build_info

ROOT = Path(__file__).resolve().parent.parent
LEVELS = ("baseline", "avx2", "avx512")
needs_extension = pytest.mark.skipif(_extension._C is None, reason="the extension is not built")
DISTANCE = """
import torch, cgm_kernels
x, y = (torch.randn(n, 3, generator=torch.Generator().manual_seed(n)) for n in (200, 170))
theta = torch.nn.functional.normalize(torch.arange(-30.0, 30.0).reshape(3, 20), dim=0)
print("distance", cgm_kernels.sliced_wasserstein_distance(x, y, projections=theta).item())
info = cgm_kernels.build_info()
print("simd", info["extension"]["simd"] if cgm_kernels._extension._C else None)
print("native", info["backends"]["native on cpu"])
"""


# An editable install would find the compiled module of this checkout for a copy that has none.
WITHOUT_EDITABLE_INSTALL = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(getattr(finder, "__module__", ""))]
"""


def distance() -> float:
    """The distance of the script, by sorting on a grid of quantiles that both sizes divide."""
    x, y = (torch.randn(n, 3, generator=torch.Generator().manual_seed(n)).double() for n in (200, 170))
    theta = torch.nn.functional.normalize(torch.arange(-30.0, 30.0).reshape(3, 20), dim=0).double()
    u, v = ((cloud @ theta).sort(dim=0).values.repeat_interleave(3400 // len(cloud), 0) for cloud in (x, y))
    return (u - v).square().mean().sqrt().item()


def run(script: str, *paths: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CGM_")}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, paths))
    return subprocess.run(
        [sys.executable, "-W", "always::RuntimeWarning", "-c", WITHOUT_EDITABLE_INSTALL + script],
        cwd=paths[0],
        env={**environment, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A source tree whose package has no extension."""
    ignore = shutil.ignore_patterns("_C.*", "__pycache__", "_build_failure.txt")
    shutil.copytree(ROOT / "cgm_kernels", tmp_path / "cgm_kernels", ignore=ignore)
    (tmp_path / "csrc").mkdir()
    return tmp_path


def fake_extension(torch_version: str, source: Path) -> str:
    info = {"torch": torch_version, "cuda": "", "source": str(source), "simd": "fake"}
    return f"def build_info():\n    return {info!r}\n"


def check_reference_with_one_warning(package: Path, *words: str) -> None:
    done = run(DISTANCE, package)
    assert done.returncode == 0, done.stderr
    assert "simd None" in done.stdout
    warnings = [line for line in done.stderr.splitlines() if "RuntimeWarning" in line]
    assert len(warnings) == 1, done.stderr
    info = re.search(r"^native (.*)$", done.stdout, re.MULTILINE).group(1)
    for word in words:
        assert word in warnings[0]
        assert word in info


def test_absent_extension(package):
    check_reference_with_one_warning(package, "the extension was not built", "pip install --no-build-isolation")


def test_absent_extension_tells_why_the_build_failed(package):
    (package / "cgm_kernels" / "_build_failure.txt").write_text("no C++ compiler 'c++' found\n")
    check_reference_with_one_warning(package, "no C++ compiler 'c++' found")


def test_broken_extension(package):
    (package / "cgm_kernels" / "_C.py").write_text("raise ImportError('undefined symbol: something')\n")
    check_reference_with_one_warning(package, "undefined symbol: something")


def test_garbage_in_place_of_the_library(package):
    (package / "cgm_kernels" / f"_C{EXTENSION_SUFFIXES[0]}").write_bytes(b"not a library")
    check_reference_with_one_warning(package, "does not load")


def test_extension_of_another_torch(package):
    (package / "cgm_kernels" / "_C.py").write_text(fake_extension("2.10.0", package))
    check_reference_with_one_warning(package, "2.10.0", torch.__version__)


def test_extension_of_another_checkout(package, tmp_path):
    elsewhere = tmp_path / "another" / "checkout"
    (package / "cgm_kernels" / "_C.py").write_text(fake_extension(torch.__version__, elsewhere))
    check_reference_with_one_warning(package, str(elsewhere))


@needs_extension
def test_build_info_names_what_was_built():
    extension = build_info()["extension"]
    assert extension["torch"] == torch.__version__
    assert Path(extension["source"]).is_dir()
    assert extension["simd"] in LEVELS


@needs_extension
@pytest.mark.parametrize("level", LEVELS)
def test_every_level_runs_and_agrees(level):
    supported = LEVELS.index(build_info()["extension"]["simd_supported"])
    done = run(DISTANCE, ROOT, CGM_CPU_LEVEL=level)
    if LEVELS.index(level) > supported:
        assert "this CPU supports at most" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    assert f"simd {level}" in done.stdout
    value = float(re.search(r"distance (\S+)", done.stdout).group(1))
    assert value == pytest.approx(distance(), rel=1e-5)


@needs_extension
def test_unknown_level_is_named():
    done = run(DISTANCE, ROOT, CGM_CPU_LEVEL="avx1024")
    assert "CGM_CPU_LEVEL must be baseline, avx2 or avx512: got avx1024" in done.stderr + done.stdout


@needs_extension
@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not here")
def test_wide_instructions_stay_in_their_level():
    """No SIGILL on an older CPU: AVX is used only inside the level namespaces, AVX-512 only in avx512."""
    library = Path(_extension._C.__file__)
    listing = subprocess.run(
        ["objdump", "-d", "-C", "--no-show-raw-insn", str(library)], capture_output=True, text=True, check=True
    ).stdout
    if "file format elf64-x86-64" not in listing:
        pytest.skip("not an x86-64 library")
    function, leaks, inside = "", set(), {"avx2": 0, "avx512": 0}
    for line in listing.splitlines():
        if head := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            function = head.group(1)
            level = next((name for name in ("avx512", "avx2") if f"::{name}::" in function), None)
            continue
        instruction = re.match(r"\s+[0-9a-f]+:\s+(\S+)\s*(.*)", line)
        if instruction is None or not _is_wide(*instruction.groups()):
            continue
        if level is None or (level == "avx2" and re.search(r"%zmm|%[xy]mm(1[6-9]|2\d|3[01])|\{%k", line)):
            leaks.add(function)
        else:
            inside[level] += 1
    assert not leaks
    assert all(count > 100 for count in inside.values()), "the levels hold no wide instructions: nothing was checked"


def _is_wide(mnemonic: str, operands: str) -> bool:
    """VEX or EVEX encoded, or BMI2."""
    if mnemonic.startswith("v") and mnemonic not in ("verr", "verw"):
        return True
    return mnemonic in ("mulx", "pdep", "pext", "bzhi", "rorx", "sarx", "shlx", "shrx", "andn", "bextr", "blsr", "blsi")
