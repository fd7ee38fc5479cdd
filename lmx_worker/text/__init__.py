"""From messages to prompts, from tokens to clean text: templates, UTF-8, stop strings. Shared by the backends."""
