"""Files that an ingest could not take: a register of them beside the manifest, and, within bounds, their bytes."""
