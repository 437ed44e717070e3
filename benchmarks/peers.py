"""Other programs that render the same scene: each adapter gives callables to be timed.

An adapter takes a `Scene` and returns `Variant`s. Building one (copying the volume, making
filters, compiling) is not part of what is timed; `image()` must render anew at every call.
Nothing here imports drrlib, so a peer cannot profit or suffer from it.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor


@dataclass
class Scene:
    """One volume and one pose, as plain arrays [mm, world]; see drrlib.carm for the frame.

    `pose` is world_from_camera: x right, y up in the image, z from source to detector.
    """

    mu: np.ndarray  # float32 [x, y, z], 1/mm
    affine: np.ndarray  # float64 [4, 4], world_from_voxel, axes along the world's
    pose: np.ndarray  # float64 [4, 4]
    sdd: float
    sod: float
    n: int  # the detector is n x n
    pixel: float  # pixel size, mm
    fixed: Tensor  # float32 [n, n], what a registration step compares with

    @property
    def spacing(self) -> np.ndarray:
        return np.diag(self.affine)[:3]

    @property
    def rotation(self) -> np.ndarray:
        return self.pose[:3, :3]

    @property
    def source(self) -> np.ndarray:
        return self.pose[:3, 3]

    @property
    def isocenter(self) -> np.ndarray:
        return self.source + self.sod * self.rotation[:, 2]

    def ray_lengths(self) -> np.ndarray:
        """From the source to each pixel centre, [n, n]."""
        offset = (np.arange(self.n) + 0.5 - self.n / 2) * self.pixel
        return np.sqrt(offset[:, None] ** 2 + offset**2 + self.sdd**2)


@dataclass
class Variant:
    """What can be timed: an image, and where there are gradients, a step of a registration."""

    library: str
    version: str
    name: str  # variant of the library
    method: str
    image: Callable[[], np.ndarray]
    step: Callable[[], Tensor] | None = None
    milliseconds: Callable[[], float] | None = None  # the program's own report of the last image
    scale: np.ndarray | float = 1.0  # turns the peer's numbers into line integrals, untimed
    note: str = ""


# --- compiled C++ filters


def itk_siddon(scene: Scene, threads: int, quick: bool) -> list[Variant]:
    """ITK's SiddonJacobsRayCastInterpolateImageFunction in a ResampleImageFilter."""
    import itk

    _itk_threads(itk, threads)
    image_type = itk.Image[itk.F, 3]
    volume = itk.image_from_array(np.ascontiguousarray(scene.mu.transpose(2, 1, 0)))
    volume.SetSpacing([float(s) for s in scene.spacing])
    volume.SetOrigin([0.0, 0.0, 0.0])

    # The function puts the outer corner of the first voxel at 0 and the source at 0 looking
    # down -z: camera = turn (motion(x) + (0, sod, 0)), where turn is -90 degrees about x.
    corner = (scene.affine @ [-0.5, -0.5, -0.5, 1.0])[:3]
    quarter = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])  # +90 degrees about x
    back = np.diag([-1.0, 1.0, -1.0])
    linear = quarter @ back @ scene.rotation.T
    shift = linear @ (corner - scene.source) - np.array([0.0, scene.sod, 0.0])
    motion = itk.Euler3DTransform[itk.D].New()
    motion.SetMatrix(itk.matrix_from_array(linear))
    motion.SetTranslation([float(t) for t in shift])

    caster = itk.SiddonJacobsRayCastInterpolateImageFunction[image_type, itk.D].New()
    caster.SetProjectionAngle(0.0)
    caster.SetFocalPointToIsocenterDistance(scene.sod)
    caster.SetThreshold(0.0)
    caster.SetTransform(motion)
    caster.Initialize()

    first = (0.5 - scene.n / 2) * scene.pixel
    resample = itk.ResampleImageFilter[image_type, image_type].New()
    resample.SetInput(volume)
    resample.SetInterpolator(caster)
    resample.SetTransform(itk.IdentityTransform[itk.D, 3].New())
    resample.SetSize([scene.n, scene.n, 1])
    resample.SetOutputSpacing([scene.pixel, scene.pixel, 1.0])
    resample.SetOutputDirection(itk.matrix_from_array(np.diag([-1.0, -1.0, 1.0])))
    resample.SetOutputOrigin([-first, -first, -scene.sdd])
    resample.SetDefaultPixelValue(0.0)

    def image() -> np.ndarray:
        resample.Modified()
        resample.Update()
        return itk.array_view_from_image(resample.GetOutput())[0]

    image.keep = (volume, motion, caster)
    version = metadata.version("itk-twoprojectionregistration")
    # It sums over the fraction of the ray instead of millimetres.
    scale = scene.ray_lengths()
    return [Variant("itk", version, "siddon-jacobs", "siddon", image, scale=scale)]


def rtk_joseph(scene: Scene, threads: int, quick: bool) -> list[Variant]:
    """RTK's JosephForwardProjectionImageFilter on the CPU; one projection."""
    import itk
    from itk import RTK as rtk

    _itk_threads(itk, threads)
    image_type = itk.Image[itk.F, 3]
    volume = itk.image_from_array(np.ascontiguousarray(scene.mu.transpose(2, 1, 0)))
    volume.SetSpacing([float(s) for s in scene.spacing])
    # RTK turns about the world's origin: move the isocentre there.
    volume.SetOrigin([float(t) for t in scene.affine[:3, 3] - scene.isocenter])

    right, up, view = scene.rotation.T
    geometry = rtk.ThreeDCircularProjectionGeometry.New()
    center = (scene.sdd - scene.sod) * view
    ends = [-scene.sod * view, center]
    if not geometry.AddProjection(*([float(t) for t in v] for v in (*ends, right, up))):
        raise RuntimeError("RTK refused the pose")

    first = (0.5 - scene.n / 2) * scene.pixel
    stack = itk.image_from_array(np.zeros((1, scene.n, scene.n), dtype=np.float32))
    stack.SetSpacing([scene.pixel, scene.pixel, 1.0])
    stack.SetOrigin([first, first, 0.0])
    project = rtk.JosephForwardProjectionImageFilter[image_type, image_type].New()
    project.SetInput(0, stack)
    project.SetInput(1, volume)
    project.SetGeometry(geometry)
    project.SetInPlace(False)  # it adds to its first input

    def image() -> np.ndarray:
        project.Modified()
        project.Update()
        return itk.array_view_from_image(project.GetOutput())[0, ::-1]

    image.keep = (volume, stack, geometry)
    return [Variant("rtk", metadata.version("itk-rtk"), "cpu", "joseph", image)]


def _itk_threads(itk, threads: int) -> None:
    itk.MultiThreaderBase.SetGlobalMaximumNumberOfThreads(threads)
    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(threads)


# --- PyTorch renderers


def diffdrr(scene: Scene, threads: int, quick: bool) -> list[Variant]:
    """DiffDRR's Siddon renderer, as it comes and, unless quick, through torch.compile."""
    from diffdrr.drr import DRR
    from diffdrr.pose import RigidTransform

    mu = torch.from_numpy(scene.mu)
    subject = SimpleNamespace(
        volume=SimpleNamespace(affine=scene.affine),
        density=SimpleNamespace(data=mu[None]),
        reorient=torch.eye(4)[None],
        mask=None,
    )

    def renderer(**options):
        model = DRR(subject, scene.sdd, scene.n, scene.pixel, reverse_x_axis=False, **options)
        return lambda pose: model(RigidTransform(pose))[:, 0]

    version = metadata.version("diffdrr")
    kinds = {"eager": {}} if quick else {"eager": {}, "compiled": {"compile_renderer": True}}
    return [
        _torch_variant("diffdrr", version, name, "siddon", renderer(**options), scene)
        for name, options in kinds.items()
    ]


def nanodrr(scene: Scene, threads: int, quick: bool) -> list[Variant]:
    """nanodrr's trilinear renderer with its default of 500 samples per ray."""
    from nanodrr.data import Subject
    from nanodrr.drr import DRR

    size = torch.tensor(scene.mu.shape, dtype=torch.float32)
    grid = torch.eye(4)
    grid[:3, :3] = torch.diag(2 / size)
    grid[:3, 3] = 1 / size - 1
    affine = torch.from_numpy(scene.affine)
    density = torch.from_numpy(scene.mu).permute(2, 1, 0)[None, None].contiguous()
    subject = Subject(
        density,
        torch.zeros(1, 1, 1, 1, 1),
        affine.float(),
        torch.linalg.inv(affine).float(),
        grid,
        torch.from_numpy(scene.isocenter).float(),
        max_label=0,
        convert_to_mu=False,
    )
    model = DRR.from_carm_intrinsics(
        scene.sdd, scene.pixel, scene.pixel, 0.0, 0.0, scene.n, scene.n
    )
    down = torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0]))  # its rows run along +y

    def render(pose: Tensor) -> Tensor:
        return model(subject, pose @ down)[:, 0]

    version = metadata.version("nanodrr")
    kinds = {"eager": render}
    if not quick:
        kinds["compiled"] = torch.compile(render)
    return [
        _torch_variant("nanodrr", version, name, "trilinear", function, scene)
        for name, function in kinds.items()
    ]


def zncc(a: Tensor, b: Tensor) -> Tensor:
    """Zero-normalised cross-correlation in plain PyTorch, the same for every peer."""
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / (a.norm() * b.norm())


def _torch_variant(library, version, name, method, render, scene: Scene) -> Variant:
    pose = torch.from_numpy(scene.pose).float()[None]

    def image() -> np.ndarray:
        with torch.no_grad():
            return render(pose)[0].numpy()

    def step() -> Tensor:
        motion = torch.zeros(6, requires_grad=True)
        zncc(render(pose @ _motion(motion)), scene.fixed[None]).backward()
        return motion.grad

    return Variant(library, version, name, method, image, step)


def _motion(xi: Tensor) -> Tensor:
    """A small rigid motion from a rotation vector and a translation."""
    zero = xi.new_zeros(())
    a, b, c, x, y, z = xi
    rows = [[zero, -c, b, x], [c, zero, -a, y], [-b, a, zero, z], [zero] * 4]
    return torch.linalg.matrix_exp(torch.stack([torch.stack(row) for row in rows]))


# --- programs of their own


def plastimatch(scene: Scene, threads: int, quick: bool) -> list[Variant]:
    """plastimatch drr, exact; the time is the one that the program itself reports."""
    found = subprocess.run(["plastimatch", "--version"], capture_output=True, text=True)
    version = "".join(re.findall(r"[\d.]+\d", found.stdout)[:1])
    folder = tempfile.TemporaryDirectory(prefix="bench-plastimatch-")
    path = Path(folder.name)
    _write_mha(path / "volume.mha", scene)
    numbers = {
        "--nrm": -scene.rotation[:, 2],
        "--vup": scene.rotation[:, 1],
        "--isocenter": scene.isocenter,
        "--sad": [scene.sod],
        "--sid": [scene.sdd],
        "--dim": [scene.n, scene.n],
        "--detector-size": [scene.n * scene.pixel] * 2,
    }
    command = ["plastimatch", "drr", "-i", "exact", "-P", "none", "-t", "pfm"]
    for flag, values in numbers.items():
        command += [flag, " ".join(f"{v:.12g}" for v in values)]
    command += ["--output", "image", "volume.mha"]
    reported = [0.0]

    def image() -> np.ndarray:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        run = subprocess.run(command, cwd=path, capture_output=True, text=True, env=environment)
        files = sorted(path.glob("image*.pfm"))
        if run.returncode or not files:
            raise RuntimeError(f"plastimatch failed: {(run.stderr or run.stdout)[-300:]}")
        match = re.search(r"Total time:.*?([\d.]+)\s*s", run.stdout)
        reported[0] = 1e3 * float(match[1]) if match else float("nan")
        return _read_pfm(files[0])[:, ::-1]  # it shows the image as seen from the source

    image.keep = folder
    variant = Variant("plastimatch", version, "exact", "siddon", image)
    variant.milliseconds = lambda: reported[0]
    variant.scale = 10.0  # it integrates over centimetres
    variant.note = "its own report"
    return [variant]


def _write_mha(path: Path, scene: Scene) -> None:
    def text(values) -> str:
        return " ".join(f"{v:.12g}" for v in values)

    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        "TransformMatrix = 1 0 0 0 1 0 0 0 1\n"
        f"Offset = {text(scene.affine[:3, 3])}\nElementSpacing = {text(scene.spacing)}\n"
        f"DimSize = {text(scene.mu.shape)}\nElementType = MET_FLOAT\nElementDataFile = LOCAL\n"
    )
    path.write_bytes(header.encode() + scene.mu.transpose(2, 1, 0).tobytes())


def _read_pfm(path: Path) -> np.ndarray:
    data = path.read_bytes()
    _, size, scale, rest = data.split(b"\n", 3)
    columns, rows = (int(v) for v in size.split())
    order = "<f4" if float(scale) < 0 else ">f4"
    return np.frombuffer(rest, dtype=order, count=rows * columns).reshape(rows, columns)


PEERS: dict[str, Callable[[Scene, int, bool], list[Variant]]] = {
    "itk": itk_siddon,
    "rtk": rtk_joseph,
    "diffdrr": diffdrr,
    "nanodrr": nanodrr,
    "plastimatch": plastimatch,
}
