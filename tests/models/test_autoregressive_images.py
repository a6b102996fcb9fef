"""PixelCNN and PixelRNN: probabilities that sum to one, what each pixel sees, samples, their form on disk."""

import itertools
import math

import pytest
import torch

import cgm_models
from cgm_models.flows import PixelCNN, PixelRNN
from cgm_models.flows.logistic_mixture import draw, log_probabilities

TINY = {"n_layers": 2, "hidden_channels": 4, "n_components": 2}
MODELS = {
    "cnn": lambda shape, **options: PixelCNN(shape, **{**TINY, **options}),
    "rnn": lambda shape, **options: PixelRNN(shape, **{**TINY, **options}),
}
BOTH = pytest.mark.parametrize("name", MODELS)


def make(name, shape, seed=0, **options):
    torch.manual_seed(seed)
    model = MODELS[name](shape, **options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def all_images(shape, n_levels):
    values = torch.tensor(list(itertools.product(range(n_levels), repeat=math.prod(shape))), dtype=torch.float64)
    return (values / (n_levels - 1)).reshape(-1, *shape)


@BOTH
@pytest.mark.parametrize(
    "shape, n_levels, context", [((1, 2, 2), 4, 0), ((1, 3, 2), 2, 3), ((3, 1, 2), 2, 0), ((2, 2, 2), 2, 2)]
)
def test_probabilities_sum_to_one(name, shape, n_levels, context):
    model = make(name, shape, n_levels=n_levels, context_dim=context)
    given = torch.randn(context, dtype=torch.float64) if context else None
    total = model.log_prob(all_images(shape, n_levels), given).exp().sum().detach()
    assert float(total) == pytest.approx(1.0, abs=1e-12)


@BOTH
@pytest.mark.parametrize("shape", [(1, 5, 4), (2, 4, 3), (3, 3, 3)])
def test_each_pixel_sees_all_that_comes_before_it_and_nothing_else(name, shape):
    model = make(name, shape, n_layers=4, hidden_channels=8)
    x = torch.rand(8, *shape, dtype=torch.float64)  # several, since relu hides some of what a pixel sees
    jacobian = torch.autograd.functional.jacobian(lambda v: model._distributions(v, None).abs().sum((0, -1)), x)
    size = math.prod(shape)
    depends = (jacobian.reshape(size, 8, size) != 0).any(1)
    place = torch.arange(size).reshape(shape)
    order = torch.empty(size, dtype=torch.long)  # row by row, column by column, then colour by colour
    order[place.permute(1, 2, 0).flatten()] = torch.arange(size)
    before = order.unsqueeze(0) < order.unsqueeze(1)
    assert not depends[~before].any()
    seen = before if name == "cnn" else depends  # the three pixels above reach further only with depth
    assert (depends == seen).all()
    assert depends[order.argmax()].sum() > size // 2


@BOTH
def test_samples_have_the_probabilities_of_the_model(name):
    model = make(name, (1, 2, 2), n_levels=2)
    x = model.sample(20000, generator=torch.Generator().manual_seed(0))
    images = all_images((1, 2, 2), 2)
    expected = 20000 * model.log_prob(images).exp()
    found = (x.flatten(1).unsqueeze(1) == images.flatten(1)).all(2).sum(0)
    assert int(found.sum()) == 20000
    statistic = float(((found - expected).square() / expected).sum())
    assert statistic < 37.7  # chi squared with 15 degrees of freedom, 0.1 %


@BOTH
def test_samples_come_with_their_probabilities(name):
    model = make(name, (1, 3, 3), n_levels=3, context_dim=2)
    labels = torch.tensor([0, 1, 1, 0])
    x, log_prob = model.sample_and_log_prob(4, labels, torch.Generator().manual_seed(0))
    assert torch.equal(x, model.sample(4, labels, torch.Generator().manual_seed(0)))
    assert torch.equal(log_prob, model.log_prob(x, labels)) and log_prob.requires_grad


@BOTH
@pytest.mark.parametrize("call", ["__call__", "inverse", "reverse_kl"])
def test_there_is_no_latent_variable(name, call):
    model = make(name, (1, 2, 2))
    with pytest.raises(NotImplementedError, match=f"{type(model).__name__}: a discrete .* has no latent variable"):
        getattr(model, call)(torch.zeros(1, 1, 2, 2), 8)


@BOTH
@pytest.mark.parametrize("context", [0, 2])
def test_every_parameter_receives_a_gradient(name, context):
    model = make(name, (2, 4, 4), n_levels=5, context_dim=context)
    x = torch.randint(5, (3, 2, 4, 4), generator=torch.Generator().manual_seed(0)).double() / 4
    model.loss(x, torch.randn(3, context, dtype=torch.float64) if context else None).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@BOTH
def test_save_and_load_give_the_same_numbers(name, tmp_path):
    model = make(name, (1, 3, 3), n_levels=3, context_dim=2).float()
    model.save(tmp_path)
    again = cgm_models.load(tmp_path)
    x, labels = torch.randint(3, (4, 1, 3, 3)) / 2, torch.tensor([0, 1, 1, 0])
    assert torch.equal(again.log_prob(x, labels), model.log_prob(x, labels))
    first, second = (m.sample(2, labels[:2], torch.Generator().manual_seed(0)) for m in (model, again))
    assert torch.equal(first, second)


@BOTH
def test_context_rows_labels_and_empty_batches(name):
    model = make(name, (1, 2, 3), n_levels=3, context_dim=2)
    x = all_images((1, 2, 3), 3)[:5]
    one = model.log_prob(x, torch.tensor(1))
    torch.testing.assert_close(one, model.log_prob(x, torch.tensor([0.0, 1.0])))
    torch.testing.assert_close(one, model.log_prob(x, torch.tensor([[0.0, 1.0]]).expand(5, 2)))
    torch.testing.assert_close(one[2:3], model.log_prob(x[2:3], torch.tensor([1])))
    torch.testing.assert_close(model.bits_per_dim(x, torch.tensor(1)), -one / (6 * math.log(2)))
    assert model.sample(0, torch.tensor(0)).shape == (0, 1, 2, 3)
    assert model.log_prob(x[:0], torch.tensor(0)).shape == (0,)


@BOTH
def test_stripes_are_learned(name):
    """Images of four kinds of stripes: the truth is log 4 nats."""
    torch.manual_seed(0)
    model = MODELS[name]((1, 4, 4), n_levels=2, hidden_channels=12)
    rows = torch.tensor([[0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 1.0]])
    patterns = rows.reshape(4, 1, 1, 4).expand(4, 1, 4, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(120):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 120)
        optimizer.zero_grad()
        loss = model.loss(patterns)
        loss.backward()
        optimizer.step()
    assert math.log(4) < float(loss.detach()) < math.log(4) + 0.5
    samples = model.sample(64, generator=torch.Generator().manual_seed(0))
    right = (samples.unsqueeze(1) == patterns).flatten(2).all(2).any(1)
    assert right.float().mean() > 0.6


@pytest.mark.parametrize("n_levels", [2, 17, 256])
def test_logistic_mixtures_sum_to_one_and_keep_their_tails(n_levels):
    parameters = torch.randn(5, 12, dtype=torch.float64) * torch.tensor([1.0, 1.0, 4.0]).repeat_interleave(4)
    levels = torch.arange(n_levels).expand(5, -1)
    log_mass = log_probabilities(parameters.unsqueeze(1).expand(-1, n_levels, -1), levels, n_levels)
    torch.testing.assert_close(log_mass.exp().sum(1), torch.ones(5, dtype=torch.float64))
    far = torch.tensor([[0.0, 0.0, -20.0]], requires_grad=True)  # one sharp component at the middle
    tail = log_probabilities(far, torch.tensor([1]), 17)
    assert tail.isfinite().all()
    assert torch.autograd.grad(tail.sum(), far)[0].isfinite().all()


def test_draws_invert_the_distribution_function():
    parameters = torch.randn(1, 6, dtype=torch.float64)
    mass = log_probabilities(parameters.expand(9, -1), torch.arange(9), 9).exp()
    middles = mass.cumsum(0) - 0.5 * mass
    assert torch.equal(draw(parameters.expand(9, -1), 9, middles), torch.arange(9))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: PixelCNN((4, 4)), r"PixelCNN is for images: event_shape must be"),
        (lambda: PixelCNN((1, 4, 4), kernel_size=4), "kernel_size must be odd: got 4"),
        (lambda: PixelRNN((1, 4, 4), n_layers=0), "n_layers must be a whole number"),
        (lambda: PixelRNN((1, 4, 4), n_levels=1), "n_levels must be a whole number, at least 2: got 1"),
        (lambda: make("cnn", (1, 2, 2)).log_prob(torch.zeros(3, 2, 2)), r"x must have shape \(n, 1, 2, 2\)"),
        (lambda: make("cnn", (1, 2, 2)).log_prob(torch.full((1, 1, 2, 2), 0.53).double()), "x must hold pixels k / 16"),
        (lambda: make("cnn", (1, 2, 2)).log_prob(torch.full((1, 1, 2, 2), 2.0).double()), "x must hold pixels k / 16"),
        (lambda: make("rnn", (1, 2, 2)).loss(torch.zeros(0, 1, 2, 2).double()), "x must have at least one row"),
        (lambda: make("cnn", (1, 2, 2)).sample(2, torch.zeros(1)), "this model has no context"),
        (lambda: make("rnn", (1, 2, 2), context_dim=3).sample(2), "this model is conditional: .* got None"),
        (lambda: make("rnn", (1, 2, 2), context_dim=3).sample(2, torch.ones(3, 3)), r"context must have shape \(3,\)"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@BOTH
def test_points_of_another_dtype_are_refused(name):
    with pytest.raises(TypeError, match=r"x must have the dtype of the model, torch\.float64: got torch\.float32"):
        make(name, (1, 2, 2)).log_prob(torch.zeros(1, 1, 2, 2))


@BOTH
def test_what_is_not_finite_is_an_error_that_says_where(name):
    model, x = make(name, (1, 3, 3), context_dim=2), torch.zeros(2, 1, 3, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"\.log_prob: context must be finite, and 1 of 2 rows"):
        model.log_prob(x, torch.tensor([[0.0, 1.0], [torch.nan, 0.0]], dtype=torch.float64))
    labels = torch.zeros(2).long()
    for call in (lambda: model.log_prob(x, labels), lambda: model.loss(x, labels), lambda: model.sample(2, labels)):
        with torch.no_grad():
            kept = next(iter(model.parameters())).clone()
            next(iter(model.parameters())).fill_(torch.nan)
        with pytest.raises(FloatingPointError, match=r"(log_prob|sample): the parameter .* holds values"):
            call()
        with torch.no_grad():
            next(iter(model.parameters())).copy_(kept)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e200)
    for call in (lambda: model.log_prob(x, labels), lambda: model.sample(2, labels)):
        with pytest.raises(FloatingPointError, match="the network gives distributions of pixels that are not finite"):
            call()
    model.check_finite = False
    assert not model.log_prob(x, labels).isfinite().all()
