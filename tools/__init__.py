"""Tools: what a model may call. See `tools.tool` for how a function becomes one."""
