"""Puts the scripts (repository root) and the importers (data/) where the tests can import them."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
for folder in (ROOT / "data", ROOT):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
