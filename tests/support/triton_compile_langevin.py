"""Compiles the Triton kernels of langevin to cubins on a machine without a GPU.

    TRITON_INTERPRET=0 python tests/support/triton_compile_langevin.py 80 90

Every dtype and flag is in some variant, the GPUs take turns. Prints a line for each: capability, kernel, dtype, the
accesses of 16 bytes (8 of half precision), flags.
"""

import itertools
import sys

from cgm_kernels.langevin import triton_kernels as kernels
from cgm_kernels.langevin.triton import NORM_TILE, NORM_WARPS
from tests.support.triton_compile import compile_kernel
from tests.support.triton_compile_coupling import VECTOR, WIDE
from tests.support.triton_launches import resources

POINTERS = ("x", "grad", "out")
TYPES = {"state": "*i64", "accepted": "*i1", "log_ratio": "*fp64", "parts": "*fp64"}
WORDS = ("key", "count", "length", "chains", "splits")
NUMBERS = ("step_size", "temperature", "deviation", "low", "high", "max_norm")


def compile_variant(capability, name, dtype, **constants):
    kernel = getattr(kernels, name)
    types = {
        **TYPES,
        **dict.fromkeys(POINTERS, f"*{dtype}"),
        **dict.fromkeys(("step_sizes", "temperatures", "factors"), f"*{WIDE[dtype]}"),
        **dict.fromkeys(WORDS, "i64"),
        **dict.fromkeys(NUMBERS, "fp64"),
        **dict.fromkeys(constants, "constexpr"),
    }
    signature = {argument: types.get(argument, "i32") for argument in kernel.arg_names}
    aligned = [argument for argument in POINTERS if argument in kernel.arg_names]
    warps = NORM_WARPS if name == "squares_kernel" else 4
    return compile_kernel(capability, kernel, signature, constants, warps, aligned)


def variants():
    """(kernel, dtype, constants)."""
    names = ("STATE", "STEP_SIZES", "TEMPERATURES", "PROJECT", "CLAMP", "SMALL")
    flags = [dict.fromkeys(names, False) | {"SMALL": True}, dict.fromkeys(names, True) | {"SMALL": False}]
    flags += [{name: (i // 2**k) % 2 == 1 for k, name in enumerate(names)} for i in (18, 45)]
    for dtype, flag in [
        *itertools.product(("fp32", "bf16"), flags),
        *zip(("fp64", "fp64", "fp16"), flags, strict=False),
    ]:
        yield "step_kernel", dtype, {**flag, "VECTOR": 16, "BLOCK": 1024}
    yield "step_kernel", "fp32", {**flags[0], "VECTOR": 1, "BLOCK": 1024}
    for dtype, state in zip(WIDE, itertools.cycle((False, True)), strict=False):
        yield "normal_kernel", dtype, {"STATE": state, "VECTOR": 16, "BLOCK": 1024}
        columns = NORM_TILE if state else 4
        yield "squares_kernel", dtype, {"ROWS": NORM_TILE // columns, "COLUMNS": columns}
    for dtype, state in (("fp32", False), ("fp64", True)):
        yield "decide_kernel", dtype, {"STATE": state, "BLOCK": 1024}
        yield "factors_kernel", dtype, {"BLOCK": 1024}


def main():
    capabilities = itertools.cycle(int(argument) for argument in sys.argv[1:])
    for capability, (name, dtype, constants) in zip(capabilities, variants(), strict=False):
        binary = compile_variant(capability, name, dtype, **constants)
        assert binary.asm["cubin"]
        assert name != "squares_kernel" or resources(binary, capability)[1] == 0, "the sums do not fit the registers"
        count = len(VECTOR.findall(binary.asm["ptx"]))
        shared = binary.metadata.shared
        print(f"sm_{capability} {name} {dtype} {count} vector accesses {shared} bytes shared {constants}", flush=True)


if __name__ == "__main__":
    main()
