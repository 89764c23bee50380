"""Processes: how a run is started, on one machine or many, and how it ends."""
