"""The benchmark: what one relayed token costs this service, and what it costs others.

`python -m bench` measures the service, the plain version that most people write and a raw
byte relay in one run on one machine, and writes `docs/benchmark.md`. Rules:

* The server has one core to itself; the upstream and the load client share another one.
* The three servers take turns, scenario by scenario, so that a machine that slows down slows
  all of them; a figure is the median of the repetitions.
* CPU is the server process's own (user and system), read from its CPU clock.
* A scenario in which a stream lost a token, or did not end properly, raises: it has no figure.

The benchmark needs Linux and two cores.
"""
