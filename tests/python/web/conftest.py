"""A browser, and servers with tiny models, one of each for all tests; pages that may not fail unnoticed."""

import os

import pytest
from models import DEMO_MODEL, DIMENSIONS, write_adapter, write_markup_model
from playwright.sync_api import sync_playwright
from servers import ROOT, Server

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
#: Without the flags against background traffic the browser itself looks up hosts.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SCREENSHOTS = ROOT / "target" / "web"


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Starts servers, and stops them at the end."""
    servers = []

    def start(*arguments):
        servers.append(Server(tmp_path_factory.mktemp("serve") / "log", *arguments))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def server(start, tmp_path_factory):
    """The demo's model with a λ-adapter over four dimensions."""
    adapter = write_adapter(tmp_path_factory.mktemp("steered") / "adapter", DIMENSIONS)
    return start("--model", DEMO_MODEL, "--adapter", adapter, "--name", "demo")


@pytest.fixture(scope="session")
def markup_server(start, tmp_path_factory):
    """A model that writes markup without an end, with dimensions whose names are markup too."""
    folder = tmp_path_factory.mktemp("markup")
    model = write_markup_model(folder / "model")
    names = ['<img src="/y" onerror="window.hacked = true">', "__proto__", "b.\"quoted\" & 'single' = ,"]
    adapter = write_adapter(folder / "adapter", names, model=model, spread=0)
    return start("--model", model, "--adapter", adapter, "--name", "<b>markup</b>")


@pytest.fixture
def open_page(browser):
    """Opens pages; fails at the end if one logged an error, threw, or asked another host than its server.

    `expected` are parts of messages that the browser itself logs for answers such as 401.
    """
    contexts, failures = [], []

    def open_page(url, *, width=1280, height=800, scheme="light", expected=()):
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            permissions=["clipboard-read", "clipboard-write"],
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        origin = "/".join(url.split("/")[:3])

        def log(message):
            if message.type in ("error", "warning") and not any(part in message.text for part in expected):
                failures.append(message.text)

        def request(request):
            if not request.url.startswith((origin + "/", "data:")):
                failures.append(f"a request to {request.url}")

        page.on("console", log)
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("dialog", lambda dialog: failures.append(f"a dialog: {dialog.message}"))
        page.on("request", request)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert failures == []


@pytest.fixture(scope="session")
def screenshot():
    """Writes screenshots into target/web."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)

    def screenshot(page, name):
        page.screenshot(path=SCREENSHOTS / f"{name}.png")

    return screenshot
