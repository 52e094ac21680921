"""The servers that are measured, each as its own documentation would have it written. All score the same model."""

WEIGHTS = (0.25, -0.5, 1.25, 0.0)
