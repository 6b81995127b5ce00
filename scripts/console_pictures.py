"""Draws ``docs/pictures/console-*.png``: the console in Chromium, on a server with a made-up engine."""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from console_scene import judged, midway, served
from debian import ROOT, tool
from PIL import Image
from playwright.sync_api import sync_playwright

from softprompt_serve.testing import ADMIN_TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from console_scene import Scene
    from playwright.sync_api import Browser, Page

PICTURES: Final = ROOT / "docs" / "pictures"
COLOURS: Final = 255
WIDE, NARROW = 1280, 390
MILLISECONDS: Final = 60_000


class Shot(NamedTuple):
    """One picture.

    Attributes:
        name: of the file, without ``console-``.
        path: of the page.
        width: of the window, in pixels.
        scheme: ``light`` or ``dark``.
        most: pixels of height that are kept; None keeps all of the page.
        part: the one part of the page that is kept, or None for all.
    """

    name: str
    path: str
    width: int = WIDE
    scheme: str = "light"
    most: int | None = None
    part: str | None = None


KEPT: Final = (
    Shot("overview", "/"),
    Shot("prompt", "/prompts/support", most=1500),
    Shot("prompt-dark", "/prompts/support", scheme="dark", most=1000),
    Shot("prompt-narrow", "/prompts/support", NARROW, most=1400),
    Shot("versions", "/prompts/support#record-v3", part="#versions"),
    Shot("confirm", "/prompts/support/promote"),
    Shot("residency", "/residency"),
)
PAGES: Final = {
    "login": "/login",
    "overview": "/",
    "prompt": "/prompts/support",
    "promote": "/prompts/support/promote",
    "rollback": "/prompts/support/rollback",
    "refused": "/prompts/triage/pause",
    "residency": "/residency",
    "audit": "/audit",
    "missing": "/prompts/nobody",
}
KEPT_JUDGED: Final = (Shot("gates", "/prompts/support/promote"),)
"""Of a server that enforces policies."""

PAGES_JUDGED: Final = {
    "gates-failed": "/prompts/support/promote",
    "gates-passed": "/prompts/support/promote?version=v3",
}


def every(pages: Mapping[str, str]) -> list[Shot]:
    """Each page, wide and narrow, in both schemes."""
    return [
        Shot(f"{name}-{width}-{scheme}", path, width, scheme)
        for name, path in pages.items()
        for width in (WIDE, NARROW)
        for scheme in ("light", "dark")
    ]


@contextlib.contextmanager
def chromium(*flags: str) -> Iterator[Browser]:
    """Debian's Chromium without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(tool("chromium", "chromium")), args=["--no-sandbox", *flags]
        )
        yield browser
        browser.close()


def draw(browser: Browser, url: str, shot: Shot, into: Path) -> Path:
    """Take one picture; its colours are reduced, which a page doesn't show."""
    context = browser.new_context(
        viewport={"width": shot.width, "height": 640},
        color_scheme="dark" if shot.scheme == "dark" else "light",
        device_scale_factor=1 if shot.width == WIDE else 2,
    )
    context.set_default_timeout(MILLISECONDS)
    page = context.new_page()
    if shot.path != PAGES["login"]:
        log_in(page, url)
    page.goto(f"{url}/softprompts{shot.path}")
    page.wait_for_load_state("networkidle")
    if shot.part is None:
        taken = page.screenshot(full_page=True, animations="disabled")
    else:
        taken = page.locator(shot.part).screenshot(animations="disabled")
    picture = Image.open(io.BytesIO(taken)).convert("RGB")
    context.close()
    if shot.most is not None:
        scale = picture.width // shot.width
        picture = picture.crop((0, 0, picture.width, min(picture.height, shot.most * scale)))
    target = into / f"console-{shot.name}.png"
    reduced(picture).save(target, optimize=True)
    return target


def reduced(picture: Image.Image) -> Image.Image:
    """The same in the colours that matter: what it has most of, and what is vivid, like a dot."""
    colours = Counter(zip(*(band.tobytes() for band in picture.split()), strict=True))
    palette = Image.new("P", (1, 1))
    found = sorted(colours, key=lambda c: -colours[c] * (1 + max(c) - min(c)))
    palette.putpalette([part for colour in found[:COLOURS] for part in colour])
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)


def log_in(page: Page, url: str) -> None:
    """As a person does."""
    page.goto(f"{url}/softprompts/login")
    page.get_by_label("Your name").fill("ada")
    page.get_by_label("Token").fill(ADMIN_TOKEN)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{url}/softprompts/")


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, default=PICTURES, metavar="FOLDER")
    parser.add_argument(
        "--all", action="store_true", help="each page, wide and narrow, both schemes"
    )
    given = parser.parse_args()
    given.into.mkdir(parents=True, exist_ok=True)
    stories: list[tuple[Callable[[Scene], None], str, Iterable[Shot]]] = [
        (midway, "off", every(PAGES) if given.all else KEPT),
        (judged, "enforce", every(PAGES_JUDGED) if given.all else KEPT_JUDGED),
    ]
    with chromium() as browser:
        for tell, gates, shots in stories:
            with (
                tempfile.TemporaryDirectory(prefix="softprompt-pictures-") as home,
                served(Path(home), promotion_gates=gates) as scene,
            ):
                tell(scene)
                for shot in shots:
                    target = draw(browser, scene.url, shot, given.into)
                    print(f"drew {target.name}, {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
