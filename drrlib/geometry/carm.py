"""The C-arm: intrinsics, the six-parameter pose, projection matrices.

Camera frame: origin at the X-ray source, z towards the detector, x along increasing columns,
y up in the image (against increasing rows). The picture is the one seen from the detector
towards the source, as radiographs are read: in a frontal view the patient's left is on its
right. Image coordinates put pixel centres at half-integers: pixel (i, j) is at (j + 1/2, i + 1/2).

Source of the angles: DICOM PS3.3 C.8.7.5 (XA positioner); of the pose: Alfiansyah et al. 2024,
doi:10.3844/jcssp.2024.1593.1601, Fig. 3, whose sphere of radius rho is sdd = 2 rho, sod = rho.
"""

import dataclasses
import math
import operator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.errors import ConfigError, GeometryError, ShapeError
from drrlib.projectors import Grid, project

Scalar = float | int | Tensor


class Frame(NamedTuple):
    """Where source and detector stand for each pose [mm, world], float64.

    Pixel (i, j) has its centre at corner + (j + 1/2) col_step + (i + 1/2) row_step.
    """

    source: Float[Tensor, "b 3"]
    corner: Float[Tensor, "b 3"]
    col_step: Float[Tensor, "b 3"]
    row_step: Float[Tensor, "b 3"]


@dataclass(frozen=True)
class CArm:
    """Intrinsics of a C-arm. Every length is a number or a 0-d tensor that may take a gradient.

    Args:
        sdd: Source-detector distance [mm].
        sod: Source-isocentre distance [mm], between 0 and sdd.
        height, width: Detector rows and columns.
        delx, dely: Pixel spacing along columns and rows [mm].
        x0, y0: Shift of the detector's centre along increasing columns and rows [mm].
        flipped: True if the image is seen from the source: columns run the other way.

    Raises:
        GeometryError: a length or a number of pixels that no C-arm can have.
        ShapeError: a tensor with axes; one C-arm has one of each length.
    """

    sdd: Scalar
    sod: Scalar
    height: int
    width: int
    delx: Scalar
    dely: Scalar
    x0: Scalar = 0.0
    y0: Scalar = 0.0
    flipped: bool = False

    def __post_init__(self):
        value = {}
        for name in ("sdd", "sod", "delx", "dely", "x0", "y0"):
            length = getattr(self, name)
            if isinstance(length, Tensor) and length.ndim:
                raise ShapeError(f"{name} has shape {tuple(length.shape)}; expected a 0-d tensor")
            if isinstance(length, Tensor):
                length = length.detach()
            try:
                number = math.nan if isinstance(length, str) else float(length)
            except (TypeError, ValueError):
                number = math.nan
            value[name] = number
            if not math.isfinite(number):
                raise GeometryError(f"{name} is {length!r}; expected a finite length [mm]")
        for name in ("sdd", "delx", "dely"):
            if value[name] <= 0:
                raise GeometryError(f"{name} is {value[name]} mm; expected more than 0")
        if not 0 < value["sod"] < value["sdd"]:
            raise GeometryError(
                f"sod is {value['sod']} mm with sdd {value['sdd']} mm; the isocentre must lie "
                "between source and detector, so expected 0 < sod < sdd"
            )
        for name in ("height", "width"):
            pixels = getattr(self, name)
            try:
                count = 0 if isinstance(pixels, bool) else operator.index(pixels)
            except TypeError:
                count = 0
            if count < 1:
                raise GeometryError(f"{name} is {pixels!r}; expected a whole number of pixels >= 1")

    def pose(
        self, eta: Float[Tensor, "*b 6"], center: Float[Tensor, "3"]
    ) -> Float[Tensor, "*b 4 4"]:
        """world_from_camera of eta = (theta, phi, gamma, bx, by, bz) about a volume's centre.

        Args:
            eta: Cranial(+)/caudal(-) angle theta, LAO(+)/RAO(-) angle phi, detector rotation
                gamma about the viewing direction [rad]; offset b of the isocentre [mm].
            center: Volume centre [mm, world].

        Returns:
            Rigid transforms, float64.

        Gradients: eta, sod.
        """
        if eta.shape[-1:] != (6,):
            raise ShapeError(f"eta has shape {tuple(eta.shape)}; expected [..., 6]")
        eta = eta.to(torch.float64)
        rotation = _view(eta[..., 0], eta[..., 1]) @ _about_z(eta[..., 2])
        isocenter = center.to(eta) + eta[..., 3:]
        source = isocenter - _double(self.sod, eta) * rotation[..., :, 2]
        top = torch.cat([rotation, source[..., None]], dim=-1)
        zero = torch.zeros_like(top[..., :1, :1])  # no numbers from the host: see `graphs`
        bottom = torch.cat([zero, zero, zero, zero + 1], dim=-1)
        return torch.cat([top, bottom], dim=-2)

    def eta(
        self, pose: Float[Tensor, "*b 4 4"], center: Float[Tensor, "3"]
    ) -> Float[Tensor, "*b 6"]:
        """The inverse of `pose`: theta in [-pi/2, pi/2], phi and gamma in (-pi, pi].

        At theta = +-pi/2, where phi and gamma turn about one axis, phi = 0 is chosen.
        """
        pose = _check_pose(pose)
        direction = pose[..., :3, 2]
        theta = torch.atan2(direction[..., 2], direction[..., :2].norm(dim=-1))
        polar = direction[..., :2].norm(dim=-1) < 1e-12
        phi = torch.where(polar, 0.0, torch.atan2(direction[..., 0], -direction[..., 1]))
        turn = _view(theta, phi).mT @ pose[..., :3, :3]
        gamma = torch.atan2(turn[..., 1, 0], turn[..., 0, 0])
        offset = pose[..., :3, 3] + _double(self.sod, pose) * direction - center.to(pose)
        return torch.cat([torch.stack([theta, phi, gamma], dim=-1), offset], dim=-1)

    def frame(self, pose: Float[Tensor, "b 4 4"]) -> Frame:
        """Source and detector in the world. Gradients: pose and every intrinsic length."""
        pose = _check_pose(pose)
        if pose.ndim != 3:
            raise ShapeError(f"pose has shape {tuple(pose.shape)}; expected [batch, 4, 4]")
        right, up, ahead = pose[:, :3, 0], pose[:, :3, 1], pose[:, :3, 2]
        if self.flipped:
            right = -right
        delx, dely = _double(self.delx, pose), _double(self.dely, pose)
        source, col_step, row_step = pose[:, :3, 3], delx * right, -dely * up
        middle = source + _double(self.sdd, pose) * ahead
        middle = middle + _double(self.x0, pose) * right - _double(self.y0, pose) * up
        corner = middle - 0.5 * self.width * col_step - 0.5 * self.height * row_step
        return Frame(source, corner, col_step, row_step)

    def integrate(
        self, grid: Grid, pose: Float[Tensor, "b 4 4"], **how
    ) -> Float[Tensor, "b height width"]:
        """Line integrals from the source to every pixel; `how` as in `projectors.project`."""
        return project(grid, *self.frame(pose), self.height, self.width, **how)

    def pixel_centers(self, pose: Float[Tensor, "b 4 4"]) -> Float[Tensor, "b height width 3"]:
        """World position of every pixel centre [mm]; for explicit rays and drawings."""
        frame = self.frame(pose)
        like = dict(dtype=frame.corner.dtype, device=frame.corner.device)
        i = torch.arange(self.height, **like)[:, None, None] + 0.5
        j = torch.arange(self.width, **like)[:, None] + 0.5
        corner, col_step, row_step = (x[:, None, None] for x in frame[1:])
        return corner + j * col_step + i * row_step

    def projection_matrix(self, pose: Float[Tensor, "b 4 4"]) -> Float[Tensor, "b 3 4"]:
        """World point -> (column, row, 1) x depth, the depth in mm from the source."""
        pose = _check_pose(pose)
        focal, zero = _double(self.sdd, pose), pose.new_zeros(())
        delx, dely = _double(self.delx, pose), _double(self.dely, pose)
        sign = -1.0 if self.flipped else 1.0
        column = 0.5 * self.width - _double(self.x0, pose) / delx
        row = 0.5 * self.height - _double(self.y0, pose) / dely
        k = torch.stack([sign * focal / delx, zero, column, zero, -focal / dely, row])
        k = torch.cat([k, pose.new_tensor([0.0, 0.0, 1.0])]).reshape(3, 3)
        back = pose[..., :3, :3].mT
        return k @ torch.cat([back, -(back @ pose[..., :3, 3:])], dim=-1)

    def project(
        self, points: Float[Tensor, "n 3"], pose: Float[Tensor, "b 4 4"]
    ) -> Float[Tensor, "b n 2"]:
        """Image coordinates (column, row) of world points; pixel centres at half-integers.

        A point behind the source is projected through it; one at its depth gives no finite value.
        Gradients: points, pose and every intrinsic length.
        """
        matrix = self.projection_matrix(pose)
        seen = points.to(matrix) @ matrix[..., :3].mT + matrix[..., None, :, 3]
        return seen[..., :2] / seen[..., 2:]

    @classmethod
    def from_projection_matrix(
        cls, matrix: Float[Tensor, "3 4"], height: int, width: int, delx: float, *, sod: float
    ) -> tuple["CArm", Float[Tensor, "4 4"]]:
        """Split a calibrated 3x4 matrix into intrinsics and world_from_camera.

        Args:
            matrix: World point [mm] -> (column, row, 1) x depth, up to a positive factor: the
                depth is positive in front of the source. Pixel centres at half-integers.
            height, width: Detector rows and columns.
            delx: Column spacing [mm]; a matrix does not tell it.
            sod: Source-isocentre distance [mm]; only the meaning of eta depends on it.

        Raises:
            ShapeError: not 3x4.
            GeometryError: singular, or with skewed pixels.
        """
        if tuple(matrix.shape) != (3, 4):
            raise ShapeError(f"matrix has shape {tuple(matrix.shape)}; expected (3, 4)")
        matrix = matrix.detach().to(torch.float64)
        m = matrix[:, :3]
        scale = m[2].norm()
        if not bool(torch.isfinite(matrix).all()) or bool(m.det().abs() <= 1e-12 * scale**3):
            raise GeometryError("matrix has no inverse; expected a finite projection of rank 3")
        m, t = m / scale, matrix[:, 3] / scale
        ahead = m[2]
        column, row = m[0] @ ahead, m[1] @ ahead
        y = m[1] - row * ahead
        up = -y / y.norm()
        x = m[0] - column * ahead - (m[0] @ up) * up
        skew = m[0] @ up / x.norm()
        if bool(skew.abs() > 1e-4):
            raise GeometryError(
                f"matrix has skewed pixels (skew {float(skew):.2g} of the column scale); expected "
                "rows and columns at right angles: resample the image"
            )
        right = torch.linalg.cross(up, ahead)
        flipped = bool(x @ right < 0)
        sdd = float(delx * x.norm())
        dely = sdd / float(y.norm())
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3, :3] = torch.stack([right, up, ahead], dim=1)
        pose[:3, 3] = -torch.linalg.solve(m, t)
        x0, y0 = (0.5 * width - float(column)) * delx, (0.5 * height - float(row)) * dely
        return cls(sdd, sod, height, width, float(delx), dely, x0, y0, flipped), pose

    @classmethod
    def from_dicom(
        cls,
        header,
        *,
        sdd: float | None = None,
        sod: float | None = None,
        delx: float | None = None,
        dely: float | None = None,
        frame: int = 0,
    ) -> tuple["CArm", Float[Tensor, "6"] | None]:
        """Intrinsics and positioner angles of an XA, DX or CR image.

        No length is guessed: what the header lacks must be given by keyword, which also replaces
        what the header says. See `drrlib.io.carm_header` for the tags and what they mean.

        Args:
            header: pydicom dataset.
            sdd, sod: Source-detector and source-isocentre distance [mm].
            delx, dely: Column and row spacing at the detector [mm].
            frame: Which frame of a run, from 0; its angles differ where the positioner moved.

        Returns:
            The C-arm, and eta with the angles and no offset; None where the header lacks a
            positioner angle.

        Raises:
            ConfigError: not a dataset, or no such frame.
            DicomError: names the missing or unusable tag and the keyword that replaces it.
            GeometryError: lengths that no C-arm can have.
        """
        from drrlib.io.carm_header import read_header  # it needs this class

        return read_header(header, sdd=sdd, sod=sod, delx=delx, dely=dely, frame=frame)

    def downsample(self, factor: int) -> "CArm":
        """The same detector with factor x factor pixels joined into one.

        Raises:
            ConfigError: the factor does not divide height and width.
        """
        return join_pixels(self, factor)


def join_pixels(geometry, factor: int):
    """A geometry with factor x factor of its pixels joined into one; see `CArm.downsample`.

    Args:
        geometry: A dataclass with height, width, delx and dely.
    """
    if factor < 1 or geometry.height % factor or geometry.width % factor:
        raise ConfigError(
            f"factor is {factor} for a detector of {geometry.height} x {geometry.width} pixels; "
            "expected a divisor of both"
        )
    return dataclasses.replace(
        geometry, height=geometry.height // factor, width=geometry.width // factor,
        delx=geometry.delx * factor, dely=geometry.dely * factor,
    )  # fmt: skip


def _double(value: Scalar, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.to(like.device, torch.float64)
    # Filled on the device; a copy from the host could not go into a CUDA graph.
    return torch.full((), value, dtype=torch.float64, device=like.device)


def _check_pose(pose: Tensor) -> Tensor:
    if pose.shape[-2:] != (4, 4):
        raise ShapeError(f"pose has shape {tuple(pose.shape)}; expected [..., 4, 4]")
    return pose.to(torch.float64)


def _view(theta: Tensor, phi: Tensor) -> Tensor:
    """Columns (right, up, towards the detector) of the unrotated detector, [..., 3, 3]."""
    ct, st, cp, sp = theta.cos(), theta.sin(), phi.cos(), phi.sin()
    rows = [cp, -sp * st, sp * ct, sp, cp * st, -cp * ct, torch.zeros_like(ct), ct, st]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def _about_z(gamma: Tensor) -> Tensor:
    c, s, zero, one = gamma.cos(), gamma.sin(), torch.zeros_like(gamma), torch.ones_like(gamma)
    return torch.stack([c, -s, zero, s, c, zero, zero, zero, one], dim=-1).unflatten(-1, (3, 3))
