"""Makes the virtual environment that a Makefile target needs and builds the extension; instantaneous when all is there.

python3 tools/setup_env.py [--venv .venv] [--extras models,bench,dev] [--torch torch==2.13.0] [--no-build]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import environment
from environment import SetupProblem, say

ROOT = Path(__file__).resolve().parent.parent
BUILD_VARIABLES = (
    *("CGM_FORCE_CPU", "CGM_FORCE_CUDA", "CGM_FORCE_EXT", "CGM_SKIP_EXT", "TORCH_CUDA_ARCH_LIST"),
    *("CUDA_HOME", "CUDA_PATH", "CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS"),
)


def digest(*parts: object) -> str:
    text = hashlib.sha256()
    for part in parts:
        text.update(part.read_bytes() if isinstance(part, Path) else repr(part).encode())
        text.update(b"\0")
    return text.hexdigest()


def build_inputs(root: Path) -> list[Path]:
    return [
        *sorted(p for p in (root / "csrc").rglob("*") if p.is_file()),
        root / "setup.py",
        root / "tools/build_config.py",
    ]


def built_extension(root: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of the compiled module, so that one built by somebody else is noticed."""
    files = [*(root / "cgm_kernels").glob("_C.*.so"), *(root / "cgm_kernels").glob("_C.*.pyd")]
    return [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(files)]


@contextlib.contextmanager
def one_at_a_time(root: Path) -> Iterator[None]:
    """Two makes in one tree wait for each other."""
    lock = root / "build" / ".setup.lock"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as handle:
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        except ImportError:  # Windows
            pass
        yield


class Setup:
    """One environment and its stamp, a JSON file of digests of all that went into it."""

    def __init__(self, root: Path, venv: Path, extras: str, torch: str | None) -> None:
        self.root, self.venv, self.extras = root, venv, extras
        self.python = environment.python_of(venv)
        self.constraints = (root / "constraints.txt").read_text(encoding="utf-8")
        self.torch = torch
        self.stamp_file = venv / ".cgm-stamp.json"
        self.stamp: dict[str, Any] = {}
        if self.stamp_file.exists():
            with contextlib.suppress(ValueError):
                self.stamp = json.loads(self.stamp_file.read_text(encoding="utf-8"))

    def dependencies_digest(self) -> str:
        requirements = (self.root / "pyproject.toml").read_text(encoding="utf-8").split("[tool.", 1)[0]
        return digest(
            sys.version, sys.executable, str(self.venv), requirements, self.constraints, self.extras, self.torch
        )

    def extension_digest(self, torch_version: str) -> str:
        variables = [(name, os.environ.get(name)) for name in BUILD_VARIABLES]
        return digest(torch_version, variables, built_extension(self.root), *build_inputs(self.root))

    def dependencies_ready(self) -> bool:
        torch_file = self.stamp.get("torch_version_file")
        return (
            self.stamp.get("dependencies") == self.dependencies_digest()
            and self.python.exists()
            and torch_file is not None
            and Path(torch_file).exists()
            and digest(Path(torch_file)) == self.stamp.get("torch_version_digest")
        )

    def save(self, **entries: object) -> None:
        self.stamp.update(entries)
        self.stamp_file.write_text(json.dumps(self.stamp, indent=1), encoding="utf-8")

    def install(self) -> None:
        """Creates the environment unless it works, and installs torch and the dependencies into it."""
        environment.check_python()
        facts = environment.torch_facts(self.python) if environment.works(self.venv) else None
        if facts is None or not environment.supported_torch(facts["version"]):
            reuse = environment.torch_facts(sys.executable) if self.torch is None else None
            if reuse is not None and not environment.supported_torch(reuse["version"]):
                say(f"torch {reuse['version']} of this Python is not supported (2.11 to 2.14 are); it is left alone")
                reuse = None
            environment.create(self.venv, reuse)
            facts = self.install_torch() if reuse is None else reuse
            if reuse is not None:
                say(f"reusing torch {reuse['version']} of {sys.executable}")
        versions = self.venv / "constraints.txt"
        versions.write_text(environment.constraints_for(self.constraints, facts), encoding="utf-8")
        say(f"installing the packages of the extras {self.extras}")
        quiet = ["-qq", "-c", str(versions)]
        environment.pip_install(self.venv, [*quiet, "setuptools>=77", "ninja"])
        project = ["--no-build-isolation", "-e", f"{self.root}[{self.extras}]"]
        environment.pip_install(self.venv, quiet + project, {"CGM_SKIP_EXT": "1"})
        version_file = Path(facts["file"]).with_name("version.py")
        self.save(
            dependencies=self.dependencies_digest(),
            torch_version=facts["version"],
            torch_version_file=str(version_file),
            torch_version_digest=digest(version_file),
            extension=None,
        )

    def install_torch(self) -> dict[str, Any]:
        wanted = self.torch or environment.wanted_torch(self.constraints)
        environment.announce(self.venv, wanted)
        environment.pip_install(self.venv, ["-qq", "--progress-bar", "off", wanted])
        facts = environment.torch_facts(self.python)
        if facts is None:
            raise SetupProblem(f"{wanted} is installed in {self.venv.name} but cannot be imported")
        return facts

    def build(self) -> None:
        """Compiles what changed, into the source tree. A build that failed is tried again the next time."""
        say("building the extension (one to a few minutes the first time)")
        log = self.root / "build" / "build.log"
        with log.open("w", encoding="utf-8") as stream:
            done = subprocess.run(
                [str(self.python), "setup.py", "build_ext", "--inplace"],
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        output = log.read_text(encoding="utf-8", errors="replace")
        for line in output.splitlines():
            if line.startswith("cgm_kernels:"):
                say(line.removeprefix("cgm_kernels:").strip())
        if done.returncode != 0 or "without the extension" in output:
            print("\n".join(output.splitlines()[-30:]), file=sys.stderr)
            say(f"the extension was not built; the whole log is {log.relative_to(self.root)}")
            if done.returncode != 0:
                raise SetupProblem("the build failed")
            return
        self.save(extension=self.extension_digest(self.stamp["torch_version"]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", default=".venv", help="folder of the environment, in the root of the repository")
    parser.add_argument("--extras", default="models,bench,dev", help="extras of pyproject.toml to install")
    parser.add_argument("--torch", help="torch requirement to install; default: reuse one, else constraints.txt's")
    parser.add_argument("--no-build", action="store_true", help="leave the extension alone")
    options = parser.parse_args()
    try:
        with one_at_a_time(ROOT):
            setup = Setup(ROOT, ROOT / options.venv, options.extras, options.torch)
            if not setup.dependencies_ready():
                setup.install()
            ready = setup.stamp.get("extension") == setup.extension_digest(setup.stamp["torch_version"])
            if not options.no_build and not ready:
                setup.build()
    except SetupProblem as problem:
        print(f"setup: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
