"""Several batches in the network at once: the same results, and nobody waits for a slow pipe."""

import threading

import numpy as np
import pytest
import torch
from helpers import RATE, sound, tiny_checkpoint

from atgnn.crew import MOST, Crew
from atgnn.events import EventSettings, Stream, detect
from atgnn.tagger import Tagger

FINE = EventSettings(window_s=1.0, hop_s=0.3, on=0.55, off=0.45, ancestors=True)


@pytest.fixture(params=[False, True], ids=["windows", "moments"])
def tagger(request, monkeypatch) -> Tagger:
    tagger = Tagger(tiny_checkpoint(moments=request.param), "cpu")
    monkeypatch.setattr(tagger, "_crew", Crew(2))
    return tagger


def test_threads_have_their_share_and_leave_others_alone():
    before = torch.get_num_threads()
    crew = Crew(2 * MOST)
    assert crew.count == MOST
    shares = [crew.run(torch.get_num_threads).result() for _ in range(2 * MOST)]
    assert shares == [2] * (2 * MOST)
    assert torch.get_num_threads() == before
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [before]
    assert Crew(1).run(threading.current_thread).result() is threading.current_thread()


def test_batches_are_in_the_network_at_once():
    crew, both = Crew(2), threading.Barrier(2)
    met = [crew.run(both.wait, 20) for _ in range(2)]
    assert sorted(one.result() for one in met) == [0, 1]


def test_events_are_the_same_and_a_stream_s_are_those_of_the_file(tagger, monkeypatch):
    wave = sound(9.7)
    expected = list(detect(tagger, (wave, RATE), FINE))
    assert len(expected) > 2
    stream = Stream(tagger, RATE, FINE)
    found = [event for part in np.array_split(wave, 13) for event in stream.feed(part)]
    assert found + stream.finish() == expected
    monkeypatch.setattr(tagger, "_crew", Crew(1))
    alone = list(detect(tagger, (wave, RATE), FINE))
    assert [(e.label, e.start, e.end) for e in alone] == [
        (e.label, e.start, e.end) for e in expected
    ]


def test_what_fails_in_a_thread_is_raised(tagger, monkeypatch):
    def fails(windows, reading):
        raise MemoryError("too large")

    monkeypatch.setattr(tagger, "_taken", fails)
    with pytest.raises(MemoryError, match="too large"):
        list(detect(tagger, (sound(5), RATE), FINE))


def test_scores_do_not_wait_for_a_slow_source(tagger, monkeypatch):
    """What is in the network comes out before more is waited for, which may be for ever."""
    from atgnn import audio

    go_on = threading.Event()
    stream = audio.stream

    def slow(*arguments, **options):
        for number, window in enumerate(stream(*arguments, **options)):
            if number == 8:
                assert go_on.wait(60), "no scores came of the first windows"
            yield window

    monkeypatch.setattr(audio, "stream", slow)
    pieces = tagger.pieces(
        [(sound(9.7), RATE)], window=1.0, hop=0.3, batch_size=2, share_batches=False
    )
    seen = 0
    while seen < 6:  # of eight that can be decoded, all but those of a batch
        seen += len(next(pieces).windows)
    go_on.set()
    assert sum(len(piece.windows) for piece in pieces) + seen == 30
