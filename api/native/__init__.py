"""The service's own surface: chat, runs, conversations, agents, memories, the socket, the page."""
