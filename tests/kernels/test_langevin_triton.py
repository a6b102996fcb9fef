"""What is special to the Triton kernels of langevin: tails, tiles, splits, accuracy, and what compiles.

Without a GPU they run in Triton's interpreter. The cases that all backends share are in test_langevin.py.
"""

import numpy as np
import pytest
import torch

import cgm_kernels
from cgm_kernels import philox
from cgm_kernels.langevin import operators
from cgm_kernels.langevin import triton as langevin
from tests.support.cuda_emulation.langevin import box_muller
from tests.support.gpu_compile import compiled_for_gpus
from tests.support.langevin import Case, state

triton = pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if cgm_kernels.backends.absence("triton", DEVICE):
    pytest.skip(cgm_kernels.backends.absence("triton", DEVICE), allow_module_level=True)

import triton.language as tl  # noqa: E402

from cgm_kernels.langevin import triton_kernels, triton_noise  # noqa: E402

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
OPERATORS = torch.ops.cgm_triton
assert operators is not None  # it registers them


def step(case, drawn, **options):
    with cgm_kernels.use_backend("triton"):
        return case.call(drawn, state=state(DEVICE), **options).cpu().double()


def assert_right(case, dtype):
    drawn = case.draw(dtype, DEVICE)
    exact, eps = case.formula(drawn, torch.float64), torch.finfo(dtype).eps
    scale = 1 + exact.abs().max()
    torch.testing.assert_close(step(case, drawn), exact, rtol=eps, atol=float(8e-7 * scale if eps > 1e-9 else eps * 16))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("elements", [1, 2, 3, 63, 64, 65, 130])
def test_langevin_tails_and_tiles(monkeypatch, elements, dtype):
    monkeypatch.setattr(langevin, "_BLOCK", 64)
    assert_right(Case((elements,), per_chain="hT"), dtype)
    with cgm_kernels.use_backend("triton"):
        found = cgm_kernels.normal(elements, state=state(DEVICE), dtype=dtype)
    exact = philox.normal_reference((elements,), *state("cpu").tolist())
    torch.testing.assert_close(found.cpu().double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("shape", [(1, 500), (3, 130), (20, 5), (2, 64), (5,), ()], ids=str)
def test_langevin_norms_over_tiles_and_splits(monkeypatch, shape, dtype):
    for name, value in (("_BLOCK", 16), ("NORM_TILE", 64), ("_NORM_SPLIT", 64), ("_PROGRAMS", 6)):
        monkeypatch.setattr(langevin, name, value)
    assert_right(Case(shape, max_grad_norm=0.7, per_chain="h" if shape else ""), dtype)


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_langevin_norms_of_extreme_gradients():
    """Huge and tiny squares neither overflow nor vanish, together in one chain too."""
    grad = torch.ones(6, 4, dtype=torch.float64)
    grad[1] *= 1e300
    grad[2] *= 1e-310
    grad[3, 1], grad[3, 2] = 1e300, 1e-300
    grad[4, 1] = torch.inf
    grad[5, 2] = torch.nan
    factors = langevin._factors(grad.to(DEVICE), 1e-311).cpu()
    expected = 1e-311 / np.array([2.0, 2e300, 2e-310, 1e300])
    np.testing.assert_allclose(factors[:4].numpy(), expected, rtol=1e-12)
    assert factors[4:].isnan().all()
    assert langevin._factors(grad[2:3].to(DEVICE), 1.0).item() == 1.0


def test_langevin_indices_beyond_32_bits(monkeypatch):
    """The launch for huge tensors, here of a small one."""
    launched = {}

    class Recording:
        def __getitem__(self, grid):
            def run(*arguments, **constants):
                launched.update(constants)
                triton_kernels_step[grid](*arguments, **{**constants, "SMALL": False})

            return run

    triton_kernels_step = triton_kernels.step_kernel
    monkeypatch.setattr(triton_kernels, "step_kernel", Recording())
    assert_right(Case((6, 7), per_chain="hT", clamp=(-0.5, 0.5)), torch.float32)
    assert launched["SMALL"]


@triton.jit
def _pairs_kernel(first, second, normals, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    u = tl.load(first + at).to(tl.uint32, bitcast=True)
    v = tl.load(second + at).to(tl.uint32, bitcast=True)
    DTYPE: tl.constexpr = normals.dtype.element_ty
    radius = triton_noise._radius(u, DTYPE)
    cosine, sine = triton_noise._direction(v, DTYPE)
    tl.store(normals + 2 * at, radius * cosine)
    tl.store(normals + 2 * at + 1, radius * sine)


@triton.jit
def _words_kernel(words, state, first_group, GROUPS: tl.constexpr):
    group = tl.load(first_group) + tl.arange(0, GROUPS)
    a, b, c, d = triton_noise.group_words(tl.load(state), tl.load(state + 1), group)
    found = triton_noise.in_element_order(a, b, c, d)
    tl.store(words + tl.arange(0, 4 * GROUPS), found.to(tl.int32, bitcast=True))


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_langevin_normals_are_accurate_in_the_whole_range(dtype):
    """Within 4 units in the last place: u near 0, 2/3 and 1, the zeros of sin and cos, and the ends of quadrants."""
    ends = np.array([0, 2**24, 2**29, 2**30, 3 * 2**29, 2**31, 0xAAAAAAAB, 3 * 2**30, 7 * 2**29, 2**32])
    spread = (ends[:, None] + (-1) ** np.arange(60) * 2 ** (np.arange(60) // 2)).ravel() % 2**32
    generator = np.random.default_rng(0)
    random = generator.integers(2**32, size=(2, 8192 - 2 * len(spread)))
    first = np.concatenate([spread, generator.permutation(spread), random[0]])
    second = np.concatenate([generator.permutation(spread), spread, random[1]])
    words = [torch.from_numpy(one.astype(np.uint32).view(np.int32)).to(DEVICE) for one in (first, second)]
    normals = torch.empty(len(first), 2, dtype=dtype, device=DEVICE)
    _pairs_kernel[(8,)](*words, normals, BLOCK=1024)
    exact = np.stack(box_muller(first.astype(np.uint64), second.astype(np.uint64)), 1)
    spacing = np.spacing(np.abs(exact).astype(normals.cpu().numpy().dtype))
    assert np.max(np.abs(normals.cpu().double().numpy() - exact) / spacing) <= 4.0


@pytest.mark.parametrize("element", [0, 4 * 2**32 - 8, 4 * 2**40])
def test_langevin_words_of_far_elements(element):
    """The counter has 64 bits of elements."""
    words = torch.empty(32, dtype=torch.int32, device=DEVICE)
    _words_kernel[(1,)](words, state(DEVICE), torch.tensor([element // 4], device=DEVICE), GROUPS=8)
    exact = philox.noise_words(32, *state("cpu").tolist(), first_element=element)
    assert torch.equal(words.cpu().long() & 0xFFFFFFFF, exact)


def test_kernels_compile_for_gpus(tmp_path):
    """To cubins for sm_80 and sm_90, GPU or not; whole groups of contiguous elements move in the widest accesses."""
    lines = compiled_for_gpus("triton_compile_langevin", tmp_path)
    assert len(lines) >= 20
    wide = [line.split() for line in lines if " step_kernel fp32 " in line and "'VECTOR': 16" in line]
    # x, grad and out, eight elements a lane: two accesses each, and the normals stay in registers.
    assert {(words[3], words[6]) for words in wide} == {("6", "0")}
