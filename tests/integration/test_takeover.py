"""One pipeline, one writer: a second instance is refused, and one that lost its lease cannot write. An old state is refused."""
import os
import shutil
import signal
import time

from harness import Load, PipelineTest, Warmpath, wait_until

LEASE_SECONDS = 10


class SecondInstanceTest(PipelineTest):
    def test_a_second_instance_is_refused_with_the_name_of_the_holder(self):
        self.w.start()
        holder = self.db.one("SELECT holder FROM strategic_lease WHERE pipeline = %s", self.name)
        for state in (None, self.w.state + "-other"):
            other = Warmpath(self.name, self.db, dir=self.w.dir)
            other.log += "-second"
            other.spawn(state)
            self.assertEqual(1, other.wait(30))
            self.assertIn(holder, other.new_log())
            self.assertIn(f":{self.w.process.pid}:", holder)
        self.assertTrue(self.w.running())
        self.assertEqual(0, self.w.stop())

    def test_a_second_pipeline_on_the_same_slot_is_refused_with_the_readers_name(self):
        self.w.start()
        other = Warmpath(self.name + "_2", self.db)
        other.write_config(name=self.name)
        with open(other.config) as f:
            text = f.read().replace(f"pipeline: {self.name}\n", f"pipeline: {self.name}_2\n")
        with open(other.config, "w") as f:
            f.write(text)
        other.spawn()
        self.assertEqual(1, other.wait(30))
        self.assertIn(f"warmpath {self.name}"[:60], other.new_log())
        self.assertTrue(self.w.running())
        self.assertEqual(0, self.w.stop())


class PausedInstanceTest(PipelineTest):
    def test_one_that_wakes_up_after_a_takeover_ends_without_having_written(self):
        self.w.start()
        first = self.w.process
        Load(self.db, seed=5).run(100)
        self.w.wait_covered()
        epoch = self.db.one("SELECT epoch FROM strategic_epoch WHERE pipeline = %s", self.name)
        self.w.pause()
        Load(self.db, seed=6).run(100)
        wait_until("the lease to run out", lambda: self.db.one(
            "SELECT until < clock_timestamp() FROM strategic_lease WHERE pipeline = %s", self.name), LEASE_SECONDS + 10)
        second = Warmpath(self.name, self.db, dir=self.w.dir)
        second.log += "-second"
        try:
            second.start()
            Load(self.db, seed=7).run(50)
            second.wait_covered()
            first.send_signal(signal.SIGCONT)
            code = first.wait(30)
            self.assertGreater(code, 0, "the first instance did not end by itself with a failure")
            Load(self.db, seed=8).run(50)
            second.wait_covered()
            second.verify()
            self.assert_counts()
            self.assertEqual(epoch + 1, self.db.one("SELECT epoch FROM strategic_epoch WHERE pipeline = %s", self.name))
            # The upper bits of a row's version are its writer's epoch: after the takeover only the second one's rose.
            self.assertEqual(epoch + 1, self.db.one("SELECT max(row_version >> 40) FROM strategic_conversation_patterns"))
            self.assertEqual(0, second.stop())
        finally:
            if first.poll() is None:
                first.kill()
                first.wait()
            if second.running():
                second.kill()


class OldStateTest(PipelineTest):
    def test_an_older_copy_of_the_state_is_refused_with_an_explanation(self):
        self.w.start()
        Load(self.db, seed=9).run(50)
        self.w.wait_covered()
        self.assertEqual(0, self.w.stop())
        copy = self.w.state + "-copy"
        shutil.copytree(self.w.state, copy)
        self.w.start()
        Load(self.db, seed=10).run(50)
        end = self.w.wait_covered()
        self.assertTrue(end)
        self.assertEqual(0, self.w.stop())
        newest = self.w.state + "-newest"
        os.rename(self.w.state, newest)
        shutil.copytree(copy, self.w.state)
        self.w.spawn()
        self.assertEqual(1, self.w.wait(30))
        self.assertIn("older copy of the state", self.w.new_log())
        # The newest one is still good.
        shutil.rmtree(self.w.state)
        os.rename(newest, self.w.state)
        self.w.start()
        self.w.verify()
        self.assert_counts()
        self.assertEqual(0, self.w.stop())

    def test_an_empty_state_beside_a_used_slot_is_refused(self):
        self.w.start()
        Load(self.db, seed=11).run(20)
        self.w.wait_covered()
        self.assertEqual(0, self.w.stop())
        self.assertEqual(self.w.name, self.db.one("SELECT slot FROM strategic_progress WHERE pipeline = %s", self.w.name))
        self.w.spawn(self.w.state + "-empty")
        self.assertEqual(1, self.w.wait(30))
        self.assertIn("holds no state", self.w.new_log())
