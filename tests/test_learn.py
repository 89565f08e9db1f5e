"""New labels from a few clips: what is learned, what is kept, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import LABELS, RATE, sound, tiny_checkpoint, write
from safetensors.torch import load_file, save_file

from atgnn import learn as learning
from atgnn import synthetic
from atgnn.checkpoint import Calibration, Checkpoint
from atgnn.errors import AudioError, CheckpointError, ClipsError, ConfigError, LabelError
from atgnn.learn import Listener, NodeCache, learn
from atgnn.learn.fit import Examples, LeftOut, _Adam, fit_head, fit_node, node_states
from atgnn.learn.learning import threshold_of
from atgnn.learn.nodes import Window
from atgnn.learn.scores import new_logits
from atgnn.packs import KEY, LabelPack, model_digest, with_packs
from atgnn.tagger import Tagger


@pytest.fixture(autouse=True, scope="module")
def few_sounds_by_rule():
    """A short background: what is made of it does not matter here."""
    made = [sound[: RATE // 2] for sound in synthetic.synthetic_sounds(6)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning.learning, "synthetic_sounds", lambda: made)
        patch.setattr(learning.learning, "COUNT", len(made))
        yield


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return tiny_checkpoint()


def whistle(seed: int, seconds: float = 1.0) -> tuple[np.ndarray, int]:
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = 1500 + 100 * (seed % 5) + 300 * np.sin(2 * np.pi * 3 * time)
    noise = np.random.default_rng(seed).standard_normal(len(time))
    return (0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / RATE) + 0.01 * noise).astype(
        np.float32
    ), RATE


def hiss(seed: int, seconds: float = 1.0) -> tuple[np.ndarray, int]:
    return sound(seconds, seed=seed), RATE


WHISTLES, HISSES = [whistle(i) for i in range(5)], [hiss(i) for i in range(5)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("nodes")


@pytest.fixture(scope="module")
def pack(checkpoint, cache) -> LabelPack:
    return learn(checkpoint, {"whistle": WHISTLES}, HISSES, cache=cache).pack


# ------------------------------------------------------------------ what is learned


def test_a_label_is_learned_and_the_old_scores_stay_the_same_in_every_bit(checkpoint, pack):
    sounds = [whistle(20), hiss(21), whistle(22, 3.3), hiss(23, 2.2), whistle(24, 0.2)]
    alone = list(Tagger(checkpoint, "cpu").score_many(sounds))
    both = list(Tagger(with_packs(checkpoint, [pack]), "cpu").score_many(sounds))
    for before, after in zip(alone, both, strict=True):
        assert torch.equal(torch.from_numpy(before.windows), torch.from_numpy(after.windows[:, :5]))
    found = [scores.mean[5] for scores in both]
    assert min(found[0], found[2]) > pack.labels[0].threshold > max(found[1], found[3])


def test_what_is_learned_depends_on_nothing_but_what_is_given(checkpoint, pack, cache, tmp_path):
    for folder in (cache, tmp_path):  # from kept nodes, and from the sounds
        again = learn(checkpoint, {"whistle": WHISTLES}, HISSES, cache=folder).pack
        assert again.labels[0].threshold == pytest.approx(pack.labels[0].threshold, abs=1e-4)
        for name, value in pack.weights.items():
            torch.testing.assert_close(again.weights[name], value, rtol=1e-3, atol=1e-5)


def test_the_weights_are_those_of_one_more_label(checkpoint, pack):
    new = pack.new_labels(checkpoint)
    assert len(new) == 1
    assert new.rows.shape == (1, 2, 6)
    assert all(bool(value.abs().max() > 0) for value in pack.weights.values())


def test_scores_from_kept_nodes_are_those_of_the_tagger(checkpoint, pack, cache):
    listener = Listener.of(checkpoint, cache)
    windows = [listener.clip(one).windows[0] for one in (WHISTLES[0], HISSES[0])]
    found = new_logits(listener.network, pack.new_labels(checkpoint), windows).sigmoid()[:, 0]
    tagger = Tagger(with_packs(checkpoint, [pack]), "cpu")
    expected = [tagger.scores(one)[5] for one in (WHISTLES[0], HISSES[0])]
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_several_labels_are_each_others_negatives(checkpoint, cache):
    shared = whistle(30)
    given = {"whistle": [*WHISTLES[:3], shared], "hiss": [*HISSES[:3], shared]}
    one, two = learn(checkpoint, given, cache=cache).pack.labels
    assert [lesson.positive for lesson in one.lessons] == [True] * 4 + [False] * 3
    assert [lesson.positive for lesson in two.lessons] == [True] * 4 + [False] * 3
    assert one.negatives == "given"


def test_no_negatives_and_a_single_clip(checkpoint, cache):
    few = learn(checkpoint, {"whistle": WHISTLES}, cache=cache).pack.labels[0]
    assert few.negatives == "made by rule"
    assert few.separation is not None
    single = learn(checkpoint, {"whistle": WHISTLES[:1]}, cache=cache).pack.labels[0]
    assert single.threshold == 0.5
    assert single.separation is None
    assert "one clip cannot be left out" in str(single)


def test_a_model_without_label_blocks_learns_too(tmp_path):
    from atgnn.model import ATGNN

    whole = tiny_checkpoint()
    plain = whole.changed(model=ATGNN(whole.model.config.replace(label_blocks=())).eval())
    out = learn(plain, {"whistle": WHISTLES}, HISSES, cache=tmp_path).pack
    assert out.weights["rows"].shape == (1, 0, 6)
    scores = [
        Tagger(with_packs(plain, [out]), "cpu").scores(one)[5] for one in (whistle(9), hiss(9))
    ]
    assert scores[0] > scores[1]


def test_a_calibrated_model_leaves_new_labels_as_they_were_learned(checkpoint, pack):
    line = checkpoint.changed(calibration=Calibration(scale=0.5, shift=1.0))
    plain, bent = (Tagger(with_packs(one, [pack]), "cpu") for one in (checkpoint, line))
    for one in (whistle(3), hiss(3)):
        assert bent.scores(one)[5] == pytest.approx(plain.scores(one)[5], abs=1e-5)
        assert bent.scores(one)[0] != pytest.approx(plain.scores(one)[0], abs=1e-3)


# ------------------------------------------------------------------ the arithmetic


def window(rng: np.random.Generator, positive: bool) -> Window:
    centre = 1.0 if positive else -1.0
    return Window(
        (torch.zeros(1, 1, 4),),
        torch.from_numpy(rng.normal(centre, 2, 3)).float(),
        torch.from_numpy(rng.normal(centre, 2, 6)).float(),
    )


def test_clips_left_out_in_closed_form_are_those_left_out_by_hand():
    rng = np.random.default_rng(0)
    clips = [[window(rng, i < 4) for _ in range(1 + i % 2)] for i in range(9)]
    examples = Examples.of(clips[:4], clips[4:], [])
    states = rng.normal(0, 1, (len(examples.windows), 2))
    parts = [
        np.stack([one.summary.numpy() for one in examples.windows]),
        np.stack([one.hidden.numpy() for one in examples.windows]),
        states,
    ]
    share = examples.weight / examples.weight.sum()
    scaled = []
    for part in parts:
        variance = share @ (part - share @ part) ** 2
        scaled.append((part - share @ part) / np.sqrt(variance + 1e-6 * variance.max()))
    kernel = 1 + sum(x @ x.T / x.shape[1] for x in scaled) / 3
    target, noise = np.where(examples.positive, 1.0, -1.0), 0.1 / share / len(share)
    by_hand = []
    for clip in range(9):
        out, rest = examples.clip == clip, examples.clip != clip
        known = kernel[np.ix_(rest, rest)] + np.diag(noise[rest])
        by_hand.append((kernel[np.ix_(out, rest)] @ np.linalg.solve(known, target[rest])).mean())
    head = fit_head(examples, states)
    slope, shift = np.polyfit(by_hand, head.left_out.logits, 1)
    assert slope > 0
    np.testing.assert_allclose(head.left_out.logits, slope * np.array(by_hand) + shift, atol=1e-6)


def test_a_head_says_what_the_kernel_says():
    rng = np.random.default_rng(1)
    clips = [[window(rng, i < 4)] for i in range(8)]
    examples = Examples.of(clips[:4], clips[4:], [])
    head = fit_head(examples, np.zeros((8, 0)))
    logits = [
        one.summary.numpy() @ head.summary + one.hidden.numpy() @ head.hidden + head.bias
        for one in examples.windows
    ]
    assert min(logits[:4]) > max(logits[4:])
    assert np.mean(head.left_out.logits[:4]) < np.mean(logits[:4])  # not known is less sure


def test_weights_are_even():
    rng = np.random.default_rng(2)
    clips = [[window(rng, True)] * (1 + i) for i in range(6)]
    examples = Examples.of(clips[:2], clips[2:4], clips[4:])
    assert examples.weight.sum() == pytest.approx(1)
    assert examples.weight[examples.positive].sum() == pytest.approx(0.5)
    assert examples.weight[~examples.given].sum() == pytest.approx(0.15)
    for clip in (0, 1):
        assert examples.weight[examples.clip == clip].sum() == pytest.approx(0.25)


def test_the_node_moves_to_where_the_label_is(checkpoint, cache):
    listener = Listener.of(checkpoint, cache)
    positive, negative = (
        [listener.clip(one).windows for one in clips] for clips in (WHISTLES, HISSES)
    )
    examples = Examples.of(positive, negative, [])
    node = fit_node(listener.network, examples)
    same = fit_node(listener.network, examples)
    assert torch.equal(node.embedding, same.embedding)
    assert not torch.allclose(node.rows[:, :-1], torch.full((2, 5), 0.2), atol=1e-4)  # moved
    states = node_states(listener.network, examples.windows, node)
    assert states.shape == (10, 32)
    assert all(parameter.grad is None for parameter in listener.network.parameters())


@pytest.mark.parametrize(
    ("positive", "other", "given", "low", "high"),
    [
        ([2.0, 3.0], [-3.0, -2.0], True, 0.45, 0.55),  # in the middle
        ([2.0, 3.0], [-3.0, -2.0], False, 0.7, 0.85),  # near the positive: real sounds are harder
        ([1.0, 2.0], [], True, 0.5, 0.5),
        ([9.0], [-9.0, 8.0], True, 0.9, 0.9),  # no higher than 0.9
        ([-5.0, -6.0], [-7.0, -8.0], True, 0.2, 0.2),  # no lower than 0.2
    ],
)
def test_thresholds(positive, other, given, low, high):
    truth = np.array([True] * len(positive) + [False] * len(other))
    out = LeftOut(np.array([*positive, *other]), truth, truth | given, np.ones(len(truth), bool))
    assert low <= threshold_of(out) <= high


# ------------------------------------------------------------------ what is kept


def test_nodes_are_kept_by_content_and_found_again(checkpoint, tmp_path):
    one, same = write(tmp_path / "a.wav"), write(tmp_path / "b.wav")
    other = write(tmp_path / "c.wav", sound(1, seed=1))
    listener = Listener.of(checkpoint, tmp_path / "cache")
    keys = [listener.clip(path).key for path in (one, same, other)]
    assert keys[0] == keys[1] != keys[2]
    assert listener.heard == 2
    again = Listener.of(checkpoint, tmp_path / "cache")
    kept, fresh = again.clip(one), Listener(checkpoint).clip(one)
    assert again.heard == 0
    for before, after in zip(fresh.windows[0].levels, kept.windows[0].levels, strict=True):
        assert before.dtype == torch.float16
        assert torch.equal(before, after)
    assert torch.equal(fresh.windows[0].summary, kept.windows[0].summary)


def test_another_model_has_other_nodes(checkpoint, tmp_path):
    path = write(tmp_path / "a.wav")
    other = checkpoint.changed(
        model=tiny_checkpoint(labels=("A", "B")).model.eval(),
        vocabulary=tiny_checkpoint(labels=("A", "B")).vocabulary,
    )
    for number, one in enumerate((checkpoint, other)):
        listener = Listener.of(one, tmp_path / "cache")
        listener.clip(path)
        assert listener.heard == 1, number


def test_a_damaged_kept_file_is_made_anew(checkpoint, tmp_path):
    path = write(tmp_path / "a.wav")
    listener = Listener.of(checkpoint, tmp_path / "cache")
    clip = listener.clip(path)
    kept = next((tmp_path / "cache").rglob("*.safetensors"))
    for damage in (kept.read_bytes()[:100], b"", b"rubbish" * 99):
        kept.write_bytes(damage)
        again = Listener.of(checkpoint, tmp_path / "cache").clip(path)
        assert torch.equal(again.windows[0].summary, clip.windows[0].summary)


def test_the_cache_is_bounded(checkpoint, tmp_path):
    import os

    listener = Listener(checkpoint, NodeCache("m", tmp_path, most_bytes=10**9))
    keys = [listener.clip(hiss(i)).key for i in range(3)]
    sizes = [path.stat().st_size for path in (tmp_path / "m").iterdir()]
    for age, key in enumerate(keys):  # the second is the one used longest ago
        os.utime(tmp_path / "m" / f"{key}.safetensors", (1000 + (age != 1), 1000 + (age != 1)))
    Listener(checkpoint, NodeCache("m", tmp_path, most_bytes=3 * max(sizes))).clip(hiss(3))
    left = {path.stem for path in (tmp_path / "m").iterdir()}
    assert keys[1] not in left
    assert {keys[0], keys[2]} <= left
    assert len(left) == 3


def test_a_cache_that_cannot_be_written_is_done_without(checkpoint, tmp_path):
    (tmp_path / "m").write_text("a file where the folder should be")
    listener = Listener(checkpoint, NodeCache("m", tmp_path))
    assert listener.clip(hiss(1)).windows


def test_a_user_without_a_home_keeps_nothing(checkpoint, monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    listener = Listener.of(checkpoint)
    assert listener.cache is None
    assert listener.clip(hiss(1)).windows


def test_long_clips_are_heard_in_part(checkpoint):
    clip = Listener(checkpoint).clip(hiss(0, 30.0))  # windows of 2 s
    assert len(clip.windows) == 6
    assert len(Listener(checkpoint).clip(hiss(0, 4.2)).windows) == 2  # 0.2 s say little


# ------------------------------------------------------------------ packs


def test_a_pack_is_small_and_reads_as_it_was_written(pack, tmp_path):
    path = pack.write(tmp_path / "new" / "w.pack")
    assert path.stat().st_size < 20_000
    again = LabelPack.read(path)
    assert again.labels == pack.labels
    assert again.model == pack.model
    for name, value in pack.weights.items():
        assert torch.equal(again.weights[name], value)
    with pytest.raises(ValueError, match="exists"):
        pack.write(path)
    pack.write(path, force=True)


def test_packs_merge_in_any_order(checkpoint, pack, cache, tmp_path):
    hisses = learn(checkpoint, {"hiss": HISSES}, WHISTLES, cache=cache).pack
    paths = [one.write(tmp_path / f"{i}.pack") for i, one in enumerate((pack, hisses))]
    one, two = (Tagger(with_packs(checkpoint, order), "cpu") for order in (paths, paths[::-1]))
    assert one.labels == (*LABELS, "whistle", "hiss")
    assert two.labels == (*LABELS, "hiss", "whistle")
    single = Tagger(with_packs(checkpoint, [pack]), "cpu")
    for clip in (whistle(5), hiss(6)):
        first, second, alone = one.scores(clip), two.scores(clip), single.scores(clip)
        assert first[:5].tolist() == second[:5].tolist() == alone[:5].tolist()
        np.testing.assert_allclose(first[5:], second[[6, 5]], atol=1e-5)
        np.testing.assert_allclose(first[5], alone[5], atol=1e-5)


def test_thresholds_of_packs_decide_what_is_shown(pack):
    limits = tiny_checkpoint(thresholds=(1.0,) * 5)
    tagger = Tagger(with_packs(limits, [pack]), "cpu")
    assert [tag.label for tag in tagger.tag(WHISTLES[0])] == ["whistle"]
    assert not tagger.tag(HISSES[0]).tags


def test_a_pack_of_another_model_is_refused(pack, checkpoint):
    other = checkpoint.changed(model=tiny_checkpoint().model)
    assert model_digest(other) == pack.model  # the same weights: the same model
    with torch.no_grad():
        other.model.encoder.stem.convs[0].conv.bias[0] += 1e-3
    with pytest.raises(CheckpointError, match="whistle was made for another model"):
        with_packs(other, [pack])
    with pytest.raises(CheckpointError, match="made for different models"):
        LabelPack.merged([pack, LabelPack("0" * 32, 5, pack.labels, pack.weights)])


def test_names_that_are_taken_are_refused(checkpoint, pack, tmp_path):
    with pytest.raises(LabelError, match="model has a label 'Rain' already"):
        learn(checkpoint, {"Rain": WHISTLES}, cache=tmp_path)
    with pytest.raises(LabelError, match="model has a label 'whistle' already"):
        learn(with_packs(checkpoint, [pack]), {"whistle": WHISTLES}, cache=tmp_path)
    with pytest.raises(LabelError, match="'whistle' is in another pack already"):
        with_packs(checkpoint, [pack, pack])


def test_names_that_are_no_text_are_refused(checkpoint, tmp_path):
    with pytest.raises(LabelError, match=r"'caf\\udce9' is no text \(UTF-8\)"):
        learn(checkpoint, {"caf\udce9": WHISTLES}, cache=tmp_path)


def test_what_a_pack_is_called_cannot_write_to_the_terminal(pack):
    about = pack.labels[0]
    label = about.label.model_copy(update={"name": "a\nb\x1b[2Jc"})
    line = str(about.model_copy(update={"label": label}))
    assert line.isprintable()
    assert line.startswith(r"a\nb\x1b[2Jc: counts as present")


def test_packs_whose_tensors_do_not_fit_together_are_refused(pack):
    weights = pack.weights | {"readout": pack.weights["readout"][:, :3]}
    other = pack.labels[0].model_copy(
        update={"label": pack.labels[0].label.model_copy(update={"name": "other"})}
    )
    odd = LabelPack(pack.model, pack.model_labels, [other], weights)
    with pytest.raises(CheckpointError, match="one of them is damaged"):
        LabelPack.merged([pack, odd])


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "rubbish":
        path.write_bytes(b"not a pack" * 50)
    elif how == "no metadata":
        save_file(load_file(path), path)
    else:
        tensors = load_file(path)
        about = json.loads(json.dumps({}))
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()[KEY])
        if how == "nan":
            tensors["bias"][0] = torch.nan
        elif how == "a row less":
            tensors["readout"] = tensors["readout"][:0]
        elif how == "another shape":
            tensors["readout"] = tensors["readout"][:, :3].contiguous()
        elif how == "no labels":
            about["labels"] = []
        elif how == "newer":
            about["format_version"] = 2
        save_file(tensors, path, metadata={KEY: json.dumps(about)})


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", "damaged or no label pack"),
        ("rubbish", "damaged or no label pack"),
        ("no metadata", "no label pack: its metadata"),
        ("nan", "bias holds what is no number"),
        ("a row less", "readout has not a row for each label"),
        ("another shape", "readout is"),
        ("no labels", "labels"),
        ("newer", "format_version"),
    ],
)
def test_damaged_packs_are_refused(checkpoint, pack, tmp_path, how, message):
    path = pack.write(tmp_path / "w.pack")
    damaged(path, how)
    with pytest.raises(CheckpointError, match=message):
        with_packs(checkpoint, [path])


def test_what_is_no_pack_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        LabelPack.read(tmp_path / "nothing.pack")
    with pytest.raises(CheckpointError, match="no such file"):
        LabelPack.read(tmp_path)


def test_a_model_with_packs_is_not_saved_as_a_model(checkpoint, pack, tmp_path):
    with pytest.raises(CheckpointError, match="labels of packs"):
        with_packs(checkpoint, [pack]).save_pretrained(tmp_path / "model")


def test_exclusive_models_take_no_packs(pack, cache):
    exclusive = tiny_checkpoint(activation="softmax")
    with pytest.raises(ConfigError, match="exactly one label"):
        with_packs(exclusive, [pack])
    with pytest.raises(ConfigError, match="exactly one label"):
        learn(exclusive, {"whistle": WHISTLES}, cache=cache)


def test_baselines_have_no_label_nodes(cache):
    from atgnn.baselines.efficientnet import EfficientNetLite, EfficientNetLiteConfig

    network = EfficientNetLite(EfficientNetLiteConfig(num_labels=5, n_mels=32)).eval()
    with pytest.raises(ConfigError, match="no label nodes"):
        learn(tiny_checkpoint().changed(model=network), {"whistle": WHISTLES}, cache=cache)


# ------------------------------------------------------------------ bad clips


def test_labels_without_clips_are_refused(checkpoint, tmp_path):
    with pytest.raises(ClipsError, match="no clip was given for the label 'x'"):
        learn(checkpoint, {"x": []}, cache=tmp_path)
    with pytest.raises(LabelError, match="needs a name"):
        learn(checkpoint, {" ": WHISTLES}, cache=tmp_path)
    with pytest.raises(LabelError, match="no label was given"):
        learn(checkpoint, {}, cache=tmp_path)


def test_unreadable_clips_are_named_and_the_others_used(checkpoint, tmp_path, cache):
    good = [write(tmp_path / f"{i}.wav", whistle(i)[0]) for i in range(3)]
    text = tmp_path / "notes.wav"
    text.write_text("no sound at all, but words")
    missing = tmp_path / "gone.wav"
    out = learn(checkpoint, {"whistle": [*good, text, missing]}, cache=cache)
    assert [failure.path for failure in out.failures] == ["notes.wav", "gone.wav"]
    assert len(out.pack.labels[0].lessons) == 3
    with pytest.raises(AudioError, match=r"none of the clips of 'whistle' can.*notes"):
        learn(checkpoint, {"whistle": [text, missing]}, cache=cache)


def test_a_clip_cannot_be_and_not_be(checkpoint, cache):
    with pytest.raises(ClipsError, match="given both as 'whistle' and as not"):
        learn(checkpoint, {"whistle": WHISTLES}, [WHISTLES[2]], cache=cache)


def test_the_same_content_twice_counts_once(checkpoint, tmp_path, cache):
    twice = [write(tmp_path / f"{i}.wav", whistle(1)[0]) for i in range(2)]
    out = learn(checkpoint, {"whistle": [*twice, *WHISTLES[2:4]]}, cache=cache)
    assert len(out.pack.labels[0].lessons) == 3


def test_sounds_by_rule_are_the_same_every_time():
    one, two = synthetic.synthetic_sounds(13), synthetic.synthetic_sounds(13)
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert len({sound.tobytes() for sound in one}) == 13
    assert all(np.isfinite(sound).all() and np.abs(sound).max() <= 1 for sound in one)


def test_adam_is_that_of_pytorch():
    begin = [torch.randn(4, generator=torch.Generator().manual_seed(n)) for n in (0, 1)]
    rates = (0.1, 0.03)

    def loss(x, y):
        return ((x - 1) ** 2 * (y + 2) ** 2).sum() + x.abs().sum()

    ours = [value.clone().requires_grad_() for value in begin]
    theirs = [value.clone().requires_grad_() for value in begin]
    adam = _Adam(ours, rates)
    twin = torch.optim.Adam(
        [{"params": [x], "lr": rate} for x, rate in zip(theirs, rates, strict=True)]
    )
    for _ in range(20):
        adam.step(loss(*ours))
        twin.zero_grad()
        loss(*theirs).backward()
        twin.step()
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_few_negatives_reach_a_threshold():
    logits = np.concatenate([np.linspace(-1, 3, 20), np.linspace(-6, 0.5, 100)])
    positive = np.arange(120) < 20
    given = np.ones(120, bool)
    limit = threshold_of(LeftOut(logits, positive, given, given))
    assert (1 / (1 + np.exp(-logits[~positive])) >= limit).mean() <= 0.03
    rule = threshold_of(LeftOut(logits, positive, positive, given))
    assert (1 / (1 + np.exp(-logits[~positive])) >= rule).mean() <= 0.03
