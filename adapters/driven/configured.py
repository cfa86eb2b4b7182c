"""What the configured credential adds to the keys and certificates that the local services know.

The original's own tool writes these entries into the daemons' files (config-and-cli.md §5.3); here they are
derived from the configuration at each use. They win over an operator's entries of the same id.
"""

from collections.abc import Mapping

from msgspec.structs import replace

from statemachine.settings import (
    DEVICE_ID,
    DEVICE_TEMPORARY_ID,
    CertificateSettings,
    Configuration,
    IssuedSource,
    SymmetricKeySource,
    X509Source,
    credential_of,
)


def keys_of(configuration: Configuration) -> Mapping[str, str | bytes]:
    """Preloaded keys by id: the path, or the bytes of a key that the configuration holds itself. Secret."""
    preloaded: dict[str, str | bytes] = dict(configuration.keys.preloaded)
    match credential_of(configuration.provisioning):
        case SymmetricKeySource(value=bytes(value)):
            preloaded[DEVICE_ID] = value
        case SymmetricKeySource(path=str(path)) | X509Source(key_path=path):
            preloaded[DEVICE_ID] = path
        case IssuedSource():
            # Its key is made here, at the usual place.
            preloaded.pop(DEVICE_ID, None)
            preloaded.pop(DEVICE_TEMPORARY_ID, None)
    return preloaded


def certificates_of(configuration: Configuration) -> CertificateSettings:
    """certd's settings, with the configured certificate or the rule it is issued by."""
    settings = configuration.certificates
    preloaded = dict(settings.preloaded)
    match credential_of(configuration.provisioning):
        case X509Source(certificate_path=path):
            preloaded[DEVICE_ID] = path
        case IssuedSource(rule=rule):
            preloaded.pop(DEVICE_ID, None)
            preloaded.pop(DEVICE_TEMPORARY_ID, None)
            rules = {**settings.rules, DEVICE_ID: rule, DEVICE_TEMPORARY_ID: rule}
            return replace(settings, preloaded=preloaded, rules=rules)
    return replace(settings, preloaded=preloaded)
