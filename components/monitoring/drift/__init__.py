"""Drift: tests of columns, why predictions drift, what changed in the images, the pages that show it."""
