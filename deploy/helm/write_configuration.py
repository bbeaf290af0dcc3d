"""Writes the configuration that the chart renders into a folder, as a pod finds it.

folder=$(mktemp -d)
helm template rotator deploy/helm/rotator -f my-values.yaml --show-only templates/config.yaml |
  python deploy/helm/write_configuration.py "$folder" && rotator check --config "$folder/rotator.json"
"""

import re
import sys
from pathlib import Path
from textwrap import dedent

FILE = re.compile(r"^  (rotator|targets)\.json: \|-\n((?:    .*\n?)+)", re.MULTILINE)
"""A file in a ConfigMap: the chart writes each as a block of indented lines."""


def write(rendered: str, folder: Path) -> None:
    """Write the main file and the parts of the targets that it includes into an empty folder."""
    (folder / "targets.d").mkdir(parents=True)
    for number, (name, text) in enumerate(FILE.findall(rendered)):
        place = "rotator.json" if name == "rotator" else f"targets.d/{number}.json"
        (folder / place).write_text(dedent(text))


if __name__ == "__main__":
    write(sys.stdin.read(), Path(sys.argv[1]))
