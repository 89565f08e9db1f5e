"""Pre-training: a patch encoder learns from sound that nobody labelled."""
