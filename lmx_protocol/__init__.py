"""The contract between the supervisor and its workers: messages, states, errors, limits, codec. No I/O.

Read in this order: `states`, `errors`, `messages`, `codec`; `limits` holds every default number.
"""
