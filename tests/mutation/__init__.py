"""Plausible one-line mistakes, put into the core one by one: do its own tests see them?

`python -m tests.mutation` (`make mutate`) makes each mistake (`mutants`) in memory, in a process of
its own (`trials`), and runs the tests of the core's rooms that reach the line (`reach`). A mistake
that no test sees has survived. It is printed, and wants a test; or a line in `equivalent`, with
the reason why nobody can notice it. No file is changed.
"""
