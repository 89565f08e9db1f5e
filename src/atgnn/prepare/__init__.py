"""From a data set as it was downloaded to a packed folder and a report on what is in it."""
