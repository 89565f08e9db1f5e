"""The checkpoint folder: round trips, mismatches, crashes, the hub."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from helpers import LABELS, tiny_checkpoint, tiny_model
from safetensors.torch import load_file, save_file

from atgnn import checkpoint as module
from atgnn.checkpoint import FORMAT_VERSION, Checkpoint, Provenance
from atgnn.errors import AtgnnError, CheckpointError
from atgnn.frontend import FrontEndConfig
from atgnn.labels import Vocabulary
from atgnn.model import ATGNN


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    provenance = Provenance(summary="For tests.", licence="CC0", metrics={"mAP": 0.5})
    thresholds = (0.1, 0.2, 0.3, 0.4, 0.5)
    one = tiny_checkpoint(thresholds=thresholds, provenance=provenance)
    return one, one.save_pretrained(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved[1], tmp_path / "model")


def one_line_error(folder) -> str:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.from_pretrained(folder)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def edit(folder, **changes) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = config
        for parent in parents:
            place = place[parent]
        place[last] = value
    path.write_text(json.dumps(config))


def test_round_trip(saved):
    one, folder = saved
    again = Checkpoint.from_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    for name in ("front_end", "vocabulary", "thresholds", "activation", "provenance"):
        assert getattr(again, name) == getattr(one, name)
    assert again.window_seconds == one.window_seconds
    assert again.model.config == one.model.config
    assert not again.model.training
    mel = torch.randn(2, 50, 32)
    with torch.inference_mode():
        assert torch.equal(again.model(mel), one.model(mel))
    assert all(p.requires_grad for p in again.model.parameters())
    assert [label.mid for label in again.vocabulary][3] == "/m/06mb1", "Rain, as AudioSet has it"


@pytest.mark.parametrize("name", ["README.md", "config.json"])
def test_a_folder_of_somebody_else_is_left_alone(saved, tmp_path, name):
    (tmp_path / name).write_text('{"model_type": "theirs"}')
    with pytest.raises(CheckpointError, match="nothing was written"):
        saved[0].save_pretrained(tmp_path)
    assert (tmp_path / name).read_text() == '{"model_type": "theirs"}'
    assert len(list(tmp_path.iterdir())) == 1


def test_a_digest_tells_models_apart(saved):
    again = Checkpoint.from_pretrained(saved[1])
    digest = again.digest()
    assert digest == Checkpoint.from_pretrained(saved[1]).digest()
    assert again.changed(thresholds=None).digest() == digest
    assert again.changed(front_end=FrontEndConfig(n_mels=32, mean=-4)).digest() != digest
    with torch.no_grad():
        next(again.model.parameters()).view(-1)[0] += 1e-6
    assert again.digest() != digest


def test_loading_leaves_the_random_state_alone(saved):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Checkpoint.from_pretrained(saved[1])
    assert torch.equal(torch.rand(3), expected)


def test_half_precision_halves_the_file_and_keeps_the_scores(saved, tmp_path):
    one, folder = saved
    half = one.save_pretrained(tmp_path / "half", half=True)
    sizes = [(path / "model.safetensors").stat().st_size for path in (half, folder)]
    assert sizes[0] < 0.7 * sizes[1]
    again = Checkpoint.from_pretrained(half)
    assert {p.dtype for p in again.model.parameters()} == {torch.float32}
    mel = torch.randn(2, 50, 32)
    with torch.inference_mode():
        assert (again.model(mel) - one.model(mel)).abs().max() < 0.05
    assert next(one.model.parameters()).dtype == torch.float32, "saving changes nothing"


def test_huge_values_stay_whole_in_half_precision(tmp_path):
    one = tiny_checkpoint()
    one.model.patch_head.fc1.norm.running_var.fill_(1e6)
    again = Checkpoint.from_pretrained(one.save_pretrained(tmp_path / "m", half=True))
    assert torch.equal(again.model.patch_head.fc1.norm.running_var, torch.full((16,), 1e6))


def test_the_card_says_what_matters(saved):
    card = (saved[1] / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: atgnn")
    for part in ("For tests.", "CC0", "| mAP | 0.5000 |", "| Siren |", "16000 Hz", "0.40"):
        assert part in card


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"format_version": FORMAT_VERSION + 1}, "format version"),
        ({"format_version": None}, "format_version"),
        ({"labels": [{"name": "Bark"}]}, "1 labels for 5 outputs"),
        ({"thresholds": [0.5]}, "1 thresholds for 5 labels"),
        ({"front_end__n_mels": 64}, "64 bins, model with 32"),
        ({"front_end__sample_rate": -1}, "front_end"),
        ({"front_end__surprise": 1}, "surprise"),
        ({"model__surprise": 1}, "surprise"),
        ({"model__k": 0}, "model.atgnn.k"),
        ({"activation": "relu"}, "activation"),
        ({"model__channels": [16, 64]}, "config.json asks for"),
        ({"model__blocks": [2, 1]}, "is missing from the weights"),
        ({"model__label_blocks": []}, "is unknown in the weights"),
    ],
)
def test_a_configuration_that_does_not_fit_fails_loudly(folder, changes, expected):
    edit(folder, **changes)
    assert expected in one_line_error(folder)


def test_two_labels_of_one_name_fail_loudly(folder):
    labels = [{"name": "Bark"}] * 5
    edit(folder, labels=labels)
    with pytest.raises(AtgnnError, match="twice"):
        Checkpoint.from_pretrained(folder)


@pytest.mark.parametrize("text", ["{", "", "[1, 2]", '"text"', "\x00\x01", "{}"])
def test_a_damaged_configuration_fails_loudly(folder, text):
    (folder / "config.json").write_text(text)
    assert "config.json" in one_line_error(folder)


def test_weights_that_do_not_fit_fail_loudly(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = "patch_head.fc2.weight"
    for change, expected in (
        ({name: torch.zeros(3, 3)}, f"{name} is (3, 3)"),
        ({"surprise": torch.zeros(1)}, "surprise is unknown"),
    ):
        save_file({**weights, **change}, path)
        assert expected in one_line_error(folder)
    save_file({key: value for key, value in weights.items() if key != name}, path)
    assert f"{name} is missing" in one_line_error(folder)


@pytest.mark.parametrize("keep", [0, 5, 1000, -10])
def test_truncated_weights_fail_loudly(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "damaged" in one_line_error(folder)


def test_attribution_travels_with_the_weights(tmp_path):
    one = tiny_checkpoint(attribution="author,licence\nÉmile,CC BY\n")
    one.save_pretrained(tmp_path / "a")
    Checkpoint.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert (tmp_path / "b" / "ATTRIBUTION.csv").read_text(encoding="utf-8") == one.attribution
    assert (tmp_path / "a" / "model.safetensors").stat().st_mode & 0o044


def test_shared_adjacency_stays_shared(tmp_path):
    model = ATGNN(tiny_model().config.replace(shared_adjacency=True))
    one = Checkpoint(model, FrontEndConfig(n_mels=32), Vocabulary.from_names(LABELS))
    one.save_pretrained(tmp_path / "a")
    loaded = Checkpoint.from_pretrained(tmp_path / "a").model
    shared = {
        id(p)
        for name, p in loaded.named_parameters(remove_duplicate=False)
        if name.endswith("adjacency")
    }
    assert len(shared) == 1
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in model.parameters())


def test_what_is_no_checkpoint_is_named(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "config.json and model.safetensors not found" in one_line_error(tmp_path / "empty")
    assert "is a file" in one_line_error(folder / "config.json")
    assert "no model 'nonsense'" in one_line_error("nonsense")
    assert "no model" in one_line_error("./not/here")
    (folder / "model.safetensors").unlink()
    assert "model.safetensors not found" in one_line_error(folder)


def test_parts_that_do_not_fit_are_refused_before_saving():
    with pytest.raises(CheckpointError, match="4 labels for 5 outputs"):
        Checkpoint(tiny_model(), FrontEndConfig(n_mels=32), Vocabulary.from_names(LABELS[:4]))
    with pytest.raises(CheckpointError, match="128 bins"):
        Checkpoint(tiny_model(), FrontEndConfig(), Vocabulary.from_names(LABELS))


def test_saving_replaces_a_checkpoint_and_nothing_else(saved, folder, tmp_path):
    tiny_checkpoint(activation="softmax").save_pretrained(folder)
    assert Checkpoint.from_pretrained(folder).activation == "softmax"
    (folder / "thesis.txt").write_text("years of work")
    for place in (folder, folder / "thesis.txt"):
        with pytest.raises(CheckpointError, match="nothing was written"):
            saved[0].save_pretrained(place)
    assert (folder / "thesis.txt").read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"], "no scratch left behind"


def test_a_crash_while_saving_leaves_the_old_folder(folder, tmp_path, monkeypatch):
    def crash(*args, **kwargs):
        raise OSError("disk full")

    for name in ("save", "_for_disk"):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, crash)
            with pytest.raises(OSError, match="disk full"):
                tiny_checkpoint(activation="softmax").save_pretrained(folder)
    assert Checkpoint.from_pretrained(folder).activation == "sigmoid"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


# --- the hub: a stand-in that speaks as much of its protocol as an upload and a download need


class _Hub(BaseHTTPRequestHandler):
    files: dict[str, bytes]
    log: list[str]

    @property
    def _here(self):
        return f"http://{self.headers['Host']}"

    def do_HEAD(self):
        self._file(with_body=False)

    def do_GET(self):
        if self.path.startswith("/api/models/ann/tagger/tree/"):
            return self._json(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": self._tag(data)}
                    for name, data in self.files.items()
                ]
            )
        if self.path.startswith("/api/models/ann/tagger"):
            siblings = [{"rfilename": name} for name in self.files]
            return self._json({"id": "ann/tagger", "sha": "c0ffee" * 6, "siblings": siblings})
        return self._file(with_body=True)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.log.append(self.path)
        if self.path.endswith("/api/repos/create"):
            return self._json({"url": f"{self._here}/ann/tagger", "name": "ann/tagger"})
        if "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": "regular"} for f in asked]
            return self._json({"files": [{**mode, "shouldIgnore": False} for mode in modes]})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.files[line["value"]["path"]] = content
            return self._json(
                {"commitUrl": f"{self._here}/ann/tagger/commit/c0ffee", "commitOid": "c0ffee" * 6}
            )
        return self._json({})

    def _file(self, with_body):
        name = self.path.partition("/resolve/")[2].partition("/")[2]
        data = self.files.get(name) if self.path.startswith("/ann/tagger/") else None
        if data is None:
            return self._json({"error": "Repository not found"}, 404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{self._tag(data)}"')
        self.send_header("X-Repo-Commit", "c0ffee" * 6)
        self.end_headers()
        if with_body:
            self.wfile.write(data)
        return None

    def _json(self, data, status=200):
        body = json.dumps(data).encode()
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @staticmethod
    def _tag(data):
        return hashlib.sha1(data).hexdigest()

    def log_message(self, *args):
        pass


def test_the_hub_takes_and_gives_a_checkpoint(saved, tmp_path):
    handler = type("Hub", (_Hub,), {"files": {}, "log": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = textwrap.dedent(f"""
        from atgnn.checkpoint import Checkpoint
        from atgnn.errors import CheckpointError
        one = Checkpoint.from_pretrained({str(saved[1])!r})
        print(one.push_to_hub("ann/tagger", token="hf_secret"))
        again = Checkpoint.from_pretrained("ann/tagger")
        assert again.vocabulary == one.vocabulary and again.thresholds == one.thresholds
        offline = Checkpoint.from_pretrained("ann/tagger", local_files_only=True)
        for name in ("ann/nothing", "bad name/x y"):
            try:
                Checkpoint.from_pretrained(name)
            except CheckpointError as error:
                assert len(str(error).splitlines()) == 1, error
            else:
                raise AssertionError(name)
    """)
    env = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    env |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    try:
        run = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120
        )
    finally:
        server.shutdown()
        server.server_close()
    assert run.returncode == 0, run.stderr
    assert "commit/c0ffee" in run.stdout
    others = {"README.md", "preprocessor_config.json"}
    assert {"config.json", "model.safetensors", *others} == set(handler.files)
    assert handler.files["model.safetensors"] == (saved[1] / "model.safetensors").read_bytes()
    assert any("/commit/main" in path for path in handler.log)


def test_a_local_folder_needs_no_hub(saved, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(module, "_download", refuse)
    Checkpoint.from_pretrained(saved[1])
    Checkpoint.from_pretrained(str(saved[1]))
