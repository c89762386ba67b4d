"""The morning report in a real browser, with hostile text in every place: none of it runs, and nothing is complained of."""

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from command import wait_until
from test_report_page import hostile_home

from flows.report import write_report

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
PHONE, DESKTOP, PAPER = (390, 844), (1280, 900), (720, 1020)

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH: apt-get install chromium"),
]


class Browser:
    """A page of a headless Chromium, over its DevTools protocol; `events` are what it told of, in order."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.events: list[dict[str, Any]] = []
        self.asked = 0

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.asked += 1
        await self.socket.send_json({"id": self.asked, "method": method, "params": params})
        while True:
            told = await self.socket.receive_json(timeout=60)
            if told.get("id") == self.asked:
                assert "error" not in told, told
                return dict(told["result"])
            self.events.append(told)

    async def opened(self, file: Path, size: tuple[int, int], scheme: str, media: str) -> Self:
        for domain in ("Page", "Runtime", "Network", "Log", "Audits"):
            await self.call(f"{domain}.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=size == PHONE
        )
        await self.call("Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}])
        await self.call("Page.navigate", url=file.as_uri())
        while not any(e["method"] == "Page.loadEventFired" for e in self.events):
            self.events.append(await self.socket.receive_json(timeout=60))
        return self

    async def value(self, expression: str) -> Any:
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def named(self, *methods: str) -> list[dict[str, Any]]:
        return [e["params"] for e in self.events if e["method"] in methods]


@pytest.fixture(scope="module")
def devtools() -> Iterator[str]:
    """The address of a running browser's DevTools."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        command = [str(CHROMIUM), *flags, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port = Path(profile) / "DevToolsActivePort"
        try:
            wait_until(lambda: port.exists() and port.read_text().count("\n"))
            yield f"http://127.0.0.1:{port.read_text().split()[0]}"
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    return write_report(home, hostile_home(home), home / "report.html")


async def seen(
    devtools: str, file: Path, size: tuple[int, int], scheme: str, *expressions: str, media: str = "screen"
) -> tuple[Browser, list[Any]]:
    """The browser after it opened the file in a tab of its own, and the values of the expressions."""
    async with aiohttp.ClientSession() as session:
        tab = await (await session.put(f"{devtools}/json/new?about:blank")).json()
        async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            browser = await Browser(socket).opened(file, size, scheme, media)
            return browser, [await browser.value(e) for e in expressions]


def test_nothing_runs_nothing_is_asked_for_and_nothing_fails(devtools: str, file: Path) -> None:
    everything = """(async () => {
        document.querySelectorAll('details').forEach((one) => { one.open = true; });
        document.querySelectorAll('button, summary, [tabindex]').forEach((one) => { one.focus(); });
        dispatchEvent(new Event('beforeprint'));
        dispatchEvent(new Event('afterprint'));
        await new Promise((done) => setTimeout(done, 500));
        return document.title;
    })()"""
    scripts = "[document.scripts.length, document.styleSheets.length, document.forms.length, frames.length]"
    browser, (title, counts) = asyncio.run(seen(devtools, file, DESKTOP, "light", everything, scripts))
    assert title.startswith("1 alert: nightly <script>")
    assert counts == [1, 1, 0, 0]
    asked = [e["request"]["url"] for e in browser.named("Network.requestWillBeSent")]
    assert asked == [file.as_uri()]
    assert browser.named("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Page.javascriptDialogOpening") == []
    assert [e["entry"]["text"] for e in browser.named("Log.entryAdded")] == []
    assert [e["issue"]["code"] for e in browser.named("Audits.issueAdded")] == []


def test_a_browser_would_have_told(devtools: str, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><meta http-equiv=Content-Security-Policy content=\"default-src 'none'\">"
        "<img src=https://owned.invalid/><p style='color: red'>hello<script>1</script>"
    )
    browser, (_,) = asyncio.run(seen(devtools, page, DESKTOP, "light", "new Promise((done) => setTimeout(done, 300))"))
    assert len(browser.named("Log.entryAdded")) >= 3


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_can_be_read(devtools: str, file: Path, size: tuple[int, int], scheme: str) -> None:
    width = "document.documentElement.scrollWidth"
    contrast = """(() => {
        const channel = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        const light = (c) => {
            const [r, g, b] = c.match(/[0-9.]+/g).slice(0, 3).map((v) => channel(v / 255));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const behind = (one) => {
            const colour = getComputedStyle(one).backgroundColor;
            return /^rgba.* 0\\)$/.test(colour) && one.parentElement ? behind(one.parentElement) : colour;
        };
        const shown = 'h1, .word, .note, .about, .number, .tag, summary, th, a, li, .text, svg text';
        const ratios = [...document.querySelectorAll(shown)]
            .filter((one) => one.checkVisibility())
            .map((one) => {
                const style = getComputedStyle(one);
                const both = [light(one.closest('svg') ? style.fill : style.color), light(behind(one))];
                return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
            });
        return [ratios.length, Math.min(...ratios)];
    })()"""
    _, (needed, (n, least)) = asyncio.run(seen(devtools, file, size, scheme, width, contrast))
    assert needed <= size[0]
    assert n > 50
    assert least >= 4.5  # WCAG 2.2, 1.4.3


def test_the_search_finds_and_print_opens(devtools: str, file: Path) -> None:
    hidden = "[...document.querySelectorAll('.case')].filter((one) => !one.hidden).length"
    search = """((query) => {
        const box = document.getElementById('query');
        box.value = query;
        box.dispatchEvent(new Event('input'));
        return document.getElementById('count').textContent;
    })"""
    opened = "document.querySelectorAll('details.case[open]').length"
    steps = (
        hidden,
        f"{search}('full_nothing')",
        hidden,
        f"{search}('OWNED compliance')",
        hidden,
        f"{search}('')",
        f"document.getElementById('open').click(), {opened}",
        f"document.getElementById('close').click(), {opened}",
        f"dispatchEvent(new Event('beforeprint')), {opened}",
        f"dispatchEvent(new Event('afterprint')), {opened}",
    )
    _, found = asyncio.run(seen(devtools, file, DESKTOP, "light", *steps))
    assert found == [14, "0 of 14 items", 0, "14 of 14 items", 14, "", 14, 0, 14, 0]


def test_on_paper_all_is_open_and_fits(devtools: str, file: Path) -> None:
    fits = "document.documentElement.scrollWidth"
    text = "document.querySelector('.case:not([open]) .text').checkVisibility({contentVisibilityAuto: true})"
    colour = "getComputedStyle(document.body).backgroundColor"
    _, found = asyncio.run(seen(devtools, file, PAPER, "dark", fits, text, colour, media="print"))
    assert found[0] <= PAPER[0]
    assert found[1:] == [True, "rgb(255, 255, 255)"]


def test_without_a_script_everything_can_be_read(devtools: str, file: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.html"
    bare.write_text(file.read_text().replace("script-src", "script-src-none"))
    tools = "getComputedStyle(document.getElementById('tools')).display"
    steps = (tools, "document.querySelector('.case').open = true, document.querySelector('.case .text').checkVisibility()")
    _, found = asyncio.run(seen(devtools, bare, PHONE, "light", *steps))
    assert found == ["none", True]
