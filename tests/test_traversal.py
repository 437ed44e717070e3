"""Counting how kernels walk (benchmarks/traversal.py), and the walk to compare drrlib's with."""

from pathlib import Path

import numpy as np
import pytest
import torch

from drrlib.projectors import Grid, endpoint_gradients
from drrlib.projectors.reference import siddon
from helpers import ALIGNED_VIEWS, GENERIC_VIEWS, affine, outside_band, placed, random_volume, worst

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def folder(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.fixture
def traversal(folder):
    import traversal

    return traversal


@pytest.mark.gpu(interpreter=True)
@pytest.mark.parametrize("name", [*GENERIC_VIEWS, *ALIGNED_VIEWS])
@pytest.mark.parametrize("backend", ["cuda"])
def test_the_walk_from_plane_to_plane_gives_the_same(folder, backend, name):
    from plane_walk import march

    v = {**GENERIC_VIEWS, **ALIGNED_VIEWS}[name]
    grid = Grid(placed(random_volume(), backend), affine())
    frames = grid.frames(*v.frame)
    image, sums = march(grid, frames, v.height, v.width, True)
    exact = Grid(random_volume().double(), affine())
    truth = endpoint_gradients(exact, frames.cpu(), v.height, v.width)
    assert worst(image.cpu(), truth[0]) < 2e-5
    if name in GENERIC_VIEWS:  # rays inside faces may fall to either side
        assert outside_band(sums.cpu(), truth[1], 1e-4) <= 0.005


def test_counted_voxels_are_those_that_the_reference_reads(traversal):
    size = (9, 7, 11)
    dice = np.random.default_rng(2)
    source = dice.uniform(-30, -20, (40, 3)) * dice.choice([-1, 1], (40, 3))
    target = dice.uniform(1, 7, (40, 3)) * 2 - source  # through the grid
    mu = torch.ones(size, dtype=torch.float64)
    walked = traversal.slabs(source + 1.5, target - source, np.array(size))
    hits = 0
    for ray in range(len(source)):
        leaf = mu.clone().requires_grad_()
        ends = [torch.from_numpy(x[ray : ray + 1]) for x in (source, target)]
        siddon(leaf, torch.eye(3, dtype=torch.float64), *ends).sum().backward()
        read = {tuple(v - 1) for v in walked.voxels[:, ray][walked.read[:, ray]]}
        inside = {v for v in read if all(0 <= x < n for x, n in zip(v, size, strict=True))}
        assert inside == {tuple(map(int, v)) for v in torch.nonzero(leaf.grad > 1e-12)}
        hits += len(inside)
    assert hits > 400


def test_sectors_of_loads(traversal):
    lanes = np.arange(32)[:, None]
    everyone = np.ones((32, 2), bool)
    address = np.concatenate([4 * lanes, 64 * lanes], axis=1)  # side by side, and far apart
    assert traversal.sectors(address, everyone).tolist() == [4 + 32, 4 + 32 - 2]
    everyone[1:, 0] = False
    assert traversal.sectors(address, everyone).tolist() == [1 + 32, 32]


def test_addresses_are_different_and_bricks_lie_together(traversal):
    size = np.array([5, 6, 7])
    voxels = np.stack(np.meshgrid(*(np.arange(n + 3) for n in size), indexing="ij"), axis=-1)
    for place in (traversal.by_rows, traversal.by_bricks):
        address = place(voxels.reshape(-1, 3), size)
        assert len(np.unique(address)) == len(address) and (address % 4 == 0).all()
    brick = traversal.by_bricks(voxels[:4, :4, :4].reshape(-1, 3), size)
    assert brick.max() - brick.min() == 4 * 63


LISTING = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;   /* 0x00000a0000017a02 */
        /*0010*/                   IADD3 R2, R2, 0x1, RZ ;  /* 0x00 */
        /*0020*/                   FADD R3, R3, R4 ;        /* 0x00 */
        /*0030*/              @!P0 BRA 0x10 ;               /* 0x00 */
        /*0040*/                   EXIT ;                   /* 0x00 */
        /*0050*/                   BRA 0x50;                /* 0x00 */
"""


def test_the_loop_of_a_listing(traversal):
    assert traversal.loop_length(LISTING) == 3
    with pytest.raises(SystemExit, match="no loop"):
        traversal.loop_length(LISTING.replace("0x10", "0x40"))


def test_whole_table(traversal, monkeypatch, tmp_path, capsys):
    pytest.importorskip("triton", reason="Triton is not installed: no kernels to compile")
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here: the table would be followed by minutes of timing")
    monkeypatch.setattr(traversal, "RESULTS", tmp_path / "traversal.csv")
    # Compiling takes seconds a kernel, and test_triton.py compiles them all.
    monkeypatch.setattr(traversal, "instructions", lambda walk, *_: 80.0 if walk == "slabs" else 50)
    assert traversal.main(["--programs", "3", "--pixels", "48"]) == 0
    rows = (tmp_path / "traversal.csv").read_text().splitlines()
    assert rows[0].split(",") == list(traversal.COLUMNS) and len(rows) == 1 + 2 * 3 * 2
    assert "nothing was timed" in capsys.readouterr().out


@pytest.mark.gpu(interpreter=True)
@pytest.mark.parametrize("backend", ["cuda"])
def test_both_walks_are_timed(traversal, backend, capsys):
    device = str(placed(torch.zeros(1), backend).device)
    traversal.timed(device, {"small": ((8, 8, 6), (256.0, 256.0, 256.0))}, 6, repeats=1)
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("small")]
    assert len(lines) == 3 and all("slabs" in x and "planes" in x for x in lines)


def test_instructions_are_counted_in_what_is_compiled(traversal):
    pytest.importorskip("triton", reason="Triton is not installed: no kernels to compile")
    from helpers import interpreted

    if interpreted():
        pytest.skip("TRITON_INTERPRET=1 is set: nothing is compiled")
    found = {walk: traversal.instructions(walk, 200, 75) for walk in traversal.WALKS}
    assert 20 < found["planes"] < found["slabs"] < 200
