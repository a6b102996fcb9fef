"""The structures of csrc/divergence/cuda_kernels.h for ctypes, field by field in their order."""

import ctypes

I64, POINTER, DOUBLE, INT = ctypes.c_int64, ctypes.c_void_p, ctypes.c_double, ctypes.c_int
STORAGE = ("float32", "float64", "float16", "bfloat16")
MOST_TERMS = 16


class LayerInput(ctypes.Structure):
    _fields_ = [("storage", INT), ("activation", INT)] + [(name, I64) for name in ("rows", "cols", "probes")]
    _fields_ += [("sum", POINTER), ("tangents", POINTER), ("tangent_probe", I64), ("tangent_row", I64)]
    _fields_ += [(name, POINTER) for name in ("bias", "added", "scale", "shift")] + [("film_row", I64)]
    _fields_ += [("residual", POINTER), ("projection", POINTER), ("projection_probe", I64), ("projection_row", I64)]
    _fields_ += [("weight", DOUBLE), ("tangent_weight", DOUBLE)]


class LayerForward(ctypes.Structure):
    _fields_ = [("in_", LayerInput)]
    _fields_ += [(name, POINTER) for name in ("hidden", "hidden_tangents", "dot", "squares", "tangent_squares")]


class LayerBackward(ctypes.Structure):
    _fields_ = [("in_", LayerInput)]
    _fields_ += [(name, POINTER) for name in ("grad_hidden", "grad_tangents")]
    _fields_ += [(name, POINTER) for name in ("grad_dot", "grad_squares", "grad_tangent_squares")]
    _fields_ += [(name, POINTER) for name in ("grad_sum", "grad_tangent_sum", "first_total", "projection_total")]
    _fields_ += [(name, POINTER) for name in ("hidden", "hidden_tangents", "grad_scale", "grad_shift")]
    _fields_ += [("grad_film_row", I64), ("partials", POINTER), ("accumulate_partials", ctypes.c_bool)]


class ColumnSums(ctypes.Structure):
    _fields_ = [("storage", INT), ("splits", I64), ("cols", I64)]
    _fields_ += [(name, POINTER) for name in ("partials", "bias", "scale", "shift")]


class Combination(ctypes.Structure):
    _fields_ = [("storage", INT), ("elements", I64), ("count", INT)]
    _fields_ += [("terms", POINTER * MOST_TERMS), ("strides", I64 * MOST_TERMS), ("coefficients", DOUBLE * MOST_TERMS)]
    _fields_ += [("step", DOUBLE), ("device_step", POINTER)]
