"""The way to DPS and the hub: proxy, names, TLS, and what is presented when that is not believed."""

import socket
from collections.abc import Callable, Collection

from msgspec import structs

from adapters.checks.outcome import Finding, Outcome, failed, ignored, judged, skipped, warned
from adapters.checks.subject import Subject, split_host
from adapters.errors import AdapterError, bounded
from adapters.wire.described import chain_lines, describe
from adapters.wire.http_client import TlsOptions
from adapters.wire.installed_roots import distrusted_roots
from adapters.wire.proxies import proxy_for
from adapters.wire.tls_probe import Probed, probe

AMQP, HTTPS, MQTT = 5671, 443, 8883
GRACE_S = 2.0
"For the threads themselves, and for loading the system's roots."

_NOT_YET, _EXPIRED, _NO_ISSUER = (9, 10, 20)
_SELF_SIGNED = (18, 19)
_NO_LEAF_ISSUER, _WRONG_NAME, _WRONG_ADDRESS = 21, 62, 64
"X509_V_ERR_…, as OpenSSL numbers them in x509_vfy.h."
_CHECKS = {
    "amqp": "host-connect-iothub-amqp",
    "hub": "host-connect-iothub-https",
    "mqtt": "host-connect-iothub-mqtt",
    "dps": "host-connect-dps-endpoint",
}
"Which check each look is for."


def begin(subject: Subject, wanted: Collection[str]) -> None:
    """Start every look at the network, so that those that have to wait wait together."""
    for name, host, port in _looks(subject):
        if _CHECKS[name] in wanted:
            # As the original: only HTTPS goes through a proxy.
            proxied = name in ("dps", "hub")
            subject.background.begin(name, _look(subject, host, port, proxied=proxied))
        if "name-resolution" in wanted:
            subject.background.begin(f"resolve {host}", _resolve(host, port))


def proxy(subject: Subject) -> Outcome:
    """Which one is on the way, and whether the service and this command have the same."""
    service, own = subject.service_environ, subject.own_environ
    used = subject.proxy_environ
    whose = "--proxy-uri" if subject.options.proxy_uri is not None else "the environment of this command"
    if subject.options.proxy_uri is None and service is not None:
        whose = "the environment of the running service"
    tried = f"reading HTTPS_PROXY and NO_PROXY in {whose}"
    findings, ways = [], []
    try:
        # Also where it is not on the way: one that cannot be used is a mistake wherever it is.
        proxy_for("somewhere.invalid", HTTPS, {**used, "NO_PROXY": "", "no_proxy": ""})
    except AdapterError as exc:
        fix = "correct it in the service's unit (Environment=), or where --proxy-uri is given"
        return failed(tried, exc.message, fix)
    for host, port in dict.fromkeys(
        (host, port) for name, host, port in _looks(subject) if name in ("dps", "hub")
    ):
        found = proxy_for(host, port, used)
        ways.append(f"{host} {'directly' if found is None else f'through {found.url}'}")
    if service is not None and service != own and subject.options.proxy_uri is None and own:
        seen = "HTTPS_PROXY or NO_PROXY of this command are not those of the service"
        fix = "none for this check, which goes the service's way; programs started from here go another"
        findings.append(Finding(seen=seen, fix=fix, severe=False))
    if not ways:
        return ignored("nothing in the cloud is known that could be asked")
    return judged(tried, findings, seen=", ".join(ways))


def names(subject: Subject) -> Outcome:
    """Every host that is connected to directly."""
    hosts: dict[str, int] = {}
    for name, host, port in _looks(subject):
        if name in ("dps", "hub"):
            hosts.setdefault(host, port)
    if not hosts:
        return ignored("nothing in the cloud is known whose name could be looked up")
    findings, seen = [], []
    for host, port in hosts.items():
        try:
            behind = proxy_for(host, port, subject.proxy_environ) is not None
        except AdapterError:
            behind = False
        found = _waited(subject, f"resolve {host}", f"no answer within {subject.cloud_timeout_s} s")
        if isinstance(found, tuple):
            seen.append(f"{host} is {', '.join(found[:4])}")
            continue
        fix = "check /etc/resolv.conf and the network; or the name in config.toml"
        text = f"{host} does not resolve: {found}"
        if behind:
            text += "; the proxy looks it up for the service, other programs may not get there"
        findings.append(Finding(seen=text, fix=fix, severe=not behind))
    return judged(f"looking up {', '.join(hosts)}", findings, seen="; ".join(seen))


def hub_amqp(subject: Subject) -> Outcome:
    """For modules; the service itself does not speak it."""
    return _hub(subject, "amqp", AMQP)


def hub_https(subject: Subject) -> Outcome:
    """What the service speaks."""
    return _hub(subject, "hub", HTTPS)


def hub_mqtt(subject: Subject) -> Outcome:
    """For modules; the service itself does not speak it."""
    return _hub(subject, "mqtt", MQTT)


def dps(subject: Subject) -> Outcome:
    """The global endpoint."""
    where = subject.dps_host
    info: dict[str, object] = {"dps_endpoint": None, "dps_hostname": None, "proxy": None}
    if subject.configuration is None:
        return skipped("the configuration cannot be used", **info)
    if where is None or subject.dps is None:
        return ignored("the device is not provisioned by DPS", **info)
    info |= {"dps_endpoint": subject.dps.global_endpoint, "dps_hostname": where[0]}
    return _connected(subject, "dps", *where, info)


def _hub(subject: Subject, name: str, port: int) -> Outcome:
    info: dict[str, object] = {"port_number": port, "iothub_hostname": subject.hub, "proxy": None}
    if subject.configuration is None:
        return skipped("the configuration cannot be used", **info)
    if subject.dps is None and subject.manual is None and subject.options.iothub_hostname is None:
        return ignored("the device has no hub: provisioning.source is none", **info)
    if subject.hub is None:
        tried = "looking up the hub the device is assigned to"
        return warned(tried, "no hub is known yet", "name one with --iothub-hostname", info=info)
    host, named = split_host(subject.hub, HTTPS)
    if name == "hub":
        info["port_number"] = named
        return _connected(subject, name, host, named, info)
    if named != HTTPS:
        reason = f"the hub is named with port {named}, so it is not known to have the usual ones of IoT Hub"
        return ignored(reason, **info)
    return _connected(subject, name, host, port, info)


def _looks(subject: Subject) -> list[tuple[str, str, int]]:
    """Name, host and port of everything to look at."""
    found = []
    if subject.dps_host is not None:
        found.append(("dps", *subject.dps_host))
    if subject.hub is not None:
        host, port = split_host(subject.hub, HTTPS)
        found.append(("hub", host, port))
        if port == HTTPS:
            found += [("amqp", host, AMQP), ("mqtt", host, MQTT)]
    return found


def _look(subject: Subject, host: str, port: int, *, proxied: bool) -> Callable[[], Probed]:
    configuration = subject.configuration
    ca_file = None if configuration is None else configuration.tls.ca_file
    state_dir, root = subject.paths.state_dir, subject.paths.root
    environ, within_s = subject.proxy_environ, float(subject.cloud_timeout_s)

    def look() -> Probed:
        options = TlsOptions(ca_file=ca_file, distrust=distrusted_roots(state_dir, root))
        return probe(host, port, options, environ=environ, within_s=within_s, proxied=proxied)

    return look


def _resolve(host: str, port: int) -> Callable[[], tuple[str, ...] | str]:
    def resolve() -> tuple[str, ...] | str:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as exc:
            return bounded(getattr(exc, "strerror", None) or "not a name", 120)
        return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))

    return resolve


def _waited(subject: Subject, name: str, otherwise: object) -> object:
    return subject.background.result(name, subject.cloud_timeout_s + GRACE_S, otherwise)


def _connected(subject: Subject, name: str, host: str, port: int, info: dict[str, object]) -> Outcome:
    found = _waited(subject, name, None)
    if not isinstance(found, Probed):
        found = Probed(stage="resolve", problem="no answer in time", timed_out=True)
    by = f" through {found.proxy}" if found.proxy else ""
    tried = f"connecting to {host} port {port}{by}, and a TLS handshake within {subject.cloud_timeout_s} s"
    if found.stage == "done":
        return judged(tried, [], seen=f"{host}:{port}{by} speaks {found.protocol}", info=info)
    finding = explained(subject, found, host, port)
    if subject.manual is not None and subject.manual.gateway is not None:
        fix = f"{finding.fix}; the gateway has to be reachable, and its root trusted (ca_file)"
        finding = structs.replace(finding, fix=fix)
    return judged(tried, [finding], seen="", info=info)


def explained(subject: Subject, found: Probed, host: str, port: int) -> Finding:
    """Why there is no TLS, how to fix it, and the presented chain when that is why."""
    if found.timed_out:
        seconds = subject.cloud_timeout_s
        where = {
            "resolve": "the name was being looked up",
            "connect": f"nobody answered at {', '.join(found.addresses)}",
            "proxy": "the proxy did not open the tunnel",
        }.get(found.stage, "the peer did not go on with the handshake")
        return Finding(
            seen=f"Failed to do TLS Handshake, Connection Attempt Timed out in {seconds} Seconds: {where}",
            fix=f"let port {port} to {host} out through the firewall, or set a proxy",
        )
    match found.stage:
        case "configuration":
            return Finding(seen=found.problem, fix="correct it in the configuration")
        case "resolve":
            seen = f"{host} does not resolve: {found.problem}"
            return Finding(seen=seen, fix="check /etc/resolv.conf and the name")
        case "connect":
            seen = f"no connection to {', '.join(found.addresses)} port {port}: {found.problem}"
            return Finding(
                seen=seen, fix="check the network and the firewall; or the name and port in config.toml"
            )
        case "proxy":
            return Finding(
                seen=found.problem, fix=f"let the proxy {found.proxy} open tunnels to {host}:{port}"
            )
    if not found.verify_code:
        return Finding(
            seen=f"TLS with {host} failed: {found.problem}", fix=f"see what listens at {host}:{port}"
        )
    chain = describe(found.presented)
    ca_file = None if subject.configuration is None else subject.configuration.tls.ca_file
    roots = "the system's roots" + (f" and {ca_file}" if ca_file else "")
    last = chain[-1] if chain else None
    top = f'"{last.subject if last.self_signed else last.issuer}"' if last is not None else "its issuer"
    code = found.verify_code
    if code in (_NOT_YET, _EXPIRED):
        seen = f"the certificate that {host} presents is {'not valid yet' if code == _NOT_YET else 'expired'}"
        fix = "if the dates below are right, the clock of this device is wrong: set it"
    elif code in (_WRONG_NAME, _WRONG_ADDRESS):
        named = ", ".join(chain[0].names) if chain and chain[0].names else "no name"
        seen = f"the certificate that {host} presents is for {named}"
        fix = "correct the name in config.toml, or see who answers in its place"
    elif code in (*_SELF_SIGNED, _NO_ISSUER, _NO_LEAF_ISSUER):
        seen = f"the chain that {host} presents leads to {top}, which is not in {roots}"
        fix = (
            "put that root into [identityd.tls] ca_file if it is the right one; else something on the way "
            "opens TLS: find out who answers"
        )
    else:
        seen, fix = f"the chain that {host} presents is not accepted: {found.problem}", "see the chain below"
    # Without the chain nobody can tell a proxy from a missing root.
    presented = tuple(f"presented {line}" for line in chain_lines(chain))
    return Finding(seen=seen, fix=fix, evidence=presented or ("nothing was presented",))
