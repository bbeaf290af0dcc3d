"""Draws docs/demo.svg: `rotator demo` on a terminal of 96 columns, half-way through. Needs tmux."""

import io
import re
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

SESSION = "rotator-picture"
ROTATOR = Path(sys.executable).parent / "rotator"
PICTURE = Path(__file__).parent.parent / "docs" / "demo.svg"
PLAIN = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {terminal_width} {terminal_height}">
<style>
text {{ font-family: ui-monospace, Menlo, Consolas, monospace; font-size: 20px; white-space: pre }}
{styles}
</style>
<defs>

{lines}
</defs>
<rect width="{terminal_width}" height="{terminal_height}" rx="8" fill="#0c0c0c"/>
<g transform="translate(20 10) scale(.96)">{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""  # rich's own frame names an outside host for its font


def main() -> None:
    """Run the demo in a terminal of its own, and draw one moment of it."""
    start = ["new-session", "-d", "-s", SESSION, "-x", "96", "-y", "26", f"TERM=xterm-256color {ROTATOR} demo"]
    subprocess.run(["tmux", *start], check=True)
    time.sleep(15)
    shown = ""
    # until most have a superseded key in its grace, and the events show a key that was replaced before its cap
    while len(re.findall(r" 1 +(?:-|\d+%) +ok", shown)) < 2 or "nearly-spent" not in shown:
        time.sleep(0.2)
        capture = ["tmux", "capture-pane", "-e", "-p", "-t", SESSION]
        shown = subprocess.run(capture, check=True, capture_output=True, text=True).stdout
    subprocess.run(["tmux", "kill-session", "-t", SESSION], check=True)
    console = Console(record=True, width=96, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(shown.rstrip()), no_wrap=True)
    console.save_svg(str(PICTURE), code_format=PLAIN)


if __name__ == "__main__":
    main()
