"""Flows in half precision: under autocast, and with parameters of bfloat16 or float16."""

import pytest
import torch

from cgm_models.flows import (
    IAF,
    MADE,
    MAF,
    Glow,
    NeuralSplineFlow,
    PixelCNN,
    PixelRNN,
    PlanarFlow,
    RadialFlow,
    RealNVP,
)

SMALL = {"n_layers": 2, "hidden_features": (8,)}
MODELS = {
    "spline": lambda: NeuralSplineFlow(dim=4, **SMALL),
    "spline-context": lambda: NeuralSplineFlow(dim=4, context_dim=2, **SMALL),
    "mixture": lambda: MADE(dim=3, n_components=3, hidden_features=(8,)),
    "mixture-context": lambda: MADE(dim=3, context_dim=2, n_components=3, hidden_features=(8,)),
    "maf": lambda: MAF(dim=3, **SMALL),
    "iaf": lambda: IAF(dim=3, **SMALL),
    "glow-lu": lambda: Glow((1, 4, 4), n_steps=1, hidden_channels=4),
    "glow-plain": lambda: Glow((1, 4, 4), n_steps=1, hidden_channels=4, convolution="plain"),
    "planar": lambda: PlanarFlow(dim=4, n_layers=4),
    "planar-context": lambda: PlanarFlow(dim=4, context_dim=2, n_layers=4),
    "radial": lambda: RadialFlow(dim=4, n_layers=4),
    "radial-context": lambda: RadialFlow(dim=4, context_dim=2, n_layers=4),
    "student": lambda: RealNVP(dim=4, base="student_t", **SMALL),
    "pixelcnn": lambda: PixelCNN((1, 4, 4), n_layers=2, hidden_channels=8),
    "pixelrnn": lambda: PixelRNN((1, 4, 4), n_layers=1, hidden_channels=8),
}
ALL = pytest.mark.parametrize("name", MODELS)


def make(name):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(16, *model.event_shape)
    if name.startswith("pixel"):
        x = torch.randint(17, x.shape) / 16
    return model, x, torch.randn(16, model.context_dim) if model.context_dim else None


@ALL
def test_under_autocast(name):
    """Losses, their backward inside and outside, densities and samples; what is not a network is float32."""
    model, x, context = make(name)
    exact = model.log_prob(x, context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.loss(x, context).backward()
        outside = model.loss(x, context)
        log_prob, samples = model.log_prob(x, context), model.sample(16, context)
    outside.backward()
    assert log_prob.dtype is samples.dtype is torch.float32
    torch.testing.assert_close(log_prob, exact, rtol=0.03, atol=0.1)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@ALL
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_with_parameters_of_half_precision(name, dtype):
    model, x, context = make(name)
    exact = model.log_prob(x, context)
    half = model.to(dtype)
    x, context = x.to(dtype), None if context is None else context.to(dtype)
    half.loss(x, context).backward()
    log_prob, samples = half.log_prob(x, context), half.sample(16, context)
    assert log_prob.dtype is torch.float32 and samples.dtype is dtype and samples.isfinite().all()
    torch.testing.assert_close(log_prob, exact, rtol=0.05, atol=0.3)


@pytest.mark.parametrize("name", ["spline", "spline-context", "mixture", "mixture-context", "glow-lu", "glow-plain"])
def test_directions_undo_each_other_under_autocast(name):
    model, x, context = make(name)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        z, log_det = model.inverse(x, context)
        again, back = model(z, context)
    torch.testing.assert_close(again, x, rtol=0, atol=1e-4)
    torch.testing.assert_close(back, -log_det, rtol=0, atol=1e-3)
