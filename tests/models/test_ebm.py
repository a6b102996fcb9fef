"""Energy-based models: their training, contexts, networks and errors."""

import pytest
import torch

import cgm_models
from cgm_models.ebm import EnergyModel, JointEnergyModel
from cgm_models.ebm.objectives import OBJECTIVES
from cgm_models.nets import ConvEncoder
from cgm_models.training import NonFiniteError, Trainer
from tests.support.training import in_processes

TRAINER = {"batch_size": 32, "tensorboard": False, "progress": False}
SMALL = {"hidden_features": (16,), "n_steps": 3, "buffer_size": 64}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def points(n=200, seed=0):
    return torch.randn(n, 2, generator=generator(seed)) * torch.tensor([2.0, 0.5]) + 3.0


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_training_resumes_bit_for_bit(objective, tmp_path):
    def model():
        torch.manual_seed(1)
        return EnergyModel(dim=2, objective=objective, input_noise=0.1, energy_penalty=0.01, spectral_norm=2.0, **SMALL)

    whole, parts = model(), model()
    x = points()
    Trainer(max_steps=8, **TRAINER).fit(whole, x, validation_x=x[:20], run=tmp_path / "whole")
    Trainer(max_steps=5, **TRAINER).fit(parts, x, validation_x=x[:20], run=tmp_path / "parts")
    resumed = model()
    Trainer(max_steps=8, **TRAINER).fit(resumed, x, validation_x=x[:20], run=tmp_path / "parts", resume=True)
    loaded = cgm_models.load(tmp_path / "parts" / "model")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    assert not torch.equal(whole.location, torch.zeros(2))
    if objective == "pcd":
        assert (whole.buffer.age > 0).sum() > 32
    assert torch.equal(loaded.sample(5, generator=generator()), whole.sample(5, generator=generator()))


def test_evaluation_leaves_the_state_alone():
    model = EnergyModel(dim=2, **SMALL)
    torch.manual_seed(0)
    model.loss(points(20))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.eval()
    with torch.no_grad():
        torch.manual_seed(1)
        loss = model.loss(points(20))
        torch.manual_seed(1)
        assert not loss.requires_grad and torch.equal(loss, model.loss(points(20)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_divergence_stops_the_training_and_says_why(tmp_path):
    torch.manual_seed(0)
    model = EnergyModel(dim=2, max_energy_gap=50.0, reference_scale=None, **SMALL)
    with pytest.raises(NonFiniteError, match=r"beyond max_energy_gap, 50: .* lower lr or step_size"):
        Trainer(max_steps=300, lr=30.0, **TRAINER).fit(model, points(), run=tmp_path / "run")
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_a_divergence_that_may_not_be_read_is_a_loss_of_nan():
    torch.manual_seed(0)
    model = EnergyModel(dim=2, max_energy_gap=1e-6, **SMALL)
    with pytest.raises(FloatingPointError, match=r"the energies of the data lie .* the chains"):
        model.loss(points(20))
    model.check_finite = False
    assert model.loss(points(20)).isnan()
    model.max_energy_gap = 1e6
    assert model.loss(points(20)).isfinite()


def test_chains_that_are_not_finite_are_a_divergence():
    model = EnergyModel(dim=2, step_size=1e30, **SMALL)
    with pytest.raises(FloatingPointError, match="the energies of the data or of the chains are not finite"):
        model.loss(points(20))


def _train_together(objective):
    torch.manual_seed(0)
    model = EnergyModel(dim=2, objective=objective, **SMALL)
    result = Trainer(max_steps=4, accelerator="cpu", strategy="ddp", **TRAINER).fit(model, points())
    return result.loss, dict(model.named_parameters())


@pytest.mark.parametrize("objective", ["pcd", "ssm"])
def test_two_processes_train_one_model(objective):
    (loss, weights), (other_loss, other) = in_processes(_train_together, objective)
    assert loss == other_loss and all(torch.equal(weights[name], other[name]) for name in weights)


def test_the_data_are_standardised_and_constant_dimensions_kept():
    model = EnergyModel(dim=3)
    x = torch.cat((points(500), torch.full((500, 1), 7.0)), 1)
    model.initialize(x)
    u = model.standardised(x)
    assert torch.allclose(u.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(u.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-5)
    image = EnergyModel((1, 4, 4), network="convolutional", hidden_features=(4, 8), clamp=(0.0, 1.0))
    image.initialize(torch.rand(50, 1, 4, 4, generator=generator()))
    assert image.location.numel() == 1
    sample = image.sample(6, n_steps=5, generator=generator())
    assert sample.shape == (6, 1, 4, 4) and sample.min() >= -1e-6 and sample.max() <= 1 + 1e-6


def test_spectral_norms_bound_the_slope():
    """Layers of norm 2 and activations of slope at most 1.1 make f − |u|²/2s² Lipschitz with 2³ · 1.1²."""
    torch.manual_seed(0)
    model = EnergyModel(dim=2, hidden_features=(32, 32), spectral_norm=2.0, reference_scale=None)
    for _ in range(30):
        model.loss(torch.randn(16, 2))  # each forward pass of the training brings the power iteration on
    model.eval()
    x = torch.randn(500, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(model.energy(x).sum(), x)
    assert slope.norm(dim=1).max() < 8 * 1.1**2
    free = EnergyModel(dim=2, hidden_features=(32, 32), reference_scale=None)
    assert {name.rsplit(".", 1)[-1] for name, _ in model.network.named_parameters()} > {"original"}
    assert not any("parametrizations" in name for name in free.state_dict())


def test_the_penalty_is_the_mean_square_of_the_network():
    torch.manual_seed(0)
    model = EnergyModel(dim=2, objective="cd", n_steps=1, step_size=1e-30, hidden_features=(8,), energy_penalty=0.5)
    x = points(20)
    network = model.energy(x) - x.square().sum(1) / 8.0
    assert float(model.loss(x).detach()) == pytest.approx(float(0.5 * network.square().mean().detach()), rel=1e-4)


def test_a_conditional_model_learns_its_contexts():
    """x ~ N(2c, 1/4): the gain of the quadratic energy is 2, and samples follow their context."""
    torch.manual_seed(0)
    context = torch.randn(1000, 1)
    x = 2 * context + 0.5 * torch.randn(1000, 1)
    options = {"network": "quadratic", "reference_scale": None, "standardize": False, "sampler": "mala"}
    model = EnergyModel(dim=1, context_dim=1, n_steps=3, step_size=0.1, buffer_size=1000, **options)
    Trainer(max_steps=250, lr=0.1, schedule="cosine", **{**TRAINER, "batch_size": 500}).fit(model, x, context)
    assert float(model.network.gain.detach()) == pytest.approx(2.0, abs=0.1)
    assert float(model.network.precision.detach()) == pytest.approx(4.0, abs=0.8)
    sample = model.sample(500, torch.tensor([1.5]), generator=generator())
    assert float(sample.mean()) == pytest.approx(3.0, abs=0.2)


def test_a_joint_model_classifies_and_samples_its_classes():
    torch.manual_seed(0)
    labels = torch.arange(600) % 2
    x = torch.stack((4.0 * labels - 2.0, torch.zeros(600)), 1) + 0.5 * torch.randn(600, 2)
    energy = {"n_steps": 5, "step_size": 0.02, "buffer_size": 600}
    model = JointEnergyModel(dim=2, context_dim=2, hidden_features=(32,), energy_options=energy)
    Trainer(max_steps=150, lr=5e-3, **{**TRAINER, "batch_size": 200}).fit(model, x, labels)
    assert (model.class_log_prob(x).argmax(1) == labels).float().mean() > 0.98
    one, two = (model.energy(x, torch.tensor(k)) for k in (0, 1))
    assert torch.allclose(model.energy(x), -torch.stack((-one, -two)).logsumexp(0), atol=1e-5)
    posterior = torch.stack((-one, -two), 1).log_softmax(1)
    assert torch.allclose(posterior, model.class_log_prob(x), atol=1e-5)
    sample = model.sample(200, torch.arange(200) % 2, generator=generator(), start="noise")
    assert (model.class_log_prob(sample).argmax(1) == torch.arange(200) % 2).float().mean() > 0.9
    assert model.sample(3, generator=generator()).shape == (3, 2)
    with pytest.raises(ValueError, match="the classes of the points must be given"):
        model.loss(x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "ml"}, "objective must be one of 'pcd', 'cd', 'short_run', 'dsm', 'ssm', 'nce': got 'ml'"),
        ({"network": "conv"}, "network must be one of 'mlp', 'convolutional', 'quadratic': got 'conv'"),
        ({"network": "convolutional"}, r"for images \(channels, height, width\): got \(2,\)"),
        ({"network": "quadratic", "spectral_norm": 1.0}, "quadratic network has one output and no spectral_norm"),
        ({"sampler": "hmc"}, "sampler must be one of 'ula', 'mala': got 'hmc'"),
        ({"sampler": "mala", "max_grad_norm": 1.0}, "'mala' knows no clamp and no max_grad_norm"),
        ({"n_steps": 0}, "n_steps must be a whole number, at least 1: got 0"),
        ({"step_size": -0.1}, "step_size must be a positive finite number: got -0.1"),
        ({"restart_probability": 1.5}, r"restart_probability must lie in \[0, 1\]: got 1.5"),
        ({"clamp": (1.0, 0.0), "standardize": False}, "clamp must be two numbers, the lower one first"),
        ({"clamp": (0.0, 1.0)}, "clamp is one range for all dimensions: of vectors it needs standardize=False"),
        ({"input_noise": -1.0}, "input_noise must be a finite number, not negative: got -1.0"),
        ({"standardize": 1}, "standardize must be True or False: got 1"),
        ({"event_shape": (2,)}, "give event_shape or dim, and not both"),
    ],
)
def test_errors_of_the_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        EnergyModel(dim=2, **options)


def test_errors_of_the_points():
    model, conditional = EnergyModel(dim=2), EnergyModel(dim=2, context_dim=3)
    with pytest.raises(ValueError, match=r"x must have shape \(n, 2\): got \(4, 3\)"):
        model.energy(torch.zeros(4, 3))
    with pytest.raises(TypeError, match="x must be a floating-point Tensor"):
        model.energy(torch.zeros(4, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="this model has no context"):
        model.energy(torch.zeros(4, 2), torch.zeros(4, 1))
    with pytest.raises(ValueError, match="this model is conditional"):
        conditional.sample(4)
    with pytest.raises(ValueError, match=r"context must have shape \(3,\) or \(4, 3\): got \(4, 2\)"):
        conditional.energy(torch.zeros(4, 2), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="start must be one of 'buffer', 'noise': got 'data'"):
        model.sample(4, start="data")


@pytest.mark.parametrize("side", [8, 7])
def test_the_convolutional_encoder_halves_images(side):
    torch.manual_seed(0)
    encoder = ConvEncoder((2, side, 8), 5, (4, 6, 8), context_dim=3)
    x, context = torch.randn(6, 2, side, 8), torch.randn(6, 3)
    whole = encoder(x, context)
    assert whole.shape == (6, 5) and encoder.output.in_features == 8 * (side // 4) * 2
    assert torch.allclose(encoder(x[:2], context[:2]), whole[:2], atol=1e-5)  # no image sees another
    assert not torch.allclose(encoder(x, context + 1.0), whole)
    with pytest.raises(ValueError, match="5 widths halve an image 4 times: too often"):
        ConvEncoder((1, 8, 8), 1, (4,) * 5)
    with pytest.raises(ValueError, match="it needs a context"):
        encoder(x)


def test_a_conditional_convolutional_model_has_labels_as_contexts():
    torch.manual_seed(0)
    model = EnergyModel((1, 8, 8), 3, "convolutional", (4, 8), n_steps=2, buffer_size=16, spectral_norm=1.0)
    x, labels = torch.rand(12, 1, 8, 8), torch.arange(12) % 3
    model.initialize(x, labels)
    model.loss(x, labels).backward()
    one_hot = torch.nn.functional.one_hot(labels, 3).float()
    model.eval()
    assert torch.equal(model.energy(x, labels), model.energy(x, one_hot))
    assert (model.buffer.contexts[model.buffer.age > 0].sum(1) == 1).all()
    assert model.sample(6, torch.tensor([0, 1, 2, 2, 1, 0]), generator=generator(), n_steps=2).shape == (6, 1, 8, 8)
