"""The patterns of the JSON Schema, by which an editor or Helm refuses a value before rotator does.

Each accepts all that `values` accepts, but for needless zeros; what no pattern can refuse is left to `values` and
`rules`. Helm's patterns know no lookahead, so NOT_ZERO is a pattern of its own.
"""

_DAYS = "(3650|36[0-4][0-9]|3[0-5][0-9]{2}|[0-2]?[0-9]{1,3})"  # core.versions.LONGEST
_SHARE = "[0-9]{1,2}([.][0-9]{1,3})?%"
_UNITS = f"({_DAYS}d)?([0-9]{{1,5}}h)?([0-9]{{1,7}}m)?([0-9]{{1,9}}s)?"
DURATION = f"^{_UNITS}$"
DURATION_OR_SHARE = f"^({_UNITS}|{_SHARE})$"
NOT_ZERO = "[1-9]"
UP_TO_50_PERCENT = "^(50([.]0{1,3})?|[0-4]?[0-9]([.][0-9]{1,3})?)%$"
UP_TO_100_PERCENT = f"^(100%|{_SHARE})$"

_PORT = "(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[0-5]?[0-9]{1,4})"
_HOST = r"([A-Za-z0-9._-]+|\[[^/?#@\]]+\])"
ADDRESS = f"^{_HOST}:{_PORT}$"
PROXY = f"^https?://{_HOST}(:{_PORT}?)?/?$"
URL = f'^https?://{_HOST}(:{_PORT}?)?(/[!"$->A-~]*)?$'

_SEGMENT = "([^/.][^/]*|[.][^/.][^/]*|[.][.][^/]+)"
PATH = f"^{_SEGMENT}(/{_SEGMENT})*$"
"""No segment is empty, "." or ".."."""
REFERENCE = "^[^/]+/.+#[^#]+$"

PART = "^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"
