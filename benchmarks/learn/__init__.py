"""New labels from a handful of clips."""
