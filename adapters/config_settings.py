"""Every key of ``config.toml`` this service reads: one row each, with its range and its meaning.

The rows are the one home of ranges: validation (``config_rules.py``) and the reference page are both
made from them. Defaults live in ``statemachine.settings`` and are looked up there.
"""

from adapters.config_rows_original import ORIGINAL
from adapters.config_rows_own import OWN
from adapters.config_setting import Setting

SETTINGS: tuple[Setting, ...] = (*ORIGINAL, *OWN)

BY_PATH = {setting.path: setting for setting in SETTINGS}

NOT_READ_YET = frozenset(
    {
        # config-and-cli.md §4: keys of the original that this release accepts without a look inside.
        "aziot_keys",
        "endpoints",
        "tpm",
        # IoT Edge keeps its own keys in the same file.
        "agent",
        "allow_elevated_docker_permissions",
        "auto_reprovisioning_mode",
        "connect",
        "edge_ca",
        "image_garbage_collection",
        "imported_master_encryption_key",
        "listen",
        "moby_runtime",
        "watchdog",
    }
)
"Top-level keys whose content is accepted as it is."
