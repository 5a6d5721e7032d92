"""Dataset versions: git, DVC, and what stands between them and a crash."""
