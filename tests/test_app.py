"""The page: what it says of a recording, and, in a real browser, what a person can do with it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import sound, tiny_checkpoint, write
from typer.testing import CliRunner

from atgnn import formats
from atgnn.app import AppSettings, hear, parts, serve
from atgnn.app import page as pages
from atgnn.app.hearing import ENDINGS, reasons, write_all
from atgnn.app.parts import found as shown
from atgnn.app.script import head
from atgnn.cli import app
from atgnn.errors import AudioError, ConfigError, MissingExtraError
from atgnn.events import EventSettings, timelines
from atgnn.tagger import Tagger

BROWSER = "/usr/bin/chromium"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return Tagger(tiny_checkpoint(), "cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("clip") / "a clip.wav", sound(5, seed=1))


# --- without a browser -----------------------------------------------------------------------


def test_tags_and_events_are_those_of_the_other_rooms(tagger, clip):
    heard = hear(tagger, str(clip), 60)
    assert heard.timeline.tags == tagger.tag(clip).tags
    (timeline,) = timelines(tagger, [clip], EventSettings())
    assert heard.timeline.events == timeline.events
    assert (heard.timeline.path, heard.timeline.duration) == ("a clip.wav", 5.0)


def test_reasons_are_under_the_name_that_it_came_with(tagger, clip):
    heard = hear(tagger, str(clip), 60)
    found = reasons(tagger, heard, "Rain")
    assert found.path == "a clip.wav"
    assert [one.label for one in found.evidence] == ["Rain"]


def test_files_of_each_form_can_be_read_again(tagger, clip, tmp_path):
    heard = hear(tagger, str(clip), 60)
    places = write_all(heard, tmp_path / "new", 8000)
    assert sorted(places) == sorted(formats.FORMS) == sorted(ENDINGS)
    for form, place in places.items():
        (back,) = formats.read(place, form)
        assert [event.label for event in back.events] == [e.label for e in heard.timeline.events]


def test_errors_name_the_file_as_its_sender_does(tagger, tmp_path):
    long, junk = write(tmp_path / "long.wav", sound(3)), tmp_path / "junk.wav"
    junk.write_bytes(bytes(range(256)) * 40)
    with pytest.raises(AudioError, match=r"^long\.wav: longer than the 2\.0 s that this page"):
        hear(tagger, str(long), 2)
    with pytest.raises(AudioError, match=r"^junk\.wav: ") as caught:
        hear(tagger, str(junk), 60)
    assert str(tmp_path) not in str(caught.value)
    assert "\n" not in str(caught.value)


def webm(path: Path, seconds: float) -> Path:
    """What a browser records: Opus in WebM, without a duration in its header."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format="webm", options={"live": "1"}) as container:
        stream = container.add_stream("libopus", rate=48_000, layout="mono")
        samples = (sound(seconds, 48_000) * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 48_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return path


def test_what_a_browser_records_is_heard_and_measured(tagger, tmp_path):
    path = webm(tmp_path / "audio.webm", 3)
    assert hear(tagger, str(path), 60).timeline.duration == pytest.approx(3, abs=0.1)
    with pytest.raises(AudioError, match="longer than the"):
        hear(tagger, str(path), 2)


def test_names_are_escaped(tagger, tmp_path):
    name = '<img src=x onerror="alert(1)">.wav'
    html = shown(hear(tagger, str(write(tmp_path / name, sound(2))), 60))
    assert "<img" not in html
    assert "&lt;img src=x" in html


def test_settings_are_checked_and_know_who_can_reach_the_page():
    assert AppSettings().private
    assert AppSettings.of(host="::1").private
    assert not AppSettings.of(host="0.0.0.0").private
    for most_mb in (0, float("inf")):
        with pytest.raises(ConfigError, match="most_mb"):
            AppSettings.of(most_mb=most_mb)


def test_the_command_refuses_wrong_settings_in_one_line():
    result = CliRunner().invoke(app, ["app", "--most-mb", "-1"])
    assert result.exit_code == 2
    assert result.output.count("\n") == 1


def test_without_the_extra_its_name_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingExtraError, match=r'pip install "\.\[app\]"'):
        pages.gradio()


def test_a_mistake_of_ours_is_one_sentence(tagger, clip, tmp_path, monkeypatch):
    pytest.importorskip("gradio")
    desk = pages._Desk(pages.gradio(), tagger, AppSettings(), tmp_path)
    heard = hear(tagger, str(clip), 60)

    def broken(*_, **__):
        raise RuntimeError("secret")

    monkeypatch.setattr(pages, "hear", broken)
    monkeypatch.setattr(pages, "reasons", broken)
    for said in (desk.heard(str(clip))[1], desk.asked(heard, False, "Rain")[0]):
        assert parts.OURS.split("'")[0] in said
        assert "secret" not in said


def test_a_recording_that_was_deleted_is_asked_for_again(tagger, tmp_path):
    path = write(tmp_path / "short.wav", sound(1))
    heard = hear(tagger, str(path), 60)
    path.unlink()
    with pytest.raises(AudioError, match=r"short\.wav: it was deleted.*send it again"):
        reasons(tagger, heard, "Rain")


def test_what_was_made_of_a_recording_goes_with_it(tagger, tmp_path):
    pytest.importorskip("gradio")
    desk = pages._Desk(pages.gradio(), tagger, AppSettings(keep_hours=1), tmp_path)
    old, new = desk._scratch(), desk._scratch()
    (old / "sound.html").write_text("its sound")
    os.utime(old, (0, 0))
    desk._scratch()
    assert (old.exists(), new.exists()) == (False, True)


# --- in a browser ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tagger):
    pytest.importorskip("gradio", reason="the page needs the extra app")
    with serve(tagger, AppSettings(most_mb=1.0, most_minutes=0.2)) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    if not os.path.exists(BROWSER):
        pytest.skip(f"no Chromium at {BROWSER}")
    driver = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    with driver.sync_playwright() as play:
        running = play.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def opened(browser, served):
    """Opens the page as a new visitor; every request that any of them makes is looked at."""
    visitors, asked = [], []

    def one(width: int = 1200, height: int = 900):
        context = browser.new_context(viewport={"width": width, "height": height})
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(served.url)
        page.locator("#sound input[type=file]").wait_for(state="attached")
        visitors.append(context)
        return page

    yield one
    for context in visitors:
        context.close()
    local = (served.url, "data:", "blob:", "about:")
    assert asked
    assert [url for url in asked if not url.startswith(local)] == []


def send(page, path: Path) -> None:
    page.set_input_files("#sound input[type=file]", path)


@pytest.mark.slow
def test_upload_tags_click_regions_download(opened, clip, tagger, tmp_path):
    page = opened()
    send(page, clip)
    tags = page.locator("#found .tags button")
    tags.first.wait_for()
    said = tags.evaluate_all("all => all.map(one => one.dataset.label)")
    assert said == [tag.label for tag in tagger.tag(clip).tags]
    tags.first.click()
    frame = page.frame_locator("iframe.because")
    frame.locator("rect.region").first.wait_for()
    assert frame.locator("audio.regions").count() == 1
    assert tags.first.get_attribute("aria-pressed") == "true"
    with page.expect_download() as coming:
        page.locator("#take-json").click()
    coming.value.save_as(tmp_path / "back.json")
    (back,) = formats.read(tmp_path / "back.json", "json")
    assert back.path == "a clip.wav"
    assert [tag.label for tag in back.tags] == said


@pytest.mark.slow
def test_with_the_keyboard_on_a_phone(opened, clip):
    page = opened(390, 800)
    send(page, clip)
    page.locator("#found .tags button").first.wait_for()
    page.locator("#found .tags button").first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.frame_locator("iframe.because").locator("rect.region").first.wait_for()
    second = page.locator("#found .tags button").nth(1)
    assert second.get_attribute("aria-pressed") == "true"
    wide = "document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(wide)
    inside = page.locator("iframe.because").element_handle().content_frame()
    assert inside.evaluate(wide)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["junk", "long"])
def test_a_wrong_file_gives_one_message(opened, tmp_path, kind):
    path = tmp_path / f"{kind}.wav"
    if kind == "junk":
        path.write_bytes(bytes(range(256)) * 40)
    else:
        write(path, sound(15))
    page = opened()
    send(page, path)
    message = page.locator("#found [role=alert]")
    message.wait_for()
    assert message.count() == 1
    assert message.inner_text().startswith(f"{kind}.wav: ")
    assert "Traceback" not in page.content()


@pytest.mark.slow
def test_an_upload_over_the_limit_is_refused_in_our_words(opened, clip, tmp_path):
    page = opened()
    send(page, write(tmp_path / "large.wav", np.tile(sound(5), 10)))  # 1.6 MB
    page.get_by_text("large.wav: larger than the 1 MB that this page takes").wait_for()
    assert page.get_by_text("exceed").count() == 0
    assert not page.locator("#sound .error").is_visible()
    assert page.locator("#found .tags").count() == 0
    assert "Traceback" not in page.content()


@pytest.mark.slow
def test_a_full_queue_says_so(browser, tagger, clip, monkeypatch):
    """One is served, one waits, the third is told to come later."""
    going_on, real = threading.Event(), pages.hear

    def slow(*given):
        going_on.wait(60)
        return real(*given)

    monkeypatch.setattr(pages, "hear", slow)
    with serve(tagger, AppSettings(queue=1)) as served:
        visitors = []
        try:
            for _ in range(3):
                page = browser.new_page()
                page.set_default_timeout(60_000)
                page.goto(served.url, wait_until="domcontentloaded")
                page.locator("#sound input[type=file]").wait_for(state="attached")
                visitors.append(page)
            for page in visitors:
                with page.expect_response("**/queue/join*"):
                    send(page, clip)
                page.wait_for_timeout(500)
            visitors[2].get_by_text("1 person is waiting already").wait_for()
            assert visitors[2].get_by_text("currently busy").count() == 0
            going_on.set()
            for page in visitors[:2]:
                page.locator("#found .tags button").first.wait_for()
        finally:
            going_on.set()
            for page in visitors:
                page.close()


#: Of the texts that a selector finds: the least contrast with what is behind them (WCAG 2).
CONTRAST = """
selector => {
  const parse = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => {
    const part = parse(colour).slice(0, 3).map(one => {
      const value = one / 255;
      return value <= .03928 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4;
    });
    return .2126 * part[0] + .7152 * part[1] + .0722 * part[2];
  };
  const behind = one => {
    for (let at = one; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if ((parse(colour)[3] ?? 1) > .99) return colour;
    }
    return getComputedStyle(document.documentElement).colorScheme.includes('dark')
      ? 'rgb(18, 18, 18)' : 'rgb(255, 255, 255)';
  };
  return Math.min(...[...document.querySelectorAll(selector)].map(one => {
    const [a, b] = [light(getComputedStyle(one).color), light(behind(one))];
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  }));
}
"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_the_light_and_in_the_dark(browser, served, clip, scheme):
    page = browser.new_context(color_scheme=scheme).new_page()
    page.set_default_timeout(60_000)
    page.goto(served.url)
    page.locator("#sound input[type=file]").wait_for(state="attached")
    send(page, clip)
    page.locator("#found .tags button").first.wait_for()
    page.locator("#found .tags button").first.click()
    frame = page.frame_locator("iframe.because")
    frame.locator("rect.region").first.wait_for()
    dark = page.evaluate("document.body.classList.contains('dark')")
    assert dark == (scheme == "dark")
    words = (
        ".intro h1, .intro p, #found .file b, #found .file span, #found button span, #take button"
    )
    assert page.evaluate(CONTRAST, words) > 4.5
    inside = page.locator("iframe.because").element_handle().content_frame()
    assert inside.evaluate(CONTRAST, "h1, h2, h3, p, button, td, th, figcaption") > 4.5
    page.context.close()


def test_other_machines_are_let_in_where_they_are_meant_to_be(tagger):
    """127.0.0.2 is this machine under another address."""
    pytest.importorskip("gradio", reason="the page needs the extra app")
    httpx = pytest.importorskip("httpx")
    for host, reached in (("127.0.0.1", False), ("0.0.0.0", True)):
        with serve(tagger, AppSettings(host=host)) as served:
            port = int(served.url.rstrip("/").rpartition(":")[2])
            there = f"http://127.0.0.2:{port}/"
            if reached:
                answer = httpx.get(there)
                assert answer.status_code == 200
                assert "default-src 'self'" in answer.headers["content-security-policy"]
                assert "It goes to this server only." in answer.text
            else:
                assert "It stays on this machine." in httpx.get(served.url).text
                with pytest.raises(httpx.ConnectError):
                    httpx.get(there)


def test_the_page_answers_to_the_names_that_it_was_told_of(tagger):
    """Else a site could have its own name resolve to 127.0.0.1 and read what visitors send."""
    pytest.importorskip("gradio", reason="the page needs the extra app")
    httpx = pytest.importorskip("httpx")

    def answers(served, name):
        return httpx.get(served.url, headers={"host": name}).status_code

    with serve(tagger, AppSettings(allow_hosts=["Sounds.example.org"])) as served:
        for name in ("localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:7860", "sounds.example.org"):
            assert answers(served, name) == 200
        for name in ("evil.example.org", "127.0.0.1.evil.org", "[::2]:7860", ""):
            assert answers(served, name) in (400, 421)
        refusal = httpx.get(served.url, headers={"host": "evil.example.org"})
        assert "--allow-host NAME" in refusal.text
        assert refusal.text.count("\n") == 1
        sent = httpx.post(f"{served.url}gradio_api/upload", headers={"host": "evil.example.org"})
        assert sent.status_code == 421


def test_names_to_answer_to():
    assert AppSettings(host="0.0.0.0").hosts is None
    assert AppSettings(host="0.0.0.0", allow_hosts=["a.org"]).hosts >= {"a.org", "localhost"}
    assert AppSettings(host="127.0.0.2").hosts == {"localhost", "127.0.0.1", "::1", "127.0.0.2"}
    with pytest.raises(ConfigError, match="allow_hosts"):
        AppSettings.of(allow_hosts=["https://a.org"])


def test_an_address_of_ipv6_is_served(tagger):
    pytest.importorskip("gradio", reason="the page needs the extra app")
    httpx = pytest.importorskip("httpx")
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    with serve(tagger, AppSettings(host="::1")) as served:
        assert served.url.startswith("http://[::1]:")
        assert "It stays on this machine." in httpx.get(served.url).text


def test_an_address_of_another_machine_is_refused_in_one_line(tagger):
    pytest.importorskip("gradio", reason="the page needs the extra app")
    with pytest.raises(ConfigError, match=r"203\.0\.113\.1, .*give another --host") as caught:
        serve(tagger, AppSettings(host="203.0.113.1"))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_ctrl_c_ends_the_server(tmp_path):
    pytest.importorskip("gradio", reason="the page needs the extra app")
    tiny_checkpoint().save_pretrained(tmp_path / "model")
    command = [sys.executable, "-m", "atgnn", "app", "--model", str(tmp_path / "model")]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    line = process.stdout.readline()
    assert line.startswith("http://127.0.0.1:")
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error) == (130, "", "atgnn: stopped\n")


def test_words_of_ours_cannot_end_the_script_early():
    text = head(AppSettings(most_mb=2.5, queue=1))
    assert text.count("</script>") == 1
    assert "larger than the 2.5 MB" in text
    assert "1 person is waiting" in text


@pytest.mark.slow
def test_two_people_send_one_name_at_once(opened, tmp_path, tagger):
    clips = [write(tmp_path / str(i) / "same.wav", sound(3 + i, seed=i)) for i in (0, 1)]
    visitors = [opened(), opened()]
    for page, path in zip(visitors, clips, strict=True):
        send(page, path)
    for page, path, seconds in zip(visitors, clips, ("3.00 s", "4.00 s"), strict=True):
        page.locator("#found .tags button").first.wait_for()
        assert page.locator("#found .file").inner_text().split("\n")[0] == f"same.wav {seconds}"
        values = page.locator("#found .tags b").all_inner_texts()
        assert values == [f"{tag.score:.2f}" for tag in tagger.tag(path).tags]


@pytest.mark.slow
def test_a_recording_from_the_microphone(opened):
    page = opened()
    page.locator("#sound button[aria-label='Record audio']").click()
    page.locator("#sound button.record-button").click()
    page.wait_for_timeout(2000)
    page.locator("#sound button.stop-button").click()
    page.locator("#found .tags button").first.wait_for()


@pytest.mark.slow
def test_other_people_s_files_cannot_be_had(served):
    import httpx

    for path in ("/etc/passwd", str(Path(__file__)), shutil.which("python") or sys.executable):
        answer = httpx.get(f"{served.url}gradio_api/file={path}")
        assert answer.status_code == 403
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert threading.active_count() < 100
