"""What may take the place of the whole fp32 file: its forms, how they are made, and what judges them."""
