"""When a recording began: GUANO, AudioMoth comments, file names. All files made here."""

import struct
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
import soundfile
from helpers import sound, write

from atgnn.recorders import Began, from_comment, from_guano, from_name, when_recorded

UTC = timezone.utc


def zone(hours, minutes=0):
    return timezone(timedelta(hours=hours, minutes=minutes))


def at(*parts, tz=None):
    return datetime(*parts, tzinfo=tz)


NOON = (2019, 4, 12, 5, 30, 0)

NAMES = {
    "20190412_053000.WAV": at(*NOON),  # AudioMoth
    "20190412_053000T.WAV": at(*NOON),  # begun by a trigger
    "5CB02298.WAV": at(*NOON, tz=UTC).replace(minute=31, second=4),  # AudioMoth until 1.2
    "5CB02298.flac": at(*NOON, tz=UTC).replace(minute=31, second=4),  # converted since
    "5C902298.wav": at(2019, 3, 18, 22, 58, 32, tz=UTC),
    "58902298.WAV": at(2017, 1, 31, 5, 37, 28, tz=UTC),  # digits alone, as an AudioMoth ends it
    "58902298.wav": None,  # digits alone: some number
    "S4A01234_20190412_053000.wav": at(*NOON),  # Song Meter SM4
    "WALDEN_20240601_140505.wav": at(2024, 6, 1, 14, 5, 5),  # Song Meter Mini 2
    "ARIZONA-1_0+1_20161023$195550.wac": at(2016, 10, 23, 19, 55, 50),  # SM3 with GPS
    "A12_20190412_053000_123456.wav": at(*NOON),  # microseconds, which are left out
    "20190412T053000+1000_REC.wav": at(*NOON, tz=zone(10)),
    "20190412T053000-0330_REC.wav": at(*NOON, tz=zone(-3, -30)),
    "site 20190412T053000Z.flac": at(*NOON, tz=UTC),
    "2019-04-12T05:30:00.wav": at(*NOON),
    "2019-04-12 05-30-00.ogg": at(*NOON),
    "2019-04-12_05.30.00.mp3": at(*NOON),
    "20190412053000.mp3": at(*NOON),
    "NRS_20190412_053000-0001.wav": at(*NOON),  # a number behind, not a zone
    "20190411_000000_copy_of_20190412_053000.wav": at(*NOON),
    "/archive/20180101_000000/20190412_053000.WAV": at(*NOON),
    "/archive/20180101_000000/night.wav": None,  # folders are no time of a file
    "20190431_053000.wav": None,  # no 31 April
    "20190412_253000.wav": None,  # no hour 25
    "00190412_053000.wav": None,
    "1234567890123456.wav": None,
    "20190412.wav": None,  # a day has no time of day
    "1-40730-A.ogg": None,
    "rooster.wav": None,
    "FFFFFFFF.WAV": None,  # 2106
    "DEADBEEF.WAV": None,
    "": None,
}


@pytest.mark.parametrize(("name", "expected"), NAMES.items())
def test_names(name, expected):
    assert from_name(name) == expected
    assert expected is None or from_name(name).tzinfo == expected.tzinfo


BY = (
    "by AudioMoth 248D9B045EC9EE79 at medium gain while battery was 4.1V and temperature was 14.0C."
)
COMMENTS = {
    f"Recorded at 05:30:00 12/04/2019 (UTC) {BY}": at(*NOON, tz=UTC),
    f"Recorded at 05:30:00 12/04/2019 (UTC+10) {BY}": at(*NOON, tz=zone(10)),
    f"Recorded at 05:30:00 12/04/2019 (UTC-3) {BY}": at(*NOON, tz=zone(-3)),
    f"Recorded at 05:30:00 12/04/2019 (UTC-9:30) {BY}": at(*NOON, tz=zone(-9, -30)),
    f"Recorded at 05:30:00 12/04/2019 (UTC-0:30) {BY}": at(*NOON, tz=zone(0, -30)),
    f"Recorded at 05:30:00 12/04/2019 (UTC+5:45) {BY}": at(*NOON, tz=zone(5, 45)),
    f"Recorded at 05:30:00.250 12/04/2019 (UTC) {BY}": at(*NOON, 250_000, tz=UTC),
    "Recorded at 05:30:00 12/04/2019 (UTC) during deployment A1B2C3D4E5F60718 at low gain while "
    "battery was 3.9V.": at(*NOON, tz=UTC),
    "Recorded at 05:30:00 12/04/2019 by AudioMoth 0123456789ABCDEF at gain setting 2 while battery "
    "state was > 5.0V": at(*NOON, tz=UTC),  # firmware 1.0
    f"Recorded at 05:30:00 31/02/2019 (UTC) {BY}": None,
    f"Recorded at 05:30:00 12/04/2019 (UTC+30) {BY}": None,
    "Recorded at noon by me": None,
    "": None,
}


@pytest.mark.parametrize(("text", "expected"), COMMENTS.items())
def test_comments(text, expected):
    assert from_comment(text) == expected
    assert expected is None or from_comment(text).utcoffset() == expected.utcoffset()


GUANO = {
    "2019-04-12T05:30:00": at(*NOON),
    "2019-04-12T05:30:00.123": at(*NOON, 123_000),
    "2019-04-12T05:30:00.123456": at(*NOON, 123_456),
    "2019-04-12T05:30:00Z": at(*NOON, tz=UTC),
    "2019-04-12T05:30:00.123Z": at(*NOON, 123_000, tz=UTC),
    "2019-04-12T05:30:00+04:00": at(*NOON, tz=zone(4)),
    "2019-04-12 05:30:00-07:00": at(*NOON, tz=zone(-7)),
    "yesterday": None,
    "": None,
}


@pytest.mark.parametrize(("stamp", "expected"), GUANO.items())
def test_guano(stamp, expected):
    text = f"GUANO|Version:  1.0\n\nMake: X\nNote: Timestamp: 1\nTimestamp:  {stamp} \0\nTE: 1\n"
    assert from_guano(text) == expected
    assert expected is None or from_guano(text).utcoffset() == expected.utcoffset()


def test_guano_without_a_time():
    assert from_guano("GUANO|Version: 1.0\nUser|Timestamp: 2019-04-12T05:30:00") is None


# ------------------------------------------------------------------ in files


def chunk(name, content):
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def wav(path, *chunks, before=False, form=b"RIFF"):
    """A second of sound with further chunks behind its data, or before them."""
    write(path)
    content = path.read_bytes()
    extra = b"".join(chunks)
    place = content.index(b"data") if before else len(content)
    content = content[:place] + extra + content[place:]
    path.write_bytes(form + struct.pack("<I", len(content) - 8) + content[8:])
    assert soundfile.info(path).duration == 1
    return path


def info(text, odd=b""):
    return chunk(b"LIST", b"INFO" + odd + chunk(b"ICMT", text.encode() + b"\0\0\0"))


COMMENT = f"Recorded at 06:30:00 12/04/2019 (UTC+1) {BY}"
STAMP = b"GUANO|Version: 1.0\nTimestamp: 2019-04-12T07:30:00+02:00\n"


@pytest.mark.parametrize("before", [True, False])
def test_chunks_are_found_before_and_behind_the_sound(before, tmp_path):
    path = wav(
        tmp_path / "20190412_053000.WAV", info(COMMENT, chunk(b"IART", b"odd")), before=before
    )
    began = when_recorded(path)
    assert began == Began(at(2019, 4, 12, 6, 30, tz=zone(1)), "audiomoth")
    assert (began.clock, began.utc_offset) == (at(2019, 4, 12, 6, 30), 60)
    both = wav(tmp_path / "both.wav", info(COMMENT), chunk(b"guan", STAMP), before=before)
    assert when_recorded(both) == Began(at(2019, 4, 12, 7, 30, tz=zone(2)), "guano")


def test_a_name_is_asked_last_and_knows_no_zone(tmp_path):
    began = when_recorded(wav(tmp_path / "20190412_053000.WAV", info("my garden")))
    assert began == Began(at(*NOON), "name")
    assert (began.clock, began.utc_offset) == (at(*NOON), None)
    assert when_recorded(wav(tmp_path / "night.wav", info("my garden"))) is None


def test_a_comment_outlives_conversion_to_flac(tmp_path):
    path = tmp_path / "night.flac"
    with soundfile.SoundFile(path, "w", 16_000, 1) as file:
        file.comment = COMMENT
        file.write(sound(0.2))
    assert when_recorded(path) == Began(at(2019, 4, 12, 6, 30, tz=zone(1)), "audiomoth")


def test_rf64_says_elsewhere_how_long_its_sound_is(tmp_path):
    path = tmp_path / "long.wav"
    data = np.zeros(1001, np.int16).tobytes()
    sizes = struct.pack("<QQQI", 0, len(data), 0, 0)
    path.write_bytes(
        b"RF64\xff\xff\xff\xffWAVE"
        + chunk(b"ds64", sizes)
        + chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16))
        + b"data\xff\xff\xff\xff"
        + data
        + chunk(b"guan", STAMP)
    )
    assert when_recorded(path).source == "guano"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"RIFF",
        b"RIFF\0\0\0\0WAVE" + b"LIST\xff\xff\xff\xffINFOICMT\xff\xff\xff\xff",
        b"RIFF\0\0\0\0WAVE" + b"guan\x08\0\0\0\xff\xfe\xff\xfe\xff\xfe\xff\xfe",
        b"RIFF\0\0\0\0WAVE" + b"junk\0\0\0\0" * 5000,
        b"fLaC and nothing more",
        bytes(range(256)) * 16,
    ],
)
def test_damaged_files_have_their_names_left(content, tmp_path):
    path = tmp_path / "20190412_053000.wav"
    path.write_bytes(content)
    assert when_recorded(path) == Began(at(*NOON), "name")


def test_a_missing_file_has_its_name_left(tmp_path):
    assert when_recorded(tmp_path / "20190412_053000.wav").source == "name"
    assert when_recorded(tmp_path / "night.wav") is None
