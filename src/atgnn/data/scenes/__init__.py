"""Scenes: mixtures of single events over a background, with known truth.

    clips of one event each -> events, trimmed to where they can be heard
    clips without an event, or noise -> backgrounds                        -> scenes and their truth
    a matrix of co-occurrence -> sets of labels

A scene is made within one *part*, that is one split and fold: never do two parts share a clip or
an author. A label is known in a scene only where it is known in everything the scene is made of.
"""

from atgnn.data.scenes.ingredients import Ingredients
from atgnn.data.scenes.mixing import Cast, Event, Scene, Scenes
from atgnn.data.scenes.settings import SceneSettings
from atgnn.data.scenes.writing import SceneReport, write_scenes

__all__ = [
    "Cast",
    "Event",
    "Ingredients",
    "Scene",
    "SceneReport",
    "SceneSettings",
    "Scenes",
    "write_scenes",
]
