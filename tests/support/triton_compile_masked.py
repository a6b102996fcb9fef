"""Compiles the Triton kernel of the masked inverse to cubins on a machine without a GPU.

    TRITON_INTERPRET=0 python tests/support/triton_compile_masked.py 80 90

Every activation, scale and flag is in some variant, the GPUs take turns. Prints a line for each.
"""

import itertools
import sys

from cgm_kernels.coupling.masked_reference import ACTIVATIONS
from cgm_kernels.coupling.scales import KINDS
from cgm_kernels.coupling.triton_masked_kernels import masked_inverse_kernel
from tests.support.triton_compile import compile_kernel

POINTERS = ("y", "parameters", "row_bias", "scratch", "x", "log_det")


def main():
    flags = itertools.cycle(itertools.product((False, True), repeat=3))
    capabilities, dtypes = itertools.cycle(map(int, sys.argv[1:])), itertools.cycle(("fp32", "fp64"))
    for number in range(max(len(ACTIVATIONS), len(KINDS))):
        activation, kind = number % len(ACTIVATIONS), number % len(KINDS)
        residual, row_bias, standardize = next(flags)
        capability, dtype = next(capabilities), next(dtypes)
        constants = {"ACTIVATION": activation, "RESIDUAL": residual, "ROW_BIAS": row_bias, "KIND": kind}
        constants |= {"BOUND": 1.7, "OFFSET": 2.0, "EPS": 0.1 * (number % 2), "STANDARDIZE": standardize}
        constants |= {"BLOCK": 64, "COLUMNS": 32}
        types = {**dict.fromkeys(POINTERS, f"*{dtype}"), "numbers": "*i32", "table": "*i64"}
        types |= dict.fromkeys(constants, "constexpr")
        signature = {argument: types.get(argument, "i32") for argument in masked_inverse_kernel.arg_names}
        binary = compile_kernel(capability, masked_inverse_kernel, signature, constants)
        assert binary.asm["cubin"]
        print(f"sm_{capability} {dtype} {binary.metadata.shared} bytes shared {constants}", flush=True)


if __name__ == "__main__":
    main()
