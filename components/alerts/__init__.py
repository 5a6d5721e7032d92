"""Telling people: one message, many channels."""
