"""Two panes answer one prompt at once; answers stop, fail and end without harm, and come again from a shell."""

import json
import subprocess

import pytest
from actions import NEVER_ENDS, PROMPT, answer, ask, copied, facts, preset, send, slider, text, texts, wait_for_answers
from models import DEMO_MODEL, DIMENSIONS, write_adapter
from playwright.sync_api import expect

#: Records when the text of each pane changes, and when what a screen reader says does.
RECORD = """() => {
  window.changes = {A: [], B: [], said: []};
  new MutationObserver((records) => {
    for (const {target} of records) {
      const element = target.nodeType === Node.TEXT_NODE ? target.parentElement : target;
      const pane = element?.closest('.text')?.closest('article')?.dataset.pane;
      if (pane) window.changes[pane.toUpperCase()].push(performance.now());
      if (element?.id.startsWith('announce-')) window.changes.said.push(element.textContent);
    }
  }).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""


def test_each_pane_follows_its_own_lambda(open_page, server):
    page = open_page(f"{server.url}/#seed=3&max_tokens=200")
    slider(page, "A", DIMENSIONS[1]).press("End")
    ask(page)
    first, second = texts(page)
    assert first and second and first != second


def test_both_panes_stream_at_once(open_page, markup_server):
    # So long that it takes many frames of the screen.
    page = open_page(f"{markup_server.url}/#max_tokens=1500")
    page.evaluate(RECORD)
    ask(page)
    changes = page.evaluate("window.changes")
    assert len(changes["A"]) > 3 and len(changes["B"]) > 3, "text came piece by piece"
    assert changes["A"][0] < changes["B"][-1] and changes["B"][0] < changes["A"][-1], "at the same time"
    # A screen reader says of each pane that it answers, and then the answer as a whole.
    assert len(changes["said"]) == 4
    assert all(any(text in said for said in changes["said"]) for text in texts(page))


def test_answers_are_the_servers_own(open_page, server):
    page = open_page(f"{server.url}/#seed=5&temperature=0.8&top_p=0.95&max_tokens=60")
    ask(page)
    for pane, weights in {"A": dict.fromkeys(DIMENSIONS, 0.25), "B": {DIMENSIONS[0]: 1}}.items():
        request = {
            "model": "demo",
            "messages": [{"role": "user", "content": PROMPT}],
            "lambda": weights,
            "seed": 5,
            "temperature": 0.8,
            "top_p": 0.95,
            "max_tokens": 60,
        }
        reply = server.ask("/v1/chat/completions", request)
        choice = reply["choices"][0]
        assert text(page, pane) == choice["message"]["content"]
        assert f"{reply['usage']['completion_tokens']} token" in facts(page, pane)
        # A text that comes as one piece has no rate.
        assert "tokens/s" in facts(page, pane) or reply["usage"]["completion_tokens"] < 3
        assert "seed 5" in facts(page, pane)
        assert f"finish: {choice['finish_reason']}" in facts(page, pane)
    expect(answer(page, "A")).to_contain_text("uniform, 0.25 each")
    expect(answer(page, "B")).to_contain_text(f"{DIMENSIONS[0]} 1.00")


def test_one_lambda_and_one_seed_give_one_text(open_page, server):
    page = open_page(server.url)
    preset(page, "B", "Uniform")
    ask(page)
    assert text(page, "A") == text(page, "B") != ""
    seed = facts(page, "A").split("seed ")[1]
    assert facts(page, "B").endswith(f"seed {seed}")
    # Without a seed of one's own, each prompt has another.
    ask(page)
    assert not facts(page, "A").endswith(f"seed {seed}")


def test_a_conversation_goes_on_in_each_pane(open_page, server):
    page = open_page(f"{server.url}/#seed=1&max_tokens=30&system=Be+brief.")
    bodies = []
    page.on("request", lambda request: bodies.append(json.loads(request.post_data)) if request.post_data else None)
    ask(page)
    said = texts(page)
    ask(page, "And the otter?")
    for pane, body in enumerate(bodies[2:]):
        assert body["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": PROMPT},
            {"role": "assistant", "content": said[pane]},
            {"role": "user", "content": "And the otter?"},
        ]
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_role("article")).to_have_count(0)
    ask(page, "And the owl?")
    assert [message["role"] for message in bodies[-1]["messages"]] == ["system", "user"]


@pytest.mark.parametrize("way", ["Escape", "button"])
def test_stop(way, open_page, markup_server):
    abandoned = markup_server.metric("lambda_dpo_texts_abandoned_total")
    page = open_page(markup_server.url + "/" + NEVER_ENDS)
    send(page)
    expect(answer(page, "A").locator(".text")).not_to_be_empty()
    expect(answer(page, "B").locator(".text")).not_to_be_empty()
    if way == "Escape":
        page.keyboard.press("Escape")
    else:
        page.get_by_role("button", name="Stop").click()
    wait_for_answers(page)
    before = texts(page)
    assert all("stopped" in facts(page, pane) for pane in "AB")
    expect(page.get_by_label("Your message")).to_be_focused()
    page.wait_for_timeout(300)
    assert texts(page) == before, "nothing more comes"
    # Both rows are free again.
    markup_server.wait_until_idle()
    assert markup_server.metric("lambda_dpo_texts_abandoned_total") == abandoned + 2
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Max tokens").fill("3")
    ask(page, "And now?")
    assert "3 tokens" in facts(page, "A") and "finish: length" in facts(page, "A")


def test_a_new_chat_stops_what_is_running(open_page, markup_server):
    page = open_page(markup_server.url + "/" + NEVER_ENDS)
    send(page)
    expect(answer(page, "A").locator(".text")).not_to_be_empty()
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
    expect(page.get_by_role("article")).to_have_count(0)
    markup_server.wait_until_idle()


@pytest.mark.parametrize("pane", ["A", "B"])
def test_a_copied_command_gives_the_same_answer(pane, open_page, server):
    page = open_page(f"{server.url}/#seed=11&max_tokens=50&system=It's+%22quiet%22.")
    slider(page, "A", DIMENSIONS[2]).press("PageUp")
    ask(page, "First the owl.")
    page.get_by_label("Your message").fill('It\'s "$HOME" `date` \\n !')
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("and a second line: é λ")
    page.keyboard.press("Enter")
    wait_for_answers(page)
    assert page.locator(".prompt").last.text_content() == 'It\'s "$HOME" `date` \\n !\nand a second line: é λ'
    command = copied(page, answer(page, pane).get_by_role("button", name=f"Copy answer {pane} as curl"))
    reply = subprocess.run(["bash", "-c", command], check=True, capture_output=True, timeout=60).stdout
    assert json.loads(reply)["choices"][0]["message"]["content"] == text(page, pane)
    assert json.loads(reply)["lambda"][DIMENSIONS[2]] > 0 or pane == "B"


def test_one_pane_is_enough_for_one_dimension(open_page, start, tmp_path):
    server = start("--model", DEMO_MODEL, "--adapter", write_adapter(tmp_path / "adapter", ["only"]))
    page = open_page(server.url)
    expect(slider(page, "A", "only")).to_be_disabled()
    expect(slider(page, "A", "only")).to_have_attribute("aria-valuetext", "1.00")
    expect(page.get_by_role("region", name="Pane B", exact=True)).to_be_hidden()
    ask(page)
    assert text(page, "A")
