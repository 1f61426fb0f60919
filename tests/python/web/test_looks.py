"""The page at the widths of a desk and a phone, light and dark: nothing is cut off, and axe finds no fault.

Screenshots of every state go to target/web, to be looked at.
"""

import pytest
from actions import answer, ask, send, slider, wait_for_answers
from axe_playwright_python.sync_playwright import Axe
from models import DEMO_MODEL, DIMENSIONS, write_adapter
from playwright.sync_api import expect

SIZES = {"desk": (1280, 800), "phone": (390, 844)}
LONG = [f"a_rather_long_name_of_a_dimension_number_{number}_of_twenty" for number in range(1, 21)]


def check(page, width):
    """No part of the page is wider than the window; labels, names, roles and contrasts are as WCAG 2.1 AA wants."""
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    overflowing = """[...document.querySelectorAll('body *')].filter((element) => {
      const {left, right, width} = element.getBoundingClientRect();
      return width > 1 && (left < -0.5 || right > innerWidth + 0.5);
    }).map((element) => element.outerHTML.slice(0, 200))"""
    assert page.evaluate(overflowing) == []
    rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
    found = Axe().run(page, options={"runOnly": rules, "resultTypes": ["violations"]})
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_every_state(size, scheme, open_page, server, screenshot):
    width, height = SIZES[size]
    page = open_page(f"{server.url}/#seed=2", width=width, height=height, scheme=scheme, expected=["400"])
    expect(page.get_by_role("heading", name="One prompt, two λ")).to_be_visible()
    check(page, width)
    screenshot(page, f"start-{size}-{scheme}")

    slider(page, "A", DIMENSIONS[1]).press("PageUp")
    ask(page)
    ask(page, "And the otter? " * 200)
    check(page, width)
    screenshot(page, f"refused-{size}-{scheme}")
    page.get_by_label("Your message").fill("")
    ask(page, "And the otter? Say where it lives, what it eats, and when it sleeps.")
    # The end of the conversation is in view.
    copies = answer(page, "B").get_by_role("button", name="Copy answer B as curl")
    expect(copies).to_be_in_viewport(ratio=1)
    check(page, width)
    screenshot(page, f"answers-{size}-{scheme}")

    page.get_by_role("button", name="Settings").click()
    check(page, width)
    screenshot(page, f"settings-{size}-{scheme}")


@pytest.mark.parametrize("size", SIZES)
def test_while_answers_come(size, open_page, markup_server, screenshot):
    width, height = SIZES[size]
    page = open_page(f"{markup_server.url}/#max_tokens=60000", width=width, height=height)
    send(page)
    expect(answer(page, "A").locator(".text")).not_to_be_empty()
    screenshot(page, f"streaming-{size}")
    page.keyboard.press("Escape")
    wait_for_answers(page)
    check(page, width)


@pytest.mark.parametrize("size", SIZES)
def test_many_dimensions_with_long_names(size, open_page, start, tmp_path, screenshot):
    width, height = SIZES[size]
    server = start("--model", DEMO_MODEL, "--adapter", write_adapter(tmp_path / "adapter", LONG), "--name", "long" * 40)
    page = open_page(server.url, width=width, height=height)
    slider(page, "A", LONG[-1]).press("PageUp")
    check(page, width)
    screenshot(page, f"many-{size}")
    ask(page, "word" * 60)
    expect(page.get_by_role("article")).to_have_count(2)
    check(page, width)
    screenshot(page, f"many-answers-{size}")


@pytest.mark.parametrize("size", SIZES)
def test_asking_for_a_key(size, open_page, start, screenshot):
    width, height = SIZES[size]
    page = open_page(start("--model", DEMO_MODEL, "--api-key", "k").url, width=width, height=height, expected=["401"])
    page.get_by_label("API key").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    check(page, width)
    screenshot(page, f"key-{size}")


def test_everything_is_reached_with_the_tab_key(open_page, server):
    page = open_page(server.url)
    page.get_by_role("button", name="Settings").focus()
    seen = []
    for _ in range(24):
        page.keyboard.press("Tab")
        name, outline = page.evaluate("""() => {
          const element = document.activeElement;
          const shown = element.id === 'prompt' ? element.closest('.box') : element;
          const {outlineStyle, boxShadow} = getComputedStyle(shown);
          return [element.id || element.getAttribute('aria-label'), `${outlineStyle} ${boxShadow}`];
        }""")
        seen.append(name)
        assert outline != "none none", f"the focus on {name} cannot be seen"
        if name == "send":
            break
    sliders = [f"weight-{pane}-{at}" for pane in "ab" for at in range(len(DIMENSIONS))]
    assert [name for name in seen if name.startswith("weight-")] == sliders
    assert {"link-button", "new-button", "Preset of pane A", "conversation", "prompt", "send"} <= set(seen)
