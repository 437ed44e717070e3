"""Exceptions. Each one is also the built-in exception that a caller would expect."""


class DrrlibError(Exception):
    """Base class of every error that drrlib raises on purpose."""


class ShapeError(DrrlibError, ValueError):
    """A tensor has the wrong number of axes or the wrong length along one."""


class GeometryError(DrrlibError, ValueError):
    """A pose, affine or C-arm parameter is not physically possible."""


class ConfigError(DrrlibError, ValueError):
    """An option has an unknown name or a value outside its range."""


class VolumeError(DrrlibError, ValueError):
    """A volume cannot be made from the given voxel data."""


class DicomError(DrrlibError, ValueError):
    """A DICOM object or series cannot be used as asked."""


class DatasetError(DrrlibError, OSError):
    """A data set cannot be fetched, or is not the file that it should be."""


class DtypeError(DrrlibError, TypeError):
    """A tensor has an unsuitable element type."""


class BackendError(DrrlibError, RuntimeError):
    """A backend was named that cannot run here."""


class WorkerError(DrrlibError, RuntimeError):
    """Processes that computed a study died or went out of reach; what they finished is kept."""
