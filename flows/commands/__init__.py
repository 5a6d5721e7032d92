"""The verbs, grouped as the product's rooms are. Only click is imported before a verb is called."""
