"""The structures of csrc/langevin/kernels.h for ctypes, field by field in their order."""

import ctypes

I64, POINTER, DOUBLE = ctypes.c_int64, ctypes.c_void_p, ctypes.c_double
MAX_DIMS = 6


class Noise(ctypes.Structure):
    _fields_ = [("state", POINTER), ("key", I64), ("step", I64)]


class PerChain(ctypes.Structure):
    _fields_ = [("data", POINTER), ("stride", I64), ("number", DOUBLE)]


class Strided(ctypes.Structure):
    _fields_ = [("data", POINTER), ("stride", I64 * MAX_DIMS)]


class Step(ctypes.Structure):
    _fields_ = [("chains", I64), ("chain_elements", I64), ("dims", ctypes.c_int), ("size", I64 * MAX_DIMS)]
    _fields_ += [(name, Strided) for name in ("x", "grad", "out")]
    _fields_ += [(name, PerChain) for name in ("step_size", "temperature")]
    _fields_ += [(name, DOUBLE) for name in ("max_grad_norm", "low", "high")] + [("noise", Noise)]


class Normal(ctypes.Structure):
    _fields_ = [("elements", I64), ("out", POINTER), ("noise", Noise)]


class Accept(ctypes.Structure):
    _fields_ = [("chains", I64), ("chain_elements", I64)]
    _fields_ += [(name, POINTER) for name in ("x", "proposal", "log_ratio", "out", "accepted")] + [("noise", Noise)]
