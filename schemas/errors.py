"""What every stage's own exception derives from, so that the command line can tell a clear message from a bug."""


class MidwatchError(Exception):
    """Something that the user can mend; the message says what was asked, what came and what to do next."""


class ConfigError(MidwatchError):
    """The configuration or the command line asks for something that there isn't."""
