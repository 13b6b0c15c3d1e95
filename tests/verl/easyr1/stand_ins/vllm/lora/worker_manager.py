"""What EasyR1 imports of it."""


class LRUCacheWorkerLoRAManager:
    """Unused."""
