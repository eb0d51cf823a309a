# SPDX-License-Identifier: MIT
"""CreateSnapshot with guest agents that misbehave in ways that a real one cannot be made to: the job ends in
time, says what was reached, and whatever may be frozen is thawed."""
import contextlib
import signal
import threading
import time

import pytest

from harness.agent_double import AgentDouble, answer, hang_up, properly, raw, refuse, silence, then, when
from harness.chains import make_chain
from harness.picture import picture

SYNC, OSINFO = "guest-sync-delimited", "guest-get-osinfo"
FREEZE, THAW, STATUS = "guest-fsfreeze-freeze", "guest-fsfreeze-thaw", "guest-fsfreeze-status"
# Of a whole job: a synchronisation, the freeze, the thaw with its own synchronisation, a question for the
# status, each with its limit; and what a busy machine adds.
FREEZE_TIMEOUT_USEC = 700_000
LIMIT = 5 + 5


@pytest.fixture
def config():
    return ('[quiesce]\nagent-timeout = "1s"\nthaw-timeout = "1s"\n'
            'freeze-timeout = "10s"\nfreeze-limit = "2s"\n')


@pytest.fixture
def agent(directory):
    double = AgentDouble(f"{directory}/agent.sock", file_systems=2)
    yield double
    double.close()


class World:
    def __init__(self, client, qemu, vm):
        self.client, self.qemu, self.vm = client, qemu, vm

    def picture(self):
        return picture(self.client, self.qemu)

    def start(self, **options):
        return self.client.create_snapshot(self.vm, freeze_timeout_usec=FREEZE_TIMEOUT_USEC, **options)

    def take(self, **options):
        """(consistency, why not better) of a snapshot that succeeds."""
        return self.taken(self.start(**options))

    def checkpoints(self):
        return [name for name, _, _ in self.client.get(self.vm, "VM", "Checkpoints")]

    def taken(self, job):
        result = self.client.finish(job)
        snapshot = self.client.get_all(result["snapshot"], "Snapshot")
        assert snapshot["Status"] == "ok"
        return snapshot["Consistency"], result.get("quiesce")


@pytest.fixture
def world(client, directory, pool_directory, qemus):
    paths = [make_chain(pool_directory, f"disk{number}")[0] for number in range(2)]
    qemu = qemus("vm", paths, running=True)
    vm = client.register_vm("web", qmp_socket=qemu.qmp, agent_socket=f"{directory}/agent.sock")
    return World(client, qemu, vm)


@contextlib.contextmanager
def in_time(seconds=LIMIT):
    start = time.monotonic()
    yield
    took = time.monotonic() - start
    assert took < seconds, f"it took {took:.1f} s"


def never_answers(agent):
    agent.always(SYNC, silence)


def closes_at_once(agent):
    agent.always(SYNC, hang_up)


def wrong_sync_id(agent):
    agent.always(SYNC, raw(b'\xff{"return": 4711}\n'))


def junk_instead_of_sync(agent):
    agent.always(SYNC, raw(b"\xff{{{\n\xff\n\xff[]\n\xff\"\n\xff{\"return\": \"x\"}\n" * 100))


def flood_instead_of_sync(agent):
    agent.always(SYNC, raw(b"x" * 100_000_000))


def freeze_unanswered(agent):
    agent.once(FREEZE, silence)


def freeze_unanswered_though_frozen(agent):
    agent.once(FREEZE, then(lambda double, request: double.freeze_silently()))


def freeze_refused(agent):
    agent.once(FREEZE, refuse("failed to freeze /srv: Input/output error"))


def freeze_disabled(agent):
    agent.always(FREEZE, refuse("Command guest-fsfreeze-freeze has been disabled"))
    agent.always(THAW, refuse("Command guest-fsfreeze-thaw has been disabled"))
    agent.always(STATUS, refuse("Command guest-fsfreeze-status has been disabled"))


def freeze_of_nothing(agent):
    agent.file_systems = 0


def freeze_answers_junk(agent):
    agent.once(FREEZE, raw(b"\x00\x80garbage}}\n"))


def freeze_answers_half_a_line(agent):
    agent.once(FREEZE, raw(b'{"return": '))


def freeze_answers_no_number(agent):
    agent.once(FREEZE, answer("many"))


def freeze_answers_a_negative_number(agent):
    agent.once(FREEZE, answer(-1))


def freeze_answers_something_else(agent):
    agent.once(FREEZE, raw(b'{"event": "x"}\n'))


def freeze_floods(agent, count=20_000_000):
    agent.once(FREEZE, then(raw(b'{"return": "' + b"x" * count), hang_up))


def closes_instead_of_freezing(agent):
    agent.once(FREEZE, hang_up)


def closes_in_the_middle_of_the_freeze(agent):
    agent.once(FREEZE, then(lambda double, request: double.freeze_silently(), raw(b'{"ret'), hang_up))


BEFORE = {
    never_answers: "no guest agent runs", closes_at_once: "no guest agent runs",
    wrong_sync_id: "no guest agent runs", junk_instead_of_sync: "no guest agent runs",
    flood_instead_of_sync: "no guest agent runs",
    freeze_unanswered: "freezing failed", freeze_unanswered_though_frozen: "freezing failed",
    freeze_refused: "Input/output error", freeze_disabled: "disabled",
    freeze_of_nothing: "no file system to freeze",
    freeze_answers_junk: "freezing failed", freeze_answers_half_a_line: "freezing failed",
    freeze_answers_no_number: "freezing failed", freeze_answers_a_negative_number: "freezing failed",
    freeze_answers_something_else: "freezing failed", freeze_floods: "freezing failed",
    closes_instead_of_freezing: "freezing failed", closes_in_the_middle_of_the_freeze: "freezing failed",
}


@pytest.mark.parametrize("trouble", BEFORE, ids=lambda trouble: trouble.__name__)
def test_not_frozen(world, agent, trouble):
    """With auto the snapshot is what it is without an agent, and says why; with require nothing happens."""
    trouble(agent)
    before = world.picture()
    with in_time():
        error, message = world.client.failure(world.start(quiesce="require"))
    assert error == "QuiesceFailed" and BEFORE[trouble] in message
    assert world.picture() == before
    check_thawed(agent)
    trouble(agent)
    with in_time():
        consistency, why = world.take()
    assert consistency == "crash" and BEFORE[trouble] in why
    check_thawed(agent)


def check_thawed(agent):
    """If a freeze has been sent, a thaw has been after it, and nothing is frozen."""
    if FREEZE in agent.asked:
        agent.wait_asked(THAW)
        agent.wait_thawed()
        assert agent.asked[::-1].index(THAW) < agent.asked[::-1].index(FREEZE)
    agent.asked.clear()


def thawed_by_itself(agent):
    agent.once(THAW, then(lambda double, request: double.thaw_by_itself(), properly))


def thawed_by_itself_and_says_so(agent):
    """As Windows does when its shadow copies have let go."""
    refusal = refuse("couldn't hold writes: fsfreeze is limited up to 10 seconds")
    agent.once(THAW, then(lambda double, request: double.thaw_by_itself(), refusal))


def one_of_two_thawed_by_itself(agent):
    agent.once(THAW, then(lambda double, request: double.thaw_by_itself(), answer(1)))


def thaw_refused_at_first(agent):
    agent.once(THAW, refuse("failed to get the mounts"))


def thaw_unanswered_at_first(agent):
    agent.once(THAW, silence, silence)


def thaw_answered_with_junk_at_first(agent):
    agent.once(THAW, raw(b"}{\n"))


def closes_instead_of_thawing(agent):
    agent.once(THAW, hang_up)


def closes_after_thawing_unheard(agent):
    agent.once(THAW, then(lambda double, request: double.thaw_by_itself(), hang_up))


DURING = {
    thawed_by_itself: "had thawed by itself", thawed_by_itself_and_says_so: "not known",
    one_of_two_thawed_by_itself: "1 of 2", thaw_refused_at_first: "failed to get the mounts",
    thaw_unanswered_at_first: "not known", thaw_answered_with_junk_at_first: "not known",
    closes_instead_of_thawing: "not known", closes_after_thawing_unheard: "not known",
}


@pytest.mark.parametrize("quiesce", ["auto", "require"])
@pytest.mark.parametrize("trouble", DURING, ids=lambda trouble: trouble.__name__)
def test_not_proved_to_be_frozen_till_the_end(world, agent, trouble, quiesce):
    """It comes out after the switch, which with require is taken back."""
    trouble(agent)
    before = world.picture()
    with in_time():
        job = world.start(quiesce=quiesce, checkpoint="c0")
        if quiesce == "auto":
            consistency, why = world.taken(job)
            assert consistency == "crash" and DURING[trouble] in why
            assert world.checkpoints() == ["c0"]
        else:
            error, message = world.client.failure(job)
            assert error == "QuiesceFailed" and DURING[trouble] in message and "undone" in message
            assert world.picture() == before and world.checkpoints() == []
    check_thawed(agent)


def closes_between_freeze_and_thaw(agent):
    agent.once(FREEZE, then(properly, hang_up))


def closes_when_asked_what_it_is(agent):
    agent.once(OSINFO, hang_up)


def does_not_say_what_it_is(agent):
    agent.once(OSINFO, silence)


def knows_no_question_for_what_it_is(agent):
    agent.always(OSINFO, refuse("The command guest-get-osinfo has not been found", "CommandNotFound"))


def stray_words(agent):
    agent.once(OSINFO, then(properly, raw(b'{"return": 7}\n{"return": 8}\n')))


@pytest.mark.parametrize("trouble", [
    closes_between_freeze_and_thaw, closes_when_asked_what_it_is, does_not_say_what_it_is,
    knows_no_question_for_what_it_is, stray_words], ids=lambda trouble: trouble.__name__)
def test_trouble_that_does_not_matter(world, agent, trouble):
    trouble(agent)
    with in_time():
        assert world.take(quiesce="require") == ("filesystem", None)
    check_thawed(agent)


def test_nobody_at_the_socket(world, agent):
    agent.close()
    before = world.picture()
    with in_time():
        error, message = world.client.failure(world.start(quiesce="require"))
    assert error == "QuiesceFailed" and "no guest agent runs" in message
    assert world.picture() == before
    with in_time():
        assert world.take()[0] == "crash"
    agent.open()
    assert world.take(quiesce="require") == ("filesystem", None)


@pytest.mark.parametrize("quiesce", ["auto", "require"])
def test_freeze_answered_too_late(world, agent, quiesce):
    """The guest freezes when the snapshot is long done, and its agent hears of the thaw only after that."""
    go = threading.Event()
    agent.once(FREEZE, then(when(go), properly))
    before = world.picture()
    job = world.start(quiesce=quiesce)
    with in_time():
        if quiesce == "auto":
            consistency, why = world.taken(job)
            assert consistency == "crash" and "freezing failed" in why
        else:
            assert world.client.failure(job)[0] == "QuiesceFailed"
            assert world.picture() == before
    assert THAW not in agent.asked
    go.set()
    check_thawed(agent)
    # The late answer was not taken for another one's.
    assert world.take(quiesce="require") == ("filesystem", None)


def test_a_thaw_is_sent_until_it_is_answered(world, agent):
    agent.once(THAW, *[silence] * 3, hang_up, refuse("not now"))
    assert world.take()[0] == "crash"
    agent.wait_thawed()
    assert agent.asked.count(THAW) >= 6


def test_windows(world, agent):
    """Its freeze has applications flush, by the volume shadow copy service."""
    agent.always(OSINFO, answer({"id": "mswindows", "pretty-name": "Windows Server 2022"}))
    assert world.take(quiesce="require") == ("application", None)
    check_thawed(agent)
    # It lets go after 10 seconds, whatever we do.
    thawed_by_itself(agent)
    consistency, why = world.take()
    assert consistency == "crash" and "thawed by itself" in why


def test_cancel_while_freezing(world, agent):
    go = threading.Event()
    agent.once(FREEZE, then(when(go), properly))
    before = world.picture()
    job = world.client.create_snapshot(world.vm)  # with ten seconds for the freeze
    agent.wait_asked(FREEZE)
    with in_time():
        world.client.call(job, "Job", "Cancel")
        assert world.client.wait(job)[0] == "cancelled"
    assert world.picture() == before
    go.set()
    check_thawed(agent)


def test_limit_of_the_freeze(world, agent):
    """QEMU hangs at the switch: the guest is thawed, and the snapshot does not pass for a quiesced one."""
    hang = lambda double, request: world.qemu.process.send_signal(signal.SIGSTOP)  # noqa: E731
    agent.once(FREEZE, then(hang, properly))
    try:
        job = world.start()
        agent.wait_asked(THAW)
        agent.wait_thawed()
    finally:
        world.qemu.process.send_signal(signal.SIGCONT)
    consistency, why = world.taken(job)
    assert consistency == "crash" and "longer than the guest may be frozen" in why


def resident(daemon):
    with open(f"/proc/{daemon.process.pid}/status") as f:
        return int(f.read().partition("VmRSS:")[2].split()[0]) << 10


def test_a_flood_costs_no_memory(world, agent, daemon):
    freeze_refused(agent)
    assert world.take()[0] == "crash"
    before = resident(daemon)
    freeze_floods(agent, 100_000_000)
    assert world.take()[0] == "crash"
    flood_instead_of_sync(agent)
    assert world.take()[0] == "crash"
    assert resident(daemon) - before < 64 << 20


def test_daemon_killed_while_frozen(world, agent, daemon):
    """The thaw is the first thing that the next one does, before it is ready."""
    before = world.picture()
    daemon.at("create-snapshot.switch")
    job = world.start()
    daemon.wait_killed()
    assert agent.frozen
    daemon.start()
    assert world.client.failure(job)[0] == "Interrupted"
    check_thawed(agent)
    assert world.picture() == before


def test_daemon_stopped_with_a_thaw_to_come(world, agent, daemon, config):
    """SIGTERM does not wait long for an agent that hangs; the next daemon goes on."""
    go = threading.Event()
    agent.once(THAW, then(when(go), properly))
    assert world.take()[0] == "crash"
    assert agent.frozen
    with in_time():
        daemon.stop()
    assert agent.frozen
    daemon.start()
    go.set()
    check_thawed(agent)
