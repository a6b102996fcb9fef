"""Threads that use one continuous flow at the same time, and ask different things of it."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from cgm_models.cnf import FFJORD, HamiltonianFlow, OTFlow
from tests.support.cnf import make, moved

FLOWS = {
    "exact": lambda: make("concat"),
    "blocks": lambda: make("blocks"),
    "probes": lambda: moved(FFJORD(dim=3, hidden_features=(8, 8), n_steps=3, exact_up_to=0)).double().eval(),
    "potential": lambda: OTFlow(dim=2, width=8, n_steps=2).double().eval(),
    "leapfrog": lambda: moved(HamiltonianFlow(dim=2, width=8, n_steps=3)).double().eval(),
}


def sampled(flow, hold):
    with holding(flow, hold):
        return flow.sample(7, generator=torch.Generator().manual_seed(1))


def sampled_with_log_prob(flow, hold):
    with holding(flow, hold):
        return torch.cat(
            [part.flatten() for part in flow.sample_and_log_prob(7, None, torch.Generator().manual_seed(1))]
        )


def refined(flow, hold):
    with flow.refined(3):
        hold()
        return flow.sample(7, generator=torch.Generator().manual_seed(1))


class holding:  # noqa: N801
    """Within, the latent points of this thread are drawn after ``hold``: in the middle of a call."""

    def __init__(self, flow, hold):
        self.base, self.draw, self.hold, self.thread = flow.base, flow.base.draw, hold, threading.current_thread()

    def __enter__(self):
        self.base.draw = self

    def __call__(self, *arguments):
        if threading.current_thread() is self.thread:
            self.hold()
        return self.draw(*arguments)

    def __exit__(self, *_):
        del self.base.draw


@pytest.mark.parametrize("call", [sampled, sampled_with_log_prob, refined])
@pytest.mark.parametrize("name", FLOWS)
@torch.no_grad()
def test_a_call_in_another_thread_changes_nothing(name, call):
    torch.manual_seed(0)
    flow = FLOWS[name]()
    x = torch.randn(5, *flow.event_shape, dtype=torch.float64)

    def ours():
        torch.manual_seed(2)
        drawn = flow.sample_and_log_prob(4)
        return flow.log_prob(x), *drawn, torch.tensor(flow.n_evaluations)

    alone, theirs_alone = ours(), call(flow, lambda: None)
    meet, found = threading.Barrier(2, timeout=60), []

    def hold():
        meet.wait()
        meet.wait()

    def other():
        with torch.no_grad():
            found.append(call(flow, hold))

    thread = threading.Thread(target=other)
    thread.start()
    meet.wait()
    try:
        together = ours()
    finally:
        meet.wait()
        thread.join()
    for got, expected in zip((*together, *found), (*alone, theirs_alone), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_what_is_asked_ends_with_the_call():
    flow = make("concat")
    layer = flow.transform.layers[0]
    with pytest.raises(RuntimeError, match="stop"), flow.refined(1), flow.refined(2):
        assert layer.solver.n_steps == 8 * 12
        assert copy.deepcopy(flow).transform.layers[0].solver.n_steps == 12
        raise RuntimeError("stop")
    assert layer.solver.n_steps == 12
    with pytest.raises(ValueError, match="temperature"):
        flow.sample(3, temperature=-1.0)
    assert flow(torch.ones(2, 2).double())[1].abs().min() > 0.0
    with pytest.raises(ValueError, match="halvings must be a whole number, at least 0"):
        flow.refined(-1)


@torch.no_grad()
def test_a_compiled_flow_follows_the_thread():
    flow = make("concat")
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).double()
    compiled = torch.compile(flow.log_prob, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), flow.log_prob(x))
    with flow.refined(2):
        fine = flow.log_prob(x)
        torch.testing.assert_close(compiled(x), fine, rtol=1e-13, atol=1e-13)
    assert not torch.allclose(compiled(x), fine, rtol=1e-13, atol=1e-13)


@torch.no_grad()
def test_evaluations_are_counted_for_the_thread_that_makes_them():
    flow = make("concat")
    layer = flow.transform.layers[0]
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).double()
    flow.log_prob(x)
    once = flow.n_evaluations

    def other():
        before = flow.n_evaluations
        with flow.refined(1):
            flow.log_prob(x)
        return before, flow.n_evaluations, layer.n_evaluations

    with ThreadPoolExecutor(1) as pool:
        before, theirs, of_layer = pool.submit(other).result()
        assert before == 0 and theirs == 2 * once and flow.n_evaluations == once > 0
        assert pool.submit(lambda: flow.n_evaluations).result() == theirs >= of_layer
    for again in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        assert again.n_evaluations == once
        with again.refined(2):
            again.log_prob(x)
        assert again.n_evaluations == 4 * once and flow.n_evaluations == once


@torch.no_grad()
def test_a_compiled_flow_counts_its_evaluations():
    flow = make("concat")
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).double()
    flow.log_prob(x)
    once = flow.n_evaluations
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(flow.log_prob, backend=counter, fullgraph=True)
    for halvings in (0, 1, 0, 1):
        with flow.refined(halvings):
            compiled(x)
        assert flow.n_evaluations == once * 2**halvings
    assert counter.frame_count == 2
