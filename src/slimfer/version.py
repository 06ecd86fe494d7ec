"""The version, as a constant: reading package metadata would cost start-up time."""

VERSION = "0.1.0"
