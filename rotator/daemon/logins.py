"""Keeps the logins to the stores, and reports those that fail or are about to expire."""

from collections.abc import Mapping

from rotator.core.errors import RotatorError
from rotator.core.events import Event, EventType, Level
from rotator.core.ports import Clock, Listener
from rotator.core.times import timestamp
from rotator.daemon.notices import Notices
from rotator.stores.vault.check import login_end
from rotator.stores.vault.store import VaultStore


class Logins:
    """The logins of all stores. Only one thread may call `keep`."""

    def __init__(self, clock: Clock, emit: Listener) -> None:
        self._clock, self._emit = clock, emit
        self.failing, self._tokens = Notices(emit), Notices(emit)  # by store

    def keep(self, vaults: Mapping[str, VaultStore]) -> None:
        """Log in or renew, where either is due."""
        for name, store in vaults.items():
            try:
                store.keep_login()
            except RotatorError as error:
                # Once for each error, and not if `upstream_down` reports it.
                if self.failing.count(name, error.message) == 1 and store.client.circuit.error is None:
                    fields = {"store": name, "error": error.message, "advice": error.advice}
                    self._emit(Event(EventType.LOGIN_FAILED, level=Level.of(error), fields=fields))
            else:
                self.failing.resolve(Event(EventType.LOGIN_RECOVERED, fields={"store": name}), name)
                self._report_end(name, store)

    def _report_end(self, name: str, store: VaultStore) -> None:
        end, ends_at = login_end(store, self._clock.now()), store.token_expires_at
        if end is not None and ends_at is not None:
            fields = {"store": name, "expires_at": timestamp(ends_at), "message": end.message, "advice": end.advice}
            self._tokens.report(Event(EventType.LOGIN_ENDING, level=Level.WARNING, fields=fields), name, ends_at)
