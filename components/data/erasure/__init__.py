"""Images that are taken back: out of every use, out of the newest version's shards, out of older versions' files."""
