"""`atgnn reproduce`: the paper's figures beside ours, and never a number that was not measured."""

import itertools
import json
import re
import shlex
from pathlib import Path

import pytest
from helpers import sound, tiny_checkpoint, write
from test_docs import problem_of
from typer.testing import CliRunner

pytest.importorskip("pyarrow")

from atgnn.cli import app
from atgnn.comparison import reproduce as module
from atgnn.comparison.paper import SETS, TABLES
from atgnn.comparison.reproduce import reproduce, table_page
from atgnn.data.clips import Clips
from atgnn.data.store import PackedWaveforms
from atgnn.errors import ConfigError
from atgnn.evaluate import choose_clips, evaluate
from atgnn.networks import network_names, preset_cost
from atgnn.training.recipe import load_recipe

FAST = ("table1", "table3")  # AST of Table II needs an extra, and takes a while to count


def run(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.fixture(scope="module")
def plain():
    return {name: reproduce(name) for name in FAST}


# ---------------------------------------------------------------------- the paper


def test_the_papers_figures_are_those_on_record():
    first = [(line.changes[0][1], round(100 * line.mean_ap, 1)) for line in TABLES["table1"].lines]
    assert first == [(9, 57.9), (12, 57.7), (15, 57.7), (18, 57.9), (20, 57.6)]
    second = {line.preset: line for line in TABLES["table2"].lines}
    assert [second[name].millions for name in ("cnn14", "psla", "ast")] == [81.0, 13.6, 88.7]
    assert (second["pyr-m"].millions, second["pyr-m"].gmacs) == (62.7, 27.20)
    third = {line.preset: line for line in TABLES["table3"].lines}
    assert [third[name].millions for name in ("fsd50k-vgg", "audio-transformer")] == [0.27, 2.3]
    assert third["pyr-s"].mean_ap == 0.583


@pytest.mark.parametrize("name", TABLES)
def test_every_system_is_a_preset(name):
    assert {line.preset for line in TABLES[name].lines} <= set(network_names())
    assert TABLES[name].data in SETS


# ---------------------------------------------------------------------- measured


def test_size_and_work_are_measured(plain):
    for row in plain["table3"].rows:
        cost = preset_cost(row.line.preset, 1024, num_labels=200)
        assert row.millions == cost.trainable_parameters / 1e6
        assert row.gmacs == cost.gmacs
    sizes = {round(row.millions, 3) for row in plain["table1"].rows}
    assert sizes == {26.836}  # k changes nothing
    more = reproduce("table1", labels=527)
    assert more.rows[0].millions > plain["table1"].rows[0].millions


@pytest.mark.parametrize("name", FAST)
def test_without_data_no_map_is_shown_but_how_to_get_it(plain, name):
    found = plain[name]
    for row in found.rows:
        assert row.mean_ap == {}
        assert [command.split()[1] for command in row.needed] == ["prepare", "train", "reproduce"]
        for command in row.needed:
            words = [re.sub("^DIR", "/tmp/DIR", word) for word in shlex.split(command)]
            assert not problem_of(words[1:]), command
    text = table_page(found).markdown()
    for row in found.rows:
        assert "```sh\n" + "\n".join(row.needed) + "\n```" in text
    assert text.count("needs (") == len(found.rows)
    printed = {f"{row.line.mean_ap:.3f}" for row in found.rows if row.line.mean_ap}
    for column in [line.split("|") for line in text.splitlines() if line.startswith("| ")][1:]:
        ours = column[6].strip()
        assert ours.startswith("needs (")
        assert ours not in printed


def test_systems_that_hear_another_rate_need_their_own_packed_folder():
    commands = module._Where("table2", SETS["audioset20k"], None, None, None)
    (line,) = [line for line in TABLES["table2"].lines if line.preset == "cnn14"]
    _, (prepare, train, _) = commands.measured(line)
    assert "--rate 32000 --out DIR/audioset20k-32k" in prepare
    assert "--clips DIR/audioset20k-32k" in train
    assert "--set front_end='{preset: own}'" in train


@pytest.mark.parametrize("name", TABLES)
def test_what_is_to_be_pasted_fits_the_recipe(name):
    """The waveform of Audio Transformers has no mel bins for the recipe's masks."""
    table = TABLES[name]
    commands = module._Where(name, SETS[table.data], None, None, None)
    for line in table.lines:
        train = shlex.split(list(commands.commands(line, Path("DIR"), False))[-2])
        changes = [word for before, word in itertools.pairwise(train) if before == "--set"]
        recipe = load_recipe(train[2], ["data.clips=DIR", *changes])
        assert recipe.model_config_for(3).num_labels == 3
        masked = recipe.augment.frequency_mask > 0
        assert masked == (line.preset != "audio-transformer")


def test_who_starts_from_imagenet():
    first, third = (
        [module._Where(name, SETS["fsd50k"], None, None, None).measured(line)[1][1] for line in
         TABLES[name].lines] for name in FAST
    )  # fmt: skip
    assert all("--set init=pvig_s_82.1.pth.tar" in train for train in first)
    assert ["init=" in train for train in third] == [False] * 3 + [True] * 4


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """A folder as `--data` takes it: eight made-up clips of FSD50K, and runs of tiny models."""
    folder = tmp_path_factory.mktemp("stand-in")
    labels = ("Bark", "Rain")
    rows = ["path,labels,split"]
    for number in range(8):
        write(folder / f"{number}.wav", sound(1, seed=number))
        rows.append(f"{number}.wav,{labels[number % 2]},{'eval' if number < 6 else 'train'}")
    (folder / "clips.csv").write_text("\n".join(rows))
    data = folder / "data"
    PackedWaveforms.write(Clips.read(folder / "clips.csv"), data / "fsd50k", 16_000)
    for name in ("pyr-s-1", "pyr-s-2", "pyr-s-encoder-k9", "pyr-s-notes"):
        tiny_checkpoint(labels).save_pretrained(data / "runs" / name / "model")
    (data / "runs" / "pyr-m").mkdir()  # a run that has not come to a result
    return data


def test_map_is_measured_where_data_and_models_are(stand_in, monkeypatch):
    found = {row.line.preset: row for row in reproduce("table3", stand_in, device="cpu").rows}
    assert set(found["pyr-s"].mean_ap) == {"pyr-s-1", "pyr-s-2"}
    packed = PackedWaveforms.open(stand_in / "fsd50k")
    clips = choose_clips(packed.clips, split="eval")
    assert len(clips) == 6
    report = evaluate(
        tiny_checkpoint(("Bark", "Rain")), clips, opened=packed, device="cpu", as_marked=True
    )
    assert found["pyr-s"].mean_ap["pyr-s-1"] == pytest.approx(report.metrics.mean_ap)
    assert found["pyr-s"].needed == ()
    assert found["pyr-m"].mean_ap == {}
    assert [command.split()[1] for command in found["pyr-m"].needed] == ["train", "reproduce"]
    # scores are kept: nobody listens again
    monkeypatch.setattr(module, "Tagger", lambda *_: pytest.fail("listened again"))
    again = {row.line.preset: row for row in reproduce("table3", stand_in).rows}
    assert again["pyr-s"].mean_ap == found["pyr-s"].mean_ap


def test_kept_scores_of_other_weights_are_not_believed(stand_in, tmp_path):
    runs = tmp_path / "runs"
    tiny_checkpoint(("Bark", "Rain")).save_pretrained(runs / "pyr-s-encoder-k9" / "model")
    (first, *_) = reproduce("table1", stand_in, runs, device="cpu").rows
    kept = runs / "pyr-s-encoder-k9" / module.SCORES
    before = kept.read_bytes()
    changed = tiny_checkpoint(("Bark", "Rain"), window_seconds=1.0)
    changed.save_pretrained(runs / "pyr-s-encoder-k9" / "model")
    assert reproduce("table1", stand_in, runs, device="cpu").rows[0].mean_ap
    assert kept.read_bytes() != before
    assert first.line.name == "k = 9"


def test_several_runs_are_a_mean_with_its_ends(stand_in):
    text = table_page(reproduce("table3", stand_in, device="cpu")).markdown()
    (line,) = [line for line in text.splitlines() if line.startswith("| ATGNN-pyr-s ")]
    assert re.search(r"\d\.\d{3} \(\d\.\d{3}-\d\.\d{3}, 2 runs\)", line)
    assert "| 0.583 |" in line


def test_inference_is_timed_when_asked(monkeypatch):
    monkeypatch.setattr(module, "medians", lambda calls, kind: dict.fromkeys(calls, 5.0))
    monkeypatch.setattr(module, "build", lambda config: tiny_checkpoint().model)
    found = reproduce("table1", time=True, device="cpu")
    assert {row.milliseconds for row in found.rows} == {5.0}
    assert "| ms |" in table_page(found).markdown()


# ---------------------------------------------------------------------- the command


def test_the_command_shows_the_table_in_three_forms(stand_in):
    shown = run("reproduce", "table1")
    assert shown.exit_code == 0, shown.output
    assert "k = 15" in shown.stdout
    assert "needs (3)" in shown.stdout
    assert "atgnn train fsd50k" in shown.stdout
    marked = run("reproduce", "table1", "--data", stand_in, "--markdown")
    assert re.search(
        r"\| k = 9 \| 26.84 \|  \| 12.88 \|  \| [01]\.\d{3} \| 0.579 \|", marked.stdout
    )
    data = json.loads(run("reproduce", "table1", "--json").stdout)
    assert data["rows"][0]["line"]["mean_ap"] == 0.579
    assert data["rows"][0]["mean_ap"] == {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["table4"], "Invalid value for 'table': 'table4' is not one of"),
        (["table1", "--data", "nowhere"], "no folder nowhere"),
        (["table1", "--runs", "nowhere"], "no folder nowhere"),
        (["table1", "--json", "--markdown"], "leave one of them out"),
    ],
)
def test_wrong_calls_are_one_line(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = run("reproduce", *words)
    assert found.exit_code == 2
    assert said in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1


def test_an_unknown_table_is_an_error():
    with pytest.raises(ConfigError, match="no table 'tableX': choose from table1"):
        reproduce("tableX")


def test_a_model_with_other_labels_says_so(stand_in, tmp_path):
    tiny_checkpoint(("Dog", "Siren")).save_pretrained(tmp_path / "pyr-s" / "model")
    (row,) = [
        row
        for row in reproduce("table3", stand_in, tmp_path, device="cpu").rows
        if row.line.preset == "pyr-s"
    ]
    assert row.mean_ap == {}
    assert "foreign to the model's 2" in row.problem
