"A model server on this machine that answers as a test wants, or not at all."

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from agentkit.models.remote import RemoteEngine, RemoteLM


def said(text, read=10, wrote=2):
    "A whole answer with this text, and how many tokens were read and written."
    message = dict(role='assistant', content=text)
    usage = dict(prompt_tokens=read, completion_tokens=wrote, total_tokens=read + wrote)
    about = dict(id='x', object='chat.completion', created=0, model='m', usage=usage)
    return 200, dict(about, choices=[dict(index=0, finish_reason='stop', message=message)])


REFUSED = 400, dict(error=dict(message='I am not well'))


class Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = 'HTTP/1.1', True

    def do_GET(self):
        self.send(200, dict(object='list', data=[dict(id='m', object='model')]))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers['content-length'])))
        with self.server.lock:
            self.server.asked.append(body)
            number = len(self.server.asked)
        self.send(*self.server.answer(number, body))

    def send(self, status, content, content_type='application/json', **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header('content-type', content_type)
        self.send_header('content-length', str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


class FlakyServer(ThreadingHTTPServer):
    "`answer(number, body)` says status and JSON of an answer; `asked` holds the bodies."

    daemon_threads = True

    def __init__(self, answer):
        super().__init__(('127.0.0.1', 0), Handler)
        self.answer, self.asked, self.lock = answer, [], threading.Lock()
        self.url = f'http://127.0.0.1:{self.server_port}/v1'
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def lm(self):
        "A model behind this address that is asked again without a wait."
        return RemoteLM('openai/m', RemoteEngine('openai', self.url, sleep=lambda seconds: None))

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()
