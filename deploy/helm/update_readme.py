"""Writes the chart's README from the comments of values.yaml: run it after a change there.

A value without a comment has the description of values.schema.json.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHART = Path(__file__).resolve().parent / "rotator"
README = CHART / "README.md"
SECTION = re.compile(r"# --- (.+?) -+")
COMMENT = re.compile(r" *# (?! |- )(.*)")
"""Not an example, which begins with a space or a hyphen."""
VALUE = re.compile(r"( *)(\w+):(?: +([^ #].*?))?(?: +# (.*))?")

INTRODUCTION = """\
<!-- Written by deploy/helm/update_readme.py from values.yaml. -->
# The chart of rotator

[rotator](https://github.com/vault-key-rotator/rotator) keeps API keys of Respan and other LLM vendors fresh in
HashiCorp Vault.
[In Kubernetes](https://vault-key-rotator.github.io/rotator/kubernetes/) leads from nothing to the first key.

You need Kubernetes 1.27 or later, and Helm 3 or 4: the chart was tried with 3.22 and 4.3.
These values are required:

```yaml
image:
  repository: registry.example.org/rotator
owner: prod-eu
vault:
  address: https://vault.vault.svc:8200
targets:
  billing-api:
    path: apps/billing/respan
```

```sh
helm install rotator deploy/helm/rotator -n rotator -f my-values.yaml
helm test rotator -n rotator      # runs `rotator check --online` in a pod; it changes nothing
```

Helm refuses a wrong value before it installs anything.
What it renders depends on the values alone: the chart looks nothing up in the cluster."""


def updated() -> str:
    """Return the README as it should be."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    text = (CHART / "values.yaml").read_text()
    # A table whose keys are Kubernetes' own is one value.
    text = re.sub(r"(?m)^(\w+):\n((?:  \w.*\n)+)", lambda found: inline(schema, found), text)
    return "\n".join([INTRODUCTION, *rows(schema, text.splitlines())]) + "\n"


def inline(schema: dict[str, Any], found: re.Match[str]) -> str:
    """Return a table on one line, unless the schema knows its keys."""
    if "properties" in schema["properties"][found[1]]:
        return found[0]
    return f"{found[1]}: {{{', '.join(line.strip() for line in found[2].splitlines())}}}\n"


def rows(schema: dict[str, Any], lines: list[str]) -> Iterator[str]:
    """Yield a heading for each section of values.yaml, and a row for each value."""
    comment: list[str] = []
    path: list[str] = []
    for line in lines:
        if heading := SECTION.fullmatch(line):
            yield f"\n## {capital(heading[1])}\n\n| Value | Default | Meaning |\n|---|---|---|"
        elif value := VALUE.fullmatch(line):
            indent, name, default, beside = value.groups()
            path = [*path[: len(indent) // 2], name]
            meaning = " ".join([*comment, *([beside] if beside else [])])
            if default is not None or meaning:
                shown = f"`{default}`" if default is not None else ""
                yield f"| `{'.'.join(path)}` | {shown} | {sentence(meaning or described(schema, path))} |"
            comment = []
        elif text := COMMENT.fullmatch(line):
            comment.append(text[1])
        elif not line:
            comment = []


def described(schema: dict[str, Any], path: list[str]) -> str:
    """Return the schema's description of a value."""
    for name in path:
        schema = schema["properties"][name]
    return str(schema["description"])


def capital(text: str) -> str:
    """Return a text with a capital at its start, unless it begins with a name in small letters."""
    return text[0].upper() + text[1:] if re.match("[a-z]+[ ']|[a-z]+: ", text) else text


def sentence(text: str) -> str:
    """Return a comment as a table shows it."""
    return capital(text).rstrip(".:").replace("|", r"\|") + "."


if __name__ == "__main__":
    README.write_text(updated())
