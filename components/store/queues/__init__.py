"""What lies before people, and what they answered."""
