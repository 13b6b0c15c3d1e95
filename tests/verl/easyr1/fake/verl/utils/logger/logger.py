"""The table of loggers."""


class ConsoleLogger:
    def __init__(self, config):
        print("config", sorted(config))

    def log(self, data, step):
        print("step", step, sorted(data))

    def finish(self):
        print("finished")


LOGGERS = {"console": ConsoleLogger}
