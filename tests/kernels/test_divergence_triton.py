"""The divergence on Triton beyond one tile and one program, what it asks of the host, and its kernels on GPUs."""

import pytest
import torch

import cgm_kernels
from tests.support.called import Called
from tests.support.divergence_operators import Call, by_reference, differentiated

pytest.importorskip("triton")
from cgm_kernels.divergence import triton, triton_flow, triton_flow_kernels, triton_kernels, triton_plan
from tests.support.gpu_compile import compiled_for_gpus
from tests.support.triton_compile_divergence import launch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.skipif(
    cgm_kernels.backends.absence("triton", DEVICE) is not None, reason="Triton does not run here"
)

CALLS = [
    Call((3, 17, 4, 3), batch=18, probes=3, film="shared", norms=True, by_row=True),
    Call((19, 5, 19), batch=18, probes=1, film="rows", norms=True),
    Call((3, 17, 18, 3), batch=18, probes=None, film="shared", activation="silu"),
    Call((5, 18, 5), batch=18, probes=None, film="shared", by_row=True),
    Call((5, 4, 5), batch=18, probes=None, film="rows", activation="sin"),
    Call((3, 17, 17, 3), batch=18, probes=None, film="rows", residual=True, norms=True, activation="softplus"),
    Call((2, 4, 4, 4, 4, 4, 2), batch=3, probes=5, residual=True),
    Call((3, 20, 3), batch=17, probes=2, method="midpoint", film="rows", norms=True, by_row=True, keep=False),
    Call((17, 5, 17), batch=17, probes=3, method="euler", norms=True, by_row=True),
    Call((5, 18, 5), batch=17, probes=None, method="euler"),
]


@pytest.fixture
def small_tiles(monkeypatch):
    """Those of a GPU, the smallest, for two programs: several tiles of rows, tangents, units, terms and coordinates."""
    original = triton_plan.plan
    for name, value in {"_BLOCK_ROWS": 48, "_MOST_TANGENTS": 2, "_COLUMNS": 16, "PROGRAMS": 2}.items():
        monkeypatch.setattr(triton_plan, name, value)
    for module in (triton, triton_flow):
        monkeypatch.setattr(module, "plan", lambda problem, _, *rest: original(problem, True, *rest))
    monkeypatch.setattr(triton_flow, "_MOST_STATES", 3 * 3 * 16)  # of (B, d) = (17, 3), 16 rows at a time
    torch.use_deterministic_algorithms(True, warn_only=True)  # which makes numbers that nobody has written NaN
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_several_tiles_and_programs(call, small_tiles):
    leaves = call.draw(DEVICE)
    found = differentiated(call, torch.ops.cgm_triton, leaves)
    for one, exact in zip(found, by_reference(call, leaves, torch.float64), strict=True):
        torch.testing.assert_close(one, exact, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("call", [CALLS[0], CALLS[2], CALLS[7]], ids=str)
def test_nothing_is_waited_for(call, monkeypatch):
    """After a first call no number comes from the device or goes there, so that a CUDA graph can capture it."""
    kernels = [triton_kernels.divergence_kernel, triton_kernels.divergence_backward_kernel]
    for kernel in [*kernels, triton_flow_kernels.flow_kernel, triton_flow_kernels.flow_backward_kernel]:
        monkeypatch.setattr(kernel, "run", lambda *_, **__: None)
    leaves = call.draw(DEVICE)
    launch(call, leaves)
    with Called() as called:
        launch(call, leaves)
    assert "new_empty" in called.names
    assert not called.names & {"_local_scalar_dense", "lift_fresh", "_to_copy", "nonzero"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_plans_keep_to_the_limits(dtype):
    """Tiles are powers of 2 that tl.dot takes, a program's registers hold them, and gradients find memory."""
    itemsize = torch.empty(0, dtype=dtype).element_size()
    for d in (1, 2, 7, 64, 300):
        for width in (1, 20, 128, 1000):
            for n_probes in (0, 1, 3, 5, 40):
                widths = (d, width, width, d)
                exact = n_probes == 0
                problem = triton_plan.Problem(widths, 4097, n_probes, exact, 0, exact, True, 0)
                share = triton_plan.n_parameters(widths)
                chosen = triton_plan.plan(problem, True, itemsize, share)
                tile = {name: chosen.constants[name] for name in ("BLOCK", "T", "COLUMNS", "TERMS", "D")}
                assert all(size & (size - 1) == 0 for size in tile.values())
                assert tile["BLOCK"] >= 16 and tile["COLUMNS"] >= 16 and tile["TERMS"] * itemsize >= 32
                assert (1 + tile["T"]) * tile["BLOCK"] * tile["COLUMNS"] <= 5 * 16 * 64
                assert chosen.tiles * tile["T"] >= problem.tangents and chosen.programs <= chosen.jobs
                assert chosen.programs == 1 or chosen.programs * share <= triton_plan.MOST_SHARED


def test_kernels_compile_for_gpus(tmp_path):
    """To cubins for sm_80 and sm_90, GPU or not."""
    lines = [line.split() for line in compiled_for_gpus("triton_compile_divergence", tmp_path)]
    potential = "bend carry trace seed advance factor retreat unseed lift land"
    wanted = {f"_{name}_kernel" for name in potential.split()} | {"update_kernel", "error_kernel"}
    wanted |= {f"{name}_kernel" for name in ("divergence", "divergence_backward", "flow", "flow_backward")}
    assert {name for _, name, *_ in lines} == wanted
    assert all(int(size) <= 99 * 1024 for _, _, size, *_ in lines)  # the shared memory of the smallest GPUs
