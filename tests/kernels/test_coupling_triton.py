"""What is special to the Triton kernels of coupling: strides, tails, tiles, half precision, and what compiles.

Without a GPU they run in Triton's interpreter. The cases that all backends share are in test_coupling.py.
"""

import itertools

import pytest
import torch

import cgm_kernels
from cgm_kernels.coupling import layout, operators, reference, scales, triton, triton_rows
from tests.support.gpu_compile import compiled_for_gpus
from tests.support.tolerances import assert_as_accurate

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if cgm_kernels.backends.absence("triton", DEVICE):
    pytest.skip(cgm_kernels.backends.absence("triton", DEVICE), allow_module_level=True)

OPERATORS = torch.ops.cgm_triton
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SCALES = [scales.checked(kind, 1.7, 1.25, 0.0) for kind in scales.KINDS]
SCALES += [scales.checked(kind, 1.7, 1.25, 0.1) for kind in ("sigmoid", "softplus")]
TANH, GATE = SCALES[scales.INDEX["tanh"]], SCALES[scales.INDEX["gate"]]
assert operators is not None  # it registers them


def normal(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE, dtype)


def differentiated(function, inputs, grads):
    """The results of the reference in the dtype of the inputs, and its gradients by them."""
    inputs = [t.detach().requires_grad_() for t in inputs]
    results = function(*inputs)
    found = torch.autograd.grad(results, inputs, grads, allow_unused=True)
    return [t.detach() for t in results], [
        torch.zeros_like(t) if g is None else g for t, g in zip(inputs, found, strict=True)
    ]


def close(ours, function, inputs, grads):
    """Results, then gradients, against the float64 reference, allowed twice the error of PyTorch in the same dtype."""
    exact = differentiated(function, [t.double() for t in inputs], [g.double() for g in grads])
    wide = [t.float() for t in inputs] if inputs[0].dtype in (torch.float16, torch.bfloat16) else inputs
    eager = differentiated(function, wide, [g.to(wide[0].dtype) for g in grads])
    for part, true, theirs in zip(ours, itertools.chain(*exact), itertools.chain(*eager), strict=True):
        assert part.is_contiguous()
        assert_as_accurate(part, true, theirs.to(part.dtype), roundings=8)


def check_affine(x, log_scale, shift, scale, event_dims, inverse):
    def function(x, s, t):
        return reference.affine(x, s, t, scale, event_dims, inverse)

    y, log_det = OPERATORS.affine_forward(x, log_scale, shift, *scale, event_dims, inverse)
    grads = [normal(*y.shape, dtype=y.dtype, seed=8), normal(*log_det.shape, dtype=log_det.dtype, seed=9)]
    # What the forward keeps is rounded; its exact value is what the reference starts from.
    kept = function(*(t.double() for t in (x, log_scale, shift)))[0].to(x.dtype) if inverse else x
    gate_shift = shift if scale.kind == GATE.kind else None
    options = (*scale, event_dims, inverse, True, True, True)
    by_inputs = OPERATORS.affine_backward(*grads, kept, log_scale, gate_shift, *options)
    close((y, log_det, *by_inputs), function, [t.contiguous() for t in (x, log_scale, shift)], grads)


def check_event(x, parameters, split, order, scale, inverse, before=None):
    place = layout.checked(split, order, x, parameters)

    def function(x, parameters):
        return reference.affine_event(x, parameters, before, place, scale, inverse)

    y, total = OPERATORS.affine_event_forward(x, parameters, before, *place, *scale, inverse)
    passed = torch.ones(x.shape[1], dtype=torch.bool, device=x.device)
    passed[place.channels] = False
    assert torch.equal(y[:, passed], x[:, passed])
    grads = [normal(*y.shape, dtype=y.dtype, seed=8), normal(*total.shape, dtype=total.dtype, seed=9)]
    kept = function(x.double(), parameters.double())[0].to(x.dtype) if inverse else x
    by_inputs = OPERATORS.affine_event_backward(*grads, kept, parameters, *place, *scale, inverse)
    close((y, total, *by_inputs), function, [x.contiguous(), parameters.contiguous()], grads)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", SCALES, ids=lambda scale: f"{scales.KINDS[scale.kind]}{scale.eps:g}")
def test_coupling_scales_and_dtypes(scale, dtype, inverse):
    check_affine(*(normal(3, 20, dtype=dtype, seed=seed) for seed in range(3)), scale, 1, inverse)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("kind", ["tanh", "sigmoid", "softplus", "gate"])
def test_coupling_small_and_large_arguments(kind, dtype):
    """Neither logarithms of numbers near 1 nor exponentials of large ones lose the result, element by element."""
    scale = scales.checked(kind, 2.0, 0.0, 0.0)
    s = torch.cat([10.0 ** torch.arange(-12.0, 2.1), torch.tensor([0.3, 17.0, 37.0, 60.0])]).to(DEVICE, dtype)
    s = torch.cat([s, -s]).unsqueeze(-1)
    zeros = torch.zeros_like(s)
    y, log_det = OPERATORS.affine_forward(zeros + 1, s, zeros, *scale, 1, False)
    sigma, log_sigma = (t.squeeze(-1) for t in scales.sigma_and_log(s.double(), scale))
    by_s = OPERATORS.affine_backward(None, zeros[:, 0] + 1, zeros, s, zeros, *scale, 1, False, False, True, False)[1]
    exact = torch.autograd.functional.jacobian(lambda s: scales.sigma_and_log(s, scale)[1].sum(), s.double())
    precision = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(y.squeeze(-1).double(), sigma, rtol=precision, atol=torch.finfo(dtype).tiny)
    if kind != "softplus":  # whose logarithm passes through 0 at σ = 1
        torch.testing.assert_close(log_det.double(), log_sigma, rtol=precision, atol=torch.finfo(dtype).tiny)
    if kind != "tanh":  # whose slope is that of a saturated function: relative to 1
        torch.testing.assert_close(by_s.double(), exact, rtol=precision, atol=torch.finfo(dtype).tiny)
    else:
        torch.testing.assert_close(by_s.double(), exact, rtol=0, atol=precision)


@pytest.mark.parametrize("columns", [1, 2, 3, 7, 16, 33, 64, 130])
@pytest.mark.parametrize("tile_bytes", [128, 4096])
def test_coupling_tails_tiles_and_splits(monkeypatch, tile_bytes, columns):
    """Small tiles put several in a row, and split rows over programs."""
    monkeypatch.setattr(triton_rows, "TILE_BYTES", tile_bytes)
    monkeypatch.setattr(triton_rows, "_SPLIT_TILES", 1)
    x, s, t = (normal(5, columns, dtype=torch.float32, seed=seed) for seed in range(3))
    check_affine(x, s, t, GATE, 1, columns % 2 == 1)
    parameters, before = torch.cat([s, t], 1), normal(5, dtype=torch.float32)
    event = normal(5, columns + 16, dtype=torch.float32, seed=5)
    check_event(event, parameters, slice(16, None), "scale_shift", TANH, columns % 2 == 0, before)
    forward = [OPERATORS.affine_forward(x, s, t, *TANH, 1, False)[1] for _ in range(2)]
    assert torch.equal(*forward)


def strided():
    """(x, its event dimensions, whether it is read in place)."""
    wide = normal(4, 12, 3, 2, dtype=torch.float32)
    return [
        (wide[:, 6:], 3, True),
        (wide[:, :5], 3, True),
        (wide[:, ::2, 0, 0], 1, True),
        (wide[::2, :, 0, 1], 1, True),
        (wide[:, 0].transpose(1, 2), 2, False),
        (wide[:, :, 0], 1, True),
        (wide[:, :, 0], 0, False),
        (wide[:, 3], 0, False),
        (wide[:, 3, 1, ::2], 0, True),
        (wide.transpose(0, 1), 2, False),
        (wide[:, :, 1:], 3, False),
        (wide[:1].expand(4, 12, 3, 2), 3, True),
        (wide[0, :, 0, 0], 0, True),
        (wide[0, 0, 0, 0], 0, True),
    ]


@pytest.mark.parametrize("x, event_dims, in_place", strided(), ids=lambda value: str(getattr(value, "shape", value)))
def test_coupling_strides(x, event_dims, in_place):
    assert (triton_rows.Rows.of(x, x.dim() - event_dims).tensor is x) == in_place
    s, t = (normal(*x.shape, dtype=torch.float32, seed=seed) for seed in (3, 4))
    check_affine(x, s, t, TANH, event_dims, False)
    check_affine(s, x, t, TANH, event_dims, True)
    check_affine(s, s, x, GATE, event_dims, True)


SPLITS = [(8, 3), (8, 0), (8, 8), (33, slice(0, None, 2)), (33, slice(1, 20, 3)), (16, slice(0, 8)), (1, 0)]


@pytest.mark.parametrize("order", layout.LAYOUTS)
@pytest.mark.parametrize("channels, split", SPLITS, ids=str)
def test_coupling_event_layouts(channels, split, order):
    x = normal(3, channels, dtype=torch.float32)
    count = len(range(*(split if isinstance(split, slice) else slice(split, None)).indices(channels)))
    check_event(x, normal(3, 2 * count, dtype=torch.float32, seed=1), split, order, GATE, count % 2 == 0)


def test_coupling_event_images_and_strides():
    wide = normal(4, 12, 3, 2, dtype=torch.float32)
    parameters = normal(4, 14, 3, 2, dtype=torch.float32, seed=2)
    for split in (5, slice(2, 9)):
        count = 12 - 5 if isinstance(split, int) else 7
        for given in (parameters[:, : 2 * count], parameters[:, : 2 * count].transpose(2, 3).contiguous().mT):
            check_event(wide, given, split, "shift_scale", TANH, False, normal(1, dtype=torch.float32).expand(4))
    check_event(wide[:, ::2], parameters[:, 2:8], 3, "scale_shift", TANH, True)


@pytest.mark.parametrize("dtype", DTYPES[2:], ids=str)
def test_coupling_event_halves(dtype):
    x, parameters = normal(4, 40, dtype=dtype), normal(4, 40, dtype=dtype, seed=1)
    before = normal(4, dtype=torch.float32, seed=2)
    for inverse in (False, True):
        check_event(x, parameters, 20, "scale_shift", TANH, inverse, before)


def test_coupling_missing_gradients():
    x, s, t = (normal(4, 24, dtype=torch.float32, seed=seed) for seed in range(3))
    grad_y, grad_log_det = normal(4, 24, dtype=torch.float32, seed=4), normal(4, dtype=torch.float32, seed=5)
    zeros = torch.zeros_like(grad_y), torch.zeros_like(grad_log_det)
    place, parameters = layout.Layout(12, 12, 1, 0), torch.cat([s[:, :12], t[:, :12]], 1)
    for given, full in (((grad_y, None), (grad_y, zeros[1])), ((None, grad_log_det), (zeros[0], grad_log_det))):
        for scale, inverse in itertools.product((TANH, GATE), (False, True)):
            run = OPERATORS.affine_event_backward
            found = [run(*grads, x, parameters, *place, *scale, inverse) for grads in (given, full)]
            assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
            options = (x, s, t, *scale, 1, inverse)
            everything = OPERATORS.affine_backward(*full, *options, True, True, True)
            for wanted in itertools.product((False, True), repeat=3):
                some = OPERATORS.affine_backward(*given, *options, *wanted)
                for part, whole, want in zip(some, everything, wanted, strict=True):
                    assert torch.equal(part, whole if want else x.new_empty(0))


@pytest.mark.filterwarnings("ignore:overflow")
def test_coupling_not_finite_stays_in_its_event():
    x, s, t = (normal(5, 9, dtype=torch.float32, seed=seed) for seed in range(3))
    x[1, 3], s[2, 4], s[3, 8] = torch.nan, torch.nan, 200.0
    y, log_det = OPERATORS.affine_forward(x, s, t, *SCALES[0], 1, False)
    assert y.isnan().nonzero().tolist() == [[1, 3], [2, 4]]
    assert y.isinf().nonzero().tolist() == [[3, 8]]
    assert log_det.isnan().tolist() == [False, False, True, False, False]


SHAPES = [(3, 5, 1), (70, 5, 1), (2, 3, 100), (4, 7, 31), (1, 1, 1), (5, 2, 1100), (3, 4, 32)]


@pytest.mark.parametrize("shape, dtype", [*itertools.product(SHAPES, DTYPES), ((200, 300, 1), torch.float32)], ids=str)
def test_coupling_channels(shape, dtype):
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    x, multiplier, added = normal(*shape, dtype=dtype), normal(shape[1], dtype=wide), normal(shape[1], dtype=wide)
    inverse = shape[0] % 2 == 0

    def function(x, m, a):
        m, a = m[:, None], a[:, None]
        return [(x - a) * m if inverse else m * x + a]

    grad = normal(*shape, dtype=dtype, seed=3)
    y = OPERATORS.channel_forward(x, multiplier, added, inverse)
    by_inputs = OPERATORS.channel_backward(grad, x, multiplier, added, inverse)
    close((y, *by_inputs), function, [x, multiplier, added], [grad])


@pytest.mark.parametrize("shape", [(0, 6), (4, 0), (0, 0)])
def test_coupling_empty(shape):
    x = normal(*shape, dtype=torch.float32)
    y, log_det = OPERATORS.affine_forward(x, x, x, *TANH, 1, False)
    assert y.shape == shape
    assert torch.equal(log_det, torch.zeros(shape[0], device=DEVICE))
    grads = OPERATORS.affine_backward(y, log_det, x, x, None, *TANH, 1, False, True, True, True)
    assert [g.shape for g in grads] == [shape] * 3
    total = OPERATORS.affine_event_forward(x, x, log_det + 1, 0, shape[1] // 2, 1, 0, *TANH, False)[1]
    if shape[1] == 0:
        assert torch.equal(total, log_det + 1)
    found = OPERATORS.channel_backward(*[x.unsqueeze(-1)] * 2, x.new_ones(shape[1]), x.new_ones(shape[1]), True)
    assert torch.equal(found[1], torch.zeros(shape[1], device=DEVICE))
    assert torch.equal(found[2], torch.zeros(shape[1], device=DEVICE))


def test_coupling_schemas_and_fakes():
    x, s, t = (normal(3, 6, dtype=torch.float32, seed=seed).requires_grad_() for seed in range(3))
    parameters, before = normal(3, 6, dtype=torch.float32).requires_grad_(), normal(3, dtype=torch.float32)
    torch.library.opcheck(OPERATORS.affine_forward.default, (x, s, t, *GATE, 1, True))
    torch.library.opcheck(OPERATORS.affine_event_forward.default, (x, parameters, before, 3, 3, 1, 0, *TANH, False))
    channels = normal(6, dtype=torch.float32).requires_grad_()
    torch.library.opcheck(OPERATORS.channel_forward.default, (x.detach().unsqueeze(-1), channels, channels, False))


def test_coupling_has_an_implementation_for_each_operator():
    names = ("affine_forward", "affine_backward", "affine_event_forward", "affine_event_backward")
    for name in (*names, "channel_forward", "channel_backward"):
        arguments = [argument.name for argument in getattr(OPERATORS, name).default._schema.arguments]
        function = getattr(triton, name)
        assert list(function.__annotations__)[:-1] == arguments


def test_kernels_compile_for_gpus(tmp_path):
    """To cubins for sm_80 and sm_90, GPU or not; contiguous rows move in the widest accesses that there are."""
    lines = compiled_for_gpus("triton_compile_coupling", tmp_path)
    assert len(lines) > 30
    forward = [line.split() for line in lines if " affine_rows_kernel fp32 " in line]
    # x, log_scale, shift and y, eight elements a lane: two accesses each.
    assert {words[3] for words in forward} == {"8"}
