"""Compiles the Triton kernels of sliced_ot to cubins on a machine without a GPU.

    TRITON_INTERPRET=0 python tests/support/triton_compile.py 80 90         every flag on and off, the GPUs taking turns
    TRITON_INTERPRET=0 python tests/support/triton_compile.py 80 90 --all   every combination of flags for every GPU

Prints a line for each: capability, kernel, dtype, shared memory, flags.
"""

import itertools
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from cgm_kernels.sliced_ot import triton_kernels as kernels
from cgm_kernels.sliced_ot import triton_rows as rows

TYPES = {
    **dict.fromkeys(("costs", "partial_costs", "cumulative", "x_cumulative", "y_cumulative"), "*fp64"),
    **dict.fromkeys(("x_order", "y_order"), "*i64"),
    "order": "*i32",
    "weights": "*fp32",
    "p_bits": "i64",
}
POINTERS = ["x", "y", "points", "projections", "values", "poison", "x_poison", "y_poison"]
POINTERS += ["coefficients", "x_coefficients", "y_coefficients"]
# Of contiguous clouds and weights: the launcher makes a stride of 1 a constant.
UNIT_STRIDES = ("x_axis", "y_axis", "axis_stride", "weights_point")


def compile_variant(capability, name, dtype, num_warps=4, **flags):
    kernel = getattr(kernels, name)
    constants = {**flags, **{argument: 1 for argument in UNIT_STRIDES if argument in kernel.arg_names}}
    signature = {}
    for argument in kernel.arg_names:
        default = f"*{dtype}" if argument in POINTERS else "i32"
        signature[argument] = "constexpr" if argument in constants else TYPES.get(argument, default)
    return compile_kernel(capability, kernel, signature, constants, num_warps)


def compile_kernel(capability, kernel, signature, constants, num_warps=4, aligned=()):
    """The binary for a GPU; the pointers ``aligned`` are known to be addresses of 16 bytes, as a launch finds out."""
    attributes = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_warps": num_warps})


def combinations(**choices):
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


def all_variants():
    """(kernel, dtype, flags); float64 rows are ordered by torch.sort, and only float32 ones inside a kernel."""
    both = (False, True)
    small, largest = rows._row_blocks(20, 3), rows._row_blocks(rows.REGISTER_LIMIT, 64)
    pair, (block, block_m) = rows._PAIR_BLOCK, rows._TRANSPORT_BLOCKS
    for dtype in ("fp32", "fp64"):
        ordered = both if dtype == "fp32" else (False,)
        for flags in combinations(POWER=(0, 1, 2), PROJECT=both, KEEP_X=ordered, KEEP_Y=ordered):
            yield "paired_clouds_kernel", dtype, {**flags, **small}
        for flags in combinations(PROJECT=both, WITH_ORDER=ordered, WEIGHTED=ordered):
            if flags["WITH_ORDER"] or not flags["WEIGHTED"]:
                yield "sort_rows_kernel", dtype, {**flags, **small}
        for flags in combinations(POWER=(0, 1, 2), KEEP_X=both, KEEP_Y=both):
            yield "paired_rows_kernel", dtype, {**flags, "BLOCK": pair}
        for flags in combinations(POWER=(0, 1, 2), X_WEIGHTED=both, Y_WEIGHTED=both, KEEP=both, COST=both):
            if flags["KEEP"] or flags["COST"]:
                yield "transport_rows_kernel", dtype, {**flags, "STEPS": 6, "BLOCK": block, "BLOCK_M": block_m}
        keep = {"KEEP_X": ordered[-1], "KEEP_Y": ordered[-1]}
        yield "paired_clouds_kernel", dtype, {"POWER": 0, "PROJECT": True, **keep, **largest}
        order = {"WITH_ORDER": ordered[-1], "WEIGHTED": ordered[-1]}
        yield "sort_rows_kernel", dtype, {"PROJECT": True, **order, **largest}


def chosen_variants():
    """Few variants in which each kernel and dtype shows each value of each flag: greedily those that show most."""

    def shown(variant):
        name, dtype, flags = variant
        return {(name, dtype, flag, value) for flag, value in flags.items() if flag != "BLOCK_D"}

    left = list(all_variants())
    unseen = set().union(*map(shown, left))
    while unseen:
        best = max(left, key=lambda variant: len(shown(variant) & unseen))
        unseen -= shown(best)
        yield best


def main():
    capabilities = [int(argument) for argument in sys.argv[1:] if argument != "--all"]
    if "--all" in sys.argv:
        jobs = itertools.product(capabilities, all_variants())
    else:
        jobs = zip(itertools.cycle(capabilities), chosen_variants(), strict=False)
    for capability, (name, dtype, flags) in jobs:
        binary = compile_variant(capability, name, dtype, **flags)
        assert binary.asm["cubin"]
        print(f"sm_{capability} {name} {dtype} {binary.metadata.shared} bytes shared {flags}", flush=True)


if __name__ == "__main__":
    main()
