"""Compiles the Triton kernels of the Langevin chains to cubins on a machine without a GPU.

    TRITON_INTERPRET=0 python tests/support/triton_compile_langevin_chain.py 80 90

Every kind of energy and flag is in some variant, the GPUs take turns. Prints a line for each.
"""

import itertools
import sys

from cgm_kernels.activations import ACTIVATIONS
from cgm_kernels.langevin.triton_chain_mixture import mixture_chain_kernel
from cgm_kernels.langevin.triton_chain_mlp import mlp_chain_kernel
from tests.support.triton_compile import compile_kernel

POINTERS = ("x_in", "out", "log_weights", "means", "precisions", "differences", "step_sizes", "temperatures")
POINTERS += ("scratch", "parameters", "last_weights", "factors")
BITS = ("step_bits", "temperature_bits", "norm_bits", "low_bits", "high_bits", "slope_bits")
FLAGS = ("GIVEN_STEPS", "GIVEN_TEMPERATURES", "PROJECT", "CLAMP")
# Dimensions and dimensions of the precisions: rows that are full and that are not, products inside and in chunks.
MIXTURES = [(1, 3), (2, 1), (3, 2), (20, 3), (256, 3)]
# Those that ask for functions that the others do not; the first with products of the size of a launch.
NETWORKS = ["tanh", "softplus", "gelu", "elu", "sin"]


def compile_variant(capability, kernel, dtype, constants, num_warps):
    types = {
        **dict.fromkeys(POINTERS, f"*{dtype}"),
        **dict.fromkeys(BITS, "i64"),
        **{"state": "*i64", "table": "*i64", "ends": "*i32"},
        **dict.fromkeys(constants, "constexpr"),
    }
    signature = {argument: types.get(argument, "i32") for argument in kernel.arg_names}
    return compile_kernel(capability, kernel, signature, constants, num_warps)


def variants():
    """(kernel, dtype, constants, warps)."""
    flags = itertools.cycle(itertools.product((False, True), repeat=len(FLAGS)))
    dtypes = itertools.cycle(("fp32", "fp64"))
    for d, kind in MIXTURES:
        width = max(1 << (d - 1).bit_length(), 16 if kind == 3 and d > 8 else 1)
        block = max(16, min(128, 4096 // width))
        constants = dict(zip(FLAGS, next(flags), strict=True)) | {"KIND": kind, "DENSE": width == d}
        constants |= {"BLOCK": block, "D": width, "TERMS": 16}
        yield mixture_chain_kernel, next(dtypes), constants, max(1, min(8, block * width // 128))
    for number, name in enumerate(NETWORKS):
        size = 2 if number == 0 else 1
        constants = dict(zip(FLAGS, next(flags), strict=True)) | {"ACTIVATION": list(ACTIVATIONS).index(name)}
        constants |= {"BLOCK": 16 * size, "COLUMNS": 16 * size**2, "TERMS": 16 * size, "GROUPS": 64}
        yield mlp_chain_kernel, next(dtypes), constants, size**2


def main():
    capabilities = itertools.cycle(int(argument) for argument in sys.argv[1:])
    for capability, (kernel, dtype, constants, num_warps) in zip(capabilities, variants(), strict=False):
        binary = compile_variant(capability, kernel, dtype, constants, num_warps)
        assert binary.asm["cubin"]
        print(
            f"sm_{capability} {kernel.__name__} {dtype} {binary.metadata.shared} bytes shared {constants}", flush=True
        )


if __name__ == "__main__":
    main()
