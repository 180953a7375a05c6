"""A drawn figure as an SVG and a PNG file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from binllm.tracking.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save(figure: Figure, path: Path, title: str, description: str) -> list[Path]:
    """Write both files, each whole or not at all, with no date, so that the same runs give the same bytes.

    Args:
        figure: The figure.
        path: Both files without their endings; the folder is made.
        title: Goes into the metadata.
        description: Likewise; the caption and the full run ids.

    Returns:
        The SVG and the PNG file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    paths = [path.with_name(f"{path.name}.{ending}") for ending in ("svg", "png")]
    for one, more in zip(paths, ({"Date": None}, {"Software": None}), strict=True):
        with replacing(one) as temporary:
            figure.savefig(
                temporary, format=one.suffix[1:], metadata={"Title": title, "Description": description, **more}
            )
    return paths
