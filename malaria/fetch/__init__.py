"""Fetch cells: one module for each source, and the modules that they share."""
