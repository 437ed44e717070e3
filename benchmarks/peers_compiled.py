"""Compiled peers that render an image and give no gradient: ITK, RTK, plastimatch."""

import os
import re
import shutil
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from scene import DETECTOR, SDD, SOD, Scene, View
from timing import Case


def _itk_image(itk, scene: Scene, origin: np.ndarray):
    image = itk.image_from_array(np.ascontiguousarray(scene.mu.numpy().transpose(2, 1, 0)))
    image.SetSpacing([float(s) for s in scene.spacing])
    image.SetOrigin([float(o) for o in origin])
    return image


class ItkSiddon:
    """ITK's SiddonJacobsRayCastInterpolateImageFunction inside a ResampleImageFilter.

    Timed: the filter's Update. It returns the integral over alpha, so the product with the ray
    length is left out of the time. It weights each segment with the voxel after it.
    """

    library = "itk"

    def __init__(self, scene: Scene, threads: int):
        import itk

        self.itk = itk
        itk.SiddonJacobsRayCastInterpolateImageFunction  # noqa: B018  fails here if missing
        itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(threads)
        self.scene = scene
        # The caster takes the volume's outer corner for the origin of the world.
        self.corner = scene.affine[:3, 3] - 0.5 * scene.spacing
        self.volume = _itk_image(itk, scene, 0.5 * scene.spacing)
        self.version = (
            f"itk {version('itk')}, twoprojectionregistration "
            f"{version('itk-twoprojectionregistration')}"
        )

    def cases(self, view: View, fixed: np.ndarray) -> list[Case]:
        itk, kind = self.itk, type(self.volume)
        transform = itk.Euler3DTransform[itk.D].New()
        matrix = self._camera_from_corner(view)
        transform.SetMatrix(itk.matrix_from_array(np.ascontiguousarray(matrix[:3, :3])), 1e-6)
        transform.SetOffset([float(v) for v in matrix[:3, 3]])
        caster = itk.SiddonJacobsRayCastInterpolateImageFunction[kind, itk.D].New()
        caster.SetTransform(transform)
        caster.SetFocalPointToIsocenterDistance(SOD)
        caster.SetProjectionAngle(0.0)
        caster.SetThreshold(0.0)
        caster.SetInputImage(self.volume)
        caster.Initialize()
        resample = itk.ResampleImageFilter[kind, kind].New(Input=self.volume)
        resample.SetInterpolator(caster)
        resample.SetTransform(itk.IdentityTransform[itk.D, 3].New())
        resample.SetDefaultPixelValue(0)
        resample.SetSize([view.n, view.n, 1])
        resample.SetOutputSpacing([view.pitch, view.pitch, 1.0])
        first = -0.5 * DETECTOR + 0.5 * view.pitch
        resample.SetOutputOrigin([first, first, -SDD])

        def run():
            resample.Modified()
            resample.Update()

        def image():
            run()
            return itk.array_from_image(resample.GetOutput())[0] * view.ray_lengths()

        return [Case(self.library, "", "siddon", "image", run, image)]

    def _camera_from_corner(self, view: View) -> np.ndarray:
        """ITK's camera looks along -z with rows along +y; undo what the caster puts before it."""
        to_world = np.eye(4)
        to_world[:3, 3] = self.corner
        wanted = np.diag([1.0, -1.0, -1.0, 1.0]) @ np.linalg.inv(view.world_from_camera) @ to_world
        angle = float(np.float32(np.pi / 180)) * -90.0  # the caster's own, rounded to float
        turn, shift = np.eye(4), np.eye(4)
        turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        shift[1, 3] = SOD
        matrix = np.linalg.inv(turn @ shift) @ wanted
        u, _, v = np.linalg.svd(matrix[:3, :3])
        matrix[:3, :3] = u @ v
        return matrix


class RtkJoseph:
    """RTK's JosephForwardProjectionImageFilter. Timed: the filter's Update."""

    library = "rtk"

    def __init__(self, scene: Scene, threads: int):
        import itk
        from itk import RTK

        self.itk, self.rtk = itk, RTK
        itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(threads)
        self.volume = _itk_image(itk, scene, scene.affine[:3, 3])
        self.version = f"itk-rtk {version('itk-rtk')}"

    def cases(self, view: View, fixed: np.ndarray) -> list[Case]:
        itk, kind = self.itk, type(self.volume)
        pose = view.world_from_camera
        right, up, forward = pose[:3, :3].T
        geometry = self.rtk.ThreeDCircularProjectionGeometry.New()
        point, vector = itk.Point[itk.D, 3], itk.Vector[itk.D, 3]
        geometry.AddProjection(
            point([float(v) for v in pose[:3, 3]]),
            point([float(v) for v in pose[:3, 3] + SDD * forward]),
            vector([float(v) for v in right]),
            vector([float(v) for v in -up]),
        )
        first = -0.5 * DETECTOR + 0.5 * view.pitch
        empty = self.rtk.ConstantImageSource[kind].New()
        empty.SetSize([view.n, view.n, 1])
        empty.SetSpacing([view.pitch, view.pitch, 1.0])
        empty.SetOrigin([first, first, 0.0])
        empty.SetConstant(0.0)
        empty.Update()
        project = self.rtk.JosephForwardProjectionImageFilter[kind, kind].New()
        project.SetGeometry(geometry)
        project.SetInput(0, empty.GetOutput())
        project.SetInput(1, self.volume)
        project.InPlaceOff()

        def run():
            project.Modified()
            project.Update()

        def image():
            run()
            return itk.array_from_image(project.GetOutput())[0].astype(np.float64)

        return [Case(self.library, "", "joseph", "image", run, image)]


class Plastimatch:
    """The command `plastimatch drr`, exact ray tracing on CPU threads.

    Timed: its own "Total time", which starts after the volume is read, less its "I/O time",
    which is the writing of the image. Files lie in memory where the machine has /dev/shm.
    """

    library = "plastimatch"

    def __init__(self, scene: Scene, threads: int):
        self.program = shutil.which("plastimatch")
        if self.program is None:
            raise ImportError("the program plastimatch is not on the PATH")
        shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = tempfile.TemporaryDirectory(prefix="drrlib-bench-", dir=shm)
        self.environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        said = subprocess.run(
            [self.program, "--version"], capture_output=True, text=True, check=False
        ).stdout
        found = re.search(r"\d+\.\d+\.\d+", said)
        self.version = f"plastimatch {found.group() if found else 'unknown'}"
        self.volume = Path(self.folder.name) / "volume.mha"
        header = {
            "ObjectType": "Image",
            "NDims": 3,
            "BinaryData": True,
            "BinaryDataByteOrderMSB": False,
            "CompressedData": False,
            "Offset": " ".join(map(repr, scene.affine[:3, 3].tolist())),
            "ElementSpacing": " ".join(map(repr, scene.spacing.tolist())),
            "DimSize": " ".join(map(str, scene.mu.shape)),
            "ElementType": "MET_FLOAT",
            "ElementDataFile": "LOCAL",
        }
        with self.volume.open("wb") as file:
            file.write("".join(f"{k} = {v}\n" for k, v in header.items()).encode())
            file.write(np.ascontiguousarray(scene.mu.numpy().transpose(2, 1, 0)).tobytes())

    def cases(self, view: View, fixed: np.ndarray) -> list[Case]:
        _, up, forward = view.world_from_camera[:3, :3].T
        output = Path(self.folder.name) / f"{view.pose}-{view.n}-"
        middle = (view.n - 1) / 2
        options = {
            "-t": "raw",
            "-A": "cpu",
            "-i": "exact",
            "-P": "none",
            "-r": f"{view.n} {view.n}",
            "-z": f"{DETECTOR} {DETECTOR}",
            "-c": f"{middle} {middle}",
            "--sad": str(SOD),
            "--sid": str(SDD),
            "-n": _words(-forward),
            "--vup": _words(up),
            "-o": _words(view.isocenter),
            "-I": str(self.volume),
            "-O": str(output),
        }
        command = [self.program, "drr", *(w for pair in options.items() for w in pair)]

        def run() -> float:
            said = subprocess.run(
                command, capture_output=True, text=True, check=True, env=self.environment
            ).stdout
            total = float(re.search(r"Total time: *([\d.e+-]+)", said).group(1))
            inout = sum(map(float, re.findall(r"I/O time: *([\d.e+-]+)", said)))
            return 1e3 * (total - inout)

        def image():
            run()
            raw = np.fromfile(f"{output}0000.raw", np.float32).reshape(view.n, view.n)
            return 10.0 * raw[:, ::-1]  # it gives cm and not mm, seen from the source

        return [Case(self.library, "exact", "siddon", "image", run, image, own_clock=True)]


def _words(vector: np.ndarray) -> str:
    return " ".join(repr(float(v)) for v in vector)
