"""What other rules would have decided on the windows there were."""
