"""The account of a mailbox in its file `maildirsize`, beside others who write there too."""

import multiprocessing
import os
import threading
import time

import pytest

from pillarbox.policy.maildirsize import Room, add, forget, judge, locked, measure, open_home, recount
from pillarbox.policy.users import Overflow, Quota

NOW = time.time()


def quota_of(folder, size=1000, **limits):
    facts = {"messages": 0, "slack": 0, "overflow": Overflow.TEMP, "grace_s": 100.0, **limits}
    return Quota(f"{folder}/./ann", size, **facts)


@pytest.fixture
def home(tmp_path):
    """An empty mailbox."""
    for name in ("tmp", "new", "cur"):
        (tmp_path / "ann" / name).mkdir(parents=True)
    return tmp_path / "ann"


def put(folder, name, octets):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"x" * octets)


def ask(work, quota, *arguments):
    with open_home(quota) as descriptor:
        return work(descriptor, quota, *arguments)


def note(quota, octets, messages=1):
    with open_home(quota) as descriptor:
        add(descriptor, octets, messages)


def test_what_lies_there_is_counted_once_and_then_added_to(home, tmp_path):
    quota = quota_of(tmp_path)
    put(home / "new", "1.a", 100)
    put(home / "cur", "2.b,S=50:2,S", 3)  # a name that tells the size is believed
    put(home / ".work" / "cur", "3.c:2,", 10)
    put(home / "tmp", "4.d", 1000)
    put(home / "other", "5.e", 1000)
    usage = ask(measure, quota)
    assert (usage.octets, usage.messages) == (160, 3)
    assert (home / "maildirsize").read_text() == "1000S\n160 3\n"
    note(quota, 40)
    assert (home / "maildirsize").read_text() == "1000S\n160 3\n40 1\n"
    put(home / "new", "6.f", 500)  # nobody said so
    usage = ask(measure, quota)
    assert (usage.octets, usage.messages) == (200, 4)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1000S",
        "2000S\n0 0\n",
        "1000S\n0 0",
        "1000S\nmany 1\n",
        "1000S\n5 5\n-10 -1\n",
        "1000S\n1 1 1\n",
        "1000S\n" + "0 0\n" * 1300,
    ],
)
def test_a_file_that_cannot_be_believed_is_made_anew(home, tmp_path, text):
    put(home / "new", "1.a", 7)
    (home / "maildirsize").write_text(text)
    assert ask(measure, quota_of(tmp_path)).octets == 7
    assert (home / "maildirsize").read_text() == "1000S\n7 1\n"


def test_the_limits_stand_in_the_first_line(home, tmp_path):
    for limits, line in (
        ({"size": 1000, "slack": 50}, "1050S"),
        ({"size": 0, "messages": 9}, "9C"),
        ({"size": 5, "messages": 9}, "5S,9C"),
    ):
        ask(measure, quota_of(tmp_path, **limits))
        assert (home / "maildirsize").read_text().split("\n")[0] == line


def test_up_to_the_limit_and_no_octet_more(home, tmp_path):
    quota = quota_of(tmp_path)
    put(home / "new", "1.a", 400)
    assert ask(judge, quota, 600, NOW) is Room.ENOUGH
    assert ask(judge, quota, 601, NOW) is Room.FULL_FOR_NOW
    assert ask(judge, quota_of(tmp_path, messages=1), 0, NOW) is Room.FULL_FOR_NOW
    assert ask(judge, quota_of(tmp_path, overflow=Overflow.REJECT), 601, NOW) is Room.FULL


def test_the_time_of_grace_begins_with_the_first_message_too_much(home, tmp_path):
    quota = quota_of(tmp_path)
    put(home / "new", "1.a", 1000)
    assert ask(judge, quota, 0, NOW) is Room.FULL_FOR_NOW
    os.utime(home / "pillarbox-over-quota", (NOW, NOW))
    assert ask(judge, quota, 0, NOW + 100) is Room.FULL_FOR_NOW
    assert ask(judge, quota, 0, NOW + 101) is Room.FULL
    (home / "new" / "1.a").unlink()  # behind our back: a full mailbox is counted again when that was long ago
    os.utime(home / "maildirsize", (NOW, NOW))
    assert ask(judge, quota, 0, NOW + 5000) is Room.ENOUGH
    assert not (home / "pillarbox-over-quota").exists()


def test_the_slack_is_for_the_time_of_grace_alone(home, tmp_path):
    quota = quota_of(tmp_path, slack=100)
    put(home / "new", "1.a", 1000)
    assert ask(judge, quota, 100, NOW) is Room.ENOUGH
    os.utime(home / "pillarbox-over-quota", (NOW, NOW))
    assert ask(judge, quota, 101, NOW) is Room.FULL_FOR_NOW
    assert ask(judge, quota, 100, NOW + 101) is Room.FULL


def test_a_full_mailbox_that_others_changed_is_counted_before_it_is_called_full(home, tmp_path):
    quota = quota_of(tmp_path)
    ask(recount, quota)
    note(quota, 900)
    note(quota, 900)  # wrong, both of them
    assert ask(judge, quota, 10, NOW) is Room.ENOUGH
    assert (home / "maildirsize").read_text() == "1000S\n0 0\n"


def test_a_mailbox_that_is_not_there(tmp_path):
    with open_home(quota_of(tmp_path)) as descriptor:
        assert descriptor is None


def test_links_are_not_followed(home, tmp_path):
    other = tmp_path / "other"
    other.write_text("1000S\n0 0\n")
    (home / "maildirsize").symlink_to(other)
    with pytest.raises(OSError, match="symbolic links"):
        ask(measure, quota_of(tmp_path))
    (home / "maildirsize").unlink()
    (tmp_path / "eve").symlink_to(home)
    with (
        pytest.raises(OSError, match=r"symbolic|directory"),
        open_home(Quota(f"{tmp_path}/./eve", 1, 0, 0, Overflow.TEMP, 0)),
    ):
        pass


def test_after_a_doubt_the_mailbox_is_counted(home, tmp_path):
    quota = quota_of(tmp_path)
    ask(recount, quota)
    with open_home(quota) as descriptor:
        forget(descriptor)
        add(descriptor, 10, 1)
    assert not (home / "maildirsize").exists()


def _deliver(folder, count):
    """As one worker would: judge and add, so often."""
    quota = quota_of(folder, 100)
    for _ in range(count):
        with open_home(quota) as descriptor, locked(descriptor):
            if judge(descriptor, quota, 1, NOW) is Room.ENOUGH:
                put(folder / "ann" / "new", f"{os.getpid()}.{threading.get_ident()}.{_}", 1)
                add(descriptor, 1, 1)


def test_many_at_once_do_not_go_beyond_the_limit(home, tmp_path):
    workers = [
        multiprocessing.get_context("spawn").Process(target=_deliver, args=(tmp_path, 40)) for _ in range(2)
    ]
    threads = [threading.Thread(target=_deliver, args=(tmp_path, 40)) for _ in range(2)]
    for one in (*workers, *threads):
        one.start()
    for one in (*workers, *threads):
        one.join()
    assert len(list((home / "new").iterdir())) == 100
    usage = ask(measure, quota_of(tmp_path, 100))
    assert (usage.octets, usage.messages) == (100, 100)
