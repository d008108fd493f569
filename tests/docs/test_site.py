"""The documentation: it builds without a warning, is complete, and asks nothing of the internet."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sphinx.util.inventory
from playwright.sync_api import Page, sync_playwright

import dslm
import trainer_agent
import wire

pytestmark = pytest.mark.xdist_group("docs")  # built once, not once a worker

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning, such as a link that leads nowhere, fails the build."""
    output = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    doctrees = tmp_path_factory.mktemp("doctrees")
    result = subprocess.run(
        [*build, "-d", doctrees, ROOT / "docs", output],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return output


@pytest.fixture
def page() -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page()
        browser.close()


def test_public_names_are_in_the_reference(site: Path) -> None:
    with (site / "objects.inv").open("rb") as file:
        inventory = sphinx.util.inventory.InventoryFile.load(file, "", str.__add__)
    documented = {
        name for kind, names in inventory.items() if kind.startswith("py:") for name in names
    }
    public = {
        f"{package.__name__}.{name}"
        for package in (dslm, trainer_agent, wire)
        for name in package.__all__
    }

    assert public - documented == set()


def test_every_page_is_reached_from_the_index(site: Path) -> None:
    index = (site / "index.html").read_text()
    pages = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}

    unreached = [page for page in pages if f'href="{page.with_suffix(".html")}"' not in index]

    assert unreached == [Path("index.md")]  # which links to itself as "#"


@pytest.mark.e2e
def test_pages_load_nothing_from_another_host(site: Path, page: Page) -> None:
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))

    for path in sorted(site.rglob("*.html")):
        page.goto(path.as_uri())

    assert len(addresses) > 20
    assert [address for address in addresses if not address.startswith(("file:", "data:"))] == []


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["theory", "reference/components"])
def test_formulas_are_set(site: Path, page: Page, name: str) -> None:
    page.goto((site / f"{name}.html").as_uri())

    sources = page.locator(".math").count()

    assert sources > 5
    assert page.locator(".math:not(:has(.katex))").count() == 0
    assert page.locator(".katex-error").count() == 0
    assert page.evaluate("document.fonts.check('16px KaTeX_Math')")
