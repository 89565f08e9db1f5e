"""Explanations: exact where they can be, honest where there is nothing to say."""

import io
import json
import math
import shutil
import subprocess
import xml.dom.minidom
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from helpers import LABELS, RATE, sound, tiny_checkpoint, write
from typer.testing import CliRunner

from atgnn.audio import flac
from atgnn.baselines.efficientnet import EfficientNetLite, EfficientNetLiteConfig
from atgnn.checkpoint import Calibration, Checkpoint
from atgnn.cli import app
from atgnn.errors import AtgnnError, AudioError, ConfigError, LabelError
from atgnn.explain import Region, Window, explain, figure, sound_of, to_html
from atgnn.explain.asking import decision_limit
from atgnn.explain.contributions import by_last_stage, by_removal, edge_weights, evidence, finer
from atgnn.explain.examine import Examiner
from atgnn.explain.grid import Grid
from atgnn.explain.picture import png
from atgnn.explain.regions import boxes, regions_of, strongest
from atgnn.explain.sufficient import Search, smallest_set
from atgnn.frontend import FrontEndConfig
from atgnn.labels import Label, Vocabulary
from atgnn.model import ATGNN
from atgnn.model.beside import LabelsBeside, NewLabels
from atgnn.model.geometry import NodePlaces
from atgnn.packs import LabelPack, PackedLabel, model_digest
from atgnn.tagger import Tagger


@pytest.fixture(scope="module")
def tagger():
    return Tagger(tiny_checkpoint(), "cpu")


def spectrogram(checkpoint, samples):
    return checkpoint.make_front_end()(torch.from_numpy(samples)[None])[0]


@pytest.fixture(scope="module")
def examination():
    checkpoint = tiny_checkpoint()
    checkpoint.model.eval()
    return Examiner(checkpoint).examine(spectrogram(checkpoint, sound(2)))


# ------------------------------------------------------------------ edges


def test_winners_rebuild_what_labels_drew_and_so_their_scores(examination, monkeypatch):
    model = examination.examiner.model
    blocks, _, log_odds = examination.drawn(0)
    channels = torch.arange(blocks[0].patches.shape[1])
    rebuilt = {}
    for block in blocks:
        rows = [
            block.patches[block.winners(row), torch.arange(block.patches.shape[1])]
            for row in range(len(LABELS))
        ]
        rebuilt[block.block] = torch.stack(rows)[None]
        assert torch.equal(rebuilt[block.block], block.extremum)
    graphs = [one.plg for level in model.label_branch.levels for one in level.blocks]
    for number, graph in enumerate(graphs):
        monkeypatch.setattr(graph, "drawn", lambda *_, n=number: (rebuilt[n], None))
    with torch.no_grad():
        again = model(examination.mel)
    assert torch.equal(again, log_odds)
    assert len(channels) == 16


def test_edges_share_out_channels_and_effects(examination):
    for block in edge_weights(examination, 2):
        assert block.channels.sum() == pytest.approx(1, abs=1e-6)
        assert len(set(block.patches.tolist())) == len(block.patches) <= 3  # k_plg
        drawn, gradient = block.drawn, None
        blocks, row, log_odds = examination.drawn(2)
        extrema = [one.extremum for one in blocks]
        gradient = torch.autograd.grad(log_odds[0, 2], extrema)[drawn.block][0, row]
        change = drawn.extremum.detach()[0, row] - drawn.patches.mean(0)
        assert block.effects.sum() == pytest.approx(float(gradient @ change), abs=1e-5)


# ------------------------------------------------------------------ nodes


def test_the_last_stage_shares_out_a_change_that_is_linear(examination):
    """A node that goes a little way to the mean takes that share of what it gave with it."""
    given = by_last_stage(examination, 1)
    rows, columns = examination.stages()[-1][-1].x.shape[1:3]
    assert given.shape == (rows, columns)
    stages = examination.stages()
    x = stages[-1][-1].x
    model = examination.examiner.model
    with torch.no_grad():
        step = 1e-3
        node = np.unravel_index(np.abs(given).argmax(), given.shape)
        moved = x.clone()
        moved[0, node[0], node[1]] += step * (x.mean((1, 2))[0] - x[0, node[0], node[1]])
        end = [*stages[-1][:-1], stages[-1][-1].with_features(moved)]
        change = model.scored([*stages[:-1], end]) - model.scored(stages)
    assert float(change[0, 1]) == pytest.approx(-step * given[node], rel=0.05)


def test_a_later_stage_s_nodes_stand_for_the_nearest_of_the_first():
    assert finer(np.array([[1.0, 2.0, 3.0]]), (2, 6)).tolist() == [[1, 2, 2, 3, 3, 3]] * 2
    assert finer(np.eye(2), (2, 2)).tolist() == np.eye(2).tolist()


def test_evidence_is_where_both_views_agree(examination):
    removed = by_removal(examination)
    last = finer(by_last_stage(examination, 1), examination.shape)
    found = evidence(examination, 1, removed)
    assert (found >= 0).all()
    assert np.array_equal(found > 0, (removed[..., 1] > 0) & (last > 0))


def test_removal_finds_the_nodes_that_a_score_rests_on():
    """Of a network that counts nodes by known weights."""
    weights = np.zeros((6, 20))
    weights[2:4, 12:15] = 1.0
    log_odds = lambda kept: torch.from_numpy((kept.numpy() * weights).sum((1, 2)))[:, None]  # noqa: E731
    examination = SimpleNamespace(
        shape=weights.shape,
        logits=torch.tensor([weights.sum()]),
        log_odds=log_odds,
        examiner=SimpleNamespace(checkpoint=SimpleNamespace(log_odds=lambda logits: logits)),
    )
    given = by_removal(examination, 256)[..., 0]
    assert given.shape == weights.shape
    assert np.unravel_index(given.argmax(), given.shape) == (3, 13) or given[2:4, 12:15].min() > 0
    assert given[2:4, 12:15].mean() > 5 * given[weights == 0].mean()
    assert given[:, :8].max() == 0


def test_removal_is_what_the_network_loses(examination):
    rows, columns = examination.shape
    given = by_removal(examination, rows * columns)  # blocks of 2 x 2, one apart
    total = torch.zeros(len(LABELS), dtype=torch.double)
    corner = [(0, 0), (0, 1), (1, 0), (1, 1)]  # the blocks that hold node (0, 0), cut at the edge
    for bottom, right in corner:
        kept = torch.ones(1, rows, columns, dtype=torch.bool)
        kept[0, : bottom + 1, : right + 1] = False
        total += (examination.logits - examination.log_odds(kept)[0]).double()
    np.testing.assert_allclose(given[0, 0], total.numpy() / 4, atol=1e-4)


# ------------------------------------------------------------------ labels


def test_removing_a_label_node_is_a_model_without_that_label(examination):
    checkpoint = examination.examiner.checkpoint
    full = checkpoint.model
    for removed in (0, 3):
        rest = [label for label in range(len(LABELS)) if label != removed]
        smaller = ATGNN(full.config.replace(num_labels=len(rest))).eval()
        state = full.state_dict()
        for name, value in state.items():
            if name in ATGNN.by_label:
                state[name] = value[rest]
            elif name.endswith("adjacency"):
                state[name] = value[rest][:, rest]
        smaller.load_state_dict(state)
        with torch.no_grad():
            expected = smaller(examination.mel)[0]
        found = examination.without_labels([removed])[0]
        torch.testing.assert_close(found[rest], expected, rtol=1e-4, atol=1e-4)
        effects = examination.influences[removed]
        np.testing.assert_allclose(
            effects[rest], (examination.logits[rest] - expected).numpy(), atol=1e-4
        )


def test_labels_beside_a_model_are_explained_too():
    checkpoint = tiny_checkpoint()
    new = NewLabels(checkpoint.model.config, 2)
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.normal_(std=0.3)
    names = Vocabulary.from_names((*LABELS, "My kettle", "My door"))
    beside = Checkpoint(
        LabelsBeside(checkpoint.model, new), checkpoint.front_end, names, window_seconds=2.0
    )
    found = explain(Tagger(beside, "cpu"), (sound(2), RATE), ["My door", "Rain"], search=False)
    assert len(found["My door"].edges) == len(found["Rain"].edges) > 0
    assert found["My door"].from_labels is None
    assert found["Rain"].from_labels is not None
    assert {one.label for one in found["My door"].influences} == set(LABELS)


# ------------------------------------------------------------------ sufficient sets


@pytest.mark.parametrize("size", [1, 3, 9])
def test_the_search_finds_what_is_needed(size):
    random = np.random.default_rng(size)
    needed = np.zeros((5, 16), dtype=bool)
    needed.ravel()[random.choice(needed.size, size, replace=False)] = True
    judge = lambda sets: (sets & needed).sum((1, 2)) - size + 0.5  # noqa: E731
    search = Search(judge, needed.shape, 0.0)
    guess = needed + random.normal(0, 0.6, needed.shape)
    kept = smallest_set(search, np.argsort(-guess.ravel()))
    assert np.array_equal(kept, needed)


def test_a_search_that_misleading_weights_begin_still_holds():
    needed = np.zeros((5, 16), dtype=bool)
    needed[4, 15] = needed[0, 3] = True
    search = Search(lambda sets: (sets & needed).sum((1, 2)) - 1.5, needed.shape, 0.0)
    kept = smallest_set(search, np.argsort(needed.ravel(), kind="stable"))
    assert search.stands([np.flatnonzero(kept)]).all()
    assert needed[kept].sum() == 2


def test_the_decision_stands_with_all_other_nodes_removed(tagger):
    found = explain(tagger, (sound(2), RATE), list(LABELS))
    examiner = Examiner(tagger.checkpoint)
    examination = examiner.examine(spectrogram(tagger.checkpoint, sound(2)))
    sought = [one for one in found.evidence if one.sufficient is not None]
    assert sought
    for one in sought:
        enough = one.sufficient
        assert 0 < enough.nodes <= enough.of
        assert enough.score >= enough.limit * (1 - 1e-4)
        kept = cells_of(examination, enough.regions)
        assert kept.sum() == enough.nodes
        label = LABELS.index(one.label)
        alone = examination.log_odds(torch.from_numpy(kept)[None])[0, label].sigmoid()
        assert float(alone) == pytest.approx(enough.score, abs=1e-4)
        rest = examination.log_odds(torch.from_numpy(~kept)[None])[0, label].sigmoid()
        assert float(rest) == pytest.approx(enough.without, abs=1e-4)


def cells_of(examination, regions):
    """The nodes whose middles lie in regions."""
    places = NodePlaces(
        examination.examiner.model.config, examination.examiner.checkpoint.front_end, 0
    )
    grid = Grid(places, examination.shape[1], 0.0, 2.0)
    middles = (grid.times[1:] + grid.times[:-1]) / 2, (grid.bands[1:] + grid.bands[:-1]) / 2
    kept = np.zeros(examination.shape, dtype=bool)
    for region in regions:
        during = (middles[0] > region.start) & (middles[0] < region.end)
        within = (middles[1] > region.low_hz) & (middles[1] < region.high_hz)
        kept |= np.outer(within, during)
    return kept


def test_the_limit_is_the_threshold_where_a_label_reaches_it():
    checkpoint = tiny_checkpoint(thresholds=(0.3,) * len(LABELS))
    logits = torch.tensor([0.0, -3.0, 0.0, 0.0, 0.0])
    assert decision_limit(checkpoint, logits, 0) == 0.3
    assert decision_limit(checkpoint, logits, 1) == pytest.approx(torch.tensor(-3.0).sigmoid() / 2)
    assert decision_limit(tiny_checkpoint(), logits, 0) == 0.25


# ------------------------------------------------------------------ regions


def test_boxes_cover_the_chosen_cells_and_nothing_else():
    random = np.random.default_rng(0)
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        chosen = random.random((7, 23)) < share
        covered = np.zeros(chosen.shape, int)
        for row, row_end, column, column_end in boxes(chosen):
            covered[row:row_end, column:column_end] += 1
        assert np.array_equal(covered, chosen.astype(int))
    assert boxes(np.ones((4, 9), bool)) == [(0, 4, 0, 9)]


def test_regions_tile_the_plane_and_weights_add_up(examination):
    config = examination.examiner.checkpoint.front_end
    grid = Grid(
        NodePlaces(examination.examiner.model.config, config, 0), examination.shape[1], 4.0, 6.0
    )
    weights = np.random.default_rng(0).random(examination.shape)
    singles = [
        grid.box(r, r + 1, c, c + 1, 0)
        for r in range(grid.places.rows)
        for c in range(grid.columns)
    ]
    area = sum((one.end - one.start) * (one.high_hz - one.low_hz) for one in singles)
    low, high = config.band
    assert area == pytest.approx(2.0 * (high - low))
    assert min(one.start for one in singles) == 4.0
    assert max(one.end for one in singles) == 6.0
    (whole,) = regions_of(grid, weights, np.ones(weights.shape, bool))
    assert (whole.start, whole.end, whole.low_hz, whole.high_hz) == (4.0, 6.0, low, high)
    assert whole.weight == pytest.approx(1)
    some = regions_of(grid, weights, strongest(weights, 0.5))
    assert 0.5 <= sum(region.weight for region in some) < 0.55
    assert list(some) == sorted(some, key=lambda region: -region.weight)


def test_the_strongest_are_the_fewest_that_hold_the_share():
    weights = np.array([[4.0, -9.0, 1.0], [3.0, 0.0, 2.0]])
    assert strongest(weights, 0.7).tolist() == [[True, False, False], [True, False, False]]
    assert strongest(weights, 1.0).sum() == 4
    assert not strongest(-np.abs(weights), 0.8).any()


# ------------------------------------------------------------------ sound


def tones(*hertz, rate=RATE, seconds=2.0):
    time = np.arange(round(seconds * rate)) / rate
    return sum(0.2 * np.sin(2 * np.pi * f * time) for f in hertz).astype(np.float32)


def window_of(samples, rate=RATE, start=0.0):
    bands = FrontEndConfig(n_mels=32).bins_to_hertz(np.arange(33) - 0.5)
    return Window(start, start + len(samples) / rate, samples, rate, np.zeros((32, 9)), bands)


def test_the_sound_of_everything_is_the_sound():
    samples = sound(2)
    heard = sound_of(window_of(samples, start=3.0), [Region(3.0, 5.0, 20, 8000, 1)])
    np.testing.assert_allclose(heard, samples, atol=1e-5)
    assert not sound_of(window_of(samples), []).any()


def test_a_region_lets_its_time_and_band_through():
    window = window_of(tones(400, 3000), start=3.0)
    heard = sound_of(window, [Region(3.5, 4.0, 300, 600, 1)])
    inside, outside = heard[9000:15000], heard[20000:]
    expected = tones(400)[9000:15000]
    assert np.abs(inside - expected).max() < 0.02
    assert np.abs(outside).max() < 1e-3


def test_sounds_become_files_that_can_be_read(tmp_path):
    path = tmp_path / "x.flac"
    path.write_bytes(flac(np.array([0.0, 0.5, -2.0, 2.0], np.float32), 44_100))
    samples, rate = soundfile.read(path)
    assert rate == 44_100
    np.testing.assert_allclose(samples, [0, 0.5, -1, 1], atol=1e-3)


def test_the_picture_is_a_png_with_low_sounds_below():
    image = pytest.importorskip("matplotlib.image")
    import io

    picture = np.zeros((4, 6))
    picture[0] = 1.0  # lowest row loud
    shown = image.imread(io.BytesIO(png(picture)))
    assert shown.shape[:2] == (4, 6)
    assert shown[-1, :, :3].sum() > 3 * shown[0, :, :3].sum()
    png(np.full((3, 3), -15.9))  # silence


# ------------------------------------------------------------------ whole explanations


def test_an_explanation_says_what_the_tagger_says(tagger):
    samples = sound(2)
    found = explain(tagger, (samples, RATE), ["Rain", "Dog"], search=False)
    scores = tagger.scores((samples, RATE))
    for one in found.evidence:
        assert one.score == pytest.approx(scores[LABELS.index(one.label)], abs=1e-4)
        assert one.sufficient is None
        assert one.covered == pytest.approx(sum(region.weight for region in one.regions))
        assert 0.8 <= one.covered <= 1 + 1e-6
        assert len(one.influences) == len(LABELS) - 1
    assert [one.label for one in found.evidence] == ["Rain", "Dog"]
    with pytest.raises(KeyError):
        found["Siren"]
    again = json.loads(found.to_json())
    assert again == found.to_dict()
    assert again["evidence"][0]["regions"][0]["weight"] > 0
    assert "samples" not in json.dumps(again)


def test_each_label_is_explained_where_it_is_loudest(tagger):
    samples = np.concatenate([sound(2, seed=1), sound(2, seed=4), sound(1.5, seed=2)])
    scores = tagger.window_scores((samples, RATE))
    assert len(set(scores.argmax(0).tolist())) > 1, "windows too alike for this test"
    found = explain(tagger, (samples, RATE), list(LABELS), search=False)
    for one in found.evidence:
        window = found.windows[one.window]
        best = int(scores[:, LABELS.index(one.label)].argmax())
        assert window.start == pytest.approx(2.0 * best)
        assert one.score == pytest.approx(scores[best].max(initial=0, where=[
            name == one.label for name in LABELS]), abs=2e-3)  # fmt: skip
        assert all(window.start <= r.start < r.end <= window.end for r in one.regions)
    assert "3 windows" in found.notes[0]


def test_start_chooses_the_window(tagger):
    samples = np.concatenate([sound(2, seed=1), sound(2, seed=4)])
    found = explain(tagger, (samples, RATE), ["Rain"], start=1.25, search=False)
    (window,) = found.windows
    assert (window.start, window.end) == (1.25, 3.25)
    alone = tagger.scores((samples[20_000:52_000], RATE))[LABELS.index("Rain")]
    assert found["Rain"].score == pytest.approx(alone, abs=1e-3)
    np.testing.assert_array_equal(window.samples, samples[20_000:52_000])
    with pytest.raises(AudioError):
        explain(tagger, (samples, RATE), start=7.0)
    with pytest.raises(AudioError, match="0 or more"):
        explain(tagger, (samples, RATE), start=-1.0)
    with pytest.raises(AudioError, match="0 or more"):
        explain(tagger, (samples, RATE), start=math.nan)


def test_silence_has_no_regions_and_says_so(tagger):
    found = explain(tagger, (np.zeros(2 * RATE, np.float32), RATE), ["Dog"])
    assert found["Dog"].score == 0, "as the tagger has it"
    assert found["Dog"].regions == ()
    assert found["Dog"].sufficient is None
    assert "no regions are shown" in found.notes[-1]
    assert "no regions" in to_html(found)
    figure(found)


def test_without_a_tag_the_nearest_label_is_explained():
    tagger = Tagger(tiny_checkpoint(thresholds=(1.0,) * len(LABELS)), "cpu")
    found = explain(tagger, (sound(1), RATE), search=False)
    assert len(found.evidence) == 1
    assert "No label reached its threshold" in found.notes[0]


def test_a_model_without_label_nodes_says_that_it_has_no_edges():
    checkpoint = tiny_checkpoint()
    config = checkpoint.model.config.replace(label_blocks=())
    torch.manual_seed(0)
    plain = Checkpoint(
        ATGNN(config).eval(), checkpoint.front_end, checkpoint.vocabulary, window_seconds=2.0
    )
    found = explain(Tagger(plain, "cpu"), (sound(1), RATE), ["Dog"])
    assert found["Dog"].edges == found["Dog"].influences == ()
    assert found["Dog"].from_labels is None
    assert "no label nodes" in found.notes[0]
    assert "What other labels do" not in to_html(found)


def test_a_network_without_patch_nodes_is_refused():
    model = EfficientNetLite(EfficientNetLiteConfig(num_labels=len(LABELS), n_mels=32))
    checkpoint = Checkpoint(model, FrontEndConfig(n_mels=32), Vocabulary.from_names(LABELS))
    with pytest.raises(ConfigError, match="no patch nodes"):
        Examiner(checkpoint)


def test_an_unknown_label_is_named_with_the_nearest(tagger):
    with pytest.raises(LabelError, match="Siren"):
        explain(tagger, (sound(1), RATE), ["Sirene"])


def test_what_speaks_for_another_label_speaks_against_this_one():
    checkpoint = tiny_checkpoint(activation="softmax", calibration=Calibration(scale=2.0))
    logits = torch.randn(3, len(LABELS))
    scores = checkpoint.scores(logits)
    torch.testing.assert_close(scores, (2 * logits).softmax(-1))
    torch.testing.assert_close(checkpoint.log_odds(logits).sigmoid(), scores)
    plain = tiny_checkpoint(calibration=Calibration(scale=2.0, shift=0.5))
    torch.testing.assert_close(plain.log_odds(logits), 2 * logits + 0.5)
    torch.testing.assert_close(plain.scores(logits), (2 * logits + 0.5).sigmoid())
    found = explain(Tagger(checkpoint, "cpu"), (sound(2), RATE), ["Dog"])
    assert found["Dog"].score == pytest.approx(
        Tagger(checkpoint, "cpu").scores((sound(2), RATE))[2], abs=1e-4
    )


# ------------------------------------------------------------------ the page


class References(HTMLParser):
    """What a page refers to, its text, and its tags."""

    def __init__(self):
        super().__init__()
        self.places, self.tags, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.places += [value for name, value in attrs if name in ("src", "href", "data", "action")]

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_nothing_else_and_escapes_names(tmp_path):
    evil = "</script><script>alert('ä')</script> & \"x\""
    checkpoint = tiny_checkpoint((evil, "Bark", "Dog", "Rain", "Siren"))
    path = write(tmp_path / "<b>two & half.wav", sound(2))
    page = to_html(explain(Tagger(checkpoint, "cpu"), path, [evil, "Dog"]))
    found = References()
    found.feed(page)
    assert found.places
    assert all(place.startswith(("data:", "#")) for place in found.places)
    assert not any(tag in found.tags for tag in ("link", "iframe", "object", "embed", "form"))
    assert page.count("<script>") == 1
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page
    assert evil in found.text
    assert "<b>two & half.wav" in found.text
    assert found.tags.count("audio") == 1 + 2 * 2
    assert 'lang="en"' in page
    assert "width=device-width" in page


def test_the_page_has_a_tab_and_a_panel_for_each_label(tagger):
    page = to_html(explain(tagger, (sound(2), RATE), ["Dog", "Rain"], search=False))
    for number in (0, 1):
        assert f'id="tab-{number}" aria-controls="label-{number}"' in page
        assert f'role=tabpanel id="label-{number}" aria-labelledby="tab-{number}"' in page
    assert page.count('<use href="#picture-0"/>') == 2
    assert page.count('id="picture-0"') == 1  # the picture is there once
    assert "What is enough" not in page


# ------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return tiny_checkpoint().save_pretrained(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def run(model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def invoke(*args):
        return CliRunner().invoke(app, ["explain", *map(str, args), "--model", str(model_folder)])

    return invoke


@pytest.mark.parametrize(
    ("name", "head"),
    [("a.html", b"<!DOCTYPE"), ("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("A.JSON", b"{")],
)
def test_the_command_writes_what_the_ending_says(run, tmp_path, name, head):
    path = write(tmp_path / "sound.wav", sound(1))
    result = run(path, "--label", "Dog", "--out", name, "--quick")
    assert result.exit_code == 0, result.output
    assert (tmp_path / name).read_bytes().startswith(head)
    assert "Dog" in result.output
    assert "regions hold" in result.output


def test_the_command_names_the_page_after_the_sound_and_replaces_nothing(run, tmp_path):
    (tmp_path / "in").mkdir()
    path = write(tmp_path / "in" / "my sound.wav", sound(1))
    assert run(path, "--quick").exit_code == 0
    before = (tmp_path / "my sound.html").read_bytes()
    again = run(path, "--quick", "--label", "Rain")
    assert again.exit_code == 2
    assert "exists" in again.output
    assert (tmp_path / "my sound.html").read_bytes() == before
    assert run(path, "--quick", "--force").exit_code == 0


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--label", "Sirene"], 2, "Siren"),
        (["--out", "a.pdf"], 2, "ends in .html, .png, .svg, .json"),
        (["--start", "9"], 1, ""),
    ],
)
def test_bad_usage_is_one_line(run, tmp_path, args, code, words):
    path = write(tmp_path / "sound.wav", sound(1))
    result = run(path, "--quick", *args)
    assert result.exit_code == code, result.output
    assert words in result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.glob("*.html"))


def test_a_missing_sound_is_one_line(run):
    result = run("nothing.wav")
    assert result.exit_code in (1, 2)
    assert "nothing.wav" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("name", [".", "", "/", "x" * 300])
def test_what_is_no_name_of_a_sound_is_one_line(run, name):
    result = run(name, "--quick")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output


def test_a_recording_of_ultrasound_has_a_page(run, tmp_path):
    path = write(tmp_path / "bats.wav", sound(0.2, 1_000_000), 1_000_000)
    assert run(path, "--quick", "--label", "Dog").exit_code == 0
    kept = soundfile.info(io.BytesIO(flac(np.zeros(1_000_000, np.float32), 1_000_000)))
    assert (kept.samplerate, kept.frames) == (192_000, 192_000)


def test_a_label_of_a_pack_is_explained(run, model_folder, tmp_path):
    checkpoint = Checkpoint.from_pretrained(model_folder)
    rows = NewLabels(checkpoint.model.config, 1).state_dict()
    label = PackedLabel(label=Label(name="my\ncow \x1b日本"))
    pack = LabelPack(model_digest(checkpoint), len(LABELS), [label], rows)
    path = write(tmp_path / "sound.wav", sound(1))
    where = pack.write(tmp_path / "cow.pack")
    result = run(path, "--quick", "--label", "my\ncow \x1b日本", "--pack", where, "--out", "a.svg")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(r"0.50  my\ncow \x1b日本")
    assert result.stderr == ""
    assert xml.dom.minidom.parse(str(tmp_path / "a.svg"))


def test_writing_into_nowhere_is_one_line(run, tmp_path):
    path = write(tmp_path / "sound.wav", sound(1))
    (tmp_path / "file").write_text("")
    result = run(path, "--quick", "--out", "file/a.json")
    assert result.exit_code == 2
    assert "cannot be written" in result.output
    assert issubclass(ConfigError, AtgnnError)


PROBE = """
<script>addEventListener('load',function(){
var said=[],tabs=document.querySelectorAll('[role=tab]'),
shown=function(){return [].filter.call(document.querySelectorAll('[role=tabpanel]'),
function(p){return !p.hidden}).map(function(p){return p.id}).join('+')};
said.push(shown());
tabs[0].dispatchEvent(new KeyboardEvent('keydown',{key:'ArrowRight',bubbles:true}));
said.push(shown()+' '+document.activeElement.id);
tabs[0].click();said.push(shown()+' '+tabs[0].getAttribute('aria-selected'));
var played=[];HTMLMediaElement.prototype.play=function(){played.push(this.currentTime)};
var region=document.querySelector('#label-0 .hear'),start=region.dataset.start;region.click();
said.push(played.length+' at '+(Math.abs(played[0]-start)<0.05));
said.push(document.documentElement.scrollWidth<=innerWidth?'fits':'too wide');
document.body.textContent='said: '+said.join(' | ')})</script>
"""


def test_the_page_works_by_click_and_by_keyboard_and_fits_a_phone(tagger, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    page = to_html(explain(tagger, (sound(2), RATE), ["Dog", "Rain"], search=False))
    assert "Dog" in page
    path = tmp_path / "page.html"
    path.write_text(page.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--window-size=500,900", f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    said = shown.split("said: ")[1].split("<")[0].split(" | ")
    assert said == ["label-0", "label-1 tab-1", "label-0 true", "1 at true", "fits"]
