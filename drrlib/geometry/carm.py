"""The C-arm: intrinsics, the six-parameter pose, projection matrices.

Camera frame: origin at the X-ray source, z towards the detector, x along increasing columns,
y up in the image (against increasing rows). The picture is the one seen from the detector
towards the source, as radiographs are read: in a frontal view the patient's left is on its
right. Image coordinates put pixel centres at half-integers: pixel (i, j) is at (j + 1/2, i + 1/2).

Source of the angles: DICOM PS3.3 C.8.7.5 (XA positioner); of the pose: Alfiansyah et al. 2024,
doi:10.3844/jcssp.2024.1593.1601, Fig. 3, whose sphere of radius rho is sdd = 2 rho, sod = rho.
"""

import math

import torch
from jaxtyping import Float, Real
from torch import Tensor

from drrlib.arrays import Numbers, as_length, as_tensor, as_whole
from drrlib.errors import GeometryError, ShapeError
from drrlib.geometry.detector import Detector, Frame, Scalar
from drrlib.geometry.se3 import rigid, so3_exp

BEHIND = (
    "behind the source, where nothing is seen: the pose looks the other way, as that of a "
    "projection matrix with the other sign does; pass -matrix, or `ahead=volume.center` to "
    "CArm.from_projection_matrix, and check the frame of the pose"
)


class CArm(Detector):
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

    @classmethod
    def square(cls, sdd: Scalar, sod: Scalar, pixels: int, extent: Scalar, **others) -> "CArm":
        """A detector of pixels x pixels over a square of `extent` mm; `others` as in `CArm`."""
        return cls(sdd, sod, pixels, pixels, extent / pixels, extent / pixels, **others)

    @property
    def pixel(self) -> float:
        """Column spacing as seen at the isocentre [mm]."""
        return float(self.delx) * float(self.sod) / float(self.sdd)

    def pose(self, eta: Numbers, center: Numbers) -> Float[Tensor, "*b 4 4"]:
        """world_from_camera of eta = (theta, phi, gamma, bx, by, bz) about a volume's centre.

        Args:
            eta: Cranial(+)/caudal(-) angle theta, LAO(+)/RAO(-) angle phi, detector rotation
                gamma about the viewing direction [rad]; offset b of the isocentre [mm]; [..., 6].
            center: Volume centre [mm, world].

        Returns:
            Rigid transforms, float64.

        Gradients: eta, sod.
        """
        eta = _check_eta(eta)
        rotation = _view(eta[..., 0], eta[..., 1]) @ _about_z(eta[..., 2])
        isocenter = _center(center, eta) + eta[..., 3:]
        return rigid(rotation, isocenter - _double(self.sod, eta) * rotation[..., :, 2])

    def pose_slopes(self, eta: Numbers) -> Float[Tensor, "*b 6 4 4"]:
        """Derivative of `pose` by each parameter; it does not depend on the centre.

        A turn by phi is one about the world's z axis, one by gamma about the viewing direction,
        and theta tilts the unturned detector about its rows.
        """
        eta = _check_eta(eta)
        view, turn = _view(eta[..., 0], eta[..., 1]), _about_z(eta[..., 2])
        rotation = view @ turn
        right, up, ahead = rotation.unbind(-1)
        sine, cosine = turn[..., 1, :1], turn[..., :1, 0]
        zero = torch.zeros_like(right)
        x, y, z = rotation.unbind(-2)
        tilt = torch.stack([-sine * ahead, -cosine * ahead, view[..., 1]], dim=-1)
        swing = torch.stack([-y, x, torch.zeros_like(z)], dim=-2)
        roll = torch.stack([up, -right, zero], dim=-1)
        slopes = eta.new_zeros(*eta.shape, 4, 4)
        slopes[..., :3, :3, :3] = torch.stack([tilt, swing, roll], dim=-3)
        slopes[..., :3, :3, 3] = -_double(self.sod, eta) * slopes[..., :3, :3, 2]
        for k in range(3):
            slopes[..., 3 + k, k, 3] = 1.0
        return slopes

    def eta(self, pose: Numbers, center: Numbers) -> Float[Tensor, "*b 6"]:
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
        center = _center(center, theta[..., None])
        offset = pose[..., :3, 3] + _double(self.sod, pose) * direction - center
        return torch.cat([torch.stack([theta, phi, gamma], dim=-1), offset], dim=-1)

    def frame(self, pose: Numbers) -> Frame:
        """Source and detector in the world. Gradients: pose and every intrinsic length."""
        pose = _check_pose(pose)
        right, up, ahead, source = pose[..., :3, :].unbind(-1)
        if self.flipped:
            right = -right
        delx, dely = _double(self.delx, pose), _double(self.dely, pose)
        col_step, row_step = delx * right, -dely * up
        middle = source + _double(self.sdd, pose) * ahead
        middle = middle + _double(self.x0, pose) * right - _double(self.y0, pose) * up
        corner = middle - 0.5 * self.width * col_step - 0.5 * self.height * row_step
        return Frame(source, corner, col_step, row_step)

    def strips(self, pose: Float[Tensor, "*b 4 4"]) -> tuple[Frame, int]:
        """Parts of the detector, each seen from one source, and the rows of each; here one part.

        Returns:
            Their frames [*b, parts, 3], in the order of the image's rows.
        """
        return Frame(*(x[..., None, :] for x in self.frame(pose))), self.height

    def looking_at(
        self, pose: Float[Tensor, "*b 4 4"], row: Real[Tensor, "*b"], column: Real[Tensor, "*b"]
    ) -> Float[Tensor, "*b 4 4"]:
        """Poses whose detector's middle sees what lay so many pixels off it: turned about the
        source, which sees the same rays."""
        frame = self.frame(pose)
        middle = 0.5 * self.width * frame.col_step + 0.5 * self.height * frame.row_step
        a = frame.corner + middle - frame.source
        b = a + column[..., None].to(a) * frame.col_step + row[..., None].to(a) * frame.row_step
        axis = torch.linalg.cross(a, b)
        sine, cosine = axis.norm(dim=-1, keepdim=True), (a * b).sum(dim=-1, keepdim=True)
        turn = so3_exp(axis / sine.clamp_min(1e-12) * torch.atan2(sine, cosine))
        seen = pose.clone()
        seen[..., :3, :3] = turn @ pose[..., :3, :3]
        return seen

    def pixel_centers(self, pose: Numbers) -> Float[Tensor, "*b height width 3"]:
        """World position of every pixel centre [mm]; for explicit rays and drawings."""
        frame = self.frame(pose)
        like = dict(dtype=frame.corner.dtype, device=frame.corner.device)
        i = torch.arange(self.height, **like)[:, None, None] + 0.5
        j = torch.arange(self.width, **like)[:, None] + 0.5
        corner, col_step, row_step = (x[..., None, None, :] for x in frame[1:])
        return corner + j * col_step + i * row_step

    def projection_matrix(self, pose: Numbers) -> Float[Tensor, "*b 3 4"]:
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

    def project(self, points: Numbers, pose: Numbers) -> Float[Tensor, "*b n 2"]:
        """Image coordinates (column, row) of world points; pixel centres at half-integers.

        A point behind the source is projected through it; one at its depth gives no finite value.
        Gradients: points, pose and every intrinsic length.
        """
        matrix = self.projection_matrix(pose)
        points = as_tensor(points, "points").to(matrix)
        try:
            seen = points @ matrix[..., :3].mT + matrix[..., None, :, 3]
        except RuntimeError:
            raise ShapeError(
                f"points have shape {tuple(points.shape)} for poses {tuple(matrix.shape[:-2])}; "
                "expected [..., n, 3], with leading axes that broadcast"
            ) from None
        return seen[..., :2] / seen[..., 2:]

    @classmethod
    def from_projection_matrix(
        cls,
        matrix: Numbers,
        height: int,
        width: int,
        delx: float,
        *,
        sod: float,
        ahead: Numbers | None = None,
    ) -> tuple["CArm", Float[Tensor, "4 4"]]:
        """Split a calibrated 3x4 matrix into intrinsics and world_from_camera.

        Args:
            matrix: World point [mm] -> (column, row, 1) x depth, up to a factor. Its sign tells
                which side the source looks to, so that without `ahead` the depth must be positive
                in front of the source: the other sign is a camera that looks away, with a black
                image. Pixel centres at half-integers.
            height, width: Detector rows and columns.
            delx: Column spacing [mm]; a matrix does not tell it.
            sod: Source-isocentre distance [mm]; only the meaning of eta depends on it.
            ahead: A world point in front of the source [mm], such as `volume.center`, for a matrix
                of either sign.

        Raises:
            ShapeError: not 3x4, or `ahead` not one point.
            GeometryError: singular, with skewed pixels, or `ahead` at the source's own depth.
        """
        matrix = as_tensor(matrix, "matrix", torch.float64).detach()
        if tuple(matrix.shape) != (3, 4):
            raise ShapeError(f"matrix has shape {tuple(matrix.shape)}; expected (3, 4)")
        matrix = matrix if ahead is None else matrix * _side(matrix, ahead)
        height, width = as_whole(height, "height"), as_whole(width, "width")
        delx = as_length(delx, "delx")
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


def _double(value: Scalar, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.to(like.device, torch.float64)
    # Filled on the device; a copy from the host could not go into a CUDA graph.
    return torch.full((), value, dtype=torch.float64, device=like.device)


def depth(points: Float[Tensor, "... 3"], pose: Float[Tensor, "... 4 4"]) -> Float[Tensor, "..."]:
    """How far in front of the source points lie, along the view [mm]; below 0 behind it."""
    return ((points - pose[..., :3, 3]) * pose[..., :3, 2]).sum(dim=-1)


def _side(matrix: Tensor, ahead: Numbers) -> float:
    """1 or -1, for which a point is in front of a matrix's source."""
    point = as_tensor(ahead, "ahead").detach().to(matrix)
    if tuple(point.shape) != (3,):
        raise ShapeError(f"ahead has shape {tuple(point.shape)}; expected one point, (3,)")
    depth = float(matrix[2, :3] @ point + matrix[2, 3])
    if not abs(depth) > 1e-6 * float(matrix[2, :3].norm()):
        raise GeometryError(
            "ahead is at the source's depth, so that the matrix's sign is open; expected a point "
            "in front of the source [mm], such as volume.center"
        )
    return math.copysign(1.0, depth)


def _center(center: Numbers, like: Tensor) -> Tensor:
    """The centre as `like` is, whose leading axes it fits."""
    center = as_tensor(center, "center").to(like)
    try:
        axes = torch.broadcast_shapes(center.shape[:-1], like.shape[:-1])
        fits = center.shape[-1:] == (3,) and axes == like.shape[:-1]
    except RuntimeError:
        fits = False
    if not fits:
        raise ShapeError(f"center has shape {tuple(center.shape)}; expected (3,)")
    return center


def _check_pose(pose: Numbers) -> Tensor:
    pose = as_tensor(pose, "pose", torch.float64)
    if pose.shape[-2:] != (4, 4):
        raise ShapeError(f"pose has shape {tuple(pose.shape)}; expected [..., 4, 4]")
    return pose


def _check_eta(eta: Numbers) -> Tensor:
    eta = as_tensor(eta, "eta", torch.float64)
    if eta.shape[-1:] != (6,):
        raise ShapeError(f"eta has shape {tuple(eta.shape)}; expected [..., 6]")
    return eta


def _view(theta: Tensor, phi: Tensor) -> Tensor:
    """Columns (right, up, towards the detector) of the unrotated detector, [..., 3, 3]."""
    ct, st, cp, sp = theta.cos(), theta.sin(), phi.cos(), phi.sin()
    rows = [cp, -sp * st, sp * ct, sp, cp * st, -cp * ct, torch.zeros_like(ct), ct, st]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def _about_z(gamma: Tensor) -> Tensor:
    c, s, zero, one = gamma.cos(), gamma.sin(), torch.zeros_like(gamma), torch.ones_like(gamma)
    return torch.stack([c, -s, zero, s, c, zero, zero, zero, one], dim=-1).unflatten(-1, (3, 3))
