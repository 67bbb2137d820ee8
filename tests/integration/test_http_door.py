"""The public listener as strangers see it: whatever they send gets the documented answer (docs/HTTP.md), and a fresh request is still
served."""
import http.client
import json
import os
import re
import socket
import struct
import time

from harness import CONFIG, PipelineTest, wait_until

DOOR_CONFIG = CONFIG.replace("log: {{", """http: {{{http}}}
influx:
  secrets: [{{value: "topsecret"}}]
log: {{""")
HTTP = 'listen: "127.0.0.1:0"'
AUTH = b"Authorization: Token topsecret\r\n"


class DoorTest(PipelineTest):
    options = {"config": DOOR_CONFIG}
    http = HTTP

    @classmethod
    def setUpClass(cls):
        cls.options = {**cls.options, "config": cls.options["config"].replace("{http}", cls.http)}
        super().setUpClass()
        cls.w.start()
        cls.port = cls.wait_port()

    @classmethod
    def wait_port(cls, name="public"):
        pattern = re.compile(rf'"listening" name={name} .*port=(\d+)')
        return int(wait_until("the listener", lambda: pattern.search(cls.w.new_log()), alive=cls.w).group(1))

    def assert_serves(self):
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            conn.request("GET", "/ping")
            self.assertEqual(204, conn.getresponse().status)
        finally:
            conn.close()


class SmokeTest(DoorTest):
    def test_a_write_is_durable_and_its_process_stops_in_good_order(self):
        self.assert_serves()
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        conn.request("POST", "/write?db=x", b"nothing value=1 1700000000000000000", {"Authorization": "Token topsecret"})
        self.assertEqual(204, conn.getresponse().status)
        conn.close()
        self.assertEqual(0, self.w.stop())
