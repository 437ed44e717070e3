"""A registration in words, for someone who reads X-ray images and not loss functions."""

import math
from typing import NamedTuple

from drrlib.geometry import to_degrees

# How a reason begins, what it means, and what to do.
_REASONS = (
    (
        "one place fits best",
        "One place in the whole range that was searched fits the image best, and the image holds "
        "it tightly. Still, look at the edges below.",
    ),
    (
        "another place fits",
        "Two different places explain the image about equally well, so that it is open which is "
        "the true one. Give a nearer start and a smaller range, or a second view.",
    ),
    (
        "images unlike",
        "Even in the best place the CT does not look like the image. Is it the same patient and "
        "side? Is the image mirrored? Are the lengths of the C-arm right, and is the view within "
        "the range that was searched? Is much covered by metal or letters? If "
        "the edges below do fit, the image may only be grainy: average its pixels and try again.",
    ),
    (
        "the CT explains only",
        "The CT covers too little of what the image shows. Take a CT that goes further, or crop "
        "the image to what the CT covers.",
    ),
    (
        "the image does not hold",
        "The image tells too little about the pose: it would look nearly the same some way off. "
        "Add a second view, or use a part of the image with more bone.",
    ),
    (
        "pose far outside",
        "The best place lies outside the range that was searched. Give a better start.",
    ),
    ("loss not finite", "Nothing could be compared: the CT is not in the picture at the start."),
    ("steps ran out", "One descent from one start, which nothing judged. Use `register`."),
)
_LOOK = (
    "Edges: the orange lines are edges of bone and skin in the CT. They must lie on those of the "
    "image everywhere. Doubled on one side only means a turn, everywhere to one side a shift, "
    "larger or smaller all around a wrong depth or source-detector distance.",
    "Overlay: grey where both agree, red where only the image is dense, cyan where only the CT is. "
    "What did not count is left as it is.",
    "Checkerboard: contours run on from one square into the next.",
    "What is left over: grain and instruments are right; a bright contour with a dark twin beside "
    "it is a bone in the wrong place.",
    "Letters: left, right, head and foot of the patient as the pose has them. If they contradict "
    "the image's own marker, the image is mirrored, and the pose is wrong.",
)


class Words(NamedTuple):
    """What a page says.

    Attributes:
        headline: The verdict.
        meaning: What it means and what to do.
        facts: (name, value) pairs of the pose, the stated error and the search.
        look: How to read the pictures.
    """

    headline: str
    meaning: str
    facts: tuple[tuple[str, str], ...]
    look: tuple[str, ...]


def words(result, likeness: list[float]) -> Words:
    """Of one registration; `likeness` of each view."""
    trusted = "The pose can be trusted" if result.converged else "The pose is doubtful"
    meaning = next((text for key, text in _REASONS if result.reason.startswith(key)), "")
    facts = (*_pose(result), *_error(result), *_search(result, likeness))
    return Words(f"{trusted}: {result.reason}", meaning, facts, _LOOK)


def _pose(result) -> tuple[tuple[str, str], ...]:
    theta, phi, gamma, *b = to_degrees(result.eta).tolist()
    tilt = f"{abs(theta):.2f} deg {'cranial' if theta >= 0 else 'caudal'}"
    side = f"{abs(phi):.2f} deg {'LAO' if phi >= 0 else 'RAO'}"
    names = (("left", "right"), ("back", "front"), ("head", "feet"))
    shift = ", ".join(
        f"{abs(x):.2f} mm to the {pair[int(x < 0)]}" for x, pair in zip(b, names, strict=True)
    )
    return (
        ("View", f"{tilt}, {side}, detector turned by {gamma:+.2f} deg"),
        ("Isocentre, from the CT's middle", shift),
    )


def _error(result) -> tuple[tuple[str, str], ...]:
    if result.target_sd is None or not math.isfinite(result.target_sd):
        return (("Stated error", "none: the image does not hold the pose"),)
    text = f"{result.target_sd:.2g} mm at points 50 mm off the CT's middle"
    if result.depth_sd is not None:
        text += f": {result.across_sd:.2g} mm across the view, {result.depth_sd:.2g} mm in depth"
    return (("Stated error (one standard deviation)", text),)


def _search(result, likeness: list[float]) -> tuple[tuple[str, str], ...]:
    how = f"compared in windows of {result.window:g} pixels" if result.window else "line integrals"
    seen = ", ".join(f"{x:.3f}" for x in likeness)
    facts = [("Likeness (1: the same)", f"{seen}; {how}")]
    if result.kept is not None and not result.only:
        facts.append(("Part of the image that counted", f"{100 * result.kept:.0f} %"))
    if result.gap is not None:
        alone = "none: every candidate ended in one place"
        times = f"fits {result.gap:.2f} times worse" if math.isfinite(result.gap) else alone
        facts.append(("Second-best place", times))
    if result.agreement is not None:
        facts.append(("Candidates that ended here", f"{100 * result.agreement:.0f} %"))
    if result.inverted:
        facts.append(("Image", "was a negative, and was inverted"))
    return tuple(facts)
