"""Malaria parasites in single red blood cells: the library that the stages and the app share."""

__version__ = "0.1.0"
