"""The libraries that are measured beside drrlib, and why one that is missing is missing."""

from scene import Scene

NAMES = ("itk", "rtk", "plastimatch", "diffdrr", "nanodrr")


def choose(asked: list[str]) -> list[str]:
    """Names for --peers: "all", "none", or some of NAMES.

    Raises:
        SystemExit: an unknown name.
    """
    if asked == ["all"]:
        return list(NAMES)
    if asked == ["none"]:
        return []
    unknown = sorted(set(asked) - set(NAMES))
    if unknown:
        raise SystemExit(f"unknown peers {unknown}; choose from {', '.join(NAMES)}, all, none")
    return asked


def adapter(name: str):
    """The adapter class of a peer; made with (scene, threads), it may raise ImportError."""
    if name in ("itk", "rtk", "plastimatch"):
        import peers_compiled as module

        return {
            "itk": module.ItkSiddon,
            "rtk": module.RtkJoseph,
            "plastimatch": module.Plastimatch,
        }[name]
    import peers_torch as module

    return {"diffdrr": module.DiffDrr, "nanodrr": module.NanoDrr}[name]


def load(names: list[str], scene: Scene, threads: int) -> list:
    """Adapters of the peers that can run here; the others are named with the reason."""
    ready = []
    for name in names:
        try:
            ready.append(adapter(name)(scene, threads))
        except (ImportError, AttributeError) as problem:
            print(f"  {name} left out: {problem}")
    return ready
