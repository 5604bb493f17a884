"""HTTP and WebSocket surfaces: each moves frames and knows no event by name."""
