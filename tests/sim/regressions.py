"""Seeds whose anonymous day broke a promise before the core was mended; each is lived through in every test run.

A change to the simulation deals every seed another day. Then look for new seeds: take the fixes back in a copy of the tree and
hunt there with `--seeds`. What each fix is about is also a table test in tests/unit/supervisor/core/test_crossings.py.
"""

SEEDS: dict[int, str] = {
    1001: "a request that came right after a sleep waited an hour too long",
    1607: "a worker that was told to stop right after a sleep was not killed after its grace",
    1537: "a heartbeat heard right after a sleep hid the next silence",
    2000: "a restart due right after a sleep came late",
    1004: "an unload left an older load going on, which brought the model back",
    1216: "a forced worker was unloaded before it served, and its quarantine was forgotten",
    1123: "a plain load passed the quarantine while the forced worker was stopping",
    1846: "an exit that forbids restarts turned the quarantine of a forced model into a plain failure",
    1264: "what a model had served before its quarantine released it at its forced canary",
    2479: "a worker within the grace of its kill was given a canary",
    1090: "sustained service before an ordered restart did not end the row of failures",
    1010: "one death was held twice against a question that two clients had asked",
    1019: "a question known to crash its model was replayed",
    1238: "copies of one question that crashes its model cost the model",
    1031: "a pid that became known after the exit raised an exception",
}
"""Seed, and what it found."""
