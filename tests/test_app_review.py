"""Review on the page: what is judged is on record, and the label learns from it."""

import pytest
from helpers import tiny_checkpoint
from test_app import CONTRAST, browser  # noqa: F401
from test_learn import few_sounds_by_rule  # noqa: F401
from test_review import pack, place, recordings, session  # noqa: F401
from typer.testing import CliRunner

from atgnn.app import AppSettings, Review, serve
from atgnn.app.reviewing import _ReviewDesk
from atgnn.cli import app
from atgnn.packs import LabelPack
from atgnn.tagger import Tagger


def test_a_round_of_answers(place, session, pack):  # noqa: F811
    desk = _ReviewDesk(Review(session, recordings(place), "best", 3))
    state, shown = desk.begin()
    assert "Do you hear whistle?" in shown
    assert "1 of 3" in shown
    same, shown = desk.judged(state, " ", "accept")
    assert "say who judges" in shown
    assert same is state
    state, shown = desk.judged(state, "Ada", "accept")
    assert "2 of 3" in shown
    assert "data:image/png;base64" in shown
    assert 'aria-valuenow="1" aria-valuemax="3"' in shown
    state, _ = desk.judged(state, "Ada", "reject")
    state, shown = desk.judged(state, "Ada", "skip")
    assert "is waiting" in shown
    assert "2 answers to learn from" in shown
    for _ in range(2):  # the skipped one, and the rejected one
        state, shown = desk.judged(state, "Ada", "back")
    assert "2 of 3" in shown
    verdicts = [(one.verdict, one.who) for one in session.store.standing("whistle").values()]
    assert verdicts == [("accept", "Ada")]
    state, shown = desk.learn(state)
    assert "Learned." in shown
    assert LabelPack.read(pack).labels[0].reviews[-1].accepted == 1


def test_a_mistake_of_ours_is_one_sentence(place, session, monkeypatch):  # noqa: F811
    desk = _ReviewDesk(Review(session, recordings(place)))
    state, _ = desk.begin()

    def broken():
        raise RuntimeError("secret")

    monkeypatch.setattr(session, "refit", broken)
    same, shown = desk.learn(state)
    assert "Something went wrong" in shown
    assert "secret" not in shown
    assert same is state


def test_recordings_that_cannot_be_heard_are_named(place, session, tmp_path):  # noqa: F811
    (tmp_path / "<b>bad.wav").write_text("no sound")
    sounds = [str(tmp_path / "<b>bad.wav"), *recordings(place)]
    state, shown = _ReviewDesk(Review(session, sounds)).begin()
    assert state.segments
    assert "1 recording cannot be heard: &lt;b&gt;bad.wav" in shown
    assert str(tmp_path) not in shown


def test_sounds_without_a_pack_are_refused():
    result = CliRunner().invoke(app, ["app", "sounds/"])
    assert result.exit_code == 2
    assert "give --pack" in result.output
    alone = CliRunner().invoke(app, ["app", "--pack", "cow.pack", "--label", "cow"])
    assert alone.exit_code == 2
    assert "give the recordings to review" in alone.output


@pytest.mark.slow
def test_a_person_judges_in_a_browser(browser, place, session, pack):  # noqa: F811
    tagger = Tagger(tiny_checkpoint(), "cpu")
    review = Review(session, recordings(place), "best", 2)
    with serve(tagger, AppSettings(), review=review) as served:
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.goto(served.url)
        page.get_by_role("tab", name="Review").click()
        page.get_by_text("1 of 2").wait_for()
        page.locator("#who textarea, #who input").fill("Ada")
        page.locator("#verdict-accept").click()
        page.get_by_text("2 of 2").wait_for()
        page.locator("#learn").click()
        page.get_by_text("Learned.").wait_for()
        page.close()
    (verdict,) = session.store.standing("whistle").values()
    assert (verdict.verdict, verdict.who) == ("accept", "Ada")
    assert LabelPack.read(pack).labels[0].reviews[-1].who == ("Ada",)


@pytest.mark.slow
def test_keys_judge_on_a_phone_s_width(browser, place, session, pack):  # noqa: F811
    tagger = Tagger(tiny_checkpoint(), "cpu")
    review = Review(session, recordings(place), "best", 3)
    with serve(tagger, AppSettings(), review=review) as served:
        page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
        page.set_default_timeout(60_000)
        page.goto(served.url)
        page.get_by_role("tab", name="Review").click()
        page.get_by_text("1 of 3").wait_for()
        who = page.locator("#who textarea, #who input")
        who.press_sequentially("Any Nay")  # typed, these letters judge nothing
        assert "1 of 3" in page.locator("#segment").inner_text()
        page.locator("#segment h2").click()
        for key, count in (("y", "2 of 3"), ("n", "3 of 3"), ("b", "2 of 3"), ("s", "3 of 3")):
            page.keyboard.press(key)
            page.get_by_text(count).wait_for()
        playing = "document.querySelector('#segment audio').paused"
        before = page.evaluate(playing)
        page.keyboard.press("p")
        page.wait_for_function(f"{playing} !== {str(before).lower()}")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        boxes = [page.locator(f"#verdict-{one}").bounding_box() for one in ("accept", "back")]
        assert all(box["y"] + box["height"] <= 800 for box in boxes), "within reach of a thumb"
        assert page.evaluate(CONTRAST, ".judge h2, .judge .note, #verdicts button") > 4.5
        page.reload()
        page.get_by_role("tab", name="Review").click()
        page.get_by_text("1 of ").wait_for()
        page.wait_for_function(
            "document.querySelector('#who textarea, #who input').value === 'Any Nay'"
        )
        page.locator("#verdict-reject").click()
        page.get_by_text("2 of ").wait_for()
        page.close()
    verdicts = [(one.verdict, one.who) for one in session.store.standing("whistle").values()]
    assert verdicts == [("accept", "Any Nay"), ("reject", "Any Nay")]
