"""The server process behind `agentkit.models.serving`. Hand-written, because a child that only serves should not import DSPy.

It takes a JSON object as its argument and its key as the first line of its standard input, prints one line with its
address, and ends when its standard input closes."""

import json, os, sys


def main(gguf: str, name: str, slots: int, context: int, threads: int, adapters: list[str] = ()):
    "Serve a GGUF file with llama.cpp until standard input closes; adapters apply to the requests that ask for them."
    import xllamacpp

    p = xllamacpp.CommonParams()
    p.model.path, p.model_alias, p.port, p.ui, p.verbosity = gguf, {name}, 0, False, 1  # 1: errors only
    p.api_keys, p.cors_origins, p.cors_origins_explicit = [sys.stdin.readline().strip()], '', True
    p.n_parallel, p.n_ctx = slots, slots * context  # n_ctx is the total
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
    p.use_jinja, p.cache_prompt, p.cache_ram_mib = True, True, 0
    p.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(a, 1.0) for a in adapters]
    server = xllamacpp.Server(p)
    print(json.dumps(dict(url=server.listening_address)), flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == '__main__':
    main(**json.loads(sys.argv[1]))
