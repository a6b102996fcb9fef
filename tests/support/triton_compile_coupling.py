"""Compiles the Triton kernels of coupling to cubins on a machine without a GPU.

    TRITON_INTERPRET=0 python tests/support/triton_compile_coupling.py 80 90

Every scale and flag is in some variant, the GPUs take turns. Prints a line for each: capability, kernel, dtype, the
accesses of 16 bytes (8 of half precision), flags.
"""

import itertools
import re
import sys

from cgm_kernels.coupling import triton_kernels as kernels
from cgm_kernels.coupling.scales import KINDS
from tests.support.triton_compile import compile_kernel

WIDE = {"fp32": "fp32", "fp64": "fp64", "fp16": "fp32", "bf16": "fp32"}
WIDE_POINTERS = ("before", "log_det", "grad_log_det", "multiplier", "added", "products", "sums")
POINTERS = ("x", "y", "log_scale", "shift", "grad_y", "kept", "grad_x", "grad_log_scale", "grad_shift")
UNIT_STRIDES = ("x_step", "s_step", "t_step", "g_step", "kept_step", "gs_step", "gt_step", "every")
# An access of a lane that moves as much as it can: 16 bytes, of which PTX writes one or several words.
VECTOR = re.compile(r"(?:ld|st)\.global(?:\.\w+)*\.(?:v4\.b32|v4\.f32|v2\.b64|v2\.f64|v4\.u32|v2\.u64)")


def compile_variant(capability, name, dtype, vector, rows, columns, steps=1, **flags):
    """``steps`` is 1 for contiguous operands, which the launcher turns into a constant, else their stride is open."""
    kernel = getattr(kernels, name)
    constants = {**flags, "VECTOR": vector, "ROWS": rows, "COLUMNS": columns}
    if "PLACES" in kernel.arg_names:
        constants["PLACES"] = vector if steps == 1 else 1
    if steps == 1:
        constants.update({argument: 1 for argument in UNIT_STRIDES if argument in kernel.arg_names})
    types = {
        **dict.fromkeys(WIDE_POINTERS, f"*{WIDE[dtype]}"),
        **dict.fromkeys(POINTERS, f"*{dtype}"),
        **dict.fromkeys(constants, "constexpr"),
    }
    signature = {argument: types.get(argument, "i32") for argument in kernel.arg_names}
    aligned = [argument for argument in (*POINTERS, *WIDE_POINTERS) if argument in kernel.arg_names]
    return compile_kernel(capability, kernel, signature, constants, aligned=aligned)


def variants():
    """(kernel, dtype, options)."""
    tiles = {"fp32": (16, 64), "fp64": (1, 512), "fp16": (1, 2048), "bf16": (32, 64)}
    turns = itertools.cycle(itertools.product((False, True), repeat=2))
    for dtype, kind in (*(("fp32", kind) for kind in range(len(KINDS))), ("fp64", 1), ("fp64", 4)):
        inverse, passing = next(turns)
        rows, columns = tiles[dtype]
        scale = {"KIND": kind, "BOUND": 1.7, "OFFSET": 2.0, "EPS": 0.1 * (kind % 2), "INVERSE": inverse}
        options = {**scale, "PASSING": passing, "vector": 16, "rows": rows, "columns": columns}
        yield "affine_rows_kernel", dtype, {**options, "BEFORE": passing}
        wants = {f"WANT_{name}": name != "T" or not inverse for name in "XST"}
        given = {"GRAD_Y": not passing, "GRAD_LOG_DET": passing or inverse}
        yield "affine_rows_backward_kernel", dtype, {**options, **wants, **given}
    for dtype, vector, steps in (("fp16", 1, 1), ("fp16", 16, 2), ("bf16", 16, 1), ("bf16", 1, 2)):
        rows, columns = tiles[dtype]
        options = {"KIND": 1, "BOUND": 2.0, "OFFSET": 0.0, "EPS": 0.0, "INVERSE": False, "PASSING": steps == 2}
        options |= {"vector": vector, "rows": rows, "columns": columns, "steps": steps}
        yield "affine_rows_kernel", dtype, {**options, "BEFORE": False}
        given = dict.fromkeys(("GRAD_Y", "GRAD_LOG_DET", "WANT_X", "WANT_S", "WANT_T"), True)
        yield "affine_rows_backward_kernel", dtype, {**options, **given}
    for dtype, by_row in (("fp32", False), ("fp32", True), ("fp64", True), ("fp16", False), ("bf16", True)):
        options = {"INVERSE": by_row != (dtype == "fp32"), "BY_ROW": by_row, "vector": 16, "rows": 8, "columns": 128}
        yield "channel_kernel", dtype, options
        yield "channel_backward_kernel", dtype, options


def main():
    capabilities = itertools.cycle(int(argument) for argument in sys.argv[1:])
    for capability, (name, dtype, options) in zip(capabilities, variants(), strict=False):
        binary = compile_variant(capability, name, dtype, **options)
        assert binary.asm["cubin"]
        count = len(VECTOR.findall(binary.asm["ptx"]))
        print(f"sm_{capability} {name} {dtype} {count} vector accesses {options}", flush=True)


if __name__ == "__main__":
    main()
