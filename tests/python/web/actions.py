"""What a person does on the page, by the names that a screen reader says."""

from urllib.parse import parse_qsl, urlsplit

PROMPT = "Tell me about the badger. Use at most 15 words and end with the word thanks."
#: Settings for answers that go on until they are stopped, of a model that does not stop by itself.
NEVER_ENDS = "#max_tokens=60000&seed=1"


def ask(page, prompt=PROMPT):
    """Sends a prompt and waits until all panes have answered."""
    send(page, prompt)
    wait_for_answers(page)


def send(page, prompt=PROMPT):
    page.get_by_label("Your message").fill(prompt)
    page.keyboard.press("Enter")


def wait_for_answers(page):
    page.get_by_role("button", name="Send", exact=True).wait_for()


def answer(page, pane):
    """The latest answer of a pane."""
    return page.get_by_role("article", name=f"Answer {pane}", exact=True).last


def text(page, pane):
    return answer(page, pane).locator(".text").text_content()


def texts(page):
    return [text(page, pane) for pane in "AB"]


def facts(page, pane):
    return answer(page, pane).locator(".facts").text_content()


def slider(page, pane, dimension):
    group = page.get_by_role("group", name=f"Weights of pane {pane}")
    return group.get_by_role("slider", name=dimension, exact=True)


def preset(page, pane, label):
    page.get_by_label(f"Preset of pane {pane}").select_option(label=label)


def copied(page, button):
    """Presses a button that copies; returns what it copied."""
    button.click()
    page.get_by_text("Copied", exact=True).wait_for()
    return page.evaluate("navigator.clipboard.readText()")


def copied_link(page):
    return copied(page, page.get_by_role("button", name="Copy link"))


def fields(link):
    """The settings in a link."""
    return dict(parse_qsl(urlsplit(link).fragment, keep_blank_values=True, strict_parsing=True))


def weights(page, pane):
    """λ of a pane by name, as the address has it."""
    prefix = f"{pane.lower()}."
    found = fields(page.evaluate("location.href")).items()
    return {name.removeprefix(prefix): float(value) for name, value in found if name.startswith(prefix)}


def answer_instead(page, **reply):
    """Answers the page's requests in the server's place."""
    page.route("**/v1/chat/completions", lambda route: route.fulfill(**reply))


def answer_no_more(page):
    page.unroute("**/v1/chat/completions")
