"""Files that are replaced whole or not at all."""

import errno

import pytest

from atgnn.errors import AtgnnError
from atgnn.files import check_new, content_digest, replacing, write_text


def test_the_new_content_takes_the_old_ones_place(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    write_text(path, "née")
    assert path.read_text(encoding="utf-8") == "née"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file_whole_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fill_the_disk():
        with replacing(path) as scratch:
            scratch.write_text("half of the ne")
            assert path.read_text() == "old"
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fill_the_disk()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_synced_does_not_replace(tmp_path, monkeypatch):
    """Some file systems say only at the end that the disk is full."""

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "a.txt"
    write_text(path, "old")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_digest_says_what_is_in_a_file_not_what_it_is_called(tmp_path):
    one, two, three = (tmp_path / name for name in "abc")
    one.write_bytes(b"x" * 3_000_000)
    two.write_bytes(b"x" * 3_000_000)
    three.write_bytes(b"x" * 2_999_999 + b"y")
    assert content_digest(one) == content_digest(two) != content_digest(three)
    with pytest.raises(OSError, match="No such file"):
        content_digest(tmp_path / "none")


@pytest.mark.parametrize("name", ["file/out.parquet", "file/deeper/out.csv"])
def test_below_a_file_nothing_can_be(tmp_path, name):
    """Said before anything is computed."""
    (tmp_path / "file").write_text("a person's")
    with pytest.raises(AtgnnError, match=r"cannot be written: .*file is a file, no folder"):
        check_new(tmp_path / name, force=True)
    assert check_new(tmp_path / "folders" / "to" / "come.csv") == tmp_path / "folders/to/come.csv"
