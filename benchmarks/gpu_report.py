"""What the GPU benchmark prints: a block for each job, and the short tables at the end."""

from collections import Counter

from gpu_plan import IMAGE, JACOBIAN, POSE, table_1_cells

from drrlib.lab.paper import paper_values


def block(job, rows: list[dict], left: float) -> None:
    """Times of one job, each beside drrlib's Siddon in float32."""
    print(f"\n{job.group}: {job.name}  ({left:.0f} s left)")
    print(
        f"{'library':9}{'method':10}{'variant':16}{'volume':10}{'gpu ms':>10}{'wall ms':>10}"
        f"{'sd':>8}{'n':>4}{'peak MB':>9}{'error':>10}  x drrlib siddon"
    )
    for row in rows:
        name = f"{row['library']:9}{row['method']:10}{row['variant']:16}{row['dtype']:10}"
        if row["status"] != "ok":
            print(f"{name}{row['status']}")
            continue
        print(
            f"{name}{_number(row['gpu_ms'], 10, 4)}{row['wall_ms']:10.4f}{row['wall_sd_ms']:8.3f}"
            f"{row['repeats']:4}{_number(_mega(row), 9, 1)}{row['rel_error']:>10}"
            f"  {_ratio(row, _own(rows))}",
            flush=True,
        )


def final(
    rows: list[dict], left_out: list, missing: dict[str, str], cuda: bool, shrink: int = 1
) -> None:
    """Goals, rates, batches, the paper's Table 1, and what is missing."""
    if rows:
        around = _first([r for r in rows if _place(r)[:3] == _place(rows[0])[:3]])
        head = [r for r in around if _place(r) == _place(rows[0])]
        _headline(head)
        _batches([r for r in around if not r["patch"]])
        _table_1(rows, head[0], shrink)
        if cuda:
            _goals(around, head)
    if not cuda:
        print("\nCPU run: no GPU time, no peak memory and no goal was measured")
    for name, reason in missing.items():
        print(f"not run: {name}: {reason}")
    failed = Counter((r["library"], r["variant"], r["dtype"], r["status"]) for r in rows)
    for (library, variant, dtype, status), count in failed.items():
        if status != "ok":
            words = " ".join(x for x in (library, variant, dtype) if x)
            print(f"not timed ({count} cases): {words}: {status}")
    if left_out:
        print(f"left out for want of time ({len(left_out)} jobs):")
        for job in left_out:
            print(f"  {job.group}: {job.name}")
    else:
        print("every planned job was run")


def _headline(rows: list[dict]) -> None:
    """Voxel crossings and bytes per second: each crossed voxel read once, each pixel written."""
    copy = rows[0]["copy_bytes_per_s"]
    print(
        f"\nrates at {rows[0]['detector']}² on {rows[0]['volume']}, {rows[0]['pose']} (clock: "
        f"GPU, or wall where there is none; copying moves {copy / 1e9:.0f} GB/s)"
    )
    for row in rows:
        if row["status"] != "ok" or row["what"] not in (IMAGE, POSE, JACOBIAN):
            continue
        rays = row["batch"] * row["detector"] ** 2
        seconds = time_of(row) / 1e3
        crossed = rays * row["crossings_per_ray"]
        moved = crossed * (4 if row["dtype"] == "float32" else 2) + 4 * rays
        # A sampling method does not cross voxels: it has a rate of pixels only.
        crossings = f"{crossed / seconds / 1e9:10.3g} G crossings/s" if _exact(row) else ""
        share = f"{moved / seconds / 1e9:10.4g} GB/s = {moved / seconds / copy:6.1%} of copying"
        print(
            f"  {row['what']:23}{_name(row):44}{rays / seconds / 1e6:10.4g} M pixels/s"
            f"{crossings}{share if _exact(row) else ''}"
        )


def _batches(rows: list[dict]) -> None:
    """Poses per second for each batch, and the largest batch against the best one."""
    sizes = sorted({r["batch"] for r in rows})
    if len(sizes) < 2:
        return
    print("\nposes per second by batch; last: the largest batch against the best")
    print(" " * 69 + "".join(f"{b:>11}" for b in sizes))
    for key in dict.fromkeys((r["what"], _name(r)) for r in rows):
        same = {r["batch"]: r for r in rows if (r["what"], _name(r)) == key}
        if len(same) < 2:
            continue
        cells = [_rate(same.get(b)) for b in sizes]
        rates = [c for c in cells if isinstance(c, float)]
        share = f"{cells[-1] / max(rates):8.2f}" if isinstance(cells[-1], float) else ""
        shown = "".join(f"{c:11.0f}" if isinstance(c, float) else f"{c:>11}" for c in cells)
        print(f"  {key[0]:23}{key[1]:44}{shown}{share}")


def _rate(row: dict | None) -> float | str:
    if row is None:
        return "-"
    return row["batch"] / (time_of(row) / 1e3) if row["status"] == "ok" else _short(row)


def _table_1(rows: list[dict], head: dict, shrink: int) -> None:
    """The paper's Table 1 with ours and DiffDRR's Siddon beside it: wall ms, mean and sd."""
    values = paper_values()
    runs = int(values.query("quantity == 'runs averaged'")["value"].iloc[0])
    names = {r["library"]: r for r in rows if r["method"] == "siddon"}
    print(f"\nTable 1, wall ms, mean ± sd; {head['pose']}, {head['volume']}; paper: Colab T4")
    if shrink > 1:
        print(f"REHEARSAL: detectors and patches are divided by {shrink}; not the paper's sizes")
    print(f"{'':36}{'paper':>16}" + "".join(f"{name:>20}" for name in names))
    for item, quantity, n, patch in table_1_cells(values, shrink):
        paper = values[(values["item"] == item) & (values["quantity"] == quantity)].iloc[0]
        shown = ""
        for library in names:
            found = [
                r
                for r in rows
                if (r["library"], r["method"], r["variant"], r["dtype"])
                == (library, "siddon", "", "float32")
                and (r["what"], r["pose"], r["volume"], r["batch"])
                == (IMAGE, head["pose"], head["volume"], 1)
                and (r["detector"], r["patch"] or None) == (n, patch)
                and (r["status"] != "ok" or r["repeats"] == runs or shrink > 1)
            ]
            shown += f"{_mean(found[-1]) if found else '-':>20}"
        ours = f"{paper['value']:.4g} ± {(paper['high'] - paper['low']) / 2:.3g}"
        print(f"{item.removeprefix('Table 1, '):22}{quantity:14}{ours:>16}{shown}")


def _mean(row: dict) -> str:
    if row["status"] != "ok":
        return _short(row)
    return f"{row['wall_mean_ms']:.4g} ± {row['wall_sd_ms']:.2g}"


def _goals(around: list[dict], head: list[dict]) -> None:
    """What the GPU renderer is to reach, by GPU time in this run; wall time beside it."""
    lines = []
    for what, peer, goal, method in (
        (IMAGE, "nanodrr", 2, None),
        (POSE, "nanodrr", 4, None),
        (IMAGE, "diffdrr", 100, "siddon"),
        (POSE, "diffdrr", 100, "siddon"),
    ):
        same = [r for r in head if r["what"] == what and r["status"] == "ok"]
        theirs = [r for r in same if r["library"] == peer and method in (None, r["method"])]
        mine = [r for r in same if r["library"] == "drrlib" and method in (None, r["method"])]
        plain = [r for r in mine if (r["variant"], r["dtype"]) == ("", "float32")]
        best = [r for r in sorted(mine, key=time_of)[:1] if r not in plain]
        for own in plain + best if theirs else []:
            gpu = min(map(time_of, theirs)) / time_of(own)
            wall = min(r["wall_ms"] for r in theirs) / own["wall_ms"]
            lines.append(
                f"  {what}: {peer}'s best{' ' + method if method else ''} / {_name(own)}: "
                f"{gpu:.2f} (wall {wall:.2f}; goal {goal}): {'yes' if gpu >= goal else 'NO'}"
            )
    batches = [r for r in around if r["status"] == "ok" and not r["patch"]]
    for key in dict.fromkeys((r["what"], _name(r)) for r in batches if r["library"] == "drrlib"):
        rates = {r["batch"]: _rate(r) for r in batches if (r["what"], _name(r)) == key}
        if 1024 in rates and len(rates) > 1:
            share = rates[1024] / max(rates.values())
            reached = "yes" if share >= 0.98 else "NO"
            lines.append(
                f"  {key[0]}: {key[1]}, 1024 poses against the best batch: {share:.3f} "
                f"(goal 1, here at least 0.98): {reached}"
            )
    print("\ngoals")
    print("\n".join(lines) or "  none could be judged: the cases they need did not run")


def time_of(row: dict) -> float:
    """GPU time [ms], or wall time where there is no GPU."""
    return row["wall_ms"] if row["gpu_ms"] == "" else row["gpu_ms"]


def _place(row: dict) -> tuple:
    return row["volume"], row["pose"], row["detector"], row["batch"], row["patch"]


def _first(rows: list[dict]) -> list[dict]:
    """One row for each case: Table 1 measures some of them a second time."""
    kept: dict[tuple, dict] = {}
    for row in rows:
        kept.setdefault((_place(row), row["what"], _name(row)), row)
    return list(kept.values())


def _exact(row: dict) -> bool:
    return row["method"] != "trilinear"


def _name(row: dict) -> str:
    words = (row["library"], row["method"], row["variant"], row["dtype"])
    return " ".join(w for w in words if w)


def _short(row: dict) -> str:
    return "no memory" if row["status"] == "out of memory" else row["status"].split(":")[0]


def _own(rows: list[dict]) -> dict | None:
    fit = [
        r
        for r in rows
        if (r["library"], r["method"], r["variant"], r["dtype"])
        == ("drrlib", "siddon", "", "float32")
        and r["status"] == "ok"
    ]
    return fit[0] if fit else None


def _ratio(row: dict, own: dict | None) -> str:
    if own is None or row is own:
        return ""
    return f"{time_of(row) / time_of(own):.2f}  (wall {row['wall_ms'] / own['wall_ms']:.2f})"


def _mega(row: dict):
    return row["peak_bytes"] if row["peak_bytes"] == "" else row["peak_bytes"] / 1e6


def _number(value, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value == "" else f"{value:{width}.{digits}f}"
