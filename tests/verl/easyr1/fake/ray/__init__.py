"""Says what it was started with."""

import json


def init(**keys):
    print("ray", json.dumps(keys))
