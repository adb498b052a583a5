"A server that keeps the bodies it gets."

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Echo(ThreadingHTTPServer):
    "Gives one reply to every chat request."

    daemon_threads = True

    def __init__(self, reply):
        super().__init__(('127.0.0.1', 0), _Handler)
        self.reply, self.bodies, self.url = reply, [], f'http://127.0.0.1:{self.server_port}/v1'

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers['Content-Length']))))
        message = dict(role='assistant', content=self.server.reply)
        choices = [dict(index=0, finish_reason='stop', message=message)]
        usage = dict(prompt_tokens=9, completion_tokens=2, total_tokens=11)
        reply = dict(id='x', object='chat.completion', created=0, model='parrot', usage=usage, choices=choices)
        content = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass
