"""`make cuda-check`: compiles every .cu for each supported GPU, links the extension, imports it without a GPU.

Needs nvcc, no GPU. Works in .venv-cuda, with a CUDA torch of its own and a copy of the tree, so that the extension of
.venv stays as it is. Run again it compiles what changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import build_config
import environment
import fatbin

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv-cuda"
TREE = VENV / "tree"
TORCH = "torch==2.14.1"
COPIED = ("csrc", "cgm_kernels", "python", "tools", "setup.py", "pyproject.toml", "README.md", "LICENSE")
WANTED = {"sm_80", "sm_90", "sm_100", "sm_120", "compute_120"}
IMPORT_CHECK = """
import torch, cgm_kernels
assert not torch.cuda.is_available()
x, y = torch.randn(50, 3), torch.randn(40, 3)
with cgm_kernels.use_backend("native"):
    native = cgm_kernels.sliced_wasserstein_distance(x, y, generator=torch.Generator().manual_seed(0))
with cgm_kernels.use_backend("reference"):
    reference = cgm_kernels.sliced_wasserstein_distance(x, y, generator=torch.Generator().manual_seed(0))
torch.testing.assert_close(native, reference)
"""


def say(line: str) -> None:
    print(f"cuda-check: {line}", flush=True)


def cuda_environment(toolkit: build_config.CudaToolkit) -> dict[str, Any]:
    """Makes .venv-cuda and returns the facts of the CUDA torch in it."""
    facts = environment.torch_facts(environment.python_of(VENV)) if environment.works(VENV) else None
    if facts is None:
        environment.check_python()
        reuse = environment.torch_facts(sys.executable)
        usable = reuse is not None and environment.supported_torch(reuse["version"])
        if reuse is None or not usable or build_config.why_no_cuda({}, toolkit, reuse["cuda"]):
            reuse = None
        environment.create(VENV, reuse)
        if reuse is None:
            environment.announce(VENV, TORCH)
            environment.pip_install(VENV, ["-qq", "--progress-bar", "off", TORCH])
        environment.pip_install(VENV, ["-qq", "setuptools>=77", "ninja", "numpy"])
        facts = environment.torch_facts(environment.python_of(VENV))
    if facts is None:
        raise environment.SetupProblem(f"torch in {VENV.name} cannot be imported; remove that folder and run again")
    return facts


def copy_tree() -> None:
    """Copies what the build needs, times included, so that only what changed is compiled again."""
    TREE.mkdir(exist_ok=True)
    ignore = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__", "_build_failure.txt")
    for name in COPIED:
        source, target = ROOT / name, TREE / name
        if target.is_dir():
            shutil.rmtree(target)
        if source.is_dir():
            shutil.copytree(source, target, ignore=ignore)
        elif source.exists():
            shutil.copy2(source, target)


def build(toolkit: build_config.CudaToolkit) -> None:
    variables = {
        **os.environ,
        **{"CGM_FORCE_CUDA": "1", "CUDA_HOME": str(toolkit.home)},
        "TORCH_CUDA_ARCH_LIST": build_config.DEFAULT_CUDA_ARCHITECTURES,
    }
    log = VENV / "build.log"
    with log.open("w", encoding="utf-8") as stream:
        done = subprocess.run(
            [str(environment.python_of(VENV)), "setup.py", "build_ext", "--inplace"],
            cwd=TREE,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    if done.returncode != 0:
        print(log.read_text(encoding="utf-8", errors="replace")[-20000:], file=sys.stderr)
        raise environment.SetupProblem("the CUDA build failed; its output is above")


def check_architectures() -> None:
    """Every .cu gave an object with machine code for every supported architecture."""
    for source in sorted((TREE / "csrc").rglob("*.cu")):
        relative = source.relative_to(TREE)
        objects = list((TREE / "build").glob(f"temp.*/{relative.with_suffix('.o')}"))
        found = set().union(*(fatbin.architectures(path) for path in objects))
        order = sorted(found, key=lambda name: (name.split("_")[0] != "sm", int(name.split("_")[1])))
        say(f"{relative}: {' '.join(order) or 'no device code'}")
        if not found >= WANTED:
            raise environment.SetupProblem(f"{relative} lacks code for {' '.join(sorted(WANTED - found))}")


def import_without_gpu() -> None:
    variables = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": f"{TREE}{os.pathsep}{TREE / 'python'}"}
    for arguments in (["-m", "cgm_kernels"], ["-W", "error", "-c", IMPORT_CHECK]):
        done = subprocess.run(
            [str(environment.python_of(VENV)), *arguments], cwd=TREE, env=variables, stdin=subprocess.DEVNULL
        )
        if done.returncode != 0:
            raise environment.SetupProblem("the linked extension does not work without a GPU; the output is above")


def main() -> int:
    toolkit = build_config.find_cuda_toolkit(os.environ)
    if toolkit is None:
        say("skipped: no nvcc here (install the CUDA toolkit, 12.8 or newer, or set CUDA_HOME)")
        return 0
    try:
        facts = cuda_environment(toolkit)
        reason = build_config.why_no_cuda({}, toolkit, facts["cuda"])
        if reason is not None:
            raise environment.SetupProblem(reason)
        say(f"nvcc {toolkit.version_string}, torch {facts['version']}, Python {sys.version.split()[0]}")
        copy_tree()
        build(toolkit)
        check_architectures()
        import_without_gpu()
    except environment.SetupProblem as problem:
        print(f"cuda-check: failed: {problem}", file=sys.stderr)
        return 1
    say("passed: every .cu compiled and linked, and the extension works on the CPU without a GPU")
    return 0


if __name__ == "__main__":
    sys.exit(main())
