"""ESC-10 by its official folds."""
