"""Remove the language from an encoder's vectors by arithmetic, without training; see README.md."""
