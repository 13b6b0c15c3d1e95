"""What EasyR1 imports of it."""


class LoRAModel:
    """Unused."""
