"""What each switch of training does on ESC-10."""
