"""The interface as an OpenAPI document, with ``/docs``."""
