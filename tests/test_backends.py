"""Which backend runs: the one of the block and the thread, in compiled graphs as in eager calls."""

import threading
import warnings

import pytest
import torch

import cgm_kernels
from cgm_kernels import backends


@pytest.fixture(autouse=True)
def fresh_graphs():
    torch.compiler.reset()


def test_a_compiled_call_asks_for_the_backend_of_its_block_and_thread():
    compiled = torch.compile(
        lambda x: x + (1 if backends.get_backend() == "reference" else 2), backend="eager", fullgraph=True
    )
    seen = []

    def call():
        seen.append(compiled(torch.zeros(())).item())

    with cgm_kernels.use_backend("reference"):
        call()
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    call()
    assert seen == [1, 2, 2]


def test_what_runs_here_is_a_constant_of_a_graph_without_breaks_and_warnings():
    """Nothing of the search for Triton and CUDA is traced."""

    def answers(x):
        absent = [backends.absence("triton", device) is None for device in ("cpu", "cuda")]
        return x + 4 * (backends.select("cpu") == "native") + 2 * absent[0] + absent[1]

    x = torch.zeros((), dtype=torch.int64)
    torch._dynamo.utils.warn_once_cache.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.compile(answers, backend="eager", fullgraph=True)(x) == answers(x)
