"""normflows' couplings in a row, with swaps between them, in one call: the same numbers, and what is left alone."""

import functools

import pytest
import torch

normflows = pytest.importorskip("normflows", reason="normflows is not installed (pip install normflows)")

from normflows import distributions, flows, nets  # noqa: E402

import cgm_kernels  # noqa: E402
from tests.support.flow_libraries import NORMALIZING_FLOW_CALLS as CALLS  # noqa: E402
from tests.support.flow_libraries import assert_ours, assert_same, points, randomized  # noqa: E402

same = functools.partial(assert_same, "normflows")
draw = functools.partial(points, features=6)


def block(index, features=6, **options):
    torch.manual_seed(index)
    return flows.AffineCouplingBlock(nets.MLP([features // 2, 9, 7, 2 * (features // 2)]), **options)


def flow(*layers, features=6):
    return randomized(normflows.NormalizingFlow(distributions.DiagGaussian(features), list(layers)))


def realnvp(blocks=4, features=6):
    modes = ("channel", "channel_inv")
    layers = []
    for k in range(blocks):
        layers.append(block(k, features, split_mode=modes[k // 2 % 2], scale_map=("exp", "sigmoid_inv")[k % 2]))
        if k != 1:  # an odd number of swaps, and two couplings without one between them
            layers.append(flows.Permute(features, mode="swap"))
    return flow(*layers, features=features)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("rows", [1, 300])
def test_a_row_is_one_call(rows, name):
    x = draw(rows)
    rounding = 1e-6 if name.endswith(("log_det", "kld")) else 1e-9  # there normflows adds in float32
    found = same(realnvp(), lambda m: CALLS[name](m, x), x, rtol=rounding)
    assert_ours(found, **{f"NormalizingFlow_{name}": 1})


def test_rows_end_where_another_layer_stands():
    x = draw(7)
    swap = functools.partial(flows.Permute, 6, mode="swap")
    mixed = flow(
        block(0), swap(), block(1), flows.Permute(6), block(2), swap(), flows.AffineConstFlow((6,)), block(3), block(4)
    )
    found = same(mixed, lambda m: m.log_prob(x), x)
    assert_ours(found, NormalizingFlow_log_prob=1, AffineConstFlow_inverse=1, AffineCouplingBlock_inverse=1)


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [block(0), flows.Permute(6, mode="swap")],
        lambda: [block(k, scale_map="sigmoid") for k in range(2)],
        lambda: [
            flows.AffineCouplingBlock(torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.Tanh())) for _ in range(2)
        ],
    ],
    ids=["one", "sigmoid", "networks"],
)
def test_without_a_row_the_layers_answer_for_themselves(layers):
    x, model = draw(5), flow(*layers())
    couplings = sum(type(layer) is flows.AffineCouplingBlock for layer in model.flows)
    assert_ours(same(model, lambda m: m.log_prob(x), x), AffineCouplingBlock_inverse=couplings)


def test_hooks_and_replaced_methods_are_seen():
    x, seen = draw(5), []
    hooked = realnvp()
    hooked.flows[2].register_forward_hook(lambda *_: seen.append(1))
    same(hooked, lambda m: m.forward(x), x)
    assert len(seen) == 4  # plain, patched, accelerated, plain again
    model = realnvp()
    model.flows[0].inverse = lambda z: (z + 1, torch.zeros(len(z)))
    same(model, lambda m: m.log_prob(x), x)


def test_odd_features_and_other_dtypes_are_normflows():
    odd = flow(*(flows.AffineCouplingBlock(nets.MLP([3, 8, 4])) for _ in range(3)), features=5)
    x = points(4, 5)
    assert_ours(same(odd, lambda m: m.log_prob(x), x), AffineCouplingBlock_inverse=3)
    model = realnvp().bfloat16()
    expected = model.log_prob(x16 := draw(4).detach().bfloat16())
    with cgm_kernels.accelerate(model):
        torch.testing.assert_close(model.log_prob(x16), expected)


def test_single_precision_is_as_accurate():
    torch.manual_seed(0)
    model = realnvp(8, 64)
    x = torch.randn(500, 64)
    exact = model.log_prob(x.double())
    model = model.float()
    plain = model.log_prob(x)
    with cgm_kernels.accelerate(model):
        ours = model.log_prob(x)
    error, other = ((one.double() - exact).abs().max() for one in (ours, plain))
    assert error <= 2 * other + 1e-4
