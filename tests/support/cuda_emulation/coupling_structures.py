"""The structures of csrc/coupling/kernels.h for ctypes, field by field in their order."""

import ctypes

I64, POINTER, DOUBLE = ctypes.c_int64, ctypes.c_void_p, ctypes.c_double


class Scale(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int), ("bound", DOUBLE), ("offset", DOUBLE), ("eps", DOUBLE)]


class Matrix(ctypes.Structure):
    _fields_ = [("data", POINTER), ("row", I64), ("step", I64)]


class Passing(ctypes.Structure):
    _fields_ = [("source", POINTER), ("to", POINTER)]
    _fields_ += [(name, I64) for name in ("from_row", "to_row", "length", "skip_begin", "skip_end")]


class Affine(ctypes.Structure):
    _fields_ = [("rows", I64), ("cols", I64), ("scale", Scale), ("inverse", ctypes.c_bool)]
    _fields_ += [(name, Matrix) for name in ("x", "log_scale", "shift", "y")]
    _fields_ += [("log_det_before", POINTER), ("log_det_before_step", I64), ("log_det", POINTER), ("passing", Passing)]


class AffineBackward(ctypes.Structure):
    _fields_ = [("rows", I64), ("cols", I64), ("scale", Scale), ("inverse", ctypes.c_bool), ("grad_y", Matrix)]
    _fields_ += [("grad_log_det", POINTER), ("grad_log_det_step", I64)]
    _fields_ += [(name, Matrix) for name in ("kept", "log_scale", "shift", "grad_x", "grad_log_scale", "grad_shift")]
    _fields_ += [("passing", Passing)]


class Channel(ctypes.Structure):
    _fields_ = [(name, I64) for name in ("outer", "channels", "inner")] + [("inverse", ctypes.c_bool)]
    _fields_ += [(name, POINTER) for name in ("x", "multiplier", "added", "y")]


class ChannelBackward(ctypes.Structure):
    _fields_ = [(name, I64) for name in ("outer", "channels", "inner")] + [("inverse", ctypes.c_bool)]
    _fields_ += [(name, POINTER) for name in ("grad_y", "x", "multiplier", "added")]
    _fields_ += [(name, POINTER) for name in ("grad_x", "grad_multiplier", "grad_added")]
