"""What an adoption would do, decided from what was read. Nothing here touches a disk.

The rules, in the order in which they are asked:

- Where our stores hold an identity already, it is the one that would be taken over, or nothing is.
- An issued certificate is taken over with its key or not at all; so is the assignment it belongs to.
- It counts as made for our configuration only when ``prev_state`` says that it was. Otherwise it serves
  while the device registers once.
- A file that exists here with other content is never replaced.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Literal

import msgspec
from msgspec import Struct

from adapters.adoption.original import Applied, Device, File, Original
from adapters.driven.adopted import Adopted, Kept
from adapters.driven.generations import certificate_file_name, key_file_name
from adapters.driven.keys.store import MAX_KEY_BYTES
from adapters.driven.reconcile import Reconciled
from adapters.errors import AdapterError, CertificateRejected, RequestRefused
from adapters.whoami import Identity
from adapters.wire import x509
from adapters.wire.imported import check_import
from adapters.wire.private_keys import KeyPair, KeyUnreadable
from statemachine.effects import CommitCredential
from statemachine.events import Inventory
from statemachine.settings import (
    DEVICE_ID,
    DEVICE_TEMPORARY_ID,
    HANDLE_KEY_ID,
    IDENTITY_CERTIFICATE_ID,
    IDENTITY_KEY_ID,
    MASTER_KEY_ID,
    Configuration,
    DpsProvisioning,
    ManualProvisioning,
)

Action = Literal["take", "stays", "there", "leave", "refuse"]
Kind = Literal["identity", "trust bundle", "key", "certificate", "modules"]

_API_VERSION = "2021-11-01-preview"
"The only dialect of the original's that has certificates in it."
_IDENTITY_CERTIFICATE = certificate_file_name(IDENTITY_CERTIFICATE_ID)
_IDENTITY_KEY = key_file_name(IDENTITY_KEY_ID)
_FIXED_IDS = (DEVICE_ID, DEVICE_TEMPORARY_ID, "local-ca", "est-id", "est-bootstrap-id", "aziot-edged-ca")


class Item(Struct, frozen=True, kw_only=True):
    """One thing that was found."""

    kind: Kind
    name: str
    "Its id where that is known, else its file's name."
    action: Action
    "`take` over; `stays` where it is, which is where this service looks; is `there` already; `leave`, or "
    "`refuse`, which stops the adoption."
    why: str = ""


class Certificate(Struct, frozen=True, kw_only=True):
    """The issued certificate."""

    common_name: str
    serial: str
    not_before: str
    not_after: str
    sha256: str


class Plan(Struct, frozen=True, kw_only=True):
    """What is printed."""

    source: str
    root: str
    in_place: bool
    hub: str | None = None
    device_id: str | None = None
    certificate: Certificate | None = None
    items: tuple[Item, ...] = ()
    outcome: Literal["goes-on", "registers", "configured"]
    "What the device does at its next start."
    outcome_why: str
    refusals: tuple[str, ...] = ()
    "What stops it."
    remarks: tuple[str, ...] = ()
    nothing_to_do: bool = False
    applied: bool = False


class Copy(Struct, frozen=True, kw_only=True):
    """A file to be made where there is none."""

    home: Literal["certs", "keys", "modules"]
    name: str
    content: bytes

    def __repr__(self) -> str:
        return f"Copy({self.home}/{self.name})"


class Intended(Struct, frozen=True, kw_only=True):
    """The plan and what it takes to carry it out."""

    plan: Plan
    copies: tuple[Copy, ...] = ()
    kept: tuple[tuple[Kept, bytes], ...] = ()
    "The original's files under names that our links take over."
    key_pem: bytes | None = None
    commit: CommitCredential | None = None
    "Without a generation, which is given when it is made."
    sha256: str = ""
    reconciled: Reconciled | None = None

    def __repr__(self) -> str:
        return f"Intended({self.plan!r})"


class Here(Struct, frozen=True, kw_only=True):
    """What this service has."""

    root: str
    in_place: bool
    configuration: Configuration
    identity: Identity
    "As the configuration makes it, with the original's files of an onboarding credential issued here."
    inventory: Inventory
    record: Adopted | None = None
    files: Mapping[tuple[str, str], bytes] = {}
    "By home and name: what is there of the names that would be copied. Secret."
    reconciled: bool = False
    now_unix_ms: int

    def __repr__(self) -> str:
        return f"Here({self.root!r})"


class _Refused(Exception):
    """The identity cannot be taken over; the text says why and what to do."""


def intend(original: Original, here: Here, *, partly: bool = False) -> Intended:
    """``partly``: what cannot be taken over is left out instead of stopping everything."""
    return _Planner(original, here, partly).intended()


class _Planner:
    def __init__(self, original: Original, here: Here, partly: bool) -> None:
        self._original = original
        self._here = here
        self._partly = partly
        self._items: list[Item] = []
        self._refusals: list[str] = []
        self._remarks: list[str] = list(original.problems)
        self._copies: list[Copy] = []
        self._certificate: Certificate | None = None
        self._with_bundle = False
        "The trust bundle goes with the identity; without one it is a certificate like others."
        self._names = _names_of(here.configuration, original.applied)

    def intended(self) -> Intended:
        original, here = self._original, self._here
        if not original.found and here.record is None:
            self._refusals.append(
                f"no installation of the original was found below {original.homes.root}; "
                "point --from at the root that holds its var/lib/aziot"
            )
        for what in original.pkcs11:
            self._cannot(
                "key", what, "lies in a PKCS#11 token; this release keeps keys in files", refuse=True
            )
        key_pem, commit, sha256, outcome, why = self._identity()
        self._stored("certificate", "certs", original.certificates.values())
        self._stored("key", "keys", original.keys.values())
        self._modules()
        takes = any(item.action == "take" for item in self._items)
        reconciled = self._reconciled()
        device = original.device
        plan = Plan(
            source=original.homes.root,
            root=here.root,
            in_place=here.in_place,
            hub=None if device is None else device.hub,
            device_id=None if device is None else device.device_id,
            certificate=self._certificate,
            items=tuple(self._items),
            outcome=outcome,
            outcome_why=why,
            refusals=tuple(self._refusals),
            remarks=tuple(self._remarks),
            nothing_to_do=not (takes or self._refusals),
        )
        return Intended(
            plan=plan,
            copies=tuple(self._copies),
            kept=tuple(self._kept()) if here.in_place else (),
            key_pem=key_pem,
            commit=commit,
            sha256=sha256,
            reconciled=reconciled,
        )

    # --- the identity --------------------------------------------------------------------------------

    def _identity(
        self,
    ) -> tuple[
        bytes | None, CommitCredential | None, str, Literal["goes-on", "registers", "configured"], str
    ]:
        provisioning = self._here.configuration.provisioning
        if not isinstance(provisioning, DpsProvisioning):
            manual = isinstance(provisioning, ManualProvisioning)
            why = "the configuration is the assignment" if manual else "provisioning.source is none"
            for name, files in (
                (_IDENTITY_CERTIFICATE, self._original.certificates),
                (_IDENTITY_KEY, self._original.keys),
            ):
                if name in files:
                    self._item("identity", IDENTITY_CERTIFICATE_ID, "leave", f"not used: {why}")
                    break
            return None, None, "", "configured", why
        try:
            return self._from_dps()
        except _Refused as exc:
            self._cannot("identity", IDENTITY_CERTIFICATE_ID, str(exc), refuse=True)
            return None, None, "", "registers", "its identity could not be taken over"

    def _from_dps(
        self,
    ) -> tuple[bytes | None, CommitCredential | None, str, Literal["goes-on", "registers"], str]:
        original, here = self._original, self._here
        chain, key = original.certificates.get(_IDENTITY_CERTIFICATE), original.keys.get(_IDENTITY_KEY)
        if (settled := self._settled(chain)) is not None:
            self._with_bundle = True
            self._item("identity", IDENTITY_CERTIFICATE_ID, "there", settled)
            return None, None, "", "goes-on", settled
        device = original.device
        if original.device_problem is not None:
            raise _Refused(original.device_problem)
        if device is None:
            why = "the original had no assignment either (no device_info)"
            self._item("identity", IDENTITY_CERTIFICATE_ID, "leave", why)
            return None, None, "", "registers", why
        if chain is None and key is None:
            return self._certificate_less(device)
        if chain is None or key is None:
            have, lack = ("key", "certificate") if chain is None else ("certificate", "key")
            where = "; it may be in a PKCS#11 token" if key is None and original.pkcs11 else ""
            raise _Refused(f"there is a {have} but no {lack} for it{where}")
        for file in (chain, key):
            if file.problem is not None:
                raise _Refused(f"{file.path} {file.problem}")
        facts, chain_pem = self._matching(chain, key)
        fits, why = self._fits(device, facts)
        ended = facts.not_after_unix_ms <= here.now_unix_ms
        if ended:
            fits, why = False, f"its certificate ended on {_instant(facts.not_after_unix_ms)}"
        if facts.not_before_unix_ms > here.now_unix_ms:
            self._remarks.append("the certificate begins in the future: look at this device's clock")
        self._item(
            "identity",
            IDENTITY_CERTIFICATE_ID,
            "take",
            f"with its key, which matches, as generation {here.inventory.newest_generation + 1}",
        )
        commit = self._commit(device, chain_pem, fits)
        return key.content, commit, facts.sha256, "goes-on" if fits else "registers", why

    def _settled(self, chain: File | None) -> str | None:
        """How our own identity is that of the original; None when there is none. Raises _Refused."""
        here, device = self._here, self._original.device
        current = here.inventory.current
        if here.inventory.problem is not None:
            raise _Refused(f"this service's own store is damaged: {here.inventory.problem}")
        if current is None:
            return None
        record = here.record
        if record is not None and record.source == self._original.homes.root:
            when = _instant(record.at_unix_ms)
            if record.generation == current.generation:
                return f"taken over on {when}, generation {current.generation}"
            if record.generation is not None and current.generation > record.generation:
                return f"taken over on {when} and renewed since, generation {current.generation}"
        same_device = device is not None and (device.hub, device.device_id) == (
            current.hub,
            current.device_id,
        )
        if same_device and current.sha256 == _leaf_sha256(chain):
            return f"the same as generation {current.generation}"
        raise _Refused(
            f"this service has an identity of its own: {current.device_id} at {current.hub}, generation "
            f"{current.generation}; use another --root, or remove that identity first"
        )

    def _certificate_less(
        self, device: Device
    ) -> tuple[None, CommitCredential, str, Literal["goes-on", "registers"], str]:
        fits, why = self._fits(device, None)
        self._item(
            "identity",
            f"{device.device_id} at {device.hub}",
            "take",
            "the assignment; no certificate was issued, so the configured credential is the one for the hub",
        )
        return None, self._commit(device, None, fits), "", "goes-on" if fits else "registers", why

    def _matching(self, chain: File, key: File) -> tuple[x509.CertificateFacts, bytes]:
        try:
            spki = x509.spki_sha256_of_key(key.content)
        except CertificateRejected as exc:
            raise _Refused(f"{key.path} is damaged: {exc.message}") from exc
        try:
            ordered = x509.order_chain(chain.content, spki_sha256=spki)
        except CertificateRejected as exc:
            raise _Refused(f"{chain.path} is damaged: {exc.message}") from exc
        leaf = ordered.leaf
        if leaf.spki_sha256 != spki:
            raise _Refused(f"{chain.path} is for another key than {key.path}")
        if leaf.is_ca:
            raise _Refused(f"{chain.path} is a CA certificate")
        self._certificate = Certificate(
            common_name=leaf.subject_cn,
            serial=leaf.serial_hex,
            not_before=_instant(leaf.not_before_unix_ms),
            not_after=_instant(leaf.not_after_unix_ms),
            sha256=leaf.sha256,
        )
        return leaf, ordered.chain_pem

    def _fits(self, device: Device, leaf: x509.CertificateFacts | None) -> tuple[bool, str]:
        """Whether the assignment was made for our configuration, and how that is known."""
        identity, applied = self._here.identity, self._original.applied
        if identity.note is not None:
            self._remarks.append(f"{identity.note}: it is the only way back to DPS")
        if applied is None:
            reason = self._original.applied_problem or "there is no prev_state"
            return False, f"for which registration the assignment was made is not known: {reason}"
        other = list(_differences(applied, identity, leaf, self._here.configuration))
        if other:
            return False, f"the configuration differs from what the original ran on: {', '.join(other)}"
        return True, "endpoint, scope, registration and attestation are what the original ran on"

    def _commit(self, device: Device, chain_pem: bytes | None, fits: bool) -> CommitCredential:
        self._with_bundle = True
        bundle = self._bundle()
        return CommitCredential(
            generation=0,
            chain_pem=chain_pem,
            bundle_pem=bundle,
            keep_bundle=False,
            bundle_id=self._here.configuration.trust_bundle_id,
            hub=device.hub,
            device_id=device.device_id,
            fingerprint=self._here.identity.fingerprint if fits else _unlike(self._original.applied),
            substatus=None,
            certificate_type=device.certificate_type,
        )

    def _bundle_id(self) -> str:
        """Under which the original kept it."""
        applied = self._original.applied
        return self._here.configuration.trust_bundle_id if applied is None else applied.trust_bundle_id

    def _bundle(self) -> bytes | None:
        bundle_id = self._bundle_id()
        file = self._original.certificates.get(certificate_file_name(bundle_id))
        if file is None or (file.problem is None and not file.content.strip()):
            return None
        try:
            if file.problem is not None:
                raise CertificateRejected(file.problem, code="bundle-unparsable")
            bundle = x509.normalise_bundle([file.content.decode()])
        except (CertificateRejected, UnicodeDecodeError) as exc:
            why = exc.message if isinstance(exc, AdapterError) else "not text"
            self._item("trust bundle", bundle_id, "leave", f"{why}; the next registration brings it anew")
            return None
        named = self._here.configuration.trust_bundle_id
        renamed = "" if named == bundle_id else f", as {named} from now on"
        self._item("trust bundle", bundle_id, "take", f"{_count(bundle.count)}{renamed}")
        return bundle.pem

    # --- everything else -----------------------------------------------------------------------------

    def _stored(self, kind: Literal["certificate", "key"], home: str, files: Iterable[File]) -> None:
        ours = {_IDENTITY_KEY, _IDENTITY_CERTIFICATE}
        if self._with_bundle:
            ours.add(certificate_file_name(self._bundle_id()))
        for file in files:
            if file.name in ours:
                continue
            name = self._names.get(file.name, file.name)
            what, damage = (_judged_certificate if kind == "certificate" else _judged_key)(file)
            if self._here.in_place:
                self._item(kind, name, "stays", damage or what)
                continue
            if damage is not None:
                self._cannot(kind, name, damage, refuse=True)
                continue
            self._copy(kind, "certs" if home == "certs" else "keys", name, file, what)

    def _copy(
        self,
        kind: Literal["certificate", "key", "modules"],
        home: Literal["certs", "keys", "modules"],
        name: str,
        file: File,
        what: str,
    ) -> None:
        there = self._here.files.get((home, file.name))
        if there is None:
            self._copies.append(Copy(home=home, name=file.name, content=file.content))
            self._item(kind, name, "take", what)
        elif there == file.content:
            self._item(kind, name, "there", what)
        elif name == HANDLE_KEY_ID:
            self._item(kind, name, "leave", "this service has its own; handles of the original end")
        else:
            self._cannot(kind, name, "this service has another under that name", refuse=True)

    def _modules(self) -> None:
        files = self._original.modules
        if not files:
            return
        name = f"{len(files)} of this device"
        if self._here.in_place:
            self._item("modules", name, "stays", "the cache is read as it is")
            return
        missing = [file for file in files if ("modules", file.name) not in self._here.files]
        good = [file for file in missing if file.problem is None]
        self._copies += [Copy(home="modules", name=file.name, content=file.content) for file in good]
        if good:
            self._item("modules", name, "take", "the cache, for when the hub cannot be asked")
        else:
            self._item("modules", name, "there", "the cache")

    def _reconciled(self) -> Reconciled | None:
        """The modules that the original had made at the hub, so that one no longer configured is removed."""
        device, applied = self._original.device, self._original.applied
        if self._here.reconciled or device is None or applied is None:
            return None
        names = tuple(sorted(set(applied.modules)))
        return Reconciled(hub=device.hub, device_id=device.device_id, modules=names)

    def _kept(self) -> Iterator[tuple[Kept, bytes]]:
        original = self._original
        names: list[tuple[Literal["certs", "keys"], str, Mapping[str, File]]] = [
            ("certs", _IDENTITY_CERTIFICATE, original.certificates),
            ("keys", _IDENTITY_KEY, original.keys),
        ]
        for bundle_id in sorted({self._bundle_id(), self._here.configuration.trust_bundle_id}):
            names.append(("certs", certificate_file_name(bundle_id), original.certificates))
        for kind, name, files in names:
            file = files.get(name)
            if file is not None and file.problem is None:
                kept = Kept(kind=kind, name=name, mode=file.mode, uid=file.uid, gid=file.gid)
                yield kept, file.content

    # --- telling -------------------------------------------------------------------------------------

    def _item(self, kind: Kind, name: str, action: Action, why: str) -> None:
        self._items.append(Item(kind=kind, name=name, action=action, why=why))

    def _cannot(self, kind: Kind, name: str, why: str, *, refuse: bool) -> None:
        if self._partly:
            self._item(kind, name, "leave", why)
        else:
            self._item(kind, name, "refuse", why)
            self._refusals.append(f"{kind} {name}: {why}")


def _names_of(configuration: Configuration, applied: Applied | None) -> dict[str, str]:
    """File name to id, of every id that is known."""
    ids = {
        *_FIXED_IDS,
        IDENTITY_CERTIFICATE_ID,
        IDENTITY_KEY_ID,
        MASTER_KEY_ID,
        HANDLE_KEY_ID,
        configuration.trust_bundle_id,
        configuration.workload_bundle_id,
        configuration.manifest_bundle_id,
        *configuration.keys.preloaded,
        *configuration.certificates.preloaded,
        *configuration.certificates.rules,
        *(name for grant in configuration.keys.grants for name in grant.keys),
        *(name for grant in configuration.certificates.grants for name in grant.certs),
        *(() if applied is None else (applied.trust_bundle_id, *applied.modules)),
    }
    return {make(one): one for one in ids for make in (certificate_file_name, key_file_name)}


def _differences(
    applied: Applied,
    identity: Identity,
    leaf: x509.CertificateFacts | None,
    configuration: Configuration,
) -> Iterator[str]:
    policy = identity.policy
    registered = applied.registration_id
    if registered is None and leaf is not None:
        registered = leaf.subject_cn  # an X.509 device may have it from its certificate
    if applied.source != "dps":
        yield "provisioning.source"
        return
    if applied.endpoint.lower() != policy.endpoint.lower():
        yield "provisioning.global_endpoint"
    if applied.scope_id != policy.scope_id:
        yield "provisioning.id_scope"
    if applied.method != policy.attestation:
        yield "provisioning.attestation.method"
    if registered is not None and registered.lower() != policy.registration_id.lower():
        yield "provisioning.attestation.registration_id"
    elif leaf is not None and leaf.subject_cn.lower() != policy.registration_id.lower():
        yield "the certificate's CN, which is not the registration id"
    if configuration.api_version != _API_VERSION:
        yield "identityd.api_version"


def _unlike(applied: Applied | None) -> str:
    """A fingerprint that no configuration has: the assignment is served while the device registers."""
    facts = None if applied is None else msgspec.to_builtins(applied)
    return hashlib.sha256(msgspec.json.encode(("identityd-adopted-1", facts))).hexdigest()


def _leaf_sha256(chain: File | None) -> str | None:
    """ "" without a certificate, None for one that cannot be read."""
    if chain is None:
        return ""
    try:
        return x509.facts(chain.content).sha256
    except CertificateRejected:
        return None


def _judged_key(file: File) -> tuple[str, str | None]:
    """What it is, and what is wrong with it."""
    if file.problem is not None:
        return "", file.problem
    if not file.content:
        return "", "is empty"
    if len(file.content) > MAX_KEY_BYTES:
        return "", f"is larger than {MAX_KEY_BYTES} bytes"
    if file.content.lstrip().startswith(b"-----BEGIN"):
        try:
            kind = KeyPair(file.content).parameter("algorithm")
        except KeyUnreadable as exc:
            return "", f"is damaged: {exc}"
        return f"a key pair, {'EC' if kind == 'ECDSA' else kind}", None
    return f"a symmetric key of {len(file.content)} bytes", None


def _judged_certificate(file: File) -> tuple[str, str | None]:
    if file.problem is not None:
        return "", file.problem
    try:
        content = check_import(file.content.decode())
        return _count(content.count(b"-----BEGIN ")), None
    except (RequestRefused, UnicodeDecodeError) as exc:
        return "", f"is damaged: {exc.message if isinstance(exc, RequestRefused) else 'not text'}"


def _count(certificates: int) -> str:
    return f"{certificates} certificate" + ("" if certificates == 1 else "s")


def _instant(unix_ms: int) -> str:
    try:
        return f"{datetime.fromtimestamp(unix_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return str(unix_ms)
