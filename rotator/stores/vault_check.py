"""What `rotator check --online` asks of Vault: the login, the mount, and each right that a target needs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any

from rotator.errors import StoreError
from rotator.stores.vault import VaultStore
from rotator.stores.vault_answers import CAPABILITIES, DESTROY, METADATA, WRITE, Operation
from rotator.stores.vault_client import Request

PATHS_PER_REQUEST = 500  # more than that Vault does not answer
