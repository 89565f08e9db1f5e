"""Fetching the data sets that are free to fetch, and unpacking them.

ROOT/downloads/   the archives as they came; nothing needs them once they are unpacked
ROOT/...          their content, in the official layout
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from atgnn.data.archives import parts_of, unpack
from atgnn.data.download import PATIENT, Patience, Progress, Remote, fetch, fetch_json
from atgnn.errors import DownloadError

__all__ = ["ESC50", "FSD50K", "fetch_esc50", "fetch_fsd50k"]

#: FSD50K's record at Zenodo, as its API gives it.
FSD50K = "https://zenodo.org/api/records/4060432"
#: ESC-50's repository as an archive. Its size and digest are not stated anywhere; the checksums
#: inside the archive tell whether it is whole.
ESC50 = "https://github.com/karolpiczak/ESC-50/archive/refs/heads/master.zip"

DOWNLOADS = "downloads"
NEEDED = ("dev_audio", "eval_audio", "ground_truth", "metadata")


def fetch_fsd50k(
    root: Path,
    record: str = FSD50K,
    progress: Progress | None = None,
    unpacked: Callable[[int, int], None] | None = None,
    patience: Patience = PATIENT,
) -> None:
    """Fetch and unpack FSD50K into `root`: 24.5 GB to fetch, as much again and more unpacked.

    Interrupted, the same call goes on. Raises `DownloadError` as `fetch` and `unpack`, or where
    `record` is not the address of such a record.
    """
    remotes = _remotes(record, fetch_json(record, patience))
    folder = root / DOWNLOADS
    for remote in remotes:
        fetch(remote, folder, progress, patience)
    for part in NEEDED:
        unpack(folder / f"FSD50K.{part}.zip", root, progress=unpacked)


def fetch_esc50(
    root: Path,
    archive: str = ESC50,
    progress: Progress | None = None,
    unpacked: Callable[[int, int], None] | None = None,
    patience: Patience = PATIENT,
) -> None:
    """Fetch and unpack ESC-50 into `root`, some 600 MB; errors are those of `fetch_fsd50k`."""
    place = fetch(Remote(archive, "ESC-50-master.zip"), root / DOWNLOADS, progress, patience)
    try:
        unpack(place, root, strip=1, progress=unpacked)
    except DownloadError:
        if len(parts_of(place)) == 1 and not _is_whole(place):
            place.unlink()  # so that the next call fetches it again, as nobody stated its digest
        raise


def _is_whole(archive: Path) -> bool:
    """Whether Python's own reader finds nothing wrong: then the disk is to blame."""
    import zipfile

    try:
        with zipfile.ZipFile(archive) as content:
            return content.testzip() is None
    except (OSError, zipfile.BadZipFile, ValueError):
        return False


def _remotes(record: str, content: Any) -> list[Remote]:
    """The files of a Zenodo record that are needed, with size and MD5."""
    try:
        remotes = [
            Remote(
                entry["links"]["self"],
                entry["key"],
                int(entry["size"]),
                str(entry["checksum"]).removeprefix("md5:"),
            )
            for entry in content["files"]
            if entry["key"].split(".")[:1] == ["FSD50K"] and entry["key"].split(".")[1] in NEEDED
        ]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        remotes = []
    names = {remote.name for remote in remotes}
    missing = [part for part in NEEDED if f"FSD50K.{part}.zip" not in names]
    if missing:
        raise DownloadError(
            f"{record} does not list FSD50K.{missing[0]}.zip: is it FSD50K's record at Zenodo?"
        )
    return remotes
