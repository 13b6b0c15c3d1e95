"""What EasyR1 imports of it."""


def get_adapter_absolute_path(path):
    return path
