"""The emulated CUDA machine itself: what it computes, and what it must notice."""

import ctypes

import numpy as np
import pytest

from tests.support import cuda_emulation

INPUT = np.random.default_rng(0).integers(0, 100, size=128).astype(np.int32)


@pytest.fixture(scope="module")
def machine():
    if cuda_emulation.compiler() is None:
        pytest.skip("no C++ compiler: neither $CXX nor c++ is there")
    return cuda_emulation.Machine(cuda_emulation.build("self_test", csrc=cuda_emulation.FOLDER))


def run(machine, what, seed=0, outputs=128):
    output = np.zeros(outputs, np.int32)
    machine.seed(seed)
    machine.call("self_test", what, ctypes.c_void_p(INPUT.ctypes.data), ctypes.c_void_p(output.ctypes.data))
    return output


def test_barriers_order_shared_memory(machine):
    for seed in range(20):
        np.testing.assert_array_equal(run(machine, 0, seed), INPUT[::-1])


@pytest.mark.parametrize("seed", range(5))
def test_a_missing_barrier_shows(machine, seed):
    assert not np.array_equal(run(machine, 1, seed), INPUT[::-1])


def test_storage_of_cub_reused_too_early_shows(machine):
    expected = np.cumsum(np.cumsum(INPUT))
    for seed in range(5):
        np.testing.assert_array_equal(run(machine, 7, seed), expected)
    assert any(not np.array_equal(run(machine, 8, seed), expected) for seed in range(5))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (2, "different barriers: thread .* at .*cuda.cu"),
        (3, "deadlock: thread .* waits for lanes of its warp"),
        (4, "a lane that has exited"),
        (5, "outside the block's shared memory"),
        (9, "invalid value"),
    ],
)
def test_mistakes_are_named(machine, what, message):
    with pytest.raises(RuntimeError, match=message):
        run(machine, what)
    np.testing.assert_array_equal(run(machine, 0), INPUT[::-1])  # the machine goes on working


def test_the_error_of_a_launch_is_not_found_again(machine):
    """PyTorch asks after each of its own launches."""
    np.testing.assert_array_equal(run(machine, 10)[:2], [1, 0])


def test_a_kernel_never_opts_in_to_less_shared_memory_than_before(machine):
    """Another thread may be about to launch it with more."""
    assert run(machine, 11)[0] >= 200 * 1024


def test_warp_operations(machine):
    for seed in range(5):
        output = run(machine, 6, seed, 8 * 128)
        atomic, results = output[7], output.reshape(128, 8)
        warps = INPUT.reshape(4, 32)
        np.testing.assert_array_equal(results[:, 0], np.repeat(warps.sum(1), 32))
        np.testing.assert_array_equal(results[:, 1], np.cumsum(warps, 1).ravel())
        votes = ((warps & 1).astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(1).astype(np.uint32)
        np.testing.assert_array_equal(results[:, 2].view(np.uint32), np.repeat(votes, 32))
        assert (results[:, 3] == 1).all()
        assert (results[:, 4] == (INPUT & 1).sum()).all()
        equal = ((warps[:, :, None] & 3) == (warps[:, None, :] & 3)).astype(np.uint64) << np.arange(32, dtype=np.uint64)
        np.testing.assert_array_equal(results[:, 5].view(np.uint32), equal.sum(2).astype(np.uint32).ravel())
        assert (abs(results[:, 6] - 1e7 * (float(np.float16(0.1)) + 0.10009765625)) < 2).all()
        assert atomic == INPUT.sum()
