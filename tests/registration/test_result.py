"""What a registration returns: to a file and back, compared, printed, handed to 3D Slicer."""

import dataclasses
import json
import math

import jaxtyping
import pytest
import torch

from drrlib.errors import ConfigError, DtypeError, ShapeError
from drrlib.geometry import CArm, ScanProjection, inverse, mrpd, mtre, pose_errors
from drrlib.optimize import Trace
from drrlib.registration import RegistrationResult

CARM = CArm(1020.0, 510, 48, 40, 400 / 48, 10.0, x0=1.5, flipped=True)
LOCALIZER = ScanProjection(1020.0, 600.0, 48, 40, 10.0, 9.0)
CENTER = torch.tensor([10.0, -20.0, 1 / 3], dtype=torch.float64)
ETA = torch.tensor([0.1, 0.2, -0.05, 4.0, -6.0, 1 / 3], dtype=torch.float64)


def _result(eta=ETA, carm=CARM, **more):
    """Of one image, with every field filled."""
    fields = dict(
        loss=1 / 3,
        converged=True,
        reason="one place fits best",
        renders=321.25,
        seconds=1.75,
        gap=math.inf,
        agreement=0.75,
        kept=math.nan,
        condition=12.5,
        covariance=torch.eye(7, dtype=torch.float64) / 3,
        target_sd=0.125,
        places=torch.stack([eta, eta + 1 / 3]),
        misfits=torch.tensor([0.1, math.nan]),
        path=(("sweep", eta + 1, 0.5), ("level 1", eta, math.nan)),
        attempts=2,
        trace=Trace(eta.expand(3, 6), torch.tensor([1.0, 0.5, math.nan]), torch.tensor([2, 2, 1])),
    )
    pose = carm.pose(eta, CENTER)
    return RegistrationResult(eta=eta, pose=pose, carm=carm, center=CENTER, **(fields | more))


def _batch(n=3):
    """Of n starts, as `descend` returns it."""
    eta = ETA + torch.arange(n, dtype=torch.float64)[:, None] / 7
    trace = Trace(eta.expand(2, n, 6), torch.full((2, n), 1 / 3), torch.tensor([1, 1]))
    return RegistrationResult(
        eta=eta,
        pose=CARM.pose(eta, CENTER),
        loss=torch.tensor([0.3, math.nan, *[0.2] * (n - 2)], dtype=torch.float64)[:n],
        converged=torch.arange(n) % 2 == 0,
        reason=("steps ran out",) * n,
        carm=CARM,
        center=CENTER,
        renders=12.5,
        seconds=0.5,
        trace=trace,
    )


ALL = {
    "one": _result(),
    "localizer": _result(carm=LOCALIZER),
    "freed length": _result(carm=dataclasses.replace(CARM, sdd=torch.tensor(1001.1).double())),
    "bare": RegistrationResult(
        ETA, CARM.pose(ETA, CENTER), 0.5, False, "steps ran out", CARM, CENTER, 1.0, 0.1
    ),
    "float32": _result(eta=ETA.float()),
    "three starts": _batch(),
    "one start of a batch": _batch(1),
    "no start": _batch(0),
}


def _same(a, b):
    """Leaf by leaf, to the bit and with types; written apart from the class's own equality."""
    assert type(a) is type(b), (a, b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert torch.equal(torch.nan_to_num(a, 7.5), torch.nan_to_num(b, 7.5))
        assert torch.equal(a.isnan(), b.isnan())
    elif isinstance(a, tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            _same(x, y)
    elif dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            _same(getattr(a, field.name), getattr(b, field.name))
    else:
        assert a == b or (a != a and b != b)


# --- to a file and back


@pytest.mark.parametrize("name", ALL)
def test_a_file_loses_nothing(tmp_path, name):
    result = ALL[name]
    path = result.save(tmp_path / "pose.json")
    again = RegistrationResult.load(str(path))
    assert again == result
    _same(again, result)
    json.loads(path.read_text(), parse_constant=pytest.fail)  # no NaN, which JSON has not


BAD = {
    "no file": None,
    "no JSON": "pose: 1",
    "cut off": '{"format": "drrlib registration 1", "eta": {"ten',
    "no text": "\x00\xff",
    "a list": "[1, 2]",
    "something else": '{"pose": [1, 2]}',
    "another version": '{"format": "drrlib registration 2"}',
}
CHANGES = {
    "a field lacks": lambda x: x.pop("eta"),
    "a field too many": lambda x: x.update(color=1),
    "no tensor": lambda x: x.update(eta="abc"),
    "no numbers": lambda x: x["eta"].update(tensor=["a"] * 6),
    "no type": lambda x: x["eta"].update(dtype="torch.load"),
    "another shape": lambda x: x["eta"].update(shape=[7]),
    "eta of two poses": lambda x: x["eta"].update(tensor=[[0.0] * 6] * 2, shape=[2, 6]),
    "an unknown camera": lambda x: x.update(carm={"Path": {}}),
    "an impossible camera": lambda x: x["carm"]["CArm"].update(sdd=-1.0),
}


@pytest.mark.parametrize("how", [*BAD, *CHANGES])
def test_a_bad_file_is_named(tmp_path, monkeypatch, how):
    path = tmp_path / "pose.json"
    if how in CHANGES:
        entries = json.loads(_result().save(path).read_text())
        CHANGES[how](entries)
        path.write_text(json.dumps(entries))
    elif BAD[how] is not None:
        path.write_bytes(BAD[how].encode("latin-1"))
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of tests
    with pytest.raises(ConfigError, match=r"pose\.json is no saved registration .*\.save wrote"):
        RegistrationResult.load(path)


# --- compared


def test_equality_never_raises():
    one, three = ALL["one"], ALL["three starts"]
    assert one == _result() and three == _batch() and not one != _result()
    assert three[2] == _batch()[2] and three[0] != three[2]
    others = [x for x in ALL.values() if x is not one] + [None, 3, "one", ETA, {}, one.pose]
    assert not any(one == other for other in others) and all(one != other for other in others)
    assert one != dataclasses.replace(one, loss=0.1) and one in [three, one]
    assert one != dataclasses.replace(one, trace=None)


def test_compare_takes_poses_etas_and_results():
    result, eta = ALL["one"], ETA + torch.tensor([0.02, 0, 0, 0, 5.0, 0])
    pose = CARM.pose(eta, CENTER)
    points = CENTER + 50 * torch.cat([torch.eye(3), -torch.eye(3)])
    found = result.compare(pose)
    assert found.mtre == mtre(result.pose, pose, points) > 1
    assert found.mrpd == mrpd(result.pose, pose, points)
    assert found.parts == pose_errors(result.pose, pose, CENTER)
    ways = (pose.tolist(), pose.numpy(), eta, eta.tolist(), eta.numpy(), _result(eta=eta))
    for other in ways:
        assert result.compare(other).mtre == pytest.approx(float(found.mtre), abs=1e-12)
    assert "mm in plane" in repr(found) and "\n" not in repr(found)


def test_compare_of_many_starts_has_one_error_each():
    batch = ALL["three starts"]
    found = batch.compare(ETA)
    assert found.mtre.shape == found.parts.depth.shape == (3,)
    assert found.mtre[0] < 1e-9 < found.mtre[1] < found.mtre[2]
    assert float(batch.compare(batch).mtre.max()) < 1e-9
    assert repr(found).startswith("Comparison(3 poses, median mTRE ")


def test_compare_names_what_is_no_pose():
    with pytest.raises(ShapeError, match="true_pose has shape"):
        ALL["one"].compare(torch.eye(3))
    with pytest.raises(DtypeError, match="pose is a str"):
        ALL["one"].compare("pose.json")


# --- parts, text, Slicer


def test_parts_of_a_batch():
    batch = ALL["three starts"]
    assert len(batch) == 3 and batch.best == batch[2] and batch.best.best == batch[2]
    part = batch[1]
    assert torch.equal(part.eta, batch.eta[1]) and part.trace.eta.shape == (2, 6)
    assert type(part.loss) is float and part.converged is False
    for what in (len, lambda x: x[0]):
        with pytest.raises(TypeError, match="of one registration"):
            what(ALL["one"])


@pytest.mark.parametrize("name", [x for x in ALL if x != "no start"])
def test_printed_as_one_line(name):
    text = repr(ALL[name])
    assert "\n" not in text and len(text) <= 200
    assert "tensor" not in text and "deg" in text and "full renders" in text


def test_text_of_one():
    assert repr(ALL["one"]) == (
        "converged: one place fits best; loss 0.333; theta, phi, gamma = +5.73, +11.46, -2.86 deg; "
        "b = +4.00, -6.00, +0.33 mm; +-0.12 mm; 321 full renders in 1.8 s"
    )
    assert repr(ALL["three starts"]).startswith("2 of 3 starts converged; best: converged: steps")


def test_slicer_gets_the_best_pose(tmp_path):
    batch = ALL["three starts"]
    path = batch.to_slicer(tmp_path / "pose.tfm")
    text = path.read_text()
    assert text.startswith("#Insight Transform File V1.0\n")
    row = next(x for x in text.splitlines() if x.startswith("Parameters:"))
    numbers = torch.tensor([float(x) for x in row.split()[1:]], dtype=torch.float64)
    back = inverse(batch[2].pose)
    assert torch.equal(numbers, torch.cat([back[:3, :3].flatten(), back[:3, 3]]))


def test_a_foreign_file_is_not_quoted(tmp_path):
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"format": "drrlib registration 1", "SECRET": {"SECRET": 1}}))
    with pytest.raises(ConfigError, match="no saved registration") as caught:
        RegistrationResult.load(path)
    assert "SECRET" not in str(caught.value) and caught.value.__suppress_context__
