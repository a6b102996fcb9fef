"""Langevin chains on Triton beyond one program and one tile of a product, and their kernels on GPUs."""

import pytest
import torch

import cgm_kernels
from cgm_kernels import langevin_chain
from tests.support.chains import made, run, state_of
from tests.support.gpu_compile import compiled_for_gpus

pytest.importorskip("triton")
from cgm_kernels.langevin import triton_chain

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.skipif(
    cgm_kernels.backends.absence("triton", DEVICE) is not None, reason="Triton does not run here"
)
OPTIONS = {"temperature": 0.4, "max_grad_norm": 1.0, "clamp": (-2.0, 2.0)}


def check(name, chains):
    energy, x = made(name, device=DEVICE, chains=chains)
    h = 0.02 + 0.01 * torch.arange(chains, dtype=torch.float64, device=DEVICE) / chains
    states = [state_of(DEVICE), state_of(DEVICE)]
    found, exact = (
        run(backend, x, energy, 3, h, state=state, **OPTIONS)
        for backend, state in zip(("triton", "reference"), states, strict=True)
    )
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)
    assert states[0].equal(states[1])


@pytest.mark.parametrize("name", ["mixture-diagonal-7", "mixture-full-2", "gaussian-full-40"])
def test_chain_of_several_programs(name, monkeypatch):
    monkeypatch.setattr(triton_chain, "_INTERPRETED", 64)
    check(name, 37)


@pytest.mark.parametrize("name", ["network-deep", "network-tanh"])
def test_chain_of_tiles_smaller_than_layers(name, monkeypatch):
    monkeypatch.setattr(triton_chain, "_interpreted", lambda widest: (16, 16, 4, 16))
    check(name, 37)


def test_chain_of_more_dimensions_than_registers(monkeypatch):
    monkeypatch.setattr(triton_chain, "MOST_DIMS", 4)
    monkeypatch.setattr(triton_chain, "MOST_FULL_BYTES", 8)
    for name in ("mixture-diagonal-7", "mixture-full-2"):
        check(name, 5)


def test_chain_reads_strided_numbers():
    energy, x = made("mixture-diagonal-7", device=DEVICE, chains=6)
    h = torch.linspace(0.01, 0.1, 12, dtype=torch.float64, device=DEVICE)[::2]
    with cgm_kernels.use_backend("triton"):
        found = langevin_chain(x, energy, 2, h, state=state_of(DEVICE))
        again = langevin_chain(x.mT.contiguous().mT, energy, 2, h.clone(), state=state_of(DEVICE))
    assert torch.equal(found, again)


def test_chain_kernels_compile_for_gpus(tmp_path):
    """To cubins for sm_80 and sm_90, GPU or not."""
    lines = compiled_for_gpus("triton_compile_langevin_chain", tmp_path)
    assert len(lines) == 10
    assert all(int(line.split()[3]) <= 99 * 1024 for line in lines)  # the shared memory of the smallest GPUs
