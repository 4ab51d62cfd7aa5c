"""Evaluate a model: metrics with intervals over patients, calibration, comparison."""
