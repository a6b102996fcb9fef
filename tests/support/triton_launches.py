"""Compiles for GPUs, on a machine without one, what a function would launch: its very arguments and constants."""

from __future__ import annotations

import contextlib
import itertools
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature


@contextlib.contextmanager
def compiled_instead(capability: int, report: Callable[[str, Any], None]) -> Iterator[None]:
    """Within, a launch compiles its kernel for the capability and runs nothing; ``report(name, binary)`` gets each."""
    target = GPUTarget("cuda", capability, 32)
    backend = make_backend(target)

    def compile_launch(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **keywords: Any) -> None:
        bind = create_function_from_signature(kernel.signature, kernel.params, backend)
        bound, specialization, options = bind(*arguments, **keywords)
        options, signature, constants, attributes = kernel._pack_args(backend, keywords, bound, specialization, options)
        source = ASTSource(kernel, signature, constants, attributes)
        report(kernel.fn.__name__, triton.compile(source, target=target, options=options.__dict__))

    run, JITFunction.run = JITFunction.run, compile_launch
    try:
        yield
    finally:
        JITFunction.run = run


def resources(binary: Any, capability: int) -> tuple[int, int]:
    """Registers of a thread, and bytes of them that it stores to local memory, as ptxas says."""
    ptx = binary.asm["ptx"]
    gpu = re.search(r"\.target (\w+)", ptx)
    assert gpu is not None
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [get_ptxas(capability).path, "-v", f"--gpu-name={gpu[1]}", file.name, "-o", "/dev/null"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers, spilled = re.search(r"Used (\d+) registers", said), re.search(r"(\d+) bytes spill stores", said)
    assert registers is not None and spilled is not None
    return int(registers[1]), int(spilled[1])


def compile_jobs(
    jobs: Iterable[tuple[object, Callable[[], None]]], capabilities: Iterable[int], measured: bool
) -> None:
    """Compiles what each job launches, the capabilities taking turns, and prints a line for each kernel.

    ``jobs`` are cases, which end their lines, and what launches them. ``measured`` adds registers, bytes of them in
    local memory and seconds.
    """
    for capability, (case, job) in zip(itertools.cycle(capabilities), jobs, strict=False):
        start = time.process_time()

        def report(name: str, binary: Any, capability: int = capability, case: object = case) -> None:
            nonlocal start
            assert binary.asm["cubin"]
            more = ""
            if measured:
                registers, spilled = resources(binary, capability)
                more = f"{registers} registers {spilled} bytes spilled {time.process_time() - start:.0f} s "
            print(f"sm_{capability} {name} {binary.metadata.shared} bytes shared {more}{case}", flush=True)
            start = time.process_time()

        with compiled_instead(capability, report):
            job()


def capabilities_given() -> list[int]:
    """Those among the arguments of the command."""
    return [int(argument) for argument in sys.argv[1:] if argument.isdigit()]
