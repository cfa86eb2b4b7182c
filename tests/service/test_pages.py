"""What the documentation says to type is typed: every ``sh`` block of every page, in order, for real."""

import ast
import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator

import pytest
import trustme

from adapters.metrics import METRICS
from docs.pages import _service_files
from docs.reading import failure_codes
from tests.service.device import REPOSITORY, SCOPE_ID, Cloud, Device, short_root
from tests.service.pages import PAGES, Block, Reader, blocks, missing
from tests.service.test_adopt import as_the_original_would_have_it
from tests.service.test_examples import open_to_others
from tests.service.test_ways import Proxy

NAME = "press-17"
RECORDED = REPOSITORY / "tests/journals/recorded-0.1.0"
BLOCKS = {block.page: blocks(REPOSITORY / block.page) for page in PAGES for block in blocks(page)[:1]}
WITH_COMMANDS = [page for page, found in BLOCKS.items() if any(one.kind == "sh" for one in found)]
ROOT_ONLY = {"docs/how-to/hold-and-purge.md": "a purge is for root"}

Scene = Callable[[Reader, Cloud], object]
"Makes what a page takes for granted; may be a generator, which goes on when the page is read."


# --- what a page takes for granted -------------------------------------------------------------------


def on_a_device(reader: Reader, cloud: Cloud) -> Device:
    """It is configured, provisioned and running."""
    device = configured(reader, cloud)
    reader.begin("identityd run", "run")
    return device


def configured(reader: Reader, cloud: Cloud) -> Device:
    """It has the config.toml that onboarding makes, and nothing runs."""
    device = Device(reader.place, cloud, NAME).configure(attempts="")
    device.config.chmod(0o600)
    return device


def in_a_clone(reader: Reader, cloud: Cloud) -> None:
    """Nothing but the repository."""


def unconfigured(reader: Reader, cloud: Cloud) -> None:
    """A cloud that knows the device, whose names are those of the page."""
    reader.written = {
        "https://global.azure-devices-provisioning.net": cloud.endpoint,
        "0ne00000000": SCOPE_ID,
        "more.toml": f'\n[identityd.tls]\nca_file = "{cloud.ca_file}"\n',
    }
    reader.typed_in = {"base64 -d": cloud.key.encode()}


def with_a_certificate(reader: Reader, cloud: Cloud) -> None:
    unconfigured(reader, cloud)
    issued = trustme.CA().issue_cert(common_name="x509-press")
    secrets = reader.place / "var/secrets/aziot"
    secrets.mkdir(parents=True)
    chain = issued.cert_chain_pems[0].bytes()
    (secrets / "device-id.pem").write_bytes(chain)
    (secrets / "device-id.key.pem").write_bytes(issued.private_key_pem.bytes())
    (cloud.root / "cloud/clients/x509-press.pem").write_bytes(chain)


def with_a_trust_bundle(reader: Reader, cloud: Cloud) -> Iterator[None]:
    cloud.bundle(cloud.ca_file.read_bytes())
    (reader.place / "etc/app").mkdir(parents=True)
    (reader.place / "usr/local/share/ca-certificates").mkdir(parents=True)
    on_a_device(reader, cloud)
    try:
        yield
    finally:
        cloud.bundle(b"")


def with_an_exporter(reader: Reader, cloud: Cloud) -> None:
    (reader.place / "var/lib/prometheus/node-exporter").mkdir(parents=True)
    on_a_device(reader, cloud)


def behind_a_proxy(reader: Reader, cloud: Cloud) -> Iterator[None]:
    authority = trustme.CA()
    roots = reader.place / "roots.pem"
    roots.write_bytes(cloud.ca_file.read_bytes() + authority.cert_pem.bytes())
    device = configured(reader, cloud)
    device.configure(ca_file=False, more=f'[identityd.tls]\nca_file = "{roots}"')
    device.config.write_text(device.config.read_text().replace(cloud.endpoint, "https://dps.test"))
    with contextlib.closing(Proxy(cloud, authority)) as proxy:
        reader.written = {"http://proxy.example:3128": f"http://127.0.0.1:{proxy.port}"}
        yield
        assert proxy.asked


def with_an_agent(reader: Reader, cloud: Cloud) -> None:
    """The page's user; who is not root is that user himself."""
    on_a_device(reader, cloud)
    open_to_others(reader.place)
    if os.geteuid() == 0:
        reader.uid = 1003
    else:
        reader.written = {"1003": str(os.geteuid())}


def with_journals(reader: Reader, cloud: Cloud) -> None:
    """Of some device, in two files; and of two devices that parted. A config.toml to be tried."""
    device = on_a_device(reader, cloud)
    (reader.clone / "new").mkdir()
    shutil.copy(device.config, reader.clone / "new")
    for path in (RECORDED / "compaction").glob("journal*.jsonl"):
        shutil.copy(path, reader.clone)
    for name, life in (("good", "renewal"), ("bad", "outage-past-expiry")):
        (reader.clone / name).mkdir()
        shutil.copy(RECORDED / f"{life}.jsonl", reader.clone / name / "journal.jsonl")


def after_the_original(reader: Reader, cloud: Cloud) -> None:
    """What its daemons left of a device that was provisioned, and the config.toml they were given."""
    with short_root() as elsewhere:
        before = Device(elsewhere, cloud, NAME).configure().start()
        before.until_provisioned()
        assert before.stop() == 0
        as_the_original_would_have_it(before, reader.place)
    configured(reader, cloud)


def with_an_image(reader: Reader, cloud: Cloud) -> None:
    """Beside the device, the root of an image that is being made."""
    device = on_a_device(reader, cloud)
    image = reader.clone / "image/etc/aziot"
    image.mkdir(parents=True)
    shutil.copy(device.config, image)
    reader.typed_in = {"config mp": b"HostName=hub.example;DeviceId=press-17;SharedAccessKey=AAAA"}


def with_a_program_to_restart(reader: Reader, cloud: Cloud) -> Iterator[None]:
    """Only what is root's may be run, so it is one of the system's."""
    program = os.path.realpath("/usr/bin/env")
    reader.written = {"/usr/local/lib/my-app/renewed": program}
    reader.adds = True
    device = on_a_device(reader, cloud)
    yield
    device.attempt("renew")
    reader.wait(f"{program} ended well")


SCENES: dict[str, Scene] = {
    "README.md": in_a_clone,
    "docs/tutorial.md": in_a_clone,
    "docs/explanation/exploring.md": in_a_clone,
    "docs/how-to/set-up-dps.md": in_a_clone,
    "docs/how-to/onboard-symmetric-key.md": unconfigured,
    "docs/how-to/onboard-x509.md": with_a_certificate,
    "docs/how-to/install.md": configured,
    "docs/how-to/trust-bundle.md": with_a_trust_bundle,
    "docs/how-to/monitor.md": with_an_exporter,
    "docs/how-to/proxy-and-ca.md": behind_a_proxy,
    "docs/how-to/principals.md": with_an_agent,
    "docs/how-to/after-an-incident.md": with_journals,
    "docs/how-to/read-a-journal.md": with_journals,
    "docs/how-to/roll-out.md": with_journals,
    "docs/how-to/move-over.md": after_the_original,
    "docs/how-to/configure.md": with_an_image,
    "docs/how-to/restart-on-renewal.md": with_a_program_to_restart,
}
"Pages that are not here are about a device in service."


# --- every page --------------------------------------------------------------------------------------


@pytest.fixture
def reader() -> Iterator[Reader]:
    with short_root() as place:
        made = Reader(place)
        try:
            yield made
        finally:
            made.leave()


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_a_page_does_what_it_says(page: str, reader: Reader, cloud: Cloud) -> None:
    if page in ROOT_ONLY and os.geteuid() != 0:
        pytest.skip(ROOT_ONLY[page])
    scene = SCENES.get(page, on_a_device)(reader, cloud)
    for _ in scene if isinstance(scene, Iterator) else (None,):
        for block in BLOCKS[page]:
            reader.read(block)


def test_scenes_are_of_pages() -> None:
    assert set(SCENES) <= set(BLOCKS)


# --- what is not run ---------------------------------------------------------------------------------

REASONS = {
    "needs Azure": 6,
    "needs apt": 4,
    "needs systemd": 2,
    "needs the vendor's units": 3,
    "makes what these tests run in": 1,
    "takes minutes, and is run by itself": 1,
    "takes half a minute; tests/service/test_demo.py": 1,
    "does not end; tests/service/test_demo.py": 2,
    "tests/packaging": 2,
}
"Why a block is not run, and how many may not be for that reason."


def unrun() -> list[Block]:
    return [one for found in BLOCKS.values() for one in found if one.not_run is not None]


def test_every_block_that_is_not_run_says_why() -> None:
    counted = dict.fromkeys(REASONS, 0)
    for block in unrun():
        assert block.kind == "sh", f"{block.page}:{block.line}"
        assert block.not_run in counted, f"{block.page}:{block.line}: {block.not_run}"
        counted[block.not_run] += 1
    for reason, many in counted.items():
        assert 0 < many <= REASONS[reason], f"{many} blocks are not run: {reason}"


def test_most_blocks_are_run() -> None:
    shown = [one for found in BLOCKS.values() for one in found if one.kind == "sh"]
    assert len(shown) - len(unrun()) >= 65


def test_no_command_of_ours_is_left_out_but_for_its_length() -> None:
    elsewhere = ("needs Azure", "needs apt", "needs systemd", "needs the vendor's units")
    for block in unrun():
        for command in block.commands():
            program = command.removeprefix("sudo ").split()[0]
            assert block.not_run not in elsewhere or not program.endswith("identityd"), (
                f"{block.page}: {command}"
            )


# --- every reason for help has its section -----------------------------------------------------------

RECOVER = REPOSITORY / "docs/how-to/recover.md"


def openings(node: ast.expr) -> list[str]:
    """How a text may begin: its fixed words, and both branches of a choice in it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return openings(node.body) + openings(node.orelse)
    if isinstance(node, ast.JoinedStr):
        begun = [""]
        for part in node.values:
            more = openings(part.value if isinstance(part, ast.FormattedValue) else part)
            if not more:
                break
            begun = [one + other for one in begun for other in more]
        return begun
    return []


def reasons_for_help() -> list[str]:
    source = ast.parse((REPOSITORY / "statemachine/explain.py").read_text(encoding="utf-8"))
    told = [
        text
        for function in source.body
        if isinstance(function, ast.FunctionDef) and re.match(r"_.*help", function.name)
        for node in ast.walk(function)
        if isinstance(node, ast.Return) and node.value is not None
        for text in openings(node.value)
    ]
    assert len(told) >= 6, told
    return told


@pytest.mark.parametrize("reason", reasons_for_help())
def test_every_reason_for_help_has_its_section(reason: str) -> None:
    headings = re.findall(r"^## (.+)$", RECOVER.read_text(encoding="utf-8"), re.MULTILINE)
    assert any(reason.startswith(heading) for heading in headings), reason


def test_every_code_that_waits_for_somebody_is_told() -> None:
    told = set(re.findall(r"`([a-z0-9…-]+)`", RECOVER.read_text(encoding="utf-8")))
    wanted = {code.name for code in failure_codes(_service_files()) if "operator" in code.classes}
    assert wanted - told == set()


def test_metrics_that_are_told_of_exist() -> None:
    shown = set(
        re.findall(r"\b(identityd_[a-z_]+)", "".join(page.read_text(encoding="utf-8") for page in PAGES))
    )
    assert shown - {metric.name for metric in METRICS} == set()


# --- the comparison ----------------------------------------------------------------------------------

STATUS = "Provisioned since 2026-11-25 02:03:31Z (1 s ago)\n  hub           localhost:40983\n"


@pytest.mark.parametrize(
    ("printed", "line"),
    [
        (STATUS.replace("40983", "1").replace("1 s", "3 min 2 s").replace("02:03", "09:59"), None),
        (STATUS.replace("Provisioned", "Registering"), "Provisioned since 2026-11-25 02:03:31Z (1 s ago)"),
        ("\n".join(reversed(STATUS.splitlines())), "  hub           localhost:40983"),
        ("", "Provisioned since 2026-11-25 02:03:31Z (1 s ago)"),
    ],
)
def test_shown_output_may_differ_in_numbers_only(printed: str, line: str | None) -> None:
    assert missing(STATUS, printed) == line
