"""The built-in span store: an OTLP receiver that keeps recent traces in one SQLite file, for `aios trace`."""
