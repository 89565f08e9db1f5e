"""The page: drop or record a sound; its tags, its events, the reasons, and files to take away.

    settings -> what a visitor may ask for      hearing -> what the other rooms say of one recording
    parts, style -> how that looks              script -> what happens in the browser
    page, reviewing -> the components and what they call
    serving -> the server around it: loopback, no request to anywhere else

Nothing is computed here that `events`, `explain` and `formats` do not compute.
"""

from atgnn.app.hearing import Heard, hear
from atgnn.app.reviewing import Review
from atgnn.app.serving import Served, serve
from atgnn.app.settings import AppSettings

__all__ = ["AppSettings", "Heard", "Review", "Served", "hear", "serve"]
