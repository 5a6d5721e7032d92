"""How a network answers images that are worse, attacked, or looked at several times."""
