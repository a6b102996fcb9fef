"""What PyTorch and Triton's compiler ask of the kernels of sliced_ot: schemas, compiled graphs, GPU binaries."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.library import opcheck

import cgm_kernels
from cgm_kernels.sliced_ot.operators import COEFFICIENTS, GRADIENT, NOTHING
from tests.support.gpu_compile import compiled_for_gpus
from tests.support.sliced_ot import DEVICE, clouds, masses

pytest.importorskip("triton")
if cgm_kernels.backends.absence("triton", DEVICE):
    pytest.skip(cgm_kernels.backends.absence("triton", DEVICE), allow_module_level=True)


ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("keep_x, keep_y", [(NOTHING, NOTHING), (COEFFICIENTS, GRADIENT)])
@pytest.mark.parametrize("weighted, grad", [(False, False), (True, False), (False, True)])
def test_sliced_ot_opcheck(keep_x, keep_y, weighted, grad):
    """With gradients all but the dispatch test, which differentiates the kept outputs as well: they refuse that."""
    utilities = ("test_schema", "test_autograd_registration", "test_faketensor")
    utilities = utilities if grad else (*utilities, "test_aot_dispatch_dynamic")
    x, y, projections = clouds(5, 7, batch=(2,), dtype=torch.float32)
    x.requires_grad_(grad)
    y.requires_grad_(grad)
    weights = masses((2, 5)) if weighted else None
    arguments = (x, y, projections, weights, None, 2.0, True, keep_x, keep_y)
    opcheck(torch.ops.cgm_triton.sliced_forward.default, arguments, test_utils=utilities)
    rows = [t.detach().requires_grad_(t.requires_grad) for t in (x[..., 0], y[..., 0])]
    flags = (keep_x != NOTHING, keep_y != NOTHING, False, False)
    arguments = (*rows, weights, None, 1.0, *flags)
    opcheck(torch.ops.cgm_triton.wasserstein_1d_forward.default, arguments, test_utils=utilities)


def test_sliced_ot_compile():
    x, y, projections = clouds(6, 6, dtype=torch.float32)
    x.requires_grad_()

    def loss(x, y):
        return cgm_kernels.sliced_wasserstein_distance(x, y, projections=projections)

    with cgm_kernels.use_backend("triton"):
        expected = loss(x, y)
        actual = torch.compile(loss, backend="aot_eager", fullgraph=True)(x, y)
    gradients = [torch.autograd.grad(value, x)[0] for value in (actual, expected)]
    assert torch.equal(actual, expected)
    assert torch.equal(*gradients)


def test_import_needs_no_triton():
    code = "import sys; sys.modules['triton'] = None; import cgm_kernels; print(cgm_kernels.available_backends())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "reference" in done.stdout


def test_kernels_compile_for_gpus(tmp_path):
    """To cubins for sm_80 and sm_90, GPU or not: the interpreter accepts much that the compiler refuses."""
    lines = compiled_for_gpus("triton_compile", tmp_path)
    assert len(lines) > 20
    shared = max(int(line.split()[3]) for line in lines)
    assert shared <= 48 * 1024  # what a block has on every GPU without asking for more
