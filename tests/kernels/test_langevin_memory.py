"""Where Langevin steps read, write and draw: states, seeds, outputs, threads, blocks and strides."""

import pytest
import torch

import cgm_kernels
from cgm_kernels.langevin import noise_state
from cgm_kernels.philox import normal_reference
from tests.support.backends import fused, running
from tests.support.langevin import LARGE_CASES, Case, state

NATIVE = [pair for pair in fused() if "native" in pair.id]


@pytest.mark.parametrize("pair", running())
def test_every_call_advances_the_state(pair):
    backend, device = pair
    x, source = torch.zeros(3, 2, device=device), state(device, 5, 2**40)
    with cgm_kernels.use_backend(backend):
        cgm_kernels.langevin_step(x, x, 0.1, state=source)
        cgm_kernels.langevin_step(x, x, 0.1, state=source, out=x)
        cgm_kernels.langevin_step(x.half(), x.half(), 0.1, state=source)
        cgm_kernels.langevin_step(x.clone().requires_grad_(), x, 0.1, state=source)
        cgm_kernels.normal((2, 2), state=source)
        cgm_kernels.normal((0, 2), state=source)
        cgm_kernels.mala_accept(x, x, x[:, 0], state=source)
        cgm_kernels.langevin_step(x[:0], x[:0], 0.1, state=source)
    assert source.tolist() == [5, 2**40 + 8]


@pytest.mark.parametrize("pair", running())
def test_a_chain_of_steps_uses_successive_words(pair):
    """Steps on grad 0 from 0 add up the normals of steps 0, 1, 2, … of the state's key."""
    backend, device = pair
    x, source = torch.zeros(4, 5, dtype=torch.float64, device=device), state(device, 77, 0)
    with cgm_kernels.use_backend(backend):
        for _ in range(6):
            cgm_kernels.langevin_step(x, torch.zeros_like(x), 0.5, state=source, out=x)
    expected = sum(normal_reference((4, 5), 77, step) for step in range(6))
    torch.testing.assert_close(x.cpu(), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("pair", running())
def test_one_seed_gives_the_same_noise_everywhere(pair):
    """Whatever the backend, dtype, strides and way of calling: the key is the generator's next 64 bits."""
    backend, device = pair
    x = torch.zeros(6, 4, device=device)
    torch.manual_seed(11)
    key = noise_state().tolist()[0]
    expected = normal_reference((6, 4), key)
    with cgm_kernels.use_backend(backend):
        for generator in (None, torch.Generator()):
            for values in (x, x.double(), x.t().contiguous().t(), x.half(), x.clone().requires_grad_()):
                (torch.manual_seed if generator is None else generator.manual_seed)(11)
                z = cgm_kernels.langevin_step(values, torch.zeros_like(values), 0.5, generator=generator)
                torch.testing.assert_close(z.detach().cpu().double(), expected, rtol=2e-3, atol=2e-6)
            (torch.manual_seed if generator is None else generator.manual_seed)(11)
            torch.testing.assert_close(
                cgm_kernels.normal((6, 4), generator=generator, device=device, dtype=torch.float64).cpu(), expected
            )
            after = torch.rand(1, generator=generator)
            (torch.manual_seed if generator is None else generator.manual_seed)(11)
            noise_state(generator)
            assert after.equal(torch.rand(1, generator=generator)), "a call takes 64 bits of the generator, no more"


@pytest.mark.parametrize("pair", running())
@pytest.mark.parametrize("layout", ["dense", "transposed", "sliced", "scattered"])
@pytest.mark.parametrize("target", ["new", "x", "grad"])
def test_out(target, layout, pair):
    backend, device = pair
    case = Case((6, 5), layout=layout, per_chain="h", max_grad_norm=1.0)
    with cgm_kernels.use_backend(backend):
        expected = case.call(case.draw(torch.float32, device), state=state(device))
        drawn = case.draw(torch.float32, device)
        x, grad = (case.laid_out(one) for one in drawn[:2])
        out = {"new": case.laid_out(torch.zeros_like(x)), "x": x, "grad": grad}[target]
        whole, version = out._base if out._base is not None else out, out._version
        before = whole.isnan().sum()
        assert case.call((x, grad, *drawn[2:]), state=state(device), out=out) is out
    assert out.equal(expected)
    assert whole.isnan().sum() == before, "nothing beside the elements of out is written"
    assert out._version > version, "autograd must see that out has changed"


@pytest.mark.parametrize("pair", running())
def test_out_that_overlaps_its_inputs(pair):
    backend, device = pair
    case = Case((40, 30))
    x, grad, h, t = case.draw(torch.float32, device)
    with cgm_kernels.use_backend(backend):
        expected = case.call((x, grad, h, t), state=state(device))
        for shift in (1, 7, 600):
            memory = torch.zeros(1200 + shift, device=device)
            source, out = memory[:1200].view(40, 30), memory[shift:].view(40, 30)
            source.copy_(x)
            assert case.call((source, grad, h, t), state=state(device), out=out).equal(expected)
            source, out = out, source
            source.copy_(x)
            assert case.call((source, grad, h, t), state=state(device), out=out).equal(expected)
        square = x[:30].clone()
        assert cgm_kernels.langevin_step(
            square, grad[:30], h, temperature=t, state=state(device), out=square.t()
        ).equal(cgm_kernels.langevin_step(x[:30], grad[:30], h, temperature=t, state=state(device)))
        sizes = x[0].abs()  # step sizes inside the memory of out
        wide = cgm_kernels.langevin_step(x[:30], grad[:30], sizes.clone(), state=state(device))
        inside = torch.cat([sizes, torch.zeros(900, device=device)])
        out = inside[:900].view(30, 30)
        assert cgm_kernels.langevin_step(x[:30], grad[:30], inside[:30], state=state(device), out=out).equal(wide)


@pytest.mark.parametrize("pair", [pair for pair in NATIVE if "cpu" in pair.id])
@pytest.mark.parametrize("case", [*LARGE_CASES, Case((300_000,))], ids=str)
def test_bits_do_not_depend_on_the_number_of_threads(case, pair):
    threads, found = torch.get_num_threads(), []
    drawn = case.draw(torch.float32, "cpu")
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            accepted = cgm_kernels.mala_accept(drawn[0], drawn[1], torch.full(case.shape[:1], -0.7), state=state("cpu"))
            found.append((case.call(drawn, state=state("cpu")), *accepted))
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(one.equal(other) for one, other in zip(found[0], others, strict=True))


@pytest.mark.parametrize("pair", fused())
def test_bits_do_not_depend_on_blocks_or_strides(pair):
    """A prefix draws the same normals, and every layout gives the same bits."""
    backend, device = pair
    with cgm_kernels.use_backend(backend):
        for dtype in (torch.float32, torch.float64):
            whole = cgm_kernels.normal(3000, state=state(device), dtype=dtype, device=device)
            for n in (1, 2, 3, 5, 17, 31, 64, 1023, 1024, 1025, 2999):
                assert cgm_kernels.normal(n, state=state(device), dtype=dtype, device=device).equal(whole[:n])
            results = []
            for layout in ("dense", "transposed", "sliced", "scattered"):
                case = Case((60, 50), layout=layout, per_chain="hT", max_grad_norm=5.0)
                results.append(case.call(case.draw(dtype, device), state=state(device)))
            assert all(result.equal(results[0]) for result in results)
