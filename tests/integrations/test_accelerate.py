"""One model on our kernels: what is swapped, that it is taken back, copies, pickles, hooks, compiled graphs, layers."""

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

nflows = pytest.importorskip("nflows", reason="nflows is not installed (pip install nflows)")
normflows = pytest.importorskip("normflows", reason="normflows is not installed (pip install normflows)")
zuko = pytest.importorskip("zuko", reason="zuko is not installed (pip install zuko)")

from nflows.flows import MaskedAutoregressiveFlow, SimpleRealNVP  # noqa: E402

import cgm_kernels  # noqa: E402
from cgm_kernels import integrations  # noqa: E402
from tests.support.flow_libraries import counts, randomized  # noqa: E402


def of_nflows():
    return SimpleRealNVP(6, 8, num_layers=2, num_blocks_per_layer=1)


def of_normflows():
    layers = [normflows.flows.AffineCouplingBlock(normflows.nets.MLP([3, 8, 6])), normflows.flows.ActNorm(6)]
    return normflows.NormalizingFlow(normflows.distributions.DiagGaussian(6), layers)


def of_zuko():
    return zuko.flows.MAF(6, transforms=2, hidden_features=(9,))


MODELS = {"nflows": of_nflows, "normflows": of_normflows, "zuko": of_zuko}


def model(library):
    torch.manual_seed(0)
    return randomized(MODELS[library]()).train(False)


def log_prob(module, x):
    return module().log_prob(x) if isinstance(module, zuko.flows.MAF) else module.log_prob(x)


def points():
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(autouse=True)
def no_counts():
    counts()
    yield
    counts()


@pytest.mark.parametrize("library", MODELS)
def test_what_was_swapped_and_taken_back(library):
    one, other = model(library), model(library)
    before = {name: type(module) for name, module in one.named_modules()}
    swapped = cgm_kernels.accelerate(one)
    after = {name: type(module) for name, module in one.named_modules()}
    assert [swap.name for swap in swapped] == [name for name in before if before[name] is not after[name]]
    assert all(swap.layer == f"{library}.{before[swap.name].__name__}" for swap in swapped)
    assert all(issubclass(after[name], before[name]) for name in before)
    assert repr(one) == repr(other)
    assert cgm_kernels.accelerate(one) == []
    log_prob(one, points())
    assert counts()
    log_prob(other, points())
    assert not counts()  # the library itself is as it was
    swapped.undo()
    swapped.undo()
    assert {name: type(module) for name, module in one.named_modules()} == before
    log_prob(one, points())
    assert not counts()


def test_which_layers():
    names = [(swap.name, swap.layer) for swap in cgm_kernels.accelerate(model("nflows"))]
    assert names == [(f"_transform._transforms.{i}", "nflows.AffineCouplingTransform") for i in range(2)]
    maf = MaskedAutoregressiveFlow(4, 8, 2, 1, batch_norm_between_layers=True)
    names = [swap.layer for swap in cgm_kernels.accelerate(maf)]
    assert names == ["nflows.MaskedAffineAutoregressiveTransform"] * 2
    assert cgm_kernels.accelerate(nn.Linear(2, 2)) == []
    assert [swap.layer for swap in cgm_kernels.accelerate(zuko.flows.CNF(3))] == ["zuko.FFJTransform"]
    for name in ("GF", "NSF", "NCSF", "NAF", "SOSPF"):  # layers that are not affine
        assert cgm_kernels.accelerate(getattr(zuko.flows, name)(3)) == [], name
    assert cgm_kernels.accelerate(zuko.flows.CNF(3, activation=nn.Softsign)) == []


@pytest.mark.parametrize("library", MODELS)
def test_the_block_takes_it_back_after_an_error(library):
    one = model(library)
    before = [type(module) for module in one.modules()]
    with pytest.raises(KeyError), cgm_kernels.accelerate(one):
        raise KeyError
    assert [type(module) for module in one.modules()] == before


def test_libraries_together_and_inside_others():
    both = nn.ModuleDict({name: nn.Sequential(model(name)) for name in MODELS})
    packages = {swap.layer.partition(".")[0] for swap in cgm_kernels.accelerate(both)}
    assert packages == set(MODELS)


@pytest.mark.parametrize("library", MODELS)
def test_under_a_patch_too_it_counts_once(library):
    one, x = model(library), points()
    expected = log_prob(one, x)
    with integrations.patch(library), cgm_kernels.accelerate(one):
        found = log_prob(one, x)
        nested = counts()
    with cgm_kernels.accelerate(one):
        log_prob(one, x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert nested == counts()


@pytest.mark.parametrize("library", MODELS)
def test_copies_stay_accelerated_and_pickles_are_plain(library):
    one, x = model(library), points()
    expected = log_prob(one, x)
    swapped = cgm_kernels.accelerate(one)
    twin = copy.deepcopy(one)
    torch.testing.assert_close(log_prob(twin, x), expected, rtol=1e-9, atol=1e-9)
    assert counts()
    with torch.no_grad():
        next(twin.parameters()).add_(1.0)  # its own parameters
    torch.testing.assert_close(log_prob(one, x), expected, rtol=1e-9, atol=1e-9)
    counts()
    buffer = io.BytesIO()
    torch.save(one, buffer)
    buffer.seek(0)
    loaded = [torch.load(buffer, weights_only=False), *(pickle.loads(pickle.dumps(one, p)) for p in (2, 5))]
    swapped.undo()
    for plain in loaded:
        torch.testing.assert_close(log_prob(plain, x), expected, rtol=0, atol=0)
        assert [type(module) for module in plain.modules()] == [type(module) for module in one.modules()]
    assert not counts()


def test_a_pickle_needs_only_its_library(tmp_path):
    one = model("nflows")
    cgm_kernels.accelerate(one)
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(one))
    code = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb')); assert 'cgm_kernels' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "model.pickle")], check=True)


@pytest.mark.parametrize("library", MODELS)
def test_training_and_loading(library):
    """A few steps of an optimizer end at the same parameters, and load from one state dict into the other."""
    one, other, x = model(library).float(), model(library).float(), points().float()
    cgm_kernels.accelerate(one)
    for trained in (one, other):
        optimizer = torch.optim.Adam(trained.parameters(), lr=1e-3)
        for _ in range(5):
            optimizer.zero_grad()
            (-log_prob(trained, x).mean()).backward()
            optimizer.step()
    torch.testing.assert_close(dict(one.state_dict()), dict(other.state_dict()), rtol=1e-3, atol=1e-4)
    other.load_state_dict(one.state_dict(), strict=True)
    torch.testing.assert_close(log_prob(one, x), log_prob(other, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("library", MODELS)
def test_hooks_of_layers_and_networks_run(library):
    one, x, seen = model(library), points(), []
    cgm_kernels.accelerate(one)
    for name, module in one.named_modules():
        module.register_forward_hook(lambda module, given, value, name=name: seen.append(name))
    log_prob(one, x)
    ours, seen[:] = [*seen], []
    plain = copy.deepcopy(one)
    for module in plain.modules():
        module.__class__ = getattr(type(module), "_accelerates", type(module))
    log_prob(plain, x)
    assert ours == seen


def test_compiled_graphs_are_the_librarys():
    torch._dynamo.reset()
    one, x = model("nflows"), points()
    expected = log_prob(one, x)
    cgm_kernels.accelerate(one)
    compiled = torch.compile(lambda x: one.log_prob(x), backend="eager")
    torch.testing.assert_close(compiled(x), expected, rtol=1e-12, atol=1e-12)
    assert not counts()


def test_functional_calls_and_per_sample_gradients():
    one, x = model("nflows"), points()
    cgm_kernels.accelerate(one)
    parameters = dict(one.named_parameters())

    def density(parameters, x):
        return torch.func.functional_call(one._transform, parameters, (x[None],))[1].sum()

    inner = {name.removeprefix("_transform."): value for name, value in parameters.items() if "_transform." in name}
    found = torch.func.vmap(torch.func.grad(density), in_dims=(None, 0))(inner, x)
    assert all(not row.ours for row in counts().values())
    for index, point in enumerate(x):
        (one_by_one,) = torch.autograd.grad(one._transform(point[None])[1].sum(), [inner[next(iter(inner))]])
        torch.testing.assert_close(found[next(iter(inner))][index], one_by_one, rtol=1e-9, atol=1e-9)


def test_a_layer_that_became_another_is_named():
    one = model("nflows")
    swapped = cgm_kernels.accelerate(one)
    layer = one._transform._transforms[1]
    layer.__class__ = type("Sharded", (type(layer),), {})
    with pytest.raises(RuntimeError, match=r"_transform\._transforms\.1 has become a Sharded since"):
        swapped.undo()


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module: got str"):
        cgm_kernels.accelerate("RealNVP")


@pytest.mark.parametrize("library, version", [("nflows", "0.13"), ("normflows", "1.6"), ("zuko", "1.7.0")])
def test_unknown_versions_are_refused(library, version, monkeypatch):
    monkeypatch.setattr(sys.modules[library], "__version__", version, raising=False)
    for refused in (lambda: integrations.patch(library), lambda: cgm_kernels.accelerate(model(library))):
        with pytest.raises(RuntimeError, match=f"{library} is known to keep its behaviour for .*: found {version}"):
            refused()


@pytest.mark.parametrize("library", MODELS)
def test_patches_count_and_restore(library):
    owner = {
        "nflows": nflows.transforms.AffineCouplingTransform,
        "normflows": normflows.flows.AffineCouplingBlock,
        "zuko": zuko.transforms.CouplingTransform,
    }[library]
    before = dict(vars(owner))
    with integrations.patch(library), integrations.patch(library):
        assert vars(owner) != before
        assert integrations.status()[library].startswith("patched")
    assert dict(vars(owner)) == before
    with pytest.raises(RuntimeError, match="not patched"):
        integrations.unpatch(library)
