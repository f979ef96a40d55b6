"""The one kind of error that a user can mend."""


class ConfigurationError(Exception):
    """A setting that cannot be served; its text is one line: setting, value, way out."""
