"""When something is heard: events with start, end, label and score, from files and from streams.

The recording is heard in overlapping windows. By windows, the score of a label from one window's
start to the next is the mean over the windows that hold this stretch whole, and those count most in
whose middle it lies. By moments, of models that were trained for it, a window's patch nodes are
read out column by column. A label's event lasts while its score is at least `off`, if it reaches
`on` at least once.

A stream gives the events of the whole file, to the last bit, however it is cut: both pass the same
resampler, the same windows, in the same batches, and the same `Detector`.

`settings`: what counts; `listening`: which windows, what is read of them; `curves`: from windows to
the course of all labels; `detector`: from that to events; `recordings` and `stream`: who asks.
"""

from atgnn.events.curves import Curve, MomentCurve, Stretch, curve
from atgnn.events.detector import Detector
from atgnn.events.listening import Listening
from atgnn.events.recordings import detect, events_in, heard, timelines
from atgnn.events.settings import EventSettings
from atgnn.events.stream import Stream
from atgnn.tags import Event, Timeline

__all__ = [
    "Curve",
    "Detector",
    "Event",
    "EventSettings",
    "Listening",
    "MomentCurve",
    "Stream",
    "Stretch",
    "Timeline",
    "curve",
    "detect",
    "events_in",
    "heard",
    "timelines",
]
