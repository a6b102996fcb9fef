"""What a forward pass keeps for its backward, and large results: blocks that wait for a next one, never two users."""

import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import cgm_kernels
from cgm_kernels import CouplingLayer, affine_coupling_stack, mlp_divergence
from tests.support.backends import running

pytestmark = pytest.mark.skipif(
    not any(pair.id == "native-cpu" for pair in running()), reason="needs the extension's CPU kernels"
)


def coupling_problem(seed):
    """A coupling whose backward keeps more than a megabyte: a call's gradient, and the exact one."""
    generator = torch.Generator().manual_seed(seed)
    batch = int(torch.randint(2500, 4000, (), generator=generator))
    x = torch.randn(batch, 16, generator=generator)
    weights = [0.3 * torch.randn(n, m, generator=generator) for n, m in ((64, 8), (64, 64), (16, 64))]
    biases = [torch.randn(len(weight), generator=generator) for weight in weights]
    layers = [CouplingLayer(weights, biases, split, scale="tanh") for split in (8, slice(0, 8))]

    def call(dtype=torch.float32):
        def to(tensors):
            return [tensor.to(dtype) for tensor in tensors]

        leaf = x.to(dtype).requires_grad_()
        own = [layer._replace(weights=to(weights), biases=to(biases)) for layer in layers]
        y, log_det = affine_coupling_stack(leaf, own)
        return leaf, y.square().sum() + log_det.sum()

    with cgm_kernels.use_backend("reference"):
        leaf, value = call(torch.float64)
    return call, torch.autograd.grad(value, leaf)[0]


def divergence_problem(seed):
    """A perceptron with its divergence, likewise."""
    generator = torch.Generator().manual_seed(seed)
    x, e = (torch.randn(4000, 3, generator=generator) for _ in range(2))
    weights = [0.5 * torch.randn(n, m, generator=generator) for n, m in ((48, 3), (48, 48), (3, 48))]
    biases = [torch.randn(len(weight), generator=generator) for weight in weights]

    def call(dtype=torch.float32):
        leaf = x.to(dtype).requires_grad_()
        own = [w.to(dtype) for w in weights], [b.to(dtype) for b in biases]
        value, divergence = mlp_divergence(leaf, *own, probes=e.to(dtype)[None])[:2]
        return leaf, value.square().sum() + divergence.sin().sum()

    with cgm_kernels.use_backend("reference"):
        leaf, value = call(torch.float64)
    return call, torch.autograd.grad(value, leaf)[0]


@pytest.fixture(scope="module")
def problems():
    return [coupling_problem(seed) for seed in range(3)] + [divergence_problem(seed) for seed in range(2)]


def check(leaf, value, exact):
    grad = torch.autograd.grad(value, leaf)[0].double()
    assert (grad - exact).abs().max() <= 2e-5 * exact.abs().max()


def test_graphs_that_live_together_keep_their_own(problems):
    chooser, alive = random.Random(0), []
    for _ in range(40):
        call, exact = chooser.choice(problems)
        alive.append((*call(), exact))
        while len(alive) > 3 or (alive and chooser.random() < 0.4):
            check(*alive.pop(chooser.randrange(len(alive))))
    for graph in alive:
        check(*graph)


def test_threads_keep_their_own(problems):
    def steps(seed):
        chooser = random.Random(seed)
        for _ in range(8):
            call, exact = chooser.choice(problems)
            check(*call(), exact)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(steps, range(3)))


def test_a_result_takes_a_block_that_nobody_holds():
    x = torch.randn(3, 3000, 384)
    first = cgm_kernels.affine_coupling(*x)[0]
    place, part = first.data_ptr(), first[5:]
    expected = part.clone()
    del first
    assert cgm_kernels.affine_coupling(*-x)[0].data_ptr() != place and torch.equal(part, expected)
    del part
    results = [cgm_kernels.affine_coupling(*x)[0] for _ in range(3)]
    assert place in [one.data_ptr() for one in results] and all(torch.equal(one[5:], expected) for one in results)


def test_results_can_be_resized_shared_and_handed_to_numpy():
    x = torch.randn(3, 3000, 384)
    y = cgm_kernels.affine_coupling(*x)[0]
    expected, array = y.clone(), y.numpy()
    shared = cgm_kernels.affine_coupling(*x)[0].share_memory_()
    storage = y.untyped_storage()
    again = cgm_kernels.affine_coupling(*x)[0]
    again.untyped_storage().resize_(0)  # as sharded training frees parameters
    again.untyped_storage().resize_(storage.nbytes())
    again.copy_(y)
    del y, storage
    for _ in range(3):
        cgm_kernels.affine_coupling(*-x)
    assert (
        (torch.from_numpy(array) == expected).all() and torch.equal(shared, expected) and torch.equal(again, expected)
    )
    bigger = cgm_kernels.affine_coupling(*x)[0].resize_(4000, 384)
    assert torch.equal(bigger[:3000], expected)


def test_hooks_see_what_is_kept_once():
    """One block, not its matrices: a hook that writes to disk writes the whole of each storage that it gets."""
    x, layers = torch.randn(3000, 8), [CouplingLayer([torch.randn(8, 4)], [torch.randn(8)], 4, scale="tanh")] * 3
    leaf, sizes = x.clone().requires_grad_(), []

    def pack(tensor):
        sizes.append(tensor.untyped_storage().nbytes())
        return tensor.clone()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        total = affine_coupling_stack(leaf, layers)[1].sum()
    assert sum(sizes) < 1.1 * 4 * 3000 * (8 + 3 * 8 + 2 * 8)
    again = x.clone().requires_grad_()
    expected = torch.autograd.grad(affine_coupling_stack(again, layers)[1].sum(), again)
    assert torch.equal(torch.autograd.grad(total, leaf)[0], expected[0])


TOO_MUCH = """
import resource, torch
from cgm_kernels import CouplingLayer, affine_coupling_stack

layers = [CouplingLayer([torch.randn(8, 4).requires_grad_()], [torch.randn(8)], 4, scale="tanh")] * 64
x = torch.randn(1_000_000, 8)
affine_coupling_stack(x[:5000], layers)[1].sum().backward()
with open("/proc/self/statm") as used:
    now = int(used.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 2**30, now + 2**30))
try:
    affine_coupling_stack(x, layers)
except RuntimeError as error:
    print(error)
affine_coupling_stack(x[:5000], layers)[1].sum().backward()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_too_much_is_the_error_of_pytorch():
    """Trainers that look for a batch that fits know it by its words. The step would keep 4 GB."""
    command = [sys.executable, "-W", "ignore", "-c", TOO_MUCH]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4" in out


MEMORY = """
import torch
from cgm_kernels import CouplingLayer, affine_coupling_stack

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

weights = [torch.randn(n, m).requires_grad_() for n, m in ((128, 8), (128, 128), (16, 128))]
biases = [torch.zeros(len(weight)) for weight in weights]
layers = [CouplingLayer(weights, biases, 8, scale="tanh")] * 2

def step(n):
    return affine_coupling_stack(torch.randn(n, 16), layers)[1].sum()

step(100).backward()
before = resident()
held = step(150_000)
during = resident()
held.backward()
del held
print(during - before, resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_little_memory_waits():
    """Of the 0.3 GB that a step keeps, no more than 128 MB stay when it is done; some slack is the allocator's own."""
    out = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, timeout=120)
    during, after = map(float, out.stdout.split())
    assert during > 250 and after < 160


ALIVE = """
import torch, cgm_kernels

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

x = torch.randn(3, 4096, 66)
held = [cgm_kernels.affine_coupling(*x)[0]]
before = resident()
held += [cgm_kernels.affine_coupling(*x)[0] for _ in range(100)]
print((resident() - before) / (100 * x[0].nbytes / 2**20))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_results_that_live_take_little_more_than_their_numbers():
    """A block is a whole number of pages of 2 MB, of which results of 1.1 MB do not touch the rest."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if setting.exists() and "[always]" in setting.read_text():
        pytest.skip("every page is a large one here")
    out = subprocess.run([sys.executable, "-c", ALIVE], capture_output=True, text=True, check=True, timeout=120).stdout
    assert 0.9 < float(out) < 1.2
