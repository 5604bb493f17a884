"""What every surface over HTTP uses: the caller, streams, errors, checks on every route."""
