"""The flow against closed forms, and what fit, sample, save and resume promise."""

import math

import pytest
import torch

import cgm_models
from cgm_models.data import load
from cgm_models.metrics import energy_distance
from cgm_models.transport import SlicedWassersteinFlow, fitting, particle_flow


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(n, d, seed=0, dtype=torch.float32):
    return torch.randn(n, d, generator=seeded(seed), dtype=dtype)


def small(**changes):
    options = {"event_shape": (2,), "n_steps": 8, "n_projections": 4, "n_quantiles": 20, "n_particles": 300}
    return SlicedWassersteinFlow(**{**options, **changes})


# --- stationary laws


def stationary(tau, h, lam, d, n, orthogonal):
    """σ with σ²[2b/d − h b² s] = 2λ, b = 1 − τ/σ, s = E‖mean θθᵀ v‖² for a unit v."""
    spread = 1 / (n * d) + (1 - 1 / n) / d**2 if not orthogonal else 1 / (n * d)
    low, high = tau * (1 + 1e-12), (tau + math.sqrt(tau**2 + 4 * lam * d)) * 2
    for _ in range(200):
        sigma = (low + high) / 2
        b = 1 - tau / sigma
        low, high = (sigma, high) if sigma**2 * (2 * b / d - h * b * b * spread) < 2 * lam else (low, sigma)
    return sigma


def test_stationary_sigma_tends_to_its_limit():
    limit = (0.8 + math.sqrt(0.8**2 + 4 * 0.05 * 4)) / 2
    assert stationary(0.8, 1e-6, 0.05, 4, 3, False) == pytest.approx(limit, rel=1e-5)


@pytest.mark.parametrize(("orthogonal", "h"), [(False, 1.5), (False, 0.3), (True, 1.5)])
def test_flow_reaches_the_stationary_sigma(orthogonal, h):
    tau, lam, d, n = 0.3, 0.3, 4, 3
    steps = 40 if h > 1 else 80
    flow = SlicedWassersteinFlow(
        (d,),
        n_steps=steps,
        n_projections=n,
        n_quantiles=200,
        n_particles=6000,
        step_size=h,
        regularization=lam,
        orthogonal=orthogonal,
        standardize=False,
    ).fit(tau * gaussian(20_000, d, 9), generator=seeded(3))
    sigma = float(flow.sample(6000, generator=seeded(4)).square().mean().sqrt())
    # 4 standard errors: target (20,000 points), particles of the fit and samples (6,000 each), d coordinates.
    error = 4 * math.sqrt((1 / 20_000 + 2 / 6000) / (2 * d))
    assert sigma == pytest.approx(stationary(tau, h, lam, d, n, orthogonal), rel=error)
    noiseless = (tau + math.sqrt(tau**2 + 4 * lam * d)) / 2
    if h > 1 and not orthogonal:
        assert abs(sigma / noiseless - 1) > error  # the step size shows: the test can tell the formulas apart


def test_particle_flow_reaches_the_stationary_sigma():
    tau, lam, d, n, h = 0.3, 0.3, 4, 3, 1.5
    options = {"n_steps": 40, "step_size": h, "n_projections": n, "regularization": lam, "generator": seeded(5)}
    x = particle_flow(gaussian(8000, d), tau * gaussian(8000, d, 1), **options)
    error = 4 * math.sqrt(2 / 8000 / (2 * d))
    assert float(x.square().mean().sqrt()) == pytest.approx(stationary(tau, h, lam, d, n, False), rel=error)


def test_flow_without_noise_reaches_a_gaussian():
    mean, factor = torch.tensor([3.0, -1.0, 0.5]), torch.tensor([[1.0, 0, 0], [0.8, 0.5, 0], [-0.4, 0.2, 0.3]])
    data = mean + gaussian(4000, 3) @ factor.T
    flow = SlicedWassersteinFlow((3,), n_steps=60, n_particles=8000).fit(data, generator=seeded(1))
    samples = flow.sample(8000, generator=seeded(2))
    scale = data.std(0)
    torch.testing.assert_close(samples.mean(0) / scale, data.mean(0) / scale, rtol=0, atol=0.06)
    outer = scale[:, None] * scale
    torch.testing.assert_close(samples.T.cov() / outer, data.T.cov() / outer, rtol=0, atol=0.08)


def test_steps_match_the_drift_of_the_exact_coupling():
    """With all sorted points among the levels, one fitted step is x + h · sliced_displacement."""
    from cgm_kernels import sliced_displacement

    x, y = gaussian(200, 3, dtype=torch.float64), gaussian(200, 3, 1, torch.float64) * 2 + 1
    flow = SlicedWassersteinFlow(
        (3,),
        n_steps=1,
        n_projections=5,
        n_quantiles=401,
        step_size=0.7,
        base="given",
        orthogonal=False,
        standardize=False,
    ).fit(y, base=x, generator=seeded())
    wanted = x + 0.7 * sliced_displacement(x, y, projections=flow.directions[0])
    torch.testing.assert_close(flow.transport(x), wanted)


# --- what fit and sample promise


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("base", ["gaussian", "uniform"])
def test_samples_have_the_datas_shape_and_dtype(dtype, base):
    data = gaussian(100, 12, dtype=dtype).reshape(100, 3, 2, 2)
    flow = SlicedWassersteinFlow((3, 2, 2), n_steps=4, n_particles=50, base=base).fit(data, generator=seeded())
    samples = flow.sample(5, generator=seeded(1))
    assert samples.shape == (5, 3, 2, 2) and samples.dtype == dtype and bool(samples.isfinite().all())
    assert flow.sample(0).shape == (0, 3, 2, 2)
    assert flow.trajectory(flow.sample_base(5), every=3).shape == (3, 5, 3, 2, 2)


def test_one_seed_gives_one_flow_and_one_sample():
    data = gaussian(200, 2).exp()
    flows = [small(regularization=0.01, batch_size=50).fit(data, generator=seeded(1)) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(flows[0].buffers(), flows[1].buffers(), strict=True))
    assert torch.equal(*(flow.sample(20, generator=seeded(2)) for flow in flows))
    other = small(regularization=0.01, batch_size=50).fit(data, generator=seeded(3))
    assert not torch.equal(other.directions, flows[0].directions)


def test_memory_is_bounded_by_the_arguments():
    few, many = (small().fit(gaussian(n, 2), generator=seeded()).memory_bytes() for n in (50, 5000))
    assert few == many
    flow = small(context_dim=3)
    flow.fit(gaussian(90, 2), torch.arange(90) % 3)
    assert flow.memory_bytes() == flow.max_memory_bytes()
    assert flow.max_memory_bytes() > 4 * 8 * 4 * (2 + 2 * 3 * 20)


@pytest.mark.parametrize("context_dim", [0, 3])
def test_save_and_load_keep_every_bit(tmp_path, context_dim):
    flow = small(context_dim=context_dim, regularization=0.01)
    flow.fit(gaussian(90, 2), torch.arange(90) % 3 if context_dim else None, generator=seeded())
    flow.save(tmp_path)
    again = cgm_models.load(tmp_path)
    assert torch.equal(*(f.sample(30, generator=seeded(1)) for f in (flow, again)))
    assert again.status() == "8 of 8 steps fitted"


def test_float64_and_unfitted_flows_survive_the_disk(tmp_path):
    flow = small().fit(gaussian(50, 2, dtype=torch.float64), generator=seeded())
    flow.save(tmp_path / "a")
    assert cgm_models.load(tmp_path / "a").sample(3).dtype == torch.float64
    small().save(tmp_path / "b")
    with pytest.raises(RuntimeError, match="not fitted"):
        cgm_models.load(tmp_path / "b").sample(1)


def interrupted_fit(monkeypatch, flow, data, labels, after):
    real, calls = fitting._draw_directions, []

    def draw(*args):
        calls.append(args)
        if len(calls) > after:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(fitting, "_draw_directions", draw)
    flow.fit(data, labels, generator=seeded(1))
    monkeypatch.undo()


@pytest.mark.parametrize("context_dim", [0, 3])
def test_ctrl_c_keeps_what_was_fitted_and_resuming_ends_the_same(tmp_path, monkeypatch, context_dim):
    data, labels = gaussian(150, 2).exp(), torch.arange(150) % 3 if context_dim else None
    options = {"context_dim": context_dim, "regularization": 0.01, "batch_size": 20}
    whole = small(**options).fit(data, labels, generator=seeded(1))
    flow = small(**options)
    interrupted_fit(monkeypatch, flow, data, labels, 5)
    assert flow.status() == "5 of 8 steps fitted: interrupted"
    assert torch.equal(flow.directions, whole.directions[:5])
    assert flow.sample(7).shape == (7, 2)
    flow.save(tmp_path)
    resumed = cgm_models.load(tmp_path).fit(data, labels, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(resumed.buffers(), whole.buffers(), strict=True))


def test_other_errors_leave_the_model_as_it_was(monkeypatch):
    flow = small().fit(gaussian(60, 2), generator=seeded())
    before = flow.sample(4, generator=seeded(1))
    monkeypatch.setattr(fitting, "_draw_directions", lambda *a: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        flow.fit(gaussian(60, 2) + 5)
    assert torch.equal(flow.sample(4, generator=seeded(1)), before)


def test_log_shows_the_distance_shrink():
    records = []
    two_clouds = gaussian(500, 2) * 0.3 + 4.0 * (torch.arange(500) % 2)[:, None]
    small(n_steps=20).fit(two_clouds, generator=seeded(), log=records.append)
    assert [r["step"] for r in records] == list(range(21))
    assert records[-1]["sliced_wasserstein"] < 0.5 * records[0]["sliced_wasserstein"]


# --- classes


def test_classes_go_to_their_own_data():
    centres = torch.tensor([[-5.0, 0.0], [0.0, 5.0], [5.0, 0.0]])
    labels = torch.arange(900) % 3
    labels[:300] = 0  # unequal classes
    data = centres[labels] + 0.3 * gaussian(900, 2)
    flow = small(context_dim=3, n_steps=15, n_particles=900).fit(data, labels, generator=seeded())
    for label in range(3):
        samples = flow.sample(400, torch.tensor(label), generator=seeded(1))
        torch.testing.assert_close(samples.mean(0), centres[label], rtol=0, atol=0.15)
        torch.testing.assert_close(samples.std(0), torch.full((2,), 0.3), rtol=0, atol=0.06)
    wanted = torch.tensor([2, 0, 1, 2])
    mixed = flow.sample(4, torch.eye(3)[wanted], generator=seeded(2))
    assert torch.cdist(mixed, centres).argmin(1).tolist() == wanted.tolist()
    drawn = torch.cdist(flow.sample(3000, generator=seeded(3)), centres).argmin(1).bincount() / 3000
    torch.testing.assert_close(drawn, labels.bincount() / 900, rtol=0, atol=0.04)


def test_a_class_without_data_is_refused_when_asked_for():
    flow = small(context_dim=3).fit(gaussian(60, 2), torch.arange(60) % 2, generator=seeded())
    assert flow.sample(20).shape == (20, 2)
    with pytest.raises(ValueError, match=r"classes \[2\], which had no data"):
        flow.sample(2, torch.tensor(2))


def test_digits_are_closer_than_a_fitted_gaussian_and_obey_their_label():
    data = load("digits")
    options = {"n_steps": 25, "n_quantiles": 40, "n_particles": 5000, "context_dim": 10}
    flow = SlicedWassersteinFlow(data.event_shape, **options).fit(data.train_x, data.train_context, generator=seeded())
    labels = torch.arange(700) % 10
    samples = flow.sample(700, labels, generator=seeded(1))
    flat = data.train_x.flatten(1)
    normal = torch.distributions.MultivariateNormal(flat.mean(0), flat.T.cov() + 1e-5 * torch.eye(64))
    torch.manual_seed(0)
    ours, theirs = (energy_distance(s, data.test_x, estimator="u") for s in (samples, normal.sample((700,))))
    assert float(ours) < 0.5 * float(theirs)
    near = torch.cdist(samples.flatten(1), flat).topk(5, largest=False).indices
    votes = data.train_context[near].mode(1).values
    assert (votes == labels).float().mean() > 0.9


# --- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_steps": 0}, "n_steps must be a whole number"),
        ({"n_quantiles": 2.5}, "n_quantiles"),
        ({"batch_size": 0}, "batch_size"),
        ({"step_size": -1.0}, "step_size must be a positive finite number"),
        ({"regularization": -0.1}, "regularization"),
        ({"base": "cauchy"}, "base must be one of 'gaussian', 'uniform', 'given': got 'cauchy'"),
        ({"global_fraction": 1.5}, "global_fraction"),
        ({"patch_sizes": [2]}, "patch_sizes need"),
        ({"context_dim": 400}, "n_particles must be at least the 400 classes"),
        ({"event_shape": ()}, "event_shape"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)

    with pytest.raises(TypeError, match="patch_sizes must be a list of whole numbers: got int"):
        small(patch_sizes=2)


def test_wrong_data_is_named():
    with pytest.raises(ValueError, match=r"x must have shape \(n, 2\)"):
        small().fit(torch.zeros(5, 3))
    with pytest.raises(TypeError, match="floating-point"):
        small().fit(torch.zeros(5, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="finite"):
        small().fit(torch.full((5, 2), math.nan))
    with pytest.raises(ValueError, match="labels of 3 classes"):
        small(context_dim=3).fit(torch.zeros(5, 2))
    with pytest.raises(ValueError, match="no classes"):
        small().fit(torch.zeros(5, 2), torch.zeros(5).long())
    with pytest.raises(ValueError, match="base must hold points"):
        small(base="given").fit(torch.zeros(5, 2))
    flow = small().fit(gaussian(30, 2))
    with pytest.raises(ValueError, match="no classes"):
        flow.sample(2, torch.tensor(0))
    with pytest.raises(ValueError, match="n must be a whole number"):
        flow.sample(-1)
    with pytest.raises(NotImplementedError, match="no tractable log_prob"):
        flow.log_prob(torch.zeros(1, 2))


def test_constant_data_stays_constant():
    flow = small().fit(torch.full((20, 2), 3.0), generator=seeded())
    torch.testing.assert_close(flow.sample(10), torch.full((10, 2), 3.0), rtol=0, atol=0.1)
