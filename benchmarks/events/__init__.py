"""How good and how fast events are."""
