"""What goes wrong is said in words, and leaves the page usable."""

from actions import NEVER_ENDS, answer, answer_instead, answer_no_more, ask, facts, send, text, texts, wait_for_answers
from playwright.sync_api import expect


def test_what_the_server_refuses_is_shown_and_the_prompt_comes_back(open_page, server):
    page = open_page(server.url, expected=["400"])
    long = "the badger and the otter " * 400
    ask(page, long)
    for pane in "AB":
        expect(answer(page, pane).locator(".problem")).to_be_visible()
        assert len(answer(page, pane).locator(".problem").text_content()) > 20
        assert "failed" in facts(page, pane)
    expect(page.get_by_label("Your message")).to_have_value(long)
    ask(page)
    assert all(texts(page)), "a refused turn is no part of the conversation"
    expect(answer(page, "A").locator(".problem")).to_be_hidden()


def test_a_server_that_dies_leaves_the_page_usable(open_page, start, markup_server):
    server = start(*markup_server.arguments)
    page = open_page(server.url + "/" + NEVER_ENDS, expected=["ERR_"])
    send(page)
    expect(answer(page, "A").locator(".text")).not_to_be_empty()
    server.process.kill()
    wait_for_answers(page)
    expect(answer(page, "A").locator(".problem")).to_be_visible()
    ask(page, "Still there?")
    expect(answer(page, "A").locator(".problem")).to_contain_text("cannot be reached")
    expect(page.get_by_label("Your message")).to_have_value("Still there?")


def test_a_broken_stream_is_an_error_and_no_answer(open_page, server):
    page = open_page(server.url)
    event = 'data: {"choices": [{"index": 0, "delta": {"content": "Half"}, "finish_reason": null}]}\n\n'
    ends = {
        "ended before": event,
        "cannot be read": event + "data: {\n\n",
        "the row failed": event + 'data: {"error": {"message": "the row failed"}}\n\n',
    }
    bodies = []
    page.on("request", lambda request: bodies.append(request.post_data) if request.post_data else None)
    for words, body in ends.items():
        answer_instead(page, headers={"Content-Type": "text/event-stream"}, body=body)
        ask(page)
        expect(answer(page, "A").locator(".problem")).to_contain_text(words)
        assert text(page, "A") == "Half"
        answer_no_more(page)
    send(page)
    wait_for_answers(page)
    assert text(page, "A") not in ("", "Half")
    assert "Half" not in bodies[-1], "what failed is no part of the conversation"


def test_a_key_that_no_longer_holds_is_asked_for_again(open_page, server):
    page = open_page(server.url, expected=["401"])
    ask(page)
    before = texts(page)
    error = {"message": "this key has expired", "type": "invalid_request_error", "param": None, "code": None}
    answer_instead(page, status=401, json={"error": error})
    ask(page, "And the otter?")
    expect(page.get_by_role("alert")).to_have_text("this key has expired")
    answer_no_more(page)
    page.get_by_label("API key").fill("a new one")
    page.keyboard.press("Enter")
    expect(page.get_by_label("API key")).to_be_hidden()
    expect(page.get_by_label("Your message")).to_have_value("And the otter?")
    assert page.locator(".text").all_text_contents()[:2] == before, "the conversation is still there"


def test_settings_out_of_range_are_named_before_anything_is_sent(open_page, server):
    page = open_page(server.url)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("5")
    send(page)
    expect(page.get_by_role("status")).to_contain_text("Temperature: give a number from 0 to 2")
    expect(page.get_by_label("Temperature")).to_be_focused()
    expect(page.get_by_role("article")).to_have_count(0)
    # Nothing: the server's own value.
    page.get_by_label("Temperature").fill("")
    ask(page)
    assert all(texts(page))


def test_a_server_that_cannot_be_reached_is_tried_again(open_page, server):
    page = open_page(server.url, expected=["ERR_"])
    page.route("**/v1/models", lambda route: route.abort())
    page.reload()
    expect(page.get_by_role("heading", name="The server does not answer")).to_be_visible()
    expect(page.get_by_label("Your message")).to_be_hidden()
    page.unroute("**/v1/models")
    page.get_by_role("button", name="Try again").click()
    ask(page)
    assert all(texts(page))


def test_a_busy_server_says_when_to_come_again(open_page, server):
    page = open_page(server.url, expected=["429", "502"])
    error = {"message": "the queue is full", "type": "rate_limit_error", "param": None, "code": None}
    answer_instead(page, status=429, headers={"Retry-After": "7"}, json={"error": error})
    ask(page)
    expect(answer(page, "A").locator(".problem")).to_have_text("the queue is full (try again in 7 s)")
    answer_no_more(page)
    # Not the server, but something between.
    answer_instead(page, status=502, body="<h1>Bad gateway</h1>")
    ask(page)
    expect(answer(page, "A").locator(".problem")).to_have_text("The server answered with status 502")


def test_copying_works_without_the_clipboards_interface(open_page, server):
    """Browsers have it only on loopback and HTTPS."""
    page = open_page(server.url)
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    page.get_by_label("Your message").press("Control+V")
    expect(page.get_by_label("Your message")).to_have_value(page.evaluate("location.href"))
    # Where even the old way is forbidden, the text can be copied by hand.
    page.evaluate("document.execCommand = () => false")
    expect(page.get_by_role("button", name="Copy link")).to_be_visible()
    page.get_by_role("button", name="Copy link").click()
    field = page.get_by_role("textbox", name="copy the text here")
    expect(field).to_have_value(page.evaluate("location.href"))
    expect(field).to_be_focused()
    page.get_by_role("button", name="Close").click()
    expect(field).to_be_hidden()
