"""The documentation's site: what its build makes by itself, and its figures."""

import sys

import pytest
from fences import ROOT
from helpers import tiny_checkpoint

from atgnn.model.config import preset


@pytest.fixture
def hooks(monkeypatch):
    """The site's own part of the build."""
    pytest.importorskip("mkdocs", reason='pip install ".[docs]"')
    pytest.importorskip("latex2mathml", reason='pip install ".[docs]"')
    monkeypatch.syspath_prepend(ROOT / "docs" / "site")
    yield pytest.importorskip("hooks")
    sys.modules.pop("hooks")


class Named:
    """As much of a page as the hooks look at."""

    def __init__(self, uri):
        self.file, self.src_uri = self, uri


def test_links_out_of_docs_lead_into_the_site(hooks):
    text = "[a](../benchmarks/README.md#x) [b](data.md) [c](../src/atgnn/audio.py) [d](../none.md)"
    moved = hooks.on_page_markdown(text, Named("numbers.md"), None, None)
    assert "[a](repository/benchmarks/README.md#x)" in moved
    assert "[b](data.md)" in moved
    assert "[c](repository/src/atgnn/audio.py.md)" in moved
    assert "[d](../none.md)" in moved  # for mkdocs to refuse
    back = hooks.on_page_markdown(
        "[b](../docs/beyond.md)", Named("repository/benchmarks/README.md"), None, None
    )
    assert back == "[b](../../beyond.md)"


def test_formulas_are_set_and_code_is_left_alone(hooks):
    code = "before\n\n```sh\n$$ x $$\n[a](../LICENSE)\n```\n"
    text = code + "[b](../LICENSE)\n$$\nx_i \\leftarrow 1\n$$\n"
    done = hooks.on_page_markdown(text, Named("model.md"), None, None)
    assert "```sh\n$$ x $$\n[a](../LICENSE)\n```" in done
    assert "[b](repository/LICENSE.md)" in done
    assert "<math" in done
    assert "leftarrow" not in done


def test_every_public_module_has_a_page(hooks):
    rooms = hooks.rooms()
    assert {"audio", "data", "events", "graph", "model", "tagger", "training"} <= set(rooms)
    assert "cli" not in rooms
    assert "atgnn.model.patch" in rooms["model"]


@pytest.mark.parametrize(
    ("html", "fetched"),
    [
        ('<script src="https://cdn.example/x.js"></script>', True),
        ('<link rel="stylesheet" href="https://fonts.example/css">', True),
        ('<link href="//fonts.example" rel="preconnect">', True),
        ('<img alt="" src="http://example.org/a.png">', True),
        ('<a href="https://example.org">there</a><img src="a.png"><script src="x.js">', False),
    ],
)
def test_what_would_be_fetched_is_seen(hooks, html, fetched, caplog):
    assert hooks.on_post_page(html, Named("index.md"), None) == html
    assert bool(caplog.records) == fetched


def test_figures_are_drawn_by_the_modules(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(ROOT / "docs")
    import figures

    checkpoint = tiny_checkpoint()
    figures.layout(preset("mini", num_labels=7), 256, tmp_path / "model.svg")
    figures.blocks(preset("mini", num_labels=7), tmp_path / "blocks.svg")
    figures.neighbours(checkpoint, tmp_path / "neighbours.png")
    figures.labels(checkpoint, tmp_path / "labels.svg")
    figures.positions(8, 16, 2, 16, tmp_path / "position.png")
    drawn = (tmp_path / "model.svg").read_text()
    assert "16 x 32, C = 48" in drawn  # 128 bins and 256 frames, eight to a node
    assert "3 x PatchBlock" in drawn
    steps = (tmp_path / "blocks.svg").read_text()
    assert "192 to 768, 768 to 192" in steps  # the last stage's feed-forward network
    assert "7 x 7" in steps  # the label adjacency
    assert "Siren" in (tmp_path / "labels.svg").read_text()
    assert (tmp_path / "neighbours.png").read_bytes()[1:4] == b"PNG"
    assert (tmp_path / "position.png").stat().st_size > 1000


def test_figures_in_the_documentation_are_small():
    drawn = list((ROOT / "docs" / "figures").iterdir())
    assert drawn
    assert all(path.stat().st_size < 150_000 for path in drawn)
