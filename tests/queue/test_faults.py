from __future__ import annotations

import asyncio
import os
import shutil
import subprocess

import apsw
import pytest

from pillarbox import observe
from pillarbox.mail.catalogue import content
from pillarbox.queue import schema
from pillarbox.queue.spool import SpoolError
from pillarbox.queue.sqlite import SqliteSpool


@pytest.fixture
def small_disk(tmp_path):
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def grow(folder):
    subprocess.run(["mount", "-o", "remount,size=20m", folder], check=True)


@pytest.mark.parametrize("octets", [2000, 200_000], ids=["inline", "file"])
async def test_a_full_disk_refuses_and_loses_nothing_and_recovers(small_disk, octets, storer):
    spool = SqliteSpool(small_disk)
    store = storer(spool)
    kept, refused = [], []
    for _ in range(3000):
        try:
            kept.append(await store(body=b"x" * octets))
        except SpoolError as error:
            refused.append(error.reply.cause)
            if len(refused) == 5:
                break
    assert kept
    assert set(refused) == {content.DISK_FULL}
    for queued in kept:
        assert (await spool.load(queued.id)).body_octets == octets
    grow(small_disk)
    kept.append(await store(body=b"x" * octets))
    await spool.close()
    again = SqliteSpool(small_disk)
    found = [one.id for _ in range(20) for one in await again.due(2e10, 500, ())]
    assert sorted(found) == sorted(queued.id for queued in kept)
    await again.close()


class BrokenSyncFile(apsw.VFSFile):
    def xSync(self, flags):
        if BrokenSync.broken and self.name.endswith("-wal"):
            raise apsw.IOError("sync failed")
        return super().xSync(flags)

    def __init__(self, inherit, name, flags):
        self.name = str(name.filename() if isinstance(name, apsw.URIFilename) else name)
        super().__init__(inherit, name, flags)


class BrokenSync(apsw.VFS):
    broken = False

    def __init__(self):
        super().__init__("broken-sync", "", makedefault=True)

    def xOpen(self, name, flags):
        return BrokenSyncFile("unix", name, flags)


@pytest.fixture
def broken_sync():
    before = apsw.vfs_names()[0]
    shim = BrokenSync()
    yield BrokenSync
    BrokenSync.broken = False
    shim.unregister()
    assert apsw.vfs_names()[0] == before


def commits_timed():
    (line,) = (one for one in observe.exposition().decode().splitlines() if "commit_seconds_count" in one)
    return float(line.split()[1])


async def test_a_failed_sync_of_the_log_fails_all_that_waited_for_it(broken_sync, tmp_path, storer):
    observe.start_counting()
    spool = SqliteSpool(tmp_path)
    store = storer(spool)
    timed = commits_timed()
    before = await store()
    broken_sync.broken = True
    done = await asyncio.gather(*[store() for _ in range(20)], return_exceptions=True)
    assert {error.reply.cause for error in done} == {content.WRITE_FAILED}
    assert commits_timed() == timed + 1
    broken_sync.broken = False
    after = await store()
    await spool.close()
    with apsw.Connection(str(tmp_path / schema.FILE)) as connection:
        kept = {number for (number,) in connection.execute("SELECT id FROM message")}
    connection.close()
    assert {before.id, after.id} == kept


async def test_a_body_that_cannot_be_brought_home_is_refused_even_if_it_cannot_be_cleared_away(
    spool, tmp_path
):
    (tmp_path / "no-folder").write_bytes(b"")
    draft = spool.draft()
    draft.write(b"x" * 100_000)
    with pytest.raises(SpoolError) as refused:
        draft.keep(tmp_path / "no-folder" / "body")
    assert refused.value.reply.cause is content.WRITE_FAILED
    assert not list((tmp_path / "drafts").iterdir())
