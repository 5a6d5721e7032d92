"""Sources, checks, shards, the manifest and splits: how images come in, and where they lie."""
