"""A server that answers as Qdrant's REST interface does where a reader of a collection notices:

- POST /collections/C/points/scroll {filter, limit (10), offset, with_payload, order_by}; pages by
  id, integers before UUIDs, next_page_offset is the first id of the next page or null;
- order_by wants an index, refuses an offset, never says next_page_offset, leaves out points that
  lack the key, gives a point with several values once for each (they eat the limit), and equal
  values in no order of ids; start_from is inclusive;
- filters: must / must_not of range (gt, gte, lt, lte) and has_id;
- api-key in its header, 401 without; 404 for another collection; and faults on demand.

It is a fake: what it says was taken from documentation and source, not from a running server.
"""
import hashlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def sort_key(point_id):
    return (0, point_id, "") if isinstance(point_id, int) else (1, 0, point_id)


def numbers(value):
    values = value if isinstance(value, list) else [value]
    return [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]


def in_range(value, bounds):
    return all((
        bounds.get("gt") is None or value > bounds["gt"],
        bounds.get("gte") is None or value >= bounds["gte"],
        bounds.get("lt") is None or value < bounds["lt"],
        bounds.get("lte") is None or value <= bounds["lte"]))


class Refused(Exception):
    def __init__(self, status, text, headers=()):
        super().__init__(text)
        self.status, self.text, self.headers = status, text, headers


class FakeQdrant:
    """points: id (int or UUID text) -> payload. faults: a list of what the next requests meet."""

    def __init__(self, collection="memories", api_key="", indexed=True, order_by=True, port=0):
        self.collection, self.api_key = collection, api_key
        self.indexed, self.order_by = indexed, order_by
        self.points = {}
        self.faults = []  # ("status", 503, {"Retry-After": "1"}), ("cut",), ("slow", s), ("garbage",)
        self.requests = []  # bodies, as they came
        self.times = []  # when they came, time.monotonic()
        self.lock = threading.Lock()
        self.connections = set()
        self.on_request = None  # called with the body, before the answer is made
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                super().setup()
                fake.connections.add(self.connection)

            def finish(self):
                fake.connections.discard(self.connection)
                super().finish()

            def log_message(self, *args):
                pass

            def do_POST(self):
                fake.handle(self)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, request, client_address):
                pass  # a client that was killed

        self.server = Server(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    @property
    def url(self):
        return "http://127.0.0.1:%d" % self.port

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    # -- data, while it runs

    def put(self, point_id, **payload):
        with self.lock:
            self.points[point_id] = payload

    def delete(self, *ids):
        with self.lock:
            for point_id in ids:
                del self.points[point_id]

    def count(self, kind=None):
        """Requests so far: all, "ordered", "filtered" (by range) or "all" (a sweep)."""
        with self.lock:
            kinds = [self.kind_of(r) for r in self.requests]
        return len(kinds) if kind is None else kinds.count(kind)

    @staticmethod
    def kind_of(request):
        if "order_by" in request:
            return "ordered"
        return "filtered" if request.get("filter") else "all"

    # -- one request

    def handle(self, http):
        body = http.rfile.read(int(http.headers.get("Content-Length", 0)))
        fault = None
        try:
            request = json.loads(body)
            with self.lock:
                self.requests.append(request)
                self.times.append(time.monotonic())
                fault = self.faults.pop(0) if self.faults else None
            if self.on_request:
                self.on_request(request)
            if fault and fault[0] == "slow":
                time.sleep(fault[1])
            if fault and fault[0] == "status":
                raise Refused(fault[1], "injected", (fault[2] if len(fault) > 2 else {}).items())
            result = self.answer(http, request)
            self.send(http, 200, {"result": result, "status": "ok", "time": 0.001}, fault)
        except Refused as why:
            self.send(http, why.status, {"status": {"error": why.text}, "time": 0}, None, why.headers)
        except OSError:
            http.close_connection = True

    def send(self, http, status, answer, fault, headers=()):
        data = json.dumps(answer, ensure_ascii=False).encode()
        if fault and fault[0] == "garbage":
            data = b"<html>proxy</html>"
        http.send_response(status)
        http.send_header("Content-Type", "application/json")
        for name, value in headers:
            http.send_header(name, value)
        http.send_header("Content-Length", str(len(data)))
        http.end_headers()
        if fault and fault[0] == "cut":
            data = data[:len(data) // 2]
            http.close_connection = True
        http.wfile.write(data)

    def answer(self, http, request):
        if self.api_key and http.headers.get("api-key") != self.api_key:
            raise Refused(401, "Must provide an API key or an Authorization bearer token")
        if http.path.split("?")[0] != "/collections/%s/points/scroll" % self.collection:
            raise Refused(404, "Not found: Collection `%s` doesn't exist!" % http.path)
        limit = request.get("limit", 10)
        if not isinstance(limit, int) or limit < 1:
            raise Refused(422, "Validation error in JSON body: limit")
        with self.lock:
            points = dict(self.points)
        if request.get("order_by") and self.order_by:
            return self.scroll_ordered(points, request, limit)
        return self.scroll_by_id(points, request, limit)

    def matches(self, point_id, payload, condition):
        if "has_id" in condition:
            return point_id in condition["has_id"]
        if "range" in condition:
            return any(in_range(v, condition["range"]) for v in numbers(payload.get(condition["key"])))
        raise Refused(400, "Wrong input: unknown condition")

    def filtered(self, points, request):
        condition = request.get("filter") or {}
        for point_id, payload in points.items():
            if all(self.matches(point_id, payload, c) for c in condition.get("must", [])) and \
                    not any(self.matches(point_id, payload, c) for c in condition.get("must_not", [])):
                yield point_id

    def record(self, points, point_id, request, **more):
        payload = points[point_id] if request.get("with_payload", True) else None
        return {"id": point_id, "payload": payload, **more}

    def scroll_by_id(self, points, request, limit):
        ids = sorted(self.filtered(points, request), key=sort_key)
        if request.get("offset") is not None:
            ids = [i for i in ids if sort_key(i) >= sort_key(request["offset"])]
        rest = ids[limit:]
        return {"points": [self.record(points, i, request) for i in ids[:limit]],
                "next_page_offset": rest[0] if rest else None}

    def scroll_ordered(self, points, request, limit):
        order = request["order_by"]
        order = {"key": order} if isinstance(order, str) else order
        if request.get("offset") is not None:
            raise Refused(400, "Wrong input: Cannot use an `offset` when using `order_by`.")
        if not self.indexed:
            raise Refused(400, "Wrong input: No range index for `order_by` key: `%s`. "
                               "Please create one to use `order_by`." % order["key"])
        sign = -1 if order.get("direction", "asc") == "desc" else 1
        start = order.get("start_from")
        pairs = [(value, point_id) for point_id in self.filtered(points, request)
                 for value in numbers(points[point_id].get(order["key"]))
                 if start is None or sign * value >= sign * start]
        # Equal values: some order, but not that of the ids.
        pairs.sort(key=lambda p: (sign * p[0], hashlib.md5(str(p[1]).encode()).digest()))
        return {"points": [self.record(points, i, request, order_value=v) for v, i in pairs[:limit]],
                "next_page_offset": None}
