"""The process between `agentkit.models.serving` and vLLM. Hand-written: it only starts, watches and ends another process.

It takes a JSON object as its argument and a key as the first line of its standard input, prints one line with the address
once vLLM answers, and takes vLLM along when its standard input closes."""

import ctypes, json, os, signal, socket, subprocess, sys, threading, time, urllib.request

SETTINGS = dict(VLLM_NO_USAGE_STATS='1', HF_HUB_OFFLINE='1', VLLM_ALLOW_RUNTIME_LORA_UPDATING='1')
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM allows as a largest rank


def command(model: str, name: str, slots: int, context: int, adapters: dict, rank: int, port: int) -> list[str]:
    "How vLLM is started: one model, its name on the wire, prefix caching, and adapters by name."
    out = [
        sys.executable,
        '-m',
        'vllm.entrypoints.openai.api_server',
        '--host',
        '127.0.0.1',
        '--port',
        str(port),
        '--model',
        model,
        '--served-model-name',
        name,
        '--max-model-len',
        str(context),
        '--max-num-seqs',
        str(slots),
        '--enable-prefix-caching',
        '--enable-prompt-tokens-details',
        '--generation-config',
        'vllm',
        '--allowed-origins',
        '[]',
    ]
    if adapters:
        out += [
            '--enable-lora',
            '--max-loras',
            str(len(adapters)),
            '--max-lora-rank',
            str(next(r for r in RANKS if r >= rank)),
            '--lora-modules',
            *(f'{n}={path}' for n, path in adapters.items()),
        ]
    return out


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(f'{url}/health', timeout=5).status == 200
    except OSError:
        return False


def end(code=None):
    "End vLLM, its workers and this process."
    if code is None:
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(code or 1)


def taken(port: int) -> bool:
    "Does somebody else listen on the port that was free a moment ago?"
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(('127.0.0.1', port))
        except OSError:
            return True
    return False


def start(key: str, options: dict, attempts: int = 3):
    "A vLLM that answers, and its address; where another process takes its port, it gets another one."
    port = free_port()
    url = f'http://127.0.0.1:{port}'
    die_with_me = lambda: ctypes.CDLL(None).prctl(
        1, signal.SIGKILL
    )  # PR_SET_PDEATHSIG: also when this process is killed
    vllm = subprocess.Popen(
        command(port=port, **options),
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        preexec_fn=die_with_me,
        env={**os.environ, **SETTINGS, 'VLLM_API_KEY': key},
    )
    while vllm.poll() is None and not answers(url):
        time.sleep(0.2)
    if vllm.poll() is None:
        return vllm, url
    if attempts > 1 and taken(port):
        return start(key, options, attempts - 1)
    end(vllm.returncode)


def main(**options):
    "Run vLLM until standard input closes."
    key = sys.stdin.readline().strip()
    threading.Thread(target=lambda: (sys.stdin.read(), end()), daemon=True).start()
    vllm, url = start(key, options)
    print(json.dumps(dict(url=url)), flush=True)
    end(vllm.wait())


if __name__ == '__main__':
    main(**json.loads(sys.argv[1]))
