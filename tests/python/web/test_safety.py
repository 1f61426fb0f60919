"""Whatever a model, a name, a link or the server says is text; the page asks only its own server, with its key."""

from urllib.parse import urlencode

from actions import answer, answer_instead, ask, copied, slider, text
from models import DEMO_MODEL, DIMENSIONS, MARKUP, without_chat_template
from playwright.sync_api import expect

MARKUP_NAME = '<img src="/y" onerror="window.hacked = true">'
KEY = "a key with 'quotes'"


def check_unharmed(page):
    """Nothing that came as text has become an element, and none of it has run."""
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert page.locator("body script").count() == 1
    assert page.locator("b").count() == 0


def test_markup_is_shown_as_text(open_page, markup_server):
    page = open_page(f"{markup_server.url}/#max_tokens=40&system=<img src='/z' onerror='window.hacked = true'>")
    ask(page, f"<b>bold</b> {MARKUP[0]}")
    assert page.locator(".prompt").text_content() == f"<b>bold</b> {MARKUP[0]}"
    for pane in "AB":
        assert all(piece in text(page, pane) for piece in MARKUP)
    expect(page.get_by_role("heading", level=1)).to_contain_text("<b>markup</b>")
    expect(answer(page, "B")).to_contain_text(f"{MARKUP_NAME} 1.00")
    expect(slider(page, "A", MARKUP_NAME)).to_be_visible()
    check_unharmed(page)


def test_names_of_every_kind_work(open_page, markup_server):
    page = open_page(f"{markup_server.url}/#max_tokens=2")
    slider(page, "A", "__proto__").press("End")
    ask(page)
    expect(answer(page, "A")).to_contain_text("__proto__ 1.00")
    page.reload()
    expect(slider(page, "A", "__proto__")).to_have_attribute("aria-valuetext", "1.00")
    name = "b.\"quoted\" & 'single' = ,"
    slider(page, "A", name).press("End")
    ask(page)
    expect(answer(page, "A")).to_contain_text(f"{name} 1.00")


def test_what_the_server_refuses_is_text_too(open_page, markup_server):
    page = open_page(f"{markup_server.url}/#{urlencode({f'a.{MARKUP_NAME}x': 1})}")
    expect(page.get_by_role("status")).to_contain_text(f"a.{MARKUP_NAME}x")
    refused = open_page(markup_server.url, expected=["400"])
    error = {"message": MARKUP[0], "type": "invalid_request_error", "param": None, "code": None}
    answer_instead(refused, status=400, json={"error": error})
    ask(refused)
    expect(answer(refused, "A").locator(".problem")).to_have_text(MARKUP[0])
    check_unharmed(page)
    check_unharmed(refused)


def test_the_servers_policy_forbids_everything_else(open_page, server):
    page = open_page(server.url)
    policy = page.evaluate("fetch('/').then((response) => response.headers.get('Content-Security-Policy'))")
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "frame-ancestors 'none'" in policy


def test_an_api_key_is_asked_for(open_page, start):
    server = start("--model", DEMO_MODEL, "--name", "locked", "--api-key", KEY)
    page = open_page(server.url, expected=["401"])
    field = page.get_by_label("API key")
    expect(field).to_be_focused()
    expect(page.get_by_role("alert")).to_be_hidden()
    field.fill("another")
    field.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("key")
    field.fill(KEY)
    page.get_by_role("button", name="Continue").click()
    ask(page)
    assert text(page, "A")
    # The key stays in the tab: in no link, and in no command.
    page.reload()
    ask(page)
    assert text(page, "A")
    command = copied(page, page.get_by_role("button", name="Copy answer A as curl"))
    assert '-H "Authorization: Bearer $LAMBDA_DPO_API_KEY"' in command
    assert "quotes" not in command and "quotes" not in page.url


def test_without_a_lambda_adapter_there_is_one_pane_and_no_slider(open_page, start):
    page = open_page(start("--model", DEMO_MODEL).url)
    expect(page.get_by_text("without a λ-adapter")).to_be_visible()
    expect(page.get_by_role("slider")).to_have_count(0)
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("Two panes")).to_be_hidden()
    ask(page)
    expect(page.get_by_role("article")).to_have_count(1)
    assert text(page, "A")


def test_without_a_chat_template_the_page_continues_texts(open_page, start, tmp_path):
    page = open_page(start("--model", without_chat_template(tmp_path / "model")).url)
    expect(page.get_by_text("no chat template")).to_be_visible()
    paths = []
    page.on("request", lambda request: paths.append(request.url.split("/", 3)[3]))
    ask(page, "The badger lives")
    assert paths == ["v1/completions"]
    assert text(page, "A")
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("System prompt")).to_be_hidden()


def test_dimensions_are_those_of_the_server(server):
    assert server.ask("/v1/models")["data"][0]["dimensions"] == DIMENSIONS
