"""When a recording began, as its recorder wrote it down.

Asked in this order, the first answer counts:

1. GUANO metadata (chunk ``guan`` of a WAV file, field ``Timestamp``; guano-md.org): bat detectors,
   Song Meters.
2. The comment that an AudioMoth writes (chunk ``LIST/INFO/ICMT``): ``Recorded at 05:30:00
   12/04/2019 (UTC+10) by AudioMoth ...``; also where it became the comment of a FLAC or Ogg file.
3. The file's name: ``20190412_053000.WAV`` (AudioMoth; with a ``T`` behind where a trigger began
   it), ``5CB02298.WAV`` (AudioMoth until firmware 1.2: seconds since 1970 in hexadecimal),
   ``PREFIX_20190412_053000.wav`` and ``PREFIX_0+1_20190412$053000.wav`` (Song Meters),
   ``20190412T053000+1000_NAME.wav`` and other spellings of ISO 8601.

A time without a zone stays without: a name says what the recorder's clock showed, and whether that
was local time or UTC is known only to who set it.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import BinaryIO, Literal

import soundfile

__all__ = ["Began", "from_comment", "from_guano", "from_name", "when_recorded"]

MOST_TEXT = 1 << 16  # bytes of a chunk of text: more is not metadata
MOST_CHUNKS = 1000  # of a file: more is not a header but noise
YEARS = range(1990, 2100)  # of file names: digits outside are some other number
HEX_SECONDS = range(0x5685C180, 0x70DBD880)  # 2016 to 2029: AudioMoths before firmware 1.2.2
DATA_SIZE_ELSEWHERE = 0xFFFFFFFF  # in RF64, where the chunk ds64 has the size of the data

ZONE = r"UTC(?:(?P<sign>[+-])(?P<zone_hours>\d{1,2})(?::(?P<zone_minutes>\d\d))?)?"
COMMENT = re.compile(
    r"Recorded at (?P<time>\d\d:\d\d:\d\d(?:\.\d{3})?) (?P<date>\d\d/\d\d/\d{4})"
    rf"(?: \({ZONE}\))? (?:by|during)\b"
)
STAMP = re.compile(
    r"(?<!\d)(?P<year>\d{4})[-.]?(?P<month>\d\d)[-.]?(?P<day>\d\d)"
    r"(?P<between>[T_$ -]?)"
    r"(?P<hour>\d\d)[-.:]?(?P<minute>\d\d)[-.:]?(?P<second>\d\d)"
    r"(?P<zone>Z|[+-](?:0\d|1[0-4]):?(?:00|15|30|45))?(?!\d)"
)
HEX = re.compile(r"[0-9A-F]{8}")


@dataclass(frozen=True)
class Began:
    """When a recording began: aware where the zone is known, else what the clock showed.

    `source` says who knows: "guano", "audiomoth" (its comment) or "name" (the file's).
    """

    time: datetime
    source: Literal["guano", "audiomoth", "name"]

    @property
    def clock(self) -> datetime:
        """What the recorder's clock showed, without a zone: the time of day."""
        return self.time.replace(tzinfo=None)

    @property
    def utc_offset(self) -> int | None:
        """Minutes that the clock was ahead of UTC; None where nobody says."""
        offset = self.time.utcoffset()
        return None if offset is None else round(offset.total_seconds() / 60)


def when_recorded(path: str | os.PathLike[str]) -> Began | None:
    """When the recording in a file began; None where neither file nor name say.

    Reads a few kilobytes, never the sound. A file that is damaged or missing has its name left.
    """
    try:
        with open(path, "rb") as file:
            guano, comment = _texts(file)
    except (OSError, ValueError):
        guano, comment = None, None
    time = None if guano is None else from_guano(guano)
    if time is not None:
        return Began(time, "guano")
    time = None if comment is None else from_comment(comment)
    if time is not None:
        return Began(time, "audiomoth")
    time = from_name(os.fspath(path))
    return None if time is None else Began(time, "name")


# ------------------------------------------------------------------ what texts and names say


def from_guano(text: str) -> datetime | None:
    """The time in a block of GUANO metadata, lines of ``key: value``."""
    for line in text.split("\n"):
        key, colon, value = line.partition(":")
        if colon and key.strip() == "Timestamp":
            value = value.strip(" \t\r\0")
            try:
                return datetime.fromisoformat(re.sub("[Zz]$", "+00:00", value))
            except ValueError:
                return None
    return None


def from_comment(text: str) -> datetime | None:
    """The time in an AudioMoth's comment.

    Its clock runs in UTC and its zone is a setting, written behind UTC. Firmware 1.0 wrote the same
    clock without naming the zone.
    """
    found = COMMENT.search(text)
    if found is None:
        return None
    form = "%H:%M:%S.%f" if "." in found["time"] else "%H:%M:%S"
    offset = timedelta(hours=int(found["zone_hours"] or 0), minutes=int(found["zone_minutes"] or 0))
    try:
        time = datetime.strptime(f"{found['date']} {found['time']}", f"%d/%m/%Y {form}")
        return time.replace(tzinfo=timezone(-offset if found["sign"] == "-" else offset))
    except ValueError:
        return None


def from_name(name: str) -> datetime | None:
    """The time in the name of a file, which may be a path; the last one where there are several."""
    path = Path(name)
    if HEX.fullmatch(path.stem):
        seconds = int(path.stem, 16)
        # Eight decimal digits are an AudioMoth's only where the name ends as it writes it.
        if seconds in HEX_SECONDS and (not path.stem.isdecimal() or path.suffix == ".WAV"):
            return datetime.fromtimestamp(seconds, timezone.utc)
    times = [_stamped(found) for found in STAMP.finditer(path.name)]
    return next((time for time in reversed(times) if time is not None), None)


def _stamped(found: re.Match[str]) -> datetime | None:
    parts = [int(found[name]) for name in ("year", "month", "day", "hour", "minute", "second")]
    if parts[0] not in YEARS:
        return None
    try:
        time = datetime(*parts)  # type: ignore[arg-type]
    except ValueError:
        return None
    if found["zone"] is None or found["between"] != "T":  # elsewhere -0100 is some number
        return time
    return time.replace(tzinfo=datetime.strptime(found["zone"], "%z").tzinfo)


# ------------------------------------------------------------------ where files keep texts


def _texts(file: BinaryIO) -> tuple[str | None, str | None]:
    """The GUANO block and the comment of a sound file, where it has them."""
    head = file.read(12)
    if head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
        return None, _comment_of(file)
    guano = comment = None
    long_size = 0
    for _ in range(MOST_CHUNKS):
        header = file.read(8)
        if len(header) < 8:
            break
        name, size = header[:4], struct.unpack("<I", header[4:])[0]
        if name == b"data" and size == DATA_SIZE_ELSEWHERE:
            size = long_size
        begin = file.tell()
        if name == b"ds64":
            long_size = int.from_bytes(file.read(16)[8:], "little")
        elif name == b"guan":
            guano = file.read(min(size, MOST_TEXT)).decode("utf-8", "replace")
        elif name == b"LIST":
            comment = _comment_in(file.read(min(size, MOST_TEXT))) or comment
        file.seek(begin + size + size % 2)  # chunks begin at even places
    return guano, comment


def _comment_in(content: bytes) -> str | None:
    """The comment (ICMT) in a LIST chunk of kind INFO."""
    place = 4 if content[:4] == b"INFO" else len(content)
    while place + 8 <= len(content):
        name, size = content[place : place + 4], struct.unpack_from("<I", content, place + 4)[0]
        if name == b"ICMT":
            return content[place + 8 : place + 8 + size].decode("utf-8", "replace").rstrip("\0 ")
        place += 8 + size + size % 2
    return None


def _comment_of(file: BinaryIO) -> str | None:
    """The comment of a FLAC or Ogg file, which is what an AudioMoth's becomes when converted."""
    file.seek(0)
    if file.read(4) not in (b"fLaC", b"OggS"):
        return None
    file.seek(0)
    try:
        with soundfile.SoundFile(file) as sound:
            return str(sound.comment) or None
    except soundfile.LibsndfileError:
        return None
