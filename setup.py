"""Builds csrc/ into cgm_kernels._C: the CPU kernels always, the CUDA kernels when nvcc and a CUDA torch are there.

    pip install --no-build-isolation -e .

CGM_FORCE_CPU=1   leaves CUDA out           CGM_FORCE_CUDA=1  fails unless the CUDA kernels are built
CGM_SKIP_EXT=1    no extension, reference   CGM_FORCE_EXT=1   fails unless the extension is built
TORCH_CUDA_ARCH_LIST, MAX_JOBS, CUDA_HOME and CXX are honoured. Nothing is downloaded.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))

import build_config  # noqa: E402  (tools/ is on the path only from here on)
from build_config import BuildProblem, switched_on  # noqa: E402

EXTENSION = "cgm_kernels._C"
# Why the extension is absent, kept beside the package so that build_info() can tell; pip hides what a build prints.
FAILURE_NOTE = Path("cgm_kernels") / "_build_failure.txt"


def say(line: str) -> None:
    print(f"cgm_kernels: {line}", file=sys.stderr, flush=True)


def import_torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise SystemExit(
            "cgm_kernels: torch is not importable here, and the kernels compile against the torch that will run them. "
            "With torch installed, run: pip install --no-build-isolation . "
            f"(CGM_SKIP_EXT=1 installs the plain PyTorch reference alone; the import said: {error})"
        ) from None
    return torch


def sources(suffix: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob(f"*{suffix}"))


def choose_cuda(torch: Any) -> build_config.CudaToolkit | None:
    """The toolkit to build with, or None after one line that says why."""
    toolkit = build_config.find_cuda_toolkit(os.environ)
    reason = build_config.why_no_cuda(os.environ, toolkit, torch.version.cuda)
    if reason is None:
        return toolkit
    if switched_on(os.environ, "CGM_FORCE_CUDA"):
        raise BuildProblem(f"CGM_FORCE_CUDA is set, but {reason}")
    say(f"building the CPU kernels only: {reason}")
    return None


def describe(torch: Any, compiler: build_config.HostCompiler, cuda: str, architectures: str) -> list[tuple[str, str]]:
    """What the extension knows of its own build: compared at import, shown by build_info()."""
    facts = {
        "CGM_TORCH_VERSION": torch.__version__,
        "CGM_CUDA_VERSION": cuda,
        "CGM_CUDA_ARCHITECTURES": architectures,
        "CGM_SOURCE_DIR": str(ROOT),
        "CGM_COMPILER": compiler.description,
        "CGM_PYTHON_VERSION": platform.python_version(),
    }
    return [(name, build_config.string_macro(value)) for name, value in facts.items()]


def configure(torch: Any) -> Extension:
    """The extension with every decision made; sets the environment variables that torch's builder reads."""
    compiler = build_config.check_host_compiler(os.environ, Path(torch.__file__).parent)
    toolkit = choose_cuda(torch)
    jobs = build_config.max_jobs(os.environ, build_config.available_cores(), build_config.available_memory())
    os.environ["MAX_JOBS"] = str(jobs)
    architectures = ""
    if toolkit is not None:
        os.environ["CUDA_HOME"] = str(toolkit.home)
        os.environ["TORCH_CUDA_ARCH_LIST"] = architectures = build_config.cuda_architectures(os.environ)
    from torch.utils import cpp_extension

    # torch finds the toolkit when it is imported, and looks in the wrong place when nvcc is a wrapper script.
    if toolkit is not None:
        cpp_extension.CUDA_HOME = str(toolkit.home)
    version = toolkit.version_string if toolkit else ""
    macros = describe(torch, compiler, version, architectures)
    if not compiler.openmp_compile:
        macros.append(("CGM_WITHOUT_OPENMP", "1"))
    if toolkit is not None:
        macros.append(("CGM_WITH_CUDA", "1"))
    kind = cpp_extension.CUDAExtension if toolkit else cpp_extension.CppExtension
    say(f"compiling for torch {torch.__version__}" + (f" and CUDA {version} ({architectures})" if version else ""))
    return kind(
        EXTENSION,
        sources(".cpp") + (sources(".cu") if toolkit else []),
        include_dirs=[str(ROOT / "csrc")],
        extra_compile_args={
            "cxx": build_config.host_flags(compiler.openmp_compile) + [f"-D{name}={value}" for name, value in macros],
            "nvcc": build_config.cuda_flags(min(4, jobs)),
        },
        extra_link_args=compiler.openmp_link,
    )


class BuildExtension(build_ext):
    """Hands the work to torch's builder, which is imported only here, when something is really compiled."""

    def run(self) -> None:
        note = (ROOT if self.inplace or self.editable_mode else Path(self.build_lib)) / FAILURE_NOTE
        note.unlink(missing_ok=True)
        if switched_on(os.environ, "CGM_SKIP_EXT"):
            return self.go_without("CGM_SKIP_EXT was set", note)
        torch = import_torch()
        try:
            self.build_with_torch(configure(torch))
        except (Exception, SystemExit) as error:
            if switched_on(os.environ, "CGM_FORCE_CUDA") or switched_on(os.environ, "CGM_FORCE_EXT"):
                raise SystemExit(f"cgm_kernels: the extension was not built: {error}") from None
            self.go_without(str(error), note)

    def build_with_torch(self, extension: Extension) -> None:
        from torch.utils.cpp_extension import BuildExtension as TorchBuilder

        self.distribution.ext_modules = [extension]
        builder = TorchBuilder(self.distribution)
        for option in ("build_lib", "build_temp", "inplace", "debug", "force", "parallel", "editable_mode"):
            setattr(builder, option, getattr(self, option))
        builder.ensure_finalized()
        builder.run()

    def go_without(self, reason: str, note: Path) -> None:
        for extension in self.extensions:
            extension.optional = True
        say(f"installing the PyTorch reference without the extension: {reason}")
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(reason.strip() + "\n", encoding="utf-8")


setup(
    packages=find_packages(include=["cgm_kernels*"]) + find_packages("python", include=["cgm_models*"]),
    package_dir={"cgm_kernels": "cgm_kernels", "cgm_models": "python/cgm_models"},
    ext_modules=[Extension(EXTENSION, sources(".cpp"))],
    cmdclass={"build_ext": BuildExtension},
)
