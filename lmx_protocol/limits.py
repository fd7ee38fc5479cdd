"""Every default number of LMX, with its unit in its name. Sources: docs/faults.md and the ADRs."""

# --- life of a worker -----------------------------------------------------------------------------------------------------
SPAWN_HELLO_SECONDS = 15.0
LOAD_STALL_SUSPECT_SECONDS = 30.0
LOAD_STALL_SECONDS = 120.0
LOAD_TOTAL_SECONDS = 900.0
CANARY_SECONDS = 120.0
BEAT_INTERVAL_SECONDS = 1.0
BEAT_SUSPECT_SECONDS = 5.0
BEAT_DEAD_SECONDS = 30.0
PROGRESS_STALL_SECONDS = 120.0
C_WATCHDOG_SECONDS = 60.0
HANG_ABORT_GRACE_SECONDS = 3.0
STOP_GRACE_SECONDS = 10.0
STOP_GRACE_LARGE_SECONDS = 30.0
LARGE_FOOTPRINT_BYTES = 32 * 1024**3
KILL_WAIT_SECONDS = 10.0

# --- restart policy -------------------------------------------------------------------------------------------------------
RESTART_INITIAL_SECONDS = 1.0
RESTART_FACTOR = 2.0
RESTART_MAX_SECONDS = 60.0
RESTART_JITTER_RATIO = 0.2
RESTART_STABLE_SECONDS = 60.0
RESTART_WINDOW_SECONDS = 600.0
RESTART_MAX_IN_WINDOW = 5
QUARANTINE_THRESHOLD = 3

# --- requests -------------------------------------------------------------------------------------------------------------
CREDIT_FRAMES = 64
CREDIT_BYTES = 256 * 1024
STALLED_FRAMES_MAX = 64
FLUSH_MILLISECONDS = 20
FLUSH_TOKENS = 16
SLOW_CLIENT_SECONDS = 60.0
CANCEL_ACK_SECONDS = 2.0
QUEUE_PER_MODEL = 64
QUEUE_TOTAL = 256
QUEUE_WAIT_SECONDS = 120.0
REPLAYS_MAX = 1
STATUS_HOLD_SECONDS = 2.0
STREAM_KEEP_ALIVE_SECONDS = 10.0
DRAIN_SECONDS = 30.0
DRAIN_SECOND_SIGNAL_SECONDS = 2.0

# --- HTTP edge ------------------------------------------------------------------------------------------------------------
HTTP_CONNECTIONS_MAX = 512
BODY_BYTES_MAX = 16 * 1024**2
BODY_SECONDS = 30.0
HEADER_BYTES_MAX = 16 * 1024
KEEP_ALIVE_SECONDS = 5.0
MODEL_ID_CHARACTERS_MAX = 512
MESSAGES_MAX = 4096
STOP_STRINGS_MAX = 16
STOP_STRING_CHARACTERS_MAX = 1024
LOGIT_BIAS_MAX = 1024
MAX_TOKENS_MAX = 1_048_576
SEED_MAX = 2**63 - 1
DEFAULT_MAX_TOKENS = 2048

# --- ZeroMQ ---------------------------------------------------------------------------------------------------------------
FRAME_BYTES_MAX_UP = 16 * 1024**2
FRAME_BYTES_MAX_DOWN = 64 * 1024**2
ZMQ_HIGH_WATER_MESSAGES = 1000
ZMQ_LINGER_MILLISECONDS = 0
ZMQ_HANDSHAKE_MILLISECONDS = 2000
ZMQ_HEARTBEAT_MILLISECONDS = 2000
ZMQ_HEARTBEAT_TIMEOUT_MILLISECONDS = 6000
IPC_PATH_BYTES_MAX = 90

# --- host -----------------------------------------------------------------------------------------------------------------
MEMORY_SOFT_RATIO = 0.85
MEMORY_HARD_RATIO = 0.95
NOFILE_WANTED = 8192
NOFILE_RESERVE = 128
LOOP_TICK_SECONDS = 0.25
LOOP_LAG_SUSPECT_SECONDS = 1.0
CLOCK_GAP_SECONDS = 5.0

# --- evidence -------------------------------------------------------------------------------------------------------------
STORY_EVENTS_MAX = 200
STDERR_TAIL_BYTES = 64 * 1024
CRASH_BUNDLES_MAX = 20
CRASH_BUNDLE_BYTES_TOTAL = 200 * 1024**2
