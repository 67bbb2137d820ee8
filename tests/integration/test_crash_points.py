"""The process dies at each named point of the protocol (state/fault.h), as kill -9 would end it there: after a restart nothing is
lost and nothing is counted twice. The points are the rows of the table in docs/GUARANTEES.md."""
import signal

from harness import Load, PipelineTest, wait_until

POINTS = (
    "frame_applied",        # applied in memory, not durable
    "store_before_commit",  # inside the group commit
    "store_after_commit",   # durable, but nobody has been told
    "rows_before_submit",   # rows computed from the durable state, not handed over
    "ack_before_send",      # the router does not know that it is durable
    "ack_after_send",
    "sink_before_commit",   # inside the transaction of the rows
    "sink_after_commit",    # rows visible, the outbox still holds them
    "sink_before_results",
)
PASSINGS = (1, 4, 19)


class CrashPointTest(PipelineTest):
    def test_dying_at_each_point_loses_and_doubles_nothing(self):
        self.w.start()
        self.w.kill()
        with Load(self.db, seed=31, pause=0.002) as load:
            for point in POINTS:
                for passing in PASSINGS:
                    self.w.spawn(env={"WARMPATH_FAULT": f"{point}:{passing}:abort"})
                    wait_until(f"it to die at {point}, passing {passing}", lambda: self.w.process.poll() is not None, 30)
                    self.assertEqual(-signal.SIGKILL, self.w.wait(1), f"{point}: {self.w.log_tail()}")
                    self.w.check_slot_behind_state()
        self.assertGreater(load.transactions, len(POINTS))
        self.w.start()
        self.w.wait_covered()
        self.w.verify()
        self.assert_counts()
        self.assertEqual(0, self.w.stop())
