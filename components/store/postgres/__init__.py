"""PostgreSQL of our own, embedded in the workspace: its programs, its folder, its life."""
