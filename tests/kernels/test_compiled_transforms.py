"""torch.func in compiled functions, which gets the reference; test_masked_compile.py has the masked inverse."""

import pytest
import torch
from torch.func import grad, jvp, vmap

import cgm_kernels
from tests.support.backends import fused
from tests.support.derivatives import waves
from tests.support.potentials import Case, drawn


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, PARAMETERS, DIRECTIONS = normal(3, 4), normal(3, 4, seed=1), normal(4, 6, seed=6)
LAYERS = [normal(5, 4, seed=2), normal(4, 5, seed=3)], [normal(5, seed=4), normal(4, seed=5)]
HALF = [normal(5, 2, seed=2), normal(4, 5, seed=3)], [normal(5, seed=4), normal(4, seed=5)]
POTENTIAL = {name: value for name, value in drawn(Case(4, 2, 2, rows=3)).items() if name != "x"}

CALLS = {
    "affine": lambda x: cgm_kernels.affine_coupling(x, PARAMETERS, x.sin()),
    "affine_inverse": lambda x: cgm_kernels.affine_coupling_inverse(x, x.sin(), PARAMETERS, scale="gate"),
    "channel": lambda x: cgm_kernels.affine_coupling(x, PARAMETERS[0], PARAMETERS[1]),
    "event": lambda x: cgm_kernels.affine_coupling_event(x, PARAMETERS, 2),
    "mlp": lambda x: cgm_kernels.affine_coupling_mlp(x, *HALF, 2),
    "divergence": lambda x: cgm_kernels.mlp_divergence(x, *LAYERS, exact=True),
    "probes": lambda x: cgm_kernels.mlp_divergence(x, *LAYERS, probes=waves(x)[None]),
    "flow": lambda x: cgm_kernels.mlp_flow(x, *LAYERS, times=[0.0, 0.5, 1.0], exact=True)[:2],
    "potential": lambda x: cgm_kernels.potential_divergence(x, **POTENTIAL, t=0.3),
    "potential_flow": lambda x: cgm_kernels.potential_flow(x, **POTENTIAL, times=[0.0, 0.5])[:2],
    "hutchinson": lambda x: cgm_kernels.hutchinson_divergence(torch.sin, x, probes=waves(x)[None]),
    "displacement": lambda x: (cgm_kernels.sliced_displacement(x, PARAMETERS, projections=DIRECTIONS),),
    "runge_kutta": lambda x: (cgm_kernels.runge_kutta_update(x, [x.sin()], [0.5], 0.1),),
    "sliced": lambda x: (cgm_kernels.sliced_wasserstein_cost(x, PARAMETERS, projections=DIRECTIONS),),
}

# These draw, which vmap refuses; what is drawn has no part in the result.
DRAWING = {
    "langevin": lambda x: (cgm_kernels.langevin_step(x, x.sin(), 0.1, temperature=0.0),),
    "mala": lambda x: cgm_kernels.mala_accept(x, x.sin(), torch.tensor([9.0, -1e9, 9.0]))[:1],
}


CPU = pytest.mark.parametrize("pair", [pair for pair in fused() if pair.id.endswith("cpu")])


@CPU
@pytest.mark.parametrize("name", [*CALLS, *DRAWING])
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_transforms_in_a_compiled_function(name, pair):
    def loss(x):
        return sum((part.sin() + part).sum() for part in (CALLS | DRAWING)[name](x))

    def derivatives(x):
        found = grad(loss)(x), jvp(loss, (x,), (x.cos(),))[1]
        return found if name in DRAWING else (*found, vmap(grad(loss))(torch.stack((x, x + 0.1))))

    with cgm_kernels.use_backend("reference"):
        expected = derivatives(X)
    torch._dynamo.reset()
    with cgm_kernels.use_backend(pair[0]):
        found = torch.compile(derivatives, backend="aot_eager", fullgraph=True)(X)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
