"""The front end: waveform in, what a network hears out.

`config` has the settings and the presets, `module` the front end, `kaldi` and `stft` the two ways
to cut a waveform into windowed frames, `filters` the mel filters, `statistics` what normalises.
"""

from atgnn.frontend.config import FRONT_ENDS, FrontEndConfig, front_end_preset
from atgnn.frontend.module import FrontEnd
from atgnn.frontend.statistics import Statistics, measure_statistics

__all__ = [
    "FRONT_ENDS",
    "FrontEnd",
    "FrontEndConfig",
    "Statistics",
    "front_end_preset",
    "measure_statistics",
]
