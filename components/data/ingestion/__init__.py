"""From a stream of files to a new dataset version: checks, groups, splits."""
