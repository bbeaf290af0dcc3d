"""A stateful simulator of Respan's temporary-keys API, with faults on request: for the demo, the tests, the benchmarks.

Imports only the standard library and nothing else of `rotator`, so that it cannot repeat an error of our adapter.

    with Simulator(options=Options(page_size=2)) as sim:
        sim.url, sim.organisation_key        # its address, and the bearer token that it accepts
        sim.faults.add(Fault("drop_after", "create"))
        sim.vendor.keys, sim.journal         # the keys, and the calls so far

`options` holds the switches, `vendor` the state (`use`: what keys used; `policies`: caps beside them), `faults` the
rules, `api` the vendor's HTTP API, `control` an endpoint for other processes, `wire` HTTP itself, `server` the whole.
"""

from rotator.simulator.api import Call
from rotator.simulator.faults import Fault, Faults
from rotator.simulator.options import Options, described, with_switches
from rotator.simulator.server import Simulator
from rotator.simulator.vendor import Key, Refusal, Vendor

__all__ = ["Call", "Fault", "Faults", "Key", "Options", "Refusal", "Simulator", "Vendor", "described", "with_switches"]
