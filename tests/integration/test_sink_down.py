"""The cache's database is gone for a minute: nothing is lost, memory is bounded, and the rows are right soon after it is back."""
import os
import re
import time

from harness import CI, Load, PipelineTest, connect, wait_until

DOWN_SECONDS = int(os.environ.get("WARMPATH_SINK_DOWN_SECONDS", "20" if CI else "60"))
GROWTH_MIB = 96


class SinkDownTest(PipelineTest):
    separate_sink = True

    def allow(self, allowed):
        admin = connect("postgres")
        admin.cursor().execute(f"ALTER DATABASE \"{self.sink.name}\" ALLOW_CONNECTIONS {'true' if allowed else 'false'}")
        if not allowed:
            self.sink.close()
            admin.cursor().execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (self.sink.name,))
        admin.close()

    def test_nothing_is_lost_and_memory_is_bounded(self):
        self.w.start()
        Load(self.db, seed=12).run(50)
        self.w.wait_covered()
        self.w.verify()
        before = self.w.rss_kib()
        self.allow(False)
        try:
            peak = 0
            with Load(self.db, seed=13, users=200, pause=0.002) as load:
                until = time.monotonic() + DOWN_SECONDS
                while time.monotonic() < until:
                    self.assertTrue(self.w.running(), self.w.log_tail())
                    peak = max(peak, self.w.rss_kib())
                    self.w.check_slot_behind_state()
                    time.sleep(0.1)
            self.assertGreater(load.transactions, 100)
            self.assertLess(peak - before, GROWTH_MIB * 1024)
        finally:
            self.allow(True)
        delays = [int(ms) for ms in re.findall(r"stage=sink .*retrying in (\d+) ms", self.w.new_log())]
        self.assertGreater(len(delays), 2, self.w.log_tail())
        self.assertGreater(max(delays), 4 * min(delays), "the delays do not grow")
        # As soon as the longest back-off has passed, without being started again.
        wait_until("the newest rows", lambda: self.caught_up(), 60, alive=self.w)
        self.w.wait_covered()
        self.w.verify(30)
        self.assertEqual(0, self.w.stop())

    def caught_up(self):
        sums = [db.one(f"SELECT coalesce(sum({what}), 0)::bigint FROM {table}") for db, what, table in (
            (self.sink, "event_count", "strategic_conversation_patterns"), (self.db, "1", "chat_message"))]
        return sums[0] == sums[1]
