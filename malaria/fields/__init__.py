"""Whole fields of view: find the cells, and read what laboratories have annotated."""
