"""A window beside another one, another class mix, or the offline test: information that triggers nothing."""
