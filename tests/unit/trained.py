"""A small model for which runners answer."""

from pathlib import Path

import weighbridge

NAME = "rent"
ROW = {"features": [3.0]}
ANSWER = 6.0
"""What it predicts of the row."""


def trained(directory: Path) -> Path:
    """A directory of models with its version 1."""
    weighbridge.package([2.0], directory / NAME / "1", example=[[1.0], [2.0]])
    (directory / NAME / "rollout.toml").write_text('placement = "runner"\n')
    return directory
