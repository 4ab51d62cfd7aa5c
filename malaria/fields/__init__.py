"""Whole fields of view: find the cells, read what laboratories have annotated."""
