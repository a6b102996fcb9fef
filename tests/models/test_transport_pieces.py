"""The pieces of the flow: quantile tables, the maps between them, directions in patches."""

import numpy as np
import pytest
import torch

from cgm_models.transport.directions import default_patch_sizes, patch_projections, patch_size
from cgm_models.transport.quantiles import merge_ties, monotone_map, move, quantile_table


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(n, d, seed=0, dtype=torch.float32):
    return torch.randn(n, d, generator=seeded(seed), dtype=dtype)


# --- one-dimensional transport by tables


def test_quantile_table_is_numpys_hazen_quantile():
    values = gaussian(37, 3, dtype=torch.float64).T
    levels = np.linspace(0, 1, 11)
    wanted = np.quantile(values.numpy(), levels, axis=-1, method="hazen").T
    np.testing.assert_allclose(quantile_table(values, 11), wanted, rtol=1e-12)


def test_monotone_map_is_linear_inside_and_shifts_outside():
    source, target = torch.tensor([[0.0, 1.0, 3.0]]), torch.tensor([[10.0, 11.0, 21.0]])
    values = torch.tensor([[-2.0, 0.0, 0.5, 1.0, 2.0, 3.0, 5.0]])
    wanted = [8.0, 10.0, 10.5, 11.0, 16.0, 21.0, 23.0]
    assert monotone_map(values, source, target)[0].tolist() == pytest.approx(wanted)


def test_monotone_map_sends_an_atom_to_the_mean_of_its_targets():
    source, target = torch.tensor([[0.0, 1.0, 1.0, 1.0, 2.0]]), torch.tensor([[0.0, 1.0, 2.0, 6.0, 7.0]])
    merged = merge_ties(source, target)
    assert merged.tolist() == [[0.0, 3.0, 3.0, 3.0, 7.0]]
    assert monotone_map(torch.tensor([[1.0]]), source, merged).item() == pytest.approx(3.0)


def test_monotone_map_is_exact_between_gaussians():
    """T(v) = m + (τ/σ)(v − μ) at the nodes' range, from tables of exact quantiles."""
    levels = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    normal = torch.special.ndtri(levels)[None]
    values = torch.linspace(-2.5, 2.5, 50, dtype=torch.float64)[None]
    moved = monotone_map(values, 1.5 * normal + 0.2, 0.5 * normal - 3.0)
    torch.testing.assert_close(moved, (values - 0.2) / 3.0 - 3.0, rtol=0, atol=1e-12)


def test_move_with_a_whole_orthonormal_basis_matches_all_its_marginals():
    x, y = gaussian(2000, 3, dtype=torch.float64), gaussian(2000, 3, 1, torch.float64).exp()
    basis = torch.linalg.qr(gaussian(3, 3, 2, torch.float64)).Q
    tables = [quantile_table((z @ basis).T, 4001) for z in (x, y)]  # the sorted points are among the levels
    moved = move(x, basis, *tables, 3.0)
    torch.testing.assert_close((moved @ basis).sort(0).values, (y @ basis).sort(0).values)


# --- directions


def test_patch_projections_are_orthonormal_and_local():
    whole = patch_projections((2, 6, 6), 3, 72, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(whole.T @ whole, torch.eye(72, dtype=torch.float64))
    some = patch_projections((2, 6, 6), 2, 10, generator=seeded(1), dtype=torch.float64)
    torch.testing.assert_close(some.T @ some, torch.eye(10, dtype=torch.float64))
    for column in some.T:
        rows = (column.reshape(2, 6, 6) != 0).any(0).nonzero()
        assert (rows.amax(0) - rows.amin(0)).max() < 2


def test_patch_schedule_goes_from_whole_to_pixels():
    assert default_patch_sizes((1, 8, 8)) == (4, 2, 1)
    assert default_patch_sizes((64,)) == ()
    schedule = [patch_size(k, 20, (4, 2, 1), 0.5) for k in range(20)]
    assert schedule[:10] == [0] * 10 and schedule[-3:] == [4, 2, 1]
    assert [patch_size(k, 5, (), 0.2) for k in range(5)] == [0] * 5
