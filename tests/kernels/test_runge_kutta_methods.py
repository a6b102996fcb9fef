"""The tableaus of the methods, against the order conditions, those in C++ and torchdiffeq."""

import pytest
import torch

from cgm_kernels._extension import _C
from cgm_kernels.divergence.runge_kutta import runge_kutta_update
from cgm_kernels.divergence.tableaus import METHODS, TABLEAUS
from tests.support.backends import running

NATIVE = [pair for pair in running() if pair.id == "native-cpu"]


@pytest.mark.parametrize("name", METHODS)
def test_tableaus_hold_the_order_conditions(name):
    tableau = TABLEAUS[name]
    rows, c, b = tableau.matrix, tableau.nodes, tableau.weights
    stages = range(tableau.stages)
    assert [sum(row) for row in rows] == pytest.approx(c) and [len(row) for row in rows] == list(stages)
    bound = {
        1: {sum(b): 1},
        2: {sum(b[s] * c[s] for s in stages): 1 / 2},
        3: {
            sum(b[s] * c[s] ** 2 for s in stages): 1 / 3,
            sum(b[s] * rows[s][r] * c[r] for s in stages for r in range(s)): 1 / 6,
        },
        4: {
            sum(b[s] * c[s] ** 3 for s in stages): 1 / 4,
            sum(b[s] * c[s] * rows[s][r] * c[r] for s in stages for r in range(s)): 1 / 8,
            sum(b[s] * rows[s][r] * c[r] ** 2 for s in stages for r in range(s)): 1 / 12,
            sum(
                b[s] * rows[s][r] * rows[r][q] * c[q] for s in stages for r in range(s) for q in range(r)
            ): 1 / 24,
        },
    }  # fmt: skip
    for order in range(1, tableau.order + 1):
        for found, wanted in bound[order].items():
            assert found == pytest.approx(wanted, abs=1e-15)


@pytest.mark.parametrize("pair", NATIVE)
@pytest.mark.parametrize("method", METHODS)
def test_tableaus_are_the_same_in_both_languages(method, pair):
    nodes, matrix, weights = _C.runge_kutta_tableau(METHODS.index(method))
    tableau = TABLEAUS[method]
    assert (tuple(nodes), tuple(map(tuple, matrix)), tuple(weights)) == tableau[:3]


@pytest.mark.parametrize("method, theirs", [("euler", "euler"), ("midpoint", "midpoint"), ("rk4_38", "rk4")])
def test_tableaus_are_those_of_torchdiffeq(method, theirs):
    torchdiffeq = pytest.importorskip("torchdiffeq")
    y, h = torch.tensor([0.3, -1.0], dtype=torch.float64), 0.7

    def field(t, y):
        return torch.sin(3 * y) * (1 + t) + t

    tableau, stages = TABLEAUS[method], []
    for node, row in zip(tableau.nodes, tableau.matrix, strict=True):
        point = runge_kutta_update(y, stages, row, h) if row else y
        stages.append(field(node * h, point))
    found = runge_kutta_update(y, stages, tableau.weights, h)
    times = torch.tensor([0.0, h], dtype=torch.float64)
    torch.testing.assert_close(found, torchdiffeq.odeint(field, y, times, method=theirs)[1], rtol=1e-14, atol=1e-14)
