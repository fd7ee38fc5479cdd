"""Pure decisions: events in, actions out. No asyncio, zmq, os, time, random or logging."""
