"""The contenders of the Langevin benchmark: each samples the law that it should, and one that does not is found out."""

import pytest
import torch

import cgm_kernels
from benchmarks import langevin
from benchmarks.patching import patched


@pytest.fixture(autouse=True)
def as_it_was():
    torch.manual_seed(0)
    yield
    patched("torchebm", False)
    cgm_kernels.set_backend("auto")


@pytest.mark.parametrize("cell", ["step:1x1", "step:3000x1", "in_place:3000x1", "normal:3000x1", "chain:600x20"])
def test_every_langevin_contender_samples_the_same_law(cell):
    found = langevin.BENCHMARK.cell(cell)
    problem = langevin.Problem(found, "sample", "cpu")
    for name in ("native", "reference", "eager", "torchebm", "torchebm_patched", "floor_copy"):
        if name == "native" and cgm_kernels.backends.absence("native", "cpu"):
            continue
        if langevin.why_not(name, found, "sample", False) is None:
            contender = problem.contender(name)
            if contender.prepare is not None:
                contender.prepare()
            for index in range(2):
                contender.call(index)


def test_the_patch_of_torchebm_is_that_of_one_contender():
    pytest.importorskip("torchebm")
    problem = langevin.Problem({"kind": "step", "n": 50, "steps": 1}, "sample", "cpu")
    plain, patched = problem.contender("torchebm"), problem.contender("torchebm_patched")
    cgm_kernels.integrations.report(reset=True)
    for contender in (plain, patched, plain, patched):
        contender.prepare()
        contender.call(0)
    rows = {row.function: row for row in cgm_kernels.integrations.report(reset=True)}
    assert rows["torchebm.EulerMaruyamaIntegrator.step"].ours == 2


@pytest.mark.parametrize("cell", ["step:3000x1", "normal:3000x1", "chain:3000x5"])
def test_a_sampler_of_another_law_is_found_out(monkeypatch, cell):
    problem = langevin.Problem(langevin.BENCHMARK.cell(cell), "sample", "cpu")
    right = problem._sampler

    def wrong(name, captured, x, grad):
        call = right(name, captured, x, grad)
        return (lambda: 1.2 * call()) if name == "reference" else call

    monkeypatch.setattr(problem, "_sampler", wrong)
    with pytest.raises(AssertionError, match="has a mean off by"):
        problem.contender("reference")


def test_the_plain_loop_has_the_gradient_of_the_energy():
    x, means = torch.randn(50, 2, dtype=torch.float64), langevin.mixture_means().double()
    energy = cgm_kernels.langevin.energies.GaussianMixtureEnergy(None, means, stds=langevin.STD)
    torch.testing.assert_close(langevin.mixture_gradient(x, means), energy.gradient(x), rtol=1e-5, atol=1e-5)
