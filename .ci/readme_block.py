"""Print the N-th shell block of README.md (counted from 1), so that what is tested is what is written there."""

import re
import sys
from pathlib import Path

readme = Path(__file__).parents[1] / "README.md"
blocks = re.findall(r"^```sh\n(.*?)^```", readme.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
if len(blocks) != 2:
    sys.exit(f"{readme}: found {len(blocks)} shell blocks; expected exactly two")
print(blocks[int(sys.argv[1]) - 1], end="")
