"""Draws ``docs/pictures/report.png``: the example's report, down to its first results, in Chromium."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Final

from debian import ROOT, tool
from PIL import Image
from playwright.sync_api import sync_playwright
from report_example import sources

from softprompt_serve.release.report import compose
from softprompt_serve.release.report_render import to_html

PICTURE: Final = ROOT / "docs" / "pictures" / "report.png"
WIDTH: Final = 1000
COLOURS: Final = 255
LAST: Final = "#results ~ .scroll"
"""The last thing to be seen: the first table of results."""


def drawn(html: str, scheme: str) -> bytes:
    """The page as a PNG, in ``light`` or ``dark``."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(tool("chromium", "chromium")), args=["--no-sandbox"]
        )
        try:
            page = browser.new_page(
                viewport={"width": WIDTH, "height": 1200},
                color_scheme="dark" if scheme == "dark" else "light",
            )
            page.set_content(html)
            box = page.locator(LAST).first.bounding_box()
            bottom = 1200.0 if box is None else box["y"] + box["height"]
            clip = {"x": 0.0, "y": 0.0, "width": float(WIDTH), "height": bottom + 16}
            return page.screenshot(full_page=True, clip=clip)  # type: ignore[arg-type]
        finally:
            browser.close()


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scheme", choices=("light", "dark"), default="light")
    parser.add_argument("--into", type=Path, default=PICTURE, metavar="FILE")
    given = parser.parse_args()
    with Image.open(io.BytesIO(drawn(to_html(compose(sources())), given.scheme))) as shot:
        shot.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(
            given.into, optimize=True
        )
    print(f"drew {given.into.name}, {given.into.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
