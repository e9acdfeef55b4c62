"""No message is sent while pynetdicom's own thread may still take its response."""

from __future__ import annotations

from threading import Event, Thread

from airlock_edge.commitment.reactor import Checkpoint


def test_a_thread_that_is_behind_the_checkpoint_is_waited_for() -> None:
    checkpoint, passed, goes_on, over = Checkpoint(lambda: True), Event(), Event(), Event()
    order: list[str] = []

    def react() -> None:
        checkpoint.wait()
        passed.set()
        goes_on.wait(60)
        order.append("the thread has looked for messages")
        checkpoint.wait()

    def send() -> None:
        checkpoint.clear()
        order.append("a message is sent")
        checkpoint.set()
        over.set()

    reactor, sender = Thread(target=react), Thread(target=send)
    reactor.start()
    assert passed.wait(60)
    sender.start()
    assert not over.wait(0.3)
    goes_on.set()
    assert over.wait(60)
    reactor.join(60)
    sender.join()
    assert order == ["the thread has looked for messages", "a message is sent"]


def test_a_thread_that_has_ended_is_not_waited_for() -> None:
    Checkpoint(lambda: False).clear()
