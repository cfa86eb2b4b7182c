"""Module keys at a hub that takes them, without a network."""

from adapters.fakes.peer import Asked, Peer
from statemachine.effects import PushModuleKeys
from statemachine.events import ModuleKeysPushed, ModuleKeysPushFailed


class FakeModuleKeys(Peer):
    """Fills ``ports.ModuleKeyPusher``."""

    def __init__(
        self,
        *,
        modules: int = 2,
        latency_s: float = 0.05,
        timeout_s: float = 10.0,
        asked: list[Asked] | None = None,
    ) -> None:
        super().__init__(latency_s=latency_s, timeout_s=timeout_s, asked=asked)
        self.modules = modules
        "That the device has at the hub."

    async def push(self, effect_id: str, effect: PushModuleKeys) -> ModuleKeysPushed | ModuleKeysPushFailed:
        return await self._answer(effect_id, effect, self._push)

    def _push(self, effect_id: str, effect: PushModuleKeys) -> ModuleKeysPushed | ModuleKeysPushFailed:
        return ModuleKeysPushed(answers=effect_id, modules=self.modules)
