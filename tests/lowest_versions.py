"""Print a pin of the lowest version of each dependency, to test with: see INSTALL.md."""

from __future__ import annotations

from pathlib import Path

import tomllib

content = (Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8")
for line in tomllib.loads(content)["project"]["dependencies"]:
    print(line.replace(">=", "=="))
