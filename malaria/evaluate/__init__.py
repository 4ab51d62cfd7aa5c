"""How good a model is: metrics with intervals over patients, calibration, comparison."""
