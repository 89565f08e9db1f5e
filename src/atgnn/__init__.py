"""Audio tagging with graph neural networks: any sound in, its tags out.

>>> from atgnn import Tagger  # doctest: +SKIP
>>> print(Tagger.from_pretrained().tag("dog.wav"))  # doctest: +SKIP

Names below are loaded when they are first used, so that `import atgnn` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from atgnn.audio import Recording as Recording
    from atgnn.audio import load as load
    from atgnn.checkpoint import Checkpoint as Checkpoint
    from atgnn.data.clips import Clips as Clips
    from atgnn.errors import AtgnnError as AtgnnError
    from atgnn.events import EventSettings as EventSettings
    from atgnn.events import Stream as Stream
    from atgnn.events import detect as detect
    from atgnn.frontend import FrontEnd as FrontEnd
    from atgnn.frontend import FrontEndConfig as FrontEndConfig
    from atgnn.labels import Ontology as Ontology
    from atgnn.labels import Vocabulary as Vocabulary
    from atgnn.model import ATGNN as ATGNN
    from atgnn.model import ModelConfig as ModelConfig
    from atgnn.shipped import shipped_models as shipped_models
    from atgnn.tagger import Excerpt as Excerpt
    from atgnn.tagger import Tagger as Tagger
    from atgnn.tags import Event as Event
    from atgnn.tags import Tag as Tag
    from atgnn.tags import Tagging as Tagging
    from atgnn.tags import Timeline as Timeline

_HOMES = {
    "ATGNN": "model",
    "AtgnnError": "errors",
    "Checkpoint": "checkpoint",
    "Clips": "data.clips",
    "Event": "tags",
    "EventSettings": "events",
    "Excerpt": "tagger",
    "FrontEnd": "frontend",
    "FrontEndConfig": "frontend",
    "ModelConfig": "model",
    "Ontology": "labels",
    "Recording": "audio",
    "Stream": "events",
    "Tag": "tags",
    "Tagger": "tagger",
    "Tagging": "tags",
    "Timeline": "tags",
    "Vocabulary": "labels",
    "detect": "events",
    "load": "audio",
    "shipped_models": "shipped",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'atgnn' has no attribute {name!r}")
    value: object = getattr(import_module(f"atgnn.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
