"""A figure that is measured in pixels from the upper left, with Grafana's grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.axes import Axes

COLUMNS: Final = 24
CELL: Final = (56.0, 34.0)  # pixels of one cell, gaps included
GAP: Final = 8.0
HEAD: Final = 62.0
DPI: Final = 100.0

INK: Final = "#24292e"
SOFT: Final = "#6b7280"
LINE: Final = "#e3e6ea"
PAGE: Final = "#f4f5f7"
PALETTE: Final = (
    *("#3274d9", "#e0752d", "#56a64b", "#a352cc", "#c9a300", "#0f9aa8", "#e02f44", "#8f3bb8"),
    *("#6d8fc9", "#b0563a", "#37872d", "#d1639c", "#5f6b7a", "#19b5b0", "#8a6d00", "#404a8f"),
)
OTHERS: Final = ("#8e8e8e", "#8ab8ff", "#fada2e", "#ff9830", INK, SOFT)
SHADES: Final = (1.0, 0.8, 0.6, 0.45, 0.3, 0.16)
"""How much there is of a colour where a line's edge meets the white of a panel."""


class Canvas:
    """Owner of the figure.

    Args:
        rows: how many rows of the grid there are.
    """

    def __init__(self, rows: int) -> None:
        mpl.use("Agg")
        mpl.rcParams.update({"font.family": "DejaVu Sans", "font.size": 7.5})
        self.width = self._width = COLUMNS * CELL[0] + 2 * GAP
        self._height = rows * CELL[1] + HEAD + GAP
        self._figure = Figure((self._width / DPI, self._height / DPI), dpi=DPI, facecolor=PAGE)

    def save(self, path: Path) -> None:
        """Write a PNG of few colours."""
        self._figure.savefig(path, dpi=DPI, facecolor=PAGE)
        with Image.open(path) as image:
            few = image.convert("RGB").quantize(palette=_palette(), dither=Image.Dither.NONE)
        few.save(path, optimize=True)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes without a frame, of that place and size."""
        w, h = self._width, self._height
        axes = self._figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))
        axes.set_facecolor("none")
        axes.tick_params(length=0, labelsize=7, colors=SOFT, pad=4)
        axes.grid(color=LINE, lw=0.7)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return axes

    def place(self, panel: Mapping[str, Any]) -> tuple[float, float, float, float]:
        """Left, top, width and height of a panel."""
        at = panel["gridPos"]
        left, top = GAP + at["x"] * CELL[0] + GAP / 2, HEAD + at["y"] * CELL[1]
        return left, top, at["w"] * CELL[0] - GAP, at["h"] * CELL[1] - GAP

    def card(self, left: float, top: float, width: float, height: float) -> None:
        """A white rectangle, below all else."""
        w, h = self._width, self._height
        self._figure.add_artist(
            FancyBboxPatch(
                (left / w, 1 - (top + height) / h),
                width / w,
                height / h,
                boxstyle="square,pad=0",
                facecolor="white",
                edgecolor=LINE,
                lw=0.8,
                transform=self._figure.transFigure,
                zorder=-1,
            )
        )

    def rule(self, left: float, top: float, width: float) -> None:
        """A thin line."""
        self.card(left, top, width, 0.1)

    def text(self, left: float, top: float, text: str, **style: Any) -> Any:
        """A text whose line stands at ``top``."""
        size = style.pop("size", 8)
        style = {"color": INK, "va": "baseline", **style}
        return self._figure.text(
            left / self._width, 1 - top / self._height, text, fontsize=size, **style
        )


def _palette() -> Image.Image:
    """An image that has the colours which are used, alone and mixed with white."""
    flat = [255, 255, 255, *_rgb(PAGE), *_rgb(LINE)]
    for colour in (*PALETTE, *OTHERS):
        for shade in SHADES:
            flat += [round(255 - shade * (255 - part)) for part in _rgb(colour)]
    image = Image.new("P", (1, 1))
    image.putpalette(flat)
    return image


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))
