"""Mistakes that nobody can notice, and why: for each file, line and wrong line the reason."""

EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        "hub/memory.py",
        "if future is None or future.done():",
        "if future.done():",
    ): "A reader that waits has a future; the type checker wants to be told.",
    (
        "hub/memory.py",
        "if len(self._recent) >= 2 * LAG: # who does not lag reads recent events only",
        "if (len(self._recent) > 2 * LAG): # who does not lag reads recent events only",
    ): "Where older events are compacted is a matter of memory only, within a few hundred.",
    (
        "hub/memory.py",
        "if len(self._recent) >= 2 * LAG: # who does not lag reads recent events only",
        "if len(self._recent) >= (2 + LAG): # who does not lag reads recent events only",
    ): "Where older events are compacted is a matter of memory only, within a few hundred.",
    (
        "hub/memory.py",
        "if len(self._recent) >= 2 * LAG: # who does not lag reads recent events only",
        "if len(self._recent) >= 3 * LAG: # who does not lag reads recent events only",
    ): "Where older events are compacted is a matter of memory only, within a few hundred.",
    (
        "loop/calls.py",
        "return round((time.perf_counter() - began) * 1000, 3)",
        "return round((time.perf_counter() - began) * 1000, 4)",
    ): "A digit more of a duration.",
    (
        "protocols/native.py",
        "self._heads[type(event)] = head",
        "pass",
    ): "What is kept is made again where it is not; that only takes longer.",
    (
        "runs/agents.py",
        '*([("model", config.model)] if config.model else []),',
        "*(([('model', config.model)])),",
    ): "An agent without a model has the default one, which may always answer.",
    (
        "runs/driver.py",
        "await to_its_end(asyncio.ensure_future(turn.wait()))",
        "await asyncio.ensure_future(turn.wait())",
    ): "Who is cancelled here leaves its message to the next start, which puts it into its place.",
    (
        "runs/endings.py",
        "said = state.transcript.unsaved if state and has_spoken else left_open(run.stored)",
        "said = state.transcript.unsaved if has_spoken else left_open(run.stored)",
    ): "Who has spoken has a state; the type checker wants to be told.",
    (
        "runs/registry.py",
        "if stored is None:",
        "if False:",
    ): "No request comes this far: a key goes with its run.",
    (
        "runs/runner.py",
        "if loop.time() >= due:",
        "if (loop.time() > due):",
    ): "The clock never stands at exactly this moment.",
    (
        "storage/runs.py",
        'super().__init__("undone")',
        "pass",
    ): "The text of an exception that nobody is shown.",
}
