"""The disk of the state is full: a stop that says what to do, nothing lost, and it goes on once there is room."""
import os
import resource
import subprocess
import unittest

from harness import PipelineTest, lsn, wait_until

LOAD = ("INSERT INTO chat_message(user_id, bot_name, role, content) SELECT 'full-' || g %% 200, 'elena', 'user', md5(g::text) "
        "FROM generate_series(1, %s) g")


class DiskFull(PipelineTest):
    rows = 0

    def load(self, rows):
        self.db.run(LOAD, rows)
        type(self).rows += rows

    def ends_and_says_so(self, reason):
        self.assertEqual(1, self.w.wait(60))
        last = self.w.new_log().splitlines()[-1]
        self.assertIn(reason, last)
        self.assertIn("make room there", last)
        covered = self.w.covered()
        confirmed = wait_until("the slot to be released", lambda: not self.w.slot()["active"] and self.w.slot()["confirmed"])
        self.assertLessEqual(lsn(confirmed), covered)

    def goes_on(self):
        self.w.start()
        expected = {f"full-{u}": self.rows // 200 for u in range(200)}
        wait_until("every message to be counted", lambda: expected == dict(self.db.run(
            "SELECT user_id, event_count FROM strategic_conversation_patterns")), 60, alive=self.w)
        self.assertEqual(0, self.w.stop())


class FileSystemTest(DiskFull):
    @unittest.skipUnless(os.geteuid() == 0, "only root may mount a file system")
    def test_a_file_system_without_room(self):
        os.makedirs(self.w.state, exist_ok=True)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", self.w.state], capture_output=True).returncode != 0:
            self.skipTest("mounting is not allowed here")
        self.addCleanup(subprocess.run, ["umount", "-l", self.w.state], check=True)
        self.w.start()
        self.load(2000)
        self.w.wait_covered()
        ballast = os.path.join(self.w.state, "ballast")
        with open(ballast, "wb", buffering=0) as f:
            try:
                while True:
                    f.write(bytes(4096))
            except OSError:
                pass
        self.load(20000)
        self.ends_and_says_so("database or disk is full")
        # Again without room: it does not start, and says the same.
        self.w.spawn()
        self.assertEqual(1, self.w.wait(60))
        os.remove(ballast)
        self.goes_on()


class FileSizeTest(DiskFull):
    def test_a_limit_on_the_size_of_files(self):
        self.w.start()
        self.load(2000)
        self.w.wait_covered()
        largest = max(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(self.w.state) for f in files)
        resource.prlimit(self.w.process.pid, resource.RLIMIT_FSIZE, (largest + 8192, largest + 8192))
        self.load(20000)
        self.ends_and_says_so("disk I/O error")
        self.goes_on()


if __name__ == "__main__":
    unittest.main()
