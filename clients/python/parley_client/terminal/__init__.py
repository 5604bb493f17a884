"""A chat in the terminal, built on the client; needs the extra `chat`."""
