"""Downloads that break off, lie or arrive damaged, from a server on this machine only."""

import errno
import hashlib
import io
import json
import shutil
import subprocess
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from helpers import sound, write
from typer.testing import CliRunner

from atgnn.cli import app
from atgnn.data import download
from atgnn.data.archives import parts_of, unpack
from atgnn.data.download import Patience, Remote, fetch, fetch_json
from atgnn.errors import DownloadError
from atgnn.prepare.fetch import fetch_esc50, fetch_fsd50k

QUICK = Patience(attempts=3, wait=0.0, timeout=5.0)
CONTENT = np.random.default_rng(0).bytes(700_000)


class Server(ThreadingHTTPServer):
    """Serves `files` by path; `drops` says after how many bytes of an answer it hangs up."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.drops, self.asked = {}, [], []
        self.ranges, self.states_length, self.failures = True, True, []

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        if server.failures:
            self.send_error(server.failures.pop(0))
            return
        content = server.files.get(self.path.lstrip("/"))
        if content is None:
            self.send_error(404)
            return
        begin = 0
        if server.ranges and self.headers.get("Range"):
            begin = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if begin >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if server.states_length:
            self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        rest = content[begin:]
        if server.drops:
            rest = rest[: server.drops.pop(0)]
        self.wfile.write(rest)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as one:
        thread = threading.Thread(target=one.serve_forever, args=(0.02,))
        thread.start()
        yield one
        one.shutdown()
        thread.join()


def remote(server, name="a.bin", content=CONTENT, **changes):
    server.files.setdefault(name, content)
    digest = hashlib.md5(content).hexdigest()
    return Remote(server.url(name), name, len(content), digest)._replace(**changes)


# ---------------------------------------------------------------------- one file


def test_a_download_goes_on_where_the_connection_broke_off(server, tmp_path):
    server.drops = [100_000, 250_000, 0, 0, 1]  # two in vain are within patience
    seen = []
    path = fetch(remote(server), tmp_path, lambda *numbers: seen.append(numbers), QUICK)
    assert path.read_bytes() == CONTENT
    assert [entry[1] for entry in server.asked] == [
        None, "bytes=100000-", "bytes=350000-", "bytes=350000-", "bytes=350000-", "bytes=350001-",
    ]  # fmt: skip
    assert seen[-1] == ("a.bin", 700_000, 700_000)
    assert list(tmp_path.iterdir()) == [path]
    asked = len(server.asked)
    assert fetch(remote(server), tmp_path, None, QUICK) == path
    assert len(server.asked) == asked, "what is there is not asked for again"


def test_what_came_stays_for_the_next_call(server, tmp_path):
    server.drops = [300_000, *[0] * 3]
    with pytest.raises(DownloadError, match="broke off at 300000 of 700000 bytes; 3 attempts") as e:
        fetch(remote(server), tmp_path, None, QUICK)
    assert "\n" not in str(e.value)
    assert (tmp_path / ".a.bin.part").stat().st_size == 300_000
    assert not (tmp_path / "a.bin").exists()
    assert fetch(remote(server), tmp_path, None, QUICK).read_bytes() == CONTENT
    assert server.asked[-1][1] == "bytes=300000-"


def test_a_server_that_knows_no_parts_sends_all_again(server, tmp_path):
    server.ranges, server.drops = False, [300_000, 100_000]
    assert fetch(remote(server), tmp_path, None, QUICK).read_bytes() == CONTENT
    assert len(server.asked) == 3


def test_a_length_that_only_the_catalogue_states(server, tmp_path):
    server.states_length, server.drops = False, [300_000]
    assert fetch(remote(server), tmp_path, None, QUICK).read_bytes() == CONTENT


def test_a_complete_part_only_gets_its_name(server, tmp_path):
    (tmp_path / ".a.bin.part").write_bytes(CONTENT)
    assert fetch(remote(server), tmp_path, None, QUICK).read_bytes() == CONTENT
    assert server.asked == []
    (tmp_path / ".b.bin.part").write_bytes(CONTENT)  # nobody states the size: the server says 416
    unknown = remote(server, "b.bin", size=None, md5=None)
    assert fetch(unknown, tmp_path, None, QUICK).read_bytes() == CONTENT
    assert server.asked == [("/b.bin", "bytes=700000-")]


def test_a_damaged_beginning_is_fetched_again(server, tmp_path):
    (tmp_path / ".a.bin.part").write_bytes(bytes(100_000))
    assert fetch(remote(server), tmp_path, None, QUICK).read_bytes() == CONTENT
    assert [entry[1] for entry in server.asked] == ["bytes=100000-", None]


def test_a_wrong_digest_twice_is_one_line(server, tmp_path):
    with pytest.raises(DownloadError, match=r"has MD5 [0-9a-f]{32}, expected 00, twice"):
        fetch(remote(server, md5="00"), tmp_path, None, QUICK)
    with pytest.raises(DownloadError, match="700000 bytes came, expected 600000, twice"):
        fetch(remote(server, size=600_000), tmp_path, None, QUICK)
    assert list(tmp_path.iterdir()) == []


def test_servers_that_are_busy_gone_or_not_there(server, tmp_path):
    server.failures = [503, 429]
    assert fetch(remote(server), tmp_path, None, QUICK).read_bytes() == CONTENT
    server.failures = [500] * 9
    with pytest.raises(DownloadError, match="answers 500 Internal Server Error; 3 attempts"):
        fetch(remote(server, "b.bin"), tmp_path, None, QUICK)
    server.failures = []
    with pytest.raises(DownloadError, match="answers 404 Not Found: check the address"):
        fetch(Remote(server.url("none"), "none"), tmp_path, None, QUICK)
    with pytest.raises(DownloadError, match="is no address"):
        fetch(Remote("nowhere", "none"), tmp_path, None, QUICK)
    with pytest.raises(DownloadError, match="cannot be reached"):
        fetch(Remote("http://127.0.0.1:9/x", "x"), tmp_path, None, QUICK)
    server.files["page"] = b"<html>"
    with pytest.raises(DownloadError, match="does not answer with JSON"):
        fetch_json(server.url("page"), QUICK)


def test_a_full_disk_keeps_what_came(server, tmp_path, monkeypatch):
    def full(answer, begin, part, remote, progress):
        part.write_bytes(CONTENT[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(download, "_receive", full)
        with pytest.raises(DownloadError, match=r"cannot be written \(No space left on device\)"):
            fetch(remote(server), tmp_path, None, QUICK)
    assert fetch(remote(server), tmp_path, None, QUICK).read_bytes() == CONTENT
    assert server.asked[-1][1] == "bytes=1000-"


# ---------------------------------------------------------------------- archives


def files_for_archive(folder):
    """Compressible, incompressible, empty and deep; names in other alphabets."""
    content = {
        "top/a.txt": b"hello " * 20_000,
        "top/noise.bin": CONTENT[:300_000],
        "top/deep/er/empty": b"",
        "top/ä ö.wav": CONTENT[300_000:400_000],
    }
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return content


def zipped(content, method=zipfile.ZIP_DEFLATED):
    """An archive in memory."""
    place = io.BytesIO()
    with zipfile.ZipFile(place, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return place.getvalue()


def split(whole, size):
    """An archive in several parts, as Info-ZIP's -s makes it: 4 bytes first, part numbers set."""
    whole = bytearray(b"PK\x07\x08" + whole)
    end = whole.rfind(b"PK\x05\x06")
    count = int.from_bytes(whole[end + 10 : end + 12], "little")
    at = 4 + int.from_bytes(whole[end + 16 : end + 20], "little")

    def put(place, number, length):
        whole[place : place + length] = number.to_bytes(length, "little")

    directory = at
    for _ in range(count):
        offset = 4 + int.from_bytes(whole[at + 42 : at + 46], "little")
        put(at + 34, offset // size, 2)
        put(at + 42, offset % size, 4)
        at += 46 + sum(int.from_bytes(whole[at + i : at + i + 2], "little") for i in (28, 30, 32))
    last = (len(whole) - 1) // size
    assert end // size == last, "the end of the list must not be torn"
    put(end + 4, last, 2)
    put(end + 6, directory // size, 2)
    put(end + 16, directory % size, 4)
    return [bytes(whole[i : i + size]) for i in range(0, len(whole), size)]


def write_parts(folder, name, parts):
    for number, part in enumerate(parts[:-1]):
        (folder / f"{name}.z{number + 1:02d}").write_bytes(part)
    (folder / f"{name}.zip").write_bytes(parts[-1])
    return folder / f"{name}.zip"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("size", [100_000, 90_001, 10**9])
def test_archives_in_parts_are_unpacked(tmp_path, method, size):
    content = files_for_archive(tmp_path / "in")
    parts = split(zipped(content, method), size)
    assert (len(parts) > 1) == (size < 10**9)
    archive = write_parts(tmp_path, "a", parts)
    assert len(parts_of(archive)) == len(parts)
    seen = []
    assert unpack(archive, tmp_path / "out", progress=lambda *n: seen.append(n)) == 4
    assert seen[-1] == (4, 4)
    for name, data in content.items():
        assert (tmp_path / "out" / name).read_bytes() == data
    assert not list((tmp_path / "out").rglob("*.part"))


def test_archives_that_info_zip_splits_are_unpacked(tmp_path):
    if shutil.which("zip") is None:
        pytest.skip("no zip program here")
    content = files_for_archive(tmp_path / "in")
    (tmp_path / "in" / "top" / "ä ö.wav").unlink()  # how it writes such names hangs on the locale
    del content["top/ä ö.wav"]
    command = ["zip", "-q", "-r", "-s", "64k", "../b.zip", "top"]
    subprocess.run(command, cwd=tmp_path / "in", check=True)
    assert len(parts_of(tmp_path / "b.zip")) > 3
    unpack(tmp_path / "b.zip", tmp_path / "out")
    for name, data in content.items():
        assert (tmp_path / "out" / name).read_bytes() == data


def test_archives_with_wide_numbers_are_unpacked(tmp_path):
    place = tmp_path / "w.zip"
    with zipfile.ZipFile(place, "w") as archive, archive.open("x", "w", force_zip64=True) as file:
        file.write(CONTENT)
    unpack(place, tmp_path / "out")
    assert (tmp_path / "out" / "x").read_bytes() == CONTENT


def test_unpacking_goes_on(tmp_path):
    content = files_for_archive(tmp_path / "in")
    (tmp_path / "a.zip").write_bytes(zipped(content))
    unpack(tmp_path / "a.zip", tmp_path / "out", strip=1)
    (tmp_path / "out" / "noise.bin").write_bytes(b"cut")
    time = (tmp_path / "out" / "a.txt").stat().st_mtime_ns
    unpack(tmp_path / "a.zip", tmp_path / "out", strip=1)
    assert (tmp_path / "out" / "noise.bin").read_bytes() == content["top/noise.bin"]
    assert (tmp_path / "out" / "a.txt").stat().st_mtime_ns == time


def _spoil(data, at):
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


def test_archives_that_are_damaged_or_malicious_are_one_line(tmp_path):
    parts = split(zipped(files_for_archive(tmp_path / "in"), zipfile.ZIP_STORED), 100_000)
    cases = [
        ([parts[0], *parts[2:]], "the archive's own count"),
        ([_spoil(parts[0], 5000), *parts[1:]], "has not the checksum it should have"),
        ([*parts[:-1], parts[-1][:-30]], "it has no end"),
        ([b"no archive"], "it has no end"),
        ([zipped({"../x": b"x"})], "outside its folder"),
        ([zipped({"/x": b"x"})], "outside its folder"),
    ]
    for number, (given, words) in enumerate(cases):
        archive = write_parts(tmp_path, f"c{number}", given)
        with pytest.raises(DownloadError) as error:
            unpack(archive, tmp_path / f"out{number}")
        assert "\n" not in str(error.value)
        if words != "the archive's own count":
            assert words in str(error.value)
    assert not (tmp_path / "x").exists()
    gone = write_parts(tmp_path, "gone", parts)
    gone.with_suffix(".z01.aria2").write_bytes(b"")  # what another program left
    gone.with_suffix(".z02").unlink()
    with pytest.raises(DownloadError, match=r"parts, \.z02 are not beside it"):
        unpack(gone, tmp_path / "never")


# ---------------------------------------------------------------------- whole data sets


def miniature(folder):
    """FSD50K with two sounds, as archives."""
    write(folder / "FSD50K.dev_audio" / "1.wav", sound(2.0, 44_100), 44_100)
    write(folder / "FSD50K.eval_audio" / "7.wav", sound(0.5, 44_100), 44_100)
    truth, info = folder / "FSD50K.ground_truth", folder / "FSD50K.metadata"
    for place in (truth, info):
        place.mkdir()
    (truth / "vocabulary.csv").write_text("0,Dog,/m/0bt9lr\n")
    (truth / "dev.csv").write_text("fname,labels,mids,split\n1,Dog,/m/0bt9lr,train\n")
    (truth / "eval.csv").write_text("fname,labels,mids\n7,Dog,/m/0bt9lr\n")
    (info / "dev_clips_info_FSD50K.json").write_text('{"1": {"uploader": "ann"}}')
    return {
        part: {f"{place.parent.name}/{place.name}": place.read_bytes()
               for place in (folder / f"FSD50K.{part}").iterdir()}
        for part in ("dev_audio", "eval_audio", "ground_truth", "metadata")
    }  # fmt: skip


def zenodo(server, folder):
    """The record and its files, as Zenodo's API has them; dev_audio in parts."""
    for part, content in miniature(folder).items():
        whole = zipped(content, zipfile.ZIP_STORED)
        parts = split(whole, 70_000) if part == "dev_audio" else [whole]
        for number, data in enumerate(parts):
            ending = "zip" if number == len(parts) - 1 else f"z{number + 1:02d}"
            server.files[f"files/FSD50K.{part}.{ending}"] = data
    server.files["files/FSD50K.doc.zip"] = b"not needed"
    listed = [
        {
            "key": path.removeprefix("files/"),
            "size": len(data),
            "checksum": f"md5:{hashlib.md5(data).hexdigest()}",
            "links": {"self": server.url(path)},
        }
        for path, data in server.files.items()
    ]
    server.files["record"] = json.dumps({"id": 4060432, "files": listed}).encode()
    return server.url("record")


def test_fsd50k_is_fetched_unpacked_and_prepared_by_one_command(server, tmp_path):
    record = zenodo(server, tmp_path / "made")
    server.drops = [10**6, 30_000, 5]  # the record comes whole, the first files do not
    command = ["prepare", "fsd50k", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    alone = CliRunner().invoke(app, [*command, "--mirror", record])
    assert (alone.exit_code, "--mirror does nothing without --download" in alone.output) == (
        2,
        True,
    )
    result = CliRunner().invoke(app, [*command, "--download", "--mirror", record])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["listed"], report["packed"], report["missing"]) == (2, 2, 0)
    assert "fetching FSD50K.dev_audio.z01" in result.stderr
    made, raw = tmp_path / "made", tmp_path / "raw"
    for place in made.rglob("*.*"):
        if place.is_file():
            assert (raw / place.relative_to(made)).read_bytes() == place.read_bytes()
    assert not any("doc" in path for path, _ in server.asked)
    asked = len(server.asked)
    fetch_fsd50k(raw, record, patience=QUICK)
    assert len(server.asked) == asked + 1, "only the record is asked for"


def test_what_is_no_record_of_fsd50k_is_one_line(server, tmp_path):
    for content in (b"[]", b'{"files": []}', b'{"files": [{"key": "FSD50K.dev_audio.zip"}]}'):
        server.files["record"] = content
        with pytest.raises(DownloadError, match="is it FSD50K's record at Zenodo"):
            fetch_fsd50k(tmp_path, server.url("record"), patience=QUICK)
    assert list(tmp_path.iterdir()) == []


def test_esc50_is_fetched_and_a_damaged_archive_is_fetched_again(server, tmp_path):
    place = write(tmp_path / "1-1-A-0.wav", sound(0.5))
    listed = "filename,fold,target,category,esc10,src_file,take\n1-1-A-0.wav,1,0,dog,True,1,A\n"
    whole = zipped({
        "ESC-50-master/meta/esc50.csv": listed.encode(),
        "ESC-50-master/audio/1-1-A-0.wav": place.read_bytes(),
    })  # fmt: skip
    server.files["esc.zip"] = _spoil(whole, 500)
    server.states_length = False
    root, address = tmp_path / "raw", server.url("esc.zip")
    with pytest.raises(DownloadError, match="delete it and download it again"):
        fetch_esc50(root, address, patience=QUICK)
    assert list((root / "downloads").iterdir()) == []
    server.files["esc.zip"] = whole
    command = ["prepare", "esc50", str(root), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*command, "--download", "--mirror", address])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "report.json").read_text())["packed"] == 1
