"""What people and statistics say about labels: suspects, consensus, and answers in and out of other tools."""
