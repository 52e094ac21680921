"""A program: packages a model in a directory, and tells what it has imported for that."""

import json
import sys
from pathlib import Path

from tests.unit.trained import trained

trained(Path(sys.argv[1]))
sys.stdout.write(json.dumps([*sys.modules]))
