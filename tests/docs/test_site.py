"""The manual builds without a warning, its links lead somewhere, and a browser shows it offline."""

from __future__ import annotations

import fcntl
import html.parser
import os
import shutil
import subprocess
import sys
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="the manual's needs are not installed: pip install '.[docs]'")
pytest.importorskip("myst_nb", reason="the manual's needs are not installed: pip install '.[docs]'")

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"
SITE = BUILD / "docs"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="session")
def site() -> Path:
    """The built manual. An earlier build is brought up to date, which takes seconds."""
    BUILD.mkdir(exist_ok=True)
    with open(BUILD / "docs.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other processes of pytest wait here
        made = SITE / ".buildinfo"
        newest = max(path.stat().st_mtime for path in (ROOT / "docs" / "_extensions").glob("*.py"))
        if made.exists() and made.stat().st_mtime < newest:
            shutil.rmtree(SITE)  # Sphinx does not see that what makes the pages has changed
        command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q"]
        done = subprocess.run(
            [*command, str(ROOT / "docs"), str(SITE)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            # What is not read again warns no more: the next build has to start anew.
            shutil.rmtree(SITE, ignore_errors=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return SITE


@dataclass
class Page(html.parser.HTMLParser):
    """What a page holds: anchors, links, what it loads, pictures."""

    anchors: set[str] = field(default_factory=set)
    links: set[str] = field(default_factory=set)
    loads: set[str] = field(default_factory=set)
    pictures: list[dict[str, str | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.anchors |= {values[key] for key in ("id", "name") if values.get(key)}
        if tag == "a" and values.get("href"):
            self.links.add(values["href"])
        if tag in ("script", "img", "iframe") and values.get("src"):
            self.loads.add(values["src"])
        if tag == "link" and values.get("rel") == "stylesheet":
            self.loads.add(values["href"])
        if tag == "img":
            self.pictures.append(values)


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, Page]:
    result = {}
    for path in sorted(site.rglob("*.html")):
        if "_static" not in path.relative_to(site).parts:
            result[path] = Page()
            result[path].feed(path.read_text(encoding="utf-8"))
    return result


def is_internal(link: str) -> bool:
    return not urllib.parse.urlparse(link).scheme and not link.startswith("//")


def test_every_internal_link_and_anchor_exists(pages):
    missing = []
    for path, page in pages.items():
        for link in filter(is_internal, page.links):
            parts = urllib.parse.urlparse(link)
            target = path
            if parts.path:
                target = (path.parent / urllib.parse.unquote(parts.path)).resolve()
            anchor = urllib.parse.unquote(parts.fragment)
            if not target.exists():
                missing.append(f"{path.name}: {link}")
            elif anchor and target in pages and anchor not in pages[target].anchors:
                missing.append(f"{path.name}: {link} (no such anchor)")
    assert not missing


def test_nothing_is_loaded_from_the_network(pages):
    loaded = {one for page in pages.values() for one in page.loads}
    assert {one for one in loaded if not is_internal(one) and not one.startswith("data:")} == set()
    for path, page in pages.items():
        for one in filter(is_internal, page.loads):
            assert (path.parent / urllib.parse.unquote(one.split("?")[0])).exists(), (path, one)


def test_every_picture_has_a_text_in_its_place(pages):
    bare = [
        f"{path.name}: {picture.get('src')}"
        for path, page in pages.items()
        for picture in page.pictures
        if not (picture.get("alt") or "").strip() or "/" in (picture.get("alt") or "").split()[0]
    ]
    assert not bare


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(BROWSER is None, reason="no chromium to open the pages with")
@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("index.html", "A few broken samples can ruin a training run"),
        ("how_it_works/the_way_of_the_data.html", "<math"),
        ("tutorials/demo.html", "<img"),
        ("search.html?q=geometric+median", "reference/chainrob.robustifiers.html"),
    ],
)
def test_browser_shows_the_page_from_a_folder(site, tmp_path, page, shown):
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path}",
            "--enable-logging=stderr",
            "--virtual-time-budget=20000",
            "--dump-dom",
            f"file://{site}/{page}",
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    article = done.stdout[done.stdout.index('role="main"') :]
    assert shown in article
    errors = [line for line in done.stderr.splitlines() if ":CONSOLE" in line and "rror" in line]
    assert not errors
