"""Measure an agent, distil it into a small local model, compare honestly: a Jupyter-first research kit

Modules:

- `agentkit.models.llama_server`: The server process behind `agentkit.models.serving`. Hand-written, because a child that only serves should not import DSPy.
- `agentkit.models.vllm_server`: The process between `agentkit.models.serving` and vLLM. Hand-written: it only starts, watches and ends another process."""

__version__ = '0.2.0'
