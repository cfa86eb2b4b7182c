"""The rows of the keys that Azure IoT Identity Service and IoT Edge have in ``config.toml`` too.

They keep their meaning (config-and-cli.md §4).
"""

from adapters import config_forms as forms
from adapters.config_setting import ANY_ID, FILE_FORM, FILE_URI_FORM, Setting

METHODS = ("self_signed", "local_ca")
"How a certificate is issued here; the original's third way is EST."

ID_FORM = "1 to 255 printable characters"
HOST_FORM = "a host name of 1 to 253 letters, digits, '-', '_' and '.', or HOST:PORT"
POLICY_FORM = 'a renewal policy: "80%" of its life elapsed (1 to 99), or "7day" or "90min" before its end'
SUBJECT_FORM = 'a table of texts: { CN = "my-device", O = "Contoso" }'
KEY_FORM = "a key in standard base64, padding complete or absent, no spaces"
EXPIRY_DAYS_HIGH = 36_500


def issued(table: str, subject_default: str, fills: tuple[str, ...] = ()) -> tuple[Setting, ...]:
    """The keys of a certificate that is to be issued on this device (config-and-cli.md §4.4)."""
    return (
        Setting(
            path=f"{table}.method",
            kind="text",
            choices=METHODS,
            fills=fills,
            meaning="How the certificate is issued: signed with its own key, or by cert_issuance.local_ca.",
        ),
        Setting(
            path=f"{table}.common_name",
            kind="text",
            form=ID_FORM,
            check=forms.printable_name,
            fills=fills,
            meaning=f"CN of the certificate, cut to 64 characters; {subject_default} when absent.",
        ),
        Setting(
            path=f"{table}.subject",
            kind="table of text",
            form=SUBJECT_FORM,
            check=forms.subject,
            fills=fills,
            meaning="The whole subject, by short attribute names; instead of common_name.",
        ),
        Setting(
            path=f"{table}.expiry_days",
            kind="integer",
            unit="days",
            low=1,
            high=EXPIRY_DAYS_HIGH,
            fills=fills,
            meaning="Life of the certificate, at most until its issuer expires; 30 when absent.",
        ),
    )


def auto_renew(table: str) -> tuple[Setting, ...]:
    """When such a certificate is renewed; all three keys or none (config-and-cli.md §3)."""
    return (
        Setting(
            path=f"{table}.rotate_key",
            kind="boolean",
            meaning="A fresh key for every renewal. With it threshold and retry are required.",
        ),
        Setting(
            path=f"{table}.threshold",
            kind="text",
            form=POLICY_FORM,
            check=forms.renewal_policy,
            meaning="When the certificate is renewed; takes effect with DPS only.",
        ),
        Setting(
            path=f"{table}.retry",
            kind="text",
            form=POLICY_FORM,
            check=forms.renewal_policy,
            meaning="How long after a failed renewal the next one follows: a share of its life, or a time.",
        ),
    )


ORIGINAL: tuple[Setting, ...] = (
    Setting(
        path="hostname",
        kind="text",
        target="hostname",
        form="a host name of 1 to 253 letters, digits, '-', '_' and '.'",
        check=forms.hostname,
        meaning="The name of this machine as other services see it; the system's own when absent.",
    ),
    Setting(
        path="dps_trust_bundle",
        kind="text",
        target="trust_bundle_id",
        form='a certificate id of 1 to 255 characters without "/", "*", "?" and control characters, '
        "not an id the service uses itself",
        check=forms.bundle_id,
        meaning="Certificate id under which the trust bundle of DPS is saved; no effect without DPS.",
    ),
    Setting(
        path="cloud_timeout_sec",
        kind="integer",
        target="cloud_timeout_seconds",
        unit="seconds",
        low=1,
        high=3600,
        meaning="Bound of one HTTP exchange with DPS or IoT Hub, from connect to the last byte.",
    ),
    Setting(
        path="cloud_retries",
        kind="integer",
        target="cloud_retries",
        unit="extra tries",
        low=0,
        high=10,
        meaning="Extra tries of one HTTP exchange after a transport error.",
    ),
    Setting(
        path="local_gateway_hostname",
        kind="text",
        form=HOST_FORM,
        check=forms.host_and_port,
        meaning="The parent that requests to IoT Hub go to instead of the hub; not with DPS.",
    ),
    Setting(
        path="parent_hostname",
        kind="text",
        form=HOST_FORM,
        check=forms.host_and_port,
        meaning="The name that IoT Edge has for local_gateway_hostname; one of the two.",
    ),
    Setting(
        path="prefer_module_identity_cache",
        kind="boolean",
        target="identities.prefer_cache",
        meaning="Module identities are read from the cache first, and from the hub when it has none.",
    ),
    Setting(
        path="trust_bundle_cert",
        kind="text",
        form=FILE_URI_FORM,
        check=forms.file_uri,
        fills=("certificates.preloaded",),
        meaning="IoT Edge's trust bundle, a PEM file: served first on workload.sock.",
    ),
    Setting(
        path="manifest_trust_bundle_cert",
        kind="text",
        form=FILE_URI_FORM,
        check=forms.file_uri,
        fills=("certificates.preloaded",),
        meaning="IoT Edge's bundle for signed manifests, a PEM file: served on workload.sock.",
    ),
    Setting(
        path="provisioning.source",
        kind="text",
        choices=("manual", "dps", "none"),
        meaning='Where the identity comes from. Required. "manual" names hub and device here; "none" keeps '
        "to local identities.",
    ),
    Setting(
        path="provisioning.connection_string",
        kind="text",
        form='a text "HostName=HUB;DeviceId=ID;SharedAccessKey=BASE64"',
        check=forms.connection_string,
        secret=True,
        meaning="Hub, device and key for manual provisioning. This, or the keys of the other form.",
    ),
    Setting(
        path="provisioning.iothub_hostname",
        kind="text",
        form=HOST_FORM,
        check=forms.host_and_port,
        meaning="The hub for manual provisioning; a port is kept.",
    ),
    Setting(
        path="provisioning.device_id",
        kind="text",
        form="1 to 128 letters, digits and characters of -.+%_#*?!(),:=@$'",
        check=forms.device_id,
        meaning="The device at that hub; at most 64 characters when its certificate is issued here.",
    ),
    Setting(
        path="provisioning.global_endpoint",
        kind="text",
        form="a URL https://HOST or https://HOST:PORT",
        check=forms.endpoint,
        meaning="Address of the provisioning service; a path or query is dropped. Required for DPS.",
    ),
    Setting(
        path="provisioning.id_scope",
        kind="text",
        form="1 to 128 letters, digits, '-' and '_'",
        check=forms.id_scope,
        meaning="ID scope of the DPS instance. Required for DPS.",
    ),
    Setting(
        path="provisioning.payload.uri",
        kind="text",
        form=FILE_URI_FORM,
        check=forms.file_uri,
        meaning="A JSON file sent with every registration; read again each time.",
    ),
    Setting(
        path="provisioning.authentication.method",
        kind="text",
        choices=("sas", "x509"),
        meaning="How the device proves itself to that hub.",
    ),
    Setting(
        path="provisioning.authentication.device_id_pk.value",
        kind="text",
        form=KEY_FORM,
        check=forms.base64_key,
        secret=True,
        meaning="The symmetric key itself. This or device_id_pk.uri, for method sas.",
    ),
    Setting(
        path="provisioning.authentication.device_id_pk.uri",
        kind="text",
        form=FILE_URI_FORM,
        check=forms.file_uri,
        secret=True,  # what stands here by mistake is the key itself
        meaning="A file that holds the raw decoded bytes of the device's symmetric key.",
    ),
    Setting(
        path="provisioning.authentication.identity_cert",
        kind="text",
        form=FILE_FORM,
        check=forms.file_name,
        meaning="The device certificate for the hub: a PEM file, leaf first, or a table: one to be issued "
        "here. For method x509.",
    ),
    Setting(
        path="provisioning.authentication.identity_pk",
        kind="text",
        form=FILE_FORM,
        check=forms.file_name,
        meaning="The private key of that certificate: a PEM file. Required unless identity_cert is a table.",
    ),
    *issued("provisioning.authentication.identity_cert", "the device id"),
    *auto_renew("provisioning.authentication.identity_cert.auto_renew"),
    Setting(
        path="provisioning.attestation.method",
        kind="text",
        choices=("symmetric_key", "x509"),
        meaning="How the device proves itself to DPS. Required for DPS.",
    ),
    Setting(
        path="provisioning.attestation.registration_id",
        kind="text",
        form="1 to 64 letters, digits, ':', '.', '_' and '-', the last one a letter, a digit or '-'",
        check=forms.registration_id,
        meaning="Registration ID, and the CN of the identity certificate. "
        "The CN of identity_cert when absent; required unless that is a file.",
    ),
    Setting(
        path="provisioning.attestation.symmetric_key.value",
        kind="text",
        form="a key in standard base64, padding complete or absent, no spaces",
        secret=True,
        check=forms.base64_key,
        meaning="The symmetric key itself. This or symmetric_key.uri, for method symmetric_key.",
    ),
    Setting(
        path="provisioning.attestation.symmetric_key.uri",
        kind="text",
        form=FILE_URI_FORM,
        secret=True,  # what stands here by mistake is the key itself
        check=forms.file_uri,
        meaning="A file that holds the raw decoded bytes of the symmetric key.",
    ),
    Setting(
        path="provisioning.attestation.identity_cert",
        kind="text",
        form=FILE_FORM,
        check=forms.file_name,
        meaning="The device certificate for DPS: a PEM file, leaf first, or a table: one to be issued here. "
        "Required for x509.",
    ),
    Setting(
        path="provisioning.attestation.identity_pk",
        kind="text",
        form=FILE_FORM,
        check=forms.file_name,
        meaning="The private key of identity_cert: a PEM file. Required unless identity_cert is a table.",
    ),
    *issued("provisioning.attestation.identity_cert", "the registration id"),
    *auto_renew("provisioning.attestation.identity_cert.auto_renew"),
    *(
        Setting(
            path=f"aziot_max_requests.{name}",
            kind="integer",
            target=f"requests.{name}",
            unit="requests of one user in flight",
            low=0,
            high=1000,
            meaning=f"Bound of {name}.sock; further ones are refused, and 0 refuses everybody.",
        )
        for name in ("keyd", "certd", "identityd")
    ),
    Setting(
        path="aziot_max_requests.tpmd",
        kind="integer",
        unit="requests of one user in flight",
        low=0,
        high=1000,
        meaning="Accepted; this service has no tpmd.sock.",
    ),
    Setting(
        path="localid.domain",
        kind="text",
        target="identities.local_domain",
        form="a host name of 1 to 253 letters, digits, '-', '_' and '.'",
        check=forms.hostname,
        meaning="Last part of the CN of local identities; without it there are none.",
    ),
    Setting(
        path=f"preloaded_keys.{ANY_ID}",
        kind="text",
        form=FILE_URI_FORM,
        check=forms.file_uri,
        fills=("keys.preloaded",),
        meaning="A key of keyd that lies in a file of yours: raw bytes, or a private key in PEM.",
    ),
    Setting(
        path=f"preloaded_certs.{ANY_ID}",
        kind="text or list of text",
        form=f"{FILE_URI_FORM}, or an array of certificate ids",
        check=forms.place_or_names,
        fills=("certificates.preloaded",),
        meaning="A certificate of certd that lies in a file of yours, or a bundle of other ids in order.",
    ),
    Setting(
        path="cert_issuance.local_ca.cert",
        kind="text",
        form=FILE_URI_FORM,
        check=forms.file_uri,
        fills=("certificates.local_ca",),
        meaning="Certificate of the CA that issues on this device, or a table: one to be issued here.",
    ),
    Setting(
        path="cert_issuance.local_ca.pk",
        kind="text",
        form=FILE_URI_FORM,
        check=forms.file_uri,
        fills=("certificates.local_ca",),
        meaning="Its private key, a PEM file. Required unless cert is a table.",
    ),
    *issued("cert_issuance.local_ca.cert", "that of the request", ("certificates.rules",)),
)
"In the order of config/default.toml."
