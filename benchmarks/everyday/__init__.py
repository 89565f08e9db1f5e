"""The model that ships: its clips, its training, and what is measured of it."""
