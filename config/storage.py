"""Static files in production: compressed, and named by their content."""

from whitenoise.storage import CompressedManifestStaticFilesStorage


class StaticStorage(CompressedManifestStaticFilesStorage):  # type: ignore[misc]  # it has no types
    """Also names the modules that a module imports, so that a browser keeps none of an earlier deploy."""

    support_js_module_import_aggregation = True
