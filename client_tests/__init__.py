"""Published clients, unmodified, against the service's process: `make test-clients`."""
