"""The servers that are measured; each is `python -m bench.servers.<name>`.

They take `PORT`, `OPENAI_BASE_URL` and `OPENAI_API_KEY` from the environment.
"""
