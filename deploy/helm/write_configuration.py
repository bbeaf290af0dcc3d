"""Writes the configuration that the chart renders into a folder, as a pod would have it before it.

folder=$(mktemp -d)
helm template rotator deploy/helm/rotator -f my-values.yaml --show-only templates/config.yaml |
  python deploy/helm/write_configuration.py "$folder" && rotator check --config "$folder/rotator.json"
"""

import ast
import re
import sys
from pathlib import Path

FILE = re.compile(r'^  (rotator|targets)\.json: (".*")$', re.MULTILINE)
"""A file in a ConfigMap: the chart writes each as one text in double quotes, whose escapes are Python's, too."""


def write(rendered: str, folder: Path) -> None:
    """One main file, and the parts of the targets where it includes them from; into a folder that has none yet."""
    (folder / "targets.d").mkdir(parents=True)
    for number, (name, text) in enumerate(FILE.findall(rendered)):
        place = "rotator.json" if name == "rotator" else f"targets.d/{number}.json"
        (folder / place).write_text(ast.literal_eval(text))


if __name__ == "__main__":
    write(sys.stdin.read(), Path(sys.argv[1]))
