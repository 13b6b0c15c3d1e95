"""What EasyR1 imports of it."""


def fetch_video(*_args, **_keys):
    raise NotImplementedError
