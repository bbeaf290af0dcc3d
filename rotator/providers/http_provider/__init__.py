"""A provider whose operations are described in the configuration: `type = "http"`."""
