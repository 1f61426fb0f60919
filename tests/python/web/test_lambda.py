"""Sliders stay on the simplex, and the link holds every setting."""

import pytest
from actions import ask, copied_link, facts, fields, preset, slider, texts, weights
from models import DIMENSIONS
from playwright.sync_api import expect

HELPFULNESS, HONESTY, FOLLOWING, TRUTHFULNESS = DIMENSIONS
#: The link has six decimals.
ROUNDING = len(DIMENSIONS) * 0.5e-6


def check(page, pane, expected):
    for name, weight in expected.items():
        expect(slider(page, pane, name)).to_have_attribute("aria-valuetext", f"{weight:.2f}")
    found = weights(page, pane)
    assert sum(found.values()) == pytest.approx(1, abs=ROUNDING)
    assert found == pytest.approx(expected, abs=1e-6)


def test_keys_move_a_slider_and_the_others_keep_their_proportions(open_page, server):
    page = open_page(server.url)
    uniform = dict.fromkeys(DIMENSIONS, 0.25)
    check(page, "A", uniform)
    check(page, "B", {HELPFULNESS: 1, HONESTY: 0, FOLLOWING: 0, TRUTHFULNESS: 0})

    slider(page, "A", HONESTY).focus()
    for _ in range(15):
        page.keyboard.press("ArrowRight")
    check(page, "A", uniform | {HONESTY: 0.4, HELPFULNESS: 0.2, FOLLOWING: 0.2, TRUTHFULNESS: 0.2})
    slider(page, "A", HELPFULNESS).focus()
    page.keyboard.press("Home")
    check(page, "A", {HELPFULNESS: 0, HONESTY: 0.5, FOLLOWING: 0.25, TRUTHFULNESS: 0.25})
    slider(page, "A", TRUTHFULNESS).focus()
    page.keyboard.press("End")
    check(page, "A", {HELPFULNESS: 0, HONESTY: 0, FOLLOWING: 0, TRUTHFULNESS: 1})
    # The rest is 0: now it is shared equally.
    page.keyboard.press("ArrowLeft")
    check(page, "A", {HELPFULNESS: 0.01 / 3, HONESTY: 0.01 / 3, FOLLOWING: 0.01 / 3, TRUTHFULNESS: 0.99})
    # Pane B has kept its own.
    check(page, "B", {HELPFULNESS: 1, HONESTY: 0, FOLLOWING: 0, TRUTHFULNESS: 0})


def test_a_drag_to_the_end_and_back_changes_nothing(open_page, server):
    page = open_page(f"{server.url}/#a.{HELPFULNESS}=0.5&a.{HONESTY}=0.3&a.{FOLLOWING}=0.2")
    box = slider(page, "A", HELPFULNESS).bounding_box()
    middle = box["y"] + box["height"] / 2

    def move(share):
        page.mouse.move(box["x"] + 8 + share * (box["width"] - 16), middle, steps=5)

    move(0.5)
    page.mouse.down()
    move(1)
    expect(slider(page, "A", HELPFULNESS)).to_have_attribute("aria-valuetext", "1.00")
    expect(slider(page, "A", HONESTY)).to_have_attribute("aria-valuetext", "0.00")
    move(0.25)
    page.mouse.up()
    found = weights(page, "A")
    assert sum(found.values()) == pytest.approx(1, abs=ROUNDING)
    assert found[HELPFULNESS] == pytest.approx(0.25, abs=0.02)
    assert found[HONESTY] / found[FOLLOWING] == pytest.approx(1.5, abs=1e-4)
    assert found[TRUTHFULNESS] == 0


def test_presets(open_page, server):
    page = open_page(server.url)
    choice = page.get_by_label("Preset of pane A")
    preset(page, "A", f"Only {FOLLOWING}")
    check(page, "A", {HELPFULNESS: 0, HONESTY: 0, FOLLOWING: 1, TRUTHFULNESS: 0})
    preset(page, "A", "Uniform")
    check(page, "A", dict.fromkeys(DIMENSIONS, 0.25))
    slider(page, "A", HONESTY).press("ArrowRight")
    expect(choice).to_have_value("custom")


def test_a_link_holds_every_setting(open_page, server):
    page = open_page(server.url)
    slider(page, "A", HONESTY).press("PageUp")
    preset(page, "B", f"Only {TRUTHFULNESS}")
    page.get_by_role("button", name="Settings").click()
    system = 'Be brief & "kind".\nPlease = yes, 100 %.'
    values = {"Temperature": "0.35", "Top-p": "0.9", "Max tokens": "40", "Seed": "12", "System prompt": system}
    for label, value in values.items():
        page.get_by_label(label, exact=True).fill(value)
    link = copied_link(page)
    ask(page)
    before = texts(page)

    def check_restored(page):
        page.get_by_role("button", name="Settings").click()
        for label, value in values.items():
            expect(page.get_by_label(label, exact=True)).to_have_value(value)
        assert fields(copied_link(page)) == fields(link)
        ask(page)
        assert texts(page) == before, "the same settings, the same answers"
        assert "seed 12" in facts(page, "A")

    page.reload()
    check_restored(page)
    other = open_page(link)
    check_restored(other)

    # One pane is a setting too.
    other.get_by_label("Two panes").uncheck()
    other.reload()
    expect(other.get_by_role("region", name="Pane B", exact=True)).to_be_hidden()
    expect(other.get_by_role("region", name="Pane A", exact=True)).to_be_visible()


def test_what_a_link_cannot_set_is_named_and_left_out(open_page, server):
    fragment = f"a.{HONESTY}=0.5&a.{HELPFULNESS}=-1&a.<b>x</b>=1&temperature=warm&panes=3&seed=7"
    page = open_page(f"{server.url}/#{fragment}")
    expect(page.get_by_role("status")).to_contain_text(f"a.{HELPFULNESS}, a.<b>x</b>, temperature, panes")
    check(page, "A", {HELPFULNESS: 0, HONESTY: 1, FOLLOWING: 0, TRUTHFULNESS: 0})
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("Seed")).to_have_value("7")
    expect(page.get_by_label("Temperature")).to_have_value("0.7")
    # A link that is pasted over the address of an open page counts as well.
    page.evaluate(f"location.hash = 'a.{TRUTHFULNESS}=1&seed=8'")
    expect(page.get_by_label("Seed")).to_have_value("8")
    check(page, "A", {HELPFULNESS: 0, HONESTY: 0, FOLLOWING: 0, TRUTHFULNESS: 1})
