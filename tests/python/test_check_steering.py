"""The check of a control report finds the promises that a report breaks."""

import copy
import sys

from written_models import ROOT

sys.path.insert(0, str(ROOT / "ci"))
from check_steering import broken_promises  # noqa: E402


def report(first, second):
    """Report of two dimensions over three λ each, which share the middle one; scores and ratings over their own λ."""
    # Points: the middle, a = 0 (b = 1), a = 1 (b = 0).
    points = [
        {
            "generated": {"score/a": first[at], "score/b": second[2 - at]},
            "held_out": {"expected_rating/a": first[at], "expected_rating/b": second[2 - at]},
        }
        for at in (1, 0, 2)
    ]
    return {"dimensions": ["a", "b"], "curves": [[1, 0, 2], [2, 0, 1]], "points": points}


SPECIALISTS = report([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])


def test_a_report_that_reaches_as_far_as_specialists_keeps_its_promises():
    assert broken_promises(SPECIALISTS, SPECIALISTS) == []
    assert broken_promises(report([1.0, 2.0, 2.98], [1.0, 2.0, 2.98]), SPECIALISTS) == []


def test_each_promise_can_be_broken():
    def only(sentences):
        (sentence,) = sentences
        return sentence

    dips = copy.deepcopy(SPECIALISTS)
    dips["points"][0]["held_out"]["expected_rating/b"] = 3.5
    assert only(broken_promises(dips, SPECIALISTS)).startswith("expected_rating/b does not rise throughout")
    weak = report([1.0, 1.4, 1.9], [1.0, 2.2, 4.2])
    assert only(broken_promises(weak, SPECIALISTS)) == "a reaches 45% of its specialist's range"
    near = report([1.0, 2.0, 2.9], [1.0, 2.0, 2.9])
    assert only(broken_promises(near, SPECIALISTS)) == "the mean range 1.900 is below the soup's 2.000"
    low = report([1.0, 1.5, 2.4], [1.0, 1.5, 2.4])
    assert "the mean range 1.400 is below 80 % of the specialists' 2.000" in broken_promises(low, SPECIALISTS)
    flat = report([2.0, 2.0, 2.0], [2.0, 2.0, 2.0])
    assert len(broken_promises(flat, SPECIALISTS)) == 4 + 2 + 2
