"""What the journals say: session logs, event lines and update logs, as text from events. `runtime/journal.py` writes them."""
