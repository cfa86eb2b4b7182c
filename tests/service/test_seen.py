"""A device's life as a person sees it: the live view of a real service, and the page of its journal."""

import re

from adapters.cli.chronicle import chronicle
from adapters.cli.timeline_page import page
from tests.adapters.pty_peer import OnTerminal


def test_a_renewal_is_watched_and_then_looked_back_at(make, cloud):
    cloud.options(cert_lifetime_s=1000)
    device = make().start()
    device.until_provisioned()
    terminal = OnTerminal("watch", "--root", str(device.root), columns=90, rows=40)
    try:
        terminal.until_frame(
            "[Provisioned]", f"device at {cloud.hub}", "generation 1", "window opens", "drawn for"
        )
        bar = next(line for line in terminal.frame if "◆" in line and "█" in line)
        assert "▒" in bar
        device.run("renew")
        terminal.until_frame(
            "[Provisioned]", "generation 2", "renewal ordered by uid", "certificate 2 in use"
        )
        assert re.search(r"next +renewal in 00:\d\d:\d\d", "\n".join(terminal.frame))

        cloud.faults({"on": "register", "kind": "status", "status": 503})
        assert device.run("renew")[0] == 1
        terminal.until_frame("registration failed: dps-503", "last error")
        device.stop()
        terminal.until_frame("the service does not answer")
        terminal.type(b"\x03")
        assert terminal.end() == 0
    finally:
        terminal.close()

    text = page(chronicle([str(device.journal)], details=100))
    assert f"device at {cloud.hub}" in text
    assert text.count("class='box r-succeeded") + text.count("class='box r-failed") >= 2
    assert "renewal 3: failed" in text
    code, out = device.run("journal", "timeline")
    assert code == 0
    assert "attempts     2 succeeded, 1 failed" in out
