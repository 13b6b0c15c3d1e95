"""What EasyR1 imports of it."""


class LoRARequest:
    """Unused."""
