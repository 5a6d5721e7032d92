"""The evaluation as a page that a person reads, and the same facts in Markdown."""
