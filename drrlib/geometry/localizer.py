"""CT localizers (scout, topogram, surview): scanned projection radiographs.

The tube stands still and the table moves: each row of the picture is taken by the same fan of rays
across the table, one table step further. So the picture is a perspective one along its rows and a
parallel one along its columns. No plain C-arm fits it.

Camera frame and angles are those of `CArm`: z from the source towards the detector, x along
increasing columns of a picture seen from the detector, y up in the picture, here the direction of
the table. The same eta means the same view of the patient for both.
"""

import dataclasses

import torch
from jaxtyping import Float, Real
from torch import Tensor

from drrlib.arrays import Numbers, as_tensor
from drrlib.errors import ConfigError
from drrlib.geometry.carm import CArm
from drrlib.geometry.detector import Detector, Frame


class ScanProjection(Detector):
    """A fan across the table, moved along it. Every length is a number or a 0-d tensor.

    Args:
        sdd: Source-detector distance [mm]. Rays end there; the picture does not depend on it
            as long as the patient lies between source and detector.
        sod: Distance from the source to the isocentre [mm], between 0 and sdd.
        height, width: Rows, one for each table position, and columns.
        delx: Column spacing in the plane through the isocentre parallel to the picture [mm], as
            scanners state it; not at the detector.
        dely: Row spacing [mm]: the table step, at any depth.
        x0: Shift of the picture's centre from the central ray along increasing columns [mm],
            in the plane of the isocentre.
        y0: Shift of the picture's centre from the row of the isocentre along increasing rows [mm].
            The scan itself has no such row; it is the one that the pose refers to.
        flipped: True if the picture is seen from the source: columns run the other way.

    Raises:
        GeometryError: a length or a number of pixels that no scanner can have.
        ShapeError: a tensor with axes; one scan has one of each length.
    """

    @property
    def fan(self) -> CArm:
        """The row of the isocentre, as a C-arm whose detector has one row."""
        larger = self.sdd / self.sod
        return CArm(
            self.sdd,
            self.sod,
            1,
            self.width,
            self.delx * larger,
            self.dely,
            x0=self.x0 * larger,
            flipped=self.flipped,
        )

    @property
    def pixel(self) -> float:
        """Column spacing at the isocentre [mm]."""
        return float(self.delx)

    def pose(self, eta: Numbers, center: Numbers) -> Float[Tensor, "*b 4 4"]:
        """world_from_camera of eta = (theta, phi, gamma, bx, by, bz) about a volume's centre.

        As `CArm.pose`: theta tilts the patient in the scanner towards a cranial(+) or caudal(-)
        view, phi rolls the patient, so that phi = -90 degrees has the tube at the patient's left,
        gamma turns the picture [rad]; b is the isocentre's offset from the volume's centre [mm].

        Gradients: eta, sod.
        """
        return self.fan.pose(eta, center)

    def pose_slopes(self, eta: Numbers) -> Float[Tensor, "*b 6 4 4"]:
        """Derivative of `pose` by each parameter; see `CArm.pose_slopes`."""
        return self.fan.pose_slopes(eta)

    def eta(self, pose: Numbers, center: Numbers) -> Float[Tensor, "*b 6"]:
        """The inverse of `pose`, with angles as in `CArm.eta`."""
        return self.fan.eta(pose, center)

    def strips(self, pose: Float[Tensor, "*b 4 4"]) -> tuple[Frame, int]:
        """Every row of the picture as a detector of its own, and its one row.

        Returns:
            Frames [*b, height, 3], float64. Gradients: pose and every length.
        """
        source, corner, col_step, row_step = (x[..., None, :] for x in self.fan.frame(pose))
        row = torch.arange(self.height, dtype=corner.dtype, device=corner.device)[:, None]
        row = row - (self.height - 1) / 2 + self.y0 / self.dely
        moved = row * row_step
        still = torch.zeros_like(moved)
        return Frame(source + moved, corner + moved, col_step + still, row_step + still), 1

    def looking_at(
        self, pose: Float[Tensor, "*b 4 4"], row: Real[Tensor, "*b"], column: Real[Tensor, "*b"]
    ) -> Float[Tensor, "*b 4 4"]:
        """Poses whose picture's middle shows what lay so many pixels off it: columns by a turn of
        the fan, rows by a move along the table."""
        seen = self.fan.looking_at(pose, torch.zeros_like(column), column)
        seen[..., :3, 3] -= self.dely * row[..., None].to(seen) * pose[..., :3, 1]
        return seen

    def project(self, points: Numbers, pose: Numbers) -> Float[Tensor, "*b n 2"]:
        """Image coordinates (column, row) of world points; pixel centres at half-integers.

        Gradients: points, pose and every length.
        """
        seen = self.fan.project(points, pose)
        pose = as_tensor(pose, "pose").to(seen)
        up = (as_tensor(points, "points").to(seen) - pose[..., None, :3, 3]) @ pose[..., :3, 1:2]
        row = 0.5 * self.height - (up[..., 0] + self.y0) / self.dely
        return torch.stack([seen[..., 0], row], dim=-1)

    def level_with(
        self, pose: Float[Tensor, "b 4 4"], point: Float[Tensor, "3"]
    ) -> tuple["ScanProjection", Float[Tensor, "b 4 4"]]:
        """The same rays, with the isocentre moved along the table to be level with a point.

        A rotation turns about the isocentre. Far from the patient it would also shift the picture
        by much, and a registration would be slow.

        Args:
            pose: Of one scan: [1, 4, 4].
            point: Such as the centre of a volume [mm, world].
        """
        if len(pose) != 1:
            raise ConfigError(f"pose has a batch of {len(pose)}; one scan has one, [1, 4, 4]")
        up = pose[0, :3, 1]
        along = (point.to(pose) - pose[0, :3, 3]) @ up
        moved = pose.clone()
        moved[0, :3, 3] += along * up
        return dataclasses.replace(self, y0=self.y0 + float(along)), moved


# What renders and registers; anything else with the same methods works, too.
Geometry = CArm | ScanProjection
