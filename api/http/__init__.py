"""What every surface over HTTP uses: who asks, streams, errors, checks on every route."""
