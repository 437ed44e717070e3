"""A progress bar with the time left, shown only where somebody watches."""

import sys

from tqdm.auto import tqdm


def progress_bar(total: int, unit: str, wanted: bool = True) -> tqdm:
    """Bar over `total` units; silent unless wanted and the output is a terminal or a notebook."""
    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(total=total, unit=unit, disable=not (wanted and watched))
