"""The parts of the agent loop: the state of one run, and the tool calls of one turn."""
