"""Malaria parasites in single red blood cells: the library that the stages and the app share."""

__version__ = "1.0.0"
RESEARCH = "Research use only. Not a diagnosis."
