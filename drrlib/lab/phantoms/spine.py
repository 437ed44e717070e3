"""One vertebra, scaled and tilted, shared by skull, thorax and pelvis."""

from dataclasses import dataclass

import numpy as np

from drrlib.lab.phantoms.painting import Painting
from drrlib.lab.phantoms.shapes import Shape, capsule, column, cut, union, vec


@dataclass(frozen=True)
class Vertebra:
    """Sizes of a vertebra [mm] and its attitude.

    Attributes:
        center: Middle of the body, world mm.
        width, depth, height: Of the body (x, y, z).
        pitch: Forward tilt about +x [rad]: positive lifts the front edge.
        spinous: Length of the spinous process behind the canal.
        drop: How far its tip lies below its root.
        transverse: Distance from the midline to the tip of a transverse process.
        canal: Depth of the spinal canal.
        yaw: Turn about z [rad]; shifts left and right processes apart.
    """

    center: tuple[float, float, float]
    width: float
    depth: float
    height: float
    pitch: float
    spinous: float
    drop: float
    transverse: float
    canal: float
    yaw: float

    def point(self, x: float, y: float, z: float) -> np.ndarray:
        """World mm of a point given from the body's centre, along the vertebra's own axes."""
        cp, sp, cy, sy = np.cos(self.pitch), np.sin(self.pitch), np.cos(self.yaw), np.sin(self.yaw)
        # positive pitch: the front (-y) goes up
        y, z = cp * y + sp * z, cp * z - sp * y
        return np.array(self.center) + vec(cy * x - sy * y, sy * x + cy * y, z)

    def _drum(self, level: float, height: float, scale: float, waist: float) -> Shape:
        """A column with a waist between two tilted end plates."""
        center = self.point(0, 0, level)
        normal = np.array([0.0, np.sin(self.pitch), np.cos(self.pitch)])
        middle = float(normal @ center)
        axes = (0.5 * scale * self.width, 0.5 * scale * self.depth)
        reach = 0.5 * (height + self.depth * abs(np.sin(self.pitch)))
        solid = column(center, axes, reach, 2.6, waist)
        solid = cut(solid, normal, middle + 0.5 * height, 3.0)
        return cut(solid, -normal, 0.5 * height - middle, 3.0)

    def _arch(self) -> Shape:
        """Pedicles, joint pillars, laminae, transverse and spinous processes."""
        w, d, h, at = 0.5 * self.width, 0.5 * self.depth, self.height, self.point
        thin, canal = 0.16 * h + 0.8, self.canal
        back, parts = d + canal, []
        for side in (-1, 1):
            top = at(side * w * 0.85, d + 0.4 * canal, 0.5 * h)
            low = at(side * w * 0.8, d + 0.65 * canal, -0.55 * h)
            pillar = at(side * w * 0.85, d + 0.5 * canal, 0.0)
            tip = at(side * self.transverse, d + 0.55 * canal, 0.05 * h)
            parts += [
                capsule(at(side * w * 0.6, d * 0.75, 0.15 * h), pillar, thin * 1.1),
                capsule(top, low, thin * 1.25),
                capsule(pillar, at(0, back + thin, -0.2 * h), thin),
                capsule(pillar, tip, thin, thin * 0.8),
            ]
        for below, behind, start, end in ((0.0, 0.0, 0.8, 1.1), (0.3, 0.2, 0.7, 1.0)):
            root = at(0, back + thin, -0.2 * h - below * h)
            tip = at(0, back + self.spinous, -0.2 * h - self.drop - behind * h)
            parts.append(capsule(root, tip, thin * start, thin * end))
        return union(*parts, blend=3.0)

    def paint(self, scene: Painting, spongy: float, cortex: float) -> None:
        """Put the vertebra and a trace of its lower disc into the scene."""
        disc = self._drum(-0.62 * self.height, 0.26 * self.height, 0.94, 0.0)
        body = self._drum(0.0, self.height, 1.0, 0.07 * self.width)
        scene.fill(disc, 95)
        scene.bone(self._arch(), cortex, 1.3 * spongy, 1.5)
        scene.bone(body, cortex, spongy, 1.3)
