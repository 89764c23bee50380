"""Errors, logging and process groups; imports nothing else of the project."""
