"""Searches without gradients: they minimise, they count, they stop."""

import math
import sys

import numpy as np
import pytest
import torch

from drrlib.errors import ConfigError
from drrlib.optimize import GRADIENT_FREE, CmaEs, SciPySearch

TRUE = torch.tensor([0.1, -0.2, 0.05, 12.0, -7.0, 3.0], dtype=torch.float64)
SCALE = torch.tensor([0.2, 0.2, 0.2, 10.0, 10.0, 10.0], dtype=torch.float64)
ZERO = torch.zeros(6, dtype=torch.float64)


def bowl(eta):
    return (((eta - TRUE) / SCALE) ** 2).sum(dim=1)


@pytest.mark.parametrize("name", GRADIENT_FREE)
def test_finds_the_bottom_of_a_bowl(name):
    path, losses, settled = GRADIENT_FREE[name]().search(bowl, ZERO, 4000, 1e-8)
    assert path.shape == (len(losses), 6) and torch.equal(path[0], ZERO)
    best = path[losses.argmin()]
    assert ((best - TRUE) / SCALE).abs().max() < 1e-3
    assert settled or losses.min() < 1e-8
    assert torch.allclose(bowl(path), losses, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", GRADIENT_FREE)
def test_stops_at_the_threshold_and_at_the_budget(name):
    method = GRADIENT_FREE[name]()
    _, losses, settled = method.search(bowl, ZERO, 4000, 0.5)
    batch = 9 if name == "cma-es" else 1  # a generation is rendered whole
    assert (losses[-batch:] < 0.5).any() and (losses[:-batch] >= 0.5).all() and not settled
    for budget in (1, 17, 19):
        rows = []
        _, losses, settled = method.search(_counted(rows), ZERO, budget, 0)
        assert sum(rows) == len(losses) == budget and not settled


def _counted(rows):
    def losses_of(eta):
        rows.append(len(eta))
        return bowl(eta)

    return losses_of


@pytest.mark.parametrize("name", GRADIENT_FREE)
def test_a_pose_without_a_loss_is_passed_by(name):
    def holed(eta):
        return torch.where(eta[:, 5] > 9, math.nan, bowl(eta))

    _, losses, _ = GRADIENT_FREE[name]().search(holed, ZERO, 4000, 1e-6)
    assert torch.isnan(losses).any() and torch.nan_to_num(losses, nan=1.0).min() < 1e-3


@pytest.mark.parametrize("name", GRADIENT_FREE)
def test_a_smaller_scale_stays_nearer(name):
    method = GRADIENT_FREE[name]()
    tried = [method.search(bowl, TRUE, 9, 0, scale)[0] for scale in (1, 0.1)]
    reach = [((path - TRUE) / SCALE).abs().max() for path in tried]
    assert 0 < reach[1] <= 0.1 * reach[0] * (1 + 1e-9)


def test_a_search_ends_by_itself():
    """Where nothing can be gained any more, the budget is not used up."""
    for name in GRADIENT_FREE:
        _, losses, settled = GRADIENT_FREE[name]().search(bowl, TRUE + 0.01, 20_000, -1.0)
        assert settled and len(losses) < 20_000


def test_cma_es_renders_a_generation_as_one_batch():
    rows = []
    CmaEs(population=12).search(_counted(rows), ZERO, 42, 0)
    assert rows == [1, 12, 12, 12, 5]


def test_cma_es_repeats_by_its_seed_and_leaves_global_draws_alone():
    start = ZERO + 0.01
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.rand()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    first, again = (CmaEs(seed=5).search(bowl, start, 100, 0)[0] for _ in range(2))
    assert np.random.rand() == expected  # noqa: NPY002
    assert torch.equal(first, again)
    # Another seed draws anew, and so does another start: errors of trials must not be alike.
    assert not torch.allclose(first[1:10], CmaEs(seed=6).search(bowl, start, 100, 0)[0][1:10])
    second = CmaEs(seed=5).search(bowl, start, 100, 0, number=1)[0]
    assert not torch.allclose(second[1:10], first[1:10])
    # What is drawn depends on the number of the start and not on where it is.
    moved = CmaEs(seed=5).search(bowl, start + 1, 100, 0)[0]
    assert torch.allclose(moved[1:10] - start - 1, first[1:10] - start, atol=1e-9)
    own = CmaEs(seed=(9, 5)).search(bowl, start, 100, 0, number=1)[0]
    assert torch.equal(own, CmaEs(seed=(5,)).search(bowl, start, 100, 0)[0])


def test_the_first_generation_spreads_as_told():
    method = CmaEs(step_rotation=0.3, step_translation=20.0, population=4000, seed=1)
    path = method.search(bowl, ZERO, 4001, 0, scale=0.5)[0][1:]
    # 5 standard errors of a standard deviation from 4000 draws are 5.6 %.
    expected = torch.tensor([0.15] * 3 + [10.0] * 3, dtype=torch.float64)
    assert (path.std(dim=0) / expected - 1).abs().max() < 0.056


def test_bad_input_is_named():
    with pytest.raises(ConfigError, match="Powell"):
        SciPySearch("bfgs")
    for method in (SciPySearch, CmaEs):
        with pytest.raises(ConfigError, match="step_rotation"):
            method(step_rotation=0.0)
    with pytest.raises(ConfigError, match="population is 3"):
        CmaEs(population=3)
    for seed in (-1, (0, -1)):
        with pytest.raises(ConfigError, match="expected whole numbers >= 0"):
            CmaEs(seed=seed)


def test_without_pycma_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cma", None)
    with pytest.raises(ConfigError, match="pip install cma"):
        CmaEs()
