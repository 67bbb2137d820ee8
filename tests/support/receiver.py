"""A receiver of outgoing webhooks that behaves as a test wants, and checks signatures with nothing of ours."""
import base64
import hashlib
import hmac
import http.server
import json
import threading
import time


def verify(secrets, headers, body):
    """How many of the secrets have signed this delivery, as https://www.standardwebhooks.com has it."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    given = [s.partition(",")[2] for s in headers["webhook-signature"].split(" ") if s.startswith("v1,")]
    matches = 0
    for secret in secrets:
        key = base64.b64decode(secret.removeprefix("whsec_"))
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        matches += any(hmac.compare_digest(expected, g) for g in given)
    return matches


class Delivery:
    def __init__(self, path, headers, body):
        self.at = time.monotonic()
        self.path, self.body = path, body
        self.headers = {k.lower(): v for k, v in headers.items()}
        self.id = self.headers["webhook-id"]
        self.json = json.loads(body)
        self.key = (self.json["bot_name"], self.json["user_id"])
        self.version = self.json["row_version"]


class Receiver:
    """behave(delivery) answers (status, headers, body), or takes the handler and does what it likes: behave(delivery, handler) -> None."""

    def __init__(self):
        self.lock = threading.Lock()
        self.tried = []     # every attempt
        self.taken = []     # those answered 2xx
        self.behave = None  # None: 204
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self):
                receiver.handle(self)

            do_GET = do_POST

            def log_message(self, *args):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address):
                pass  # clients that are killed

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def handle(self, handler):
        body = handler.rfile.read(int(handler.headers.get("content-length", "0")))
        d = Delivery(handler.path, handler.headers, body)
        with self.lock:
            self.tried.append(d)
            behave = self.behave
        answer = behave(d, handler) if behave else (204, {}, b"")
        if answer is None:
            handler.close_connection = True
            return
        status, headers, text = answer
        if 200 <= status < 300:
            with self.lock:
                self.taken.append(d)
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if status != 204:
            handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    def deliveries(self, all=False):
        with self.lock:
            return list(self.tried if all else self.taken)

    def clear(self, behave=None):
        with self.lock:
            self.tried, self.taken, self.behave = [], [], behave

    def close(self):
        self.server.shutdown()
        self.server.server_close()
