"""Opening the store: workers that start together make it together."""

import threading

import apsw
import pytest

from pillarbox.queue import schema


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_a_store_that_another_worker_is_just_making_is_waited_for(tmp_path, begin):
    file = tmp_path / schema.FILE
    other = apsw.Connection(str(file))
    other.execute(begin)
    done = threading.Timer(0.2, lambda: other.execute("ROLLBACK"))
    done.start()
    connection = schema.connect(file)
    done.join()
    assert connection.execute("PRAGMA journal_mode").get == "wal"
    assert connection.execute("SELECT count(*) FROM message").get == 0
    connection.close()
    other.close()


def test_a_store_that_stays_locked_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "BUSY_MS", 50)
    other = apsw.Connection(str(tmp_path / schema.FILE))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(apsw.BusyError):
        schema.connect(tmp_path / schema.FILE)
    other.close()
