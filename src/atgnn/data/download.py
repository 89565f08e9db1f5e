"""Files from the network: fetched on where they broke off, checked, and then given their name.

A file that is not complete lies beside its place as ``.NAME.part``. Only what is complete, and has
the size and the MD5 that were promised, gets the name: a file that is there needs no second look.
"""

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from atgnn import __version__
from atgnn.errors import DownloadError

__all__ = ["Patience", "Progress", "Remote", "fetch", "fetch_json"]

BLOCK = 1 << 18

#: Told a file's name, the bytes of it that are here, and how many there are (None: not known).
Progress: TypeAlias = Callable[[str, int, int | None], None]


class Remote(NamedTuple):
    """A file to fetch; `size` (bytes) and `md5` (hex) where the server's catalogue states them."""

    url: str
    name: str
    size: int | None = None
    md5: str | None = None


class Patience(NamedTuple):
    """How long to bear with a server.

    Attributes:
        attempts: in a row that bring nothing new, before giving up.
        wait: seconds before the second attempt, doubled each time.
        timeout: seconds without an answer that end an attempt.
    """

    attempts: int = 6
    wait: float = 1.0
    timeout: float = 60.0


class _Interrupted(Exception):
    """An attempt broke off, for a reason that may pass."""


PATIENT = Patience()


def fetch(
    remote: Remote, folder: Path, progress: Progress | None = None, patience: Patience = PATIENT
) -> Path:
    """Fetch a file into `folder`, from where an earlier call or attempt broke off; its path.

    Raises `DownloadError`, in one line, for an address that is not there, a server that cannot be
    reached or keeps breaking off, a file that arrives damaged twice, and a full disk. What came
    stays for the next call.
    """
    target, part = folder / remote.name, folder / f".{remote.name}.part"
    try:
        if target.is_file() and remote.size in (None, target.stat().st_size):
            return target
        folder.mkdir(parents=True, exist_ok=True)
        for last in (False, True):
            _fetch_part(remote, part, progress, patience)
            problem = _problem(remote, part)
            if problem is None:
                os.replace(part, target)
                return target
            part.unlink()  # nobody knows where it is wrong: all of it again, once
            if last:
                raise DownloadError(f"{remote.url}: {problem}, twice: try again later")
    except OSError as error:
        raise DownloadError(
            f"{target} cannot be written ({error.strerror or error}); what came is kept, the same "
            "command goes on"
        ) from None
    raise AssertionError("unreachable")


def fetch_json(url: str, patience: Patience = PATIENT) -> Any:
    """What a catalogue answers. Raises `DownloadError` as `fetch`, or where it is no JSON."""

    def attempt() -> bytes:
        with _opened(url, 0, patience) as answer:
            try:
                content: bytes = answer.read()
            except (http.client.HTTPException, OSError) as error:
                raise _Interrupted(f"the connection broke off ({type(error).__name__})") from None
            return content

    content = _patiently(attempt, lambda: 0, url, patience)
    try:
        return json.loads(content)
    except ValueError:
        raise DownloadError(f"{url} does not answer with JSON: is it the right address?") from None


def _fetch_part(remote: Remote, part: Path, progress: Progress | None, patience: Patience) -> None:
    """Attempt after attempt, until all of it is in `part`."""

    def have() -> int:
        return part.stat().st_size if part.is_file() else 0

    def attempt() -> None:
        begin = have()
        if begin and begin == remote.size:
            return
        with _opened(remote.url, begin, patience) as answer:
            _receive(answer, begin, part, remote, progress)

    _patiently(attempt, have, remote.url, patience)


def _receive(
    answer: Any, begin: int, part: Path, remote: Remote, progress: Progress | None
) -> None:
    """Write what an answer brings; raises `_Interrupted` where it brings less than it says."""
    if answer.status == 206:
        stated = str(answer.headers.get("Content-Range", ""))
        if not stated.startswith(f"bytes {begin}-"):
            part.unlink(missing_ok=True)
            raise _Interrupted(f"the server sent another part ({stated or 'unnamed'})")
    else:  # a server that knows no parts sends all of it
        begin = 0
    length = answer.headers.get("Content-Length")
    end = begin + int(length) if length else remote.size
    done, broken = begin, False
    with part.open("r+b" if begin else "wb") as file:
        file.seek(begin)
        while not broken:
            try:
                block = answer.read1(BLOCK)
            except http.client.IncompleteRead as error:
                block, broken = error.partial, True
            except (http.client.HTTPException, OSError):
                block, broken = b"", True
            if not block:
                break
            file.write(block)
            done += len(block)
            if progress is not None:
                progress(remote.name, done, end)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
    if broken or (end is not None and done < end):
        raise _Interrupted(f"the connection broke off at {done} of {end or 'unknown'} bytes")


def _opened(url: str, begin: int, patience: Patience) -> Any:
    """An answer, from the byte `begin` on. Raises `DownloadError` or `_Interrupted`."""
    headers = {"User-Agent": f"atgnn/{__version__}", "Accept-Encoding": "identity"}
    if begin:
        headers["Range"] = f"bytes={begin}-"
    try:
        request = urllib.request.Request(url, headers=headers)
        return urllib.request.urlopen(request, timeout=patience.timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing lies beyond what we have
            return _Nothing(begin)
        if error.code in (408, 425, 429) or error.code >= 500:
            raise _Interrupted(f"the server answers {error.code} {error.reason}") from None
        raise DownloadError(
            f"{url}: the server answers {error.code} {error.reason}: check the address"
        ) from None
    except urllib.error.URLError as error:
        raise _Interrupted(f"it cannot be reached ({error.reason})") from None
    except (http.client.HTTPException, OSError) as error:
        raise _Interrupted(f"the connection failed ({type(error).__name__})") from None
    except ValueError:
        raise DownloadError(f"{url!r} is no address: expected https://...") from None


class _Nothing:
    """An answer without content: all of the file is here."""

    status = 206

    def __init__(self, begin: int) -> None:
        self.headers = {"Content-Range": f"bytes {begin}-{begin}/{begin}", "Content-Length": "0"}

    def read1(self, size: int) -> bytes:
        return b""

    def __enter__(self) -> "_Nothing":
        return self

    def __exit__(self, *error: object) -> None: ...


def _patiently(
    attempt: Callable[[], Any], have: Callable[[], int], url: str, patience: Patience
) -> Any:
    """Repeat what breaks off, as long as something new comes or there is patience left."""
    vain, wait, before = 0, patience.wait, have()
    while True:
        try:
            return attempt()
        except _Interrupted as error:
            vain, wait = (0, patience.wait) if have() > before else (vain + 1, 2 * wait)
            before = have()
            if vain >= patience.attempts:
                raise DownloadError(
                    f"{url}: {error}; {vain} attempts brought nothing: check the network, the "
                    "same command goes on"
                ) from None
            time.sleep(wait / 2)


def _problem(remote: Remote, part: Path) -> str | None:
    """What is wrong with a file that has come; None if all is well."""
    size = part.stat().st_size
    if remote.size is not None and size != remote.size:
        return f"{size} bytes came, expected {remote.size}"
    if remote.md5 is None:
        return None
    digest = hashlib.md5(usedforsecurity=False)
    with part.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    if digest.hexdigest() != remote.md5.lower():
        return f"what came has MD5 {digest.hexdigest()}, expected {remote.md5}"
    return None
