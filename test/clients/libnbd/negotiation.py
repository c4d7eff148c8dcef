"""negotiation.py SERVER_URI NAME OTHER: what a client may ask before it opens an export."""

import errno
import sys

import nbd
from judge import *

uri, name, other = sys.argv[1:4]


def negotiating(structured=True):
    h = nbd.NBD()
    h.set_strict_mode(0)
    h.set_opt_mode(True)
    h.set_full_info(True)
    h.set_request_structured_replies(structured)
    h.connect_uri(uri)
    assert h.aio_is_negotiating()
    assert h.get_protocol() == "newstyle-fixed"
    return h


def names(h):
    found = []
    h.opt_list(lambda export, description: found.append(export))
    return found


def contexts(h, *queries):
    found = []
    h.clear_meta_contexts()
    for query in queries:
        h.add_meta_context(query)
    h.opt_list_meta_context(lambda context: found.append(context))
    h.clear_meta_contexts()
    return found


def facts(h):
    return (
        h.get_size(),
        h.get_canonical_export_name(),
        h.get_block_size(nbd.SIZE_MINIMUM),
        h.get_block_size(nbd.SIZE_PREFERRED),
        h.get_block_size(nbd.SIZE_MAXIMUM),
        h.is_read_only(),
        h.is_rotational(),
        h.can_flush(),
        h.can_fua(),
        h.can_trim(),
        h.can_zero(),
        h.can_fast_zero(),
        h.can_cache(),
        h.can_df(),
        h.can_multi_conn(),
    )


def open_export(export, **options):
    h = negotiating(**options)
    h.set_export_name(export)
    h.opt_go()
    return h


# Any number of questions, right and wrong, then the export.
h = negotiating()
for _ in range(3):
    assert sorted(names(h)) == sorted([name, other]), names(h)
h.set_export_name("nobody")
assert outcome(h.opt_info) == errno.ENOENT
assert outcome(h.opt_go) == errno.ENOENT
# libnbd 1.14 has one word for every refusal of this option.
assert outcome(lambda: contexts(h)) in (errno.ENOENT, errno.ENOTSUP)
h.set_export_name("n" * 4096)
assert outcome(h.opt_info) != 0 and h.aio_is_negotiating()
h.set_export_name("")
assert outcome(h.opt_go) == errno.ENOENT, "two exports: none is the default"

h.set_export_name(other)
h.opt_info()
of_other = facts(h)
h.set_export_name(name)
assert contexts(h) == ["base:allocation"], contexts(h)
assert contexts(h, "base:") == ["base:allocation"]
assert contexts(h, "base:allocation") == ["base:allocation"]
assert contexts(h, "base:allocation", "base:allocation", "base:") == ["base:allocation"]
assert contexts(h, "x-blockferry:") == []
assert contexts(h, "qemu:", "qemu:dirty-bitmap:", "nbd-server:", "x-blockferry:dirty/9") == []
assert contexts(h, "base:nothing") == []
assert contexts(h, *("x-%d:leaf" % i for i in range(60)), "base:allocation") == ["base:allocation"]
assert h.aio_is_negotiating()

# GO says what INFO said, whatever was asked in between; the contexts are those of the export opened.
h.set_export_name(name)
h.opt_info()
told = facts(h)
assert told != of_other and told[1] == name, (told, of_other)
h.add_meta_context("base:allocation")
h.add_meta_context("base:nothing")
h.set_export_name(other)
h.opt_info()
assert h.can_meta_context("base:allocation")
h.set_export_name(name)
h.opt_go()
assert facts(h) == told
assert h.can_meta_context("base:allocation") and not h.can_meta_context("base:nothing")
assert extents_of(h, "base:allocation", 4096, 0)

# Every connection is told the same, and sees what the others wrote and flushed (multi-conn).
handles = [h] + [open_export(name) for _ in range(7)]
for one in handles:
    assert facts(one) == told, (facts(one), told)
for i, one in enumerate(handles):
    one.pwrite(bytes([i + 1]) * 8192, i * 8192)
handles[3].flush()
for reader in handles:
    for i in range(len(handles)):
        assert reader.pread(8192, i * 8192) == bytes([i + 1]) * 8192

# Without structured replies there is no DF and there are no contexts; all else is the same.
plain = open_export(name, structured=False)
assert not plain.get_structured_replies_negotiated()
assert facts(plain) == told[:-2] + (False,) + told[-1:]
assert plain.pread(8192, 0) == bytes([1]) * 8192

# Leaving in the middle is no error of anybody's.
negotiating().opt_abort()
gone = negotiating()
del gone
for one in handles + [plain]:
    assert len(one.pread(4096, 0)) == 4096
    one.shutdown()
print("judged")
