"""Use cases: what a flow's task or a command does in one call, from opening a workspace to judging a window."""
