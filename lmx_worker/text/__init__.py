"""From tokens to clean text: templates, incremental UTF-8, stop strings. Shared by the backends."""
