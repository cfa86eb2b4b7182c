"""A headless browser, where there is one: a page as it is laid out, measured from the outside.

The page itself runs no script, so it is put into a frame of another page, which looks at it.
"""

import json
import re
import shutil
import subprocess
from html import unescape

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WITHIN_S = 120

_HARNESS = """<!doctype html><meta charset="utf-8"><style>
body{{margin:0}}iframe{{border:0;display:block}}</style>
<iframe id="f" src="page.html" width="{width}" height="30000"></iframe><pre id="out"></pre><script>
document.getElementById("f").onload = () => {{
  const page = document.getElementById("f").contentDocument, look = page.defaultView;
  const measure = () => {{ {measure} }};
  document.getElementById("out").textContent = JSON.stringify(measure());
}};
</script>
"""


def found():
    """Path of a browser, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def run(directory, *options, target):
    command = [
        found(),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-web-security",
        "--allow-file-access-from-files",
        f"--user-data-dir={directory / 'profile'}",
        "--virtual-time-budget=10000",
        *options,
        target.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, timeout=WITHIN_S, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return done.stdout.decode()


def measured(directory, page, width, measure):
    """What the script ``measure`` returns of the page in a frame that wide: its ``page`` and ``look``."""
    (directory / "page.html").write_text(page, encoding="utf-8")
    harness = directory / "harness.html"
    harness.write_text(_HARNESS.format(width=width, measure=measure), encoding="utf-8")
    dom = run(directory, f"--window-size={max(width, 500)},2100", "--dump-dom", target=harness)
    told = re.search(r'<pre id="out">(.*?)</pre>', dom, re.S)
    assert told, dom[-2000:]
    assert told[1], "the page never came"
    return json.loads(unescape(told[1]))


def picture(directory, page, width, height, *options):
    """A PNG of its beginning."""
    source, target = directory / "page.html", directory / "page.png"
    source.write_text(page, encoding="utf-8")
    run(directory, f"--window-size={width},{height}", f"--screenshot={target}", *options, target=source)
    return target.read_bytes()
