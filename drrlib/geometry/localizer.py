"""CT localizers (scout, topogram, surview): scanned projection radiographs.

The tube stands still and the table moves: each row of the picture is taken by the same fan of rays
across the table, one table step further. So the picture is a perspective one along its rows and a
parallel one along its columns. No plain C-arm fits it.

Camera frame and angles are those of `CArm`: z from the source towards the detector, x along
increasing columns of a picture seen from the detector, y up in the picture, here the direction of
the table. The same eta means the same view of the patient for both.
"""

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.errors import ConfigError
from drrlib.geometry.carm import CArm, Scalar, join_pixels
from drrlib.projectors import Grid, line_integrals


@dataclass(frozen=True)
class ScanProjection:
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
        # The same lengths make a C-arm: one check, one set of messages.
        CArm(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    @property
    def fan(self) -> CArm:
        """The row of the isocentre, as a C-arm whose detector has one row."""
        larger = self.sdd / self.sod
        return CArm(
            self.sdd, self.sod, 1, self.width, self.delx * larger, self.dely,
            x0=self.x0 * larger, flipped=self.flipped,
        )  # fmt: skip

    def pose(
        self, eta: Float[Tensor, "*b 6"], center: Float[Tensor, "3"]
    ) -> Float[Tensor, "*b 4 4"]:
        """world_from_camera of eta = (theta, phi, gamma, bx, by, bz) about a volume's centre.

        As `CArm.pose`: theta tilts the patient in the scanner towards a cranial(+) or caudal(-)
        view, phi rolls the patient, so that phi = -90 degrees has the tube at the patient's left,
        gamma turns the picture [rad]; b is the isocentre's offset from the volume's centre [mm].

        Gradients: eta, sod.
        """
        return self.fan.pose(eta, center)

    def eta(
        self, pose: Float[Tensor, "*b 4 4"], center: Float[Tensor, "3"]
    ) -> Float[Tensor, "*b 6"]:
        """The inverse of `pose`, with angles as in `CArm.eta`."""
        return self.fan.eta(pose, center)

    def rays(
        self, pose: Float[Tensor, "b 4 4"]
    ) -> tuple[Float[Tensor, "b height width 3"], Float[Tensor, "b height width 3"]]:
        """Source and target of every pixel [mm, world], float64.

        Gradients: pose and every length.
        """
        fan = self.fan
        row_step = fan.frame(pose).row_step  # [b, 3], dely long
        middle = fan.pixel_centers(pose)  # [b, 1, width, 3]
        row = torch.arange(self.height, dtype=middle.dtype, device=middle.device)[:, None, None]
        row = row - (self.height - 1) / 2
        row = row + self.y0 / self.dely
        moved = row * row_step[:, None, None]  # [b, height, 1, 3]
        source = pose[:, None, None, :3, 3].to(middle) + moved
        return source.expand(-1, -1, self.width, -1), middle + moved

    def integrate(
        self, grid: Grid, pose: Float[Tensor, "b 4 4"], **how
    ) -> Float[Tensor, "b height width"]:
        """Line integrals along `rays`; `how` as in `projectors.line_integrals`."""
        return line_integrals(grid, *self.rays(pose), **how)

    def frame(self, pose: Float[Tensor, "b 4 4"]):
        """A scan has none: every row has a source of its own.

        Raises:
            ConfigError: always; what asks for a frame, such as the Jacobian, is for a CArm.
        """
        raise ConfigError(
            "a ScanProjection has no flat detector seen from one source; the Jacobian is for CArm: "
            "use autograd"
        )

    def project(
        self, points: Float[Tensor, "n 3"], pose: Float[Tensor, "b 4 4"]
    ) -> Float[Tensor, "b n 2"]:
        """Image coordinates (column, row) of world points; pixel centres at half-integers.

        Gradients: points, pose and every length.
        """
        seen = self.fan.project(points, pose)
        up = (points.to(seen) - pose[:, None, :3, 3].to(seen)) @ pose[:, :3, 1:2].to(seen)
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

    def crop(self, top: int, left: int, height: int, width: int) -> "ScanProjection":
        """The window of so many rows and columns, for image[..., top:top+height, left:left+width].

        Raises:
            ConfigError: the window leaves the picture.
        """
        inside = 0 <= top and 0 <= left and height >= 1 and width >= 1
        if not inside or top + height > self.height or left + width > self.width:
            raise ConfigError(
                f"the window of {height} x {width} pixels at ({top}, {left}) leaves the picture of "
                f"{self.height} x {self.width}; expected a window inside it"
            )
        return dataclasses.replace(
            self, height=height, width=width,
            x0=self.x0 + self.delx * (left + 0.5 * (width - self.width)),
            y0=self.y0 + self.dely * (top + 0.5 * (height - self.height)),
        )  # fmt: skip

    def downsample(self, factor: int) -> "ScanProjection":
        """The same picture with factor x factor pixels joined into one.

        Raises:
            ConfigError: the factor does not divide height and width.
        """
        return join_pixels(self, factor)

    @classmethod
    def from_dicom(
        cls,
        header,
        *,
        sdd: float | None = None,
        sod: float | None = None,
        tube_angle: float | None = None,
        patient_position: str | None = None,
    ) -> tuple["ScanProjection", Float[Tensor, "4 4"]]:
        """Lengths and pose of a CT localizer.

        Nothing is guessed: what the header lacks must be given by keyword, which also replaces
        what the header says. See `drrlib.io.localizer_header` for the tags and what they mean,
        and for the one thing that no tag tells, the column of the central ray.

        Args:
            header: pydicom dataset.
            sdd, sod: Source-detector and source-isocentre distance [mm].
            tube_angle: Where the tube stands [deg]: 0 above the table, 90 to the right of
                someone who looks into the gantry from the table's side.
            patient_position: "HFS", "HFP", "FFS" or "FFP".

        Returns:
            The geometry, and world_from_camera in the patient coordinates of the header, which a
            CT with the same FrameOfReferenceUID shares. `eta(pose, volume.center)` has the
            six parameters.

        Raises:
            ConfigError: not a dataset, or an unknown patient position.
            DicomError: not a localizer, or names the missing or unusable tag and the keyword
                that replaces it.
            GeometryError: lengths that no scanner can have.
        """
        from drrlib.io.localizer_header import read_header  # it needs this class

        return read_header(
            header, sdd=sdd, sod=sod, tube_angle=tube_angle, patient_position=patient_position
        )


# What DRR and `descend` take; anything else with `integrate` and the same methods works, too.
Geometry = CArm | ScanProjection
